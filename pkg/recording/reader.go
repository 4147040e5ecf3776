// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// ReaderOptions say what to read, and whom to tell of what can't be.
type ReaderOptions struct {
	// Since and Until bound the events by wall clock, both included, in ns
	// since the Unix epoch; 0: no bound. Blocks wholly outside are not unpacked.
	Since, Until int64
	Problem      func(Problem) // told of damage and notes; nil: ignored
}

// A Reader reads recordings, one behind the other. It is not safe for
// concurrent use. Its memory does not grow with the input.
type Reader struct {
	in   input
	o    ReaderOptions
	zstd *zstd.Decoder
	raw  []byte

	info      *Info
	recording uint32 // the checksum of the header's frame
	known     bool   // which recording it is
	finished  bool   // its trailer was read
	number    uint64 // of the next block
	events    uint64 // in all blocks before

	block    content
	opened   bool  // block has events that were not read
	at       int64 // where it stands
	settings settingsTable
	sum      events.Sum // of all trailers
	open     bool       // some recording had none, which was said
	damaged  bool
	noted    map[string]bool
	err      error
}

// NewReader reads the header. Its errors are those of r, and [ErrFormat].
func NewReader(r io.Reader, o ReaderOptions) (*Reader, error) {
	if o.Problem == nil {
		o.Problem = func(Problem) {}
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecoderMaxWindow(maxRaw), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	rd := &Reader{in: input{r: r}, o: o, zstd: dec, info: &Info{}, noted: map[string]bool{}}
	rd.block.note = rd.note
	if err := rd.begin(); err != nil {
		return nil, err
	}
	return rd, nil
}

// Info returns what the recording that is being read says of itself; what it
// points to does not change.
func (r *Reader) Info() *Info { return r.info }

// Settings returns the latest settings of a namespace that were read so far,
// nil if there are none.
func (r *Reader) Settings(netns uint32) *events.Settings { return r.settings.of[netns] }

// Summary returns, after io.EOF, that of the recordings, added up; nil before,
// and if one of them is not finished.
func (r *Reader) Summary() *events.Summary {
	if r.err != io.EOF || r.open || !r.finished {
		return nil
	}
	return &r.sum.Summary
}

// Damaged reports whether a Problem was found that is no Note.
func (r *Reader) Damaged() bool { return r.damaged }

// Offset returns how many bytes were read so far.
func (r *Reader) Offset() int64 { return r.in.offset() }

// Read appends the next events to batch, at most as many as fit its capacity,
// which must have room for one. Its error is io.EOF at the end, one of the
// input, or [ErrFormat] at a recording of another version; damage is none.
func (r *Reader) Read(batch []events.Event) ([]events.Event, error) {
	if len(batch) == cap(batch) {
		return batch, io.ErrShortBuffer
	}
	before := len(batch)
	for len(batch) == before {
		if !r.opened {
			if r.err == nil {
				r.err = r.next()
			}
			if r.err != nil {
				return batch, r.err
			}
			continue
		}
		for len(batch) < cap(batch) && r.opened {
			batch = batch[:len(batch)+1]
			e := &batch[len(batch)-1]
			*e = events.Event{}
			left := r.block.left()
			if r.block.read(e) != nil {
				batch = batch[:len(batch)-1]
				r.opened = false
				r.problem(r.at, "block %d is damaged: %s are lost", r.block.header.number, count(uint64(left), "event"))
				break
			}
			r.opened = left > 1
			unknown := e.Type.String() == "" // which was noted
			if unknown || r.o.Since != 0 && e.Time < r.o.Since || r.o.Until != 0 && e.Time > r.o.Until {
				batch = batch[:len(batch)-1]
			}
		}
	}
	return batch, nil
}

func count(n uint64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func (r *Reader) problem(at int64, format string, args ...any) {
	r.damaged = true
	r.o.Problem(Problem{Offset: at, Text: cutText(fmt.Sprintf(format, args...))})
}

// note tells once of something that this version does not know.
func (r *Reader) note(what string) {
	const most = 64 // of a hostile one
	what = cutText(what)
	if r.noted[what] || len(r.noted) >= most {
		return
	}
	r.noted[what] = true
	r.o.Problem(Problem{Offset: r.in.offset(), Text: what + ": unknown to this version, left out", Note: true})
}

// formatError is an ErrFormat with words of its own.
type formatError string

func (e formatError) Error() string { return string(e) }

func (formatError) Is(target error) bool { return target == ErrFormat }

// next reads on until a block is open.
func (r *Reader) next() error {
	for !r.opened {
		f, found := r.peek()
		if r.in.err != nil {
			return fmt.Errorf("read recording: %w", r.in.err)
		}
		var err error
		switch found {
		case atEnd:
			r.leave(r.in.offset())
			return io.EOF
		case foreignFrame:
			err = r.foreign(f.size)
		case ourFrame:
			err = r.frame(&f)
		default:
			err = r.search(found, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// what peek found.
type found uint8

const (
	atEnd        found = iota
	ourFrame           // one of ours, whose checksum is right
	foreignFrame       // a skippable one of someone else's
	cut                // something that goes on behind the end
	damaged            // anything else
)

// peek looks at what comes next, without taking it.
func (r *Reader) peek() (f frame, _ found) {
	in := &r.in
	if !in.need(zstdPrefix) {
		switch {
		case len(in.rest()) == 0:
			return f, atEnd
		case bytes.HasPrefix(oursBytes, in.rest()[:min(4, len(in.rest()))]):
			return f, cut
		}
		return f, damaged
	}
	magic, size := le.Uint32(in.rest()), int64(le.Uint32(in.rest()[4:]))+zstdPrefix
	if magic&^0xf != skippable {
		return f, damaged
	}
	if in.need(12) {
		copy(f.kind[:], in.rest()[8:])
	}
	if magic != ours {
		if f.kind.known() {
			return f, damaged // one of ours with another number
		}
		f.size = int(size)
		return f, foreignFrame
	}
	if size < envelopeLen || size > maxFrame {
		return f, damaged
	}
	if !in.need(int(size)) {
		return f, cut
	}
	b := in.rest()[:size]
	f.major, f.minor, f.sum, f.size = b[12], b[13], le.Uint32(b[16:]), int(size)
	f.payload = b[envelopeLen:]
	// A hostile input can have frames within frames. Honest ones are summed up
	// once.
	if in.summed += size; in.summed > 8*in.offset()+64<<20 || checksum(b) != f.sum {
		return f, damaged
	}
	return f, ourFrame
}

// foreign skips a frame that is not ours.
func (r *Reader) foreign(size int) error {
	at := r.in.offset()
	r.note("a skippable frame")
	if !r.in.skip(int64(size)) && r.in.err == nil {
		r.problem(at, "the last frame is incomplete")
	}
	return nil
}

// frame takes one of ours.
func (r *Reader) frame(f *frame) error {
	if f.major != major {
		if f.kind != kindHeader {
			return r.search(damaged, nil)
		}
		return newerMajor(f)
	}
	if f.minor > minor {
		r.note(fmt.Sprintf("format %d.%d: what is new in it", f.major, f.minor))
	}
	switch f.kind {
	case kindHeader:
		r.header(f)
		r.in.take(f.size)
	case kindBlock:
		return r.content(f)
	case kindTrailer:
		r.trailer(f)
		r.in.take(f.size)
	default:
		r.note(fmt.Sprintf("a frame %q", f.kind[:]))
		r.in.take(f.size)
	}
	return nil
}

func newerMajor(f *frame) error {
	var by struct {
		Tool string `json:"tool"`
	}
	writer := "a newer tcptrace"
	if json.Unmarshal(f.payload, &by) == nil && by.Tool != "" {
		writer = fmt.Sprintf("tcptrace %q", cutText(by.Tool))
	}
	return formatError(fmt.Sprintf("a recording of format %d, written by %s: this tcptrace reads format %d, so replay it with the one that wrote it or a later one",
		f.major, writer, major))
}

func (r *Reader) header(f *frame) {
	if r.known {
		r.leave(r.in.offset())
	}
	r.recording, r.known, r.finished, r.number, r.events = f.sum, true, false, 0, 0
	info, strange, err := parseInfo(f.payload)
	if err != nil {
		r.problem(r.in.offset(), "the header makes no sense: %v", err)
	}
	for _, name := range strange {
		r.note(fmt.Sprintf("the event %q", name))
	}
	r.info = info
}

// leave ends with the recording that was read, and says once if one has no
// trailer.
func (r *Reader) leave(at int64) {
	if !r.finished && !r.open {
		r.open = true
		r.o.Problem(Problem{Offset: at, Text: "not finished: it has no summary", Note: true})
	}
}

// account compares the number of a block, or of blocks, with those seen.
func (r *Reader) account(number, before uint64) {
	switch {
	case number > r.number && before >= r.events:
		r.problem(r.in.offset(), "%s missing before it, with %s", blocks(r.number, number), count(before-r.events, "event"))
	case number != r.number || before != r.events:
		r.problem(r.in.offset(), "block %d with %s before it comes where block %d with %d is expected", number, count(before, "event"), r.number, r.events)
	}
}

func blocks(from, to uint64) string {
	if to-from == 1 {
		return fmt.Sprintf("block %d is", from)
	}
	return fmt.Sprintf("blocks %d to %d are", from, to-1)
}

// content takes a block.
func (r *Reader) content(f *frame) error {
	at := r.in.offset()
	var h blockHeader
	if !h.parse(f.payload) {
		return r.search(damaged, nil)
	}
	head := f.size
	size := head + int(h.packed)
	if !r.in.need(size) {
		if r.in.err != nil {
			return nil // next says so
		}
		return r.search(cut, &h)
	}
	if !r.known || r.finished || h.recording != r.recording {
		// The header of its recording is missing.
		if r.known {
			r.leave(at)
			r.problem(at, "another recording begins without a header")
			r.info = &Info{}
		}
		r.recording, r.known, r.finished, r.number, r.events = h.recording, true, false, 0, 0
	}
	if h.number < r.number {
		r.problem(at, "block %d comes again: it is left out", h.number)
		r.in.take(size)
		return nil
	}
	if h.number != r.number || h.before != r.events {
		r.account(h.number, h.before)
	}
	r.number, r.events = h.number+1, h.before+uint64(h.events)
	outside := h.events == 0 || r.o.Since != 0 && h.to < r.o.Since || r.o.Until != 0 && h.from > r.o.Until
	if outside && h.flags&hasSettings == 0 {
		r.in.take(size)
		return nil
	}
	if cap(r.raw) < int(h.raw) {
		r.raw = make([]byte, 0, min(max(int(h.raw), 2*cap(r.raw)), maxRaw))
	}
	raw, err := r.zstd.DecodeAll(r.in.rest()[head:size], r.raw[:0:h.raw])
	if err == nil && len(raw) != int(h.raw) {
		err = errCorrupt
	}
	if err == nil {
		err = r.block.open(&h, raw)
	}
	if err != nil {
		return r.search(damaged, &h)
	}
	for i := range r.block.sets {
		r.settings.put(&r.block.sets[i])
	}
	r.in.take(size)
	r.opened, r.at = !outside, at
	return nil
}

func (r *Reader) trailer(f *frame) {
	t, err := parseTrailer(f.payload)
	switch {
	case err != nil:
		r.problem(r.in.offset(), "the summary makes no sense: %v", err)
		return
	case r.known && !r.finished && t.Recording == r.recording:
		if t.Blocks != r.number || t.Events != r.events {
			r.account(t.Blocks, t.Events)
		}
	default: // its header and all of its blocks are missing
		if r.known {
			r.leave(r.in.offset())
		}
		r.problem(r.in.offset(), "a recording of %s is missing before its summary", count(t.Events, "event"))
		r.recording, r.known = t.Recording, true
	}
	r.number, r.events, r.finished = t.Blocks, t.Events, true
	r.sum.Add(t.Summary.summary())
}

// search looks for the next frame of ours, and tells of what it passed. h is
// that of the block which is damaged, if it is known.
func (r *Reader) search(why found, h *blockHeader) error {
	in := &r.in
	start := in.offset()
	zeros := true
	pass := func(n int) {
		zeros = zeros && len(bytes.TrimLeft(in.rest()[:n], "\x00")) == 0
		in.take(n)
	}
	if h != nil {
		in.take(zstdPrefix + int(le.Uint32(in.rest()[4:])))
		if h.number >= r.number {
			r.number, r.events = h.number+1, h.before+uint64(h.events)
		}
	} else {
		pass(1)
	}
	more := false
	for in.err == nil {
		if !in.need(envelopeLen) {
			pass(len(in.rest()))
			break
		}
		i := bytes.Index(in.rest(), oursBytes)
		if i < 0 {
			pass(len(in.rest()) - len(oursBytes) + 1)
			continue
		}
		pass(i)
		if f, found := r.peek(); found == ourFrame && f.kind.known() {
			more = true
			break
		}
		if in.err == nil {
			pass(1)
		}
	}
	n := uint64(in.offset() - start)
	switch {
	case h != nil && why == cut && !more:
		r.problem(start, "the last block is incomplete: its %s lost", are(h.events))
	case h != nil:
		r.problem(start, "block %d is damaged: its %s lost", h.number, are(h.events))
	case why == cut && !more:
		r.problem(start, "the last block is incomplete: it ends after %s", count(n, "byte"))
	case zeros && !more:
		r.problem(start, "the last block is incomplete: it ends in %s of zeros", count(n, "byte"))
	default:
		r.problem(start, "%s damaged", are2(n))
	}
	return nil
}

func are(n uint32) string {
	if n == 1 {
		return "event is"
	}
	return fmt.Sprintf("%d events are", n)
}

func are2(n uint64) string {
	if n == 1 {
		return "1 byte is"
	}
	return fmt.Sprintf("%d bytes are", n)
}

// begin reads the header, or finds out what the input is instead.
func (r *Reader) begin() error {
	f, found := r.peek()
	switch {
	case r.in.err != nil:
		return fmt.Errorf("read recording: %w", r.in.err)
	case found == ourFrame && f.kind == kindHeader:
		return r.frame(&f)
	case found == ourFrame && f.kind.known():
		r.problem(0, "the header is missing")
		return nil
	case found == cut, bytes.HasPrefix(r.in.rest(), oursBytes), f.kind.known():
		return nil // next says what is wrong
	}
	const far = 1 << 20 // a damaged header is not longer
	what := looksLike(r.in.rest())
	if what == "" {
		r.in.need(far)
		b := r.in.rest()
		for i := bytes.Index(b, oursBytes); i >= 0 && len(b) >= i+12; i = bytes.Index(b, oursBytes) {
			if (kind)(b[i+8 : i+12]).known() {
				return nil
			}
			b = b[i+1:]
		}
		what = "unknown data"
		if len(bytes.TrimLeft(r.in.rest(), "\x00")) == 0 {
			what = "only zeros"
		}
	}
	if r.in.err != nil {
		return fmt.Errorf("read recording: %w", r.in.err)
	}
	return formatError(ErrFormat.Error() + ": it is " + what)
}

// looksLike names what begins with b; "" if that is nothing known.
func looksLike(b []byte) string {
	if len(b) == 0 {
		return "empty"
	}
	for _, known := range [...]struct{ begin, name string }{
		{"\x1f\x8b", "compressed with gzip"},
		{"\xfd7zXZ", "compressed with xz"},
		{"BZh", "compressed with bzip2"},
		{"\x28\xb5\x2f\xfd", "compressed with zstd, but not by tcptrace"},
		{"PK\x03\x04", "a zip archive"},
		{"\xd4\xc3\xb2\xa1", "a packet capture (pcap)"}, {"\xa1\xb2\xc3\xd4", "a packet capture (pcap)"},
		{"\x4d\x3c\xb2\xa1", "a packet capture (pcap)"}, {"\xa1\xb2\x3c\x4d", "a packet capture (pcap)"},
		{"\x0a\x0d\x0d\x0a", "a packet capture (pcapng)"},
		{"\x7fELF", "a program (ELF)"},
		{`{"time":`, "JSON, as tcptrace prints it"},
	} {
		if strings.HasPrefix(string(b[:min(len(b), 16)]), known.begin) {
			return known.name
		}
	}
	b = b[:min(len(b), 512)]
	if strings.IndexFunc(strings.ToValidUTF8(string(b), ""), func(c rune) bool { return c < ' ' && c != '\n' && c != '\t' && c != '\r' }) < 0 &&
		2*len(strings.ToValidUTF8(string(b), "")) > len(b) {
		return "text"
	}
	return ""
}

// input is the bytes that come next.
type input struct {
	r      io.Reader
	buf    []byte // buf[pos:] was read and not taken
	pos    int
	taken  int64
	summed int64 // bytes of checksums
	eof    bool
	err    error
}

func (in *input) rest() []byte { return in.buf[in.pos:] }

func (in *input) offset() int64 { return in.taken }

func (in *input) take(n int) {
	in.pos += n
	in.taken += int64(n)
}

// need reports whether n bytes are there, and reads no more than it must for
// them: a pipe may have no more yet.
func (in *input) need(n int) bool {
	for len(in.buf)-in.pos < n {
		if in.eof || in.err != nil {
			return false
		}
		if len(in.buf) == cap(in.buf) || in.pos == len(in.buf) {
			room := in.buf
			if 2*len(in.rest()) > cap(room) || cap(room) == 0 {
				// It grows with what comes, not with what is promised.
				room = make([]byte, 0, max(2*cap(room), 64<<10))
			}
			in.buf = append(room[:0], in.rest()...)
			in.pos = 0
		}
		in.read()
	}
	return true
}

func (in *input) read() {
	for range 100 {
		n, err := in.r.Read(in.buf[len(in.buf):cap(in.buf)])
		if n < 0 || n > cap(in.buf)-len(in.buf) {
			in.err = errors.New("the reader counts wrongly")
			return
		}
		in.buf = in.buf[:len(in.buf)+n]
		if err == io.EOF {
			in.eof = true
			return
		} else if err != nil {
			in.err = err
			return
		}
		if n > 0 {
			return
		}
	}
	in.err = io.ErrNoProgress
}

// skip takes n bytes, which it does not keep.
func (in *input) skip(n int64) bool {
	for n > 0 {
		if !in.need(1) {
			return false
		}
		part := int(min(n, int64(len(in.rest()))))
		in.take(part)
		n -= int64(part)
	}
	return true
}

// settingsTable has the latest settings of the namespaces seen last.
type settingsTable struct {
	of     map[uint32]*events.Settings
	order  []uint32 // the oldest first
	values int
	bytes  int // of names and values
}

const (
	maxKept      = 1 << 18 // values, and namespaces a sixteenth of it
	maxKeptBytes = 16 << 20
)

// count counts s in, or out if sign is -1.
func (t *settingsTable) count(s *events.Settings, sign int) {
	t.values += sign * len(s.Values)
	for i := range s.Values {
		t.bytes += sign * (len(s.Values[i].Name) + len(s.Values[i].Value))
	}
}

func (t *settingsTable) put(s *events.Settings) {
	if t.of == nil {
		t.of = map[uint32]*events.Settings{}
	}
	old, known := t.of[s.NetNS]
	if known {
		t.count(old, -1)
	} else {
		t.order = append(t.order, s.NetNS)
	}
	t.of[s.NetNS] = s
	t.count(s, 1)
	for len(t.order) > 1 && (t.values > maxKept || t.bytes > maxKeptBytes || len(t.order) > maxKept/16) {
		t.count(t.of[t.order[0]], -1)
		delete(t.of, t.order[0])
		t.order = t.order[1:]
	}
}
