// SPDX-License-Identifier: Apache-2.0

// Package format prints events: as tables for people, as JSON and CSV for
// programs. It holds the one declaration of every column, which the filter
// language uses too.
//
// It is pure: what it prints depends on its options and on the events alone,
// so that a replayed recording prints what the live run printed.
package format

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// The formats.
const (
	Table = "table" // for a terminal: under 100 columns with IPv4
	Wide  = "wide"  // a table of all that is useful, as wide as it gets
	JSON  = "json"  // one object a line
	CSV   = "csv"   // RFC 4180, ended by newlines
)

// Formats returns the names of all formats.
func Formats() []string { return []string{Table, Wide, JSON, CSV} }

// Options say how to print.
type Options struct {
	Format   string         // one of Formats; "" is Table
	Columns  []string       // names from Columns, for tables also from Composites; empty is the format's choice
	Types    []events.Type  // the types of events to come, which choose a table's columns; empty is all
	Color    bool           // tables only: escape sequences that colour by meaning
	Location *time.Location // time zone of tables; nil is time.Local
	NoHeader bool           // no headings, nor a CSV header row
}

// Printer appends events to a buffer of the caller's. It keeps the widths of a
// table's columns, and text that many lines share; it is not safe for
// concurrent use. In steady state it allocates nothing, as long as the buffer
// has room.
type Printer struct{ layout layout }

// layout is one format.
type layout interface {
	header(b []byte) []byte
	event(b []byte, e *events.Event) []byte
	summary(b []byte, s *events.Summary) []byte
	showsLost() bool
}

// New returns a Printer. Its errors are mistakes of the user: an unknown
// format, or a column that is unknown, named twice, or not for that format.
func New(o Options) (*Printer, error) {
	if o.Format == "" {
		o.Format = Table
	}
	if !slices.Contains(Formats(), o.Format) {
		return nil, fmt.Errorf("unknown format %q: it is one of %s", o.Format, strings.Join(Formats(), ", "))
	}
	isTable := o.Format == Table || o.Format == Wide
	names := o.Columns
	if len(names) == 0 && isTable {
		names = tableSet(o.Format, o.Types)
	}
	chosen := columns
	if len(names) > 0 {
		var err error
		if chosen, err = choose(names, isTable); err != nil {
			return nil, err
		}
	}
	switch o.Format {
	case JSON:
		return &Printer{newJSON(chosen)}, nil
	case CSV:
		return &Printer{newCSV(chosen, o.NoHeader)}, nil
	}
	return &Printer{newTable(chosen, o)}, nil
}

// AppendHeader appends what stands before the first event: a table's headings
// or a CSV header row, if anything.
func (p *Printer) AppendHeader(b []byte) []byte { return p.layout.header(b) }

// AppendEvent appends e as a line. A table's headings come again before a line
// that made columns wider.
//
// A lost event is appended where [Printer.ShowsLost] is true; otherwise
// nothing is, and [LostText] has words for it.
func (p *Printer) AppendEvent(b []byte, e *events.Event) []byte { return p.layout.event(b, e) }

// AppendSummary appends the summary as a line of JSON; nothing in other
// formats, for which [SummaryText] has words.
func (p *Printer) AppendSummary(b []byte, s *events.Summary) []byte { return p.layout.summary(b, s) }

// ShowsLost reports whether AppendEvent tells of lost events: always in JSON,
// even if --columns leaves out what they consist of; in CSV with the columns
// event and count; never in tables.
func (p *Printer) ShowsLost() bool { return p.layout.showsLost() }

// choose returns the columns of these names, each at most once.
func choose(names []string, table bool) ([]Column, error) {
	chosen := make([]Column, 0, len(names))
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("column %q is named twice", name)
		}
		c, ok := find(columns, name)
		if !ok {
			c, ok = find(composites, name)
			if ok && !table {
				return nil, fmt.Errorf("column %q is for tables only: %s", name, c.Doc)
			}
		}
		if !ok {
			return nil, unknownColumn(name, table)
		}
		chosen = append(chosen, c)
	}
	return chosen, nil
}

func unknownColumn(name string, table bool) error {
	known := columns
	if table {
		known = slices.Concat(columns, composites)
	}
	var all, near []string
	lower := strings.ToLower(name)
	for _, c := range known {
		if c.Name == lower {
			near = []string{c.Name}
			break
		}
		all = append(all, c.Name)
		if resembles(c.Name, lower) {
			near = append(near, c.Name)
		}
	}
	if len(near) > 0 {
		return fmt.Errorf("unknown column %q: did you mean %s?", name, strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown column %q: it is one of %s", name, strings.Join(all, ", "))
}

// resembles reports whether someone who meant known may have typed name.
func resembles(known, name string) bool {
	if len(name) >= 3 && strings.Contains(known, name) || len(known) >= 3 && strings.Contains(name, known) {
		return true
	}
	// One character typed wrongly, left out, added or swapped with the next.
	short, long := known, name
	if len(short) > len(long) {
		short, long = long, short
	}
	i := 0
	for i < len(short) && short[i] == long[i] {
		i++
	}
	switch len(long) - len(short) {
	case 0:
		if i == len(short) {
			return true
		}
		return short[i+1:] == long[i+1:] ||
			i+1 < len(short) && short[i] == long[i+1] && short[i+1] == long[i] && short[i+2:] == long[i+2:]
	case 1:
		return short[i:] == long[i+1:]
	}
	return false
}
