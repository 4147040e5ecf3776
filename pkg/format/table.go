// SPDX-License-Identifier: Apache-2.0

package format

import (
	"strconv"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// tableLayout prints a line of cells, one space apart; "-" is unknown.
//
// The width of a column of addresses grows with a cell that is longer, in steps, and stays.
type tableLayout struct {
	columns  []tableColumn
	wide     bool // times with the date
	location *time.Location
	noHeader bool
	palette  *palette // nil: no colour
}

type tableColumn struct {
	Column
	width int
	right bool
}

const growStep = 8 // few steps, so that the headings seldom come again

func newTable(chosen []Column, o Options) *tableLayout {
	t := &tableLayout{wide: o.Format == Wide, location: o.Location, noHeader: o.NoHeader}
	if t.location == nil {
		t.location = time.Local
	}
	if o.Color {
		t.palette = newPalette()
	}
	shown := typesOf(o.Types)
	for _, c := range chosen {
		width := max(c.width, len(c.Title))
		if shown&onReset != 0 {
			width = max(width, c.resets)
		}
		if t.wide && c.Type == Time {
			width += len(dateLayout) + 1
		}
		t.columns = append(t.columns, tableColumn{c, width, c.Type == Int || c.Type == Float})
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

// line appends one event, and reports whether that made a column wider, which
// the line itself does not show yet.
func (t *tableLayout) line(b []byte, e *events.Event) (_ []byte, grown bool) {
	pad := 0 // spaces to append before the next cell
	for i := range t.columns {
		c := &t.columns[i]
		b = appendSpaces(b, pad)
		at := len(b)
		var off string
		if c.paint && t.palette != nil {
			p := &t.palette[paintOf(e)]
			b, off = append(b, p.on...), p.off
		}
		text := len(b)
		b = t.cell(b, c, e)
		if len(b) == text {
			b, text, off = append(b[:at], '-'), at, ""
		}
		width := textWidth(b[text:])
		b = append(b, off...)

		pad = max(0, c.width-width)
		if c.grows && width > c.width && i < len(t.columns)-1 {
			c.width, grown = (width+growStep-1)/growStep*growStep, true
		}
		if c.right {
			b = indent(b, at, pad)
			pad = 0
		}
		pad++
	}
	return append(b, '\n'), grown
}

func (*tableLayout) summary(b []byte, _ *events.Summary) []byte { return b }

func (*tableLayout) showsLost() bool { return false }

// cell appends what people read; nothing for what is unknown.
func (t *tableLayout) cell(b []byte, c *tableColumn, e *events.Event) []byte {
	if !c.concerns(e.Type) {
		return b
	}
	if c.Column.cell != nil {
		return c.Column.cell(b, e)
	}
	switch v := c.value(e); v.kind {
	case absent:
		return b
	case timestamp:
		return t.appendTime(b, int64(v.num))
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

// What times in tables look like.
const (
	dateLayout  = "2006-01-02" // wide only
	clockLayout = "15:04:05.000"
)

func (t *tableLayout) appendTime(b []byte, ns int64) []byte {
	at := time.Unix(0, ns).In(t.location)
	if t.wide {
		b = append(appendDate(b, at), ' ')
	}
	b = append(appendClock(b, at), '.')
	return appendDigits(b, uint64(at.Nanosecond()/1e6), 3)
}

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
		b = append(strconv.AppendInt(b, int64(n/smalls), 10), big...)
		return append(strconv.AppendInt(b, int64(n%smalls), 10), small...)
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
	return append(b, spaces[:n]...)
}

// indent moves b[at:] to the right by n.
func indent(b []byte, at, n int) []byte {
	end := len(b)
	b = appendSpaces(b, n)
	copy(b[at+n:], b[at:end])
	copy(b[at:at+n], spaces)
	return b
}
