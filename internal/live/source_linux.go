// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/names"
	"github.com/tcptrace/tcptrace/internal/pipeline"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// source reads the ring buffer.
type source struct {
	kernelSide
	links []link.Link // referenced to the end: a collected one detaches
	spool *spool      // nil until everything is attached
	dec   events.Decoder
	merge events.Merger
	gaps  *events.Gaps // nil where a filter may hide events of a connection that it shows others of
	owner owners
	names *names.Cache

	dwellers *link.Iter     // over all threads' namespaces; nil if the kernel refuses it
	settings *link.Iter     // over the settings of namespaces; nil if nobody asks for them, or the kernel refuses it
	audit    *auditor       // nil unless what is traced is counted by the kernel, too
	proof    events.Summary // of the last part: what the kernel's counters say

	notLoaded []*hook // optional ones whose module was not loaded at the start

	piece        piece  // what is being decoded
	open         bool   // there is more of it
	rest         []byte // of piece.records
	lostSeen     uint32 // losses.total of the last record
	lostReported [numTypes]uint64
}

// Read implements [pipeline.Source].
func (s *source) Read(ctx context.Context, batch []events.Event) ([]events.Event, error) {
	if ctx.Err() != nil {
		if err := s.finish(); err != nil {
			return batch, err
		}
	}
	batch = s.merge.Next(batch)
	old := len(batch) // these have their names
	if !s.open {
		if s.piece.err != nil {
			return batch, s.piece.err
		}
		s.piece, s.open = s.spool.next(s.piece), true
		s.rest = s.piece.records
		s.dec.Wall = s.piece.wall
	}
	var err error
	// A lost record can stand for one event of each type before its own.
	for len(s.rest) > 0 && len(batch)+numTypes <= cap(batch) {
		if batch, err = s.append(batch); err != nil {
			return batch, err
		}
	}
	if err := s.name(ctx, batch[old:]); err != nil {
		return batch, err
	}
	if len(s.rest) > 0 || len(batch)+numTypes > cap(batch) {
		return s.merge.Fold(batch, false), nil
	}
	if s.piece.settled { // no record will tell of what was lost last
		batch = s.appendLost(batch, s.piece.boot, s.piece.lost.total)
	}
	s.open = false
	return s.merge.Fold(batch, s.piece.err != nil), s.piece.err
}

// append decodes the next record into batch, behind what was lost before it.
func (s *source) append(batch []events.Event) ([]events.Event, error) {
	n := binary.NativeEndian.Uint32(s.rest)
	record := s.rest[prefixLen:][:n]
	s.rest = s.rest[prefixLen+n:]
	batch = batch[:len(batch)+1]
	e := &batch[len(batch)-1]
	lost, err := s.dec.Decode(record, e)
	if err != nil {
		return batch[:len(batch)-1], fmt.Errorf("decode: %w", err)
	}
	if s.gaps != nil {
		s.gaps.See(e)
	}
	if lost != s.lostSeen {
		own := *e
		batch = append(s.appendLost(batch[:len(batch)-1], own.Boot, lost), own)
	}
	return batch, nil
}

// name sets who owns each of these events, and the names that belong to it.
func (s *source) name(ctx context.Context, batch []events.Event) error {
	if err := s.owner.fill(ctx, batch); err != nil {
		return err
	}
	for i := range batch {
		s.names.Fill(&batch[i])
	}
	return nil
}

// appendLost reports the losses up to the moment when lost were lost in all:
// their number is exact. Of which type they were is told by counts that were
// read a little later, and may hold later losses too: where both types were
// lost in two gaps, one gap may get some of the other's.
func (s *source) appendLost(batch []events.Event, boot uint64, lost uint32) []events.Event {
	left := uint64(lost - s.lostSeen)
	s.lostSeen = lost
	for i, byType := range s.piece.lost.byType {
		if n := min(byType-s.lostReported[i], left); n > 0 {
			batch = append(batch, events.Event{
				Time: int64(boot) + s.dec.Wall, Boot: boot,
				Type: events.Lost, Count: n, Of: events.Type(i),
			})
			s.lostReported[i] += n
			left -= n
		}
	}
	return batch
}

// Counts implements [pipeline.Source]. Where the kernel no longer answers,
// which it does as long as the map is open, it gives what it knows.
func (s *source) Counts() pipeline.Counts {
	c := pipeline.Counts{Merged: s.merge.Merged, Audit: s.proof.Audit, Checked: s.proof.Checked, Counters: s.proof.Counters}
	skipped, counting, err := s.skips()
	if err == nil {
		c.Skipped, c.SkippedCounting = skipped, counting
	}
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

// Reasons implements [Source].
func (s *source) Reasons() []string { return s.dec.Reasons }

// Overlooked implements [Source].
func (s *source) Overlooked() string {
	var modules []string
	for _, h := range s.notLoaded {
		if loaded(h.module) {
			modules = append(modules, h.module)
		}
	}
	if modules == nil {
		return ""
	}
	return fmt.Sprintf("%s (%s was loaded after the start)", s.notLoaded[0].gives, strings.Join(modules, ", "))
}

// finish ends the stream, once: what was produced so far is the rest of it.
func (s *source) finish() error {
	if s.links == nil {
		return nil
	}
	var err error
	if s.audit != nil {
		err = s.audit.finish(&s.proof)
	}
	return errors.Join(err, s.detach(), s.spool.flush())
}

// Audit implements [Source].
func (s *source) Audit(sum *events.Summary) error {
	if s.audit == nil {
		return nil
	}
	return s.audit.finish(sum)
}

// detach takes the programs off the tracepoints and waits until none of them
// still runs: after that nothing is added to the buffer.
func (s *source) detach() error {
	var errs []error
	// The last attached first: what set_state remembers serves the others.
	for _, l := range slices.Backward(s.links) {
		if err := l.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach: %w", err))
		}
	}
	s.links = nil
	settle()
	return errors.Join(errs...)
}

// settle waits until none of the programs that run now does any more: each runs
// inside an RCU read section, and MEMBARRIER_CMD_GLOBAL is synchronize_rcu().
// Where that is refused (nohz_full), an event that happens at this very moment
// may miss its place in the stream or in a count.
func settle() { _, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0) }

const membarrierGlobal = 1

// Close implements [pipeline.Source]. Nothing stays attached or loaded.
func (s *source) Close() error {
	err := s.detach()
	if s.spool != nil {
		err = errors.Join(err, s.spool.close())
	}
	for _, l := range []*link.Iter{s.owner.iter, s.dwellers, s.settings} {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
	}
	for _, p := range s.programs { // closing twice does nothing
		err = errors.Join(err, p.Close())
	}
	if s.coll != nil {
		s.coll.Close()
	}
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
