// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Rules about connecting: what keeps a connection from being made.

// patience is for how long a SYN or a byte may go unacknowledged in any case:
// who gives up sooner had another reason.
const patience = 50 * time.Millisecond

func sendFailed(g *Engine, s *story) verdict {
	switch waited := time.Duration(s.closed.boot - min(s.opened.boot, s.closed.boot)); {
	case s.failed > 0:
	case s.busy > 0 && s.busy >= s.syn.events+s.rto.events: // no time-out was the path's
		outcome := g.ofConnect(s)
		if s.rto.events > 0 {
			outcome = g.of(s, &s.rto)
		}
		return verdict{outcome: outcome, certainty: Certain, cause: g.say(
			"what was to be sent again to %s had not left this host the first time (EBUSY, %s): it waits for a neighbour to answer (ARP, neighbour discovery), or in a queue of this host", peer(s.remote), times(int(s.busy)))}
	case s.syn.events == 0 && s.opened.boot != 0 && s.closedFrom == events.SynSent && waited > 3*time.Second/2 && !s.reset.sent && !s.reset.received:
		return verdict{outcome: Failed, certainty: Likely, cause: g.say(
			"no SYN to %s went again in %s: this host could not send it", peer(s.remote), dur(waited)), missing: "the error, which kernels before 6.17 do not show"}
	default:
		return verdict{}
	}
	var what string
	switch s.sendErr {
	case eperm:
		what = "its own firewall dropped them (output)"
	case ehostunreach:
		what = "it has no route to there any more, or no address to send from"
	case enetunreach:
		what = "it has no route to there"
	case enobufs:
		what = "the queue of its own device was full"
	case enomem:
		what = "it was out of memory"
	default:
		what = "the error was " + s.sendErr.String()
	}
	v := verdict{
		outcome: Pending, certainty: Certain,
		cause: g.say("%s could not be sent (%s): %s", plural(int(s.failed), "segment"), s.sendErr, what),
	}
	switch {
	case s.failedClose(), s.closed.boot != 0 && s.closedFrom == events.SynSent:
		v.outcome = Failed
	case s.established.boot > s.began.boot, s.closed.boot != 0,
		s.syn.events+s.rto.events == 0 && s.backup > 0 && g.lost == 0 && g.now.boot > s.failure.boot+uint64(s.backup+late(s.backup)),
		s.syn.events+s.rto.events > 0 && (s.syn.events == 0 || s.syn.answered(g.now.boot)) && (s.rto.events == 0 || s.rto.answered(g.now.boot)) && g.lost == 0:
		v.outcome = Recovered
	}
	return v
}

func portsExhausted(g *Engine, s *story) verdict {
	// The kernel picks a port in connect(); no other way leads from SYN_SENT to
	// CLOSE without one.
	if s.closed.boot == 0 || s.closedFrom != events.SynSent || s.local.Port() != 0 || s.err != 0 {
		return verdict{}
	}
	cause := "connect failed (EADDRNOTAVAIL) before a packet was sent: each port it may use is taken for " + peer(s.remote).String()
	var taken []string
	if s.held.open > 0 {
		taken = append(taken, plural(s.held.open, "connection")+" to it")
	}
	if s.held.waiting > 0 {
		taken = append(taken, g.say("%d in TIME_WAIT (closed here in the last 60 s)", s.held.waiting))
	}
	v := verdict{outcome: Failed, certainty: Certain}
	if first, last, ok := s.portRange(); ok {
		cause += g.say("; ip_local_port_range has %s", plural(last-first+1, "port"))
	}
	if len(taken) > 0 {
		cause += "; seen to hold ports: " + strings.Join(taken, ", ")
	} else {
		v.missing = "what holds the ports was not seen to begin: ss -tan dst " + bracketed(s.remote.Addr()) + " lists it"
		if !g.changes {
			v.missing = "what holds the ports: the events have no ordinary state changes (record --event retransmit,reset,state)"
		}
	}
	v.cause = cause
	return v
}

func (s *story) portRange() (first, last int, ok bool) {
	text, _ := s.setting("net.ipv4.ip_local_port_range")
	_, err := fmt.Sscan(text, &first, &last)
	return first, last, err == nil && first <= last
}

func timeWaitCollision(g *Engine, s *story) verdict {
	if s.reset.badAcks == 0 {
		return verdict{}
	}
	stamps := "no timestamps"
	if s.reset.timestamps {
		stamps = "with timestamps"
	}
	v := verdict{
		certainty: Likely,
		cause: g.say("%s answered the SYN with an ACK for an older connection of the same ports (%s): it still remembers that one, most often in TIME_WAIT; this host reset it",
			peer(s.remote), stamps),
	}
	switch {
	case s.established.boot != 0:
		v.outcome = Recovered
		v.cause += g.say(", and was let in %s later", dur(time.Duration(s.established.boot-min(s.reset.sentAt.boot, s.established.boot))))
	case s.closed.boot != 0:
		v.outcome = Failed
		v.cause += g.say(", %s, in vain: the server or something before it ignores these resets", times(int(s.reset.badAcks)))
	case s.syn.answered(g.now.boot) && g.lost == 0:
		v.outcome = Recovered
	default:
		v.outcome = Pending
	}
	return v
}

func rejected(g *Engine, s *story) verdict {
	if !s.reset.sent || s.reset.kind != events.KindFirewall {
		return verdict{}
	}
	return verdict{outcome: Failed, certainty: Certain, cause: s.reset.why}
}

func queueFull(g *Engine, s *story) verdict {
	if s.reset.overflow == 0 && !s.queueFull {
		return verdict{}
	}
	v := verdict{certainty: Certain}
	switch {
	case s.reset.overflow > 0:
		v.outcome = Failed
		v.cause = g.say("port %d's accept queue was full when the handshake's last step came, and tcp_abort_on_overflow answers that with a reset", s.local.Port())
	default:
		v.cause = g.say("port %d had %s waiting for accept(), at a limit of %d: the handshake's last step is dropped, and the SYN-ACK goes again (%s)",
			s.local.Port(), plural(int(s.queue), "connection"), s.queueRoom, times(int(s.synack.events)))
		v.outcome = g.ofHandshake(s)
	}
	return v
}

// ofHandshake is the outcome of a handshake that was begun by the peer.
func (g *Engine) ofHandshake(s *story) Outcome {
	r := &s.synack
	switch {
	case s.established.boot != 0, s.accepted:
		return Recovered
	case s.reset.received, s.closed.boot != 0:
		return Failed
	case !r.answered(g.now.boot) || g.lost > 0:
		return Pending
	case g.changes: // no connection came of it
		return Failed
	case r.givesUp > r.next: // one more would have come
		return Recovered
	}
	return ""
}

func refused(g *Engine, s *story) verdict {
	switch {
	case s.reset.sent && s.reset.kind == events.KindRefused:
		return verdict{outcome: Failed, certainty: Certain, cause: g.say("nothing listens on %s", peer(s.local))}
	case s.reset.received && s.reset.gotIn == events.SynSent, s.closedFrom == events.SynSent && s.err == econnrefused:
		how := "with a reset: nothing listens there, or a firewall rejects it"
		if !s.reset.received {
			how = "without a reset (ECONNREFUSED): by ICMP, as firewalls reject"
		}
		return verdict{outcome: Failed, certainty: Likely, cause: g.say("%s refused the connection %s", peer(s.remote), how)}
	}
	return verdict{}
}

func natReuse(g *Engine, s *story) verdict {
	if s.nat == nil || s.syn.most < 2 || s.established.boot != 0 || s.err != 0 && s.err != etimedout {
		return verdict{}
	}
	v := verdict{outcome: g.ofConnect(s), certainty: Possible}
	if v.outcome == Recovered {
		return verdict{}
	}
	v.cause = g.say("%s did not answer %s of %s, and had answered %s", peer(s.remote), plural(int(s.syn.most)+1, "SYN"), s.owner.name(), s.hint())
	if who := g.answered(s); who != nil {
		v.certainty = Likely
		v.cause += g.say(", and answered %s meanwhile", who.owner.name())
		return v
	}
	// The destination may have died since, unless a connection with it is well.
	if other := g.open[s.nat.conn]; other == nil || other.troubled || other.left.boot != 0 || other.closed.boot != 0 {
		return verdict{}
	}
	v.cause += ", whose connection is open and well"
	return v
}

// answered is who else was let in by a connection's destination while that was
// silent.
func (g *Engine) answered(s *story) *success {
	d := g.world.to[endOf(s.remote.Addr(), s.remote.Port())]
	if d == nil {
		return nil
	}
	for i := range d.reached {
		if r := &d.reached[i]; r.boot > s.syn.since && r.boot <= s.last.boot && !r.owner.same(&s.owner) {
			return r
		}
	}
	return nil
}

// hint says who else had reached the destination, and when.
func (s *story) hint() string {
	return fmt.Sprintf("%s %s before", s.nat.owner.name(), dur(time.Duration(s.syn.since-min(s.syn.since, s.nat.boot))))
}

// ofConnect is the outcome of a connect.
func (g *Engine) ofConnect(s *story) Outcome {
	switch {
	case s.established.boot != 0:
		return Recovered
	case s.closed.boot != 0:
		return Failed
	case s.accepted, s.syn.answered(g.now.boot) && g.lost == 0:
		return Recovered
	}
	return Pending
}

func connectTimeout(g *Engine, s *story) verdict {
	gaveUp := s.closed.boot != 0 && s.closedFrom == events.SynSent && s.err == 0 && s.local.Port() != 0
	if s.syn.events == 0 {
		// Without a time-out: the application gave up in the first second.
		if !gaveUp || s.opened.boot == 0 || s.reset.sent || s.reset.received || s.raced {
			return verdict{}
		}
		waited := time.Duration(s.closed.boot - s.opened.boot)
		if waited < patience {
			return verdict{}
		}
		return verdict{outcome: Failed, certainty: Likely, cause: g.say(
			"the application gave up %s after its SYN to %s, before the first time-out (1 s) could send it again", dur(waited), peer(s.remote))}
	}
	v := verdict{outcome: g.ofConnect(s), certainty: Certain}
	v.cause = g.say("%s to %s went unanswered", plural(int(s.syn.most)+1, "SYN"), peer(s.remote))
	if at := s.synTimes(); at != "" {
		v.cause += ", sent at " + at + " s"
	}
	switch {
	case v.outcome == Recovered && s.established.boot != 0:
		v.cause = g.say("%s to %s until one was answered: connecting took %s", plural(int(s.syn.most)+1, "SYN"), peer(s.remote),
			dur(time.Duration(s.established.boot-min(s.syn.since, s.established.boot))))
	case v.outcome == Recovered:
		v.cause = g.say("%s to %s until one was answered", plural(int(s.syn.most)+1, "SYN"), peer(s.remote))
	case gaveUp:
		v.cause += g.say("; the application gave up after %s", dur(time.Duration(s.closed.boot-min(s.syn.since, s.closed.boot))))
	case s.failedClose() && s.err == etimedout:
		v.cause += g.say("; the kernel gave up after %s (ETIMEDOUT)", dur(time.Duration(s.closed.boot-min(s.syn.since, s.closed.boot))))
	case s.failedClose():
		v.cause += "; it ended with " + s.err.String() + ", as routers say by ICMP"
	case v.outcome == Pending:
		if left, ok := s.synsLeft(); ok {
			v.cause += g.say("; %d more are left", left)
		}
		if s.syn.givesUp > 0 {
			v.cause += g.say("; the kernel gives up about %s after the last", dur(s.syn.givesUp))
		}
	}
	if s.nat != nil && v.outcome != Recovered && !g.brief {
		v.cause += "; it had answered " + s.hint()
	}
	return v
}

// synTimes lists when SYNs were sent, the first at 0.
func (s *story) synTimes() string {
	at := []string{"0"}
	whole := s.line.omitted == 0
	s.line.each(func(m *moment) {
		if m.typ == events.Retransmit && m.kind == events.KindSYN && m.boot >= s.syn.since {
			at = append(at, strconv.FormatFloat(time.Duration(m.boot-s.syn.since).Round(10*time.Millisecond).Seconds(), 'f', -1, 64))
		}
	}, func(int) {})
	if !whole || len(at) < 2 {
		return ""
	}
	return enumerate(at)
}

// synsLeft is how many SYNs tcp_syn_retries would still let go.
func (s *story) synsLeft() (int, bool) {
	retries, ok := s.number("net.ipv4.tcp_syn_retries")
	linear, _ := s.number("net.ipv4.tcp_syn_linear_timeouts")
	left := retries + linear - int(s.syn.try)
	return left, ok && left >= 0
}

func synackUnanswered(g *Engine, s *story) verdict {
	if s.synack.events == 0 {
		return verdict{}
	}
	v := verdict{outcome: g.ofHandshake(s), certainty: Certain}
	v.cause = g.say("%s began a handshake with port %d and then answered no SYN-ACK", s.remote.Addr(), s.local.Port())
	switch v.outcome {
	case Recovered:
		v.cause = g.say("the SYN-ACK to %s went %s until it was answered: it was lost, or the answer was", s.remote.Addr(), times(int(s.synack.events)+1))
	case Failed:
		v.cause += g.say(": %d were sent", s.synack.events+1)
	default:
		v.cause += g.say(" so far, of %d", s.synack.events+1)
		if s.synack.givesUp > 0 {
			v.cause += g.say("; given up about %s after the last", dur(s.synack.givesUp))
		}
	}
	if s.synack.begun > 1 {
		v.certainty = Likely
		v.cause += g.say("; or it answered, and has sent no data: the first time-out that sent one again was number %d, as with TCP_DEFER_ACCEPT", s.synack.begun)
	}
	return v
}
