// SPDX-License-Identifier: Apache-2.0

// Package events holds what tcptrace knows of one moment in a TCP
// connection's life: a retransmission, a reset, a change of state, or the
// admission that such events were lost.
//
// It is pure: it neither loads BPF nor asks the running system, so that a
// recording is read the same way on any machine.
package events

import (
	"net/netip"
	"time"
)

// Fields is a set of optional fields of an [Event]: those that are known.
// A field outside the set has the zero value, and means nothing.
type Fields uint64

// The optional fields that have a presence bit. Strings, addresses and
// enumerations are absent when they are empty, invalid or zero, and need none.
// The bits are in recordings: add at the end, never change one.
const (
	HasUID Fields = 1 << iota
	HasOrphan
	HasFlags
	HasSeq // Seq, EndSeq, Len and Segs
	HasBackoff
	HasRTO
	HasNextRTO
	HasSRTT // SRTT and RTTVar: the socket has a sample
	HasCwnd // Cwnd and Ssthresh may be zero
	HasSsthresh
	HasCAState
	HasTotals // TotalRetrans, DataSegsOut, DSACKDups
	HasGivesUp
	HasTrigger // TriggerFlags, TriggerSeq, TriggerAck, TriggerTimestamps
	HasTTL
	HasReason
	HasUnacked
	_              // set in the first recording that tests keep
	HasAcceptQueue // AcceptQueue and AcceptQueueMax
)

// Event is one event, as the kernel showed it, with what was learnt about its
// socket. It is a plain value: copy it freely.
type Event struct {
	Time  int64  // wall clock, ns since the Unix epoch (UTC)
	Boot  uint64 // CLOCK_BOOTTIME of the kernel's event, ns
	Known Fields // which optional fields hold something
	Type  Type

	// Of every event that concerns a connection.
	Family       uint8 // 4 or 6, as on the wire; 0 unknown
	LAddr, RAddr netip.Addr
	LPort, RPort uint16 // 0: unknown, or not assigned yet
	State        State  // of a reset: the state before it
	Conn         uint64 // same socket, same life; 0 unknown
	Cookie       uint64 // as "ss -e" prints it; 0 unknown
	NetNS        uint32 // inode number; 0 unknown
	NetNSName    string
	Inode        uint64 // of the socket; 0 unknown or none
	HolderInode  uint64 // of the socket whose holders own the event: its own, or its listener's for a request; 0 unknown
	UID          uint32 // HasUID
	User         string
	CgroupID     uint64
	Cgroup       string // path
	Unit         string // systemd's, of the cgroup
	Container    string // id, of the cgroup
	Pod          string // uid, of the cgroup
	PID          uint32 // of the owning process, in the host's numbers; 0 unknown
	Comm         Comm   // of the owning process
	Orphan       bool   // HasOrphan: its process has let go of it
	// Sharers are the processes that hold the socket, in the host's numbers,
	// ascending; nil unless there are several. Events share the slice: it is
	// read-only.
	Sharers []uint32

	// Retransmissions, and Kind of resets too.
	Kind                                 Kind
	Phase                                Phase
	Flags                                Flags // HasFlags
	Seq, EndSeq                          uint32
	Len                                  uint32 // payload bytes
	Segs                                 uint32 // segments on the wire
	Attempt                              uint32 // consecutive time-outs; 0: none, or unknown
	Backoff                              uint32
	RTO, NextRTO                         time.Duration
	SRTT, RTTVar                         time.Duration
	Cwnd, Ssthresh                       uint32 // segments
	CAState                              CAState
	TotalRetrans, DataSegsOut, DSACKDups uint32
	Gap                                  uint32        // segments that the kernel sent again since the connection's event before, and no event showed; 0: none, or unknown
	GivesUp                              time.Duration // until the kernel gives up
	UserTimeout                          time.Duration // TCP_USER_TIMEOUT; 0: not set, or unknown
	AcceptQueue, AcceptQueueMax          uint32        // of the listener, of a SYN-ACK: connections that wait for accept, and how many may
	Error                                Errno         // could not be sent; of a state change to CLOSE: sk_err

	// Resets.
	Direction              Direction
	Reason                 string // the kernel's name, without SK_RST_REASON_
	Why                    string // one plain phrase
	TriggerFlags           Flags
	TriggerSeq, TriggerAck uint32
	TriggerTimestamps      bool  // the packet carried the timestamps option
	TriggerTTL             uint8 // HasTTL; hop limit for IPv6

	// State changes. One from ESTABLISHED or CLOSE_WAIT to FIN_WAIT1, LAST_ACK
	// or CLOSE also has RTO, SRTT, RTTVar, TotalRetrans, DataSegsOut and
	// DSACKDups.
	OldState, NewState State
	Unacked            time.Duration // age of the oldest unacknowledged byte, to FIN_WAIT1, LAST_ACK or CLOSE
	UnackedRetrans     bool          // that byte was sent again, so that its age is not known

	// Lost events.
	Count uint64
	Of    Type

	shutdown bool // a received reset whose socket no longer receives: see Merger
}

// Comm is the name of a process as the kernel keeps it: up to 15 bytes chosen
// by the process itself, ended by NUL. Escape it before showing it.
type Comm [16]byte

// Bytes returns the name without the NUL; empty when unknown. It shares c's
// memory.
func (c *Comm) Bytes() []byte {
	for i, b := range c {
		if b == 0 {
			return c[:i]
		}
	}
	return c[:]
}

func (c Comm) String() string { return string(c.Bytes()) }

// Has reports whether all fields of f are known.
func (e *Event) Has(f Fields) bool { return e.Known&f == f }

// Failed reports whether e is a change of state that ended a connection without
// success: to CLOSE with an error or from SYN_SENT, or by its process while a
// byte that had been sent again was not acknowledged, or one had not been for
// twice the SRTT, or for 50 ms if that is longer or the SRTT unknown.
func (e *Event) Failed() bool {
	if e.Type != StateChange {
		return false
	}
	switch e.NewState {
	case Close:
		if e.Error != 0 || e.OldState == SynSent {
			return true
		}
	case FinWait1, LastAck:
	default:
		return false
	}
	return e.UnackedRetrans || e.Has(HasUnacked) && e.Unacked >= max(2*e.SRTT, 50*time.Millisecond)
}

// Summary is what a finished stream says last. The JSON names are those in a
// recording.
type Summary struct {
	Events   uint64 `json:"events"`   // shown
	Filtered uint64 `json:"filtered"` // seen in the kernel and rejected by a filter
	Merged   uint64 `json:"merged"`   // folded into another event
	Lost     uint64 `json:"lost"`     // not delivered: the ring buffer was full
	// Partial says that Filtered and Merged are not known of all: a recording was
	// not finished, or only a part of it was read.
	Partial bool          `json:"partial,omitempty"`
	Damaged bool          `json:"damaged,omitempty"` // not all of a recording could be read
	ByKind  []KindCount   `json:"by_kind"`
	Elapsed time.Duration `json:"elapsed_ns"`
	Skipped uint64        `json:"skipped"` // runs of programs that the kernel left out: one was in the middle of another event on that CPU
	// SkippedCounting is how many of these were of programs whose events the
	// kernel counts, too: as many, or what they sent, are missing in the audit.
	SkippedCounting uint64 `json:"skipped_counting"`
	// Audit is nil if none was made. It leaves out most of the namespaces in
	// which nothing happened; Checked counts all of which a counter was compared.
	Audit   []Audit `json:"audit"`
	Checked int     `json:"audited_netns"`
	// Counters are others that rose meanwhile: they tell of what has no event.
	Counters []Counter `json:"counters,omitempty"`
}

// Counter is by how much one of the kernel's counters rose in one network
// namespace.
type Counter struct {
	NetNS   uint32 `json:"netns,omitempty"` // inode number; 0 unknown
	Counter string `json:"counter"`         // the kernel's name, such as ListenOverflows
	Rise    uint64 `json:"rise"`
}

// Audit sets one of the kernel's counters in one network namespace beside what
// was seen of it before any filter. Events that come while the counters are
// read make a bracket: the kernel's count must lie in [Traced, Traced+Bracket].
type Audit struct {
	NetNS   uint32  `json:"netns"`   // inode number; 0: of several that have no counts of their own
	Counter string  `json:"counter"` // the kernel's name, such as RetransSegs
	Kernel  uint64  `json:"kernel"`  // by how much it rose; means nothing if Unchecked
	Traced  uint64  `json:"traced"`
	Bracket uint64  `json:"bracket"`
	Verdict Verdict `json:"verdict"`
	Note    string  `json:"note,omitempty"` // of an Unchecked one: why, such as "gone"
}

// Verdict is what an [Audit] comes to.
type Verdict uint8

// The verdicts.
const (
	Exact     Verdict = iota + 1 // the counts are equal, and the bracket has no width
	Within                       // the kernel's count lies in a bracket that has a width
	Missing                      // the kernel counted more
	Extra                        // the kernel counted less
	Unchecked                    // the kernel's count is unknown
)

// Judge returns the verdict on known counts.
func Judge(kernel, traced, bracket uint64) Verdict {
	switch {
	case kernel < traced:
		return Extra
	case kernel-traced > bracket:
		return Missing
	case bracket > 0:
		return Within
	}
	return Exact
}

// KindCount counts the shown events of one kind. State changes have no kind
// and are counted under the name "state".
type KindCount struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// Settings are a network namespace's sysctls at a moment.
type Settings struct {
	NetNS  uint32 // inode number
	Time   int64  // wall clock, ns since the Unix epoch
	Boot   uint64 // CLOCK_BOOTTIME, ns
	Values []Setting
}

// Setting is a sysctl, such as net.ipv4.tcp_retries2, with its value as
// sysctl(8) prints it.
type Setting struct{ Name, Value string }
