// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// same fails unless got is want.
func same(t testing.TB, want, got []events.Event) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		if !reflect.DeepEqual(want[i], got[i]) { // cmp.Diff is slow
			t.Fatalf("event %d of %d (-written +read):\n%s", i, len(want), cmp.Diff(want[i], got[i], cmpopts.IgnoreUnexported(events.Event{}),
				cmp.Comparer(func(a, b netip.Addr) bool { return a == b })))
		}
	}
	if len(want) != len(got) {
		t.Fatalf("%d events were written, %d read", len(want), len(got))
	}
}

var someInfo = Info{
	Tool: "1.2.3", Kernel: "6.18.0", Machine: "x86_64", Host: "test", BootID: "b00t", Start: 1773493766000000000,
	Types:   []events.Type{events.Retransmit, events.Reset, events.StateChange},
	Filters: "--port 443", Reasons: []string{"NOT_SPECIFIED", "NO_SOCKET"},
}

// record makes a recording of list, with a block after each of these numbers of
// events, and one at the end.
func record(t testing.TB, info Info, sum *events.Summary, list []events.Event, flush ...int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, info)
	if err != nil {
		t.Fatal(err)
	}
	for n, i := 1, 0; i < len(list); n++ { // batches of 1, 2, 3, ... events
		end := min(i+n, len(list))
		if len(flush) > 0 {
			end = min(end, flush[0])
		}
		if err := w.Append(list[i:end]); err != nil {
			t.Fatal(err)
		}
		if i = end; len(flush) > 0 && i == flush[0] {
			flush = flush[1:]
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if sum != nil {
		if err := w.Finish(sum); err != nil {
			t.Fatal(err)
		}
	}
	if w.Written() != int64(out.Len()) || w.Pending() != 0 {
		t.Fatalf("written %d, pending %d, there are %d bytes", w.Written(), w.Pending(), out.Len())
	}
	return out.Bytes()
}

// replay is all that a reader says.
type replay struct {
	r        *Reader
	events   []events.Event
	problems []Problem
}

func read(t testing.TB, in io.Reader, o ReaderOptions) (p replay, err error) {
	t.Helper()
	o.Problem = func(x Problem) { p.problems = append(p.problems, x) }
	p.r, err = NewReader(in, o)
	if err != nil {
		return p, err
	}
	batch := make([]events.Event, 0, 10)
	for {
		batch, err = p.r.Read(batch[:0])
		p.events = append(p.events, batch...)
		if err == io.EOF {
			return p, nil
		}
		if err != nil {
			return p, err
		}
		if len(batch) == 0 {
			t.Fatal("a read of nothing without an error")
		}
	}
}

func mustRead(t testing.TB, b []byte, o ReaderOptions) replay {
	t.Helper()
	p, err := read(t, bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *replay) clean(t testing.TB) {
	t.Helper()
	for _, x := range p.problems {
		t.Errorf("problem: %s", x)
	}
}

func mixed(seed uint64, n int) []events.Event {
	list := make([]events.Event, n)
	traffic := newTraffic(seed, 1000)
	for i := range list {
		traffic.next(&list[i])
	}
	return list
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 2, 100, 2*maxEvents + 7} {
		list := mixed(uint64(n), n)
		sum := &events.Summary{Events: uint64(n), Elapsed: time.Second}
		p := mustRead(t, record(t, someInfo, sum, list), ReaderOptions{})
		p.clean(t)
		same(t, list, p.events)
		if diff := cmp.Diff(&someInfo, p.r.Info()); diff != "" {
			t.Errorf("info:\n%s", diff)
		}
		if diff := cmp.Diff(sum, p.r.Summary()); diff != "" {
			t.Errorf("summary:\n%s", diff)
		}
	}
}

// randomize gives a value to each exported field of v, often an extreme one.
func randomize(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		v.SetUint(r.Uint64() >> r.IntN(64))
		if r.IntN(8) == 0 {
			v.SetUint(1<<v.Type().Bits() - 1)
		}
	case reflect.Int64, reflect.Int:
		v.SetInt(int64(r.Uint64()) >> r.IntN(64))
	case reflect.String:
		b := make([]byte, r.IntN(40))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		v.SetString(string(b))
	case reflect.Slice:
		if n := r.IntN(4); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
		}
		for i := range v.Len() {
			randomize(r, v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			randomize(r, v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[netip.Addr]() {
			a := []netip.Addr{{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"),
				netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("::")}
			v.Set(reflect.ValueOf(a[r.IntN(len(a))]))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				randomize(r, v.Field(i))
			}
		}
	default:
		panic("a field of a kind that this test does not know: " + v.Type().String())
	}
}

// A field that is added to the event, and not to the columns, fails here.
func TestEveryField(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	check := func(t *testing.T, list []events.Event) {
		t.Helper()
		p := mustRead(t, record(t, someInfo, nil, list), ReaderOptions{})
		if p.r.Damaged() {
			t.Fatal(p.problems)
		}
		same(t, list, p.events)
	}
	t.Run("alone", func(t *testing.T) {
		// Also where the event's type does not have the field.
		var list []events.Event
		typ := reflect.TypeFor[events.Event]()
		for i := range typ.NumField() {
			if !typ.Field(i).IsExported() {
				continue
			}
			for kind := events.Retransmit; kind <= events.Lost; kind++ {
				for range 4 {
					e := events.Event{Type: kind}
					f := reflect.ValueOf(&e).Elem().Field(i)
					for f.IsZero() || e.Type.String() == "" {
						randomize(r, f)
					}
					list = append(list, events.Event{Type: kind}, e)
				}
			}
		}
		check(t, list)
	})
	t.Run("all", func(t *testing.T) {
		list := make([]events.Event, 5000)
		for i := range list {
			randomize(r, reflect.ValueOf(&list[i]).Elem())
			list[i].Type = events.Retransmit + events.Type(r.IntN(int(events.Lost))) // others are left out
		}
		check(t, list)
	})
}

// However long the texts of a batch are, its blocks are no larger than readers
// take. An event that has too many is refused alone.
func TestLongTexts(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*events.Event, string){
		"cgroup": func(e *events.Event, text string) { e.Cgroup = text },
		"zone":   func(e *events.Event, text string) { e.RAddr = netip.MustParseAddr("fe80::1%" + text) },
	} {
		list := mixed(3, 60)
		for i := range list {
			set(&list[i], strings.Repeat(string(rune('a'+i)), 300_000+i))
		}
		var out bytes.Buffer
		w, err := NewWriter(&out, someInfo)
		if err == nil {
			err = errors.Join(w.Append(list), w.Finish(&events.Summary{}))
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p := mustRead(t, out.Bytes(), ReaderOptions{})
		p.clean(t)
		same(t, list, p.events)
	}

	list := mixed(3, 4)
	var out bytes.Buffer
	w, err := NewWriter(&out, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	list[2].Cgroup = strings.Repeat("a", maxText+1)
	if err := w.Append(list); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("%v", err)
	}
	if err := w.Append(list[3:]); err != nil {
		t.Error(err)
	}
	if err := w.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	p := mustRead(t, out.Bytes(), ReaderOptions{})
	p.clean(t)
	same(t, slices.Delete(list, 2, 3), p.events)
}

// A SYN-ACK has a total, and no others; of the state changes those have it that
// know it.
func TestRegularTotals(t *testing.T) {
	for _, tt := range []struct {
		of         events.Type
		known      events.Fields
		one, other bool
	}{
		{events.Retransmit, 0, true, false},
		{events.Retransmit, events.HasTotals, true, true},
		{events.StateChange, 0, false, false},
		{events.StateChange, events.HasTotals, true, true},
		{events.Reset, events.HasTotals, false, false},
	} {
		set := regular(tt.of, tt.known)
		if one, other := set>>26&1 != 0, set>>27&1 != 0; one != tt.one || other != tt.other {
			t.Errorf("%v, known %b: total_retrans %v, data_segs_out %v", tt.of, tt.known, one, other)
		}
	}
}

func TestSticky(t *testing.T) {
	fails := errors.New("the disk is full")
	w, err := NewWriter(&failing{room: 8000, err: fails}, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	list := mixed(1, 1000)
	if err := w.Append(list); err != nil {
		t.Fatal(err)
	}
	written := w.Written()
	if err := w.Flush(); !errors.Is(err, fails) {
		t.Errorf("flush: %v", err)
	}
	if err := w.Append(list[:1]); !errors.Is(err, fails) {
		t.Errorf("append: %v", err)
	}
	if err := w.Finish(&events.Summary{}); !errors.Is(err, fails) {
		t.Errorf("finish: %v", err)
	}
	if w.Written() != written {
		t.Errorf("%d bytes were written before, %d now", written, w.Written())
	}
}

// failing takes so many bytes, and then fails.
type failing struct {
	room int
	err  error
}

func (f *failing) Write(b []byte) (int, error) {
	n := min(len(b), f.room)
	f.room -= n
	if n < len(b) {
		return n, f.err
	}
	return n, nil
}

// However long the names and notes of many summaries are, what is kept of them
// has a bound.
func TestLongNotes(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	sum := &events.Summary{
		Audit:    []events.Audit{{NetNS: 1, Counter: long, Verdict: events.Unchecked, Note: long}},
		Counters: []events.Counter{{NetNS: 1, Counter: long}},
		ByKind:   []events.KindCount{{Name: long, Count: 1}},
	}
	got := mustRead(t, record(t, someInfo, sum, nil), ReaderOptions{}).r.Summary()
	short := long[:maxName]
	want := &events.Summary{
		Audit:    []events.Audit{{NetNS: 1, Counter: short, Verdict: events.Unchecked, Note: short}},
		Counters: []events.Counter{{NetNS: 1, Counter: short}},
		ByKind:   []events.KindCount{{Name: short, Count: 1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Nor is what is said longer.
	for _, header := range []string{`{"types":["` + long + `"]}`, `{"start":` + strings.Repeat("9", 10_000) + `}`} {
		p, err := read(t, strings.NewReader(string(frameOf(kindHeader, minor, header))), ReaderOptions{})
		if err != nil || len(p.problems) != 2 || len(p.problems[0].Text) < maxName || len(p.problems[0].Text) > 2*maxName {
			t.Errorf("%v, %q", err, p.problems)
		}
	}
	newer := frameOf(kindHeader, minor, `{"tool":"`+long+`"}`)
	newer[12] = major + 1
	endFrame(newer)
	if _, err := NewReader(bytes.NewReader(newer), ReaderOptions{}); !errors.Is(err, ErrFormat) || len(err.Error()) > 2*maxName {
		t.Errorf("%v", err)
	}
}
