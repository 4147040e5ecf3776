// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// readAny reads what may be anything, and fails if it takes much memory.
func readAny(t *testing.T, b []byte) (list []events.Event) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(b), ReaderOptions{Problem: func(p Problem) {
		if p.Offset < 0 || p.Offset > int64(len(b)) || p.Text == "" {
			t.Errorf("problem %v of %d bytes", p, len(b))
		}
	}})
	if err != nil {
		if !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
		return nil
	}
	batch := make([]events.Event, 0, 64)
	for n := 0; ; n++ {
		batch, err = r.Read(batch[:0])
		list = append(list, batch...)
		if err != nil {
			break
		}
	}
	if err != io.EOF && !errors.Is(err, ErrFormat) {
		t.Fatal(err)
	}
	if n := cap(r.in.buf) + cap(r.raw); n > 32<<20 {
		t.Errorf("%d bytes of buffers", n)
	}
	return list
}

func FuzzReader(f *testing.F) {
	// Small ones: large ones are mutated, and made smaller again, slowly.
	b := record(f, Info{}, &events.Summary{}, mixed(1, 3), 1)
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add(damagedCopy(f, b, 1))
	f.Add(record(f, Info{}, nil, nil))
	f.Add([]byte("\x5c\x2a\x4d\x18\x0c\x00\x00\x00tcpE\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) { readAny(t, b) })
}

// FuzzContent changes what is within a block, under checksums that are right.
func FuzzContent(f *testing.F) {
	for _, n := range []int{0, 1, 3} {
		raw, _ := rawBlock(f, n)
		f.Add(raw, uint16(n))
	}
	f.Fuzz(func(t *testing.T, raw []byte, n uint16) {
		if len(raw) > maxRaw || n > maxEvents {
			return
		}
		list := readAny(t, forge(t, raw, int(n), nil))
		if len(list) > int(n) {
			t.Fatalf("%d events of %d", len(list), n)
		}
		if len(list) == 0 {
			return
		}
		// What was taken for events is written and read as it is.
		same(t, list, readAny(t, record(t, someInfo, nil, list)))
	})
}

// FuzzEnvelope changes the JSON of header and trailer, under checksums that are
// right.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"tool":"1","types":["reset"]}`), []byte(`{"recording":1,"blocks":0,"summary":{"audit":[{"verdict":"exact"}]}}`))
	f.Fuzz(func(t *testing.T, head, end []byte) {
		readAny(t, append(frameOf(kindHeader, minor, string(head)), frameOf(kindTrailer, minor, string(end))...))
	})
}
