// SPDX-License-Identifier: Apache-2.0

package events

import "testing"

func TestGaps(t *testing.T) {
	const refused, failed = ebusy, Errno(1)
	type step struct {
		conn        uint64
		total, segs uint32
		err         Errno
		gap         uint32
	}
	for name, steps := range map[string][]step{
		"each was seen":             {{1, 1, 1, 0, 0}, {1, 2, 1, 0, 0}, {1, 47, 45, 0, 0}},
		"the first begins":          {{1, 900, 1, 0, 0}, {1, 901, 1, 0, 0}},
		"one is missing":            {{1, 1, 1, 0, 0}, {1, 3, 1, 0, 1}, {1, 4, 1, 0, 0}},
		"many are missing":          {{1, 1, 1, 0, 0}, {1, 500, 45, 0, 454}},
		"of each connection":        {{1, 1, 1, 0, 0}, {2, 9, 1, 0, 0}, {1, 2, 1, 0, 0}, {2, 11, 1, 0, 1}},
		"a failure counts":          {{1, 1, 1, 0, 0}, {1, 2, 1, failed, 0}, {1, 3, 1, 0, 0}},
		"a refusal doesn't":         {{1, 1, 1, 0, 0}, {1, 1, 1, refused, 0}, {1, 1, 2, eagain, 0}, {1, 2, 1, 0, 0}},
		"missing before a refusal":  {{1, 1, 1, 0, 0}, {1, 3, 4, refused, 2}, {1, 4, 1, 0, 0}},
		"a refusal that counted":    {{1, 1, 1, 0, 0}, {1, 2, 1, refused, 0}},
		"no segments are one":       {{1, 1, 0, 0, 0}, {1, 2, 0, 0, 0}},
		"a count that begins again": {{1, 8, 1, 0, 0}, {1, 1, 1, 0, 0}, {1, 2, 1, 0, 0}},
		"a count that wraps around": {{1, 1<<32 - 1, 1, 0, 0}, {1, 0, 1, 0, 0}, {1, 2, 1, 0, 1}},
		"of an unknown connection":  {{0, 1, 1, 0, 0}, {0, 9, 1, 0, 0}},
	} {
		var g Gaps
		for i, s := range steps {
			e := Event{Type: Retransmit, Conn: s.conn, TotalRetrans: s.total, Segs: s.segs, Error: s.err}
			if g.See(&e); e.Gap != s.gap {
				t.Errorf("%s: gap %d at event %d, want %d", name, e.Gap, i, s.gap)
			}
		}
	}
	var g Gaps
	for _, total := range []uint32{1, 9} {
		e := Event{Type: StateChange, Conn: 1, TotalRetrans: total}
		if g.See(&e); e.Gap != 0 {
			t.Error("a state change has a gap")
		}
	}
}

// A connection that is in the newer half is not forgotten, and the memory does
// not grow, however many there are.
func TestGapsBound(t *testing.T) {
	var g Gaps
	see := func(conn uint64, total uint32) uint32 {
		e := Event{Type: Retransmit, Conn: conn, TotalRetrans: total, Segs: 1}
		g.See(&e)
		return e.Gap
	}
	see(1, 1)
	for conn := range uint64(4 * maxGapConns) {
		if gap := see(conn+2, 1); gap != 0 {
			t.Fatalf("gap %d at a first event", gap)
		}
		if conn%(maxGapConns/2) == 0 {
			if gap := see(1, 2+3*uint32(conn/(maxGapConns/2))); conn > 0 && gap != 2 {
				t.Fatalf("gap %d after %d others, want 2", gap, conn)
			}
		}
	}
	if len(g.young) > maxGapConns || len(g.old) > maxGapConns {
		t.Errorf("%d and %d connections kept", len(g.young), len(g.old))
	}
	if gap := see(2, 7); gap != 0 {
		t.Errorf("gap %d at a connection of long ago", gap)
	}
	conn := uint64(1 << 20)
	if n := testing.AllocsPerRun(1, func() {
		for range 4 * maxGapConns {
			conn++
			see(conn, 1)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkGaps(b *testing.B) {
	var g Gaps
	e := Event{Type: Retransmit, Segs: 1}
	b.ReportAllocs()
	for i := range b.N {
		e.Conn, e.TotalRetrans = 1+uint64(i)%1000, uint32(i)
		g.See(&e)
	}
}
