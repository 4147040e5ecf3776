// SPDX-License-Identifier: Apache-2.0

package live

import (
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// TestAuditJudge sets made-up readings beside each other.
func TestAuditJudge(t *testing.T) {
	const own, net, key = 10, 20, 7
	type byKey = map[uint64]counts
	ours := func(resets uint64) counts { return counts{Resets: resets, Netns: net} }
	sent := func(rsts uint64) counters { return counters{netns: net, outRsts: rsts} }
	at := func(before, after counts, kernel counters) *reading {
		return &reading{before: byKey{key: before}, after: byKey{key: after}, kernel: map[uint64]counters{key: kernel}}
	}
	calm := func(resets, rsts uint64) *reading { return at(ours(resets), ours(resets), sent(rsts)) }
	none := func() *reading { return &reading{before: byKey{}, after: byKey{}, kernel: map[uint64]counters{}} }
	row := func(kernel, traced, bracket uint64) events.Audit {
		return events.Audit{NetNS: net, Counter: outRsts, Kernel: kernel, Traced: traced, Bracket: bracket, Verdict: events.Judge(kernel, traced, bracket)}
	}
	not := func(counter string, traced uint64, note string) events.Audit {
		return events.Audit{NetNS: net, Counter: counter, Traced: traced, Verdict: events.Unchecked, Note: note}
	}
	resets := auditor{own: own, resets: true, outcomes: true}
	named := resets
	named.wanted = []uint32{net}
	told := auditor{own: own, retransmits: true, outcomes: true}
	untold := auditor{own: own, retransmits: true}
	hidden := resets
	hidden.hiddenResets = "hidden"

	full := none()
	full.before[noRoom], full.after[noRoom] = ours(9), ours(9)
	full.kernel[key] = sent(5)
	gone := calm(4, 0)
	delete(gone.kernel, key)
	newer := calm(3, 8)
	unreadable := calm(1, 0)
	unreadable.kernel[key] = counters{netns: net, note: noteUnreadable}
	aborted := calm(2, 3)
	aborted.kernel[key] = counters{netns: net, outRsts: 3, late: ext{abortFailed: 2}}

	rtx := func(c counts, k counters) *reading { k.netns, c.Netns = net, net; return at(c, c, k) }
	seen := counts{Segments: 5, Synacks: 2, Syns: 1, Failed: 3}

	for _, tt := range []struct {
		name        string
		a           auditor
		first, last *reading
		rows        []events.Audit
		checked     int
	}{
		{"exact", resets, calm(1, 100), calm(4, 103), []events.Audit{row(3, 3, 0)}, 1},
		{"missing", resets, calm(0, 0), calm(3, 5), []events.Audit{row(5, 3, 0)}, 1},
		{"extra", resets, calm(0, 9), calm(3, 10), []events.Audit{row(1, 3, 0)}, 1},
		{"within", resets, at(ours(1), ours(3), sent(12)), at(ours(10), ours(14), sent(22)), []events.Audit{row(10, 7, 6)}, 1},
		{"beyond the bracket", resets, at(ours(1), ours(3), sent(12)), at(ours(10), ours(14), sent(26)), []events.Audit{row(14, 7, 6)}, 1},
		{"nothing happened", resets, calm(3, 5), calm(3, 5), nil, 1},
		{"nothing happened where it was asked for", named, calm(3, 5), calm(3, 5), []events.Audit{row(0, 0, 0)}, 1},
		{"never seen", named, none(), none(), []events.Audit{not(outRsts, 0, noteGone)}, 0},
		{"another was asked for", auditor{wanted: []uint32{1}, resets: true}, calm(0, 0), calm(3, 5),
			[]events.Audit{{NetNS: 1, Counter: outRsts, Verdict: events.Unchecked, Note: noteGone}}, 0},
		{"new", resets, none(), calm(8, 8), []events.Audit{row(8, 8, 0)}, 1},
		{"not so new", resets, none(), newer, []events.Audit{not(outRsts, 3, noteBegin)}, 0},
		{"more than the new one counted", resets, none(), calm(8, 7), []events.Audit{row(7, 8, 0)}, 1},
		{"gone", resets, calm(1, 100), gone, []events.Audit{not(outRsts, 3, noteGone)}, 0},
		{"new and gone", resets, none(), gone, []events.Audit{not(outRsts, 4, noteGone)}, 0},
		{"unreadable", resets, calm(0, 0), unreadable, []events.Audit{not(outRsts, 1, noteUnreadable)}, 0},
		{"unreadable at first", resets, unreadable, calm(1, 5), []events.Audit{not(outRsts, 0, noteBegin)}, 0},
		{"fell", resets, calm(0, 9), calm(0, 8), []events.Audit{not(outRsts, 0, noteFell)}, 0},
		{"no room", resets, at(counts{}, counts{}, sent(3)), full, []events.Audit{
			not(outRsts, 0, noteNoRoom), {Counter: outRsts, Traced: 9, Verdict: events.Unchecked, Note: noteNoRoom}}, 0},
		{"hidden resets", hidden, calm(0, 0), calm(3, 5), []events.Audit{not(outRsts, 3, "hidden")}, 0},
		{"one could not be made", resets, calm(0, 0), aborted, []events.Audit{row(3, 2, 2)}, 1},

		{"outcomes", told, rtx(counts{}, counters{}), rtx(seen, counters{retransSegs: 10, early: ext{synRetrans: 3, retransFail: 3}}),
			[]events.Audit{
				{NetNS: net, Counter: retransSegs, Kernel: 10, Traced: 10, Verdict: events.Exact},
				{NetNS: net, Counter: tcpRetransFail, Kernel: 3, Traced: 3, Verdict: events.Exact},
				{NetNS: net, Counter: tcpSynRetrans, Kernel: 3, Traced: 3, Verdict: events.Exact}}, 1},
		{"a segment is missing", told, rtx(counts{}, counters{}), rtx(seen, counters{retransSegs: 11, early: ext{synRetrans: 3, retransFail: 3}}),
			[]events.Audit{
				{NetNS: net, Counter: retransSegs, Kernel: 11, Traced: 10, Verdict: events.Missing},
				{NetNS: net, Counter: tcpRetransFail, Kernel: 3, Traced: 3, Verdict: events.Exact},
				{NetNS: net, Counter: tcpSynRetrans, Kernel: 3, Traced: 3, Verdict: events.Exact}}, 1},
		{"no outcomes", untold, rtx(counts{}, counters{}),
			rtx(counts{Segments: 5, Synacks: 2, Syns: 1}, counters{retransSegs: 11, early: ext{synRetrans: 5, retransFail: 4}, late: ext{synRetrans: 5, retransFail: 4}}),
			[]events.Audit{
				{NetNS: net, Counter: retransSegs, Kernel: 11, Traced: 11, Verdict: events.Exact},
				{NetNS: net, Counter: tcpSynRetrans, Kernel: 5, Traced: 3, Bracket: 4, Verdict: events.Within}}, 1},
		{"no outcomes, and failures meanwhile", untold,
			rtx(counts{}, counters{early: ext{retransFail: 1}, late: ext{retransFail: 2}}),
			rtx(counts{Segments: 5}, counters{retransSegs: 9, early: ext{retransFail: 5}, late: ext{retransFail: 6}}),
			[]events.Audit{
				{NetNS: net, Counter: retransSegs, Kernel: 9, Traced: 8, Bracket: 2, Verdict: events.Within},
				{NetNS: net, Counter: tcpSynRetrans, Bracket: 5, Verdict: events.Within}}, 1},
		{"gone, of several counters", told, rtx(counts{}, counters{}), &reading{before: byKey{key: {Netns: net, Failed: 2}}, after: byKey{key: {Netns: net, Failed: 2}}},
			[]events.Audit{not(retransSegs, 2, noteGone), not(tcpRetransFail, 2, noteGone)}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.a.iter = new(link.Iter)
			rows, checked := tt.a.judge(tt.first, tt.last)
			if diff := cmp.Diff(tt.rows, rows); diff != "" || checked != tt.checked {
				t.Errorf("checked %d, want %d; rows (-want +got):\n%s", checked, tt.checked, diff)
			}
		})
	}
}

// Where other namespaces can't be read, the own is told by its inode number.
func TestAuditOwnOnly(t *testing.T) {
	a := auditor{own: 10, resets: true, outcomes: true, othersNote: "why"}
	one := &reading{before: map[uint64]counts{}, after: map[uint64]counts{}, kernel: map[uint64]counters{ownKey: {netns: 10, outRsts: 7}}}
	two := &reading{
		before: map[uint64]counts{ownKey: {Netns: 10, Resets: 2}, 5: {Netns: 20, Resets: 1}},
		after:  map[uint64]counts{ownKey: {Netns: 10, Resets: 2}, 5: {Netns: 20, Resets: 1}},
		kernel: map[uint64]counters{ownKey: {netns: 10, outRsts: 9}},
	}
	rows, checked := a.judge(one, two)
	want := []events.Audit{
		{NetNS: 10, Counter: outRsts, Kernel: 2, Traced: 2, Verdict: events.Exact},
		{NetNS: 20, Counter: outRsts, Traced: 1, Verdict: events.Unchecked, Note: "why"},
	}
	if diff := cmp.Diff(want, rows); diff != "" || checked != 1 {
		t.Errorf("checked %d; rows (-want +got):\n%s", checked, diff)
	}
	a.wanted = []uint32{30}
	if rows, _ := a.judge(one, two); len(rows) != 1 || rows[0].NetNS != 30 || rows[0].Note != "why" {
		t.Errorf("%+v", rows)
	}
}

// TestReadKernels reads this machine's namespaces: all in time, none late, and
// the own where no iterator tells.
func TestReadKernels(t *testing.T) {
	src, err := Open(t.Context(), Options{Types: []events.Type{events.Reset}, Buffer: os.Getpagesize()})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}()
	a := *src.(*source).audit
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil || a.own != uint32(st.Ino) {
		t.Fatalf("%v: the own namespace is %d, not %d", err, a.own, st.Ino)
	}
	find := func(all map[uint64]counters) (c counters, n int) {
		for _, k := range all {
			if k.netns == a.own {
				c, n = k, n+1
			}
		}
		return c, n
	}
	const never = 10 * time.Minute
	all, err := a.readKernels(&reading{alive: map[uint64]bool{}}, time.Now().Add(never))
	if err != nil {
		t.Fatal(err)
	}
	if c, n := find(all); n != 1 || c.note != "" {
		t.Errorf("the own namespace %d times: %+v", n, c)
	}
	late, err := a.readKernels(&reading{alive: map[uint64]bool{}}, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if c, n := find(late); n != 1 || c.note != noteLate {
		t.Errorf("past the deadline, the own namespace %d times: %+v", n, c)
	}
	a.iter = nil
	own, err := a.readKernels(&reading{alive: map[uint64]bool{}}, time.Now().Add(never))
	if c := own[ownKey]; err != nil || len(own) != 1 || c.netns != a.own || c.note != "" {
		t.Errorf("%v: %+v", err, own)
	}
	if c := a.readCounters("self/nothing", 1); c.note != noteUnreadable {
		t.Errorf("%+v", c)
	}
}
