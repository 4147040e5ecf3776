// SPDX-License-Identifier: Apache-2.0

package format

import (
	"math"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// TestNumbers compares with the standard library, around each power.
func TestNumbers(t *testing.T) {
	list := []uint64{0, math.MaxUint64}
	for p := uint64(1); ; p *= 10 {
		list = append(list, p-1, p, p+1, 9*p, p+p/2)
		if p == 1e19 {
			break
		}
	}
	for shift := range 64 {
		list = append(list, 1<<shift-1, 1<<shift, 1<<shift+1)
	}
	for _, n := range list {
		want := strconv.FormatUint(n, 10)
		if got := string(appendUint([]byte("x"), n)); got != "x"+want {
			t.Errorf("%s became %s", want, got)
		}
		if got := digits(n); got != len(want) {
			t.Errorf("%s has %d digits", want, got)
		}
		if got := string(appendHexUint([]byte("x"), n)); got != "x"+strconv.FormatUint(n, 16) {
			t.Errorf("%x became %s", n, got)
		}
		for width := range 12 {
			padded := "00000000000" + want
			if got := string(appendDigits([]byte("x"), n, width)); got != "x"+padded[len(padded)-width:] {
				t.Errorf("%d digits of %s: %s", width, want, got)
			}
		}
	}
}

// TestAddrs: an address is written as net/netip does, into any buffer, and
// nothing behind it changes.
func TestAddrs(t *testing.T) {
	for _, text := range []string{"0.0.0.0", "1.2.3.4", "10.20.30.40", "255.255.255.255", "99.100.9.10", "::", "::1", "2001:db8::1"} {
		a := netip.MustParseAddr(text)
		for _, in := range []netip.Addr{a, netip.AddrFrom16(a.As16())} {
			for room := range 20 {
				buf := make([]byte, 2, 2+room)
				if got := string(appendAddr(buf, in)[2:]); got != text {
					t.Errorf("%s became %s", text, got)
				}
			}
		}
	}
	for n := range 256 {
		a := netip.AddrFrom4([4]byte{byte(n), 0, byte(n), byte(n)})
		if got := string(appendAddr(nil, a)); got != a.String() {
			t.Errorf("%s became %s", a, got)
		}
	}
}

// TestClock: what is remembered of one moment doesn't show in another.
func TestClock(t *testing.T) {
	minus1 := time.FixedZone("", -3600)
	for _, location := range []*time.Location{time.UTC, plus530, minus1} {
		tables, wide := clock{location: location}, clock{location: location, date: true, sep: ' '}
		for _, ns := range []int64{
			0, 1, -1, 999999999, 1e9, 1e9 - 1, -1e9, -1e9 - 1, at, at + 1, at + 1e9, at - 1e9, at, at + 86400e9,
			math.MaxInt64, math.MinInt64,
		} {
			want := time.Unix(0, ns).In(location)
			if got := string(tables.append(nil, ns, 3)); got != want.Format("15:04:05.000") {
				t.Errorf("%d became %s, want %s", ns, got, want)
			}
			if got := string(wide.append(nil, ns, 9)); got != want.Format("2006-01-02 15:04:05.000000000") {
				t.Errorf("%d became %s, want %s", ns, got, want)
			}
		}
	}
}
