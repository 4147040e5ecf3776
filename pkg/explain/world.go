// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// world is what this host has to do with the destinations of its connections.
type world struct {
	to    map[end]*destination
	swept uint64
	full  bool              // some destinations found no room
	last  map[uint32]uint64 // when a process was connected last, boot time
}

const (
	maxDestinations = 1 << 14
	// timeWait is TCP_TIMEWAIT_LEN: how long the kernel keeps a port after a
	// connection that it closed first. What happened to a destination longer
	// ago has nothing to do with a connection of now.
	timeWait = 60 * time.Second
	seconds  = uint64(timeWait / time.Second)
)

// destination is an address and a port that this host connects to.
type destination struct {
	seen uint64
	// The last two owners that reached it, the latest first.
	reached [2]success
	open    int             // connections now, of those whose beginning was seen
	closed  [seconds]uint32 // first by this host, by the second, modulo
	second  uint64          // the last one of these
}

// success is a connection that was established.
type success struct {
	stamp
	owner Owner
	conn  uint64
}

func newWorld() world { return world{to: map[end]*destination{}, last: map[uint32]uint64{}} }

// see notes what an event tells of its destination, before the story does.
func (w *world) see(e *events.Event, s *story) {
	switch {
	case e.Type == events.Retransmit && e.Kind == events.KindSYN:
		if d := w.to[endOf(e.RAddr, e.RPort)]; d != nil && s.nat == nil {
			s.nat = d.other(e)
		}
	case e.Type != events.StateChange:
	case e.OldState == events.SynSent && e.NewState == events.Established:
		if len(w.last) >= maxDestinations {
			clear(w.last)
		}
		w.last[e.PID] = e.Boot
		d := w.destination(e)
		if d == nil {
			return
		}
		now := success{stamp: stamp{e.Boot, e.Time}, conn: e.Conn}
		now.owner.take(e)
		if !now.owner.same(&d.reached[0].owner) {
			d.reached[1] = d.reached[0]
		}
		d.reached[0] = now
		d.open++
	case e.NewState == events.Close:
		w.closed(e, s)
		// Who tries several addresses at once gives up the slower ones.
		s.raced = e.OldState == events.SynSent && e.PID != 0 && s.opened.boot != 0 && w.last[e.PID] >= s.opened.boot
		if d := w.to[endOf(e.RAddr, e.RPort)]; d != nil && e.OldState == events.SynSent && e.LPort == 0 {
			s.held.open, s.held.waiting = d.open, d.waiting(e.Boot)
		}
	}
}

// closed notes the end of a connection. The kernel keeps its port if this host
// closed first.
func (w *world) closed(e *events.Event, s *story) {
	d := w.to[endOf(e.RAddr, e.RPort)]
	if d == nil {
		if e.OldState != events.FinWait2 && e.OldState != events.Closing || s != nil && s.passive {
			return
		}
		if d = w.destination(e); d == nil {
			return
		}
	}
	if s != nil && s.active && s.established.boot != 0 {
		d.open = max(0, d.open-1)
	}
	if e.OldState == events.FinWait2 || e.OldState == events.Closing {
		d.turn(e.Boot)
		d.closed[e.Boot/1e9%seconds]++
	}
}

// turn clears the seconds that are past.
func (d *destination) turn(boot uint64) {
	now := boot / 1e9
	for i := d.second + 1; i <= now && i <= d.second+seconds; i++ {
		d.closed[i%seconds] = 0
	}
	d.second = max(d.second, now)
	d.seen = boot
}

// waiting is how many connections to it this host has closed first in the last
// 60 seconds.
func (d *destination) waiting(boot uint64) (n int) {
	d.turn(boot)
	for _, c := range d.closed {
		n += int(c)
	}
	return n
}

func (w *world) destination(e *events.Event) *destination {
	to := endOf(e.RAddr, e.RPort)
	d := w.to[to]
	if d == nil {
		if len(w.to) >= maxDestinations {
			w.full = true
			return nil
		}
		d = &destination{}
		w.to[to] = d
	}
	d.seen = e.Boot
	return d
}

// other is who else reached the destination in the time before e, whose SYN met
// silence.
func (d *destination) other(e *events.Event) *success {
	var own Owner
	own.take(e)
	for i := range d.reached {
		r := &d.reached[i]
		if r.boot != 0 && e.Boot-min(r.boot, e.Boot) < uint64(timeWait) && !r.owner.same(&own) {
			found := *r
			return &found
		}
	}
	return nil
}

// age forgets destinations that nothing was heard of for long.
func (w *world) age(now uint64) {
	if now < w.swept+uint64(timeWait) {
		return
	}
	w.swept = now
	for to, d := range w.to {
		if d.open == 0 && now > d.seen+uint64(timeWait) {
			delete(w.to, to)
		}
	}
}

// same reports whether two owners are one process, or may be. What is unknown
// differs from nothing.
func (o *Owner) same(p *Owner) bool {
	switch {
	case o.Container != p.Container && o.Container != "" && p.Container != "",
		o.Cgroup != p.Cgroup && o.Cgroup != "" && p.Cgroup != "",
		o.NetNS != p.NetNS && o.NetNS != 0 && p.NetNS != 0:
		return false
	}
	return o.PID == p.PID || o.PID == 0 || p.PID == 0
}
