// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/bpf"
	"github.com/tcptrace/tcptrace/internal/names"
	"github.com/tcptrace/tcptrace/internal/pipeline"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// tick is how long an event waits at most before it is read. The kernel side
// wakes the reader only when much is waiting.
const tick = 100 * time.Millisecond

// source reads the ring buffer.
type source struct {
	coll   *ebpf.Collection
	links  []link.Link // referenced to the end: a collected one detaches
	reader *ringbuf.Reader
	rec    ringbuf.Record
	dec    events.Decoder
	merge  events.Merger
	names  *names.Cache

	lostSeen     uint32           // lost_total when the last record was made
	lostReported [numTypes]uint64 // by type
	perCPU       []bpf.TcptraceTotals
}

const numTypes = len(bpf.TcptraceTotals{}.Lost)

// Read implements [pipeline.Source].
func (s *source) Read(ctx context.Context, batch []events.Event) ([]events.Event, error) {
	done := ctx.Err() != nil
	if done {
		if err := s.detach(); err != nil {
			return batch, err
		}
	}
	batch = s.merge.Next(batch)
	start := len(batch)
	batch, emptied, err := s.drain(batch, !done)
	if err != nil {
		return batch, err
	}
	end := done && emptied && len(batch) == start
	batch = s.merge.Fold(batch, end)
	if end {
		err = io.EOF
	}
	return batch, err
}

// drain appends the waiting events, as many as fit, and reports whether that
// was all of them. If there are none it may wait a tick for the first.
func (s *source) drain(batch []events.Event, wait bool) (_ []events.Event, emptied bool, err error) {
	deadline := time.Unix(1, 0) // long past: look, don't wait
	if wait && s.reader.AvailableBytes() == 0 {
		if err := s.coll.Variables["reader_waits"].Set(uint32(1)); err != nil {
			return batch, false, fmt.Errorf("announce the wait: %w", err)
		}
		deadline = time.Now().Add(tick)
	}
	s.reader.SetDeadline(deadline)
	s.dec.Wall = wallOffset()
	read := 0
	// A lost record can stand for one event of each type before its own.
	for !emptied && len(batch)+numTypes <= cap(batch) {
		err := s.reader.ReadInto(&s.rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			emptied = true
			break
		}
		if err != nil {
			return batch, false, fmt.Errorf("read ring buffer: %w", err)
		}
		if batch, err = s.append(batch); err != nil {
			return batch, false, err
		}
		read++
		emptied = s.rec.Remaining == 0
	}
	if emptied && read == 0 { // no record will tell of what was lost last
		var lost uint32
		if err := s.coll.Variables["lost_total"].Get(&lost); err != nil {
			return batch, false, fmt.Errorf("read lost events: %w", err)
		}
		batch, err = s.appendLost(batch, bootTime(), lost)
	}
	return batch, emptied, err
}

// append decodes the current record into batch, behind what was lost before it.
func (s *source) append(batch []events.Event) ([]events.Event, error) {
	batch = batch[:len(batch)+1]
	e := &batch[len(batch)-1]
	lost, err := s.dec.Decode(s.rec.RawSample, e)
	if err != nil {
		return batch[:len(batch)-1], fmt.Errorf("decode: %w", err)
	}
	if lost != s.lostSeen {
		own := *e
		if batch, err = s.appendLost(batch[:len(batch)-1], own.Boot, lost); err != nil {
			return batch, err
		}
		batch = append(batch, own)
		e = &batch[len(batch)-1]
	}
	s.names.Fill(e)
	return batch, nil
}

// appendLost reports the losses up to the moment when lost were lost in all:
// their number is exact. Of which type they were is told by counts that are
// read now, and may hold later losses too: where both types were lost in two
// gaps, one gap may get some of the other's.
func (s *source) appendLost(batch []events.Event, boot uint64, lost uint32) ([]events.Event, error) {
	if lost == s.lostSeen {
		return batch, nil
	}
	t, err := s.totals()
	if err != nil {
		return batch, err
	}
	left := uint64(lost - s.lostSeen)
	s.lostSeen = lost
	for i := range t.Lost {
		if n := min(t.Lost[i]-s.lostReported[i], left); n > 0 {
			batch = append(batch, events.Event{
				Time: int64(boot) + s.dec.Wall, Boot: boot,
				Type: events.Lost, Count: n, Of: events.Type(i),
			})
			s.lostReported[i] += n
			left -= n
		}
	}
	return batch, nil
}

// totals adds the counts of all CPUs.
func (s *source) totals() (bpf.TcptraceTotals, error) {
	var sum bpf.TcptraceTotals
	if err := s.coll.Maps["counts"].Lookup(uint32(0), &s.perCPU); err != nil {
		return sum, fmt.Errorf("read counts: %w", err)
	}
	for i := range s.perCPU {
		for t := range sum.Produced {
			sum.Produced[t] += s.perCPU[i].Produced[t]
			sum.Filtered[t] += s.perCPU[i].Filtered[t]
			sum.Lost[t] += s.perCPU[i].Lost[t]
		}
	}
	return sum, nil
}

// Counts implements [pipeline.Source]. Where the kernel no longer answers,
// which it does as long as the map is open, it gives what it knows.
func (s *source) Counts() pipeline.Counts {
	c := pipeline.Counts{Merged: s.merge.Merged}
	t, err := s.totals()
	if err != nil {
		return c
	}
	for i := range t.Produced {
		c.Produced += t.Produced[i]
		c.Filtered += t.Filtered[i]
		c.Lost += t.Lost[i]
	}
	return c
}

// detach takes the programs off the tracepoints, once, and waits until none of
// them still runs: after that nothing is added to the buffer.
func (s *source) detach() error {
	if s.links == nil {
		return nil
	}
	var errs []error
	// The last attached first: what set_state remembers serves the others.
	for _, l := range slices.Backward(s.links) {
		if err := l.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach: %w", err))
		}
	}
	s.links = nil
	// MEMBARRIER_CMD_GLOBAL is synchronize_rcu(), and tracepoint programs run
	// inside an RCU read section. Where it is refused (nohz_full), a program
	// that is still running costs the stream's last event its place in it.
	_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	return errors.Join(errs...)
}

const membarrierGlobal = 1

// Close implements [pipeline.Source]. Nothing stays attached or loaded.
func (s *source) Close() error {
	err := s.detach()
	if s.reader != nil {
		err = errors.Join(err, s.reader.Close())
	}
	s.coll.Close()
	return err
}

func bootTime() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // can't fail for this clock
	return uint64(ts.Nano())
}

// wallOffset is the wall clock minus CLOCK_BOOTTIME. It is taken for each
// batch, so that a step of the wall clock shows from there on.
func wallOffset() int64 {
	var offset int64
	for range 3 { // once more if something came between the readings
		before := bootTime()
		now := time.Now().UnixNano()
		after := bootTime()
		offset = now - int64(before+(after-before)/2)
		if after-before < uint64(20*time.Microsecond) {
			break
		}
	}
	return offset
}
