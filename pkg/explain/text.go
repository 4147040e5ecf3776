// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// View says how people are to see a report.
type View struct {
	Width    int            // of a terminal, in columns; 0: 80
	Color    bool           // of tables: escape sequences that colour by meaning
	Location *time.Location // time zone; nil is time.Local
	NoHeader bool           // no headline
	Watched  string         // what was watched, a phrase; it is shown as it is
	More     string         // the command that tells of one connection, without its id; "" if there is none; shown as it is
	Whole    bool           // connections one by one with their timelines, instead of the findings across them
}

func (v *View) location() *time.Location {
	if v.Location == nil {
		return time.Local
	}
	return v.Location
}

// clock writes times for people.
type clock struct {
	zone *time.Location
	date string // goes before each, if they are of several days
}

func newClock(r *Report, v *View) clock {
	c := clock{zone: v.location()}
	if !sameDay(r.Start.In(c.zone), r.End.In(c.zone)) {
		c.date = "2006-01-02 "
	}
	return c
}

func sameDay(a, b time.Time) bool { return a.Format(time.DateOnly) == b.Format(time.DateOnly) }

func (c *clock) second(t time.Time) string { return t.In(c.zone).Format(c.date + "15:04:05") }

// between writes from when until when.
func (c *clock) between(first, last time.Time) string {
	from, to := c.second(first), c.second(last)
	if sameDay(first.In(c.zone), last.In(c.zone)) {
		to = strings.TrimPrefix(to, last.In(c.zone).Format(c.date))
	}
	if strings.HasSuffix(from, to) {
		return from
	}
	return from + " to " + to
}

func (c *clock) milli(t time.Time) string { return t.In(c.zone).Format(c.date + "15:04:05.000") }

// headline sums up the report in a line.
func headline(r *Report, v *View) string {
	text := plural(r.Troubled, "connection") + " in trouble"
	switch {
	case r.Troubled == 0 && v.Whole && len(r.Connections) > 0:
		text = plural(len(r.Connections), "connection") + " without trouble"
	case r.Troubled == 0 && v.Whole:
		text = "no such connection"
	case r.Troubled == 0:
		text = "no connection in trouble"
	}
	if d := r.End.Sub(r.Start); !r.Start.IsZero() && d > 0 {
		text += " in " + span(d)
	}
	if r.Troubled > 0 {
		text += ": " + outcomes(r.Outcomes, r.Troubled)
	}
	return text
}

// watched says what the report is of.
func watched(r *Report, v *View) string {
	var parts []string
	if v.Watched != "" {
		parts = append(parts, v.Watched)
	}
	if zone := v.location(); !r.Start.IsZero() {
		from, to := r.Start.In(zone), r.End.In(zone)
		layout := time.DateTime
		if sameDay(from, to) {
			layout = time.TimeOnly
		}
		parts = append(parts, from.Format(time.DateTime)+" to "+to.Format(layout+" MST"))
	}
	count := plural(int(r.Events), "event")
	if r.Lost > 0 {
		count += fmt.Sprintf(", %d more were lost", r.Lost)
	}
	return strings.Join(append(parts, count), "; ")
}

// outcomes counts them, the worst first.
func outcomes(by map[Outcome]int, of int) string {
	var list []string
	for _, o := range []Outcome{Failed, Pending, Recovered, ""} {
		n := by[o]
		if n == 0 {
			continue
		}
		name := outcome(o)
		if of > 1 {
			name = fmt.Sprintf("%d %s", n, name)
		}
		list = append(list, name)
	}
	return strings.Join(list, ", ")
}

func outcome(o Outcome) string {
	if o == "" {
		return "unknown"
	}
	return string(o)
}

// span writes how long something took, as people say it.
func span(d time.Duration) string {
	two := func(big, small time.Duration, bigs, smalls string) string {
		d := d.Round(small)
		text := fmt.Sprintf("%d %s", d/big, bigs)
		if rest := d % big / small; rest > 0 {
			text += fmt.Sprintf(" %d %s", rest, smalls)
		}
		return text
	}
	const day = 24 * time.Hour
	switch {
	case d < 10*time.Second:
		return dur(d)
	case d < time.Minute-time.Second/2:
		return fmt.Sprintf("%d s", d.Round(time.Second)/time.Second)
	case d < time.Hour-time.Second/2:
		return two(time.Minute, time.Second, "min", "s")
	case d < day-time.Minute/2:
		return two(time.Hour, time.Minute, "h", "min")
	}
	return two(day, time.Hour, "d", "h")
}

// field is a part of what is told of a finding, or of a connection. Its texts,
// a paragraph each, are not escaped.
type field struct {
	label string
	texts []string
	code  bool // the texts are for a shell, and make one paragraph
}

// add appends a field, unless it has nothing to say.
func add(list []field, label string, texts ...string) []field {
	if len(texts) == 0 || texts[0] == "" {
		return list
	}
	return append(list, field{label: label, texts: texts})
}

// about says how many connections a finding has, and how they fared.
func (f *Finding) about(c *clock, paint func(string) string) string {
	text := plural(f.Count, "connection")
	if conn := f.conn(); f.Count == 1 && conn != 0 {
		text = fmt.Sprintf("connection %x", conn)
	}
	text += ": " + paint(outcomes(f.Outcomes, f.Count)) + "; " + string(f.Certainty)
	return text + "; " + c.between(f.First, f.Last)
}

// who is of a finding's fields those about its ends.
func (f *Finding) who() []field {
	list := add(nil, "peers", f.peerText())
	return add(list, "owners", f.ownerText())
}

func (f *Finding) peerText() string {
	var list []string
	for i := range f.Peers {
		p := &f.Peers[i]
		text := p.String()
		var of []string
		if f.Count > 1 {
			of = append(of, fmt.Sprint(p.Count))
		}
		if p.Sent > p.Again {
			of = append(of, fmt.Sprintf("%d of %d segments, %s", p.Again, p.Sent, share(p.Again, p.Sent)))
		}
		if len(of) > 0 {
			text += " (" + strings.Join(of, "; ") + ")"
		}
		list = append(list, text)
	}
	return strings.Join(more(list, f.MorePeers), ", ")
}

func (f *Finding) ownerText() string {
	several := slices.ContainsFunc(f.Owners, func(t Tally) bool { return t.NetNS != f.Owners[0].NetNS })
	var list []string
	for i := range f.Owners {
		t := &f.Owners[i]
		text := t.text(several)
		if f.Count > 1 {
			text += fmt.Sprintf(" (%d)", t.Count)
		}
		list = append(list, text)
	}
	return strings.Join(more(list, f.MoreOwners), "; ")
}

func more(list []string, n int) []string {
	if n > 0 {
		list = append(list, fmt.Sprintf("%d more", n))
	}
	return list
}

// example is the cause of one of the connections.
func (f *Finding) example() []field {
	if f.Count == 1 {
		return add(nil, "cause", f.Cause)
	}
	if conn := f.conn(); conn != 0 {
		return add(nil, "example", fmt.Sprintf("connection %x: %s", conn, f.Cause))
	}
	return add(nil, "example", f.Cause)
}

// conn is the connection that the cause and the evidence are of; 0 if it is
// unknown.
func (f *Finding) conn() uint64 {
	if len(f.Evidence) == 0 {
		return 0
	}
	return f.Evidence[0].Conn
}

// rest is what comes behind the evidence.
func (f *Finding) rest() []field {
	var settings []string
	for _, s := range f.Settings {
		value := s.Value
		if strings.Contains(value, " ") && !strings.Contains(value, " or ") {
			value = `"` + value + `"` // as sysctl -w takes it
		}
		settings = append(settings, s.Name+"="+value)
	}
	var list []field
	if len(f.Counters) > 0 { // of one name
		list = add(list, "counted", rose(f.Counters))
	}
	if settings != nil {
		list = append(list, field{label: "settings", texts: settings, code: true})
	}
	list = add(list, "missing", f.Missing...)
	return add(list, "next", f.Advice...)
}

// String says who it is, such as 192.0.2.1:443.
func (p *Peer) String() string {
	who := "an unknown address"
	if p.Addr.IsValid() {
		who = p.Addr.String()
	}
	switch {
	case p.Local != 0:
		return fmt.Sprintf("%s to port %d here", who, p.Local)
	case p.Port == 0:
		return who
	case p.Addr.Is6():
		return fmt.Sprintf("[%s]:%d", who, p.Port)
	}
	return fmt.Sprintf("%s:%d", who, p.Port)
}

// text says who it is, and in what it runs.
func (o *Owner) text(netns bool) string {
	var parts []string
	switch who := (&Owner{PID: o.PID, Comm: o.Comm}).name(); {
	case o.PID != 0 || o.Comm != "":
		parts = append(parts, who)
	default:
		parts = append(parts, "unknown process")
	}
	if where := o.where(); where != "" && where != "/" {
		parts[0] += " in " + where
	}
	switch {
	case o.User != "":
		parts = append(parts, "user "+o.User)
	case o.HasUID:
		parts = append(parts, fmt.Sprintf("uid %d", o.UID))
	}
	switch {
	case o.NetNSName != "":
		parts = append(parts, "netns "+o.NetNSName)
	case netns && o.NetNS != 0:
		parts = append(parts, fmt.Sprintf("netns %d", o.NetNS))
	}
	return strings.Join(parts, ", ")
}

// ends names both ends, the local one first, as --connection takes it.
func (c *Connection) ends() string {
	local, remote := "unknown", "unknown"
	if c.Local.IsValid() {
		local = c.Local.String()
	}
	if c.Remote.IsValid() {
		remote = c.Remote.String()
	}
	return local + "-" + remote
}

// title is the first line about a connection.
func (c *Connection) title() string {
	text := c.ends()
	if c.Conn != 0 {
		text += fmt.Sprintf(", connection %x", c.Conn)
	}
	return text
}

// who is what is known of a connection but what happened to it.
func (c *Connection) who(k *clock) []field {
	list := add(nil, "owner", c.Owner.text(true))
	when := k.milli(c.First)
	if d := c.Last.Sub(c.First); d > 0 {
		when += fmt.Sprintf(" to %s, %s", k.milli(c.Last), span(d))
	}
	return add(list, "seen", when)
}

// of returns the finding that one of a connection is a part of.
func (r *Report) of(s *Story) *Finding {
	for _, f := range r.Findings {
		if f.ID == s.ID {
			return f
		}
	}
	return &Finding{ID: s.ID}
}

// offset writes when something happened after the first.
func (m *Moment) offset() string { return fmt.Sprintf("+%.3f s", m.Offset.Seconds()) }

// gap stands for what a timeline leaves out.
func (m *Moment) gap() string {
	if m.Omitted == 1 {
		return "... 1 event is left out here"
	}
	return fmt.Sprintf("... %d events are left out here", m.Omitted)
}

// Title is what a finding means, in a phrase; "" if there is none of this id.
func Title(id string) string {
	for _, r := range rules {
		if r.id == id {
			return r.title
		}
	}
	return ""
}
