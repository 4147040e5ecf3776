// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Rules about silence and losses of connections that were made.

// of is the outcome of a connection in which a series of time-outs came.
func (g *Engine) of(s *story, r *series) Outcome {
	switch {
	case s.failedClose(), s.reset.sent && s.reset.state != events.SynSent, s.reset.received:
		return Failed
	case s.left.boot >= r.last.boot && s.left.boot != 0 && s.again:
		return Failed // the application had enough of it
	case r.answered(g.now.boot) && g.lost == 0:
		return Recovered
	case s.closed.boot != 0:
		return Recovered // it closed as it should
	}
	return Pending
}

func readTimeout(g *Engine, s *story) verdict {
	if s.left.boot == 0 || s.reset.received || s.err != 0 && s.err != econnreset || s.rto.runs > 1 || s.rto.most > 1 ||
		s.repairs.events > 0 && s.repairs.first.boot < s.left.boot { // one that writes much may close with losses under way
		return verdict{}
	}
	if s.leftTo == events.Close && !(s.reset.sent && !s.reset.answers) {
		return verdict{} // not this side's doing
	}
	if s.reset.sent && !s.reset.answers && s.reset.kind == events.KindKeepalive {
		return verdict{}
	}
	if s.attached {
		return verdict{} // shutdown(SHUT_WR): it waits for the answer
	}
	var tried stamp // the kernel's own attempt, without an answer
	var how string
	switch {
	case s.rto.events > 0 && s.rto.last.boot < s.left.boot && s.left.boot < s.rto.last.boot+uint64(s.rto.next):
		tried, how = s.rto.last, "the first time-out"
	case s.probes > 0 && s.probed.boot < s.left.boot && s.left.boot < s.probed.boot+uint64(s.probedRTO):
		tried, how = s.probed, "a tail loss probe"
	}
	since := time.Duration(s.left.boot - tried.boot)
	switch {
	case how != "" && (s.again || s.hasUnacked && s.unacked >= since):
		certainty := Certain
		if s.rto.events == 0 {
			certainty = Likely // a probe may be needless
		}
		return verdict{outcome: Failed, certainty: certainty, cause: g.say(
			"the application closed %s after %s to %s that had not been answered", dur(since), how, peer(s.remote))}
	case s.hasUnacked && s.srtt > 0 && s.unacked >= max(2*s.srtt, patience):
		return verdict{outcome: Failed, certainty: Likely, cause: g.say(
			"the application closed when its oldest byte to %s had been unacknowledged for %s, at a round-trip time of %s: it was lost, or its acknowledgment late, and the kernel's repair was still to come",
			peer(s.remote), dur(s.unacked), dur(s.srtt))}
	}
	return verdict{}
}

func userTimeout(g *Engine, s *story) verdict {
	if s.userTimeout == 0 || s.rto.events == 0 || s.closed.boot != 0 && s.err != etimedout {
		return verdict{}
	}
	if s.closed.boot == 0 && g.of(s, &s.rto) == Recovered {
		return verdict{}
	}
	v := verdict{outcome: g.of(s, &s.rto), certainty: Certain}
	v.cause = g.say("%s was silent, and the application allows that for %s (TCP_USER_TIMEOUT)", peer(s.remote), dur(s.userTimeout))
	if s.closed.boot != 0 {
		v.cause += g.say(": ETIMEDOUT %s after the first unanswered byte", dur(time.Duration(s.closed.boot-min(s.rto.since, s.closed.boot))))
	} else {
		v.cause += g.say("; the kernel gives up about %s after the last time-out", dur(s.rto.givesUp))
	}
	return v
}

func stalled(g *Engine, s *story) verdict {
	r := &s.rto
	if r.events == 0 {
		return verdict{}
	}
	timedOut := s.failedClose() && s.err == etimedout
	if !timedOut && r.most < 2 || !timedOut && r.most == 2 && s.repairs.events > 0 {
		return verdict{}
	}
	v := verdict{outcome: g.of(s, r), certainty: Certain}
	silent := time.Duration(r.last.boot - min(r.since, r.last.boot))
	v.cause = g.say("%s was silent through %s, the RTO growing from %s to %s", peer(s.remote), plural(int(r.most), "time-out"), dur(r.rto), dur(r.longest))
	switch {
	case timedOut:
		v.cause += g.say("; the kernel gave up after %s, the application saw ETIMEDOUT", dur(time.Duration(s.closed.boot-min(r.since, s.closed.boot))))
	case v.outcome == Pending:
		v.cause += g.say("; silent for %s at the last, the kernel gives up about %s after it", dur(silent), dur(r.givesUp))
	case v.outcome == Failed && s.err != 0:
		v.cause += "; it ended with " + s.err.String()
	case v.outcome == Failed:
		v.cause += "; the application closed it"
	case v.outcome == Recovered:
		v.cause += g.say("; it went on after %s", dur(silent))
	}
	return v
}

func orphanFIN(g *Engine, s *story) verdict {
	r := &s.fin
	if r.events == 0 {
		return verdict{}
	}
	v := verdict{outcome: g.of(s, r), certainty: Certain}
	if v.outcome == Recovered && r.most < 2 {
		return verdict{} // a loss like others
	}
	v.cause = g.say("the application had closed, and %s did not acknowledge the rest: %s", peer(s.remote), plural(int(r.most), "time-out"))
	switch {
	case v.outcome == Pending:
		v.cause += g.say("; it stays in %s about %s after the last", s.line.state(), dur(r.givesUp))
	case s.failedClose():
		v.cause += g.say("; given up after %s", dur(time.Duration(s.closed.boot-min(r.since, s.closed.boot))))
	}
	return v
}

// floor is TCP_RTO_MIN. Where a time-out came sooner, somebody has lowered it.
const floor = 200 * time.Millisecond

func rtoFloor(g *Engine, s *story) verdict {
	r := &s.rto
	if r.events == 0 || r.most > 1 || s.repairs.events > 0 || s.smallest == 0 || !near(s.remote.Addr()) {
		return verdict{}
	}
	if r.rto < floor || r.rto < 20*s.smallest || s.smallest > 10*time.Millisecond {
		return verdict{}
	}
	each := "after"
	if r.events > 1 {
		each = "the last after"
	}
	return verdict{outcome: g.of(s, r), certainty: Certain, cause: g.say(
		"%s to %s, %s %s, which is %.0f times the smoothed round-trip time of %s: Linux waits at least 200 ms, however short the path",
		plural(int(r.events), "time-out"), peer(s.remote), each, dur(r.rto), float64(r.rto)/float64(s.smallest), dur(s.smallest))}
}

// near reports whether an address is on a network of one's own.
func near(a netip.Addr) bool { return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() }

func reordering(g *Engine, s *story) verdict {
	needless := s.dsacks - min(s.dsacksAt0, s.dsacks)
	all := s.repaired()
	if all == 0 || needless == 0 || needless*2 < all {
		return verdict{}
	}
	return verdict{outcome: Recovered, certainty: Likely, cause: g.say(
		"%s sent again to %s, and %d of them had arrived (DSACK): they, or their acknowledgments, were late rather than lost", plural(int(all), "segment"), peer(s.remote), needless)}
}

// repaired is how many segments were sent again for lack of an acknowledgment.
// One tail loss probe says nothing, and neither does one time-out of a FIN: the
// kernel drops it now and then when it comes while the other end's socket turns
// into one in TIME_WAIT.
func (s *story) repaired() uint32 {
	n := s.repairs.segs + s.rto.events
	if n > 0 || s.fin.events > 1 {
		n += s.fin.events
	}
	if n > 0 {
		n += s.probes
	}
	return n
}

// sent is how many segments with data went out from the first event that told
// of their number; 0: unknown.
func (s *story) sent() uint32 { return s.segsOut - s.segsBefore }

// share is n of all in percent, with two digits that matter.
func share[T uint32 | uint64](n, of T) string {
	p := 100 * float64(n) / float64(of)
	if p >= 10 {
		return fmt.Sprintf("%.0f%%", p)
	}
	return fmt.Sprintf("%.2g%%", p)
}

func loss(g *Engine, s *story) verdict {
	n := s.repaired()
	if n == 0 {
		return verdict{}
	}
	v := verdict{outcome: Recovered, certainty: Certain}
	switch {
	case s.failedClose():
		v.outcome = Failed
	case s.closed.boot == 0 && s.rto.events > 0:
		v.outcome = g.of(s, &s.rto)
	}
	v.cause = g.say("%s sent again to %s", plural(int(n), "segment"), peer(s.remote))
	if sent := s.sent(); sent > n {
		v.cause += g.say(" of %d sent meanwhile (%s)", sent, share(n, sent))
	}
	switch long := time.Duration(s.repairs.last.boot - s.repairs.first.boot); {
	case s.repairs.bursts == 1 && s.repairs.segs > 1 && long < time.Second:
		v.cause += g.say(", in one burst of %s", dur(long))
	case s.repairs.bursts > 0 && long > 0:
		v.cause += g.say(", at %s over %s", plural(int(s.repairs.bursts), "time"), dur(long))
	}
	if needless := s.dsacks - min(s.dsacksAt0, s.dsacks); needless > 0 {
		v.cause += g.say("; %d had arrived (DSACK)", needless)
	}
	if s.gap > 0 {
		v.missing = g.say("%s sent again that no event showed", plural(int(s.gap), "segment"))
	}
	return v
}
