// SPDX-License-Identifier: Apache-2.0

// Package live is the source of events that come from the running kernel: it
// loads the BPF programs that a command needs, attaches them, and gives the
// events of their ring buffer with the names that belong to them.
package live

import (
	"errors"
	"slices"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/pipeline"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// A Source gives the events of the running kernel.
type Source interface {
	pipeline.Source
	// Memory is what the maps take in the kernel, in bytes; the ring buffer is
	// one.
	Memory() (uint64, error)
	// Skipped is how often the kernel did not run a program because one on the
	// same CPU was in the middle of it: as many events may be missing.
	Skipped() (uint64, error)
	// Audit ends the audit under way and begins another: the counts that come
	// at the end are of what came after. It sets what a summary says of the
	// kernel's counters.
	Audit(*events.Summary) error
	// Settings gives the settings that these network namespaces have now. Those
	// without a process are left out, and all if [Options.Settings] was not set
	// or the kernel refuses.
	Settings(netns []uint32) ([]events.Settings, error)
	// Reasons are the kernel's names of reasons for resets by number, without
	// SK_RST_REASON_; nil if it has none.
	Reasons() []string
	// Overlooked says what was not seen because the kernel learnt of it after
	// the start; "" if nothing.
	Overlooked() string
}

// Options of [Open].
type Options struct {
	Types  []events.Type // Retransmit, Reset, StateChange: what to trace
	Kernel filter.Kernel // what the kernel side rejects
	NetNS  []uint32      // inode numbers of the namespaces that are audited; nil: those of Kernel, or all
	Buffer int           // size of the ring buffer in bytes, a power of two of at least a page
	Cache  *btf.Cache    // of the kernel's types, for callers that open many; may be nil
	// Settings has the kernel side ready for [Source.Settings].
	Settings bool
	Hooks    func([]Hook) // called once with all that is attached, or should be; may be nil
	BTF      string       // file with the kernel's types, for where the kernel's own can't be read; "" is none

	// DropRights has this process give up its capabilities for good once
	// everything is attached, but for KeepRights, such as "CAP_NET_ADMIN".
	DropRights bool
	KeepRights []string
}

// Hook is a place in the kernel where tcptrace looks, or would.
type Hook struct {
	Point    string // name of the tracepoint, function or iterator
	Function bool
	Variant  string // what of it differs between kernels; "" if nothing does
	Iterator bool
	Optional bool
	Gives    string // of an optional one: what is not seen without it, a plural
	Err      error  // why it is not there; nil if it is

	over string // of what it gives, the part over IPv4 or IPv6
}

// Why an optional hook is not there, and nothing is missed.
var (
	ErrNotNeeded = errors.New("this kernel's tracepoint shows it")
	ErrNotLoaded = errors.New("its module is not loaded")
)

// Hidden reports whether something that happens is not seen for want of h.
func (h *Hook) Hidden() bool {
	return h.Err != nil && !errors.Is(h.Err, ErrNotNeeded) && !errors.Is(h.Err, ErrNotLoaded)
}

// Unseen tells in one line what can't be seen, and why; "" if nothing.
func Unseen(hooks []Hook) string {
	left := slices.DeleteFunc(slices.Clone(hooks), func(h Hook) bool { return !h.Hidden() })
	var reasons []string
	for len(left) > 0 {
		reason := left[0].Err.Error()
		var gives []string
		var rest []Hook
		for i, h := range left {
			switch other := i > 0 && left[i-1].Gives == h.Gives && left[i-1].Err.Error() == reason; {
			case h.Err.Error() != reason:
				rest = append(rest, h)
			case other: // both families
				gives[len(gives)-1] = h.Gives
			case h.over != "":
				gives = append(gives, h.Gives+" over "+h.over)
			default:
				gives = append(gives, h.Gives)
			}
		}
		reasons = append(reasons, strings.Join(gives, ", ")+" ("+reason+")")
		left = rest
	}
	return strings.Join(reasons, "; ")
}

// Right is a capability, and what tcptrace uses it for.
type Right struct {
	Name    string // such as "CAP_BPF"
	Needed  bool   // nothing can be traced without it
	Present bool
	Gives   string // one phrase: what it is for, and what lacks without it
	Remedy  string // how to get it; "" if it is present
}

// Limit is a field that no event has where this process runs.
type Limit struct {
	Field  string // its name in JSON
	Reason string // one phrase
	Remedy string // a few words, such as a flag of the container's
}
