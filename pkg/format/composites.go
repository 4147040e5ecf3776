// SPDX-License-Identifier: Apache-2.0

package format

import (
	"net/netip"

	"github.com/tcptrace/tcptrace/pkg/events"
)

const (
	ipv4Width     = len("255.255.255.255")
	endpointWidth = len("255.255.255.255:65535")
)

// composites are the columns of tables that put several into one.
var composites = []Column{
	{Name: "local", Title: "LOCAL", Type: String, on: onSocket, width: endpointWidth, grows: true,
		Doc:  "laddr and lport",
		cell: func(b []byte, e *events.Event) []byte { return appendEndpoint(b, e.LAddr, e.LPort) }},
	{Name: "remote", Title: "REMOTE", Type: String, on: onSocket, width: endpointWidth, grows: true,
		Doc:  "raddr and rport",
		cell: func(b []byte, e *events.Event) []byte { return appendEndpoint(b, e.RAddr, e.RPort) }},
	{Name: "kind_attempt", Title: "KIND", Type: String, on: onRetransmit, width: len("synack 1"), paint: true,
		Doc: "kind, and attempt where there is one", cell: appendKindAttempt},
	{Name: "change", Title: "CHANGE", Type: String, on: onState, width: len("ESTABLISHED->CLOSE_WAIT"), paint: true,
		Doc: "old_state and new_state", cell: appendChange},
	{Name: "detail", Title: "DETAIL", Type: String, on: onSocket, width: len("SYN_SENT->CLOSE ECONNREFUSED"), paint: true,
		Doc: "the most telling of kind, attempt, rto_ms, error, direction, state, old_state and new_state",
		cell: func(b []byte, e *events.Event) []byte {
			switch e.Type {
			case events.Retransmit:
				return appendRetransmit(b, e)
			case events.Reset:
				return appendReset(b, e)
			}
			start := len(b)
			b = appendChange(b, e)
			if e.Error != 0 {
				b = append(separate(b, start, " "), e.Error.String()...)
			}
			return b
		}},
}

// appendEndpoint appends ADDR:PORT, [ADDR]:PORT for IPv6, with "?" for the one
// that is unknown; nothing if both are.
func appendEndpoint(b []byte, addr netip.Addr, port uint16) []byte {
	switch {
	case addr.Is4() || addr.Is4In6():
		b = appendAddr(b, addr)
	case addr.IsValid():
		b = append(appendAddr(append(b, '['), addr), ']')
	case port == 0:
		return b
	default:
		b = append(b, '?')
	}
	if port == 0 {
		return append(b, ":?"...)
	}
	return appendUint(append(b, ':'), uint64(port))
}

// appendChange appends OLD->NEW.
func appendChange(b []byte, e *events.Event) []byte {
	if e.OldState == 0 && e.NewState == 0 {
		return b
	}
	b = appendNameOr(b, e.OldState.String())
	b = append(b, "->"...)
	return appendNameOr(b, e.NewState.String())
}

func appendNameOr(b []byte, name string) []byte {
	if name == "" {
		name = "?"
	}
	return append(b, name...)
}

// appendKindAttempt appends such as "rto 3": the kind, and the number of the
// time-out, where there is one.
func appendKindAttempt(b []byte, e *events.Event) []byte {
	start := len(b)
	b = append(b, e.Kind.String()...)
	if e.Attempt != 0 {
		b = appendUint(separate(b, start, " "), uint64(e.Attempt))
	}
	return b
}

// appendRetransmit appends such as "rto 3 RTO 1.02s ESTABLISHED".
func appendRetransmit(b []byte, e *events.Event) []byte {
	start := len(b)
	b = appendKindAttempt(b, e)
	if e.Error != 0 {
		b = append(separate(b, start, " "), "unsent "...)
		return append(b, e.Error.String()...)
	}
	if e.Has(events.HasRTO) {
		b = append(separate(b, start, " "), "RTO "...)
		b = appendDuration(b, e.RTO)
	}
	if state := e.State.String(); state != "" {
		b = append(separate(b, start, " "), state...)
	}
	return b
}

// appendReset appends such as "sent unread_data ESTABLISHED".
func appendReset(b []byte, e *events.Event) []byte {
	start := len(b)
	b = append(b, e.Direction.String()...)
	if e.Kind != events.KindPeer || e.Direction == 0 { // which every received one is
		if kind := e.Kind.String(); kind != "" {
			b = append(separate(b, start, " "), kind...)
		}
	}
	if state := e.State.String(); state != "" {
		b = append(separate(b, start, " "), state...)
	}
	return b
}

// separate appends sep if there is something since start.
func separate(b []byte, start int, sep string) []byte {
	if len(b) == start {
		return b
	}
	return append(b, sep...)
}

// typesOf returns the set of a list, of which an empty one means all.
func typesOf(list []events.Type) types {
	var on types
	for _, t := range list {
		on |= 1 << t
	}
	if on &= onSocket; on == 0 {
		return onSocket
	}
	return on
}

// tableSet returns the columns of a table of these types of events: one type
// alone has its own. Why a reset was made takes a sentence, which does not fit
// under 100 columns; direction, kind and state say most of it.
func tableSet(format string, list []events.Type) []string {
	narrow := format == Table
	switch typesOf(list) {
	case onRetransmit:
		if narrow {
			return []string{"time", "kind_attempt", "state", "local", "remote", "rto_ms", "comm"}
		}
		return []string{"time", "kind", "phase", "state", "local", "remote",
			"flags", "seq", "len", "segs", "attempt", "backoff", "rto_ms", "next_rto_ms", "gives_up_in_ms",
			"srtt_ms", "rttvar_ms", "cwnd", "ssthresh", "ca_state", "total_retrans", "gap", "data_segs_out", "dsack_dups",
			"error", "orphan", "uid", "user", "pid", "comm", "sharers", "netns", "netns_name", "conn", "unit", "container", "pod", "cgroup"}
	case onReset:
		if narrow {
			return []string{"time", "direction", "kind", "state", "local", "remote"}
		}
		return []string{"time", "direction", "kind", "state", "local", "remote", "reason",
			"trigger_flags", "trigger_seq", "trigger_ack", "trigger_timestamps", "trigger_ttl",
			"orphan", "uid", "user", "pid", "comm", "sharers", "netns", "netns_name", "conn", "unit", "container", "pod", "cgroup", "why"}
	case onState:
		if narrow {
			return []string{"time", "change", "local", "remote", "error"}
		}
		return []string{"time", "change", "local", "remote", "error", "unacked_ms",
			"orphan", "uid", "user", "pid", "comm", "sharers", "netns", "netns_name", "conn", "unit", "container", "pod", "cgroup"}
	}
	if narrow {
		return []string{"time", "event", "local", "remote", "detail"}
	}
	return []string{"time", "event", "direction", "kind", "state", "local", "remote",
		"flags", "seq", "len", "attempt", "rto_ms", "gives_up_in_ms", "reason", "old_state", "error",
		"orphan", "uid", "user", "pid", "comm", "sharers", "netns", "netns_name", "conn", "unit", "container", "pod", "cgroup", "why"}
}
