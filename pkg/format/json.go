// SPDX-License-Identifier: Apache-2.0

package format

import (
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
}

type jsonColumn struct {
	key   string // `,"name":`
	value func(*events.Event) Value
}

func newJSON(chosen []Column) *jsonLayout {
	l := new(jsonLayout)
	for t := range l.byType {
		list := chosen
		if events.Type(t) == events.Lost {
			list = columns
		}
		for _, c := range list {
			if c.concerns(events.Type(t)) {
				l.byType[t] = append(l.byType[t], jsonColumn{`,"` + c.Name + `":`, c.value})
			}
		}
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
	for i := range cols {
		if v := cols[i].value(e); v.kind != absent {
			b = append(b, cols[i].key...)
			b = v.appendJSON(b)
		}
	}
	if len(b) == start {
		return append(b, "{}\n"...)
	}
	b[start] = '{' // instead of the first comma
	return append(b, '}', '\n')
}

func (*jsonLayout) summary(b []byte, s *events.Summary) []byte {
	b = append(b, `{"event":"summary","events":`...)
	b = strconv.AppendUint(b, s.Events, 10)
	b = append(b, `,"filtered":`...)
	b = strconv.AppendUint(b, s.Filtered, 10)
	b = append(b, `,"merged":`...)
	b = strconv.AppendUint(b, s.Merged, 10)
	b = append(b, `,"lost":`...)
	b = strconv.AppendUint(b, s.Lost, 10)
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

func (v Value) appendJSON(b []byte) []byte {
	switch v.kind {
	case integer:
		return strconv.AppendUint(b, v.num, 10)
	case duration, boolean:
		return v.appendPlain(b)
	case integers:
		b = append(b, '[')
		b = v.appendPlain(b)
		return append(b, ']')
	case unsafeText:
		return appendJSONString(b, *v.ref.(*string))
	case process:
		return appendJSONString(b, v.ref.(*events.Comm).Bytes())
	}
	b = append(b, '"')
	b = v.appendPlain(b)
	return append(b, '"')
}

// appendJSONString appends s in quotes. Beyond what JSON demands, it escapes
// whatever is not shown as itself, so that a terminal may show the line.
// Invalid UTF-8 becomes U+FFFD.
func appendJSONString[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	done := 0 // s[:done] is appended
	for i := 0; i < len(s); {
		c := s[i]
		if ' ' <= c && c < 0x7f && c != '"' && c != '\\' {
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
		case r <= 0xffff: // U+FFFD too, for what is not UTF-8
			b = append(b, '\\', 'u')
			b = appendHex(b, r, 4)
		default: // a surrogate pair
			r -= 0x10000
			b = append(b, '\\', 'u')
			b = appendHex(b, 0xd800+r>>10, 4)
			b = append(b, '\\', 'u')
			b = appendHex(b, 0xdc00+r&0x3ff, 4)
		}
	}
	b = append(b, s[done:]...)
	return append(b, '"')
}
