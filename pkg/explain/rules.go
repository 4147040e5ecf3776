// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Outcome says what became of a connection in trouble. The zero value is
// unknown.
type Outcome string

// The outcomes.
const (
	Recovered Outcome = "recovered" // it went on
	Failed    Outcome = "failed"    // it came to nothing, or was broken
	Pending   Outcome = "pending"   // it had not ended with the events
)

// Certainty says how much a finding takes on trust.
type Certainty string

// The certainties.
const (
	Certain  Certainty = "certain"  // the events say so, and can't mean anything else
	Likely   Certainty = "likely"   // they are what it looks like; something rarer looks alike
	Possible Certainty = "possible" // they fit; what would decide is not to be seen from here
)

// verdict is what a rule makes of a story.
type verdict struct {
	rule      *rule
	outcome   Outcome
	certainty Certainty
	cause     string // in this connection's numbers
	missing   string // evidence that is not there; empty: none
}

// rule makes a finding of a story, or nothing.
type rule struct {
	id       string
	title    string   // in a phrase
	over     []string // findings of the same connection that it explains, too
	echoes   []string // findings of the other end, on this host, that explain this one
	settings []string // sysctls that decide, without net.ipv4.tcp_
	judge    func(*Engine, *story) *verdict
	advice   func(*Finding) []string
	weight   int // how much one connection counts in the order of findings
}

// rules are in the order in which they are asked, the more specific first. A
// finding is left out if one before it on the same connection explains it.
// docs/findings.md has a page for each.
var rules = []*rule{
	{
		id: "send-failed", title: "this host could not send", weight: 5, judge: sendFailed, advice: adviseSendFailed,
		over: []string{"connect-timeout", "nat-reuse", "syn-ack-unanswered", "stalled", "user-timeout", "orphan-fin", "rto-floor", "loss"},
	},
	{
		id: "ports-exhausted", title: "no local port left to connect from", weight: 5, judge: portsExhausted, advice: advisePorts,
		over:     []string{"connect-timeout"},
		settings: []string{"ip_local_port_range", "tcp_tw_reuse", "tcp_tw_reuse_delay", "tcp_timestamps", "tcp_fin_timeout"},
	},
	{
		id: "timewait-collision", title: "a port was used again while the server remembered its last connection (TIME_WAIT)", weight: 4,
		judge: timeWaitCollision, advice: adviseTimeWait, over: []string{"connect-timeout", "nat-reuse", "reset-by-peer"},
		settings: []string{"tcp_timestamps", "tcp_tw_reuse", "ip_local_port_range", "tcp_rfc1337"},
	},
	{
		id: "rejected-by-firewall", title: "this host's firewall rejected packets with a reset", weight: 4, judge: rejected, advice: adviseRejected,
		over: []string{"refused", "unknown-connection", "reset-by-peer", "connect-timeout"},
	},
	{
		id: "accept-queue-full", title: "a listener's accept queue is full: the application accepts too slowly", weight: 6, judge: queueFull, advice: adviseQueue,
		over:     []string{"syn-ack-unanswered", "reset-by-peer", "stalled"},
		settings: []string{"net.core.somaxconn", "tcp_max_syn_backlog", "tcp_abort_on_overflow", "tcp_synack_retries", "tcp_syncookies"},
	},
	{
		id: "refused", title: "nothing listens on the port", weight: 3, judge: refused, advice: adviseRefused,
		over: []string{"connect-timeout", "reset-by-peer"}, echoes: []string{"refused", "rejected-by-firewall", "unknown-connection"},
	},
	{
		id: "nat-reuse", title: "SYNs unanswered by a destination that answers others of this host", weight: 5, judge: natReuse, advice: adviseNAT,
		over: []string{"connect-timeout"}, echoes: []string{"syn-ack-unanswered", "accept-queue-full"},
		settings: []string{"tcp_syn_retries", "tcp_syn_linear_timeouts", "tcp_timestamps"},
	},
	{
		id: "connect-timeout", title: "nobody answered a SYN in time", weight: 5, judge: connectTimeout, advice: adviseConnect,
		echoes:   []string{"syn-ack-unanswered", "accept-queue-full"},
		settings: []string{"tcp_syn_retries", "tcp_syn_linear_timeouts"},
	},
	{
		id: "syn-ack-unanswered", title: "nobody answered a SYN-ACK in time", weight: 3, judge: synackUnanswered, advice: adviseSYNACK,
		settings: []string{"tcp_synack_retries"},
	},
	{
		id: "read-timeout-too-short", title: "the application gave up before TCP could repair a loss", weight: 5, judge: readTimeout, advice: adviseReadTimeout,
		echoes: []string{"accept-queue-full"},
		over:   []string{"orphan-fin", "rto-floor", "reordering", "loss", "closed-with-unread-data", "linger-reset", "data-after-close", "unknown-connection", "reset-by-peer"},
	},
	{
		id: "user-timeout", title: "TCP_USER_TIMEOUT ended a connection that met silence", weight: 5, judge: userTimeout, advice: adviseUserTimeout,
		over: []string{"stalled", "rto-floor", "loss"}, echoes: []string{"accept-queue-full"},
	},
	{
		id: "keepalive-timeout", title: "keepalive probes went unanswered", weight: 4, judge: byKind(events.KindKeepalive, Certain), advice: adviseKeepalive,
		over: []string{"stalled", "reset-by-peer"}, settings: []string{"tcp_keepalive_time", "tcp_keepalive_intvl", "tcp_keepalive_probes"},
	},
	{
		id: "stalled", title: "established connections met silence", weight: 6, judge: stalled, advice: adviseStalled,
		over: []string{"orphan-fin", "rto-floor", "loss"}, echoes: []string{"accept-queue-full"},
		settings: []string{"tcp_retries2", "tcp_rto_max_ms"},
	},
	{
		id: "orphan-fin", title: "a closed connection's last bytes are not acknowledged (FIN_WAIT1)", weight: 2, judge: orphanFIN, advice: adviseOrphan,
		over: []string{"rto-floor", "loss"}, settings: []string{"tcp_orphan_retries"},
	},
	{
		id: "closed-with-unread-data", title: "an application closed without reading what had come", weight: 3,
		judge: byKind(events.KindUnreadData, Certain), advice: adviseUnread, over: []string{"reset-by-peer"},
	},
	{
		id: "linger-reset", title: "an application closes by reset (SO_LINGER)", weight: 2,
		judge: byKind(events.KindLinger, Certain), advice: adviseLinger, over: []string{"reset-by-peer"},
	},
	{
		id: "data-after-close", title: "data came for a connection that was closed here", weight: 2,
		judge: byKind(events.KindDataAfterClose, Certain, events.KindTimeWait), advice: adviseDataAfterClose, over: []string{"reset-by-peer"},
		settings: []string{"tcp_fin_timeout"},
	},
	{
		id: "aborted", title: "a connection was aborted on this host", weight: 2,
		judge: byKind(events.KindAbort, Certain), advice: adviseAborted, over: []string{"reset-by-peer"},
	},
	{
		id: "unknown-connection", title: "packets came for connections that this host does not have", weight: 3, judge: unknownConnection, advice: adviseUnknown,
		over: []string{"reset-sent", "reset-by-peer"},
	},
	{
		id: "reset-sent", title: "this host reset connections for another reason", weight: 2,
		judge: otherReset, advice: adviseOther, over: []string{"reset-by-peer"},
	},
	{
		id: "reset-by-peer", title: "the peer reset the connection", weight: 4, judge: resetByPeer, advice: advisePeer,
		echoes: []string{
			"timewait-collision", "rejected-by-firewall", "accept-queue-full", "keepalive-timeout", "closed-with-unread-data", "linger-reset",
			"data-after-close", "aborted", "unknown-connection", "reset-sent", "read-timeout-too-short", "user-timeout", "stalled", "send-failed",
		},
	},
	{
		id: "rto-floor", title: "a lost segment cost a time-out far above the round-trip time", weight: 2, judge: rtoFloor, advice: adviseFloor,
		over: []string{"loss"}, echoes: []string{"accept-queue-full"}, settings: []string{"tcp_rto_min_us", "tcp_early_retrans", "tcp_recovery"},
	},
	{
		id: "reordering", title: "segments were sent again that had arrived (reordering)", weight: 1, judge: reordering, advice: adviseReordering,
		over: []string{"loss"}, settings: []string{"tcp_recovery", "tcp_sack"},
	},
	{
		id: "loss", title: "segments were lost on the way", weight: 2, judge: loss, advice: adviseLoss,
		settings: []string{"tcp_sack", "tcp_recovery"},
	},
	{
		id: "closed-with-error", title: "connections ended with an error, and nothing else tells why", weight: 4, judge: closedWithError, advice: adviseError,
		echoes: []string{
			"timewait-collision", "rejected-by-firewall", "accept-queue-full", "keepalive-timeout", "closed-with-unread-data", "linger-reset",
			"data-after-close", "aborted", "unknown-connection", "reset-sent", "read-timeout-too-short", "user-timeout", "stalled", "send-failed",
		},
	},
}

// Findings lists the ids of all findings, in the order in which they suppress
// each other.
func Findings() []string {
	list := make([]string, len(rules))
	for i, r := range rules {
		list[i] = r.id
	}
	return list
}

// judge returns what is found of a story, the most specific first. Of two ends
// on this host the one that caused it has the finding; who is at the other is
// noted there.
func (g *Engine) judge(s *story) []verdict {
	own := g.ask(s)
	other := g.ends[s.ends().mirrored()]
	if other == nil || other == s || !s.meets(other) {
		return own
	}
	brief := g.brief
	g.brief = true
	theirs := g.ask(other)
	g.brief = brief
	return slices.DeleteFunc(own, func(v verdict) bool {
		for _, t := range theirs {
			if slices.Contains(v.rule.echoes, t.rule.id) && !(t.rule == v.rule && !other.reset.sent) {
				g.found.asks(t.rule, s)
				return true
			}
		}
		return false
	})
}

// ask asks the rules about one end alone.
func (g *Engine) ask(s *story) (list []verdict) {
	for _, r := range rules {
		if r.id == "closed-with-error" && len(list) > 0 {
			break
		}
		explained := slices.ContainsFunc(list, func(v verdict) bool { return slices.Contains(v.rule.over, r.id) })
		if explained {
			continue
		}
		if v := r.judge(g, s); v != nil {
			v.rule = r
			if g.lost > 0 && v.missing == "" {
				v.missing = fmt.Sprintf("%s of this time were lost", plural(int(g.lost), "event"))
			}
			list = append(list, *v)
		}
	}
	return list
}

// meets reports whether two stories were told at the same time.
func (s *story) meets(o *story) bool {
	return s.began.boot <= o.last.boot+uint64(together) && o.began.boot <= s.last.boot+uint64(together)
}

// ended reports whether the connection came to nothing, in the eyes of its
// application.
func (s *story) failedClose() bool { return s.closed.boot != 0 && s.err != 0 }

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

// patience is for how long a SYN or a byte may go unacknowledged in any case:
// who gives up sooner had another reason.
const patience = 50 * time.Millisecond

func sendFailed(g *Engine, s *story) *verdict {
	switch waited := time.Duration(s.closed.boot - min(s.opened.boot, s.closed.boot)); {
	case s.failed > 0:
	case s.busy > 0 && s.busy >= s.syn.events+s.rto.events: // no time-out was the path's
		outcome := g.ofConnect(s)
		if s.rto.events > 0 {
			outcome = g.of(s, &s.rto)
		}
		return &verdict{outcome: outcome, certainty: Certain, cause: g.say(
			"what was to be sent again to %s had not left this host the first time (EBUSY, %s): it waits for a neighbour to answer (ARP, neighbour discovery), or in a queue of this host", peer(s.remote), times(int(s.busy)))}
	case s.syn.events == 0 && s.opened.boot != 0 && s.closedFrom == events.SynSent && waited > 3*time.Second/2 && !s.reset.sent && !s.reset.received:
		return &verdict{outcome: Failed, certainty: Likely, cause: g.say(
			"no SYN to %s went again in %s: this host could not send it", peer(s.remote), dur(waited)), missing: "the error, which kernels before 6.17 do not show"}
	default:
		return nil
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
	v := &verdict{
		outcome: Pending, certainty: Certain,
		cause: g.say("%s could not be sent (%s): %s", plural(int(s.failed), "segment"), s.sendErr, what),
	}
	switch {
	case s.failedClose(), s.closed.boot != 0 && s.closedFrom == events.SynSent:
		v.outcome = Failed
	case s.established.boot > s.began.boot, s.closed.boot != 0,
		s.syn.events+s.rto.events > 0 && (s.syn.events == 0 || s.syn.answered(g.now.boot)) && (s.rto.events == 0 || s.rto.answered(g.now.boot)) && g.lost == 0:
		v.outcome = Recovered
	}
	return v
}

func portsExhausted(g *Engine, s *story) *verdict {
	// The kernel picks a port in connect(); no other way leads from SYN_SENT to
	// CLOSE without one.
	if s.closed.boot == 0 || s.closedFrom != events.SynSent || s.local.Port() != 0 || s.err != 0 {
		return nil
	}
	cause := "connect failed (EADDRNOTAVAIL) before a packet was sent: each port it may use is taken for " + peer(s.remote).String()
	var taken []string
	if s.held.open > 0 {
		taken = append(taken, plural(s.held.open, "connection")+" to it")
	}
	if s.held.waiting > 0 {
		taken = append(taken, g.say("%d in TIME_WAIT (closed here in the last 60 s)", s.held.waiting))
	}
	v := &verdict{outcome: Failed, certainty: Certain}
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

func timeWaitCollision(g *Engine, s *story) *verdict {
	if s.reset.badAcks == 0 {
		return nil
	}
	stamps := "no timestamps"
	if s.reset.timestamps {
		stamps = "with timestamps"
	}
	v := &verdict{
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

func rejected(g *Engine, s *story) *verdict {
	if !s.reset.sent || s.reset.kind != events.KindFirewall {
		return nil
	}
	return &verdict{outcome: Failed, certainty: Certain, cause: s.reset.why}
}

func queueFull(g *Engine, s *story) *verdict {
	if s.reset.overflow == 0 && !s.queueFull {
		return nil
	}
	v := &verdict{certainty: Certain}
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
	case g.changes && s.conn>>63 == 0: // no connection came of it, which has the same conn
		return Failed
	case r.givesUp > r.next: // one more would have come
		return Recovered
	}
	return ""
}

func refused(g *Engine, s *story) *verdict {
	switch {
	case s.reset.sent && s.reset.kind == events.KindRefused:
		return &verdict{outcome: Failed, certainty: Certain, cause: g.say("nothing listens on %s", peer(s.local))}
	case s.reset.received && s.reset.gotIn == events.SynSent, s.closedFrom == events.SynSent && s.err == econnrefused:
		how := "with a reset: nothing listens there, or a firewall rejects it"
		if !s.reset.received {
			how = "without a reset (ECONNREFUSED): by ICMP, as firewalls reject"
		}
		return &verdict{outcome: Failed, certainty: Likely, cause: g.say("%s refused the connection %s", peer(s.remote), how)}
	}
	return nil
}

func natReuse(g *Engine, s *story) *verdict {
	if s.nat == nil || s.syn.most < 2 || s.established.boot != 0 || s.err != 0 && s.err != etimedout {
		return nil
	}
	v := &verdict{outcome: g.ofConnect(s), certainty: Possible}
	if v.outcome == Recovered {
		return nil
	}
	v.cause = g.say("%s did not answer %s of %s, and had answered %s", peer(s.remote), plural(int(s.syn.most)+1, "SYN"), s.owner.name(), s.hint())
	if who := g.answered(s); who != nil {
		v.certainty = Likely
		v.cause += g.say(", and answered %s meanwhile", who.owner.name())
		return v
	}
	// The destination may have died since, unless a connection with it is well.
	if other := g.open[s.nat.conn]; other == nil || other.troubled || other.left.boot != 0 || other.closed.boot != 0 {
		return nil
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

func connectTimeout(g *Engine, s *story) *verdict {
	gaveUp := s.closed.boot != 0 && s.closedFrom == events.SynSent && s.err == 0 && s.local.Port() != 0
	if s.syn.events == 0 {
		// Without a time-out: the application gave up in the first second.
		if !gaveUp || s.opened.boot == 0 || s.reset.sent || s.reset.received || s.raced {
			return nil
		}
		waited := time.Duration(s.closed.boot - s.opened.boot)
		if waited < patience {
			return nil
		}
		return &verdict{outcome: Failed, certainty: Likely, cause: g.say(
			"the application gave up %s after its SYN to %s, before the first time-out (1 s) could send it again", dur(waited), peer(s.remote))}
	}
	v := &verdict{outcome: g.ofConnect(s), certainty: Certain}
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

func synackUnanswered(g *Engine, s *story) *verdict {
	if s.synack.events == 0 {
		return nil
	}
	v := &verdict{outcome: g.ofHandshake(s), certainty: Certain}
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

func readTimeout(g *Engine, s *story) *verdict {
	if s.left.boot == 0 || s.reset.received || s.err != 0 && s.err != econnreset || s.rto.runs > 1 || s.rto.most > 1 ||
		s.repairs.events > 0 && s.repairs.first.boot < s.left.boot { // one that writes much may close with losses under way
		return nil
	}
	if s.leftTo == events.Close && !(s.reset.sent && !s.reset.answers) {
		return nil // not this side's doing
	}
	if s.reset.sent && !s.reset.answers && s.reset.kind == events.KindKeepalive {
		return nil
	}
	if s.attached {
		return nil // shutdown(SHUT_WR): it waits for the answer
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
		return &verdict{outcome: Failed, certainty: certainty, cause: g.say(
			"the application closed %s after %s to %s that had not been answered", dur(since), how, peer(s.remote))}
	case s.hasUnacked && s.srtt > 0 && s.unacked >= max(2*s.srtt, patience):
		return &verdict{outcome: Failed, certainty: Likely, cause: g.say(
			"the application closed when its oldest byte to %s had been unacknowledged for %s, at a round-trip time of %s: it was lost, or its acknowledgment late, and the kernel's repair was still to come",
			peer(s.remote), dur(s.unacked), dur(s.srtt))}
	}
	return nil
}

func userTimeout(g *Engine, s *story) *verdict {
	if s.userTimeout == 0 || s.rto.events == 0 || s.closed.boot != 0 && s.err != etimedout {
		return nil
	}
	if s.closed.boot == 0 && g.of(s, &s.rto) == Recovered {
		return nil
	}
	v := &verdict{outcome: g.of(s, &s.rto), certainty: Certain}
	v.cause = g.say("%s was silent, and the application allows that for %s (TCP_USER_TIMEOUT)", peer(s.remote), dur(s.userTimeout))
	if s.closed.boot != 0 {
		v.cause += g.say(": ETIMEDOUT %s after the first unanswered byte", dur(time.Duration(s.closed.boot-min(s.rto.since, s.closed.boot))))
	} else {
		v.cause += g.say("; the kernel gives up about %s after the last time-out", dur(s.rto.givesUp))
	}
	return v
}

// byKind judges a sent reset by its kind.
func byKind(kind events.Kind, certainty Certainty, also ...events.Kind) func(*Engine, *story) *verdict {
	return func(g *Engine, s *story) *verdict {
		if !s.reset.sent || s.reset.kind != kind && !slices.Contains(also, s.reset.kind) || s.reset.flags&events.SYN != 0 {
			return nil // a SYN is none of the connection's
		}
		cause := s.reset.why
		if cause == "" {
			cause = "reset sent"
		}
		if s.reset.state != 0 {
			cause += ", in " + s.reset.state.String()
		}
		return &verdict{outcome: Failed, certainty: certainty, cause: g.say("this side reset the connection with %s: %s", peer(s.remote), cause)}
	}
}

func unknownConnection(g *Engine, s *story) *verdict {
	if !s.reset.sent || s.reset.kind != events.KindOther || s.reset.flags&events.SYN != 0 {
		return nil
	}
	switch s.reset.state {
	case 0, events.Close, events.Listen:
	default:
		return nil
	}
	if s.prior {
		return nil // what was on its way when the connection ended
	}
	return &verdict{outcome: Failed, certainty: Certain, cause: g.say(
		"%s sent to a connection with port %d that does not exist here (any more): this host was restarted, the process gone long ago, or the packet is a stray one", peer(s.remote), s.local.Port())}
}

func otherReset(g *Engine, s *story) *verdict {
	if !s.reset.sent || s.prior {
		return nil
	}
	switch s.reset.kind {
	case events.KindOther, events.KindUnknown:
	case events.KindTimeWait, events.KindDataAfterClose:
		if s.reset.flags&events.SYN == 0 {
			return nil // there is a rule for that
		}
	default:
		return nil
	}
	where := ""
	if s.reset.state != 0 {
		where = " in " + s.reset.state.String()
	}
	return &verdict{outcome: Failed, certainty: Certain, cause: g.say("this side reset the connection with %s%s: %s", peer(s.remote), where, s.reset.why)}
}

func resetByPeer(g *Engine, s *story) *verdict {
	if !s.reset.received || s.reset.gotIn == events.SynSent || s.reset.sent {
		return nil
	}
	v := &verdict{outcome: Failed, certainty: Certain, cause: g.say("%s reset the connection in %s", peer(s.remote), s.reset.gotIn)}
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

func stalled(g *Engine, s *story) *verdict {
	r := &s.rto
	if r.events == 0 {
		return nil
	}
	timedOut := s.failedClose() && s.err == etimedout
	if !timedOut && r.most < 2 || !timedOut && r.most == 2 && s.repairs.events > 0 {
		return nil
	}
	v := &verdict{outcome: g.of(s, r), certainty: Certain}
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

func orphanFIN(g *Engine, s *story) *verdict {
	r := &s.fin
	if r.events == 0 {
		return nil
	}
	v := &verdict{outcome: g.of(s, r), certainty: Certain}
	if v.outcome == Recovered && r.most < 2 {
		return nil // a loss like others
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

func rtoFloor(g *Engine, s *story) *verdict {
	r := &s.rto
	if r.events == 0 || r.most > 1 || s.repairs.events > 0 || s.smallest == 0 || !near(s.remote.Addr()) {
		return nil
	}
	if r.rto < floor || r.rto < 20*s.smallest || s.smallest > 10*time.Millisecond {
		return nil
	}
	each := "after"
	if r.events > 1 {
		each = "the last after"
	}
	return &verdict{outcome: g.of(s, r), certainty: Certain, cause: g.say(
		"%s to %s, %s %s, which is %.0f times the smoothed round-trip time of %s: Linux waits at least 200 ms, however short the path",
		plural(int(r.events), "time-out"), peer(s.remote), each, dur(r.rto), float64(r.rto)/float64(s.smallest), dur(s.smallest))}
}

// near reports whether an address is on a network of one's own.
func near(a netip.Addr) bool { return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() }

func reordering(g *Engine, s *story) *verdict {
	needless := s.dsacks - min(s.dsacksAt0, s.dsacks)
	all := s.repaired()
	if all == 0 || needless == 0 || needless*2 < all {
		return nil
	}
	return &verdict{outcome: Recovered, certainty: Likely, cause: g.say(
		"%s sent again to %s, and %d of them had arrived (DSACK): they, or their acknowledgments, were late rather than lost", plural(int(all), "segment"), peer(s.remote), needless)}
}

// repaired is how many segments were sent again for lack of an acknowledgment.
// One tail loss probe says nothing.
func (s *story) repaired() uint32 {
	n := s.repairs.segs + s.rto.events + s.fin.events
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

func loss(g *Engine, s *story) *verdict {
	n := s.repaired()
	if n == 0 {
		return nil
	}
	v := &verdict{outcome: Recovered, certainty: Certain}
	if s.rto.events > 0 {
		v.outcome = g.of(s, &s.rto)
	}
	if s.failedClose() {
		v.outcome = Failed
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

func closedWithError(g *Engine, s *story) *verdict {
	if !s.failedClose() {
		return nil
	}
	v := &verdict{outcome: Failed, certainty: Certain, cause: g.say("the connection with %s ended in %s with %s", peer(s.remote), s.closedFrom, s.err)}
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

// setting is a sysctl of the connection's namespace, when its trouble began.
func (s *story) setting(name string) (string, bool) {
	if s.settings == nil {
		return "", false
	}
	for _, v := range s.settings.Values {
		if v.Name == name {
			return v.Value, true
		}
	}
	return "", false
}

func (s *story) number(name string) (int, bool) {
	text, ok := s.setting(name)
	n, err := strconv.Atoi(text)
	return n, ok && err == nil
}

// state is the last one.
func (t *timeline) state() events.State {
	if m := t.last(); m != nil {
		return m.state
	}
	return 0
}

// name is who it is, in a few words.
func (o *Owner) name() string {
	text := "a process"
	switch {
	case o.Comm != "" && o.PID != 0:
		text = fmt.Sprintf("%s (%d)", o.Comm, o.PID)
	case o.Comm != "":
		text = o.Comm
	case o.PID != 0:
		text = fmt.Sprintf("process %d", o.PID)
	}
	if where := o.where(); where != "" {
		text += " in " + where
	}
	return text
}

// where is the narrowest name of what it runs in.
func (o *Owner) where() string {
	switch {
	case o.Container != "":
		return "container " + o.Container[:min(12, len(o.Container))]
	case o.Unit != "":
		return o.Unit
	}
	return o.Cgroup
}

// bracketed is an address as ss takes it.
func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// peer is an end as text.
type peer netip.AddrPort

func (p peer) String() string {
	if a := netip.AddrPort(p); a.IsValid() {
		return a.String()
	}
	return "an unknown peer"
}

// say is fmt.Sprintf, unless nobody listens.
func (g *Engine) say(format string, args ...any) string {
	if g.brief {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

func enumerate(words []string) string {
	if n := len(words) - 1; n > 0 {
		return strings.Join(words[:n], ", ") + " and " + words[n]
	}
	return strings.Join(words, "")
}
