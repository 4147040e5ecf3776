// SPDX-License-Identifier: Apache-2.0

package format

import (
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Processes, peers and whoever made a recording choose some of the text that
// is shown. None of it may move the cursor, change the title, hide or reorder
// what stands beside it, or begin a line of its own.

// plain says where a byte stands for itself.
var plain = func() (list [256]uint8) {
	for c := ' '; c < 0x7f; c++ {
		if c != '\\' {
			list[c] = inTable
		}
		if c != '\\' && c != '"' {
			list[c] |= inJSON
		}
	}
	return list
}()

const (
	inJSON  = 1 << iota
	inTable // and in CSV, but for what special says
)

const hexDigits = "0123456789abcdef"

// shown reports whether a terminal shows r as itself and nothing but itself:
// no controls, no bidirectional or other format characters, no separators
// except the ASCII space, nothing invisible.
func shown(r rune) bool {
	if r < utf8.RuneSelf {
		return ' ' <= r && r < 0x7f
	}
	return strconv.IsPrint(r) &&
		!unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}

// decode is utf8.DecodeRune. The conversion of so few bytes stays on the stack.
func decode[T string | []byte](s T, i int) (r rune, size int) {
	return utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
}

// appendEscaped appends s for tables and CSV. What is not shown as itself
// becomes an escape of Go's string literals, and a backslash is doubled, so
// that s can be told from the result. So do a space at either end, which
// nobody would see, and a lone "-", which means absent in tables.
//
// With sheet, =, +, - and @ at the beginning become escapes too: spreadsheets
// take such a cell of a CSV file for a formula, and run it.
func appendEscaped[T string | []byte](b []byte, s T, sheet bool) []byte {
	done := 0 // s[:done] is appended
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c]&inTable != 0 && (i > 0 && i < len(s)-1 || !(i == 0 && special(c, len(s), sheet)) && !(c == ' ' && i == len(s)-1)) {
			i++
			continue
		}
		r, n := rune(c), 1
		if c >= utf8.RuneSelf {
			if r, n = decode(s, i); shown(r) && (r != utf8.RuneError || n > 1) {
				i += n
				continue
			}
		}
		b = append(b, s[done:i]...)
		i += n
		done = i
		switch {
		case c == '\\':
			b = append(b, '\\', '\\')
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case n == 1: // ASCII, or not UTF-8
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		case r <= 0xffff:
			b = append(b, '\\', 'u')
			b = appendHex(b, r, 4)
		default:
			b = append(b, '\\', 'U')
			b = appendHex(b, r, 8)
		}
	}
	return append(b, s[done:]...)
}

// special reports whether c, which is harmless elsewhere, must be escaped at
// the beginning of a text of n bytes.
func special(c byte, n int, sheet bool) bool {
	switch c {
	case ' ':
		return true
	case '-':
		return sheet || n == 1
	case '=', '+', '@':
		return sheet
	}
	return false
}

// appendHex appends the last digits hexadecimal digits of r.
func appendHex(b []byte, r rune, digits int) []byte {
	for i := digits - 1; i >= 0; i-- {
		b = append(b, hexDigits[r>>(4*i)&15])
	}
	return b
}

// textWidth is the number of a terminal's columns that escaped text takes.
func textWidth(s []byte) int {
	var all byte
	for _, c := range s {
		all |= c
	}
	if all < utf8.RuneSelf {
		return len(s)
	}
	w := 0
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		w += runeWidth(r)
		s = s[n:]
	}
	return w
}

// runeWidth is 0 for marks that combine with the character before, 2 for what
// East Asian scripts and emoji fill (most of Unicode's East Asian Width W and F).
func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case 0x1100 <= r && r <= 0x115f,
		0x2e80 <= r && r <= 0xa4cf && r != 0x303f,
		0xac00 <= r && r <= 0xd7a3,
		0xf900 <= r && r <= 0xfaff,
		0xfe30 <= r && r <= 0xfe6f,
		0xff00 <= r && r <= 0xff60,
		0xffe0 <= r && r <= 0xffe6,
		0x1f300 <= r && r <= 0x1f64f,
		0x1f680 <= r && r <= 0x1f6ff,
		0x1f900 <= r && r <= 0x1f9ff,
		0x20000 <= r && r <= 0x3fffd:
		return 2
	}
	return 1
}

// Escape returns text as tables show it: what a terminal would not show as
// itself is an escape of Go's string literals, and a backslash is doubled.
func Escape(s string) string { return string(appendEscaped(nil, s, false)) }

// Width is the number of a terminal's columns that escaped text takes.
func Width(s string) int { return textWidth([]byte(s)) }

// AppendJSON appends a text in JSON, in which it escapes, beyond what JSON
// demands, whatever is not shown as itself, so that a terminal may show it.
func AppendJSON(b, text []byte) []byte {
	done := 0 // text[:done] is appended
	for i := 0; i < len(text); {
		if c := text[i]; c < 0x7f { // JSON has no controls but whitespace
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		if shown(r) && (r != utf8.RuneError || n > 1) {
			i += n
			continue
		}
		b = append(b, text[done:i]...)
		i += n
		done = i
		b = appendJSONEscape(b, r)
	}
	return append(b, text[done:]...)
}
