// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// recordings is what recording and reviewing cost.
type recordings struct {
	Records  []recordTrial
	Replays  []replayTrial
	Explains []replayTrial
	Blocks   []float64 // bytes of one block with the events of a lone connection
}

// The loads that are recorded.
const (
	loadStorm      = "storm"
	loadShortStorm = "a tenth of it"
	loadCrowd      = "crowd"
	loadCrowds     = "ten crowds"
)

// The ways to record.
const (
	howRecord = "`record`"
	howBeside = "`-w` beside a table"
	howTable  = "a table alone"
)

// recordTrial is tcptrace recording a load, once.
type recordTrial struct {
	formatTrial // of howTable what is printed, otherwise what is in the file
	Load, How   string
	File        census
}

// replayTrial is the review of a file: a replay with a filter that shows nothing,
// or its explanation.
type replayTrial struct {
	Load   string
	Events int
	CPU    time.Duration // user and system, of a process that has one processor
	Peak   uint64        // bytes
}

// rate is how many events are read for a second of CPU.
func (t *replayTrial) rate() float64 { return float64(t.Events) / t.CPU.Seconds() }

// measureRecordings records each load in each way, and reviews the files.
func measureRecordings(ctx context.Context, o *Options, dir string) (*recordings, error) {
	r := &recordings{}
	big, small := storm{o.Connections}, storm{max(1, o.Connections/10)}
	plan := []struct {
		load, how string
		of        load
	}{
		{loadStorm, howTable, big}, {loadStorm, howBeside, big}, {loadStorm, howRecord, big},
		{loadShortStorm, howRecord, small}, {loadCrowd, howRecord, crowd{o.Crowd}},
	}
	files := map[string]string{}
	for round := range o.Rounds {
		for _, p := range plan {
			file := filepath.Join(dir, fmt.Sprintf("%d.tcptrace", len(r.Records)))
			t, err := tryRecord(ctx, o, dir, p.how, file, p.of)
			if err != nil {
				return nil, fmt.Errorf("recording: %s, %s: %w", p.load, p.how, err)
			}
			t.Load, t.How = p.load, p.how
			r.Records = append(r.Records, t)
			o.Logf("recordings %d/%d: %s, %s: %d lost, %.0f ns of user CPU an event; %s", round+1, o.Rounds,
				p.load, p.how, t.Lost, t.userCost(), &t.File)
			if p.how == howRecord {
				files[p.load] = file
			} else if err := os.RemoveAll(file); err != nil {
				return nil, err
			}
		}
		slices.Reverse(plan)
		// Recordings may follow each other in a file.
		ten := filepath.Join(dir, "ten.tcptrace")
		if err := repeat(ten, files[loadCrowd], 10); err != nil {
			return nil, err
		}
		files[loadCrowds] = ten
		for _, name := range []string{loadShortStorm, loadStorm, loadCrowd, loadCrowds} {
			for _, way := range []struct {
				name string
				more []string
				into *[]replayTrial
			}{
				{"replay", []string{"--port", "1"}, &r.Replays}, // nothing has such a port
				{"explain", nil, &r.Explains},
			} {
				t, err := tryReplay(ctx, o, append([]string{way.name, files[name]}, way.more...))
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", way.name, name, err)
				}
				t.Load = name
				*way.into = append(*way.into, t)
				o.Logf("recordings %d/%d: %s of %s: %d events, %.0f for a second of CPU, %.1f MiB", round+1, o.Rounds,
					way.name, name, t.Events, t.rate(), mib(t.Peak))
			}
			if err := os.Remove(files[name]); err != nil {
				return nil, err
			}
		}
	}
	var err error
	r.Blocks, err = measureIdle(ctx, o, filepath.Join(dir, "idle"))
	return r, err
}

// tryRecord records a load once, in the way how.
func tryRecord(ctx context.Context, o *Options, dir, how, file string, l load) (t recordTrial, err error) {
	tool, more := tcptrace{o.Tcptrace, "events", "table"}, []string{"-w", file, "--no-header"} // headings may come again
	switch how {
	case howTable:
		more = nil
	case howRecord:
		tool = tcptrace{o.Tcptrace, "record", ""}
		more = []string{file, "--event", "retransmit,reset,state"}
	}
	var addr netip.Addr
	t.formatTrial, addr, err = tryFormat(ctx, dir, tool, "file", l, more...)
	if err != nil || how == howTable {
		return t, err
	}
	if t.File, err = readRecording(file, addr); err != nil {
		return t, err
	}
	if how == howBeside && t.File.Events != t.Printed+t.Foreign {
		return t, fmt.Errorf("%d lines were printed, and %d events recorded", t.Printed+t.Foreign, t.File.Events)
	}
	t.Printed, t.Foreign = t.File.Of, t.File.Events-t.File.Of
	return t, nil
}

// census is what a recording holds.
type census struct {
	Bytes           int64
	Events          int
	Of              int // an address
	Retransmissions int
	Ends            int // of connections, both if both are on this host
}

func (c *census) bytesEach() float64 { return float64(c.Bytes) / float64(max(1, c.Events)) }

func (c *census) share() float64 { return float64(c.Retransmissions) / float64(max(1, c.Events)) }

func (c *census) String() string {
	return fmt.Sprintf("%d events of %d ends of connections in %d bytes, %.1f an event, %.0f%% retransmissions",
		c.Events, c.Ends, c.Bytes, c.bytesEach(), 100*c.share())
}

// readRecording counts what is in a file. It must be whole.
func readRecording(file string, addr netip.Addr) (c census, err error) {
	f, err := os.Open(file)
	if err != nil {
		return c, err
	}
	defer f.Close()
	r, err := recording.NewReader(f, recording.ReaderOptions{})
	if err != nil {
		return c, err
	}
	conns := map[uint64]struct{}{}
	batch := make([]events.Event, 0, 256)
	for {
		batch, err = r.Read(batch[:0])
		for i := range batch {
			e := &batch[i]
			if e.Type == events.Lost {
				continue
			}
			c.Events++
			if e.LAddr == addr || e.RAddr == addr {
				c.Of++
			}
			if e.Type == events.Retransmit {
				c.Retransmissions++
			}
			conns[e.Conn] = struct{}{}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c, fmt.Errorf("%s: %w", file, err)
		}
	}
	if r.Damaged() || r.Summary() == nil {
		return c, fmt.Errorf("%s is damaged, or has no end", file)
	}
	delete(conns, 0)
	c.Ends, c.Bytes = len(conns), r.Offset()
	return c, nil
}

// repeat writes n copies of a file.
func repeat(to, from string, n int) (err error) {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for range n {
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// tryReplay reviews a file on one processor. The events that it read are those
// that its summary says were shown or filtered.
func tryReplay(ctx context.Context, o *Options, args []string) (t replayTrial, err error) {
	var p *process
	err = onOneProcessor(func() (err error) {
		p, err = start(ctx, nil, nil, o.Tcptrace, args...)
		return err
	})
	if err != nil {
		return t, err
	}
	// Its peak, as long as there is one to read: what a parent is told at the
	// end has the parent's own in it.
	for !p.ended() {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid())); err == nil {
			if n, err := numbers(peakLine, string(b)); err == nil {
				t.Peak = uint64(n[0]) << 10
			}
		}
		time.Sleep(time.Millisecond)
	}
	if err := p.wait(); err != nil {
		return t, err
	}
	sum, err := numbers(summaryLine, p.text()) // events, filtered, merged, lost
	if err != nil {
		return t, err
	}
	t.Events = sum[0] + sum[1]
	t.CPU = p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	return t, nil
}

// onOneProcessor runs f in a thread whose new processes have one processor.
func onOneProcessor(f func() error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return err
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.SchedSetaffinity(0, &all)) }()
	return f()
}

// measureIdle has a flight recorder write one block after the other, each with
// the events of one refused connection, and returns their sizes.
func measureIdle(ctx context.Context, o *Options, dir string) (sizes []float64, err error) {
	ns, err := lab.NewNamespace(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		return nil, err
	}
	p, err := tcptrace{o.Tcptrace, "record", ""}.trace(ctx, nil,
		dir, "--max-size", "1GiB", "--flush", "10ms", "--netns", fmt.Sprint(ns.Inum()))
	if err != nil {
		return nil, err
	}
	var last int64
	for i := range o.Starts + 1 {
		if err = ns.Storm(ctx, place.Addr, 1, 1); err != nil {
			break
		}
		var size int64
		wait, cancel := context.WithTimeout(ctx, patience)
		err = lab.Until(wait, func() (more bool, err error) {
			size, err = sizeOf(dir)
			return size > last, err
		})
		cancel()
		if err != nil {
			err = fmt.Errorf("waiting for a block: %w", err)
			break
		}
		if i > 0 { // the first comes behind a header
			sizes = append(sizes, float64(size-last))
		}
		last = size
	}
	if err != nil {
		p.kill()
		return nil, err
	}
	o.Logf("recordings: a block with the events of one connection is %.0f bytes", median(sizes))
	return sizes, p.end()
}

// sizeOf adds the sizes of the files of a folder.
func sizeOf(dir string) (sum int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		st, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return 0, err
		}
		sum += st.Size()
	}
	return sum, nil
}

// userCost is what recording a load in a way takes, in nanoseconds an event: the
// median of all rounds, and the least. Of howBeside it is what it takes more than
// the table alone, round by round, and at their best.
func (r *recordings) userCost(load, how string) (usual, least float64) {
	of := func(how string) []float64 {
		return pick(r.Records, func(t *recordTrial) (float64, bool) { return t.userCost(), t.Load == load && t.How == how })
	}
	costs := of(how)
	if how != howBeside {
		return median(costs), lowest(costs)
	}
	alone := of(howTable)
	least = lowest(costs) - lowest(alone)
	for i := range min(len(costs), len(alone)) {
		costs[i] -= alone[i]
	}
	return median(costs), least
}

// bytesEach is the highest of a load, in bytes an event; NaN if some trial had
// less than the share of retransmissions, or the ends of connections, that the target
// speaks of.
func (r *recordings) bytesEach(load string, share float64, ends int) float64 {
	var of []float64
	for i := range r.Records {
		if t := &r.Records[i]; t.Load == load && t.How == howRecord {
			if t.File.share() < share || t.File.Ends < ends {
				return median(nil)
			}
			of = append(of, t.File.bytesEach())
		}
	}
	return highest(of)
}

// recordPeak and replayPeak are the medians of a load, in MiB.
func (r *recordings) recordPeak(load string) float64 {
	return median(pick(r.Records, func(t *recordTrial) (float64, bool) {
		return mib(t.Memory.Peak + t.Memory.Maps), t.Load == load && t.How == howRecord
	}))
}

func (r *recordings) replayPeak(load string) float64 { return peakOf(r.Replays, load) }

func peakOf(list []replayTrial, load string) float64 {
	return median(pick(list, func(t *replayTrial) (float64, bool) { return mib(t.Peak), t.Load == load }))
}

// replayRate is the median of a load, in events for a second of CPU.
func (r *recordings) replayRate(load string) float64 { return rateOf(r.Replays, load) }

func (r *recordings) explainRate(load string) float64 { return rateOf(r.Explains, load) }

func rateOf(list []replayTrial, load string) float64 {
	return median(pick(list, func(t *replayTrial) (float64, bool) { return t.rate(), t.Load == load }))
}

// lost is how many events the storms lost while they were recorded, and how
// many nobody accounts for.
func (r *recordings) lost() (lost, unexplained int) {
	for i := range r.Records {
		if t := &r.Records[i]; t.Load != loadCrowd && t.How != howTable {
			lost += t.Lost
			unexplained += t.unexplained()
		}
	}
	return lost, unexplained
}

// blockADay is what a day takes in which every second has its block, in MiB.
func (r *recordings) blockADay() float64 { return median(r.Blocks) * 86400 / (1 << 20) }

// pick are the values of those that count.
func pick[T any](all []T, f func(*T) (value float64, counts bool)) (values []float64) {
	for i := range all {
		if v, ok := f(&all[i]); ok {
			values = append(values, v)
		}
	}
	return values
}

// rows are those of the two tables.
func (r *recordings) rows() (records, replays, explains [][]string) {
	for _, of := range [][2]string{
		{loadStorm, howRecord}, {loadShortStorm, howRecord}, {loadStorm, howBeside}, {loadCrowd, howRecord},
	} {
		load, how := of[0], of[1]
		var last *recordTrial
		lost := 0
		for i := range r.Records {
			if t := &r.Records[i]; t.Load == load && t.How == how {
				last = t
				lost += t.Lost
			}
		}
		if last == nil {
			continue
		}
		usual, least := r.userCost(load, how)
		unit := "ns"
		if how == howBeside {
			unit = "ns more than the table"
		}
		records = append(records, []string{
			load, how, thousands(float64(last.File.Events)), thousands(float64(last.File.Ends)),
			fmt.Sprintf("%.0f%%", 100*last.File.share()), fmt.Sprintf("%.1f", last.File.bytesEach()), fmt.Sprintf("%.0f %s", usual, unit), fmt.Sprintf("%.0f %s", least, unit),
			fmt.Sprintf("%.0f MiB", median(pick(r.Records, func(t *recordTrial) (float64, bool) {
				return mib(t.Memory.Peak + t.Memory.Maps), t.Load == load && t.How == how
			}))), fmt.Sprint(lost),
		})
	}
	return records, reviews(r.Replays), reviews(r.Explains)
}

// reviews are the rows of a table.
func reviews(list []replayTrial) (rows [][]string) {
	for _, load := range []string{loadShortStorm, loadStorm, loadCrowd, loadCrowds} {
		n := pick(list, func(t *replayTrial) (float64, bool) { return float64(t.Events), t.Load == load })
		if n != nil {
			rows = append(rows, []string{load, thousands(n[len(n)-1]), thousands(rateOf(list, load)), fmt.Sprintf("%.1f MiB", peakOf(list, load))})
		}
	}
	return rows
}
