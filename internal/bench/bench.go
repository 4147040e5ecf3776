// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Options are what Run measures.
type Options struct {
	Tcptrace                     string // its binary
	Rounds                       int
	Connections, Retransmissions int
	Logf                         func(format string, args ...any)
}

// Run measures.
func Run(ctx context.Context, o Options) (err error) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("enable BPF statistics: %w", err)
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	dir, err := os.MkdirTemp("", "tcptrace-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tools := []tool{untraced{}, floorTool{}, tcptrace{o.Tcptrace, "events", "table"}, bpftrace{}, perfTrace{}, perfRecord{}, tracefs{}}
	for _, l := range []load{storm{o.Connections}, lossy{o.Retransmissions}} {
		for range o.Rounds {
			for _, t := range tools {
				r, err := try(ctx, dir, t, l)
				if err != nil {
					return fmt.Errorf("%s: %w", t.name(), err)
				}
				sum := total(r.Programs)
				o.Logf("%T %-10s %8d events in %6v, CPU %6v, delivered %d handled %d lost %d; %d runs of %.0f ns", l, t.name(), r.Events, r.Took.Round(time.Millisecond), r.CPU,
					r.delivery.Events, r.Handled, r.Lost, sum.Runs, float64(sum.Time)/float64(max(1, sum.Runs)))
				for name, s := range r.Programs {
					o.Logf("       %-20s %8d runs %6.0f ns, %d misses", name, s.Runs, float64(s.Time)/float64(s.Runs), s.Misses)
				}
			}
			slices.Reverse(tools)
		}
	}
	return nil
}
