// SPDX-License-Identifier: Apache-2.0

// Package explain makes findings of events: what broke each connection, why,
// and what to do.
//
// An [Engine] follows connections by their id. Of those in trouble it keeps the
// story, of the others next to nothing. The rules that make findings of stories
// are in rules.go, in the order in which they suppress each other; each has its
// page in docs/findings.md.
//
// It is pure: it asks neither the kernel nor the clock, so that a recording is
// explained the same way on any machine.
package explain

import (
	"cmp"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Options of [New].
type Options struct {
	// Settings gives the sysctls of a namespace at the event that was added
	// last; nil if they are not known. It may be nil itself.
	Settings func(netns uint32) *events.Settings

	// Only, if it is not nil, chooses the connections that are explained. Their
	// timelines are whole, up to maxTimeline.
	Only func(*Connection) bool

	// May, if it is not nil, reports whether an event may be of a connection
	// that Only chooses, so that the timelines of others are kept short. With
	// Only and without it each may.
	May func(*events.Event) bool
}

const (
	// maxQuiet bounds the connections without trouble whose beginning is
	// remembered; the oldest are forgotten.
	maxQuiet = 1 << 14
	// maxRecent bounds those without trouble that closed last: a reset may follow.
	maxRecent = 1 << 12
	// maxListed bounds the connections of a report. Those beyond are in the
	// findings' numbers alone.
	maxListed = 20_000
	// maxTimeline bounds the entries of a whole timeline.
	maxTimeline = 100_000
	// grace is how long the story of a connection that is over is kept open:
	// the reset of a closed socket comes after the close, and the other end may
	// be on this host.
	grace = time.Second
	// maxEnding bounds those that are kept open for that; in a storm it is less.
	maxEnding = 1 << 14
	// maxLeft bounds the connections that ended well, or were given up before they
	// began, of which it is known that packets may still come.
	maxLeft = 1 << 14
	// together is how far apart the stories of two ends of a connection may be,
	// and how long packets may be on their way.
	together = 5 * time.Second
	// maxNets bounds the namespaces whose settings are remembered.
	maxNets = 1 << 10
	// settingsAge is how long settings are taken for those of now.
	settingsAge = time.Minute
)

// Engine makes a [Report] of events. It is for one goroutine.
type Engine struct {
	o Options

	open   map[uint64]*story // not over, and those that were until a moment ago, by conn
	lives  map[uint64]uint64 // the last conn of a cookie, where they differ
	stray  map[stray]*story  // those without a conn
	quiet  queue             // of those that were without trouble, for forgetting the oldest
	calm   int               // how many of these still are, and have not closed
	recent queue             // of those that closed without trouble
	ended  queue             // of those with trouble that are over, by the time they ended
	ends   map[stray]*story  // the last one in trouble of each
	left   *left             // what ended without trouble, or before it began
	world  world
	found  findings
	brief  bool         // verdicts need no words
	spare  []*story     // nobody has them any more
	judged [2][]verdict // of the last story, and of its other end

	settings map[uint32]*known

	started, now stamp
	events, lost uint64
	changes      bool // ordinary state changes are among the events
}

// stamp is a moment, by both clocks.
type stamp struct {
	boot uint64 // CLOCK_BOOTTIME, ns
	time int64  // wall clock, ns since the Unix epoch
}

// stray tells those apart that have no conn: resets without a socket.
type stray struct {
	tuple
	netns uint32
}

// tuple is both ends, without a pointer.
type tuple struct{ local, remote end }

type end struct {
	addr [16]byte
	port uint16
}

func endOf(a netip.Addr, port uint16) end { return end{a.As16(), port} }

// mirrored is the other end's.
func (k stray) mirrored() stray { return stray{tuple{k.remote, k.local}, k.netns} }

// known is the settings of a namespace.
type known struct {
	asked uint64 // boot time
	*events.Settings
}

// New returns an engine that has seen nothing.
func New(o Options) *Engine {
	return &Engine{
		o: o, open: map[uint64]*story{}, lives: map[uint64]uint64{}, stray: map[stray]*story{}, ends: map[stray]*story{}, left: new(left), settings: map[uint32]*known{},
		world: newWorld(), found: newFindings(),
	}
}

// Add takes the next event. It keeps nothing that e refers to but strings.
func (g *Engine) Add(e *events.Event) {
	if e.Type == events.Lost {
		g.lost += e.Count
		return
	}
	g.events++
	if g.now.boot > e.Boot+uint64(time.Minute) {
		g.restart()
	}
	g.now = stamp{e.Boot, e.Time}
	if g.started.boot == 0 {
		g.started = g.now
	}
	g.retire(e.Boot)
	if e.Type == events.StateChange {
		g.changes = g.changes || !e.Failed()
		if e.OldState == events.Listen && e.NewState == events.Close || e.NewState == events.Listen {
			return // a listener is no connection
		}
	}

	s := g.story(e)
	if s == nil {
		if e.Type == events.StateChange && e.NewState == events.Close && !e.Failed() {
			g.world.closed(e, nil)
			if orderly(e.OldState) {
				g.left.add(endsOf(netip.AddrPortFrom(e.LAddr, e.LPort), netip.AddrPortFrom(e.RAddr, e.RPort), e.NetNS), e.Boot+uint64(together))
			}
			return // the end of one that was never in trouble
		}
		s = g.begin(e)
	}
	g.world.see(e, s)
	s.whole = s.whole || g.o.Only != nil && (g.o.May == nil || g.o.May(e))
	s.see(e, s.whole)
	if e.OldState == events.SynRecv && e.NewState == events.Established {
		// Where the kernel has no cookies, a connection's conn is not that of
		// the handshake it came of.
		if r := g.ends[s.ends()]; r != nil && r.synack.events > 0 {
			r.accepted = true
		}
	}
	if s.troubled && s.settings == nil {
		s.settings = g.settingsOf(e)
	}
	if s.calm && (s.troubled || s.closed.boot != 0) {
		s.calm = false
		g.calm--
	}
	switch {
	case s.troubled && !s.ending && s.over():
		s.ending = true
		g.ended.push(s, e.Boot)
	case !s.troubled && s.closed.boot != 0:
		if orderly(s.closedFrom) {
			g.left.add(s.ends(), e.Boot+uint64(together))
		}
		g.recent.push(s, 0)
		g.forget()
	}
	if !s.known && s.troubled {
		g.know(s)
	}
	if s.refused() && s.other != nil && s.other.refuses() { // nothing more comes of either
		g.decide(s.other)
		g.decide(s)
	}
}

// know finds the other end of a story that is in trouble.
func (g *Engine) know(s *story) {
	s.known, s.meeting = true, s.ends()
	if before := g.ends[s.meeting]; before != nil && s.began.boot < before.last.boot+uint64(timeWait) {
		s.prior = true
	}
	g.ends[s.meeting] = s
	o := g.ends[s.meeting.mirrored()]
	if o == nil || o == s {
		return
	}
	if was := o.other; was != nil {
		if !was.gone && was.meets(o) {
			return // they have found each other
		}
		was.other = nil
		if was.gone {
			g.free(was)
		}
	}
	s.other, o.other = o, s
}

func strayOf(e *events.Event) stray {
	return stray{tuple{endOf(e.LAddr, e.LPort), endOf(e.RAddr, e.RPort)}, e.NetNS}
}

// story is that of e's connection; nil if there is none yet.
func (g *Engine) story(e *events.Event) *story {
	if e.Conn != 0 {
		s := g.open[e.Conn]
		if s == nil && e.Type == events.Reset && e.State == events.TimeWait {
			s = g.open[g.lives[e.Conn]] // what is left of a socket has its cookie alone
		}
		return s
	}
	s := g.stray[strayOf(e)]
	if s != nil && s.reset.sent && e.Kind == events.KindRefused {
		return nil // a new attempt, by the same port
	}
	return s
}

func (g *Engine) begin(e *events.Event) *story {
	s := g.fresh()
	s.conn, s.began, s.netns, s.calm = e.Conn, g.now, e.NetNS, true
	if e.Conn != 0 {
		g.open[e.Conn] = s
		if e.Cookie != 0 && e.Cookie != e.Conn {
			g.lives[e.Cookie] = e.Conn
			s.cookie = e.Cookie
		}
	} else {
		s.place = strayOf(e)
		g.stray[s.place] = s
	}
	g.calm++
	g.quiet.push(s, 0)
	g.forget()
	return s
}

// maxSpare bounds the stories that wait to be told anew.
const maxSpare = 1 << 14

// fresh is a story that is empty.
func (g *Engine) fresh() *story {
	n := len(g.spare) - 1
	if n < 0 {
		return &story{}
	}
	s := g.spare[n]
	g.spare = g.spare[:n]
	return s
}

// free takes back a story that is gone. Queues may still have it, and know by
// its life that it is another.
func (g *Engine) free(s *story) {
	if s.known && g.ends[s.meeting] == s {
		delete(g.ends, s.meeting)
	}
	if len(g.spare) < maxSpare {
		clear(s.line.list)
		*s = story{life: s.life + 1, line: timeline{list: s.line.list[:0]}}
		g.spare = append(g.spare, s)
	}
}

// forget drops the oldest connections without trouble.
func (g *Engine) forget() {
	for g.calm > maxQuiet {
		if s := g.quiet.pop(); s != nil && s.calm {
			s.calm = false
			g.calm--
			if !s.whole {
				g.drop(s)
				g.free(s)
			}
		}
	}
	if g.quiet.len() > 2*maxQuiet {
		g.quiet.keep(func(s *story) bool { return s.calm })
	}
	for g.recent.len() > maxRecent {
		if s := g.recent.pop(); s != nil && !s.troubled && !s.whole {
			g.drop(s)
			g.free(s)
		}
	}
}

// drop forgets a connection.
func (g *Engine) drop(s *story) {
	if s.conn == 0 && g.stray[s.place] == s {
		delete(g.stray, s.place)
	} else if g.open[s.conn] == s {
		delete(g.open, s.conn)
	}
	if s.cookie != 0 && g.lives[s.cookie] == s.conn {
		delete(g.lives, s.cookie)
	}
	s.gone = true
}

// retire makes findings of the stories that ended some time before.
func (g *Engine) retire(now uint64) {
	for g.ended.len() > 0 {
		if now < g.ended.first()+uint64(grace) && g.ended.len() <= maxEnding {
			return
		}
		if s := g.ended.pop(); s != nil {
			g.decide(s)
		}
	}
	g.world.age(now)
}

// restart begins anew with events of another boot, or of another host, where the
// same ids are of other connections.
func (g *Engine) restart() {
	g.decideAll()
	g.open, g.stray, g.ends, g.settings = map[uint64]*story{}, map[stray]*story{}, map[stray]*story{}, map[uint32]*known{}
	g.left = new(left)
	g.lives = map[uint64]uint64{}
	g.quiet, g.recent, g.ended, g.calm = queue{}, queue{}, queue{}, 0
	g.world = newWorld()
}

// decideAll ends all stories.
func (g *Engine) decideAll() {
	for g.ended.len() > 0 {
		if s := g.ended.pop(); s != nil {
			g.decide(s)
		}
	}
	rest := slices.AppendSeq(slices.Collect(maps.Values(g.open)), maps.Values(g.stray))
	slices.SortFunc(rest, func(a, b *story) int { return cmp.Compare(a.began.boot, b.began.boot) })
	for _, s := range rest {
		g.decide(s)
	}
}

// decide ends a story.
func (g *Engine) decide(s *story) {
	if s.gone {
		return
	}
	g.drop(s)
	if g.wanted(s) {
		// Asked now: the kernel lets go of a socket before it shows that. A SYN
		// is none of the connection's before.
		s.prior = s.prior || s.conn == 0 && s.reset.flags&(events.SYN|events.ACK) != events.SYN && g.left.has(s.ends(), s.began.boot)
		g.found.add(g, s, g.judge(s))
		if s.closedFrom == events.SynSent && s.local.Port() != 0 {
			g.left.add(s.ends(), s.closed.boot+uint64(timeWait))
		}
	}
	// The other end may still need to see it: it goes when that has no use for
	// it either.
	o := s.other
	if o != nil && !o.gone {
		return
	}
	g.free(s)
	if o != nil {
		g.free(o)
	}
}

// wanted reports whether a story is to be explained.
func (g *Engine) wanted(s *story) bool {
	if !s.troubled && g.o.Only == nil || len(s.line.list) == 0 {
		return false
	}
	if g.o.Only == nil {
		return true
	}
	c := g.connection(s)
	return g.o.Only(&c)
}

// orderly reports whether a connection that closed in that state had both FINs.
func orderly(s events.State) bool {
	return s == events.LastAck || s == events.FinWait2 || s == events.Closing
}

// left is until when packets may come for connections that ended: what was on its
// way, or a late answer. By their ends; a later one may take another's place.
type left [maxLeft]struct {
	ends  stray
	until uint64 // boot time; 0: none
}

func (l *left) index(k *stray) uint32 {
	h := uint64(k.local.port)<<16 | uint64(k.remote.port)
	for _, e := range []*end{&k.local, &k.remote} {
		h = (h ^ binary.LittleEndian.Uint64(e.addr[8:])) * 0x9e3779b97f4a7c15
	}
	return uint32(h>>32) % maxLeft
}

func (l *left) add(k stray, until uint64) {
	place := &l[l.index(&k)]
	place.ends, place.until = k, until
}

// has reports whether a packet may still come for a connection with these ends.
func (l *left) has(k stray, boot uint64) bool {
	place := &l[l.index(&k)]
	return boot < place.until && place.ends == k
}

// settingsOf asks for the settings of e's namespace, but not too often.
func (g *Engine) settingsOf(e *events.Event) *events.Settings {
	if g.o.Settings == nil || e.NetNS == 0 {
		return nil
	}
	k := g.settings[e.NetNS]
	if k == nil || e.Boot > k.asked+uint64(settingsAge) {
		if len(g.settings) >= maxNets {
			clear(g.settings) // namespaces come and go
		}
		k = &known{e.Boot, g.o.Settings(e.NetNS)}
		g.settings[e.NetNS] = k
	}
	return k.Settings
}

// queue is of stories, first in, first out.
type queue struct {
	list []queued
	head int
}

type queued struct {
	s    *story
	life uint32 // of the story
	at   uint64
}

// story is nil if the story is another's by now.
func (q *queued) story() *story {
	if q.s.life != q.life {
		return nil
	}
	return q.s
}

func (q *queue) len() int { return len(q.list) - q.head }

func (q *queue) push(s *story, at uint64) {
	if q.head > 1024 && q.head > len(q.list)/2 {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	q.list = append(q.list, queued{s, s.life, at})
}

// keep drops the others.
func (q *queue) keep(want func(*story) bool) {
	q.list = slices.DeleteFunc(q.list[q.head:], func(e queued) bool { s := e.story(); return s == nil || !want(s) })
	q.head = 0
}

// first is when the first one was pushed for.
func (q *queue) first() uint64 { return q.list[q.head].at }

// pop returns the first one; nil if it is gone.
func (q *queue) pop() *story {
	e := q.list[q.head]
	q.list[q.head] = queued{}
	q.head++
	return e.story()
}
