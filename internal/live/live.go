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
	Cache  *btf.Cache    // has the kernel's types, for callers that open many; may be nil
}
