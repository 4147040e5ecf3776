// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"cmp"
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A BlindSpot counts the events that no BPF program on this machine was shown: some kernels run none while the current
// thread belongs to process 1, and a TCP timer or a packet interrupts whoever is running. A test of exact counts
// demands: traced by BPF + blind = the kernel's counter. On stock kernels the blind spot is empty but the events of
// process 1 are still counted here, so ask Blind whether this is such a kernel before adding.
type BlindSpot struct {
	trace   *Trace
	mu      sync.Mutex
	threads map[int]bool // every thread process 1 was seen to have
	absent  bool
}

// StartBlindSpot starts to record the events that interrupt process 1. Where there is no tracefs it records nothing,
// and Absent tells.
func StartBlindSpot() (*BlindSpot, error) {
	b := &BlindSpot{threads: map[int]bool{}}
	trace, err := startTrace(func(t *Trace) error {
		// Threads that come later are followed. So are processes that process 1 starts: Events leaves them out.
		if err := t.write("options/event-fork", "1"); err != nil {
			return err
		}
		if err := b.look(); err != nil {
			return err
		}
		var ids []string
		for tid := range b.threads {
			ids = append(ids, strconv.Itoa(tid))
		}
		return t.write("set_event_pid", strings.Join(ids, " "))
	})
	if errors.Is(err, ErrNoTracefs) {
		b.absent = true
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	b.trace = trace
	// A thread born between the two steps above has no forebear in the list; there is no atomic way.
	if err := b.look(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	for tid := range b.threads {
		if err := appendPid(trace, tid); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	return b, nil
}

func appendPid(t *Trace, tid int) error {
	f, err := os.OpenFile(t.dir+"/set_event_pid", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(tid))
	return errors.Join(err, f.Close())
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
			b.threads[tid] = true
		}
	}
	return nil
}

// Absent says that nothing could be recorded: the counts are zero for want of a witness.
func (b *BlindSpot) Absent() bool { return b.absent }

// Events returns the events that interrupted process 1 and satisfy match, nil meaning all. The tracepoints print no
// namespace: match by address (a lab namespace has addresses of its own) or by port.
func (b *BlindSpot) Events(match func(TraceEvent) bool) ([]TraceEvent, error) {
	if b.absent {
		return nil, nil
	}
	if err := b.look(); err != nil {
		return nil, err
	}
	events, err := b.trace.Events()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(events, func(e TraceEvent) bool {
		inPID1 := e.TGID == 1 || e.TGID == 0 && b.threads[e.TID]
		return !inPID1 || match != nil && !match(e)
	}), nil
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
func (b *BlindSpot) Close() error { return b.trace.Close() }

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
