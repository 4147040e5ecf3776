// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// A Writer writes a recording. It is not safe for concurrent use.
type Writer struct {
	w         io.Writer
	zstd      *zstd.Encoder
	block     block
	recording uint32
	number    uint64 // of the block under way
	events    uint64 // in blocks written
	written   int64
	raw, out  []byte
	err       error // what ended it
}

// NewWriter writes the header to w, in one Write. Its errors are those of w.
func NewWriter(w io.Writer, info Info) (*Writer, error) {
	payload, err := json.Marshal(&header{&info, columnNames(), numberNames()})
	if err != nil {
		return nil, fmt.Errorf("recording: encode the header: %w", err)
	}
	if len(payload) > maxFrame-envelopeLen {
		return nil, fmt.Errorf("recording: the header has %d bytes: too many", len(payload))
	}
	// One goroutine: a block is packed where it is written.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderCRC(true), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	rw := &Writer{w: w, zstd: enc, block: newBlock()}
	rw.out = append(beginFrame(rw.out, kindHeader), payload...)
	rw.recording = endFrame(rw.out)
	if err := rw.write(); err != nil {
		return nil, err
	}
	return rw, nil
}

// write writes out.
func (w *Writer) write() error {
	n, err := w.w.Write(w.out)
	if err == nil && n < len(w.out) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = fmt.Errorf("write recording: %w", err)
		return w.err
	}
	w.written += int64(n)
	return nil
}

// Append keeps copies of events in the block under way, and writes the block
// first when the next has no room in it. An error of writing is final; one of
// an event whose texts are too long, of more than a MiB, is not: those before
// it are kept.
func (w *Writer) Append(list []events.Event) error {
	for len(list) > 0 {
		if w.err != nil {
			return w.err
		}
		if w.block.full() {
			if err := w.Flush(); err != nil {
				return err
			}
		}
		n := w.block.fit(list)
		if n == 0 {
			return fmt.Errorf("recording: the texts of an event have %d bytes: too many", textLen(&list[0]))
		}
		list = list[w.block.add(list[:n]):]
	}
	return w.err
}

// Settings keeps a copy of s in the block under way. What is longer than a MiB
// is left out.
func (w *Writer) Settings(s *events.Settings) {
	need := 0
	for i := range s.Values {
		need += len(s.Values[i].Name) + len(s.Values[i].Value) + 16
	}
	if w.err != nil || need > maxText || len(s.Values) > maxValues {
		return
	}
	if w.block.full() && w.Flush() != nil {
		return // the next call says so
	}
	w.block.addSettings(s)
}

// Pending returns how many events are not written yet.
func (w *Writer) Pending() int { return w.block.n }

// Flush writes the block under way, in one Write; nothing if it is empty.
func (w *Writer) Flush() error {
	if w.err != nil {
		return w.err
	}
	b := &w.block
	if b.empty() {
		return nil
	}
	w.raw = b.appendTo(w.raw[:0])
	if len(w.raw) > maxRaw {
		w.err = fmt.Errorf("recording: a block of %d bytes: too many", len(w.raw))
		return w.err
	}
	w.out = beginFrame(w.out[:0], kindBlock)
	w.out = append(w.out, make([]byte, blockHeaderLen)...)
	start := len(w.out)
	w.out = w.zstd.EncodeAll(w.raw, w.out)
	h := b.header
	h.recording, h.number, h.before = w.recording, w.number, w.events
	h.events, h.raw, h.packed = uint32(b.n), uint32(len(w.raw)), uint32(len(w.out)-start)
	h.appendTo(w.out[:envelopeLen])
	endFrame(w.out[:start])
	if err := w.write(); err != nil {
		return err
	}
	w.number++
	w.events += uint64(b.n)
	b.clear()
	return nil
}

// Finish flushes, and writes the trailer with s. Nothing can be appended any
// more.
func (w *Writer) Finish(s *events.Summary) error {
	if err := w.Flush(); err != nil {
		return err
	}
	payload, err := json.Marshal(&trailer{Recording: w.recording, Blocks: w.number, Events: w.events, Summary: newSummary(s)})
	if err == nil && len(payload) > maxFrame-envelopeLen {
		err = fmt.Errorf("%d bytes: too many", len(payload))
	}
	if err != nil {
		return fmt.Errorf("recording: encode the summary: %w", err)
	}
	w.out = append(beginFrame(w.out[:0], kindTrailer), payload...)
	endFrame(w.out)
	if err := w.write(); err != nil {
		return err
	}
	w.err = errors.New("recording: it is finished")
	return nil
}

// Written returns how many bytes were written so far.
func (w *Writer) Written() int64 { return w.written }
