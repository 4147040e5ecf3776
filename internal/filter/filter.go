// SPDX-License-Identifier: Apache-2.0

// Package filter decides which events are shown.
//
// A [Spec] holds what was asked for. [Spec.Match] decides all of it, in this
// process; [Spec.Kernel] is the part that the kernel side can decide before an
// event is made, which accepts too much rather than too little, so that Match
// always has the last word.
package filter

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Spec is what to show. Values of one field are alternatives, different
// fields must all hold, and an empty field asks for nothing. An event that
// lacks a field that is asked for does not match.
type Spec struct {
	Types              []events.Type
	Port, LPort, RPort []PortRange    // either end, local, remote
	Addr, LAddr, RAddr []netip.Prefix // either end, local, remote; IPv4-mapped ones as IPv4
	IPv4, IPv6         bool           // both: either
	States             []events.State // of a state change, the old or the new one
	Kinds              []events.Kind
	Directions         []events.Direction
	PIDs               []uint32 // of the owner, or of any process that shares the socket
	Comms              []string
	UIDs               []uint32
	Cgroups            []string // absolute clean paths: /a covers /a and /a/b, not /ab
	NetNS              []uint32 // inode numbers
	Users, NetNSNames  []string // alternatives to UIDs and NetNS, which the kernel side does not know: for recordings
	Where              string   // an expression, see [Spec.Match]
}

// PortRange is the ports from First to Last.
type PortRange struct{ First, Last uint16 }

// PortSet has one bit for each port: that of port p is bit p%64 of word p/64.
type PortSet [1024]uint64

// Has reports whether p is in the set.
func (s *PortSet) Has(p uint16) bool { return s[p/64]&(1<<(p%64)) != 0 }

func (s *PortSet) add(p uint16) { s[p/64] |= 1 << (p % 64) }

// portSet returns nil for no ranges.
func portSet(ranges []PortRange) *PortSet {
	if len(ranges) == 0 {
		return nil
	}
	s := new(PortSet)
	for _, r := range ranges {
		for p := uint32(r.First); p <= uint32(r.Last); p++ {
			s.add(uint16(p))
		}
	}
	return s
}

// bits is a set of small numbers.
type bits uint64

func bitsOf[T ~uint8](list []T) bits {
	var b bits
	for _, v := range list {
		b |= 1 << v
	}
	return b
}

func (b bits) has(v uint8) bool { return b>>v&1 != 0 }

// matcher is a Spec prepared for many events.
type matcher struct {
	spec                             Spec
	types, states, kinds, directions bits
	port, lport, rport               *PortSet
	where                            *where
}

// Match returns the decision of s on one event. Lost events always match: they
// stand for events that nobody could look at. It fails if s.Where is not a
// valid expression.
//
// The function does not allocate unless there is an expression, and is not
// for concurrent use.
func (s *Spec) Match() (func(*events.Event) bool, error) {
	m := &matcher{
		spec:       *s,
		types:      bitsOf(s.Types),
		states:     bitsOf(s.States),
		kinds:      bitsOf(s.Kinds),
		directions: bitsOf(s.Directions),
		port:       knownPorts(s.Port),
		lport:      knownPorts(s.LPort),
		rport:      knownPorts(s.RPort),
	}
	if s.Where != "" {
		w, err := compile(s.Where)
		if err != nil {
			return nil, err
		}
		m.where = w
	}
	return m.match, nil
}

// knownPorts leaves out port 0, which stands for an unknown one in an event.
func knownPorts(ranges []PortRange) *PortSet {
	s := portSet(ranges)
	if s != nil {
		s[0] &^= 1
	}
	return s
}

// match asks the cheap questions first.
func (m *matcher) match(e *events.Event) bool {
	if e.Type == events.Lost {
		return true
	}
	s := &m.spec
	if m.types != 0 && !m.types.has(uint8(e.Type)) {
		return false
	}
	if (s.IPv4 || s.IPv6) && !(s.IPv4 && e.Family == 4 || s.IPv6 && e.Family == 6) {
		return false
	}
	if m.kinds != 0 && !m.kinds.has(uint8(e.Kind)) {
		return false
	}
	if m.directions != 0 && !m.directions.has(uint8(e.Direction)) {
		return false
	}
	if m.states != 0 && !m.state(e) {
		return false
	}
	if m.port != nil && !m.port.Has(e.LPort) && !m.port.Has(e.RPort) ||
		m.lport != nil && !m.lport.Has(e.LPort) ||
		m.rport != nil && !m.rport.Has(e.RPort) {
		return false
	}
	if len(s.Addr) > 0 && !contains(s.Addr, e.LAddr) && !contains(s.Addr, e.RAddr) ||
		len(s.LAddr) > 0 && !contains(s.LAddr, e.LAddr) ||
		len(s.RAddr) > 0 && !contains(s.RAddr, e.RAddr) {
		return false
	}
	if len(s.NetNS)+len(s.NetNSNames) > 0 && (e.NetNS == 0 || !slices.Contains(s.NetNS, e.NetNS)) && !hasName(s.NetNSNames, e.NetNSName) {
		return false
	}
	if len(s.UIDs)+len(s.Users) > 0 && (!e.Has(events.HasUID) || !slices.Contains(s.UIDs, e.UID)) && !hasName(s.Users, e.User) {
		return false
	}
	if len(s.PIDs) > 0 && !hasPID(s.PIDs, e) {
		return false
	}
	if len(s.Comms) > 0 && !hasComm(s.Comms, &e.Comm) {
		return false
	}
	if len(s.Cgroups) > 0 && !hasCgroup(s.Cgroups, e.Cgroup) {
		return false
	}
	return m.where == nil || m.where.match(e)
}

func (m *matcher) state(e *events.Event) bool {
	if e.Type == events.StateChange {
		return m.states.has(uint8(e.OldState)) || m.states.has(uint8(e.NewState))
	}
	return m.states.has(uint8(e.State))
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// hasPID also looks at the processes that share the socket: it is theirs too.
func hasPID(list []uint32, e *events.Event) bool {
	if e.PID != 0 && slices.Contains(list, e.PID) {
		return true
	}
	for _, pid := range e.Sharers {
		if slices.Contains(list, pid) {
			return true
		}
	}
	return false
}

func hasComm(list []string, c *events.Comm) bool {
	name := c.Bytes()
	if len(name) == 0 {
		return false
	}
	for _, want := range list {
		if string(name) == want {
			return true
		}
	}
	return false
}

func hasName(list []string, name string) bool {
	return name != "" && slices.Contains(list, name)
}

func hasCgroup(list []string, path string) bool {
	if path == "" {
		return false
	}
	for _, want := range list {
		rest, ok := strings.CutPrefix(path, want)
		if ok && (rest == "" || rest[0] == '/' || want == "/") {
			return true
		}
	}
	return false
}
