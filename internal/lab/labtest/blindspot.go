// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A BlindSpot counts the events that no BPF program on this machine was shown: some kernels run none while the current
// thread belongs to process 1, and a TCP timer or a packet interrupts whoever is running. A test of exact counts on such
// a machine demands: traced by BPF + blind = the kernel's counter. On stock kernels BPF programs do see these events, and
// the blind spot is to be taken as empty; this package cannot tell the one kernel from the other, and is told: NoBlindSpot.
type BlindSpot struct {
	in     *instance // nil if there is no tracefs
	mu     sync.Mutex
	lines  []string
	pid1   map[int]bool // every thread that process 1 was seen to have
	absent bool
}

// NoBlindSpot is the environment variable that, if not empty, says that this kernel has no blind spot. Test VMs set it.
const NoBlindSpot = "TCPTRACE_TEST_NO_BLIND_SPOT"

// StartBlindSpot starts to record the events that interrupt process 1. Where there is no tracefs, or no blind spot by
// the environment (NoBlindSpot), it records nothing, and Absent tells.
func StartBlindSpot() (*BlindSpot, error) {
	b := &BlindSpot{pid1: map[int]bool{}}
	if os.Getenv(NoBlindSpot) != "" {
		b.absent = true
		return b, nil
	}
	take := func(line string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.lines = append(b.lines, line)
	}
	in, err := startInstance(1<<10, take, func(in *instance) error {
		// Threads that come later are followed. So are the processes that process 1 starts: Events leaves them out.
		if err := in.write("options/event-fork", "1"); err != nil {
			return err
		}
		// A thread that is born while the list is being written has no forebear in it, so look again.
		for range 2 {
			if err := b.look(); err != nil {
				return err
			}
			var ids []string
			for tid := range b.pid1 {
				ids = append(ids, strconv.Itoa(tid))
			}
			if err := in.write("set_event_pid", strings.Join(ids, " ")); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, ErrNoTracefs) {
		b.absent = true
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	b.in = in
	return b, nil
}

// look notes the threads that process 1 has now.
func (b *BlindSpot) look() error {
	entries, err := os.ReadDir("/proc/1/task")
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			b.pid1[tid] = true
		}
	}
	return nil
}

// AwaitQuiet waits, where there is a blind spot, for process 1 to do nothing for half a second: then it is interrupted by
// nothing either. It gives up after five seconds, since others may keep that process busy.
func AwaitQuiet(t testing.TB) {
	t.Helper()
	if os.Getenv(NoBlindSpot) != "" {
		return
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	last := uint64(0)
	for range 10 {
		used, err := processorTime(1)
		if err != nil {
			t.Fatal(err)
		}
		if used == last {
			return
		}
		last = used
		<-tick.C
	}
	t.Log("process 1 is busy")
}

// processorTime is what all threads of a process have used so far, in clock ticks.
func processorTime(pid int) (uint64, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	// The process's name, in parentheses, may have any byte; utime and stime are the 12th and 13th field behind it.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("%s: %q", name, b)
	}
	var sum uint64
	for _, s := range f[11:13] {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		sum += n
	}
	return sum, nil
}

// Absent says that nothing is recorded: the counts are zero.
func (b *BlindSpot) Absent() bool { return b.absent }

// Events returns the events so far that interrupted process 1 and satisfy match, nil meaning all. The tracepoints print
// no namespace: match by address (a lab namespace has addresses of its own) or by port.
func (b *BlindSpot) Events(match func(TraceEvent) bool) ([]TraceEvent, error) {
	if b.absent {
		return nil, nil
	}
	if err := errors.Join(b.in.sync(0), b.look()); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var events []TraceEvent
	for _, line := range b.lines {
		e, err := parseTrace(line)
		if err != nil {
			return nil, err
		}
		own := e.TGID == 1 || e.TGID == 0 && b.pid1[e.TID]
		if own && (match == nil || match(e)) {
			events = append(events, e)
		}
	}
	return events, nil
}

// Watch returns what gives the events from now on that interrupt process 1 and satisfy match. A recording that goes on
// over many namespaces wants it: one may have the addresses of another that is gone.
func (b *BlindSpot) Watch(match func(TraceEvent) bool) (func() ([]TraceEvent, error), error) {
	before, err := b.Events(match)
	if err != nil {
		return nil, err
	}
	return func() ([]TraceEvent, error) {
		events, err := b.Events(match)
		return events[min(len(before), len(events)):], err
	}, nil
}

// Count counts the events by tracepoint.
func (b *BlindSpot) Count(match func(TraceEvent) bool) (map[string]int, error) {
	events, err := b.Events(match)
	n := map[string]int{}
	for _, e := range events {
		n[e.Name]++
	}
	return n, err
}

// Close ends the recording.
func (b *BlindSpot) Close() error {
	if b.absent {
		return nil
	}
	return b.in.close()
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
