// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

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

// verdict is what a rule makes of a story; without a certainty, nothing.
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
	settings []string // sysctls that decide, without net.ipv4.
	counters []string // the kernel's, that count the same
	judge    func(*Engine, *story) verdict
	advice   func(*Finding) []string
	weight   int  // how much one connection counts in the order of findings
	alone    bool // only where nothing else is found

	// The place in rules as a bit, and over and echoes as such bits.
	bit, overs, echoed uint64
}

// rules are in the order in which they are asked, the more specific first. A
// finding is left out if one before it on the same connection explains it.
// docs/findings.md has a page for each.
var rules = linked([]*rule{
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
		settings: []string{"tcp_timestamps", "tcp_tw_reuse", "ip_local_port_range"},
	},
	{
		id: "rejected-by-firewall", title: "this host's firewall rejected packets with a reset", weight: 4, judge: rejected, advice: adviseRejected,
		over: []string{"refused", "unknown-connection", "reset-by-peer", "connect-timeout"},
	},
	{
		id: "accept-queue-full", title: "a listener's accept queue is full: the application accepts too slowly", weight: 6, judge: queueFull, advice: adviseQueue,
		over:     []string{"syn-ack-unanswered", "reset-by-peer", "stalled"},
		settings: []string{"net.core.somaxconn", "tcp_max_syn_backlog", "tcp_abort_on_overflow", "tcp_synack_retries", "tcp_syncookies"},
		counters: []string{"ListenOverflows"},
	},
	{
		id: "refused", title: "nothing listens on the port", weight: 3, judge: refused, advice: adviseRefused,
		over: []string{"connect-timeout", "reset-by-peer"}, echoes: []string{"refused", "rejected-by-firewall", "unknown-connection", "reset-sent"},
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
		id: "closed-with-error", title: "connections ended with an error, and nothing else tells why", weight: 4, alone: true, judge: closedWithError, advice: adviseError,
		echoes: []string{
			"timewait-collision", "rejected-by-firewall", "accept-queue-full", "keepalive-timeout", "closed-with-unread-data", "linger-reset",
			"data-after-close", "aborted", "unknown-connection", "reset-sent", "read-timeout-too-short", "user-timeout", "stalled", "send-failed",
		},
	},
})

func linked(list []*rule) []*rule {
	for i, r := range list {
		r.bit = 1 << i
		for j, other := range list {
			if slices.Contains(r.over, other.id) {
				r.overs |= 1 << j
			}
			if slices.Contains(r.echoes, other.id) {
				r.echoed |= 1 << j
			}
		}
	}
	return list
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

// judge returns what is found of a story, the most specific first, until it is
// called again. Of two ends on this host the one that caused it has the finding;
// who is at the other is noted there.
func (g *Engine) judge(s *story) []verdict {
	g.judged[0] = g.ask(s, g.judged[0][:0])
	own := g.judged[0]
	s.found = bits(own)
	other := s.other
	if other == nil || !s.meets(other) {
		return own
	}
	theirs := other.found
	if !other.gone || g.o.Only != nil { // it was not asked yet, or is not to be explained
		brief := g.brief
		g.brief = true
		g.judged[1] = g.ask(other, g.judged[1][:0])
		g.brief = brief
		theirs = bits(g.judged[1])
	}
	return slices.DeleteFunc(own, func(v verdict) bool {
		echoes := theirs & v.rule.echoed
		if !other.reset.sent {
			echoes &^= v.rule.bit
		}
		for _, r := range rules {
			if echoes&r.bit != 0 {
				g.found.asks(r, s)
				return true
			}
		}
		return false
	})
}

// bits are the rules that have something to say.
func bits(list []verdict) (all uint64) {
	for i := range list {
		all |= list[i].rule.bit
	}
	return all
}

// ask asks the rules about one end alone, and appends what they say.
func (g *Engine) ask(s *story, list []verdict) []verdict {
	explained := uint64(0)
	for _, r := range rules {
		if explained&r.bit != 0 || r.alone && len(list) > 0 {
			continue
		}
		if v := r.judge(g, s); v.certainty != "" {
			v.rule = r
			explained |= r.overs
			if g.lost > 0 && v.missing == "" {
				v.missing = fmt.Sprintf("%s of this time were lost", plural(int(g.lost), "event"))
			}
			list = append(list, v)
		}
	}
	return list
}

// meets reports whether two stories were told at the same time.
func (s *story) meets(o *story) bool {
	return s.began.boot <= o.last.boot+uint64(together) && o.began.boot <= s.last.boot+uint64(together)
}

// failedClose reports whether the connection came to nothing, in the eyes of its
// application.
func (s *story) failedClose() bool { return s.closed.boot != 0 && s.err != 0 }

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
