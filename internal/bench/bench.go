// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Options are what Run measures, and how long.
type Options struct {
	// Tcptrace is the binary.
	Tcptrace string
	// GoBench is what "go test -bench -benchmem" printed.
	GoBench string
	// Only are the parts that are measured, all if there are none: see Parts.
	Only []string

	Rounds          int // of the storm and recordings; lossy and formats have half of them
	Connections     int // of a storm
	Retransmissions int // of a lossy transfer
	Crowd           int // connections of a crowd
	Starts          int // and lone events
	HealthyRounds   int
	Block           time.Duration // of a healthy load
	// Logf is told each result as it comes.
	Logf func(format string, args ...any)
}

// Parts are the names for Options.Only.
var Parts = []string{"start", "storm", "lossy", "formats", "recordings", "healthy"}

func (o *Options) wants(part string) bool { return len(o.Only) == 0 || slices.Contains(o.Only, part) }

// fewRounds are those of the parts that take longest.
func (o *Options) fewRounds() int { return (o.Rounds + 1) / 2 }

// Complete tells whether nothing is left out.
func (o *Options) Complete() bool {
	return !slices.ContainsFunc(Parts, func(p string) bool { return !o.wants(p) })
}

func (o *Options) check() error {
	for _, p := range o.Only {
		if !slices.Contains(Parts, p) {
			return fmt.Errorf("unknown part %q: it is one of %s", p, strings.Join(Parts, ", "))
		}
	}
	for name, n := range map[string]int{
		"rounds": o.Rounds, "connections": o.Connections, "retransmissions": o.Retransmissions, "crowd": o.Crowd,
		"starts": o.Starts, "healthy rounds": o.HealthyRounds, "length of a block": int(o.Block),
	} {
		if n < 1 {
			return fmt.Errorf("%s: %d is not positive", name, n)
		}
	}
	return nil
}

// Run measures. It needs root, and a machine that does nothing else. It fails
// if tcptrace does; another tool that does is reported as not measured.
func Run(ctx context.Context, o Options) (r *Report, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r = &Report{rounds: o.Rounds}
	if r.host, err = readHost(); err != nil {
		return nil, err
	}
	if r.userSpace, err = parseGoBench(o.GoBench); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tcptrace-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.wants("start") {
		if r.starts, err = measureStart(ctx, &o); err != nil {
			return nil, err
		}
		if r.lone, err = measureLone(ctx, &o); err != nil {
			return nil, err
		}
	}
	if o.wants("healthy") {
		if r.healthy, err = measureHealthy(ctx, &o); err != nil {
			return nil, err
		}
	}
	if err := mountTracefs(); err != nil {
		return nil, err
	}
	// What follows reads them; what came before must not pay for them.
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("enable BPF statistics: %w", err)
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	for _, c := range []struct {
		name, command string
		load          load
		rounds        int
		into          **comparison
	}{
		{"storm", "events", storm{o.Connections}, o.Rounds, &r.storm},
		{"lossy", "retrans", lossy{o.Retransmissions}, o.fewRounds(), &r.lossy},
	} {
		if !o.wants(c.name) {
			continue
		}
		if *c.into, err = compare(ctx, &o, c.rounds, dir, c.name, c.load, allTools(o.Tcptrace, c.command)); err != nil {
			return nil, err
		}
	}
	if o.wants("formats") {
		if r.formats, err = measureFormats(ctx, &o, dir); err != nil {
			return nil, err
		}
	}
	if o.wants("recordings") {
		if r.recordings, err = measureRecordings(ctx, &o, dir); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// allTools are in the order of the tables.
func allTools(binary, command string) []tool {
	return []tool{
		untraced{}, floorTool{}, tcptrace{binary, command, "table"}, bpftrace{}, perfTrace{}, perfRecord{}, tracefs{},
	}
}
