// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
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
	"github.com/tcptrace/tcptrace/pkg/events"
)

const hzProgram = "probe_hz"

// Open loads and attaches what o.Types need. Its errors are for the user: each
// says what is missing and what to do about it.
func Open(ctx context.Context, o Options) (Source, error) {
	if err := checkRights(); err != nil {
		return nil, err
	}
	types, err := kernelTypes(o.BTF, o.Cache)
	if err != nil {
		return nil, err
	}
	kernel := types.spec
	// Before 5.11 BPF memory counts against a limit. Without the right to lift
	// it the load may still succeed.
	limited := rlimit.RemoveMemlock() != nil && countsMemory(kernel)

	spec, err := bpf.LoadTcptrace()
	if err != nil {
		return nil, fmt.Errorf("load embedded BPF object: %w", err)
	}
	wanted, err := chooseHooks(kernel, &o)
	if err != nil {
		return nil, types.explain(err)
	}
	if err := configure(spec, types, o); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &source{}
	s.names = names.NewCache(s.cgroupPath)
	if o.Kernel.States == 0 { // the other filters look at what a connection keeps
		s.gaps = new(events.Gaps)
	}
	if err := s.start(ctx, spec, types, wanted, o, limited); err != nil {
		return nil, errors.Join(types.explain(err), s.Close())
	}
	if o.DropRights {
		if err := s.dropRights(o.KeepRights); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	if s.audit != nil { // with the rights that it will have at the end
		if err := s.audit.start(); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// start loads and attaches what is wanted, and begins to read.
func (s *source) start(ctx context.Context, spec *ebpf.CollectionSpec, types *types, wanted []*hook, o Options, limited bool) (err error) {
	var required []string
	for _, h := range wanted {
		if !h.optional() {
			required = append(required, h.program)
		}
	}
	// While the kernel takes memory for the ring buffer, up to what a cgroup may
	// have, a page fault of another thread calls the OOM killer: the garbage
	// collector's threads wait, since it has just run.
	runtime.GC()
	ring, err := ebpf.NewMap(spec.Maps["records"])
	if err != nil {
		return loadError(err, limited)
	}
	defer ring.Close() // the collection has its own
	opts := types.options()
	opts.MapReplacements = map[string]*ebpf.Map{"records": ring}
	s.coll, err = ebpf.NewCollectionWithOptions(only(spec, append(required, hzProgram)...), opts)
	if err != nil {
		return loadError(err, limited)
	}
	if err := types.compare(s.coll.Programs[hooks[0].program]); err != nil {
		return err
	}
	if s.dec.HZ, err = probeHZ(s.coll); err != nil {
		return err
	}
	s.dec.Reasons = reasonNames(types.spec)
	reader, err := ringbuf.NewReader(s.coll.Maps["records"])
	if err != nil {
		return fmt.Errorf("open ring buffer: %w", err)
	}
	s.spool = newSpool(&s.kernelSide, reader, o.Buffer)
	go s.spool.run()
	s.owner.closers, s.owner.closersTotal = s.coll.Maps["closers"], s.coll.Variables["closers_total"]
	s.owner.handedOver, s.owner.looker = s.coll.Variables["handed_over"], s.coll.Variables["looker"]

	var report []Hook
	hidden := false // something that the kernel counts
	for _, h := range wanted {
		r := Hook{Point: h.point, Function: h.kind == function, Iterator: h.kind == iterator, Optional: h.optional(), Gives: h.gives, over: h.over}
		if h.variant != nil {
			r.Variant = h.variant(types.spec)
		}
		if h.optional() {
			r.Err = s.attachOptional(spec, types, h)
		}
		if errors.Is(r.Err, ErrNotLoaded) {
			s.notLoaded = append(s.notLoaded, h)
		}
		hidden = hidden || h.counts && r.Hidden()
		report = append(report, r)
		if h.optional() {
			continue
		}
		l, err := h.attach(s.coll.Programs[h.program])
		if err != nil {
			return err
		}
		s.links = append(s.links, l)
		s.keep(h, s.coll.Programs[h.program])
		if err := types.confirm(l, h); err != nil {
			return err
		}
	}
	if s.owner.iter != nil { // whoever closes a socket before its first event was there
		if err := s.owner.look(ctx); err != nil {
			return err
		}
	}
	s.audit = s.newAuditor(types.spec, &o, hidden)
	if o.Hooks != nil {
		o.Hooks(report)
	}
	return nil
}

// attachOptional loads a program beside the others, on their maps: the kernel
// may refuse it.
func (s *source) attachOptional(spec *ebpf.CollectionSpec, types *types, h *hook) error {
	if err := h.check(types); err != nil {
		return err
	}
	o := types.options()
	o.MapReplacements = s.coll.Maps
	coll, err := ebpf.NewCollectionWithOptions(only(spec, h.program), o)
	if err != nil {
		return h.refusal(err)
	}
	prog := coll.DetachProgram(h.program)
	coll.Close()
	l, err := h.attach(prog)
	if err != nil {
		return errors.Join(h.refusal(err), prog.Close())
	}
	s.keep(h, prog)
	switch h.program {
	case programHolders:
		s.owner.iter = l.(*link.Iter)
	case programDwellers:
		s.dwellers = l.(*link.Iter)
	case programSettings:
		s.settings = l.(*link.Iter)
	default:
		s.links = append(s.links, l)
	}
	return nil
}

// keep has a program of a hook counted with what is attached.
func (s *source) keep(h *hook, prog *ebpf.Program) {
	s.programs = append(s.programs, prog)
	if h.counts {
		s.counting = append(s.counting, prog)
	}
}

// newAuditor returns what audits this stream; nil if the kernel counts nothing
// of it. hidden says that it counts resets that no program sees.
func (s *source) newAuditor(kernel *btf.Spec, o *Options, hidden bool) *auditor {
	a := &auditor{
		nets: s.coll.Maps["nets"], ours: s.coll.Maps["audits"], slots: s.coll.Maps["net_slots"], totals: s.coll.Maps["counts"], iter: s.dwellers, wanted: o.NetNS,
		retransmits: slices.Contains(o.Types, events.Retransmit), resets: slices.Contains(o.Types, events.Reset),
		outcomes:   records(kernel, "tcp_retransmit_skb", "err"),
		othersNote: "of another namespace: " + errNoIterator.Error(),
	}
	if !a.retransmits && !a.resets {
		return nil
	}
	if a.wanted == nil {
		a.wanted = o.Kernel.NetNS
	}
	if !names.Look().PIDs { // the numbers of the host's threads are none of this /proc
		a.iter, a.othersNote = nil, "of another namespace: needs --pid=host"
	}
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/net", &st) == nil {
		a.own = uint32(st.Ino)
	}
	if hidden {
		a.hiddenResets = "this kernel hides some"
	}
	return a
}

// only is spec with these programs alone.
func only(spec *ebpf.CollectionSpec, programs ...string) *ebpf.CollectionSpec {
	spec = spec.Copy()
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !slices.Contains(programs, name) })
	return spec
}

// loaded tells whether the kernel has a module, whatever it gives of it.
func loaded(module string) bool {
	_, err := os.Stat("/sys/module/" + module)
	return err == nil
}

// configure sets the constants and sizes that the object is loaded with.
func configure(spec *ebpf.CollectionSpec, types *types, o Options) error {
	spec.Maps["records"].MaxEntries = uint32(o.Buffer)
	// bpf_get_socket_cookie as tracing programs may call it, from 5.12 on
	// (c5dbb89fc2ac).
	var helper *btf.Func
	haveCookie := types.spec.TypeByName("bpf_get_socket_ptr_cookie", &helper) == nil
	// bpf_get_current_task_btf, from 5.11 on (3ca1032ab7ab).
	haveTask := types.spec.TypeByName("bpf_get_current_task_btf", &helper) == nil
	// From 6.2 on (a35b9af4ec2c).
	haveCast := types.spec.TypeByName("bpf_rdonly_cast", &helper) == nil
	firewallHasSk := slices.ContainsFunc(hooks, func(h hook) bool {
		if !strings.HasPrefix(h.program, "firewall_reset") {
			return false
		}
		proto, err := h.prototype(types)
		return err == nil && len(proto.Params) == 4
	})
	for name, v := range map[string]any{
		"filter":             kernelFilter(&o.Kernel),
		"have_cookie_helper": haveCookie,
		"have_task_helper":   haveTask,
		"have_rdonly_cast":   haveCast,
		"firewall_has_sk":    firewallHasSk,
		"want_resets":        slices.Contains(o.Types, events.Reset),
		"want_states":        slices.Contains(o.Types, events.StateChange),
		"conn_seed":          rand.Uint64(),
		"wakeup_bytes":       uint32(min(o.Buffer/4, wakeupLen)),
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
