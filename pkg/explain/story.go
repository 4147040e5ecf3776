// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// story is what is known of a connection: the facts that rules ask for, and the
// timeline that shows them.
type story struct {
	life    uint32 // how often this place was another's
	conn    uint64
	cookie  uint64 // if it is another number
	place   stray  // in the strays
	meeting stray  // in the ends, if known
	other   *story // the other end, on this host; it has this one, too
	netns   uint32
	family  uint8
	local   netip.AddrPort
	remote  netip.AddrPort
	owner   Owner

	began, last stamp
	settings    *events.Settings
	line        timeline
	whole       bool      // each event is in line
	before      [6]change // the first changes, while there is no trouble
	changes     int

	calm     bool   // no trouble, and not closed
	troubled bool   // more happened than a connection's life
	ending   bool   // it is over, and waits to be decided
	known    bool   // it is among the ends
	gone     bool   // it is decided, or was forgotten
	found    uint64 // bits of the rules that had something to say, before the other end was asked
	prior    bool   // another had the same ends before: in trouble, or of what may still come after it

	active, passive bool // it connected; it was accepted
	opened          stamp
	established     stamp
	left            stamp // when this side began to close, or was closed, out of an established connection
	leftTo          events.State
	unacked         time.Duration // then: age of the oldest byte not acknowledged
	hasUnacked      bool
	attached        bool // later a process still had the socket
	raced           bool // the process had another connection before it gave up this one
	again           bool // then: that byte had been sent again, and its age is not known
	closed          stamp
	closedFrom      events.State
	err             events.Errno // at the close
	accepted        bool         // reached ESTABLISHED, or was in a state behind it

	syn    series // SYNs sent again
	synack series // SYN-ACKs of a listener, by its timer
	rto    series // time-outs of data, while a process has the socket
	fin    series // time-outs of an orphan

	queueFull        bool // the listener's accept queue, at a SYN-ACK
	queue, queueRoom uint32
	userTimeout      time.Duration

	repairs    repairs
	probed     stamp // last tail loss probe
	probedRTO  time.Duration
	probes     uint32
	srtt       time.Duration
	smallest   time.Duration // the smoothed RTT at its smallest
	segsOut    uint32
	segsBefore uint32 // at the first event that tells
	retrans    uint32
	dsacks     uint32
	dsacksAt0  uint32 // before the first event that shows them; 0: unknown or none
	hasTotals  bool
	gap        uint32

	failed  uint32        // retransmissions that this host could not send
	failure stamp         // the last one of these
	backup  time.Duration // RTO then: after it a time-out comes, unless there is an answer
	sendErr events.Errno
	busy    uint32 // of which the first copy had not left it yet

	reset resets
	held  struct{ open, waiting int } // ports, by other connections to the same destination, when none was left
	nat   *success                    // who had reached the same destination when this one's SYN met silence
}

// series is of time-outs without an answer. A series that starts again counts
// anew; the longest one is kept.
type series struct {
	events  uint32 // of all series
	runs    uint32
	try     uint32 // of the one under way
	most    uint32
	begun   uint32 // try of the first event
	since   uint64 // boot time of the longest's first time-out, less its RTO
	last    stamp  // of the one under way
	next    time.Duration
	givesUp time.Duration
	rto     time.Duration // of the first
	longest time.Duration // RTO
}

func (r *series) see(e *events.Event, at stamp) {
	try := max(e.Attempt, 1)
	if r.events == 0 || try <= r.try {
		r.runs++
		if r.most <= try {
			r.since = at.boot - min(at.boot, uint64(e.RTO))
		}
		r.rto = e.RTO
	}
	if r.events == 0 {
		r.begun = try
	}
	r.events++
	r.try, r.most = try, max(r.most, try)
	r.last, r.next, r.givesUp = at, e.NextRTO, e.GivesUp
	r.longest = max(r.longest, e.RTO)
}

// answered reports whether the time-out that would have followed did not come:
// an answer came. Without events lost, that is.
func (r *series) answered(now uint64) bool {
	return r.events > 0 && r.next > 0 && now > r.last.boot+uint64(r.next+late(r.next))
}

// late is how late a timer may fire, and its event be here.
func late(d time.Duration) time.Duration { return d/8 + 500*time.Millisecond }

// repairs are retransmissions that answer to feedback: what the peer has not
// got, as far as its ACKs tell.
type repairs struct {
	events, segs uint32
	bursts       uint32
	first, last  stamp
}

// resets are those of a connection. Of several of one direction the first
// counts: the others follow from it.
type resets struct {
	sent, received    bool
	kind              events.Kind // of the one sent
	state             events.State
	why, reason       string
	sentAt, gotAt     stamp
	gotIn             events.State
	flags             events.Flags
	answers           bool // it was sent in answer to a packet
	timestamps        bool
	badAcks, overflow uint32
}

// burst is how close to each other repairs belong together.
const burst = 10 * time.Millisecond

// ends is what both ends of a connection on this host have in common: addresses
// and ports, and on loopback, of which each namespace has its own, that.
func (s *story) ends() stray { return endsOf(s.local, s.remote, s.netns) }

func endsOf(local, remote netip.AddrPort, netns uint32) stray {
	k := stray{tuple: tuple{endOf(local.Addr(), local.Port()), endOf(remote.Addr(), remote.Port())}}
	if local.Addr().Unmap().IsLoopback() && remote.Addr().Unmap().IsLoopback() {
		k.netns = netns
	}
	return k
}

// see notes an event.
func (s *story) see(e *events.Event, whole bool) {
	at := stamp{e.Boot, e.Time}
	s.last = at
	s.identify(e)
	s.gap += e.Gap
	switch e.Type {
	case events.Retransmit:
		s.troubled = true
		s.retransmit(e, at)
	case events.Reset:
		s.troubled = true
		s.sawReset(e, at)
	case events.StateChange:
		s.change(e, at)
	}
	switch {
	case s.troubled || whole:
		if s.changes > 0 {
			s.line.begin(s.before[:s.changes])
			s.changes = 0
		}
		s.line.add(e, whole)
	case s.changes < len(s.before): // a life without trouble has no more
		s.before[s.changes] = change{at, e.OldState, e.NewState}
		s.changes++
	}
}

// identify takes the addresses and the owner, as they become known.
func (s *story) identify(e *events.Event) {
	if e.LPort != 0 || !s.local.IsValid() {
		s.local = netip.AddrPortFrom(e.LAddr, e.LPort)
	}
	if e.RPort != 0 {
		s.remote = netip.AddrPortFrom(e.RAddr, e.RPort)
	}
	if e.Family != 0 {
		s.family = e.Family
	}
	if e.NetNS != 0 {
		s.netns = e.NetNS
	}
	s.owner.take(e)
	if s.left.boot != 0 && e.Type == events.Retransmit && e.Has(events.HasOrphan) && !e.Orphan {
		s.attached = true
	}
}

func (s *story) retransmit(e *events.Event, at stamp) {
	switch e.Error {
	case 0, eagain:
	case ebusy:
		s.busy++
	default:
		s.failed++
		s.failure, s.backup, s.sendErr = at, e.RTO, e.Error
	}
	if e.UserTimeout > 0 {
		s.userTimeout = e.UserTimeout
	}
	if e.Has(events.HasSRTT) {
		s.sawRTT(e.SRTT)
	}
	if e.Has(events.HasTotals) {
		s.sawTotals(e)
	}
	switch e.Kind {
	case events.KindSYN:
		s.active = true
		s.syn.see(e, at)
	case events.KindSYNACK:
		s.passive = true
		if e.Has(events.HasAcceptQueue) && e.AcceptQueue > e.AcceptQueueMax { // sk_acceptq_is_full()
			s.queueFull, s.queue, s.queueRoom = true, e.AcceptQueue, e.AcceptQueueMax
		}
		if e.Attempt > 0 {
			s.synack.see(e, at)
		}
	case events.KindRTO:
		if e.Phase == events.PhaseClose && e.Orphan {
			s.fin.see(e, at)
		} else {
			s.rto.see(e, at)
		}
	case events.KindTLP:
		s.probes++
		s.probed, s.probedRTO = at, e.RTO
	case events.KindFast, events.KindLoss, events.KindRACK:
		s.repairs.see(e, at)
	}
	if e.Phase != events.PhaseConnect {
		s.accepted = true
	}
}

func (r *repairs) see(e *events.Event, at stamp) {
	if r.events == 0 {
		r.first = at
	}
	if r.events == 0 || at.boot-r.last.boot > uint64(max(burst, 2*e.SRTT)) {
		r.bursts++
	}
	r.events++
	r.segs += max(e.Segs, 1)
	r.last = at
}

func (s *story) sawRTT(srtt time.Duration) {
	s.srtt = srtt
	if s.smallest == 0 || srtt < s.smallest {
		s.smallest = srtt
	}
}

func (s *story) sawTotals(e *events.Event) {
	if !s.hasTotals {
		s.segsBefore = e.DataSegsOut
		s.dsacksAt0 = e.DSACKDups
		if e.TotalRetrans <= e.Segs { // the first retransmission of its life
			s.dsacksAt0, s.segsBefore = 0, 0
		}
	}
	s.hasTotals = true
	s.segsOut, s.retrans, s.dsacks = e.DataSegsOut, e.TotalRetrans, e.DSACKDups
}

func (s *story) sawReset(e *events.Event, at stamp) {
	r := &s.reset
	if e.Direction == events.Received {
		if !r.received {
			r.received, r.gotAt, r.gotIn = true, at, e.State
		}
		return
	}
	switch e.Kind {
	case events.KindBadAck:
		r.badAcks++
		s.active = true
	case events.KindOverflow:
		r.overflow++
	}
	if r.sent && r.kind != events.KindBadAck {
		return
	}
	r.sent, r.sentAt = true, at
	r.kind, r.state, r.why, r.reason = e.Kind, e.State, e.Why, e.Reason
	r.answers, r.flags, r.timestamps = e.Has(events.HasTrigger), e.TriggerFlags, e.TriggerTimestamps
}

func (s *story) change(e *events.Event, at stamp) {
	if e.Has(events.HasSRTT) {
		s.sawRTT(e.SRTT)
	}
	if e.Has(events.HasTotals) && s.hasTotals {
		s.sawTotals(e)
	}
	switch e.NewState {
	case events.SynSent:
		s.active, s.opened = true, at
	case events.SynRecv:
		s.passive = s.passive || e.OldState == events.Listen
		s.opened = at
	case events.Established:
		s.established, s.accepted = at, true
	}
	if e.OldState == events.SynSent {
		s.active = true
	}
	leaves := e.OldState == events.Established || e.OldState == events.CloseWait || e.OldState == events.SynRecv
	if leaves && e.NewState != events.Established && e.NewState != events.CloseWait && s.left.boot == 0 {
		s.left, s.leftTo = at, e.NewState
		if e.Has(events.HasUnacked) {
			s.unacked, s.hasUnacked = e.Unacked, true
		}
		s.again = e.UnackedRetrans
	}
	if e.NewState == events.Close {
		s.closed, s.closedFrom, s.err = at, e.OldState, e.Error
	}
	if e.Failed() {
		s.troubled = true
	}
}

// over reports whether nothing more is expected of the connection but what
// follows at once.
func (s *story) over() bool {
	return s.closed.boot != 0 || s.conn == 0 || s.reset.sent && s.reset.state != events.SynSent || s.reset.received
}

// refused reports whether it is a connect that a reset has ended.
func (s *story) refused() bool { return s.closedFrom == events.SynSent && s.reset.received }

// refuses reports whether it is the reset of what has no socket here.
func (s *story) refuses() bool { return s.conn == 0 && s.reset.sent }

const (
	eperm        events.Errno = 1
	eagain       events.Errno = 11
	enomem       events.Errno = 12
	ebusy        events.Errno = 16
	enetunreach  events.Errno = 101
	epipe        events.Errno = 32
	econnreset   events.Errno = 104
	enobufs      events.Errno = 105
	etimedout    events.Errno = 110
	econnrefused events.Errno = 111
	ehostunreach events.Errno = 113
)

// Owner is who has a socket. Empty parts are unknown.
type Owner struct {
	PID, UID       uint32
	HasUID         bool
	Comm, User     string
	Cgroup, Unit   string
	Container, Pod string
	NetNS          uint32 // inode number
	NetNSName      string
}

// take completes o by what an event knows.
func (o *Owner) take(e *events.Event) {
	if e.PID != 0 && o.PID == 0 {
		o.PID = e.PID
	}
	if o.Comm == "" && e.Comm[0] != 0 {
		o.Comm = e.Comm.String()
	}
	if !o.HasUID && e.Has(events.HasUID) {
		o.UID, o.HasUID = e.UID, true
	}
	for _, f := range []struct {
		into *string
		of   string
	}{{&o.User, e.User}, {&o.Cgroup, e.Cgroup}, {&o.Unit, e.Unit}, {&o.Container, e.Container}, {&o.Pod, e.Pod}, {&o.NetNSName, e.NetNSName}} {
		if *f.into == "" {
			*f.into = f.of
		}
	}
	if o.NetNS == 0 {
		o.NetNS = e.NetNS
	}
}
