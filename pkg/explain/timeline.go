// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strings"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// What a timeline keeps of a connection with many events: its beginning, and
// its end.
const (
	keptFirst = 8
	keptLast  = 16
)

// timeline is what happened to a connection.
type timeline struct {
	list    []moment
	omitted int // between list[:keptFirst] and the rest
	at      int // where the next of the last ones goes, if some are omitted
}

// moment is an event, or several of the same sort in a row.
type moment struct {
	stamp
	kind      events.Kind
	typ       events.Type
	direction events.Direction
	state     events.State // a reset's: before; else after
	old       events.State
	orphan    bool
	queued    bool
	stamps    bool // timestamps in the packet that a reset answers
	answers   bool
	flags     events.Flags
	err       events.Errno
	attempt   uint32
	bytes     uint32
	segs      uint32
	queue     [2]uint32
	count     uint32 // events
	end       uint64 // boot time of the last
	waited    bool   // for as long as the RTO, since the moment before
	rto, next time.Duration
	givesUp   time.Duration
	unacked   time.Duration
	why       string
	reason    string
}

// change is an ordinary change of state, as long as there is no trouble.
type change struct {
	stamp
	old, new events.State
}

// begin has the changes before the trouble.
func (t *timeline) begin(list []change) {
	for _, c := range list {
		t.list = append(t.list, moment{stamp: c.stamp, end: c.boot, typ: events.StateChange, old: c.old, state: c.new, count: 1})
	}
}

// add appends an event. In a whole timeline each has a moment of its own.
func (t *timeline) add(e *events.Event, whole bool) {
	m := moment{
		stamp: stamp{e.Boot, e.Time}, kind: e.Kind, typ: e.Type, direction: e.Direction, state: e.State, orphan: e.Orphan,
		err: e.Error, attempt: e.Attempt, bytes: e.Len, segs: e.Segs, count: 1, end: e.Boot,
		rto: e.RTO, next: e.NextRTO, givesUp: e.GivesUp, unacked: e.Unacked, why: e.Why, reason: e.Reason,
		queued: e.Has(events.HasAcceptQueue), queue: [2]uint32{e.AcceptQueue, e.AcceptQueueMax},
		answers: e.Has(events.HasTrigger), flags: e.TriggerFlags, stamps: e.TriggerTimestamps,
	}
	if e.Type == events.StateChange {
		m.old, m.state = e.OldState, e.NewState
	}
	last := t.last()
	m.waited = last == nil || m.boot >= last.end+uint64(m.rto)-uint64(m.rto/8)
	if whole {
		if len(t.list) >= maxTimeline {
			t.omitted++
			return
		}
		t.list = append(t.list, m)
		return
	}
	if last != nil && last.absorbs(&m) {
		return
	}
	switch {
	case len(t.list) < keptFirst+keptLast:
		t.list = append(t.list, m)
	default:
		t.list[keptFirst+t.at] = m
		t.at = (t.at + 1) % keptLast
		t.omitted++
	}
}

// last is the moment that was added last.
func (t *timeline) last() *moment {
	n := len(t.list)
	switch {
	case n == 0:
		return nil
	case t.omitted > 0 && n == keptFirst+keptLast:
		return &t.list[keptFirst+(t.at+keptLast-1)%keptLast]
	}
	return &t.list[n-1]
}

// absorbs takes a repair like the one before.
func (m *moment) absorbs(next *moment) bool {
	if m.typ != events.Retransmit || next.typ != events.Retransmit || m.kind != next.kind || m.err != next.err || m.attempt != 0 || next.attempt != 0 {
		return false
	}
	switch m.kind {
	case events.KindFast, events.KindLoss, events.KindRACK:
	default:
		return false
	}
	m.count++
	m.bytes += next.bytes
	m.segs += next.segs
	m.end = next.boot
	return true
}

// each calls f for the moments in their order; where some are left out, it
// calls gap before the next.
func (t *timeline) each(f func(*moment), gap func(n int)) {
	n := len(t.list)
	if t.omitted == 0 || n != keptFirst+keptLast {
		for i := range t.list {
			f(&t.list[i])
		}
		if t.omitted > 0 {
			gap(t.omitted)
		}
		return
	}
	for i := range keptFirst {
		f(&t.list[i])
	}
	gap(t.omitted)
	for i := range keptLast {
		f(&t.list[keptFirst+(t.at+i)%keptLast])
	}
}

// String says in a phrase what happened.
func (m *moment) String() string {
	switch m.typ {
	case events.Retransmit:
		return m.retransmit()
	case events.Reset:
		return m.reset()
	}
	text := m.old.String() + " -> " + m.state.String()
	if m.err != 0 {
		text += ": " + m.err.String()
	}
	if m.unacked > 0 && m.old != events.SynSent {
		text += fmt.Sprintf(", the oldest unacknowledged byte %s old", dur(m.unacked))
	}
	return text
}

func (m *moment) retransmit() string {
	var text string
	again := plural(int(m.segs), "segment")
	if m.bytes > 0 {
		again = plural(int(m.bytes), "byte")
		if m.segs > 1 {
			again += " in " + plural(int(m.segs), "segment")
		}
	}
	switch m.kind {
	case events.KindSYN:
		text = fmt.Sprintf("SYN again (%d)", m.attempt)
		if m.waited {
			text += ", unanswered for " + dur(m.rto)
		}
	case events.KindSYNACK:
		text = "SYN-ACK again, for a SYN that came again"
		if m.attempt > 0 {
			text = fmt.Sprintf("SYN-ACK again (%d), unanswered for %s", m.attempt, dur(m.rto))
		}
	case events.KindRTO:
		text = fmt.Sprintf("time-out %d after %s: %s again", m.attempt, dur(m.rto), again)
	case events.KindFast:
		text = "fast retransmit: " + again
	case events.KindLoss:
		text = "repair after a time-out: " + again
	case events.KindTLP:
		text = "tail loss probe: " + again
	case events.KindRACK:
		text = "repair after reordering was waited for (RACK): " + again
	case events.KindProbe:
		text = "probe of a window that the peer took back: " + again
	case events.KindPMTU:
		text = "again in smaller segments, the path's MTU fell: " + again
	case events.KindTFO:
		text = "data of the SYN again (Fast Open not accepted): " + again
	default:
		text = "retransmission: " + again
	}
	if m.count > 1 {
		text += fmt.Sprintf(", %d times in %s", m.count, dur(time.Duration(m.end-m.boot)))
	}
	if m.queued {
		text += fmt.Sprintf(", accept queue %d of %d", m.queue[0], m.queue[1])
	}
	if m.err != 0 {
		text += ": this host could not send it, " + m.err.String()
	}
	switch {
	case m.givesUp > 0 && m.givesUp <= m.next: // no other comes
		text += "; gives up in " + dur(m.givesUp)
	case m.givesUp > 0:
		text += "; next in " + dur(m.next) + ", gives up in " + dur(m.givesUp)
	case m.next > 0:
		text += "; next in " + dur(m.next)
	}
	return text
}

func (m *moment) reset() string {
	verb := "reset " + m.direction.String()
	if m.state != 0 {
		verb += " in " + m.state.String()
	}
	if m.direction == events.Received {
		return verb
	}
	if m.why != "" {
		verb += ": " + m.why
	}
	if m.answers {
		verb += fmt.Sprintf(" (%s", m.flags)
		if m.flags&events.RST == 0 {
			if m.stamps {
				verb += ", with timestamps"
			} else {
				verb += ", no timestamps"
			}
		}
		verb += ")"
	}
	if m.reason != "" {
		verb += " [" + m.reason + "]"
	}
	return verb
}

// dur writes a duration for people: two or three digits that matter.
func dur(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + dur(-d)
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d)
	case d < time.Millisecond:
		return trim(float64(d)/1e3) + " us"
	case d < time.Second:
		return trim(float64(d)/1e6) + " ms"
	case d < 2*time.Minute:
		return trim(d.Seconds()) + " s"
	}
	d = d.Round(time.Second)
	h, m, s := d/time.Hour, d/time.Minute%60, d/time.Second%60
	switch {
	case h > 0 && m > 0:
		return fmt.Sprintf("%d h %d min", h, m)
	case h > 0:
		return fmt.Sprintf("%d h", h)
	case s > 0 && m < 10:
		return fmt.Sprintf("%d min %d s", m, s)
	}
	return fmt.Sprintf("%d min", m)
}

func trim(v float64) string {
	prec := 2
	switch {
	case v >= 100:
		prec = 0
	case v >= 10:
		prec = 1
	}
	text := fmt.Sprintf("%.*f", prec, v)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
