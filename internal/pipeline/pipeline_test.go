// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/format"
)

// script is a source that gives these batches, a nil one being an idle moment,
// and then the end when the context is done, or at once.
type script struct {
	batches [][]events.Event
	err     error
	counts  Counts
}

func (s *script) Read(ctx context.Context, batch []events.Event) ([]events.Event, error) {
	if len(s.batches) == 0 {
		if s.err != nil {
			return batch, s.err
		}
		return batch, io.EOF
	}
	batch = append(batch, s.batches[0]...)
	s.batches = s.batches[1:]
	return batch, nil
}

func (s *script) Counts() Counts { return s.counts }
func (s *script) Close() error   { return nil }

func some(n int, kind events.Kind) []events.Event {
	out := make([]events.Event, n)
	for i := range out {
		out[i] = events.Event{Type: events.Retransmit, Kind: kind}
	}
	return out
}

func printer(t *testing.T) *format.Printer {
	t.Helper()
	p, err := format.New(format.Options{Format: format.CSV, Columns: []string{"kind", "event", "count"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRun(t *testing.T) {
	lost := events.Event{Type: events.Lost, Count: 3, Of: events.Reset}
	src := &script{
		batches: [][]events.Event{some(2, events.KindRTO), nil, append(some(1, events.KindTLP), lost), some(1, events.KindRTO)},
		counts:  Counts{Produced: 12, Filtered: 4, Merged: 1, Lost: 3},
	}
	var out bytes.Buffer
	var warned, idle int
	sum, err := Run(t.Context(), src, Options{
		Keep:    func(e *events.Event) bool { return e.Kind != events.KindTLP },
		Printer: printer(t), Out: &out,
		Warn: func(*events.Event) { warned++ },
		Idle: func() error { idle++; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "kind,event,count\nrto,retransmit,\nrto,retransmit,\n,lost,3\nrto,retransmit,\n"; out.String() != want {
		t.Errorf("printed %q", out.String())
	}
	if warned != 1 || idle != 2 { // the empty batch, and the one of which nothing was shown
		t.Errorf("warned %d times, idle %d times", warned, idle)
	}
	if sum.Events != 3 || sum.Filtered != 5 || sum.Merged != 1 || sum.Lost != 3 || len(sum.ByKind) != 1 || sum.ByKind[0] != (events.KindCount{Name: "rto", Count: 3}) {
		t.Errorf("%+v", sum)
	}
	if got := sum.Events + sum.Filtered + sum.Merged + sum.Lost; got != src.counts.Produced {
		t.Errorf("%d accounted of %d", got, src.counts.Produced)
	}
}

func TestCount(t *testing.T) {
	src := &script{batches: [][]events.Event{some(3, events.KindRTO), some(2, events.KindRTO)}, counts: Counts{Produced: 5}}
	var out bytes.Buffer
	sum, err := Run(t.Context(), src, Options{Printer: printer(t), Out: &out, Count: 2})
	if err != nil || sum.Events != 2 || sum.Filtered != 3 || strings.Count(out.String(), "rto") != 2 {
		t.Errorf("%v, %+v, printed %q", err, sum, out.String())
	}
}

func TestErrors(t *testing.T) {
	broken := errors.New("broken")
	if _, err := Run(t.Context(), &script{err: broken}, Options{Printer: printer(t), Out: io.Discard}); !errors.Is(err, broken) {
		t.Errorf("source: %v", err)
	}
	if _, err := Run(t.Context(), &script{batches: make([][]events.Event, 5)},
		Options{Printer: printer(t), Out: io.Discard, Idle: func() error { return broken }}); !errors.Is(err, broken) {
		t.Errorf("idle: %v", err)
	}
	r, w := io.Pipe()
	r.CloseWithError(broken)
	if _, err := Run(t.Context(), &script{}, Options{Printer: printer(t), Out: w}); !errors.Is(err, broken) {
		t.Errorf("output: %v", err)
	}
}

// A storm is written in large pieces, and whole.
func TestFlush(t *testing.T) {
	src := &script{batches: [][]events.Event{some(20_000, events.KindRTO)}}
	var out pieces
	if _, err := Run(t.Context(), src, Options{Printer: printer(t), Out: &out}); err != nil {
		t.Fatal(err)
	}
	if want := len("kind,event,count\n") + 20_000*len("rto,retransmit,\n"); out.bytes != want || out.writes > want/flushLen+2 {
		t.Errorf("%d bytes in %d writes, want %d", out.bytes, out.writes, want)
	}
}

type pieces struct{ bytes, writes int }

func (p *pieces) Write(b []byte) (int, error) {
	p.bytes += len(b)
	p.writes++
	return len(b), nil
}

// sink keeps what it gets, and fails where it is to.
type sink struct {
	got                           []events.Event
	ticks                         int
	soFar                         events.Summary
	finished                      *events.Summary
	appendErr, tickErr, finishErr error
}

func (s *sink) Append(batch []events.Event) error {
	s.got = append(s.got, batch...)
	return s.appendErr
}

func (s *sink) Tick(soFar func() events.Summary) error {
	s.ticks++
	s.soFar = soFar()
	return s.tickErr
}

func (s *sink) Finish(sum *events.Summary) error {
	s.finished = sum
	return s.finishErr
}

// What is recorded is what is printed, and what is lost. It may be one alone.
func TestSink(t *testing.T) {
	lost := events.Event{Type: events.Lost, Count: 3, Of: events.Reset}
	for _, print := range []bool{true, false} {
		src := &script{
			batches: [][]events.Event{some(2, events.KindRTO), nil, append(some(1, events.KindTLP), lost), some(2, events.KindRTO)},
			counts:  Counts{Lost: 3, Recorded: true, Elapsed: 7},
		}
		var out bytes.Buffer
		s := &sink{}
		o := Options{Keep: func(e *events.Event) bool { return e.Kind != events.KindTLP }, Sink: s, Out: &out, Count: 3}
		if print {
			o.Printer = printer(t)
		}
		sum, err := Run(t.Context(), src, o)
		if err != nil || sum.Events != 3 || sum.Filtered != 2 || sum.Elapsed != 7 {
			t.Errorf("%v, %+v", err, sum)
		}
		if len(s.got) != 4 || s.got[2].Type != events.Lost || s.ticks != 5 || s.soFar.Events != 3 || s.finished == nil || s.finished.Filtered != 2 {
			t.Errorf("%+v", s)
		}
		if (out.Len() > 0) != print {
			t.Errorf("printed %q", &out)
		}
	}
}

// What is on screen was recorded before, however large a batch is.
func TestRecordedFirst(t *testing.T) {
	s := &sink{}
	printed, writes := -1, 0 // without the heading
	out := writerFunc(func(b []byte) (int, error) {
		printed += bytes.Count(b, []byte("\n"))
		writes++
		if printed > len(s.got) {
			t.Errorf("%d are printed, %d recorded", printed, len(s.got))
		}
		return len(b), nil
	})
	src := &script{batches: [][]events.Event{some(20_000, events.KindRTO), some(1, events.KindRTO)}}
	if _, err := Run(t.Context(), src, Options{Printer: printer(t), Out: out, Sink: s}); err != nil {
		t.Fatal(err)
	}
	if printed != 20_001 || len(s.got) != 20_001 || writes < 4 {
		t.Errorf("%d printed in %d writes, %d recorded", printed, writes, len(s.got))
	}
}

// A recording of a newer version has kinds without a name here; those of one
// that was not finished leave unknown what became of other events.
func TestUnknownKinds(t *testing.T) {
	list := []events.Event{
		some(1, events.KindRTO)[0], {Type: events.Retransmit, Kind: 200}, {Type: events.Reset, Kind: 201}, {Type: events.Retransmit, Kind: events.KindUnknown},
		{Type: events.StateChange}, {Type: events.StateChange, Kind: events.KindRTO}, {Type: events.Retransmit},
	}
	sum, err := Run(t.Context(), &script{batches: [][]events.Event{list}, counts: Counts{Recorded: true, Partial: true}}, Options{Out: io.Discard})
	want := []events.KindCount{{Name: "state", Count: 2}, {Name: "unknown", Count: 4}, {Name: "rto", Count: 1}}
	if err != nil || !slices.Equal(sum.ByKind, want) || !sum.Partial {
		t.Errorf("%v, %+v", err, sum)
	}
}

// What a sink knows better is printed.
func TestSinkSummary(t *testing.T) {
	p, err := format.New(format.Options{Format: format.JSON})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	src := &script{batches: [][]events.Event{{some(1, events.KindRTO)[0], {Type: events.Lost, Of: events.Reset, Count: 7}}}}
	sum, err := Run(t.Context(), src, Options{Printer: p, Silent: true, Out: &out, Sink: amend{&sink{}}})
	lines := strings.Split(out.String(), "\n")
	if err != nil || sum.Checked != 41 || len(lines) != 3 || !strings.Contains(lines[0], `"count":7`) || !strings.Contains(lines[1], `"audited_netns":41`) {
		t.Errorf("%v, %+v, %s", err, sum, &out)
	}
}

// amend is a sink that knows more about the audit.
type amend struct{ *sink }

func (a amend) Finish(sum *events.Summary) error {
	sum.Audit, sum.Checked = []events.Audit{}, 41
	return a.sink.Finish(sum)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// An error of the sink ends the run, and is told once. Whatever failed, the sink
// is finished, and what still listens gets the summary.
func TestSinkErrors(t *testing.T) {
	broken := errors.New("broken")
	for name, s := range map[string]*sink{
		"append": {appendErr: broken}, "tick": {tickErr: broken}, "finish": {finishErr: broken},
		"append and finish": {appendErr: errors.New("broken first"), finishErr: broken}, "tick and finish": {tickErr: errors.New("broken first"), finishErr: broken},
	} {
		var out bytes.Buffer
		p, err := format.New(format.Options{Format: format.JSON})
		if err != nil {
			t.Fatal(err)
		}
		sum, err := Run(t.Context(), &script{batches: [][]events.Event{some(1, events.KindRTO)}}, Options{Printer: p, Out: &out, Sink: s})
		if err == nil || err.Error() != "broken" || sum.Events != 1 || s.finished == nil {
			t.Errorf("%s: %v, %+v, %+v", name, err, sum, s)
		}
		if !strings.Contains(out.String(), `{"event":"summary","events":1,`) {
			t.Errorf("%s: printed %s", name, &out)
		}
	}
	r, w := io.Pipe()
	r.CloseWithError(broken)
	for name, tt := range map[string]struct {
		src *script
		out io.Writer
	}{
		"source": {&script{err: broken}, io.Discard},
		"output": {&script{}, w},
	} {
		s := &sink{}
		if _, err := Run(t.Context(), tt.src, Options{Printer: printer(t), Out: tt.out, Sink: s}); !errors.Is(err, broken) || s.finished == nil {
			t.Errorf("%s: %v, %+v", name, err, s)
		}
	}
}

// The source is told that it is the count that ended it.
func TestEnough(t *testing.T) {
	src := &endless{}
	if _, err := Run(t.Context(), src, Options{Out: io.Discard, Count: 2}); err != nil || !errors.Is(src.cause, ErrEnough) {
		t.Errorf("%v, %v", err, src.cause)
	}
}

// endless ends with its context.
type endless struct {
	script
	cause error
}

func (s *endless) Read(ctx context.Context, batch []events.Event) ([]events.Event, error) {
	if ctx.Err() != nil {
		s.cause = context.Cause(ctx)
		return batch, io.EOF
	}
	return append(batch, some(1, events.KindRTO)...), nil
}
