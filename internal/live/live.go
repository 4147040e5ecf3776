// SPDX-License-Identifier: Apache-2.0

// Package live is the source of events that come from the running kernel: it
// loads the BPF programs that a command needs, attaches them, and gives the
// events of their ring buffer with the names that belong to them.
package live

import (
	"github.com/cilium/ebpf/btf"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// Options of [Open].
type Options struct {
	Types  []events.Type // Retransmit, Reset, StateChange: what to trace
	Kernel filter.Kernel // what the kernel side rejects
	Buffer int           // size of the ring buffer in bytes, a power of two of at least a page
	Cache  *btf.Cache    // of the kernel's types, for callers that open many; may be nil
	Unseen func(string)  // called with what this kernel, or a lack of rights, hides, in one line; may be nil
	BTF    string        // file with the kernel's types, for where the kernel's own can't be read; "" is none

	// DropRights has this process give up its capabilities for good once
	// everything is attached, but for KeepRights, such as "CAP_NET_ADMIN".
	DropRights bool
	KeepRights []string
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
