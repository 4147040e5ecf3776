// SPDX-License-Identifier: Apache-2.0

package format

import (
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// tableLayout prints a line of cells, one space apart; "-" is unknown.
//
// The width of a column of addresses grows with a cell that is longer, in steps, and stays.
type tableLayout struct {
	columns  []tableColumn
	clock    clock
	noHeader bool
	palette  *palette // nil: no colour
	owners   ownerMemo
}

type tableColumn struct {
	Column
	width int
	right bool
	run   int // how many from here on say who the owner is
	text  int // of the run, in an ownerEntry
}

const growStep = 8 // few steps, so that the headings seldom come again

func newTable(chosen []Column, o Options) *tableLayout {
	wide := o.Format == Wide
	t := &tableLayout{clock: clock{location: o.Location, date: wide, sep: ' '}, noHeader: o.NoHeader}
	if o.Location == nil {
		t.clock.location = time.Local
	}
	if o.Color {
		t.palette = newPalette()
	}
	shown := typesOf(o.Types)
	for i, c := range chosen {
		column := tableColumn{Column: c, width: max(c.width, len(c.Title)), right: c.Type == Int || c.Type == Float}
		if shown&onReset != 0 {
			column.width = max(column.width, c.resets)
		}
		if wide && c.Type == Time {
			column.width += len(dateLayout) + 1
		}
		if i == 0 || !chosen[i-1].owner {
			column.run, column.text = ownerRun(chosen[i:]), t.owners.runs
			t.owners.runs += min(column.run, 1)
		}
		t.columns = append(t.columns, column)
	}
	return t
}

func (t *tableLayout) header(b []byte) []byte {
	if t.noHeader {
		return b
	}
	pad := 0
	for i := range t.columns {
		c := &t.columns[i]
		b = appendSpaces(b, pad)
		pad = c.width - len(c.Title)
		if c.right {
			b = appendSpaces(b, pad)
			pad = 0
		}
		if t.palette == nil {
			b = append(b, c.Title...)
		} else {
			b = append(b, t.palette[heading].on...)
			b = append(b, c.Title...)
			b = append(b, t.palette[heading].off...)
		}
		pad++
	}
	return append(b, '\n')
}

func (t *tableLayout) event(b []byte, e *events.Event) []byte {
	if e.Type == events.Lost {
		return b
	}
	start := len(b)
	b, grown := t.line(b, e)
	if grown && !t.noHeader {
		b, _ = t.line(t.header(b[:start]), e)
	} else if grown {
		b, _ = t.line(b[:start], e)
	}
	return b
}

// row is a line that is being made.
type row struct {
	b       []byte
	pad     int    // spaces to append before the next cell
	on, off string // the event's colour
	grown   bool   // a column became wider, which the line does not show yet
}

// line appends one event, and reports whether that made a column wider, which
// the line itself does not show yet.
func (t *tableLayout) line(b []byte, e *events.Event) (_ []byte, grown bool) {
	r := row{b: b}
	if t.palette != nil {
		p := &t.palette[paintOf(e)]
		r.on, r.off = p.on, p.off
	}
	var owner *ownerEntry
	for i := 0; i < len(t.columns); i++ {
		c := &t.columns[i]
		if c.run == 0 || !c.concerns(e.Type) {
			t.put(&r, i, e)
			continue
		}
		if owner == nil {
			owner = t.owners.of(e)
		}
		r.b, r.pad = appendSpaces(r.b, r.pad), 0
		known := &owner.texts[c.text]
		if known.known {
			r.b, r.pad = append(r.b, known.text...), known.pad
		} else {
			at := len(r.b)
			for j := range c.run {
				t.put(&r, i+j, e)
			}
			known.keep(r.b[at:], r.pad)
		}
		i += c.run - 1
	}
	if r.grown {
		t.owners.forget()
	}
	return append(r.b, '\n'), r.grown
}

// put appends the cell of column i.
func (t *tableLayout) put(r *row, i int, e *events.Event) {
	c := &t.columns[i]
	b := appendSpaces(r.b, r.pad)
	var v Value
	if c.value != nil && c.concerns(e.Type) {
		v = c.value(e)
	}
	if v.kind == integer && !c.paint { // as most cells are
		b = appendSpaces(b, c.width-digits(v.num))
		r.b, r.pad = appendUint(b, v.num), 1
		return
	}
	at := len(b)
	if c.paint {
		b = append(b, r.on...)
	}
	text := len(b)
	b = t.cell(b, c, v, e)
	width := len(b) - text
	if v.kind == unsafeText || v.kind == process { // all else is ASCII
		width = textWidth(b[text:])
	}
	switch {
	case len(b) == text:
		b, width = append(b[:at], '-'), 1
	case c.paint:
		b = append(b, r.off...)
	}
	pad := max(0, c.width-width)
	if c.grows && width > c.width && i < len(t.columns)-1 {
		c.width, r.grown = (width+growStep-1)/growStep*growStep, true
	}
	if c.right {
		b = indent(b, at, pad)
		pad = 0
	}
	r.b, r.pad = b, pad+1
}

// cell appends what people read; nothing for what is unknown.
func (t *tableLayout) cell(b []byte, c *tableColumn, v Value, e *events.Event) []byte {
	switch v.kind {
	case absent:
		if c.Column.cell != nil && c.concerns(e.Type) {
			return c.Column.cell(b, e)
		}
		return b
	case timestamp:
		return t.clock.append(b, int64(v.num), 3)
	case duration:
		return appendDuration(b, time.Duration(v.num))
	case unsafeText:
		return appendEscaped(b, *v.ref.(*string), false)
	case process:
		return appendEscaped(b, v.ref.(*events.Comm).Bytes(), false)
	default:
		return v.appendPlain(b)
	}
}

func (*tableLayout) summary(b []byte, _ *events.Summary) []byte { return b }

func (*tableLayout) showsLost() bool { return false }

// What times in tables look like.
const (
	dateLayout  = "2006-01-02" // wide only
	clockLayout = "15:04:05.000"
)

// appendDuration appends d with a unit, in few characters: 47us, 4.1ms, 204ms,
// 1.02s, 12.3s, 2m11s, 3h0m.
func appendDuration(b []byte, d time.Duration) []byte {
	const ms, us = time.Millisecond, time.Microsecond
	if d < 0 {
		b = append(b, '-')
		d = d.Abs()
	}
	scaled := func(unit time.Duration, places int, name string) []byte {
		return append(appendDecimal(b, int64(d.Round(unit)/unit), places), name...)
	}
	two := func(unit time.Duration, big, small string, smalls time.Duration) []byte {
		n := d.Round(unit) / unit
		b = append(appendUint(b, uint64(n/smalls)), big...)
		return append(appendUint(b, uint64(n%smalls)), small...)
	}
	// The limits are where rounding would give the next unit's first value.
	switch {
	case d == 0:
		return append(b, "0ms"...)
	case d < 999500:
		return scaled(us, 0, "us")
	case d < 9950*us:
		return scaled(100*us, 1, "ms")
	case d < 999500*us:
		return scaled(ms, 0, "ms")
	case d < 9995*ms:
		return scaled(10*ms, 2, "s")
	case d < 59950*ms:
		return scaled(100*ms, 1, "s")
	case d < time.Hour-500*ms:
		return two(time.Second, "m", "s", 60)
	default:
		return two(time.Minute, "h", "m", 60)
	}
}

const spaces = "                                                                "

func appendSpaces(b []byte, n int) []byte {
	for ; n > len(spaces); n -= len(spaces) {
		b = append(b, spaces...)
	}
	return append(b, spaces[:max(0, n)]...)
}

// indent moves b[at:] to the right by n.
func indent(b []byte, at, n int) []byte {
	end := len(b)
	b = appendSpaces(b, n)
	copy(b[at+n:], b[at:end])
	copy(b[at:at+n], spaces)
	return b
}
