// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"strings"
)

// Type says what an event is about.
type Type uint8

// The types of events. The first three are the record types of the BPF side.
const (
	Retransmit Type = iota + 1
	Reset
	StateChange
	Lost
)

var typeNames = [...]string{Retransmit: "retransmit", Reset: "reset", StateChange: "state", Lost: "lost"}

// State is a state of a TCP socket, by the kernel's numbers.
type State uint8

// The states, as include/net/tcp_states.h numbers them. The numbers are part
// of the user API (INET_DIAG) and don't change.
const (
	Established State = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv
	BoundInactive
)

var stateNames = [...]string{
	Established: "ESTABLISHED", SynSent: "SYN_SENT", SynRecv: "SYN_RECV",
	FinWait1: "FIN_WAIT1", FinWait2: "FIN_WAIT2", TimeWait: "TIME_WAIT",
	Close: "CLOSE", CloseWait: "CLOSE_WAIT", LastAck: "LAST_ACK",
	Listen: "LISTEN", Closing: "CLOSING", NewSynRecv: "NEW_SYN_RECV",
	BoundInactive: "BOUND_INACTIVE",
}

// Kind is why a segment was retransmitted, or what made a reset.
type Kind uint8

// Kinds of retransmissions, then kinds of resets. The numbers of this and the
// other types here are in recordings: add at the end, never change one.
const (
	KindUnknown        Kind = iota + 1
	KindSYN                 // the handshake's SYN again
	KindSYNACK              // the handshake's SYN-ACK again
	KindRTO                 // retransmission time-out (RFC 6298)
	KindFast                // fast retransmit (RFC 5681, RFC 6675)
	KindLoss                // ACK-clocked repair after an RTO
	KindTLP                 // tail loss probe (RFC 8985, section 7)
	KindRACK                // RACK reordering timer (RFC 8985, section 6)
	KindProbe               // to a window that the peer shrank to zero
	KindPMTU                // the path's MTU fell
	KindTFO                 // data of a Fast Open SYN that was not accepted
	KindRefused             // no listener
	KindUnreadData          // closed with unread data
	KindLinger              // closed with SO_LINGER 0 or TCP_LINGER2 below 0
	KindTimeWait            // packet for a connection in TIME_WAIT
	KindBadAck              // the SYN was answered by an unacceptable ACK
	KindDataAfterClose      // data for a closed receiver
	KindKeepalive           // keepalive probes went unanswered
	KindOverflow            // accept queue full, tcp_abort_on_overflow
	KindAbort               // aborted by the application or an administrator
	KindFirewall            // made by netfilter
	KindPeer                // received
	KindOther
)

var kindNames = [...]string{
	KindUnknown: "unknown", KindSYN: "syn", KindSYNACK: "synack", KindRTO: "rto",
	KindFast: "fast", KindLoss: "loss", KindTLP: "tlp", KindRACK: "rack",
	KindProbe: "probe", KindPMTU: "pmtu", KindTFO: "tfo",
	KindRefused: "refused", KindUnreadData: "unread_data", KindLinger: "linger",
	KindTimeWait: "time_wait", KindBadAck: "bad_ack",
	KindDataAfterClose: "data_after_close", KindKeepalive: "keepalive",
	KindOverflow: "overflow", KindAbort: "abort", KindFirewall: "firewall",
	KindPeer: "peer", KindOther: "other",
}

// Phase is the part of a connection's life that a retransmission belongs to.
type Phase uint8

// The phases.
const (
	PhaseConnect Phase = iota + 1
	PhaseData
	PhaseClose
)

var phaseNames = [...]string{PhaseConnect: "connect", PhaseData: "data", PhaseClose: "close"}

// CAState is the state of congestion control (enum tcp_ca_state). Its zero is
// a state, so HasCAState tells whether it is known.
type CAState uint8

// The congestion control states.
const (
	CAOpen CAState = iota
	CADisorder
	CACWR
	CARecovery
	CALoss
)

var caNames = [...]string{CAOpen: "Open", CADisorder: "Disorder", CACWR: "CWR", CARecovery: "Recovery", CALoss: "Loss"}

// Direction of a reset, seen from this host.
type Direction uint8

// The directions.
const (
	Sent Direction = iota + 1
	Received
)

var directionNames = [...]string{Sent: "sent", Received: "received"}

var verdictNames = [...]string{
	Exact: "exact", Within: "within", Missing: "missing", Extra: "extra", Unchecked: "unchecked",
}

func name(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return ""
}

// value is the number of the name text, which must not be empty.
func value(what string, names []string, text []byte) (uint8, error) {
	for i, n := range names {
		if n != "" && n == string(text) {
			return uint8(i), nil
		}
	}
	known := make([]string, 0, len(names))
	for _, n := range names {
		if n != "" {
			known = append(known, n)
		}
	}
	return 0, fmt.Errorf("unknown %s %q: it is one of %s", what, text, strings.Join(known, ", "))
}

// String returns the name, "" for a value without one.
func (t Type) String() string { return name(typeNames[:], uint8(t)) }

// MarshalText returns the name.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText accepts the name alone.
func (t *Type) UnmarshalText(b []byte) error {
	v, err := value("event", typeNames[:], b)
	*t = Type(v)
	return err
}

// String returns the kernel's name without TCP_, "" for a number without one.
func (s State) String() string { return name(stateNames[:], uint8(s)) }

// MarshalText returns the name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts the name in either case.
func (s *State) UnmarshalText(b []byte) error {
	v, err := value("state", stateNames[:], []byte(strings.ToUpper(string(b))))
	*s = State(v)
	return err
}

// String returns the name, "" for a value without one.
func (k Kind) String() string { return name(kindNames[:], uint8(k)) }

// MarshalText returns the name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText accepts the name alone.
func (k *Kind) UnmarshalText(b []byte) error {
	v, err := value("kind", kindNames[:], b)
	*k = Kind(v)
	return err
}

// String returns the name, "" for a value without one.
func (p Phase) String() string { return name(phaseNames[:], uint8(p)) }

// MarshalText returns the name.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText accepts the name alone.
func (p *Phase) UnmarshalText(b []byte) error {
	v, err := value("phase", phaseNames[:], b)
	*p = Phase(v)
	return err
}

// String returns the kernel's name without TCP_CA_, "" for a number without one.
func (c CAState) String() string { return name(caNames[:], uint8(c)) }

// MarshalText returns the name.
func (c CAState) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText accepts the name alone.
func (c *CAState) UnmarshalText(b []byte) error {
	v, err := value("ca_state", caNames[:], b)
	*c = CAState(v)
	return err
}

// String returns the name, "" for a value without one.
func (d Direction) String() string { return name(directionNames[:], uint8(d)) }

// MarshalText returns the name.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText accepts the name alone.
func (d *Direction) UnmarshalText(b []byte) error {
	v, err := value("direction", directionNames[:], b)
	*d = Direction(v)
	return err
}

// String returns the name, "" for a value without one.
func (v Verdict) String() string { return name(verdictNames[:], uint8(v)) }

// MarshalText returns the name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText accepts the name alone.
func (v *Verdict) UnmarshalText(b []byte) error {
	n, err := value("verdict", verdictNames[:], b)
	*v = Verdict(n)
	return err
}

// Flags are the flags of a TCP header, low bit FIN (RFC 9293, section 3.1).
type Flags uint16

// The flags that decisions depend on.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

var flagNames = [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE"}

// AppendTo appends the names, low bit first: "PSH|ACK". No flag at all is "none".
func (f Flags) AppendTo(b []byte) []byte {
	start := len(b)
	for i, n := range flagNames {
		if f&(1<<i) == 0 {
			continue
		}
		if len(b) > start {
			b = append(b, '|')
		}
		b = append(b, n...)
	}
	if len(b) == start {
		return append(b, "none"...)
	}
	return b
}

func (f Flags) String() string { return string(f.AppendTo(nil)) }

// MarshalText returns what String returns.
func (f Flags) MarshalText() ([]byte, error) { return f.AppendTo(nil), nil }

// UnmarshalText accepts what MarshalText returns.
func (f *Flags) UnmarshalText(b []byte) error {
	*f = 0
	if string(b) == "none" {
		return nil
	}
next:
	for _, s := range strings.Split(string(b), "|") {
		for i, n := range flagNames {
			if n == s {
				*f |= 1 << i
				continue next
			}
		}
		return fmt.Errorf("unknown TCP flag %q", s)
	}
	return nil
}
