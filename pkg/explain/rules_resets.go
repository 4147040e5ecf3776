// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Rules about connections that were broken.

// byKind judges a sent reset by its kind.
func byKind(kind events.Kind, certainty Certainty, also ...events.Kind) func(*Engine, *story) verdict {
	return func(g *Engine, s *story) verdict {
		if !s.reset.sent || s.reset.kind != kind && !slices.Contains(also, s.reset.kind) || s.reset.flags&events.SYN != 0 {
			return verdict{} // a SYN is none of the connection's
		}
		cause := s.reset.why
		if cause == "" {
			cause = "reset sent"
		}
		if s.reset.state != 0 {
			cause += ", in " + s.reset.state.String()
		}
		return verdict{outcome: Failed, certainty: certainty, cause: g.say("this side reset the connection with %s: %s", peer(s.remote), cause)}
	}
}

func unknownConnection(g *Engine, s *story) verdict {
	if !s.reset.sent || s.reset.kind != events.KindOther || s.reset.flags&events.SYN != 0 {
		return verdict{}
	}
	switch s.reset.state {
	case 0, events.Close, events.Listen:
	default:
		return verdict{}
	}
	if s.prior {
		return verdict{} // what was on its way when the connection ended
	}
	return verdict{outcome: Failed, certainty: Certain, cause: g.say(
		"%s sent to a connection with port %d that does not exist here (any more): this host was restarted, the process gone long ago, or the packet is a stray one", peer(s.remote), s.local.Port())}
}

func otherReset(g *Engine, s *story) verdict {
	if !s.reset.sent || s.prior {
		return verdict{}
	}
	switch s.reset.kind {
	case events.KindOther, events.KindUnknown:
	case events.KindTimeWait, events.KindDataAfterClose:
		if s.reset.flags&events.SYN == 0 {
			return verdict{} // there is a rule for that
		}
	default:
		return verdict{}
	}
	where := ""
	if s.reset.state != 0 {
		where = " in " + s.reset.state.String()
	}
	return verdict{outcome: Failed, certainty: Certain, cause: g.say("this side reset the connection with %s%s: %s", peer(s.remote), where, s.reset.why)}
}

func resetByPeer(g *Engine, s *story) verdict {
	if !s.reset.received || s.reset.gotIn == events.SynSent || s.reset.sent {
		return verdict{}
	}
	v := verdict{outcome: Failed, certainty: Certain, cause: g.say("%s reset the connection in %s", peer(s.remote), s.reset.gotIn)}
	switch s.reset.gotIn {
	case events.SynRecv, events.NewSynRecv:
		v.cause = g.say("%s gave up its own handshake with port %d", s.remote.Addr(), s.local.Port())
	case events.CloseWait:
		v.cause += ": it had closed its side, and was sent data that it no longer reads"
	case events.FinWait1, events.FinWait2, events.Closing, events.LastAck:
		v.cause += ", while it was being closed"
	}
	if s.rto.events > 0 {
		v.cause += g.say(", after %s without an answer", plural(int(s.rto.most), "time-out"))
	}
	return v
}

func closedWithError(g *Engine, s *story) verdict {
	if !s.failedClose() {
		return verdict{}
	}
	v := verdict{outcome: Failed, certainty: Certain, cause: g.say("the connection with %s ended in %s with %s", peer(s.remote), s.closedFrom, s.err)}
	switch {
	case s.err == etimedout:
		v.cause += ": window probes or keepalive probes went unanswered, of which no event tells"
	case s.err == econnreset || s.err == epipe:
		v.missing = "the reset that ended it"
	case s.closedFrom == events.SynSent:
		v.cause += ": routers say so by ICMP, or this host has no way to there"
	}
	return v
}
