// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"strings"

	"github.com/tcptrace/tcptrace/pkg/format"
)

// markdown is a report under way to a ticket.
type markdown struct {
	w     *writer
	r     *Report
	v     *View
	clock clock
}

// WriteMarkdown writes r to be pasted into a ticket. Its error is w's.
func (r *Report) WriteMarkdown(w io.Writer, v View) error {
	m := markdown{w: newWriter(w), r: r, v: &v, clock: newClock(r, &v)}
	m.report()
	return m.w.flush()
}

func (m *markdown) report() {
	r, v := m.r, m.v
	if !v.NoHeader || len(r.Connections) == 0 {
		m.line("## " + prose(headline(r, v)))
		m.line("")
		m.line(prose(watched(r, v)))
		m.line("")
	}
	if v.Whole {
		for i := range r.Connections {
			m.connection(&r.Connections[i])
		}
	} else if len(r.Findings) > 0 {
		m.overview()
		for _, f := range r.Findings {
			m.finding(f)
		}
	}
	for _, note := range r.Notes {
		m.line("*Note:* " + prose(format.Escape(note)))
		m.line("")
	}
}

// overview is a table of numbers, in which no text of anybody's stands.
func (m *markdown) overview() {
	m.line("| finding | connections | failed | pending | recovered | unknown | certainty | first | last |")
	m.line("| --- | ---: | ---: | ---: | ---: | ---: | --- | --- | --- |")
	for _, f := range m.r.Findings {
		c := countsOf(f.Outcomes)
		m.line(fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %s | %s | %s |", f.ID, f.Count, c.Failed, c.Pending, c.Recovered, c.Unknown,
			f.Certainty, m.clock.second(f.First), m.clock.second(f.Last)))
	}
	m.line("")
}

func (m *markdown) finding(f *Finding) {
	m.line("### " + f.ID + ": " + prose(format.Escape(f.Title)))
	m.line("")
	m.line(f.about(&m.clock, func(s string) string { return s }))
	m.line("")
	m.fields(f.who())
	m.fields(f.example())
	var lines []string
	for _, e := range f.Evidence {
		lines = append(lines, m.clock.milli(e.Time)+"  "+format.Escape(e.Text))
	}
	m.block(lines)
	m.fields(f.rest())
	m.line("")
}

func (m *markdown) connection(c *Connection) {
	m.line("### " + prose(c.title()) + ": " + outcome(c.Outcome))
	m.line("")
	m.fields(c.who(&m.clock))
	for i := range c.Findings {
		s := &c.Findings[i]
		f := m.r.of(s)
		m.line("")
		m.line(fmt.Sprintf("**%s**: %s (%s, %s)", prose(format.Escape(s.ID)), prose(format.Escape(f.Title)), outcome(s.Outcome), s.Certainty))
		m.line("")
		m.fields(add(nil, "cause", s.Cause))
		m.fields(add(nil, "missing", s.Missing))
		own := *f
		own.Missing = nil
		m.fields(own.rest())
	}
	var lines []string
	for i := range c.Timeline {
		t := &c.Timeline[i]
		if t.Omitted > 0 {
			lines = append(lines, t.gap())
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %12s  %s", m.clock.milli(t.Time), t.offset(), format.Escape(t.Text)))
	}
	m.block(lines)
}

func (m *markdown) fields(list []field) {
	for _, f := range list {
		label := strings.ToUpper(f.label[:1]) + f.label[1:]
		if f.code {
			var texts []string
			for _, text := range f.texts {
				texts = append(texts, code(format.Escape(text)))
			}
			m.line("- **" + label + ":** " + strings.Join(texts, ", "))
			continue
		}
		if len(f.texts) == 1 {
			m.line("- **" + label + ":** " + prose(format.Escape(f.texts[0])))
			continue
		}
		m.line("- **" + label + ":**")
		for _, text := range f.texts {
			m.line("  - " + prose(format.Escape(text)))
		}
	}
}

// block shows lines as they are.
func (m *markdown) block(lines []string) {
	if len(lines) == 0 {
		m.line("")
		return
	}
	fence := strings.Repeat("`", max(3, ticks(strings.Join(lines, "\n"))+1))
	m.line("")
	m.line(fence + "text")
	for _, line := range lines {
		m.line(line)
	}
	m.line(fence)
	m.line("")
}

func (m *markdown) line(s string) { m.w.text(s + "\n") }

// prose is escaped text in a line of Markdown, behind its beginning. Words that
// trackers make links, mentions or emphasis of, whatever is escaped, are code.
func prose(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		if lower := strings.ToLower(word); strings.ContainsAny(word, "@#_=") || strings.Contains(lower, "://") || strings.Contains(lower, "www.") {
			front := word[:len(word)-len(strings.TrimLeft(word, "("))]
			core := strings.TrimRight(word[len(front):], "),.;:")
			rest := word[len(front)+len(core):]
			for rest != "" && rest[0] == ')' && strings.Count(core, "(") > strings.Count(core, ")") { // of its own
				core, rest = core+")", rest[1:]
			}
			words[i] = front + code(core) + rest
			continue
		}
		words[i] = plain.Replace(word)
	}
	return strings.Join(words, " ")
}

// plain takes characters their meaning.
var plain = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "[", `\[`, "]", `\]`, "<", `\<`, ">", `\>`, "|", `\|`, "~", `\~`, "&", `\&`, "$", `\$`)

// code shows text as it is.
func code(text string) string {
	fence := strings.Repeat("`", ticks(text)+1)
	if len(fence) > 1 {
		text = " " + text + " " // one of which goes
	}
	return fence + text + fence
}

// ticks is the length of the longest run of backticks.
func ticks(text string) (longest int) {
	run := 0
	for _, r := range text {
		if run++; r != '`' {
			run = 0
		}
		longest = max(longest, run)
	}
	return longest
}
