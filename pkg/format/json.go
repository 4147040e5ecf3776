// SPDX-License-Identifier: Apache-2.0

package format

import (
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// jsonLayout prints one object a line.
type jsonLayout struct {
	// byType has the columns that an event of each type can have, so that the
	// others cost nothing. A lost event has all of its columns whatever the
	// user chose: losses are never hidden.
	byType [events.Lost + 1][]jsonColumn
	clock  clock
	owners ownerMemo
}

type jsonColumn struct {
	open  string // `,"name":` and what begins the value
	close byte   // what ends it; 0: nothing
	value func(*events.Event) Value
	run   int // how many from here on say who the owner is
	text  int // of the run, in an ownerEntry
}

func newJSONColumn(c *Column) jsonColumn {
	j := jsonColumn{open: `,"` + c.Name + `":`, value: c.value}
	switch c.Type {
	case String, Hex, Time:
		j.open, j.close = j.open+`"`, '"'
	case Ints:
		j.open, j.close = j.open+`[`, ']'
	}
	return j
}

func newJSON(chosen []Column) *jsonLayout {
	l := &jsonLayout{clock: utcClock()}
	for t := range l.byType {
		list := chosen
		if events.Type(t) == events.Lost {
			list = columns
		}
		list = slices.DeleteFunc(slices.Clone(list), func(c Column) bool { return !c.concerns(events.Type(t)) })
		runs := 0
		for i := 0; i < len(list); i++ {
			j := newJSONColumn(&list[i])
			if i == 0 || !list[i-1].owner {
				j.run, j.text = ownerRun(list[i:]), runs
				runs += min(j.run, 1)
			}
			l.byType[t] = append(l.byType[t], j)
		}
		l.owners.runs = max(l.owners.runs, runs)
	}
	return l
}

func (*jsonLayout) header(b []byte) []byte { return b }

func (*jsonLayout) showsLost() bool { return true }

func (l *jsonLayout) event(b []byte, e *events.Event) []byte {
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
	if len(b) == start {
		return append(b, "{}\n"...)
	}
	b[start] = '{' // instead of the first comma
	return append(b, '}', '\n')
}

// value appends e's value in a column, if it has one.
func (l *jsonLayout) value(b []byte, c *jsonColumn, e *events.Event) []byte {
	v := c.value(e)
	if v.kind == absent {
		return b
	}
	b = append(b, c.open...)
	switch v.kind {
	case integer:
		b = appendUint(b, v.num)
	case timestamp:
		b = append(l.clock.append(b, int64(v.num), 9), 'Z')
	case unsafeText:
		b = appendJSONText(b, *v.ref.(*string))
	case process:
		b = appendJSONText(b, v.ref.(*events.Comm).Bytes())
	default:
		b = v.appendPlain(b)
	}
	if c.close != 0 {
		b = append(b, c.close)
	}
	return b
}

func (*jsonLayout) summary(b []byte, s *events.Summary) []byte {
	b = append(b, `{"event":"summary","events":`...)
	b = strconv.AppendUint(b, s.Events, 10)
	if !s.Partial {
		b = append(b, `,"filtered":`...)
		b = strconv.AppendUint(b, s.Filtered, 10)
		b = append(b, `,"merged":`...)
		b = strconv.AppendUint(b, s.Merged, 10)
	}
	b = append(b, `,"lost":`...)
	b = strconv.AppendUint(b, s.Lost, 10)
	if s.Damaged {
		b = append(b, `,"damaged":true`...)
	}
	b = append(b, `,"by_kind":{`...)
	for i, k := range s.ByKind {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSONString(b, k.Name)
		b = append(b, ':')
		b = strconv.AppendUint(b, k.Count, 10)
	}
	b = append(b, `},"seconds":`...)
	b = appendDecimal(b, s.Elapsed.Milliseconds(), 3)
	if s.Skipped > 0 {
		b = append(b, `,"skipped":`...)
		b = strconv.AppendUint(b, s.Skipped, 10)
	}
	if s.SkippedCounting > 0 {
		b = append(b, `,"skipped_counting":`...)
		b = strconv.AppendUint(b, s.SkippedCounting, 10)
	}
	if s.Audit != nil {
		b = append(b, `,"audited_netns":`...)
		b = strconv.AppendUint(b, uint64(s.Checked), 10)
	}
	for i := range s.Audit {
		if i == 0 {
			b = append(b, `,"audit":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendAudit(b, &s.Audit[i])
	}
	if len(s.Audit) > 0 {
		b = append(b, ']')
	}
	for i := range s.Counters {
		c := &s.Counters[i]
		if i == 0 {
			b = append(b, `,"counters":[{`...)
		} else {
			b = append(b, `,{`...)
		}
		if c.NetNS > 0 {
			b = append(b, `"netns":`...)
			b = strconv.AppendUint(b, uint64(c.NetNS), 10)
			b = append(b, ',')
		}
		b = append(b, `"counter":`...)
		b = appendJSONString(b, c.Counter)
		b = append(b, `,"rise":`...)
		b = strconv.AppendUint(b, c.Rise, 10)
		b = append(b, '}')
	}
	if len(s.Counters) > 0 {
		b = append(b, ']')
	}
	return append(b, '}', '\n')
}

func appendAudit(b []byte, a *events.Audit) []byte {
	b = append(b, '{')
	if a.NetNS != 0 {
		b = append(b, `"netns":`...)
		b = strconv.AppendUint(b, uint64(a.NetNS), 10)
		b = append(b, ',')
	}
	b = append(b, `"counter":`...)
	b = appendJSONString(b, a.Counter)
	if a.Verdict != events.Unchecked {
		b = append(b, `,"kernel":`...)
		b = strconv.AppendUint(b, a.Kernel, 10)
	}
	b = append(b, `,"traced":`...)
	b = strconv.AppendUint(b, a.Traced, 10)
	b = append(b, `,"bracket":`...)
	b = strconv.AppendUint(b, a.Bracket, 10)
	b = append(b, `,"verdict":`...)
	b = appendJSONString(b, a.Verdict.String())
	if a.Note != "" {
		b = append(b, `,"note":`...)
		b = appendJSONString(b, a.Note)
	}
	return append(b, '}')
}

// appendJSONString appends s in quotes.
func appendJSONString(b []byte, s string) []byte {
	return append(appendJSONText(append(b, '"'), s), '"')
}

// appendJSONText appends what belongs between the quotes. Beyond what JSON
// demands, it escapes whatever is not shown as itself, so that a terminal may
// show the line. Invalid UTF-8 becomes U+FFFD.
func appendJSONText[T string | []byte](b []byte, s T) []byte {
	done := 0 // s[:done] is appended
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c]&inJSON != 0 {
			i++
			continue
		}
		r, n := rune(c), 1
		if c >= utf8.RuneSelf {
			r, n = decode(s, i)
			if shown(r) && (r != utf8.RuneError || n > 1) {
				i += n
				continue
			}
		}
		b = append(b, s[done:i]...)
		i += n
		done = i
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', c)
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == '\r':
			b = append(b, '\\', 'r')
		case r == '\t':
			b = append(b, '\\', 't')
		default: // U+FFFD too, for what is not UTF-8
			b = appendJSONEscape(b, r)
		}
	}
	return append(b, s[done:]...)
}

// appendJSONEscape appends r in hexadecimal.
func appendJSONEscape(b []byte, r rune) []byte {
	if r > 0xffff { // a surrogate pair
		r -= 0x10000
		b = append(b, '\\', 'u')
		b = appendHex(b, 0xd800+r>>10, 4)
		r = 0xdc00 + r&0x3ff
	}
	b = append(b, '\\', 'u')
	return appendHex(b, r, 4)
}
