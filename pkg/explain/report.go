// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Report is what an [Engine] has found.
type Report struct {
	Start, End   time.Time
	Events, Lost uint64
	Troubled     int             // connections
	Outcomes     map[Outcome]int // of these
	Findings     []*Finding
	Connections  []Connection
	Unlisted     int      // connections in trouble that are in the findings' numbers alone
	Notes        []string // evidence that all of it lacks
}

// Finding is what went wrong with some connections in the same way.
type Finding struct {
	ID, Title   string
	Outcome     Outcome // the worst
	Outcomes    map[Outcome]int
	Certainty   Certainty // the weakest
	Count       int       // connections
	First, Last time.Time // when these were in trouble
	Peers       []Peer    // those with most connections
	MorePeers   int
	Owners      []Tally
	MoreOwners  int
	Cause       string // of one of them, in its numbers
	Evidence    []Evidence
	Counters    []events.Counter // that rose in these connections' namespaces: see [Report.Count]
	Settings    []events.Setting
	Missing     []string
	Advice      []string

	rule   *rule
	known  *events.Settings // that were looked at last
	crowd  string
	peers  map[Peer]int
	rates  map[Peer][2]uint64 // segments sent again, and all
	owners map[Owner]int
}

// Peer is the other end, or of what is asked for here the port on this host.
type Peer struct {
	Addr  netip.Addr // invalid: unknown
	Port  uint16     // 0: any
	Local uint16     // port on this host that it asked for; 0: this host asked
	Count int
	Again uint64 // of loss and reordering: segments sent again for lack of an acknowledgment
	Sent  uint64 // and all with data meanwhile; 0: unknown
}

// Tally is how many connections an owner has among those of a finding.
type Tally struct {
	Owner
	Count int
}

// Evidence is an event that a finding rests on.
type Evidence struct {
	Time time.Time
	Conn uint64
	Text string
}

// Connection is the story of one.
type Connection struct {
	Conn          uint64
	NetNS         uint32
	Family        uint8
	Local, Remote netip.AddrPort
	Owner         Owner
	First, Last   time.Time
	Outcome       Outcome
	Findings      []Story
	Timeline      []Moment
	Settings      []events.Setting
}

// Story is a finding as it shows in one connection.
type Story struct {
	ID        string
	Outcome   Outcome
	Certainty Certainty
	Cause     string
	Missing   string
}

// Moment is an entry of a timeline.
type Moment struct {
	Time    time.Time
	Offset  time.Duration // since the first
	Text    string
	Omitted int // events are left out here; then the rest is empty
}

const (
	maxPeers    = 5
	maxOwners   = 5
	maxEvidence = 3
	maxTallied  = 1 << 14 // peers and owners of a finding that are told apart
)

// findings gathers what was decided.
type findings struct {
	by       map[*rule]*Finding
	asked    map[*rule]map[Owner]int // owners at other ends, of findings there
	list     []Connection
	troubled int
	outcomes map[Outcome]int
	unlisted int
}

func newFindings() findings {
	return findings{by: map[*rule]*Finding{}, asked: map[*rule]map[Owner]int{}, outcomes: map[Outcome]int{}}
}

// asks notes whose connection it was that the other end had a finding about.
func (f *findings) asks(r *rule, s *story) {
	if f.asked[r] == nil {
		f.asked[r] = map[Owner]int{}
	}
	tally(f.asked[r], s.owner)
}

func tally[K comparable](m map[K]int, k K) {
	if _, known := m[k]; known || len(m) < maxTallied {
		m[k]++
	}
}

// add takes what was found of a story.
func (f *findings) add(g *Engine, s *story, list []verdict) {
	if len(list) == 0 && g.o.Only == nil {
		return // repeated segments that mean nothing
	}
	f.troubled += min(len(list), 1)
	outcome := Recovered
	if len(list) == 0 {
		outcome = ""
	}
	for i := range list {
		if worse(list[i].outcome) > worse(outcome) {
			outcome = list[i].outcome
		}
	}
	if len(list) > 0 {
		f.outcomes[outcome]++
	}
	if g.brief && slices.ContainsFunc(list, func(v verdict) bool { return f.finding(v.rule).wants(&v) }) {
		g.brief = false
		list = g.judge(s) // it is to be the example
		g.brief = true
	}
	for i := range list {
		f.finding(list[i].rule).add(s, &list[i])
	}
	if len(f.list) >= maxListed {
		f.unlisted++
		return
	}
	c := g.connection(s)
	c.Outcome = outcome
	for _, v := range list {
		c.Findings = append(c.Findings, Story{v.rule.id, v.outcome, v.certainty, v.cause, v.missing})
	}
	f.list = append(f.list, c)
	g.brief = len(f.list) >= maxListed
}

func (f *findings) finding(r *rule) *Finding {
	if f.by[r] == nil {
		f.by[r] = &Finding{
			ID: r.id, Title: r.title, rule: r, Outcomes: map[Outcome]int{},
			peers: map[Peer]int{}, rates: map[Peer][2]uint64{}, owners: map[Owner]int{},
		}
	}
	return f.by[r]
}

// worse orders outcomes and certainties.
func worse(o Outcome) int { return slices.Index([]Outcome{Recovered, "", Pending, Failed}, o) }

func weaker(c Certainty) int { return slices.Index([]Certainty{Certain, Likely, Possible}, c) }

// wants reports whether a verdict is the one to tell in full.
func (f *Finding) wants(v *verdict) bool { return f.Count == 0 || worse(v.outcome) > worse(f.Outcome) }

func (f *Finding) add(s *story, v *verdict) {
	first, last := s.first(), time.Unix(0, s.last.time)
	if f.wants(v) {
		f.Outcome, f.Cause = v.outcome, v.cause
		f.Evidence = s.evidence()
	}
	if f.Count == 0 || weaker(v.certainty) > weaker(f.Certainty) {
		f.Certainty = v.certainty
	}
	f.Count++
	f.Outcomes[v.outcome]++
	if f.First.IsZero() || first.Before(f.First) {
		f.First = first
	}
	if last.After(f.Last) {
		f.Last = last
	}
	p := s.peer()
	tally(f.peers, p)
	if f.ID == "loss" || f.ID == "reordering" {
		rate := f.rates[p]
		rate[0] += uint64(s.repaired())
		rate[1] += uint64(s.sent())
		if _, known := f.peers[p]; known {
			f.rates[p] = rate
		}
	}
	tally(f.owners, s.owner)
	if v.missing != "" && !slices.Contains(f.Missing, v.missing) && len(f.Missing) < maxEvidence {
		f.Missing = append(f.Missing, v.missing)
	}
	if s.settings == nil || s.settings == f.known {
		return
	}
	f.known = s.settings
	for _, name := range f.rule.settings {
		if !strings.HasPrefix(name, "net.") {
			name = "net.ipv4." + name
		}
		value, ok := s.setting(name)
		if !ok {
			continue
		}
		value = strings.Join(strings.Fields(value), " ")
		i := slices.IndexFunc(f.Settings, func(have events.Setting) bool { return have.Name == name })
		switch {
		case i < 0:
			f.Settings = append(f.Settings, events.Setting{Name: name, Value: value})
		case !slices.Contains(strings.Split(f.Settings[i].Value, " or "), value) && len(f.Settings[i].Value) < 100:
			f.Settings[i].Value += " or " + value
		}
	}
}

// setting is the value of a sysctl, if all connections' namespaces have the
// same; else empty.
func (f *Finding) setting(name string) string {
	for _, v := range f.Settings {
		if v.Name == name && !strings.Contains(v.Value, " or ") {
			return v.Value
		}
	}
	return ""
}

// is says which value a setting has, if that is known.
func (f *Finding) is(name string) string {
	if v := f.setting(name); v != "" {
		return ", now " + v
	}
	return ""
}

func (f *Finding) orDefault(name, known, unknown string) string {
	if v := f.setting(name); v != "" {
		return fmt.Sprintf(known, v)
	}
	return unknown
}

func (f *Finding) failed() int { return f.Outcomes[Failed] }

// first is when the trouble began.
func (s *story) first() time.Time {
	m := &s.line.list[0]
	for i := range s.line.list {
		if s.line.list[i].typ != events.StateChange {
			m = &s.line.list[i]
			break
		}
	}
	return time.Unix(0, m.time)
}

// peer is whom a story is about: where this host connected to, or who asked.
func (s *story) peer() Peer {
	inbound := s.passive
	if !s.active && !s.passive {
		// Not seen: the end with a port for servers is one.
		const ephemeral = 32768
		inbound = s.local.Port() < ephemeral && s.remote.Port() >= ephemeral
	}
	if s.reset.sent && s.reset.kind == events.KindRefused {
		inbound = true
	}
	if inbound {
		return Peer{Addr: s.remote.Addr(), Local: s.local.Port()}
	}
	return Peer{Addr: s.remote.Addr(), Port: s.remote.Port()}
}

// evidence is what shows a story best: the last events that are no ordinary
// state changes, and the close.
func (s *story) evidence() (list []Evidence) {
	s.line.each(func(m *moment) {
		if m.typ == events.StateChange && m.err == 0 && m.unacked == 0 && !(m.old == events.SynSent && m.state == events.Close) {
			return
		}
		list = append(list, Evidence{time.Unix(0, m.time), s.conn, m.String()})
	}, func(int) {})
	if n := len(list); n > maxEvidence {
		// The first, and the end.
		list = append(list[:1], list[n-maxEvidence+1:]...)
	}
	return list
}

// connection is the story as a report has it.
func (g *Engine) connection(s *story) Connection {
	c := Connection{
		Conn: s.conn, NetNS: s.netns, Family: s.family, Local: s.local, Remote: s.remote, Owner: s.owner,
		First: time.Unix(0, s.line.list[0].time), Last: time.Unix(0, s.last.time),
	}
	from := s.line.list[0].boot
	s.line.each(func(m *moment) {
		c.Timeline = append(c.Timeline, Moment{Time: time.Unix(0, m.time), Offset: time.Duration(m.boot - min(from, m.boot)), Text: m.String()})
	}, func(n int) { c.Timeline = append(c.Timeline, Moment{Omitted: n}) })
	if s.settings != nil {
		c.Settings = s.settings.Values
	}
	return c
}

// Report ends the engine. end is when the events end; if that is before the
// last of them, or zero, that one's time counts.
func (g *Engine) Report(end time.Time) *Report {
	if !end.IsZero() && g.now.time != 0 && end.UnixNano() > g.now.time {
		g.now.boot += uint64(end.UnixNano() - g.now.time)
		g.now.time = end.UnixNano()
	}
	g.decideAll()
	r := &Report{Events: g.events, Lost: g.lost, Troubled: g.found.troubled, Outcomes: g.found.outcomes, Connections: g.found.list, Unlisted: g.found.unlisted}
	if g.events > 0 {
		r.Start, r.End = time.Unix(0, g.started.time), time.Unix(0, g.now.time)
	}
	for _, ru := range rules {
		if f := g.found.by[ru]; f != nil {
			f.finish(&g.found)
			r.Findings = append(r.Findings, f)
		}
	}
	weight := func(f *Finding) int {
		return f.rule.weight * (4*f.Outcomes[Failed] + 2*f.Outcomes[Pending] + f.Outcomes[Recovered] + f.Outcomes[""])
	}
	slices.SortStableFunc(r.Findings, func(a, b *Finding) int { return cmp.Compare(weight(b), weight(a)) })
	slices.SortStableFunc(r.Connections, func(a, b Connection) int { return a.First.Compare(b.First) })
	if g.lost > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%s were lost: outcomes that rest on nothing more being heard are pending", plural(int(g.lost), "event")))
	}
	if g.events > 0 && !g.changes {
		r.Notes = append(r.Notes, "no ordinary state changes are among the events (record them with --event retransmit,reset,state): when connections were established or closed as usual is not known")
	}
	if g.world.full {
		r.Notes = append(r.Notes, fmt.Sprintf("of more than %d destinations at a time it is not known who else reached them", maxDestinations))
	}
	if r.Unlisted > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%s beyond the first %d are counted without their timelines; --connection or a filter chooses", plural(r.Unlisted, "connection"), maxListed))
	}
	return r
}

// counted are the kernel's counters of what has no event, and what they count.
var counted = map[string]string{
	"ListenOverflows": "SYNs, and last steps of handshakes, that met a full accept queue (ss -ltn shows which: Recv-Q above Send-Q)",
	"TCPReqQFullDrop": "SYNs that met a full SYN queue (net.ipv4.tcp_max_syn_backlog, tcp_syncookies)",
	"PAWSTimewait":    "segments for connections in TIME_WAIT whose timestamps were too old: ports used again, as in timewait-collision",
}

// Count adds to the findings by how much counters rose that count the same, in
// the namespaces of their connections, and to the notes those of which there is
// no finding. Counters that nobody knows are left out.
func (r *Report) Count(list []events.Counter) {
	told := make([]bool, len(list))
	for _, f := range r.Findings {
		if f.rule.counters == nil {
			continue
		}
		nets := map[uint32]bool{}
		for o := range f.owners {
			nets[o.NetNS] = true
		}
		for i, c := range list {
			if slices.Contains(f.rule.counters, c.Counter) && nets[c.NetNS] {
				f.Counters = append(f.Counters, c)
				told[i] = true
			}
		}
	}
	rest := map[string][]events.Counter{}
	for i, c := range list {
		if !told[i] {
			rest[c.Counter] = append(rest[c.Counter], c)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counted)) {
		if rest[name] != nil {
			r.Notes = append(r.Notes, rose(rest[name]))
		}
	}
}

// rose says by how much a counter rose, of which there is at least one, and what
// that means.
func rose(list []events.Counter) string {
	sum, most := uint64(0), list[0]
	for _, c := range list {
		sum += c.Rise
		if c.Rise > most.Rise {
			most = c
		}
	}
	text := fmt.Sprintf("%s rose by %d in ", most.Counter, sum)
	if len(list) == 1 {
		text += fmt.Sprintf("network namespace %d", most.NetNS)
	} else {
		text += fmt.Sprintf("%d network namespaces (by %d in %d)", len(list), most.Rise, most.NetNS)
	}
	return text + ": " + counted[most.Counter]
}

// finish makes lists of the tallies.
func (f *Finding) finish(all *findings) {
	for p, n := range f.peers {
		rate := f.rates[p]
		p.Count, p.Again, p.Sent = n, rate[0], rate[1]
		f.Peers = append(f.Peers, p)
	}
	slices.SortFunc(f.Peers, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Local, b.Local))
	})
	owners := f.owners
	if f.ID == "refused" && len(all.asked[f.rule]) > 0 {
		owners = all.asked[f.rule] // who asked, not who is not there
	}
	for o, n := range owners {
		f.Owners = append(f.Owners, Tally{o, n})
	}
	slices.SortFunc(f.Owners, func(a, b Tally) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Comm, b.Comm), cmp.Compare(a.PID, b.PID), cmp.Compare(a.Cgroup, b.Cgroup))
	})
	if f.ID == "stalled" && f.Count > 1 {
		f.crowd = fmt.Sprintf("%d of the %d connections went to %s: many at once to one peer is the path or the peer; one alone is that connection (its NAT or firewall state, its process).", f.Peers[0].Count, f.Count, f.Peers[0].Addr)
	}
	if n := len(f.Peers); n > maxPeers {
		f.Peers, f.MorePeers = f.Peers[:maxPeers], n-maxPeers
	}
	if n := len(f.Owners); n > maxOwners {
		f.Owners, f.MoreOwners = f.Owners[:maxOwners], n-maxOwners
	}
	f.Advice = f.rule.advice(f)
}
