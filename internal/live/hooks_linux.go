// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// A hook is one place in the kernel and the program on it.
type hook struct {
	program  string
	point    string // tracepoint, or function of a function's hook
	kind     hookKind
	types    []events.Type
	counts   bool // the kernel counts these events too
	settings bool // only where [Options.Settings] asks for them

	// Of hooks that the tool can do without.
	gives  string // what is not seen without it, a plural
	over   string // of these, the ones over IPv4 or IPv6
	module string // that has the function, if the kernel proper hasn't
	needed func(*btf.Spec) bool

	variant func(*btf.Spec) string // what of it differs on this kernel; may be nil
}

type hookKind uint8

const (
	typedTracepoint hookKind = iota // tp_btf
	rawTracepoint                   // raw_tp
	function                        // fentry
	iterator                        // iter, over what exists when it is read
)

func (h *hook) optional() bool { return h.kind == function || h.kind == iterator }

// The order is that of attaching: set_state first, so that what the others
// remember of a socket is there.
var hooks = []hook{
	{program: "set_state", point: "inet_sock_set_state", types: []events.Type{events.Retransmit, events.Reset, events.StateChange}},
	{program: "destroy_sock", point: "tcp_destroy_sock", types: []events.Type{events.Retransmit, events.Reset, events.StateChange}},
	{program: "retransmit_skb", point: "tcp_retransmit_skb", types: []events.Type{events.Retransmit}, counts: true, variant: retransmitVariant},
	{program: "retransmit_synack", point: "tcp_retransmit_synack", types: []events.Type{events.Retransmit}, counts: true},
	{program: "send_reset", point: "tcp_send_reset", kind: rawTracepoint, types: []events.Type{events.Reset}, counts: true, variant: sendResetVariant},
	{program: "receive_reset", point: "tcp_receive_reset", types: []events.Type{events.Reset}},
	{program: "send_reset_v4", point: "tcp_v4_send_reset", kind: function, types: []events.Type{events.Reset}, counts: true,
		gives: "resets sent without a socket or in TIME_WAIT", over: "IPv4", needed: missesResets},
	{program: "send_reset_v6", point: "tcp_v6_send_reset", kind: function, types: []events.Type{events.Reset}, counts: true,
		gives: "resets sent without a socket or in TIME_WAIT", over: "IPv6", needed: missesResets},
	{program: "firewall_reset_v4", point: "nf_send_reset", kind: function, types: []events.Type{events.Reset},
		gives: "resets that the firewall sends", over: "IPv4", module: "nf_reject_ipv4"},
	{program: "firewall_reset_v6", point: "nf_send_reset6", kind: function, types: []events.Type{events.Reset},
		gives: "resets that the firewall sends", over: "IPv6", module: "nf_reject_ipv6"},
	{program: "reset_packet", point: "tcp_reset", kind: function, types: []events.Type{events.Reset},
		gives: "flags and TTL of received resets"},
	{program: programHolders, point: "iter/task_file", kind: iterator, types: []events.Type{events.Retransmit, events.Reset, events.StateChange},
		gives: "processes that accepted a connection, were handed one, or had it before the start"},
	{program: programDwellers, point: "iter/task", kind: iterator, types: []events.Type{events.Retransmit, events.Reset},
		gives: "the counters of other network namespaces"},
	{program: programSettings, point: "iter/task", kind: iterator, settings: true,
		gives: "the settings of network namespaces"},
}

const (
	programHolders  = "holders"
	programDwellers = "dwellers"
	programSettings = "settings"
)

func retransmitVariant(kernel *btf.Spec) string {
	if records(kernel, "tcp_retransmit_skb", "err") {
		return "with the outcome"
	}
	return "successes only"
}

func sendResetVariant(kernel *btf.Spec) string {
	switch {
	case records(kernel, "tcp_send_reset", "reason"):
		return "with reasons"
	case missesResets(kernel):
		return "full sockets only, without reasons"
	}
	return "without reasons"
}

// records tells whether a tracepoint's own record has a field.
func records(kernel *btf.Spec, tracepoint, field string) bool {
	var record *btf.Struct
	return kernel.TypeByName("trace_event_raw_"+tracepoint, &record) == nil &&
		slices.ContainsFunc(record.Members, func(m btf.Member) bool { return m.Name == field })
}

// missesResets tells whether the kernel's tracepoint leaves out resets that
// have no full socket. Since it covers them (6.10, 19822a980e19) it records
// something of its own.
func missesResets(kernel *btf.Spec) bool {
	_, err := kernel.AnyTypeByName("trace_event_raw_tcp_send_reset")
	return err != nil
}

// chooseHooks returns the hooks that a stream has a use for.
func chooseHooks(kernel *btf.Spec, o *Options) (wanted []*hook, err error) {
	for i := range hooks {
		h := &hooks[i]
		if !(h.settings && o.Settings) && !slices.ContainsFunc(h.types, func(t events.Type) bool { return slices.Contains(o.Types, t) }) {
			continue
		}
		if !h.optional() {
			if _, err := kernel.AnyTypeByName("btf_trace_" + h.point); err != nil {
				return nil, fmt.Errorf("this kernel has no tracepoint %s: tcptrace needs Linux 5.10 or newer, with CONFIG_INET: %w", h.point, err)
			}
		}
		wanted = append(wanted, h)
	}
	return wanted, nil
}

// attach puts prog on the hook.
func (h *hook) attach(prog *ebpf.Program) (l link.Link, err error) {
	switch h.kind {
	case rawTracepoint:
		l, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: h.point, Program: prog})
	case iterator:
		l, err = link.AttachIter(link.IterOptions{Program: prog})
	case function:
		l, err = link.AttachTracing(link.TracingOptions{Program: prog, AttachType: ebpf.AttachTraceFEntry})
	default:
		l, err = link.AttachTracing(link.TracingOptions{Program: prog, AttachType: ebpf.AttachTraceRawTp})
	}
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", h.point, err)
	}
	return l, nil
}

// Why an optional hook is not there.
var (
	errNoFunction  = errors.New("this kernel has no such function, or no type of it")
	errNoPacket    = errors.New("the function has no packet on this kernel")
	errNoModuleBTF = errors.New("this kernel gives no types of its modules")
	errModuleRight = errors.New("functions of modules need CAP_SYS_ADMIN")
	errForeign     = errors.New("not with types from a file")
	errNoFentry    = errors.New("this kernel refuses programs on functions")
	errNoIterator  = errors.New("this kernel refuses iterators")
)

// prototype is the type of an optional hook's function.
func (h *hook) prototype(types *types) (*btf.FuncProto, error) {
	if types.file != "" {
		return nil, errForeign
	}
	var fn *btf.Func
	err := types.spec.TypeByName(h.point, &fn)
	if err != nil && h.module != "" {
		var spec *btf.Spec
		spec, err = types.cache.Module(h.module)
		if errors.Is(err, fs.ErrNotExist) {
			if loaded(h.module) {
				return nil, errNoModuleBTF
			}
			return nil, ErrNotLoaded
		}
		if err != nil {
			return nil, err
		}
		err = spec.TypeByName(h.point, &fn)
	}
	if err != nil {
		return nil, errNoFunction
	}
	proto, ok := fn.Type.(*btf.FuncProto)
	if !ok {
		return nil, errNoFunction
	}
	return proto, nil
}

// check says why an optional hook can't be, or need not be, on this kernel.
func (h *hook) check(types *types) error {
	if h.kind == iterator {
		return nil
	}
	if h.needed != nil && !h.needed(types.spec) {
		return ErrNotNeeded
	}
	proto, err := h.prototype(types)
	if err == nil && h.program == "reset_packet" && len(proto.Params) < 2 {
		err = errNoPacket
	}
	return err
}

// mayAskForModules reports whether the kernel lets this process have the types
// of modules, which the loader goes through.
func mayAskForModules() bool {
	own, err := effective()
	return err == nil && own(cap.SYS_ADMIN)
}

// refusal says in a few words why the kernel took no program on a function.
func (h *hook) refusal(err error) error {
	switch {
	case h.module != "" && errors.Is(err, ebpf.ErrNotSupported) && !mayAskForModules():
		return errModuleRight
	case h.kind == iterator && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported)):
		return errNoIterator
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOTSUP), errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.Errno(524)): // ENOTSUPP
		return errNoFentry
	}
	return err
}
