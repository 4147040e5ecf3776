// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

func TestSum(t *testing.T) {
	var s Sum
	s.Add(&Summary{
		Events: 5, Filtered: 1, Merged: 2, Lost: 3, Elapsed: time.Second, Skipped: 1, SkippedCounting: 1, Checked: 4,
		ByKind: []KindCount{{"rto", 2}, {"state", 3}}, Counters: []Counter{{1, "ListenOverflows", 2}, {2, "ListenOverflows", 1}},
	})
	s.Add(&Summary{
		Events: 10, Filtered: 10, Merged: 10, Lost: 10, Elapsed: time.Minute, Skipped: 10, SkippedCounting: 10, Checked: 3,
		ByKind: []KindCount{{"fast", 1}, {"rto", 9}}, Counters: []Counter{{2, "ListenOverflows", 3}, {2, "PAWSTimewait", 4}},
	})
	want := Summary{
		Events: 15, Filtered: 11, Merged: 12, Lost: 13, Elapsed: time.Minute + time.Second, Skipped: 11, SkippedCounting: 11, Checked: 4,
		ByKind:   []KindCount{{"rto", 11}, {"state", 3}, {"fast", 1}},
		Counters: []Counter{{1, "ListenOverflows", 2}, {2, "ListenOverflows", 4}, {2, "PAWSTimewait", 4}},
	}
	if !reflect.DeepEqual(s.Summary, want) {
		t.Errorf("got %+v\nwant %+v", s.Summary, want)
	}
	// Each number counts: one that is added to the struct is not forgotten.
	var a, b Summary
	r := rand.New(rand.NewPCG(1, 1))
	for i := range reflect.TypeFor[Summary]().NumField() {
		for _, s := range []*Summary{&a, &b} {
			if f := reflect.ValueOf(s).Elem().Field(i); f.CanUint() {
				f.SetUint(1 + r.Uint64N(1000))
			} else if f.CanInt() {
				f.SetInt(1 + r.Int64N(1000))
			}
		}
	}
	var both Sum
	both.Add(&a)
	both.Add(&b)
	sum := both.Summary
	for i := range reflect.TypeFor[Summary]().NumField() {
		x, y, z := reflect.ValueOf(a).Field(i), reflect.ValueOf(b).Field(i), reflect.ValueOf(sum).Field(i)
		name := reflect.TypeFor[Summary]().Field(i).Name
		if z.CanUint() && z.Uint() != x.Uint()+y.Uint() || z.CanInt() && name != "Checked" && z.Int() != x.Int()+y.Int() {
			t.Errorf("%s: %v and %v make %v", name, x, y, z)
		}
	}
}

// What a sum tells apart has a bound; no number is lost.
func TestSumBounds(t *testing.T) {
	var s Sum
	const n = maxRows + 1000
	for part := range 2 {
		o := Summary{}
		for i := range n {
			inum := uint32(1 + part*n + i)
			o.Audit = append(o.Audit, Audit{NetNS: inum, Counter: "OutRsts", Kernel: 3, Traced: 3, Verdict: Exact})
			o.Counters = append(o.Counters, Counter{inum, "ListenDrops", 2})
		}
		for i := range 2 * maxKinds {
			o.ByKind = append(o.ByKind, KindCount{fmt.Sprint(part, "-", i), 1})
		}
		o.Audit = append(o.Audit, Audit{NetNS: 9, Counter: "OutRsts", Traced: 5, Verdict: Unchecked, Note: fmt.Sprint("gone ", part)})
		s.Add(&o)
	}
	if len(s.Audit) != maxRows+2 || len(s.Counters) != maxRows+1 || len(s.ByKind) != maxKinds+1 {
		t.Errorf("%d audits, %d counters, %d kinds", len(s.Audit), len(s.Counters), len(s.ByKind))
	}
	var kernel, rise, kinds uint64
	for _, a := range s.Audit {
		kernel += a.Kernel
	}
	for _, c := range s.Counters {
		rise += c.Rise
	}
	for _, k := range s.ByKind {
		kinds += k.Count
	}
	if kernel != 2*n*3 || rise != 2*n*2 || kinds != 4*maxKinds {
		t.Errorf("%d counted, %d risen, %d of kinds", kernel, rise, kinds)
	}
	// To add one costs what that one has, whatever there is already.
	if n := testing.AllocsPerRun(10, func() { s.Add(&Summary{Audit: []Audit{}}) }); n > 0 {
		t.Errorf("adding nothing allocates %.0f times", n)
	}
	last := s.Audit[maxRows:]
	want := []Audit{{Counter: "OutRsts", Kernel: 3 * (2*n - maxRows), Traced: 3 * (2*n - maxRows), Verdict: Exact}, {Counter: "OutRsts", Traced: 10, Verdict: Unchecked}}
	if !reflect.DeepEqual(last, want) {
		t.Errorf("%+v", last)
	}
	// Names that only a hostile file has.
	var o Summary
	for i := range 2 * maxKinds {
		o.Audit = append(o.Audit, Audit{NetNS: 1, Counter: fmt.Sprint(i), Kernel: 1, Traced: 1, Verdict: Exact})
		o.Counters = append(o.Counters, Counter{1, fmt.Sprint(i), 1})
	}
	if s.Add(&o); len(s.Audit) != maxRows+maxKinds || len(s.Counters) != maxRows+maxKinds {
		t.Errorf("of hostile names %d audits, %d counters", len(s.Audit), len(s.Counters))
	}
}

func TestSumAudits(t *testing.T) {
	a := []Audit{
		{NetNS: 1, Counter: "RetransSegs", Kernel: 10, Traced: 9, Bracket: 0, Verdict: Missing},
		{NetNS: 1, Counter: "OutRsts", Kernel: 5, Traced: 5, Verdict: Exact},
		{NetNS: 2, Counter: "OutRsts", Traced: 1, Verdict: Unchecked, Note: "gone"},
		{NetNS: 4, Counter: "OutRsts", Kernel: 1, Traced: 0, Verdict: Missing},
	}
	b := []Audit{
		{NetNS: 1, Counter: "RetransSegs", Kernel: 20, Traced: 20, Bracket: 3, Verdict: Within},
		{NetNS: 1, Counter: "OutRsts", Kernel: 5, Traced: 4, Bracket: 1, Verdict: Within},
		{NetNS: 2, Counter: "OutRsts", Kernel: 7, Traced: 7, Verdict: Exact},
		{NetNS: 2, Counter: "OutRsts", Traced: 3, Verdict: Unchecked, Note: "gone"},
		{NetNS: 2, Counter: "OutRsts", Traced: 2, Bracket: 1, Verdict: Unchecked, Note: "unreadable"},
		{NetNS: 4, Counter: "OutRsts", Kernel: 1, Traced: 1, Verdict: Exact},
	}
	want := []Audit{
		{NetNS: 1, Counter: "RetransSegs", Kernel: 10, Traced: 9, Bracket: 0, Verdict: Missing},
		{NetNS: 1, Counter: "OutRsts", Kernel: 10, Traced: 9, Bracket: 1, Verdict: Within},
		{NetNS: 2, Counter: "OutRsts", Traced: 4, Verdict: Unchecked, Note: "gone"},
		{NetNS: 4, Counter: "OutRsts", Kernel: 1, Traced: 0, Verdict: Missing},
		{NetNS: 1, Counter: "RetransSegs", Kernel: 20, Traced: 20, Bracket: 3, Verdict: Within},
		{NetNS: 2, Counter: "OutRsts", Kernel: 7, Traced: 7, Verdict: Exact},
		{NetNS: 2, Counter: "OutRsts", Traced: 2, Bracket: 1, Verdict: Unchecked, Note: "unreadable"},
		{NetNS: 4, Counter: "OutRsts", Kernel: 1, Traced: 1, Verdict: Exact},
	}
	audit := func(of ...[]Audit) []Audit {
		var sum Sum
		for _, list := range of {
			sum.AddProof(&Summary{Audit: list})
		}
		return sum.Audit
	}
	if got := audit(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if audit(nil, nil) != nil {
		t.Error("no audit and no audit make one")
	}
	// Two namespaces that had one number, in one audit.
	if got := audit(nil, []Audit{b[0], b[0]}); len(got) != 2 {
		t.Errorf("two rows of one audit make %v", got)
	}
	if got := audit(nil, []Audit{}); got == nil || len(got) != 0 {
		t.Errorf("no audit and one of nothing make %v", got)
	}
}
