// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// csvLayout prints rows as RFC 4180 has them, but ended by a newline alone, as
// everything else on Unix is. Text that someone else chose is escaped as in
// tables: a file is often shown on a terminal. So is what a spreadsheet would
// take for the beginning of a formula; see appendEscaped.
type csvLayout struct {
	columns  []Column
	noHeader bool
	lost     bool // the columns can tell of losses

	byType [events.Lost + 1][]csvColumn
	clock  clock
	owners ownerMemo
}

// csvColumn is a column that events of a type can have.
type csvColumn struct {
	commas int // before it
	value  func(*events.Event) Value
	run    int // how many from here on say who the owner is
	text   int // of the run, in an ownerEntry
}

func newCSV(chosen []Column, noHeader bool) *csvLayout {
	l := &csvLayout{columns: chosen, noHeader: noHeader, clock: utcClock()}
	var event, count bool
	for _, c := range chosen {
		event = event || c.Name == "event"
		count = count || c.Name == "count"
	}
	l.lost = event && count
	for t := range l.byType {
		runs, commas := 0, -1
		for i := range chosen {
			c := &chosen[i]
			commas++
			if !c.concerns(events.Type(t)) {
				continue
			}
			column := csvColumn{commas: commas, value: c.value}
			if i == 0 || !chosen[i-1].owner {
				column.run, column.text = ownerRun(chosen[i:]), runs
				runs += min(column.run, 1)
			}
			l.byType[t] = append(l.byType[t], column)
			commas = 0
		}
		l.byType[t] = append(l.byType[t], csvColumn{commas: commas}) // those at the end
		l.owners.runs = max(l.owners.runs, runs)
	}
	return l
}

func (l *csvLayout) header(b []byte) []byte {
	if l.noHeader {
		return b
	}
	for i, c := range l.columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, c.Name...)
	}
	return append(b, '\n')
}

func (l *csvLayout) showsLost() bool { return l.lost }

func (l *csvLayout) event(b []byte, e *events.Event) []byte {
	if e.Type == events.Lost && !l.lost {
		return b
	}
	t := e.Type
	if int(t) >= len(l.byType) {
		t = 0 // what an event of any type has
	}
	start := len(b)
	cols := l.byType[t]
	var owner *ownerEntry
	for i := 0; i < len(cols); i++ {
		c := &cols[i]
		if c.run == 0 {
			b = l.value(b, c, e)
			continue
		}
		if owner == nil {
			owner = l.owners.of(e)
		}
		known := &owner.texts[c.text]
		if known.known {
			b = append(b, known.text...)
		} else {
			at := len(b)
			for j := range c.run {
				b = l.value(b, &cols[i+j], e)
			}
			known.keep(b[at:], 0)
		}
		i += c.run - 1
	}
	if len(b) == start { // readers skip an empty line
		b = append(b, `""`...)
	}
	return append(b, '\n')
}

// value appends the commas before a column, and e's value if it has one.
func (l *csvLayout) value(b []byte, c *csvColumn, e *events.Event) []byte {
	for range c.commas {
		b = append(b, ',')
	}
	if c.value == nil {
		return b
	}
	switch v := c.value(e); v.kind {
	case absent:
	case integer:
		b = appendUint(b, v.num)
	case timestamp:
		b = append(l.clock.append(b, int64(v.num), 9), 'Z')
	case unsafeText:
		b = appendCSVText(b, *v.ref.(*string))
	case process:
		b = appendCSVText(b, v.ref.(*events.Comm).Bytes())
	case integers:
		at := len(b)
		b = quoteCSV(v.appendPlain(b), at)
	default:
		b = v.appendPlain(b)
	}
	return b
}

func appendCSVText[T string | []byte](b []byte, s T) []byte {
	at := len(b)
	return quoteCSV(appendEscaped(b, s, true), at)
}

func (*csvLayout) summary(b []byte, _ *events.Summary) []byte { return b }

// quoteCSV puts b[at:] in quotes if a comma or a quote is in it. Escaped text
// has no line ends.
func quoteCSV(b []byte, at int) []byte {
	quotes := bytes.Count(b[at:], []byte{'"'})
	if quotes == 0 && bytes.IndexByte(b[at:], ',') < 0 {
		return b
	}
	from := len(b) - 1
	for range quotes + 2 {
		b = append(b, '"')
	}
	// Move the text to its place, the last byte first.
	to := len(b) - 2
	for ; from >= at; from-- {
		b[to] = b[from]
		to--
		if b[from] == '"' {
			b[to] = '"'
			to--
		}
	}
	b[at] = '"'
	return b
}
