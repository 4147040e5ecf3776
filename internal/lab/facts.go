// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// A Family says which addresses and sockets a scenario uses.
type Family int

// Families. Mapped is IPv4 on the wire between AF_INET6 sockets. Dual is an AF_INET client of an AF_INET6 listener on
// [::], whose connections have IPv4-mapped addresses.
const (
	V4 Family = iota
	V6
	Mapped
	Dual
)

// String names the family.
func (f Family) String() string { return [...]string{"IPv4", "IPv6", "IPv4-mapped", "dual"}[f] }

// OnWire is 4 or 6.
func (f Family) OnWire() int {
	if f == V6 {
		return 6
	}
	return 4
}

// A Place is where a scenario plays: one namespace or two, and the server's address. Client and server may be the same.
type Place struct {
	Client, Server *Namespace
	Family         Family
	Addr           netip.Addr // the server's address: IPv4 or IPv6
	Dev            string     // the client's interface and its number
	Index          int32
}

// Loopback is a place on the namespace's loopback interface. The server's address belongs to this namespace alone
// (127.64.0.0/10 or a private IPv6 address), so that events can be told apart by it.
func (n *Namespace) Loopback(f Family) (Place, error) {
	p := Place{Client: n, Server: n, Family: f, Addr: n.own4(), Dev: "lo", Index: 1}
	if f != V4 && !n.v6 {
		return p, errors.New("this kernel has no IPv6")
	}
	if f == V6 {
		p.Addr = n.own6()
	}
	return p, nil
}

// target is the address that clients connect to.
func (p Place) target() netip.Addr {
	if p.Family == Mapped {
		return netip.AddrFrom16(p.Addr.As16())
	}
	return p.Addr
}

// bind is the address that servers listen on.
func (p Place) bind() netip.Addr {
	if p.Family == Dual {
		return netip.IPv6Unspecified()
	}
	return p.target()
}

// with changes settings at both ends; restore puts them back.
func (p Place) with(settings ...string) (restore func() error, err error) {
	client, err := p.Client.With(settings...)
	if err != nil || p.Client == p.Server {
		return client, err
	}
	server, err := p.Server.With(settings...)
	if err != nil {
		return nil, errors.Join(err, client())
	}
	return func() error { return errors.Join(server(), client()) }, nil
}

// Facts are what a scenario did: what a witness must report.
type Facts struct {
	Conns []Conn
	// Listener is the address that was listened on, or tried. The listener's own events have [::] in its place if the
	// family is Dual.
	Listener netip.AddrPort
	// PID is the process that owned all the sockets.
	PID int
	// Events lists the retransmissions and resets, all of them. Events of the same kind at the same end are one entry.
	Events []Event
	// Client and Server are what the counters of the two namespaces gained, equal if they are one.
	Client, Server map[string]uint64
}

// A Conn is a connection, or the attempt at one.
type Conn struct {
	Client, Server End
	// Repeats says that changes from a state to itself may come in between: MPTCP can close a path more than once.
	Repeats bool
}

// An End is one end of a connection.
type End struct {
	// Addr is the end's own address. The server's is known though it may have no socket.
	Addr netip.AddrPort
	// Cookie is the socket's cookie, 0 if the end never had a socket of its own in a process's hands.
	Cookie uint64
	// States is the way the socket went, from its first state to the last, old and new: "CLOSE SYN_SENT CLOSE". Empty:
	// no state change is seen there.
	States string
}

// A Side is an end of a connection.
type Side string

// The sides. A listener acts for a server's end that has no socket yet.
const (
	Client Side = "client"
	Server Side = "server"
)

// An Event is a sort of event that a scenario causes, and how often.
type Event struct {
	// Name is the tracepoint's: tcp_retransmit_skb, tcp_retransmit_synack, tcp_send_reset, tcp_receive_reset; or
	// FirewallReset.
	Name string
	// Kinds are tcptrace's names for it; more than one where the kernel's timing decides.
	Kinds []string
	// Side is the end where it happens.
	Side Side
	// Conn is the index of the connection.
	Conn int
	// Min and Max bound the number of events.
	Min, Max int
	// Segs is the number of segments of all of them together, 0 if it is the number of events.
	Segs int
	// Err is the error with which retransmissions failed, as "EPERM" (6.17 and later; older kernels report none).
	Err string
	// Reason is the kernel's reason for a reset that was sent, without SK_RST_REASON_ (6.10 and later).
	Reason string
	// Merged says that the tracepoint fires though no reset arrived: it belongs to the reset that this end sends at the
	// same moment, and tcptrace reports the two as one.
	Merged bool
	// NoSocket says that kernels up to 6.9 or so do not report it: the reset has no full socket.
	NoSocket bool
}

// Tracepoints, as named in Event.
const (
	Retransmit    = "tcp_retransmit_skb"
	RetransSYNACK = "tcp_retransmit_synack"
	SendReset     = "tcp_send_reset"
	ReceiveReset  = "tcp_receive_reset"
	SetState      = "inet_sock_set_state"
)

// FirewallReset stands for netfilter's functions that send a reset: they have no tracepoint, and no counter counts it.
const FirewallReset = "nf_send_reset"

// String describes the event in a line.
func (e Event) String() string {
	n := fmt.Sprint(e.Min)
	if e.Max != e.Min {
		n = fmt.Sprintf("%d..%d", e.Min, e.Max)
	}
	s := fmt.Sprintf("%s %s %s at the %s", n, e.Name, strings.Join(e.Kinds, "/"), e.Side)
	if e.Reason != "" {
		s += ", " + e.Reason
	}
	return s
}

func newFacts() *Facts { return &Facts{PID: os.Getpid()} }

// Count is the number of events called name that are expected, at least and at most.
func (f *Facts) Count(name string) (least, most int) {
	for _, e := range f.Events {
		if e.Name == name {
			least, most = least+e.Min, most+e.Max
		}
	}
	return least, most
}
