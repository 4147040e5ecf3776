// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// small is a finished recording of a few blocks, their ends among the events,
// and the events.
func small(t testing.TB) (b []byte, list []events.Event, ends []int) {
	t.Helper()
	list = mixed(3, 20)
	list[10] = events.Event{Type: events.Lost, Time: list[10].Time, Boot: list[10].Boot, Count: 3, Of: events.Reset}
	ends = []int{5, 6, 15, len(list)}
	return record(t, someInfo, &events.Summary{Events: 20, Audit: []events.Audit{{NetNS: 4026531840, Counter: "RetransSegs", Kernel: 7, Traced: 7, Verdict: events.Exact}}}, list, ends[:3]...), list, ends
}

// checkDamaged reads b, a damaged copy of a recording, and fails if an event is
// wrong, more than allowed blocks are missing, or something is and nobody said
// so.
func checkDamaged(t *testing.T, b []byte, list []events.Event, ends []int, allowed int) replay {
	t.Helper()
	p, err := read(t, bytes.NewReader(b), ReaderOptions{})
	if err != nil {
		if !errors.Is(err, ErrFormat) || len(p.events) > 0 || allowed < len(ends) {
			t.Fatalf("%v after %d events", err, len(p.events))
		}
		return p
	}
	i, start, lost := 0, 0, 0
	for _, end := range ends {
		n := end - start
		if i+n <= len(p.events) && reflect.DeepEqual(p.events[i:i+n], list[start:end]) {
			i += n
		} else {
			lost++
		}
		start = end
	}
	if i < len(p.events) {
		t.Fatalf("%d events, of which %d were written, in order", len(p.events), i)
	}
	if lost > allowed {
		t.Fatalf("%d blocks are lost: %v", lost, p.problems)
	}
	// The end of an unfinished recording may be lost unseen: that is a note.
	tail := len(p.problems) > 0 && strings.HasPrefix(p.problems[0].Text, "not finished") && (len(p.events) == 0 || reflect.DeepEqual(p.events, list[:len(p.events)]))
	if (lost > 0 || p.r.Summary() == nil) && len(p.problems) == 0 || lost > 0 && !p.r.Damaged() && !(tail && allowed == len(ends)) {
		t.Fatalf("%d blocks are lost, and only this was said: %v", lost, p.problems)
	}
	for _, x := range p.problems {
		if x.Offset < 0 || x.Offset > int64(len(b)) || x.Text == "" {
			t.Fatalf("problem %q of %d bytes", x, len(b))
		}
	}
	return p
}

func TestCut(t *testing.T) {
	t.Parallel()
	b, list, ends := small(t)
	for n := range b {
		if p := checkDamaged(t, b[:n], list, ends, len(ends)); p.r != nil && p.r.Summary() != nil {
			t.Fatalf("%d of %d bytes have a summary", n, len(b))
		}
	}
	// A cut costs the block that it is in, and those behind.
	offsets := blockEnds(t, b)
	for i, end := range offsets {
		p := mustRead(t, b[:end], ReaderOptions{})
		if len(p.events) != ends[i] || p.r.Damaged() || len(p.problems) != 1 {
			t.Errorf("cut behind block %d: %d events, %v", i, len(p.events), p.problems)
		}
		p = mustRead(t, b[:end-1], ReaderOptions{})
		if i > 0 && len(p.events) != ends[i-1] || len(p.problems) != 2 || !strings.Contains(p.problems[0].Text, "last block is incomplete") {
			t.Errorf("cut in block %d: %d events, %v", i, len(p.events), p.problems)
		}
	}
}

// blockEnds returns where each block of a recording ends.
func blockEnds(t testing.TB, b []byte) (ends []int) {
	t.Helper()
	for i := 0; i < len(b); {
		size := zstdPrefix + int(le.Uint32(b[i+4:]))
		var h blockHeader
		if (kind)(b[i+8:i+12]) == kindBlock {
			if !h.parse(b[i+envelopeLen : i+size]) {
				t.Fatal("a block header that makes no sense")
			}
			ends = append(ends, i+size+int(h.packed))
		}
		i += size + int(h.packed)
	}
	return ends
}

func TestZeroTail(t *testing.T) {
	t.Parallel()
	b, list, ends := small(t)
	for n := range b {
		c := append(bytes.Clone(b[:n]), make([]byte, len(b)-n+n%2*4096)...)
		if !bytes.Equal(b, c) {
			checkDamaged(t, c, list, ends, len(ends))
		}
	}
	for i, end := range blockEnds(t, b) {
		p := mustRead(t, append(bytes.Clone(b[:end]), make([]byte, 5000)...), ReaderOptions{})
		if len(p.events) != ends[i] || !p.r.Damaged() || !strings.Contains(p.problems[0].Text, "in 5000 bytes of zeros") {
			t.Errorf("zeros behind block %d: %d events, %v", i, len(p.events), p.problems)
		}
	}
}

func TestFlip(t *testing.T) {
	t.Parallel()
	b, list, ends := small(t)
	for i := range b {
		for _, bits := range []byte{1 << (i % 8), 0xff} {
			c := bytes.Clone(b)
			c[i] ^= bits
			checkDamaged(t, c, list, ends, 1)
		}
	}
}

// Bytes that are missing or too many in the middle cost one block, too.
func TestShift(t *testing.T) {
	t.Parallel()
	b, list, ends := small(t)
	for i := 1; i < len(b); i++ {
		checkDamaged(t, append(bytes.Clone(b[:i-1]), b[i:]...), list, ends, 1)
		checkDamaged(t, append(append(bytes.Clone(b[:i]), 0x5c), b[i:]...), list, ends, 1)
	}
}

// damagedCopy is b with one byte in the middle of a block changed.
func damagedCopy(t testing.TB, b []byte, block int) []byte {
	t.Helper()
	c := bytes.Clone(b)
	c[blockEnds(t, b)[block]-10] ^= 0xff
	return c
}

func TestTold(t *testing.T) {
	b, list, ends := small(t)
	first := bytes.Index(b, kindBlock[:]) - zstdPrefix
	blocks := append([]int{first}, blockEnds(t, b)...)
	without := func(i, j int) []byte { return append(bytes.Clone(b[:blocks[i]]), b[blocks[j]:]...) }
	headless := bytes.Clone(b)
	headless[30] ^= 1
	for name, tt := range map[string]struct {
		file   []byte
		events int
		told   []string
	}{
		"content": {damagedCopy(t, b, 2), len(list) - 9, []string{fmt.Sprintf("at byte %d: block 2 is damaged: its 9 events are lost", blocks[2])}},
		"one event": {damagedCopy(t, b, 1), len(list) - 1,
			[]string{fmt.Sprintf("at byte %d: block 1 is damaged: its event is lost", blocks[1])}},
		"cut in the last": {b[:blocks[4]-1], ends[2], []string{
			fmt.Sprintf("at byte %d: the last block is incomplete: its 5 events are lost", blocks[3]),
			fmt.Sprintf("at byte %d: not finished: it has no summary", blocks[4]-1)}},
		"missing": {without(1, 3), len(list) - 10, []string{
			fmt.Sprintf("at byte %d: blocks 1 to 2 are missing before it, with 10 events", blocks[1])}},
		"missing at the end": {without(3, 4), len(list) - 5, []string{
			fmt.Sprintf("at byte %d: block 3 is missing before it, with 5 events", blocks[3])}},
		"again": {append(bytes.Clone(b[:blocks[2]]), b[blocks[1]:]...), len(list), []string{
			fmt.Sprintf("at byte %d: block 1 comes again: it is left out", blocks[2])}},
		"header": {headless, len(list), []string{
			fmt.Sprintf("at byte 0: %d bytes are damaged", first)}},
		"no header": {b[first:], len(list), []string{"at byte 0: the header is missing"}},
		"no summary": {b[:blocks[4]], len(list), []string{
			fmt.Sprintf("at byte %d: not finished: it has no summary", blocks[4])}},
		"only the header": {b[:first], 0, []string{
			fmt.Sprintf("at byte %d: not finished: it has no summary", first)}},
		"only the summary": {b[blocks[4]:], 0, []string{"at byte 0: the header is missing", "at byte 0: a recording of 20 events is missing before its summary"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustRead(t, tt.file, ReaderOptions{})
			var told []string
			for _, x := range p.problems {
				told = append(told, x.String())
			}
			if len(p.events) != tt.events || !reflect.DeepEqual(told, tt.told) {
				t.Errorf("%d events, want %d;\ntold %q,\nwant %q", len(p.events), tt.events, told, tt.told)
			}
		})
	}
}

func TestNoRecording(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"empty":        nil,
		"text":         []byte("2026-03-14 13:09:26 something happened\n"),
		"JSON":         []byte(`{"time":"2026-03-14T13:09:26.535897932Z","event":"reset"}` + "\n"),
		"pcap":         append([]byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00"), make([]byte, 100)...),
		"pcapng":       append([]byte("\x0a\x0d\x0d\x0a\x1c\x00\x00\x00"), make([]byte, 100)...),
		"gzip":         []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"),
		"zstd":         enc.EncodeAll([]byte("something else"), nil),
		"zeros":        make([]byte, 10000),
		"unknown data": bytes.Repeat([]byte{1, 2, 3, 0xff, 0xfe}, 1000),
	} {
		t.Run(what, func(t *testing.T) {
			_, err := NewReader(bytes.NewReader(b), ReaderOptions{})
			if !errors.Is(err, ErrFormat) || !strings.HasPrefix(err.Error(), "not a recording: it is ") || !strings.Contains(err.Error(), what) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestInputFails(t *testing.T) {
	t.Parallel()
	b, _, _ := small(t)
	fails := errors.New("the network is gone")
	for n := range b {
		_, err := read(t, &failingReader{b[:n], fails}, ReaderOptions{})
		if !errors.Is(err, fails) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

type failingReader struct {
	b   []byte
	err error
}

func (f *failingReader) Read(b []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, f.err
	}
	n := copy(b[:1], f.b)
	f.b = f.b[n:]
	return n, nil
}
