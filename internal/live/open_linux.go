// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/bpf"
	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/names"
	"github.com/tcptrace/tcptrace/internal/pipeline"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// hook is one tracepoint and the program on it.
type hook struct {
	program, tracepoint string
	raw                 bool // raw_tp; the others are tp_btf
	types               []events.Type
}

// The order is that of attaching: set_state first, so that what the others
// remember of a socket is there.
var hooks = []hook{
	{"set_state", "inet_sock_set_state", false, []events.Type{events.Retransmit, events.Reset, events.StateChange}},
	{"retransmit_skb", "tcp_retransmit_skb", false, []events.Type{events.Retransmit}},
	{"retransmit_synack", "tcp_retransmit_synack", false, []events.Type{events.Retransmit}},
	{"send_reset", "tcp_send_reset", true, []events.Type{events.Reset}},
	{"receive_reset", "tcp_receive_reset", false, []events.Type{events.Reset}},
}

const hzProgram = "probe_hz"

// Open loads and attaches what o.Types need. Its errors are for the user: each
// says what is missing and what to do about it.
func Open(ctx context.Context, o Options) (pipeline.Source, error) {
	if err := checkRights(); err != nil {
		return nil, err
	}
	cache := o.Cache
	if cache == nil {
		cache = btf.NewCache()
	}
	kernel, err := cache.Kernel()
	if err != nil {
		return nil, fmt.Errorf("this kernel has no type information (/sys/kernel/btf/vmlinux): tcptrace needs one built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels from 5.10 on are: %w", err)
	}
	// Before 5.11 BPF memory counts against a limit. Without the right to lift
	// it the load may still succeed, and says so itself if it doesn't.
	_ = rlimit.RemoveMemlock()

	spec, err := bpf.LoadTcptrace()
	if err != nil {
		return nil, fmt.Errorf("load embedded BPF object: %w", err)
	}
	wanted, err := chooseHooks(kernel, o.Types)
	if err != nil {
		return nil, err
	}
	for _, h := range hooks {
		if !slices.ContainsFunc(wanted, func(w hook) bool { return w.program == h.program }) {
			delete(spec.Programs, h.program)
		}
	}
	if err := configure(spec, kernel, o); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: cache})
	if err != nil {
		return nil, loadError(err)
	}
	s := &source{kernelSide: kernelSide{coll}, names: names.NewCache()}
	if err := s.start(wanted, kernel, o.Buffer); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// chooseHooks returns the hooks that these types of events need.
func chooseHooks(kernel *btf.Spec, types []events.Type) (wanted []hook, err error) {
	for _, h := range hooks {
		if !slices.ContainsFunc(h.types, func(t events.Type) bool { return slices.Contains(types, t) }) {
			continue
		}
		if _, err := kernel.AnyTypeByName("btf_trace_" + h.tracepoint); err != nil {
			return nil, fmt.Errorf("this kernel has no tracepoint %s: tcptrace needs Linux 5.10 or newer, with CONFIG_INET: %w", h.tracepoint, err)
		}
		wanted = append(wanted, h)
	}
	return wanted, nil
}

// start does what follows the load.
func (s *source) start(wanted []hook, kernel *btf.Spec, buffer int) (err error) {
	if s.dec.HZ, err = probeHZ(s.coll); err != nil {
		return err
	}
	s.dec.Reasons = reasonNames(kernel)
	reader, err := ringbuf.NewReader(s.coll.Maps["records"])
	if err != nil {
		return fmt.Errorf("open ring buffer: %w", err)
	}
	s.spool = newSpool(&s.kernelSide, reader, buffer)
	go s.spool.run()
	for _, h := range wanted {
		prog := s.coll.Programs[h.program]
		var l link.Link
		if h.raw {
			l, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: h.tracepoint, Program: prog})
		} else {
			l, err = link.AttachTracing(link.TracingOptions{Program: prog, AttachType: ebpf.AttachTraceRawTp})
		}
		if err != nil {
			return fmt.Errorf("attach to tracepoint %s: %w", h.tracepoint, err)
		}
		s.links = append(s.links, l)
	}
	return nil
}

// configure sets the constants and sizes that the object is loaded with.
func configure(spec *ebpf.CollectionSpec, kernel *btf.Spec, o Options) error {
	spec.Maps["records"].MaxEntries = uint32(o.Buffer)
	// bpf_get_socket_cookie as tracing programs may call it, from 5.12 on
	// (c5dbb89fc2ac).
	var cookie *btf.Func
	haveCookie := kernel.TypeByName("bpf_get_socket_ptr_cookie", &cookie) == nil
	for name, v := range map[string]any{
		"filter":             kernelFilter(&o.Kernel),
		"have_cookie_helper": haveCookie,
		"want_resets":        slices.Contains(o.Types, events.Reset),
		"want_states":        slices.Contains(o.Types, events.StateChange),
		"conn_seed":          rand.Uint64(),
		"wakeup_bytes":       uint32(o.Buffer / 4),
	} {
		if err := spec.Variables[name].Set(v); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// kernelFilter lays k out as struct filters of the BPF side.
func kernelFilter(k *filter.Kernel) bpf.TcptraceFilters {
	f := bpf.TcptraceFilters{States: k.States}
	f.N_netns = uint32(copy(f.Netns[:], k.NetNS))
	f.N_uids = uint32(copy(f.Uids[:], k.UIDs))
	switch {
	case k.IPv4 && !k.IPv6:
		f.Family = 4
	case k.IPv6 && !k.IPv4:
		f.Family = 6
	}
	for end, set := range []*filter.PortSet{k.Port, k.LPort, k.RPort} {
		if set != nil {
			f.PortsSet[end] = 1
			f.Ports[end] = *set
		}
	}
	for end, list := range [][]filter.Prefix{k.Addr, k.LAddr, k.RAddr} {
		for i, p := range list {
			for w := range 4 {
				f.Prefixes[end][i].Addr[w] = binary.NativeEndian.Uint32(p.Addr[4*w:])
				f.Prefixes[end][i].Mask[w] = binary.NativeEndian.Uint32(p.Mask[4*w:])
			}
		}
		f.N_prefixes[end] = uint32(len(list))
	}
	return f
}

// capability numbers, include/uapi/linux/capability.h
const (
	capSysAdmin = 21
	capPerfmon  = 38
	capBPF      = 39
)

// checkRights looks before the kernel is asked, whose own errors mislead: it
// speaks of memory limits and unsupported maps.
func checkRights() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	var eff uint64
	for line := range bytes.Lines(status) {
		if v, ok := bytes.CutPrefix(line, []byte("CapEff:")); ok {
			if eff, err = strconv.ParseUint(string(bytes.TrimSpace(v)), 16, 64); err != nil {
				return fmt.Errorf("read own capabilities: %w", err)
			}
		}
	}
	if missing := missingCaps(eff); len(missing) > 0 {
		return fmt.Errorf("missing %s: run it as root (sudo tcptrace ...), or in a container with --cap-add BPF --cap-add PERFMON", strings.Join(missing, " and "))
	}
	// A kernel without lockdown has no such file, and an unreadable one is no
	// reason not to try.
	if b, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil && lockdown(string(b)) == "confidentiality" {
		return errors.New("kernel lockdown is in mode confidentiality, which forbids BPF to read kernel memory: boot with lockdown=integrity or without it")
	}
	return nil
}

// missingCaps names what a process with these effective capabilities lacks.
func missingCaps(eff uint64) (missing []string) {
	has := func(c int) bool { return eff&(1<<c) != 0 || eff&(1<<capSysAdmin) != 0 }
	if !has(capBPF) {
		missing = append(missing, "CAP_BPF")
	}
	if !has(capPerfmon) {
		missing = append(missing, "CAP_PERFMON")
	}
	return missing
}

// lockdown is the mode in force in the text of the kernel's file, such as
// "none [integrity] confidentiality".
func lockdown(text string) string {
	_, after, _ := strings.Cut(text, "[")
	mode, _, _ := strings.Cut(after, "]")
	return mode
}

// loadError puts the kernel's refusal in one line.
func loadError(err error) error {
	var ve *ebpf.VerifierError
	switch {
	case errors.As(err, &ve):
		return fmt.Errorf("the kernel's verifier rejects a BPF program; please report this with the kernel's version: %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the kernel refuses BPF: it lacks a right that is not a capability of this process; a container's seccomp profile, an LSM or a user namespace may forbid it: %w", unix.EPERM)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("no memory for the ring buffer or the maps: try a smaller --buffer, or raise the locked memory limit (ulimit -l unlimited): %w", err)
	}
	return fmt.Errorf("load BPF programs: %w", err)
}

// probeHZ returns the kernel's ticks a second, which it tells nobody: the ratio
// of a setting in ticks to the same in seconds. 0 if all of them are 0.
func probeHZ(coll *ebpf.Collection) (uint32, error) {
	prog := coll.Programs[hzProgram]
	if _, err := prog.Run(&ebpf.RunOptions{Context: []uint64{0, 0}}); err != nil {
		return 0, fmt.Errorf("run %s: %w", hzProgram, err)
	}
	if err := prog.Close(); err != nil { // it has done its work
		return 0, fmt.Errorf("unload %s: %w", hzProgram, err)
	}
	for _, p := range []struct{ variable, sysctl string }{
		{"probe_keepalive_time", "tcp_keepalive_time"},
		{"probe_keepalive_intvl", "tcp_keepalive_intvl"},
		{"probe_fin_timeout", "tcp_fin_timeout"},
	} {
		var ticks uint32
		if err := coll.Variables[p.variable].Get(&ticks); err != nil {
			return 0, fmt.Errorf("read %s: %w", p.variable, err)
		}
		b, err := os.ReadFile("/proc/sys/net/ipv4/" + p.sysctl)
		if err != nil {
			continue
		}
		seconds, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 32)
		if err == nil && seconds > 0 && ticks > 0 {
			return ticks / uint32(seconds), nil
		}
	}
	return 0, nil
}

// reasonNames are the names of the running kernel's reset reasons by value:
// the values differ between releases. Empty before 6.10.
func reasonNames(kernel *btf.Spec) []string {
	var enum *btf.Enum
	if kernel.TypeByName("sk_rst_reason", &enum) != nil {
		return nil
	}
	var out []string
	for _, v := range enum.Values {
		if v.Value > 1023 {
			continue
		}
		for uint64(len(out)) <= v.Value {
			out = append(out, "")
		}
		out[v.Value] = strings.TrimPrefix(v.Name, "SK_RST_REASON_")
	}
	return out
}
