// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// made returns a trial of 1000 events whose programs took ns for each.
func made(ns, delivered int) trial {
	return trial{
		Events: 1000, Took: time.Millisecond, CPU: 2 * time.Millisecond,
		Programs: map[string]programStats{"set_state": {Time: time.Duration(1000 * ns), Runs: 1000}},
		delivery: delivery{Delivered: delivered, Handled: 1000, Lost: unknown},
	}
}

func madeComparison() *comparison {
	nothing := trial{Events: 1000, Took: time.Millisecond, CPU: time.Millisecond, delivery: delivery{Handled: 0, Lost: unknown}}
	return &comparison{Load: "storm", Series: []*series{
		{Tool: toolUntraced, Trials: []trial{nothing, nothing, nothing}},
		{Tool: toolFloor, Trials: []trial{made(100, 1000), made(200, 1000), made(50, 1000)}},
		{Tool: toolTcptrace, Trials: []trial{made(140, 1000), made(240, 1000), made(100, 1000)}},
		{Tool: toolBpftrace, Trials: []trial{made(700, 500), made(600, 400), made(300, 501)}},
		{Tool: "perf trace", Absent: errors.New("no\nsuch | tool")},
	}}
}

func TestComparison(t *testing.T) {
	c := madeComparison()
	// Of each round's own ratio: 1.4, 1.2, 2.
	if v := c.ratio(toolTcptrace, toolFloor, (*trial).kernelCost); math.Abs(v-1.4) > 1e-9 {
		t.Errorf("ratio %v", v)
	}
	if v := c.ratio("perf trace", toolFloor, (*trial).kernelCost); !math.IsNaN(v) {
		t.Errorf("ratio of what was not measured: %v", v)
	}
	if v := c.cpuCost(toolTcptrace); math.Abs(v-1000) > 1e-6 {
		t.Errorf("CPU %v", v)
	}
	if s := c.find(toolBpftrace).lostCell(); s != "50.0%" {
		t.Errorf("lost %s", s)
	}
	few := made(100, 995)
	few.Programs["set_state"] = programStats{Runs: 998, Misses: 1}
	few.Handled = 998
	if few.hidden() != 1 || few.lost() != 4 {
		t.Errorf("%d hidden, %d lost", few.hidden(), few.lost())
	}
	if many := made(100, 1100); many.lost() != 0 || many.foreign() != 0 {
		t.Errorf("%d lost, %v foreign", many.lost(), many.foreign())
	}
}

func TestMarkdown(t *testing.T) {
	r := &Report{
		host: host{CPU: "Some CPU", CPUs: 2, Virtual: true, Kernel: "6.18.1", Versions: []string{"perf 6.1"}}, rounds: 3,
		storm: madeComparison(),
		formats: []formatTrial{
			{Format: "json", Sink: "file", Events: 800, Printed: 797, Misses: 1, Hidden: 2, User: 797 * 1500},
			{Format: "json", Sink: "file", Events: 800, Printed: 800, Hidden: 2, User: 800 * 500}, // a kernel that hides none
			{Format: "json", Sink: "file", Events: 800, Printed: 790, Lost: 6, User: 790 * 700, Memory: memory{Peak: 65 << 20}},
		},
		starts:  []startTrial{{Attached: 250 * time.Millisecond, Memory: memory{Peak: 20 << 20, Maps: 9 << 20}}},
		lone:    []time.Duration{80 * time.Millisecond, 210 * time.Millisecond},
		healthy: []healthyResult{{Load: "requests", Without: []pace{{1000, 5000}, {1200, 5000}}, Rates: []float64{0.9, 1.1}, CPUs: []float64{1.001, 1.001}}},
		recordings: &recordings{
			Records: []recordTrial{
				{formatTrial{User: 800 * 900, Printed: 800}, loadStorm, howTable, census{}},
				{formatTrial{User: 800 * 1300, Events: 800, Printed: 800}, loadStorm, howBeside, census{Bytes: 8000, Events: 800}},
				{formatTrial{User: 800 * 700, Events: 810, Printed: 800, Lost: 10}, loadStorm, howRecord, census{Bytes: 8000, Events: 800, Ends: 200}},
				{formatTrial{User: 80 * 700, Events: 80, Printed: 80, Memory: memory{Peak: 1 << 20}}, loadShortStorm, howRecord, census{Bytes: 800, Events: 80}},
				{formatTrial{}, loadCrowd, howRecord, census{Bytes: 25000, Events: 1000, Retransmissions: 300, Ends: 2000}},
			},
			Replays: []replayTrial{
				{loadStorm, 800, 400 * time.Microsecond, 30 << 20}, {loadShortStorm, 80, 400 * time.Microsecond, 20 << 20},
			},
			Explains: []replayTrial{{loadStorm, 800, 4 * time.Millisecond, 40 << 20}},
			Blocks:   []float64{400, 500, 450},
		},
		userSpace: []goBenchmark{{"Decode", 312.9, 0}, {"Value", 10, 3}},
	}
	text := r.Markdown()
	for _, want := range []string{
		"Virtual machine with 2 processors (Some CPU), Linux 6.18.1; perf 6.1; 3 rounds.\n",
		"| kernel time an event in the storm, to the floor's | at most 1.5 | 1.40 | reached |\n",
		"| kernel time an event in the storm, to bpftrace's | at most 0.5 | 0.33 | reached |\n",
		"| a lone event is shown after, the longest | at most 200 ms | 210 ms | **not reached** |\n",
		"| events lost in the storm, every format, file and pipe | 0 | 6, and 4 unexplained | **not reached** |\n",
		"| user CPU an event, json | at most 1,000 ns | 700 ns | reached |\n",
		"| user CPU an event, table | at most 1,000 ns | - | not measured |\n",
		"| allocations an event in decoding and formatting | 0 | 0 | reached |\n",
		"| memory beside the ring buffer, in the storm, the highest | at most 64 MiB | 65 MiB | **not reached** |\n",
		"| everything is attached after, the median | at most 300 ms | 250 ms | reached |\n",
		"| requests, healthy: 95% interval of the ratio of CPU | narrower than ±2% | ±0.00% | reached |\n",
		"| tcptrace | 140 ns | 1.40 | 1000 ns | 1,000,000 | 0 |\n",
		"| perf trace | not measured: no such \\| tool |  |  |  |  |\n",
		"| storm | tcptrace | `set_state` | 1,000 | 140 ns |\n",
		"| json | file | 700 ns | 65 MiB | 2,400 | 2,387 | 6 | 3 | 4 |\n",
		"not shown: 0.995 ", " | 1.001 (1.001 to 1.001) |\n",
		"| Decode | 313 ns | 0 |\n",
		"| bytes an event on disk, of a lossy crowd, the highest | at most 24 | 25.0 | **not reached** |\n",
		"| user CPU an event in the storm, `record` | at most 500 ns | 700 ns | **not reached** |\n",
		"| user CPU an event in the storm, `-w` beside a table | at most 500 ns | 400 ns | reached |\n",
		"| events lost in the storm while recording | 0 | 10 | **not reached** |\n",
		"| events replayed a second, the storm | at least 2 million | 2.0 million | reached |\n",
		"| events replayed a second, a lossy crowd | at least 2 million | - | not measured |\n",
		"| events explained a second, the storm | at least 0.33 million | 0.20 million | **not reached** |\n",
		"| memory to replay ten times as much, storm, as a ratio | at most 1.25 | 1.50 | **not reached** |\n",
		"| storm | `-w` beside a table | 800 | 0 | 0% | 10.0 | 400 ns more than the table | 400 ns more than the table | 0 MiB | 0 |\n",
		"| a tenth of it | 80 | 200,000 | 20.0 MiB |\n",
		"writes 450 bytes each time: 37 MiB a day.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "%!") {
		t.Error("a value that is none")
	}
	if strings.Contains(text, "not quiet") {
		t.Error("said to be disturbed")
	}
	r.storm.Series[2].Trials[0].Handled = 1100
	if !strings.Contains(r.Markdown(), "others made up to 10% as many events") {
		t.Error("not said to be disturbed")
	}
	if t.Failed() {
		t.Log(text)
	}
}

// What was not measured is said, in every table.
func TestMarkdownOfNothing(t *testing.T) {
	text := new(Report).Markdown()
	if strings.Contains(text, "NaN") || strings.Contains(text, "reached") && !strings.Contains(text, "not measured") {
		t.Errorf("%s", text)
	}
	for _, state := range new(Report).targets() {
		if state.state != notMeasured {
			t.Errorf("%+v", state)
		}
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	readme, docs := filepath.Join(dir, "README.md"), filepath.Join(dir, "performance.md")
	for file, s := range map[string]string{readme: readmeSection.Begin() + readmeSection.End(), docs: docsSection.Begin() + docsSection.End()} {
		if err := os.WriteFile(file, []byte("before\n"+s+"after\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := &Report{storm: madeComparison()}
	if err := r.Write(readme, docs); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{readme: "| tcptrace | 140 ns |", docs: "### Targets"} {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), want) || !strings.HasSuffix(string(text), "after\n") {
			t.Errorf("%v: %s", err, text)
		}
	}
	if err := r.Write(filepath.Join(dir, "none"), docs); err == nil {
		t.Error("written to a file that is not there")
	}
}

func TestThousands(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(v); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
}
