// SPDX-License-Identifier: Apache-2.0

// Package pipeline is the one loop that every stream goes through:
//
//	source -> keep? -> record, print
//
// where the source is a kernel or a recording. It knows neither, nor files.
package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/format"
)

// Source gives events in the order in which they happened.
type Source interface {
	// Read appends the next events to batch, at most as many as fit its
	// capacity, and waits at most about 100 ms for the first. No event and no
	// error is an idle moment. After ctx is done it gives what is left and
	// then io.EOF.
	Read(ctx context.Context, batch []events.Event) ([]events.Event, error)
	// Counts says what became of the events that Read did not give, so far.
	Counts() Counts
	Close() error
}

// Counts is a source's account of the events that it produced:
// given by Read + Filtered + Merged + Lost = Produced.
type Counts struct {
	Produced uint64 // matched by an attached tracepoint
	Filtered uint64 // rejected before they reached Read
	Merged   uint64 // folded into another event
	Lost     uint64 // no room in the ring buffer

	// Of the events that the kernel made, see [events.Summary]. The audit is
	// there when Read has given io.EOF.
	Skipped, SkippedCounting uint64
	Audit                    []events.Audit
	Checked                  int
	Counters                 []events.Counter

	// Of a recording, how long it took; else Run looks at the clock.
	Recorded bool
	Partial  bool // see [events.Summary]
	Damaged  bool
	Elapsed  time.Duration
}

// Sink takes what is printed, too, as a recording does.
type Sink interface {
	// Append takes some events, lost ones among them. It keeps nothing that they
	// refer to.
	Append(batch []events.Event) error
	// Tick is called after each read: about ten times a second when nothing
	// happens. soFar is the summary up to there, without the audit.
	Tick(soFar func() events.Summary) error
	// Finish is called once, last, also after an error of Append or Tick: its own
	// is told instead of that, if there is one. What it knows better it changes in
	// the summary, which is printed then.
	Finish(*events.Summary) error
}

// ErrEnough is the cause of the end of the context that [Source].Read gets when
// o.Count events were shown.
var ErrEnough = errors.New("enough events")

// Options of [Run].
type Options struct {
	Keep    func(*events.Event) bool // nil keeps everything; lost events always pass
	Printer *format.Printer          // nil prints nothing
	Silent  bool                     // print losses and the summary alone
	Sink    Sink                     // nil is none
	Out     io.Writer
	Count   uint64              // stop after so many events; 0: don't
	Warn    func(*events.Event) // called for each lost event; may be nil
	Idle    func() error        // called after each read that showed nothing; an error ends the run, and the output; may be nil
}

const (
	batchLen = 256      // events decoded at a time: half the second-level cache
	flushLen = 64 << 10 // bytes printed at a time, at most a little more
)

// Run prints and records what src gives until it ends, ctx is done, or o.Count
// events were shown. The summary is right also beside an error, which is one of
// src, o.Idle, o.Out, or o.Sink.
func Run(ctx context.Context, src Source, o Options) (events.Summary, error) {
	r := run{o: o, start: time.Now()}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	if o.Printer != nil {
		r.buf = o.Printer.AppendHeader(make([]byte, 0, flushLen+4096))
	}
	soFar := func() events.Summary { return r.summary(src.Counts()) }
	err := r.flush()
	batch := make([]events.Event, 0, batchLen)
	for done := false; err == nil && r.sinkErr == nil && !done; {
		var rerr error
		shown := r.shown
		batch, rerr = src.Read(ctx, batch[:0])
		if err = r.show(batch); err != nil || r.sinkErr != nil {
			break
		}
		switch {
		case errors.Is(rerr, io.EOF):
			done = true
		case rerr != nil:
			err = rerr
		case r.shown == shown && o.Idle != nil:
			err = o.Idle()
			r.mute = err != nil
		}
		if o.Count > 0 && r.shown == o.Count {
			cancel(ErrEnough) // the source drains, so that the account is whole
		}
		if ferr := r.flush(); err == nil {
			err = ferr
		}
		if o.Sink != nil {
			r.sinkErr = o.Sink.Tick(soFar)
		}
	}

	sum := soFar()
	if o.Sink != nil { // whatever else failed, what was recorded is whole
		err = errors.Join(err, cmp.Or(o.Sink.Finish(&sum), r.sinkErr))
	}
	if !r.mute && o.Printer != nil {
		r.buf = o.Printer.AppendSummary(r.buf, &sum)
		err = errors.Join(err, r.flush())
	}
	return sum, err
}

// run is the state of one Run.
type run struct {
	o        Options
	start    time.Time
	buf      []byte
	shown    uint64
	filtered uint64
	byKind   [256]uint64 // by events.Kind, but for state changes
	states   uint64
	sinkErr  error
	mute     bool // nobody listens any more
}

// show records the events that are wanted, which it moves to the front of batch,
// and then prints them, so that what is on screen is in the recording; if that is
// full, the last of them are on screen alone. The error is the output's.
func (r *run) show(batch []events.Event) error {
	n := 0
	for i := range batch {
		if !r.wants(&batch[i]) {
			continue
		}
		if n < i {
			batch[n] = batch[i]
		}
		n++
	}
	if r.o.Sink != nil && n > 0 {
		r.sinkErr = r.o.Sink.Append(batch[:n])
	}
	if r.o.Printer == nil {
		return nil
	}
	for i := range batch[:n] {
		if r.o.Silent && batch[i].Type != events.Lost {
			continue
		}
		r.buf = r.o.Printer.AppendEvent(r.buf, &batch[i])
		if len(r.buf) >= flushLen {
			if err := r.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// wants reports whether e is to be shown, and counts it.
func (r *run) wants(e *events.Event) bool {
	if e.Type == events.Lost {
		if r.o.Warn != nil {
			r.o.Warn(e)
		}
		return true
	}
	// What comes after the last wanted event is not wanted.
	if r.o.Count > 0 && r.shown == r.o.Count || r.o.Keep != nil && !r.o.Keep(e) {
		r.filtered++
		return false
	}
	r.shown++
	if e.Type == events.StateChange {
		r.states++
	} else {
		r.byKind[e.Kind]++
	}
	return true
}

func (r *run) flush() error {
	if len(r.buf) == 0 {
		return nil
	}
	_, err := r.o.Out.Write(r.buf)
	r.buf = r.buf[:0]
	if err != nil {
		r.mute = true
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func (r *run) summary(c Counts) events.Summary {
	s := events.Summary{
		Events:   r.shown,
		Filtered: c.Filtered + r.filtered,
		Merged:   c.Merged,
		Lost:     c.Lost,
		Elapsed:  time.Since(r.start),

		Skipped:         c.Skipped,
		SkippedCounting: c.SkippedCounting,
		Audit:           c.Audit,
		Checked:         c.Checked,
		Counters:        c.Counters,
	}
	if c.Recorded {
		s.Elapsed, s.Partial, s.Damaged = c.Elapsed, c.Partial, c.Damaged
	}
	count := func(name string, n uint64) {
		if n > 0 {
			s.ByKind = append(s.ByKind, events.KindCount{Name: name, Count: n})
		}
	}
	named := r.byKind
	for k, n := range named {
		if events.Kind(k).String() == "" { // of a newer version's recording
			named[k] = 0
			named[events.KindUnknown] += n
		}
	}
	count(events.StateChange.String(), r.states)
	for k, n := range named {
		count(events.Kind(k).String(), n)
	}
	return s
}
