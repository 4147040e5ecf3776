// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/internal/bench/floor"
)

// The bench runs itself as the floor.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == FloorCommand {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		if err := floor.Run(ctx, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tcptrace")
	if out, err := exec.Command("go", "build", "-o", path, "../../cmd/tcptrace").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func tiny(t *testing.T) Options {
	return Options{
		Tcptrace: build(t), GoBench: "BenchmarkDecode-2 1 5 ns/op 0 B/op 0 allocs/op\n",
		Rounds: 1, Connections: 300, Retransmissions: 200, Crowd: 20, Starts: 2, HealthyRounds: 2, Block: 10 * time.Millisecond,
		Logf: t.Logf,
	}
}

// usable tells whether a tool is here, and the file system that all others need.
func usable(tool string) bool {
	if _, err := os.Stat("/sys/kernel/tracing/instances"); err != nil {
		return false
	}
	command, _, _ := strings.Cut(tool, " ")
	_, err := exec.LookPath(command)
	return err == nil || tool == tracefs{}.name()
}

// All of it, with little of everything: each tool that is installed meets each
// load, and sees events of it.
func TestRun(t *testing.T) {
	o := tiny(t)
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*comparison{r.storm, r.lossy} {
		for _, s := range c.Series {
			if s.Absent != nil {
				if usable(s.Tool) {
					t.Errorf("%s, %s: %v", c.Load, s.Tool, s.Absent)
				}
				continue
			}
			if len(s.Trials) != 1 || s.Trials[0].Events < 200 {
				t.Errorf("%s, %s: %+v", c.Load, s.Tool, s.Trials)
				continue
			}
			trial := s.Trials[0]
			if s.Tool == toolUntraced {
				continue
			}
			if trial.Delivered < trial.Events/2 {
				t.Errorf("%s, %s: %d of %d delivered", c.Load, s.Tool, trial.Delivered, trial.Events)
			}
			program := s.Tool == toolFloor || s.Tool == toolTcptrace || s.Tool == toolBpftrace
			if (trial.kernelCost() > 0) != program {
				t.Errorf("%s, %s: %v ns an event", c.Load, s.Tool, trial.kernelCost())
			}
		}
	}
	if n := len(r.formats); n != len(formats)*len(sinks) {
		t.Errorf("%d trials of formats", n)
	}
	for i := range r.formats {
		f := &r.formats[i]
		if f.Lost != 0 || f.unexplained() != 0 || f.Printed < f.Events/2 || f.Memory.Peak == 0 || f.Memory.Maps == 0 {
			t.Errorf("%s to a %s: %v", f.Format, f.Sink, f)
		}
	}
	if len(r.starts) != o.Starts || len(r.lone) != o.Starts || len(r.healthy) != len(healthyLoads) {
		t.Errorf("%d starts, %d lone events, %d healthy loads", len(r.starts), len(r.lone), len(r.healthy))
	}
	if len(r.recordings.Records) != 5 || len(r.recordings.Replays) != 4 || len(r.recordings.Explains) != 4 || len(r.recordings.Blocks) != o.Starts {
		t.Errorf("%+v", r.recordings)
	}
	for i := range r.recordings.Records {
		f := &r.recordings.Records[i]
		crowd := f.Load == loadCrowd
		if f.Lost != 0 || !crowd && f.unexplained() != 0 || (f.File.Bytes == 0) != (f.How == howTable) || crowd && f.File.Retransmissions == 0 {
			t.Errorf("%s, %s: %v; %v", f.Load, f.How, &f.formatTrial, &f.File)
		}
	}
	for i := range r.recordings.Replays {
		if f := &r.recordings.Replays[i]; f.Events < 20 || f.Peak == 0 {
			t.Errorf("%+v", f)
		}
	}
	text := r.Markdown()
	// A crowd of so few is none.
	text = strings.Replace(text, "| bytes an event on disk, of a lossy crowd, the highest | at most 24 | - | not measured |", "", 1)
	if strings.Contains(text, "NaN") || strings.Contains(text, "| not measured |") {
		t.Errorf("%s", text)
	}
	left, err := filepath.Glob("/sys/kernel/tracing/instances/" + tracefsName())
	if err != nil || len(left) > 0 {
		t.Errorf("%v, left behind: %q", err, left)
	}
}

// Interrupted, it ends soon, and nothing is left.
func TestInterrupted(t *testing.T) {
	o := tiny(t)
	o.Only, o.Rounds, o.Connections = []string{"storm"}, 1000, 5000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := map[string]bool{}
	o.Logf = func(_ string, args ...any) {
		if name, ok := args[3].(string); ok {
			seen[name] = true
		}
		if len(seen) >= 3 {
			cancel()
		}
	}
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v in place of the interruption", err)
	}
}

func TestBadOptions(t *testing.T) {
	good := Options{Rounds: 1, Connections: 1, Retransmissions: 1, Crowd: 1, Starts: 1, HealthyRounds: 1, Block: 1}
	for name, change := range map[string]func(*Options){
		"unknown part": func(o *Options) { o.Only = []string{"strom"} },
		"rounds":       func(o *Options) { o.Rounds = 0 },
		"length":       func(o *Options) { o.Block = -1 },
	} {
		o := good
		change(&o)
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !good.Complete() {
		t.Error("all parts are not all")
	}
	good.Only = []string{"storm"}
	if good.Complete() {
		t.Error("one part is all")
	}
}
