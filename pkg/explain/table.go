// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"

	"github.com/fatih/color"

	"github.com/tcptrace/tcptrace/pkg/format"
)

const (
	defaultWidth = 80
	minWidth     = 40
	labelWidth   = 10 // of the fields of a finding
	margin       = "  "
)

// table is a report under way to a terminal.
type table struct {
	w      *writer
	r      *Report
	v      *View
	clock  clock
	width  int
	colors colors
}

// WriteTable writes r for a terminal. Its error is w's.
func (r *Report) WriteTable(w io.Writer, v View) error {
	t := table{w: newWriter(w), r: r, v: &v, clock: newClock(r, &v), width: max(v.Width, minWidth), colors: newColors(v.Color)}
	if v.Width == 0 {
		t.width = defaultWidth
	}
	t.report()
	return t.w.flush()
}

func (t *table) report() {
	r, v := t.r, t.v
	switch {
	case v.NoHeader && len(r.Connections) > 0:
	case len(r.Connections) == 0:
		if v.Width == 0 { // for scripts, in one line
			t.width = math.MaxInt
		}
		t.paragraph("", t.colors.title(headline(r, v))+" ("+watched(r, v)+")")
	default:
		t.paragraph("", t.colors.title(headline(r, v)))
		t.paragraph("", watched(r, v))
		t.line("")
	}
	if v.Whole {
		for i := range r.Connections {
			t.connection(&r.Connections[i])
		}
	} else {
		for _, f := range r.Findings {
			t.finding(f)
		}
	}
	for _, note := range r.Notes {
		t.paragraph("note: ", format.Escape(note))
	}
	if v.More != "" && !v.Whole && len(r.Connections) > 0 {
		t.line("all that happened to one connection: " + v.More)
	}
}

func (t *table) finding(f *Finding) {
	t.paragraph("", t.colors.title(format.Escape(f.ID))+": "+format.Escape(f.Title))
	t.paragraph(margin, f.about(&t.clock, t.colors.outcomes))
	t.fields(f.who())
	t.fields(f.example())
	for _, e := range f.Evidence {
		t.paragraph(margin+pad("", labelWidth)+t.clock.milli(e.Time)+margin, format.Escape(e.Text))
	}
	t.fields(f.rest())
	t.line("")
}

func (t *table) connection(c *Connection) {
	t.paragraph("", t.colors.title(c.title())+": "+t.colors.outcomes(outcome(c.Outcome)))
	t.fields(c.who(&t.clock))
	for i := range c.Findings {
		s := &c.Findings[i]
		f := t.r.of(s)
		t.line("")
		t.paragraph(margin, fmt.Sprintf("%s: %s (%s, %s)", t.colors.title(format.Escape(s.ID)), format.Escape(f.Title), t.colors.outcomes(outcome(s.Outcome)), s.Certainty))
		t.fields(add(nil, "cause", s.Cause))
		t.fields(add(nil, "missing", s.Missing))
		own := *f
		own.Missing = nil
		t.fields(own.rest())
	}
	t.line("")
	for i := range c.Timeline {
		m := &c.Timeline[i]
		if m.Omitted > 0 {
			t.line(margin + m.gap())
			continue
		}
		t.paragraph(fmt.Sprintf("%s%s %12s%s", margin, t.clock.milli(m.Time), m.offset(), margin), format.Escape(m.Text))
	}
	t.line("")
}

func (t *table) fields(list []field) {
	for _, f := range list {
		label, texts := f.label, f.texts
		if f.code {
			texts = []string{strings.Join(texts, ", ")}
		}
		for _, text := range texts {
			bullet := ""
			if len(texts) > 1 {
				bullet = "- "
			}
			t.paragraph(margin+pad(label, labelWidth)+bullet, format.Escape(text))
			label = ""
		}
	}
}

func pad(s string, width int) string { return s + strings.Repeat(" ", max(0, width-len(s))) }

func (t *table) line(s string) { t.w.text(s + "\n") }

// paragraph wraps text behind prefix, below which its further lines begin.
func (t *table) paragraph(prefix, text string) {
	hang := len(prefix)
	if hang > t.width/2 {
		hang = len(margin) // a narrow terminal
	}
	line, at := prefix, len(prefix)
	fresh := true // nothing but the prefix is in the line
	for _, word := range words(text) {
		n := visible(word)
		if !fresh && at+1+n > t.width {
			t.line(line)
			line, at, fresh = strings.Repeat(" ", hang), hang, true
		}
		if !fresh {
			line += " "
			at++
		}
		line += word
		at += n
		fresh = false
	}
	t.line(line)
}

// words are what a line breaks between: not between a number and its unit.
func words(text string) []string {
	var list []string
	for word := range strings.FieldsSeq(text) {
		if n := len(list) - 1; n >= 0 && '0' <= list[n][len(list[n])-1] && list[n][len(list[n])-1] <= '9' {
			switch strings.TrimRight(word, ",;:.)") {
			case "ns", "us", "ms", "s", "min", "h", "d":
				list[n] += " " + word
				continue
			}
		}
		list = append(list, word)
	}
	return list
}

// sgr is a colour of ours: nothing that is escaped has one.
var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// visible is the number of columns that text takes.
func visible(text string) int {
	if strings.Contains(text, "\x1b") {
		text = sgr.ReplaceAllString(text, "")
	}
	return format.Width(text)
}

// colors paint what matters most.
type colors struct {
	title    func(string) string
	outcomes func(string) string // each outcome as it deserves
}

func newColors(on bool) colors {
	if !on {
		plain := func(s string) string { return s }
		return colors{plain, plain}
	}
	paint := func(a ...color.Attribute) func(string) string {
		c := color.New(a...)
		c.EnableColor() // whatever the package guessed about the terminal
		return func(s string) string { return c.Sprint(s) }
	}
	by := map[string]func(string) string{
		string(Failed): paint(color.FgHiRed), string(Pending): paint(color.FgYellow), string(Recovered): paint(color.FgGreen),
	}
	return colors{paint(color.Bold), func(s string) string {
		list := strings.Split(s, ", ")
		for i, part := range list {
			if f := by[part[strings.LastIndexByte(part, ' ')+1:]]; f != nil {
				list[i] = f(part)
			}
		}
		return strings.Join(list, ", ")
	}}
}

// writer gathers what is written, and keeps the first error.
type writer struct {
	w   io.Writer
	b   []byte
	err error
}

const writeLen = 64 << 10 // bytes written at a time

func newWriter(w io.Writer) *writer { return &writer{w: w} }

func (w *writer) text(s string) {
	w.b = append(w.b, s...)
	if len(w.b) >= writeLen {
		_ = w.flush()
	}
}

func (w *writer) flush() error {
	if w.err == nil && len(w.b) > 0 {
		_, w.err = w.w.Write(w.b)
	}
	w.b = w.b[:0]
	return w.err
}
