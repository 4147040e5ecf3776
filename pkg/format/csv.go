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
}

func newCSV(chosen []Column, noHeader bool) *csvLayout {
	l := &csvLayout{columns: chosen, noHeader: noHeader}
	var event, count bool
	for _, c := range chosen {
		event = event || c.Name == "event"
		count = count || c.Name == "count"
	}
	l.lost = event && count
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
	start := len(b)
	for i := range l.columns {
		if i > 0 {
			b = append(b, ',')
		}
		c := &l.columns[i]
		if !c.concerns(e.Type) {
			continue
		}
		switch v := c.value(e); v.kind {
		case absent:
		case unsafeText:
			at := len(b)
			b = quoteCSV(appendEscaped(b, *v.ref.(*string), true), at)
		case process:
			at := len(b)
			b = quoteCSV(appendEscaped(b, v.ref.(*events.Comm).Bytes(), true), at)
		case integers:
			at := len(b)
			b = quoteCSV(v.appendPlain(b), at)
		default:
			b = v.appendPlain(b)
		}
	}
	if len(b) == start { // readers skip an empty line
		b = append(b, `""`...)
	}
	return append(b, '\n')
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
