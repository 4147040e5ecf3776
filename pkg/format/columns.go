// SPDX-License-Identifier: Apache-2.0

package format

import (
	"slices"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Column is one thing that can be known of an event. Its one declaration
// serves every format, and the filter language.
type Column struct {
	Name  string // in JSON, in --columns and in filters
	Title string // above a table's column
	Doc   string // one line: what it means, in which unit
	Type  Type

	on    types // the types of events that have it
	value func(*events.Event) Value
	owner bool // it says who owns the socket, from what an ownerEntry holds

	// Of tables only.
	width  int                                    // what it starts with; at least that of Title
	resets int                                    // the same where resets are shown, if it is more
	grows  bool                                   // with a longer cell; others let it stand out of its line
	paint  bool                                   // in the event's colour
	cell   func(b []byte, e *events.Event) []byte // of a composite, instead of value
}

// types is a set of event types: bit 1<<type.
type types uint32

const (
	onRetransmit types = 1 << events.Retransmit
	onReset      types = 1 << events.Reset
	onState      types = 1 << events.StateChange
	onLost       types = 1 << events.Lost
	onSocket           = onRetransmit | onReset | onState
	onAny        types = 1<<32 - 1
)

// concerns reports whether events of type t can have the column.
func (c *Column) concerns(t events.Type) bool { return c.on>>t&1 != 0 }

// Value returns what e has in the column. It allocates nothing.
func (c Column) Value(e *events.Event) Value {
	if c.value == nil || !c.concerns(e.Type) {
		return Value{}
	}
	return c.value(e)
}

// Columns returns all columns that every format and the filter language have,
// in the order in which JSON and CSV print them.
func Columns() []Column { return slices.Clone(columns) }

// Composites returns the columns that only tables have, and that put several
// others into one. They have no Value.
func Composites() []Column { return slices.Clone(composites) }

// Lookup returns the column of that name, one of [Columns].
func Lookup(name string) (Column, bool) { return find(columns, name) }

func find(list []Column, name string) (Column, bool) {
	for _, c := range list {
		if c.Name == name {
			return c, true
		}
	}
	return Column{}, false
}

// infiniteSsthresh is the kernel's TCP_INFINITE_SSTHRESH: none was set yet.
const infiniteSsthresh = 0x7fffffff

var columns = []Column{
	{Name: "time", Title: "TIME", Type: Time, on: onAny, width: len(clockLayout),
		Doc:   "when it happened, by the kernel's clock: UTC, but the local time in tables",
		value: func(e *events.Event) Value { return numberValue(timestamp, uint64(e.Time), e.Time != 0) }},
	{Name: "event", Title: "EVENT", Type: String, on: onAny, width: len("retransmit"),
		Doc:   "retransmit, reset, state or lost",
		value: func(e *events.Event) Value { return nameValue(eventType, e.Type) }},
	{Name: "family", Title: "IP", Type: Int, on: onSocket,
		Doc:   "4 or 6: the version of IP on the wire",
		value: func(e *events.Event) Value { return intValue(e.Family, e.Family != 0) }},
	{Name: "laddr", Title: "LOCAL-ADDR", Type: String, on: onSocket, width: ipv4Width, grows: true,
		Doc:   "local address; an IPv4-mapped one is shown as IPv4",
		value: func(e *events.Event) Value { return addrValue(&e.LAddr) }},
	{Name: "lport", Title: "LPORT", Type: Int, on: onSocket,
		Doc:   "local port",
		value: func(e *events.Event) Value { return intValue(e.LPort, e.LPort != 0) }},
	{Name: "raddr", Title: "REMOTE-ADDR", Type: String, on: onSocket, width: ipv4Width, grows: true,
		Doc:   "remote address; an IPv4-mapped one is shown as IPv4",
		value: func(e *events.Event) Value { return addrValue(&e.RAddr) }},
	{Name: "rport", Title: "RPORT", Type: Int, on: onSocket,
		Doc:   "remote port",
		value: func(e *events.Event) Value { return intValue(e.RPort, e.RPort != 0) }},
	{Name: "state", Title: "STATE", Type: String, on: onSocket, width: len("ESTABLISHED"), paint: true,
		Doc: "state of the socket: the one before a reset, the one after a change",
		value: func(e *events.Event) Value {
			if e.Type == events.StateChange {
				return nameValue(tcpState, e.NewState)
			}
			return nameValue(tcpState, e.State)
		}},
	{Name: "conn", Title: "CONN", Type: Hex, on: onSocket, width: 16,
		Doc:   "tcptrace's id of the connection: the same socket in the same life",
		value: func(e *events.Event) Value { return numberValue(hexNumber, e.Conn, e.Conn != 0) }},
	{Name: "cookie", Title: "COOKIE", Type: Hex, on: onSocket, width: 8,
		Doc:   "the kernel's id of the socket, as ss -e prints it",
		value: func(e *events.Event) Value { return numberValue(hexNumber, e.Cookie, e.Cookie != 0) }},
	{Name: "netns", Title: "NETNS", Type: Int, on: onSocket, owner: true, width: 10,
		Doc:   "inode number of the network namespace",
		value: func(e *events.Event) Value { return intValue(e.NetNS, e.NetNS != 0) }},
	{Name: "netns_name", Title: "NETNS-NAME", Type: String, on: onSocket, owner: true,
		Doc:   "name of the network namespace",
		value: func(e *events.Event) Value { return textValue(&e.NetNSName) }},
	{Name: "inode", Title: "INODE", Type: Int, on: onSocket, width: 8,
		Doc:   "inode number of the socket",
		value: func(e *events.Event) Value { return intValue(e.Inode, e.Inode != 0) }},
	{Name: "uid", Title: "UID", Type: Int, on: onSocket, owner: true, width: 5,
		Doc:   "number of the user who owns the socket",
		value: func(e *events.Event) Value { return intValue(e.UID, e.Has(events.HasUID)) }},
	{Name: "user", Title: "USER", Type: String, on: onSocket, owner: true, width: 8,
		Doc:   "name of the user who owns the socket",
		value: func(e *events.Event) Value { return textValue(&e.User) }},
	{Name: "cgroup", Title: "CGROUP", Type: String, on: onSocket, owner: true, width: 40,
		Doc:   "path of the socket's cgroup",
		value: func(e *events.Event) Value { return textValue(&e.Cgroup) }},
	{Name: "unit", Title: "UNIT", Type: String, on: onSocket, owner: true, width: 24,
		Doc:   "systemd unit that the cgroup belongs to",
		value: func(e *events.Event) Value { return textValue(&e.Unit) }},
	{Name: "container", Title: "CONTAINER", Type: String, on: onSocket, owner: true, width: 12, grows: true,
		Doc:   "id of the container that the cgroup belongs to",
		value: func(e *events.Event) Value { return textValue(&e.Container) }},
	{Name: "pod", Title: "POD", Type: String, on: onSocket, owner: true, width: 12, grows: true,
		Doc:   "uid of the Kubernetes pod that the cgroup belongs to",
		value: func(e *events.Event) Value { return textValue(&e.Pod) }},
	{Name: "pid", Title: "PID", Type: Int, on: onSocket, owner: true, width: 7,
		Doc:   "id of the process that owns the socket",
		value: func(e *events.Event) Value { return intValue(e.PID, e.PID != 0) }},
	{Name: "comm", Title: "COMM", Type: String, on: onSocket, owner: true, width: 15,
		Doc:   "name of the process that owns the socket",
		value: func(e *events.Event) Value { return commValue(&e.Comm) }},
	{Name: "sharers", Title: "SHARERS", Type: Ints, on: onSocket, owner: true, width: 11,
		Doc:   "ids of the processes that hold the socket, if there are several",
		value: func(e *events.Event) Value { return intsValue(&e.Sharers) }},
	{Name: "orphan", Title: "ORPHAN", Type: Bool, on: onSocket,
		Doc:   "whether the process has let go of the socket",
		value: func(e *events.Event) Value { return boolValue(e.Orphan, e.Has(events.HasOrphan)) }},

	{Name: "kind", Title: "KIND", Type: String, on: onRetransmit | onReset, width: len("unknown"), resets: len("data_after_close"), paint: true,
		Doc: "kind of retransmission (syn synack rto fast loss tlp rack probe pmtu tfo unknown) or of reset " +
			"(refused unread_data linger time_wait bad_ack data_after_close keepalive overflow abort firewall peer other)",
		value: func(e *events.Event) Value { return nameValue(eventKind, e.Kind) }},
	{Name: "phase", Title: "PHASE", Type: String, on: onRetransmit, width: len("connect"),
		Doc:   "connect, data or close: the part of the connection's life",
		value: func(e *events.Event) Value { return nameValue(phase, e.Phase) }},
	{Name: "flags", Title: "FLAGS", Type: String, on: onRetransmit, width: len("PSH|ACK"),
		Doc:   "TCP flags of the segment, the low bit first",
		value: func(e *events.Event) Value { return flagsValue(e.Flags, e.Has(events.HasFlags)) }},
	{Name: "seq", Title: "SEQ", Type: Int, on: onRetransmit, width: 10,
		Doc:   "the segment's first sequence number",
		value: func(e *events.Event) Value { return intValue(e.Seq, e.Has(events.HasSeq)) }},
	{Name: "end_seq", Title: "END-SEQ", Type: Int, on: onRetransmit, width: 10,
		Doc:   "the sequence number after the segment",
		value: func(e *events.Event) Value { return intValue(e.EndSeq, e.Has(events.HasSeq)) }},
	{Name: "len", Title: "LEN", Type: Int, on: onRetransmit, width: 5,
		Doc:   "bytes of payload",
		value: func(e *events.Event) Value { return intValue(e.Len, e.Has(events.HasSeq)) }},
	{Name: "segs", Title: "SEGS", Type: Int, on: onRetransmit,
		Doc:   "number of segments on the wire",
		value: func(e *events.Event) Value { return intValue(e.Segs, e.Has(events.HasSeq)) }},
	{Name: "attempt", Title: "TRY", Type: Int, on: onRetransmit,
		Doc:   "number of consecutive time-outs, 1 is the first",
		value: func(e *events.Event) Value { return intValue(e.Attempt, e.Attempt != 0) }},
	{Name: "backoff", Title: "BACKOFF", Type: Int, on: onRetransmit,
		Doc:   "how often the time-out was doubled",
		value: func(e *events.Event) Value { return intValue(e.Backoff, e.Has(events.HasBackoff)) }},
	{Name: "rto_ms", Title: "RTO", Type: Float, on: onRetransmit | onState, width: 5,
		Doc:   "retransmission time-out in force at the event, whatever its kind, or when the connection was closed (ms)",
		value: func(e *events.Event) Value { return durationValue(e.RTO, e.Has(events.HasRTO)) }},
	{Name: "next_rto_ms", Title: "NEXT-RTO", Type: Float, on: onRetransmit,
		Doc:   "time-out that follows (ms)",
		value: func(e *events.Event) Value { return durationValue(e.NextRTO, e.Has(events.HasNextRTO)) }},
	{Name: "srtt_ms", Title: "SRTT", Type: Float, on: onRetransmit | onState, width: 6,
		Doc:   "smoothed round-trip time, also when the connection was closed (ms)",
		value: func(e *events.Event) Value { return durationValue(e.SRTT, e.Has(events.HasSRTT)) }},
	{Name: "rttvar_ms", Title: "RTTVAR", Type: Float, on: onRetransmit | onState,
		Doc:   "variation of the round-trip time (ms)",
		value: func(e *events.Event) Value { return durationValue(e.RTTVar, e.Has(events.HasSRTT)) }},
	{Name: "cwnd", Title: "CWND", Type: Int, on: onRetransmit,
		Doc:   "congestion window, in segments",
		value: func(e *events.Event) Value { return intValue(e.Cwnd, e.Has(events.HasCwnd)) }},
	{Name: "ssthresh", Title: "SSTHRESH", Type: Int, on: onRetransmit,
		Doc: "slow start threshold, in segments; absent until one is set",
		value: func(e *events.Event) Value {
			return intValue(e.Ssthresh, e.Has(events.HasSsthresh) && e.Ssthresh != infiniteSsthresh)
		}},
	{Name: "ca_state", Title: "CA-STATE", Type: String, on: onRetransmit,
		Doc: "state of congestion control: Open, Disorder, CWR, Recovery or Loss",
		value: func(e *events.Event) Value {
			return numberValue(caState, uint64(e.CAState), e.Has(events.HasCAState) && e.CAState.String() != "")
		}},
	{Name: "total_retrans", Title: "RETRANS", Type: Int, on: onRetransmit | onState,
		Doc:   "segments that the connection has retransmitted so far, also when it was closed",
		value: func(e *events.Event) Value { return intValue(e.TotalRetrans, e.Has(events.HasTotals)) }},
	{Name: "data_segs_out", Title: "DATA-SEGS", Type: Int, on: onRetransmit | onState,
		Doc:   "segments with data that the connection has sent so far, also when it was closed",
		value: func(e *events.Event) Value { return intValue(e.DataSegsOut, e.Has(events.HasTotals)) }},
	{Name: "dsack_dups", Title: "DSACKS", Type: Int, on: onRetransmit | onState,
		Doc:   "duplicates that the peer reported by DSACK so far: needless retransmissions",
		value: func(e *events.Event) Value { return intValue(e.DSACKDups, e.Has(events.HasTotals)) }},
	{Name: "gap", Title: "GAP", Type: Int, on: onRetransmit,
		Doc:   "segments that the kernel sent again since the connection's event before, and that no event showed",
		value: func(e *events.Event) Value { return intValue(e.Gap, e.Gap != 0) }},
	{Name: "gives_up_in_ms", Title: "GIVES-UP", Type: Float, on: onRetransmit,
		Doc:   "time until the kernel gives the connection up (ms)",
		value: func(e *events.Event) Value { return durationValue(e.GivesUp, e.Has(events.HasGivesUp)) }},
	{Name: "user_timeout_ms", Title: "USER-TIMEOUT", Type: Float, on: onRetransmit,
		Doc:   "the socket's TCP_USER_TIMEOUT, if it has one (ms)",
		value: func(e *events.Event) Value { return durationValue(e.UserTimeout, e.UserTimeout != 0) }},
	{Name: "accept_queue", Title: "QUEUE", Type: Int, on: onRetransmit,
		Doc:   "of a listener's SYN-ACK: connections that wait to be accepted, which ss -ltn prints as Recv-Q",
		value: func(e *events.Event) Value { return intValue(e.AcceptQueue, e.Has(events.HasAcceptQueue)) }},
	{Name: "accept_queue_max", Title: "QUEUE-MAX", Type: Int, on: onRetransmit,
		Doc:   "of a listener's SYN-ACK: its backlog, which ss -ltn prints as Send-Q; with one more the queue is full",
		value: func(e *events.Event) Value { return intValue(e.AcceptQueueMax, e.Has(events.HasAcceptQueue)) }},
	{Name: "error", Title: "ERROR", Type: String, on: onRetransmit | onState, width: len("ECONNREFUSED"), paint: true,
		Doc:   "errno of a retransmission that this host could not send, or of a connection that ended",
		value: func(e *events.Event) Value { return numberValue(errno, uint64(e.Error), e.Error != 0) }},

	{Name: "direction", Title: "RESET", Type: String, on: onReset, width: len("received"), paint: true,
		Doc:   "sent or received, seen from this host",
		value: func(e *events.Event) Value { return nameValue(direction, e.Direction) }},
	{Name: "reason", Title: "REASON", Type: String, on: onReset, width: 24,
		Doc:   "the kernel's reason for the reset, where it gives one, without SK_RST_REASON_",
		value: func(e *events.Event) Value { return textValue(&e.Reason) }},
	{Name: "why", Title: "WHY", Type: String, on: onReset, width: 32, paint: true,
		Doc:   "the reason in plain words",
		value: func(e *events.Event) Value { return textValue(&e.Why) }},
	{Name: "trigger_flags", Title: "TRIGGER", Type: String, on: onReset, width: len("PSH|ACK"),
		Doc:   "TCP flags of the packet that a sent reset answers, or of the received reset itself",
		value: func(e *events.Event) Value { return flagsValue(e.TriggerFlags, e.Has(events.HasTrigger)) }},
	{Name: "trigger_seq", Title: "TRIG-SEQ", Type: Int, on: onReset, width: 10,
		Doc:   "sequence number of that packet",
		value: func(e *events.Event) Value { return intValue(e.TriggerSeq, e.Has(events.HasTrigger)) }},
	{Name: "trigger_ack", Title: "TRIG-ACK", Type: Int, on: onReset, width: 10,
		Doc:   "acknowledgment number of that packet",
		value: func(e *events.Event) Value { return intValue(e.TriggerAck, e.Has(events.HasTrigger)) }},
	{Name: "trigger_timestamps", Title: "TRIG-TS", Type: Bool, on: onReset,
		Doc:   "whether that packet had the timestamps option",
		value: func(e *events.Event) Value { return boolValue(e.TriggerTimestamps, e.Has(events.HasTrigger)) }},
	{Name: "trigger_ttl", Title: "TRIG-TTL", Type: Int, on: onReset,
		Doc:   "TTL or hop limit of that packet",
		value: func(e *events.Event) Value { return intValue(e.TriggerTTL, e.Has(events.HasTTL)) }},

	{Name: "old_state", Title: "OLD-STATE", Type: String, on: onState, width: len("ESTABLISHED"),
		Doc:   "state before the change",
		value: func(e *events.Event) Value { return nameValue(tcpState, e.OldState) }},
	{Name: "new_state", Title: "NEW-STATE", Type: String, on: onState, width: len("ESTABLISHED"), paint: true,
		Doc:   "state after the change",
		value: func(e *events.Event) Value { return nameValue(tcpState, e.NewState) }},
	{Name: "unacked_ms", Title: "UNACKED", Type: Float, on: onState,
		Doc:   "age of the oldest byte not acknowledged when the connection was closed: at the change to FIN_WAIT1, LAST_ACK or CLOSE (ms); absent if it was sent again, or the kernel had dropped it by then, as at a reset or a time-out",
		value: func(e *events.Event) Value { return durationValue(e.Unacked, e.Has(events.HasUnacked)) }},
	{Name: "unacked_retrans", Title: "UNACKED-AGAIN", Type: Bool, on: onState,
		Doc:   "true if that byte had been sent again; otherwise absent",
		value: func(e *events.Event) Value { return boolValue(e.UnackedRetrans, e.UnackedRetrans) }},

	{Name: "count", Title: "COUNT", Type: Int, on: onLost,
		Doc:   "how many events were lost at this place",
		value: func(e *events.Event) Value { return intValue(e.Count, e.Count != 0) }},
	{Name: "of", Title: "OF", Type: String, on: onLost, width: len("retransmit"),
		Doc:   "the event that the lost ones were: retransmit, reset or state",
		value: func(e *events.Event) Value { return nameValue(eventType, e.Of) }},
}
