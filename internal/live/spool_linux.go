// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/klauspost/compress/s2"
)

// tick is how long an event waits at most before it is read. The kernel side
// wakes the reader only when much is waiting. One that may have to be merged
// waits for a second look, and has to be on screen within 200 ms too.
const tick = 80 * time.Millisecond

const (
	pieceLen  = 64 << 10 // bytes of records taken at a time
	wakeupLen = 2 << 20  // bytes that wake the reader: what a storm makes in a tick is more
	maxRecord = 256      // no record is longer
	prefixLen = 4        // before each record: its length
	maxFree   = 64       // buffers kept to be used again
	maxPlain  = 64       // pieces kept as they are, more than are taken at once: of more, the latter are compressed
)

// spool takes records out of the ring buffer as they come and keeps them until
// they are asked for: what the ring buffer has no room for is lost, so it must
// not wait for whom the output waits.
type spool struct {
	kernel *kernelSide
	reader *ringbuf.Reader
	limit  int // bytes of records to keep; at most a piece more
	lost   losses
	ended  chan struct{} // closed when run is

	mu     sync.Mutex
	change sync.Cond // of the following, which mu guards
	pieces []piece   // oldest first
	size   int       // bytes of records in them
	free   [][]byte  // buffers of pieces
	closed bool

	packed   []byte // run's: where it compresses
	unpacked []byte // next's: what it gave last, if that was compressed
}

// piece is what was in the ring buffer at one look, or the first of it. One
// without records says that there was nothing for a tick.
type piece struct {
	records []byte // each behind its length
	size    int    // of the records, also where they are compressed
	packed  bool   // they are, or were
	wall    int64  // wall clock minus CLOCK_BOOTTIME
	boot    uint64 // CLOCK_BOOTTIME after the look
	lost    losses
	settled bool  // no record follows that was made before lost.total was read
	err     error // why no other piece follows: io.EOF after flush
}

// losses are the records that were lost, in all and by type. The types are
// counted later and may hold more.
type losses struct {
	total  uint32
	byType [numTypes]uint64
}

// newSpool returns a spool that keeps about limit bytes. Its run does the work.
func newSpool(kernel *kernelSide, reader *ringbuf.Reader, limit int) *spool {
	s := &spool{kernel: kernel, reader: reader, limit: limit, ended: make(chan struct{})}
	s.change.L = &s.mu
	return s
}

// run moves records until flush, close or an error.
func (s *spool) run() {
	defer close(s.ended)
	n := min(pieceLen, max(s.limit, prefixLen+maxRecord))
	for buf, more := make([]byte, 0, n), true; more; {
		p := s.look(buf)
		buf, more = s.put(p, n)
	}
}

// look reads what is there into buf, as far as it fits, and waits a tick at
// most for the first record.
func (s *spool) look(buf []byte) (p piece) {
	p.records = buf[:0]
	deadline := time.Unix(1, 0) // long past: look, don't wait
	before, err := s.kernel.lost()
	if err == nil && s.reader.AvailableBytes() == 0 {
		deadline = time.Now().Add(tick)
		err = s.kernel.announceWait()
	}
	s.reader.SetDeadline(deadline)
	var rec ringbuf.Record
	for err == nil && len(p.records)+prefixLen+maxRecord <= cap(p.records) {
		rec.RawSample = p.records[len(p.records):][prefixLen:prefixLen]
		if err = s.reader.ReadInto(&rec); err != nil {
			// The reader tells of one deadline once more at the next call.
			if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(deadline) {
				err = nil
				continue
			}
			break
		}
		p.records = binary.NativeEndian.AppendUint32(p.records, uint32(len(rec.RawSample)))
		p.records = append(p.records, rec.RawSample...) // it is there already, unless it was too long
		if rec.Remaining == 0 {
			break
		}
	}
	switch {
	case errors.Is(err, ringbuf.ErrFlushed):
		p.err = io.EOF
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		p.err = fmt.Errorf("read ring buffer: %w", err)
	}

	p.wall, p.boot = wallOffset(), bootTime()
	now, err := s.kernel.lost()
	if err == nil && now != s.lost.total {
		var t totals
		t, err = s.kernel.totals()
		s.lost = losses{total: now, byType: t.Lost}
	}
	if err != nil && p.err == nil {
		p.err = err
	}
	p.lost = s.lost
	if len(p.records) == 0 && p.err == nil {
		p.lost.total, p.settled = before, true
	}
	p.settled = p.settled || p.err == io.EOF // nothing is produced any more
	return p
}

// put hands p over and returns a buffer of n bytes for the next piece, or
// false if there is none. It waits for room.
func (s *spool) put(p piece, n int) (buf []byte, more bool) {
	buf, p.size = p.records, len(p.records)
	if p.size >= n/2 && s.waiting() >= maxPlain {
		s.pack(&p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	if p.size == 0 && p.err == nil && len(s.pieces) > 0 {
		return p.records, true // the others are news enough
	}
	for len(s.pieces) > 0 && s.size+p.size > s.limit && !s.closed {
		s.change.Wait()
	}
	switch last := len(s.free) - 1; {
	case p.packed:
	case p.size < n/2:
		p.records = bytes.Clone(buf) // a calm stream's pieces take no more than they hold
	case last >= 0:
		buf, s.free = s.free[last], s.free[:last]
	default:
		buf = make([]byte, 0, n)
	}
	s.pieces = append(s.pieces, p)
	s.size += p.size
	s.change.Broadcast()
	return buf, p.err == nil
}

// waiting is how many pieces nobody has asked for yet.
func (s *spool) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pieces)
}

// pack compresses a piece, to about a fifth: records of one kind have much in
// common.
func (s *spool) pack(p *piece) {
	if s.packed == nil {
		s.packed = make([]byte, s2.MaxEncodedLen(pieceLen))
	}
	p.records, p.packed = bytes.Clone(s2.Encode(s.packed, p.records)), true
}

// next returns the oldest piece, and waits for one about a tick. used is the
// piece before, whose records are no longer needed. After a piece with an
// error there is none.
func (s *spool) next(used piece) piece {
	p := s.take(used)
	if !p.packed {
		return p
	}
	if s.unpacked == nil {
		s.unpacked = make([]byte, pieceLen)
	}
	records, err := s2.Decode(s.unpacked, p.records)
	if err != nil {
		p.err = errors.Join(p.err, fmt.Errorf("unpack records: %w", err))
	}
	p.records = records
	return p
}

func (s *spool) take(used piece) piece {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cap(used.records) >= pieceLen && !used.packed && len(s.free) < maxFree {
		s.free = append(s.free, used.records)
	}
	for len(s.pieces) == 0 {
		s.change.Wait()
	}
	p := s.pieces[0]
	s.pieces = s.pieces[1:]
	s.size -= p.size
	s.change.Broadcast()
	return p
}

// flush makes what is in the ring buffer now the last pieces.
func (s *spool) flush() error {
	if err := s.reader.Flush(); err != nil {
		return fmt.Errorf("flush ring buffer: %w", err)
	}
	return nil
}

// close ends run, and only then the reader: what is not waiting in it looks at
// its memory.
func (s *spool) close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.change.Broadcast()
	err := s.reader.Flush() // wakes it up
	<-s.ended
	return errors.Join(err, s.reader.Close())
}
