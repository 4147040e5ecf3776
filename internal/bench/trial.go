// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// trial is one tool on one load, once.
type trial struct {
	Events int // that the kernel made
	Took   time.Duration
	// Programs are the statistics of the tool's BPF programs, empty if it has none.
	Programs map[string]programStats
	// CPU is the time that the load took of the processors, and the tool until
	// it had written everything.
	CPU time.Duration
	delivery
}

// try runs a tool on a load in a namespace of its own.
func try(ctx context.Context, dir string, t tool, l load) (r trial, err error) {
	dir, err = os.MkdirTemp(dir, "trial-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ns, err := lab.NewNamespace(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		return r, err
	}
	s, err := t.start(ctx, dir)
	if err != nil {
		return r, err
	}
	if r, err = measure(ctx, s, l, place); err != nil {
		s.kill()
		return r, err
	}
	if r.delivery, err = s.stop(ctx, match{place.Addr.String(), l.word()}); err != nil {
		return r, err
	}
	runs := 0 // for events of the load
	for name, p := range r.Programs {
		if strings.Contains(name, l.word()) {
			runs += int(p.Runs)
		}
	}
	if r.Handled == unknown {
		r.Handled = runs
	}
	if r.Delivered == unknown { // it has no output
		r.Delivered = runs - r.Lost
	}
	return r, nil
}

func measure(ctx context.Context, s session, l load, place lab.Place) (r trial, err error) {
	before, err := readPrograms(s.pid())
	if err != nil {
		return r, err
	}
	own, err := clock(unix.CLOCK_PROCESS_CPUTIME_ID)
	if err != nil {
		return r, err
	}
	tool, err := cpuTime(s.pid())
	if err != nil {
		return r, err
	}
	begin := time.Now()
	if r.Events, err = l.run(ctx, place); err != nil {
		return r, err
	}
	r.Took = time.Since(begin)
	ownAfter, err := clock(unix.CLOCK_PROCESS_CPUTIME_ID)
	if err != nil {
		return r, err
	}
	if err := settled(ctx, s.output()); err != nil {
		return r, err
	}
	toolAfter, err := cpuTime(s.pid())
	if err != nil {
		return r, err
	}
	r.CPU = ownAfter - own + toolAfter - tool
	after, err := readPrograms(s.pid())
	r.Programs = gained(before, after)
	return r, err
}

// settled waits until a file has not grown for a while: its writer has
// nothing more to write.
func settled(ctx context.Context, file string) error {
	const calm = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last, since := int64(-1), time.Now()
	return lab.Until(ctx, func() (bool, error) {
		size := int64(0)
		if file != "" {
			st, err := os.Stat(file)
			if err != nil {
				return false, err
			}
			size = st.Size()
		}
		if size != last {
			last, since = size, time.Now()
		}
		return time.Since(since) > calm, nil
	})
}
