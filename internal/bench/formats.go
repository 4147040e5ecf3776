// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

// formatTrial is tcptrace in the storm, with one format and one sort of output.
type formatTrial struct {
	Format, Sink string
	Events       int
	Printed      int
	Foreign      int // lines about others' events, and a heading or a summary
	Lost         int // as it says itself
	Misses       int // that the kernel kept from a program that was running
	// Hidden are those that interrupted process 1, when some kernels run no
	// BPF program.
	Hidden int
	User   time.Duration
	Memory memory
}

// unexplained are the events that are neither printed nor accounted for. On
// kernels that hide none, Hidden were printed, too.
func (t *formatTrial) unexplained() int {
	missing := t.Events - t.Printed - t.Lost - t.Misses
	if missing == t.Hidden {
		return 0
	}
	return missing
}

func (t *formatTrial) String() string {
	return fmt.Sprintf("%d events, %d printed, %d lost, %d unexplained, %.0f ns of user CPU an event, %.1f MiB",
		t.Events, t.Printed, t.Lost, t.unexplained(), t.userCost(), mib(t.Memory.Peak+t.Memory.Maps))
}

// userCost is user CPU for an event, in nanoseconds.
func (t *formatTrial) userCost() float64 {
	return float64(t.User) / float64(max(1, t.Printed+t.Foreign))
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

var (
	formats = []string{"table", "wide", "json", "csv"}
	sinks   = []string{"file", "pipe"}
)

// measureFormats runs the storm for each format, to a file and into a pipe.
func measureFormats(ctx context.Context, o *Options, dir string) (all []formatTrial, err error) {
	order := slices.Clone(formats)
	for round := range o.fewRounds() {
		for _, sink := range sinks {
			for _, format := range order {
				t, _, err := tryFormat(ctx, dir, tcptrace{o.Tcptrace, "events", format}, sink, storm{o.Connections})
				if err != nil {
					return nil, fmt.Errorf("%s to a %s: %w", format, sink, err)
				}
				all = append(all, t)
				o.Logf("formats %d/%d: %-5s %s: %s", round+1, o.fewRounds(), format, sink, &t)
			}
			slices.Reverse(order)
		}
	}
	return all, nil
}

// tryFormat has tcptrace, with more arguments, trace a load about the address
// that it returns.
func tryFormat(ctx context.Context, dir string, tool tcptrace, sink string, l load, more ...string) (t formatTrial, addr netip.Addr, err error) {
	ns, err := lab.NewNamespace(ctx)
	if err != nil {
		return t, addr, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		return t, addr, err
	}
	t, err = tryFormatAt(ctx, dir, tool, sink, l, place, more)
	return t, place.Addr, err
}

func tryFormatAt(ctx context.Context, dir string, tool tcptrace, sink string, l load, place lab.Place, more []string) (t formatTrial, err error) {
	t = formatTrial{Format: tool.format, Sink: sink}
	blind, err := labtest.StartBlindSpot()
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, blind.Close()) }()
	out, printed, err := openSink(sink, filepath.Join(dir, "formats.out"), match{addr: place.Addr.String()})
	if err != nil {
		return t, err
	}
	p, err := tool.trace(ctx, out, more...)
	if err != nil {
		return t, errors.Join(err, out.Close())
	}
	// With a pipe's last writer its reader ends.
	if err := out.Close(); err != nil {
		p.kill()
		return t, err
	}
	if err := t.measure(ctx, p, l, place); err != nil {
		p.kill()
		return t, err
	}
	lines, err := printed()
	if err != nil {
		return t, err
	}
	t.Printed, t.Foreign = lines.events, lines.lines-lines.events
	if t.Lost, err = lostOf(p.text(), lines.last); err != nil {
		return t, err
	}
	hidden, err := blind.Count(func(e labtest.TraceEvent) bool { return e.Involves(place.Addr) })
	if err != nil {
		return t, err
	}
	for _, n := range hidden {
		t.Hidden += n
	}
	return t, nil
}

// measure has the load pass over the tool, and ends it.
func (t *formatTrial) measure(ctx context.Context, p *process, l load, place lab.Place) (err error) {
	begin, err := userTime(p.pid())
	if err != nil {
		return err
	}
	if t.Events, err = l.run(ctx, place); err != nil {
		return err
	}
	stats, err := readPrograms(p.pid())
	if err != nil {
		return err
	}
	t.Misses = int(total(stats).Misses)
	if t.Memory, err = readMemory(p.pid()); err != nil {
		return err
	}
	if err := p.end(); err != nil {
		return err
	}
	if usage, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		t.Memory.Peak = max(t.Memory.Peak, uint64(usage.Maxrss)<<10-t.Memory.Mapped)
	}
	t.User = p.cmd.ProcessState.UserTime() - begin
	return nil
}

// openSink opens an output, and returns what waits for its end and counts the
// lines that match.
func openSink(sink, file string, m match) (out *os.File, printed func() (tally, error), err error) {
	if sink == "file" {
		out, err = os.Create(file)
		return out, func() (tally, error) {
			t, err := countLines(file, m)
			return t, errors.Join(err, os.Remove(file))
		}, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	type result struct {
		tally
		err error
	}
	read := make(chan result, 1)
	go func() {
		t, err := count(r, m)
		read <- result{t, errors.Join(err, r.Close())}
	}()
	return w, func() (tally, error) { r := <-read; return r.tally, r.err }, nil
}
