// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/format"
)

var update = flag.Bool("update", false, "write testdata of this version's format anew")

// packer is made once: it is large, and fuzzing forges often.
var packer = sync.OnceValues(func() (*zstd.Encoder, error) { return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)) })

// forge makes a recording with one block that has this content. change may
// change its header.
func forge(t testing.TB, raw []byte, n int, change func(*blockHeader)) []byte {
	t.Helper()
	enc, err := packer()
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(raw, nil)
	b := record(t, someInfo, nil, nil)
	h := blockHeader{recording: le.Uint32(b[16:]), events: uint32(n), raw: uint32(len(raw)), packed: uint32(len(packed)), clock: 5, flags: hasSettings}
	if change != nil {
		change(&h)
	}
	head := h.appendTo(beginFrame(nil, kindBlock))
	endFrame(head)
	return append(append(b, head...), packed...)
}

// rawBlock is a block's content, and its events.
func rawBlock(t testing.TB, n int) ([]byte, []events.Event) {
	t.Helper()
	list := mixed(9, n)
	b := newBlock()
	for left := list; len(left) > 0; {
		left = left[b.add(left[:b.fit(left)]):]
	}
	b.addSettings(&events.Settings{NetNS: 7, Values: []events.Setting{{Name: "tcp_retries2", Value: "15"}}})
	// The first time column is a difference to the clock that forge writes.
	raw := b.appendTo(nil)
	return raw, list
}

func frameOf(k kind, minor uint8, payload string) []byte {
	b := append(beginFrame(nil, k), payload...)
	b[13] = minor
	endFrame(b)
	return b
}

func TestNewerMinor(t *testing.T) {
	raw, list := rawBlock(t, 50)
	clock := func(h *blockHeader) { h.clock = list[0].Time - int64(list[0].Boot) }
	plain := forge(t, raw, len(list), clock)
	head := bytes.Index(plain, kindBlock[:]) - zstdPrefix

	// A column more in each table: the sections are taken apart and put together.
	var wider []byte
	for in := (cursor{b: raw}); len(in.b) > 0; {
		id := in.b[0]
		in.b = in.b[1:]
		content, ok := in.bytes()
		if !ok {
			t.Fatal("no section")
		}
		content = bytes.Clone(content)
		if id != textSection && id != settingsSection {
			content = append(content, 62<<1, 7)
			content = append(content, 63<<1|1, 3, 1, 2, 3)
			content = append(binary.AppendUvarint(content, 1000<<1), 7)
		}
		wider = append(binary.AppendUvarint(append(wider, id), uint64(len(content))), content...)
	}
	var h blockHeader
	h.parse(plain[head+envelopeLen:])
	longer := append(h.appendTo(beginFrame(nil, kindBlock)), "more of a newer version"...)
	endFrame(longer)
	newer := bytes.Clone(plain)
	newer[13] = 9
	sum := endFrame(newer[:head]) // of the header
	le.PutUint32(newer[head+envelopeLen:], sum)
	endFrame(newer[head : head+envelopeLen+blockHeaderLen])

	foreign := "\x5a\x2a\x4d\x18\x05\x00\x00\x00hello"
	for name, tt := range map[string]struct {
		file  []byte
		notes []string
	}{
		"section": {forge(t, append(append(bytes.Clone(raw), 99, 3, 1, 2, 3), 99, 0), len(list), clock), []string{"section 99 of blocks"}},
		"columns": {forge(t, wider, len(list), clock), []string{
			"column 62 of forms", "column 63 of forms", "column 1000 of forms",
			"column 62 of owners", "column 63 of owners", "column 1000 of owners",
			"column 62 of connections", "column 63 of connections", "column 1000 of connections",
			"column 62 of events", "column 63 of events", "column 1000 of events"}},
		"longer header": {append(append(bytes.Clone(plain[:head]), longer...), plain[head+envelopeLen+blockHeaderLen:]...), nil},
		"minor":         {newer, []string{"format 1.9: what is new in it"}},
		"frame": {append(append(append(bytes.Clone(plain[:head]), frameOf(kind{'t', 'c', 'p', 'X'}, minor, "?")...),
			frameOf(kind{'t', 'c', 'p', 'X'}, minor, "??")...), plain[head:]...), []string{`a frame "tcpX"`}},
		"foreign frame": {append(append(append(bytes.Clone(plain[:head]), foreign...), plain[head:]...), foreign...), []string{"a skippable frame"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustRead(t, tt.file, ReaderOptions{})
			same(t, list, p.events)
			var notes []string
			for _, x := range p.problems {
				if !x.Note {
					t.Errorf("no note: %s", x)
				} else if n, ok := strings.CutSuffix(x.Text, ": unknown to this version, left out"); ok {
					notes = append(notes, n)
				}
			}
			if !reflect.DeepEqual(notes, tt.notes) || p.r.Damaged() {
				t.Errorf("notes %q, want %q", notes, tt.notes)
			}
		})
	}
}

func TestNewerMajor(t *testing.T) {
	newer := append(beginFrame(nil, kindHeader), `{"tool":"9.8.7","start":{"new":"shape"}}`...)
	newer[12] = 2
	endFrame(newer)
	old, list, _ := small(t)
	for name, b := range map[string][]byte{"first": newer, "second": append(old, newer...)} {
		p, err := read(t, bytes.NewReader(b), ReaderOptions{})
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), `format 2`) || !strings.Contains(err.Error(), "9.8.7") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "second" {
			same(t, list, p.events)
		}
	}
}

// Numbers that this version has no names for are kept, and shown as unknown. An
// event that it has no name for is left out.
func TestUnknownValues(t *testing.T) {
	e := events.Event{
		Time: 1, Type: 77, Known: 1<<63 | events.HasCAState, State: 99, Kind: 200, Phase: 9, CAState: 50, Direction: 8, OldState: 70, NewState: 71,
		Error: 4000, Of: 66, Flags: 0xffff,
	}
	list := []events.Event{e, e, e}
	list[1].Type, list[2].Type = events.Retransmit, events.Reset
	info := someInfo
	b := record(t, info, &events.Summary{Events: 3}, list)
	p := mustRead(t, b, ReaderOptions{})
	if len(p.problems) != 1 || !p.problems[0].Note || !strings.HasPrefix(p.problems[0].Text, "event number 77: unknown") || p.r.Summary() == nil {
		t.Errorf("%v", p.problems)
	}
	same(t, list[1:], p.events)
	for _, name := range format.Formats() {
		printer, err := format.New(format.Options{Format: name})
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.events {
			printer.AppendEvent(nil, &p.events[i])
		}
	}

	// The names in header and trailer, too.
	head := frameOf(kindHeader, minor, `{"tool":"x","types":["reset","teleport"],"future":[1,{}]}`)
	end := frameOf(kindTrailer, minor, fmt.Sprintf(
		`{"recording":%d,"summary":{"events":0,"audit":[{"netns":5,"counter":"OutRsts","kernel":3,"verdict":"splendid"}]}}`, le.Uint32(head[16:])))
	p = mustRead(t, append(head, end...), ReaderOptions{})
	if p.r.Damaged() || len(p.problems) != 1 || !reflect.DeepEqual(p.r.Info().Types, []events.Type{events.Reset}) {
		t.Errorf("%v, %v", p.problems, p.r.Info())
	}
	if s := p.r.Summary(); s == nil || s.Audit[0].Verdict != events.Unchecked || s.Audit[0].Kernel != 3 {
		t.Errorf("%+v", s)
	}
}

func TestConcatenated(t *testing.T) {
	a, listA, _ := small(t)
	listB := mixed(77, 30)
	info := someInfo
	info.Host = "another"
	b := record(t, info, &events.Summary{Events: 2, Audit: []events.Audit{{NetNS: 4026531840, Counter: "RetransSegs", Kernel: 3, Traced: 2, Verdict: events.Missing}}}, listB, 15)
	both := append(bytes.Clone(a), b...)
	p := mustRead(t, both, ReaderOptions{})
	p.clean(t)
	same(t, append(append([]events.Event(nil), listA...), listB...), p.events)
	want := &events.Summary{Events: 22, Audit: []events.Audit{
		{NetNS: 4026531840, Counter: "RetransSegs", Kernel: 7, Traced: 7, Verdict: events.Exact},
		{NetNS: 4026531840, Counter: "RetransSegs", Kernel: 3, Traced: 2, Verdict: events.Missing},
	}}
	if diff := cmp.Diff(want, p.r.Summary()); diff != "" {
		t.Error(diff)
	}
	if p.r.Info().Host != "another" || p.r.Offset() != int64(len(both)) {
		t.Errorf("%+v, %d bytes", p.r.Info(), p.r.Offset())
	}

	// The same one twice, and one that is not finished before another.
	p = mustRead(t, append(bytes.Clone(a), a...), ReaderOptions{})
	p.clean(t)
	if len(p.events) != 2*len(listA) {
		t.Errorf("%d events", len(p.events))
	}
	ends := blockEnds(t, a)
	p = mustRead(t, append(bytes.Clone(a[:ends[3]]), b...), ReaderOptions{})
	if p.r.Summary() != nil || len(p.events) != len(listA)+len(listB) {
		t.Errorf("%d events, %+v", len(p.events), p.r.Summary())
	}
	if said := fmt.Sprintf("at byte %d: not finished: it has no summary", ends[3]); len(p.problems) != 1 || p.problems[0].String() != said || !p.problems[0].Note {
		t.Errorf("%v", p.problems)
	}
	// A damaged header behind a whole recording.
	c := bytes.Clone(both)
	c[len(a)+40] ^= 1
	checkDamaged(t, c, append(append([]events.Event(nil), listA...), listB...), []int{5, 6, 15, 20, 35, 50}, 0)
}

func TestSpan(t *testing.T) {
	b, list, ends := small(t)
	all := func(since, until int64) (want []events.Event) {
		for i := range list {
			if (since == 0 || list[i].Time >= since) && (until == 0 || list[i].Time <= until) {
				want = append(want, list[i])
			}
		}
		return want
	}
	for _, tt := range [][2]int64{{0, 0}, {list[7].Time, 0}, {0, list[7].Time}, {list[2].Time, list[17].Time}, {list[19].Time + 1, 0}, {0, 1}} {
		p := mustRead(t, b, ReaderOptions{Since: tt[0], Until: tt[1]})
		p.clean(t)
		same(t, all(tt[0], tt[1]), p.events)
	}
	// A block outside is not unpacked: what is wrong in it goes unseen.
	p := mustRead(t, damagedCopy(t, b, 0), ReaderOptions{Since: list[ends[1]].Time})
	p.clean(t)
	same(t, list[ends[1]:], p.events)
}

func TestSettings(t *testing.T) {
	var out bytes.Buffer
	w, err := NewWriter(&out, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	list := mixed(2, 3)
	first := events.Settings{NetNS: 5, Time: 123, Boot: 45, Values: []events.Setting{{Name: "tcp_retries2", Value: "15"}, {Name: "tcp_rmem", Value: "4096\t131072\t6291456"}}}
	second := events.Settings{NetNS: 5, Time: -5, Boot: 46, Values: []events.Setting{{Name: "tcp_retries2", Value: "8"}}}
	other := events.Settings{NetNS: 4026531840, Time: 124}
	w.Settings(&first)
	w.Settings(&other)
	for i := range list {
		if err := w.Append(list[i : i+1]); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	w.Settings(&second)
	if err := w.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	for _, since := range []int64{0, list[2].Time} { // blocks with settings count, wherever they are
		r, err := NewReader(bytes.NewReader(out.Bytes()), ReaderOptions{Since: since, Problem: func(p Problem) { t.Error(p) }})
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Read(make([]events.Event, 0, 1))
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		if diff := cmp.Diff(&first, r.Settings(5)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(&other, r.Settings(4026531840)); diff != "" {
			t.Error(diff)
		}
		for err == nil {
			_, err = r.Read(make([]events.Event, 0, 1))
		}
		if diff := cmp.Diff(&second, r.Settings(5)); diff != "" || r.Settings(6) != nil {
			t.Error(diff)
		}
	}
}

// Any zstd unpacks it.
func TestOrdinaryTools(t *testing.T) {
	b, _, _ := small(t)
	dec, err := zstd.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	raw, err := io.ReadAll(dec)
	if err != nil || !bytes.Contains(raw, []byte("/system.slice/")) {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	tool, err := exec.LookPath("zstd")
	if err != nil {
		return
	}
	file := filepath.Join(t.TempDir(), "x.tcptrace")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "-dc", file).Output()
	if err != nil || !bytes.Equal(out, raw) {
		t.Errorf("zstd -dc: %d bytes, %v; want %d", len(out), err, len(raw))
	}
}

func TestBomb(t *testing.T) {
	var packed bytes.Buffer
	enc, err := zstd.NewWriter(&packed, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 1 << 10 {
		if _, err := enc.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	for _, raw := range []uint32{1 << 20, maxRaw} {
		b := forge(t, nil, 1, func(h *blockHeader) { h.raw, h.packed = raw, uint32(packed.Len()) })
		b = append(b[:blockEnds(t, b)[0]-packed.Len()], packed.Bytes()...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p := mustRead(t, b, ReaderOptions{})
		runtime.ReadMemStats(&after)
		if !p.r.Damaged() || len(p.events) != 0 {
			t.Errorf("%d events, %v", len(p.events), p.problems)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
			t.Errorf("a GiB of zeros took %d bytes", n)
		}
	}
}

// Nor do settings, of which a reader keeps those of many namespaces.
func TestLongSettings(t *testing.T) {
	long := func(netns uint32, n int) *events.Settings {
		return &events.Settings{NetNS: netns, Values: []events.Setting{{Name: "x", Value: fmt.Sprintf("%08d", netns) + strings.Repeat("a", n-8)}}}
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	const nets = 200
	for i := range uint32(nets) {
		w.Settings(long(i, maxText-100))
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	p := mustRead(t, out.Bytes(), ReaderOptions{})
	p.clean(t)
	kept := 0
	for i := range uint32(nets) {
		if p.r.Settings(i) != nil {
			kept += maxText
		}
	}
	if kept == 0 || kept > maxKeptBytes || p.r.Settings(nets-1) == nil {
		t.Errorf("%d bytes are kept", kept)
	}

	// No writer makes longer ones.
	out.Reset()
	if w, err = NewWriter(&out, someInfo); err != nil {
		t.Fatal(err)
	}
	w.block.addSettings(long(1, 2*maxText))
	if err := w.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	if p := mustRead(t, out.Bytes(), ReaderOptions{}); !p.r.Damaged() || p.r.Settings(1) != nil {
		t.Errorf("%v", p.problems)
	}
}

// Nor does a header of many short names take many times its size.
func TestHeaderOfNames(t *testing.T) {
	b := beginFrame(nil, kindHeader)
	b = append(b, `{"types":["a"`...)
	for len(b) < maxFrame-16 {
		b = append(b, `,"a"`...)
	}
	b = append(b, `]}`...)
	endFrame(b)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p := mustRead(t, b, ReaderOptions{})
	runtime.ReadMemStats(&after)
	if len(p.problems) == 0 || !strings.Contains(p.problems[0].Text, "the header makes no sense") {
		t.Errorf("%v", p.problems)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("%d bytes took %d", len(b), n)
	}
}

// sample is what testdata holds: every kind of event, every number that has a
// name, and traffic.
func sample() []events.Event {
	list := mixed(11, 60)
	at := list[len(list)-1]
	base := list[0]
	base.Type, base.Known = 0, 0
	add := func(e events.Event) {
		at.Boot += 1000
		e.Boot, e.Time = at.Boot, int64(at.Boot)+1_770_000_000_000_000_000
		list = append(list, e)
	}
	for k := events.KindUnknown; k.String() != ""; k++ {
		e := base
		e.Type, e.Kind, e.Direction = events.Reset, k, 1+events.Direction(k%2)
		if k <= events.KindTFO {
			e.Type, e.Direction, e.Phase, e.CAState, e.Known = events.Retransmit, 0, 1+events.Phase(k%3), events.CAState(k%5), 1<<(k+6)
		}
		add(e)
	}
	for s := events.Established; s.String() != ""; s++ {
		e := base
		e.Type, e.OldState, e.NewState, e.State, e.Error = events.StateChange, s, 1+s%13, 1+s%13, events.Errno(9*s)
		e.Known, e.Unacked = events.HasUnacked|events.HasUID, time.Duration(s)*time.Second
		add(e)
	}
	for _, of := range []events.Type{events.Retransmit, events.Reset, events.StateChange} {
		add(events.Event{Type: events.Lost, Count: 5, Of: of})
	}
	return list
}

// Recordings of all versions are read as they were when they were made.
func TestVersions(t *testing.T) {
	current := fmt.Sprintf("testdata/v%d.tcptrace", major)
	if *update {
		s := &events.Summary{
			Events: 99, Filtered: 8, Merged: 7, Lost: 15, Elapsed: 12345678901, Skipped: 6, SkippedCounting: 5, Checked: 3,
			ByKind: []events.KindCount{{Name: "rto", Count: 3}, {Name: "state", Count: 13}},
			Audit: []events.Audit{{NetNS: 4026531840, Counter: "RetransSegs", Kernel: 9, Traced: 7, Bracket: 2, Verdict: events.Within},
				{NetNS: 4026532001, Counter: "OutRsts", Traced: 1, Verdict: events.Unchecked, Note: "gone"}},
		}
		b := record(t, someInfo, s, sample(), 30, 31)
		if err := os.WriteFile(current, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(strings.TrimSuffix(current, ".tcptrace")+".json", jsonOf(t, b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("testdata/*.tcptrace")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(strings.TrimSuffix(file, ".tcptrace") + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(jsonOf(t, b))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
	// This version's is what the samples make: JSON does not show every field.
	b, err := os.ReadFile(current)
	if err != nil {
		t.Fatal(err)
	}
	p := mustRead(t, b, ReaderOptions{})
	same(t, sample(), p.events)
}

func jsonOf(t *testing.T, b []byte) []byte {
	t.Helper()
	p := mustRead(t, b, ReaderOptions{})
	p.clean(t)
	printer, err := format.New(format.Options{Format: format.JSON})
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for i := range p.events {
		out = printer.AppendEvent(out, &p.events[i])
	}
	return printer.AppendSummary(out, p.r.Summary())
}
