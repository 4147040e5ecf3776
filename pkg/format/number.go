// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"time"
)

// Numbers make up most of a line. The functions here write them where they
// belong, two digits at a time.

const digitPairs = "00010203040506070809" +
	"10111213141516171819" +
	"20212223242526272829" +
	"30313233343536373839" +
	"40414243444546474849" +
	"50515253545556575859" +
	"60616263646566676869" +
	"70717273747576777879" +
	"80818283848586878889" +
	"90919293949596979899"

var powersOf10 = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19}

// digits is the number of n's decimal digits.
func digits(n uint64) int {
	d := bits.Len64(n|1) * 1233 >> 12 // log10(2) is 1233/4096, or a little more
	if n >= powersOf10[d] {
		d++
	}
	return max(d, 1)
}

// extend makes b longer by n bytes, which may hold anything.
func extend(b []byte, n int) []byte {
	if cap(b)-len(b) < n {
		b = slices.Grow(b, n)
	}
	return b[:len(b)+n]
}

func appendUint(b []byte, n uint64) []byte {
	if n < 10 {
		return append(b, byte('0'+n))
	}
	b = extend(b, digits(n))
	putDigits(b, n)
	return b
}

// putDigits writes the last decimal digits of n to the end of b, as many as
// n has, and at least two.
func putDigits(b []byte, n uint64) {
	i := len(b)
	for n >= 100 {
		p := n % 100 * 2
		n /= 100
		i -= 2
		b[i], b[i+1] = digitPairs[p], digitPairs[p+1]
	}
	if n >= 10 {
		b[i-2], b[i-1] = digitPairs[n*2], digitPairs[n*2+1]
	} else {
		b[i-1] = byte('0' + n)
	}
}

// appendDigits appends the last width decimal digits of n.
func appendDigits(b []byte, n uint64, width int) []byte {
	b = extend(b, width)
	i := len(b)
	for ; width >= 2; width -= 2 {
		p := n % 100 * 2
		n /= 100
		i -= 2
		b[i], b[i+1] = digitPairs[p], digitPairs[p+1]
	}
	if width > 0 {
		b[i-1] = byte('0' + n%10)
	}
	return b
}

// appendHexUint appends n in hexadecimal digits.
func appendHexUint(b []byte, n uint64) []byte {
	width := max(1, (bits.Len64(n)+3)/4)
	b = extend(b, width)
	i := len(b)
	for ; width >= 2; width -= 2 {
		i -= 2
		b[i], b[i+1] = hexDigits[n>>4&15], hexDigits[n&15]
		n >>= 8
	}
	if width > 0 {
		b[i-1] = hexDigits[n&15]
	}
	return b
}

// appendDecimal appends n/10^places, without zeros at the end.
func appendDecimal(b []byte, n int64, places int) []byte {
	u := uint64(n)
	if n < 0 {
		b = append(b, '-')
		u = -u
	}
	unit := powersOf10[places]
	b = appendUint(b, u/unit)
	if u %= unit; u != 0 {
		b = append(b, '.')
		for u%10 == 0 {
			u /= 10
			places--
		}
		b = appendDigits(b, u, places)
	}
	return b
}

// octets has each byte in decimal, and at the end how long that is.
var octets = func() (list [256]uint32) {
	for n := range list {
		text := appendUint(nil, uint64(n))
		list[n] = uint32(len(text)) << 24
		for i, c := range text {
			list[n] |= uint32(c) << (8 * i)
		}
	}
	return list
}()

// appendAddr appends a, an IPv4-mapped one as IPv4.
func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.Is4() && !a.Is4In6() {
		if zone := a.Zone(); zone != "" {
			return appendZone(a.WithZone("").AppendTo(b), zone)
		}
		return a.AppendTo(b)
	}
	const room = len("255.255.255.255") + 1 // the last write goes beyond by up to one
	start := len(b)
	b = extend(b, room)
	at := start
	for _, o := range a.As4() {
		text := octets[o]
		binary.LittleEndian.PutUint32(b[at:], text&(1<<24-1)|'.'<<(text>>24*8))
		at += int(text>>24) + 1
	}
	return b[:at-1]
}

// appendZone appends an address's zone. The kernel's events have none, and a
// recording's is any text: what is more than a plain name is %XX, as RFC 6874
// has it, which no format needs to escape.
func appendZone(b []byte, zone string) []byte {
	b = append(b, '%')
	for i := range len(zone) {
		switch c := zone[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
			b = append(b, c)
		default:
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return b
}

// clock appends times of day. It remembers the second, which is that of the
// event before more often than not.
type clock struct {
	location *time.Location
	date     bool // with the date, ended by sep
	sep      byte

	known  bool
	second int64
	text   []byte // up to the second, and the point
}

// append appends ns since the epoch, with digits of a second.
func (c *clock) append(b []byte, ns int64, places int) []byte {
	second, rest := ns/1e9, ns%1e9
	if rest < 0 {
		second, rest = second-1, rest+1e9
	}
	if !c.known || second != c.second {
		t := time.Unix(second, 0).In(c.location)
		c.text = c.text[:0]
		if c.date {
			c.text = append(appendDate(c.text, t), c.sep)
		}
		c.text = append(appendClock(c.text, t), '.')
		c.second, c.known = second, true
	}
	b = append(b, c.text...)
	return appendDigits(b, uint64(rest)/powersOf10[9-places], places)
}

// appendTimestamp appends ns since the epoch as RFC 3339, UTC, with nine
// digits of nanoseconds.
func appendTimestamp(b []byte, ns int64) []byte {
	c := utcClock()
	return append(c.append(b, ns, 9), 'Z')
}

// utcClock is the clock of timestamps, which add a Z.
func utcClock() clock { return clock{location: time.UTC, date: true, sep: 'T'} }

func appendDate(b []byte, t time.Time) []byte {
	year, month, day := t.Date()
	b = appendDigits(b, uint64(year), 4)
	b = append(b, '-')
	b = appendDigits(b, uint64(month), 2)
	b = append(b, '-')
	return appendDigits(b, uint64(day), 2)
}

func appendClock(b []byte, t time.Time) []byte {
	hour, minute, second := t.Clock()
	b = appendDigits(b, uint64(hour), 2)
	b = append(b, ':')
	b = appendDigits(b, uint64(minute), 2)
	b = append(b, ':')
	return appendDigits(b, uint64(second), 2)
}
