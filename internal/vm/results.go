// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tcptrace/tcptrace/internal/vm/wire"
)

// A Result is what a kernel's tests came to.
type Result struct {
	Kernel Kernel
	// Release is empty if the kernel could not be fetched; Err then says why.
	Release                 string
	Passed, Failed, Skipped int
	Seconds                 float64
	// Failures are the tests that failed, and what else went wrong, in full.
	Failures []Failure
	// Shows are the rows of the table that the tests print.
	Shows []Row
	// Notes are told, and are no failure.
	Notes []string
	// NotTested says that there was nothing to run the tests on.
	NotTested error
}

// A Failure has a title in one line, and the output. Test is the test that failed, if it ended.
type Failure struct{ Title, Output, Test string }

// A Row is one thing that a kernel shows, or not.
type Row struct{ Name, Value string }

// OK tells whether tests were run and none failed.
func (r *Result) OK() bool { return r.NotTested == nil && len(r.Failures) == 0 }

// String is the result in a line.
func (r *Result) String() string {
	if r.NotTested != nil {
		return fmt.Sprintf("%-6s NOT TESTED: %s", r.Kernel.Name, strings.ReplaceAll(r.NotTested.Error(), "\n", "; "))
	}
	verdict := "ok  "
	if !r.OK() {
		verdict = "FAIL"
	}
	return fmt.Sprintf("%-6s %s %d passed, %d failed, %d skipped, %.0f s, %s",
		r.Kernel.Name, verdict, r.Passed, r.Failed, r.Skipped, r.Seconds, r.Release)
}

func (r *Result) fail(title, output string) {
	r.Failures = append(r.Failures, Failure{Title: title, Output: output})
}

// maxAgain bounds the tests of a machine that are run again: when more fail, it is no chance.
const maxAgain = 4

// again selects by -test.run the tests that failed; empty if there are none, or too many, or something else went wrong.
func (r *Result) again() string {
	if len(r.Failures) > maxAgain || slices.ContainsFunc(r.Failures, func(f Failure) bool { return f.Test == "" }) {
		return ""
	}
	var tests []string
	for _, f := range r.Failures {
		parts := strings.Split(f.Test, "/")
		for i, part := range parts {
			parts[i] = "^" + regexp.QuoteMeta(part) + "$"
		}
		tests = append(tests, strings.Join(parts, "/"))
	}
	return strings.Join(tests, "|")
}

// pardon makes notes of the tests that failed, if all of them passed when they were run again.
func (r *Result) pardon(again *Result) {
	if !again.OK() || again.Passed < len(r.Failures) {
		return
	}
	for _, f := range r.Failures {
		r.Notes = append(r.Notes, fmt.Sprintf("%s: %s failed at first, and passed when it was run again", r.Kernel.Name, f.Test))
	}
	r.Passed, r.Failed = r.Passed+len(r.Failures), r.Failed-len(r.Failures)
	r.Failures = nil
}

// output is what a machine said, by job.
type output struct {
	release string
	jobs    []jobOutput
	done    bool
}

type jobOutput struct {
	name  string
	text  []byte
	ended bool
	exit  int
	err   string
}

// parseOutput divides what came from a machine, which may have ended anywhere.
func parseOutput(text []byte) (o output) {
	var job *jobOutput
	for line := range bytes.Lines(text) {
		var l wire.Line
		own, ok := bytes.CutPrefix(line, []byte(wire.Prefix))
		if ok && json.Unmarshal(own, &l) == nil {
			switch {
			case l.Boot != "":
				o.release = l.Boot
			case l.Begin != "":
				o.jobs = append(o.jobs, jobOutput{name: l.Begin})
				job = &o.jobs[len(o.jobs)-1]
			case l.End != "" && job != nil:
				job.ended, job.exit, job.err = true, l.Exit, l.Error
				job = nil
			case l.Done:
				o.done = true
			}
			continue
		}
		if job != nil {
			job.text = append(job.text, line...)
		}
	}
	return o
}

// testEvent is a line of "go tool test2json".
type testEvent struct{ Action, Test, Output string }

// test2json has Go's own tool read the output of a test binary that ran with -test.v=test2json.
func test2json(ctx context.Context, text []byte) ([]testEvent, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json")
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool test2json: %w", err)
	}
	var events []testEvent
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e testEvent
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return events, nil
		} else if err != nil {
			return nil, fmt.Errorf("go tool test2json: %w", err)
		}
		events = append(events, e)
	}
}

// take adds a job's tests to the result.
func (r *Result) take(job *jobOutput, events []testEvent) {
	texts, verdict, parent := map[string]*strings.Builder{}, map[string]string{}, map[string]bool{}
	var order []string
	var rest strings.Builder
	for _, e := range events {
		if e.Action == "output" {
			r.Shows = append(r.Shows, rows(e.Output)...)
		}
		if e.Test == "" {
			rest.WriteString(e.Output)
			continue
		}
		if texts[e.Test] == nil {
			texts[e.Test] = new(strings.Builder)
			order = append(order, e.Test)
			for i := range e.Test {
				if e.Test[i] == '/' {
					parent[e.Test[:i]] = true
				}
			}
		}
		switch e.Action {
		case "output":
			texts[e.Test].WriteString(e.Output)
		case "pass", "fail", "skip":
			verdict[e.Test] = e.Action
		}
	}
	failed := r.Failed
	var begun []string
	for _, name := range order {
		// A test with subtests is counted by these, unless it failed by itself.
		v, isParent := verdict[name], parent[name]
		switch {
		case v == "fail" || v == "":
			below := slices.ContainsFunc(order, func(n string) bool {
				return strings.HasPrefix(n, name+"/") && verdict[n] != "pass" && verdict[n] != "skip"
			})
			if isParent && below && !logged.MatchString(texts[name].String()) {
				break
			}
			r.Failed++
			text := texts[name].String()
			switch {
			case v == "fail":
				r.Failures = append(r.Failures, Failure{name, text, name})
			case onlyBegun.MatchString(text):
				begun = append(begun, name)
			default:
				r.fail(name+" (not finished)", text)
			}
		case isParent:
		case v == "skip":
			r.Skipped++
		default:
			r.Passed++
		}
	}
	if len(begun) > 0 {
		r.fail(fmt.Sprintf("%d tests did not finish, and had said nothing", len(begun)), strings.Join(begun, "\n"))
	}
	switch {
	case !job.ended:
		r.fail(job.name+" did not end", tail(rest.String(), 100))
	case job.exit != 0 && r.Failed == failed:
		r.fail(fmt.Sprintf("%s: %s, though no test failed", job.name, job.err), tail(rest.String(), 100))
	}
}

// logged finds a line that a test logged itself: file.go:12: ...
var logged = regexp.MustCompile(`(?m)^\s+\w+\.go:\d+: `)

// onlyBegun matches the output of a test that has printed nothing.
var onlyBegun = regexp.MustCompile(`^(=== (RUN|PAUSE|CONT|NAME) .*\n)*$`)

// rows finds lines of: shows TAB row TAB value.
func rows(text string) (rows []Row) {
	for line := range strings.Lines(text) {
		if _, line, ok := strings.Cut(line, "shows\t"); ok {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
				rows = append(rows, Row{name, value})
			}
		}
	}
	return rows
}

// tail returns the last n lines.
func tail(s string, n int) string {
	lines := strings.SplitAfter(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// faults finds what the kernel complains about, each with what it says about it.
// What the emulator made is told in the second list.
func faults(console string) (found, emulated []Failure) {
	lines := strings.SplitAfter(console, "\n")
	for i := 0; i < len(lines); i++ {
		if !fault.MatchString(lines[i]) {
			continue
		}
		const context = 40 // lines: one complaint and its call trace
		end := min(i+context, len(lines))
		f := Failure{Title: "kernel: " + strings.TrimSpace(lines[i]), Output: strings.Join(lines[i:end], "")}
		if debugTrap.MatchString(lines[i]) {
			emulated = append(emulated, f)
		} else {
			found = append(found, f)
		}
		i = end - 1
	}
	return found, emulated
}

// debugTrap matches the complaint about a single step in the kernel that nobody
// asked for: seen once, with the flags register full of somebody else's bits,
// which no program can do.
var debugTrap = regexp.MustCompile(`WARNING: .* exc_debug_kernel\+`)

// garbledFlags reports whether the kernel went down with bits in the flags
// register that a processor always has at zero: 22 to 31. The emulator's at times
// has somebody else's there, such as the lower half of another register.
func garbledFlags(console string) bool {
	if !strings.Contains(console, "Kernel panic") {
		return false
	}
	for _, m := range flagsRegister.FindAllStringSubmatch(console, -1) {
		if v, err := strconv.ParseUint(m[1], 16, 32); err == nil && v>>22 != 0 {
			return true
		}
	}
	return false
}

var flagsRegister = regexp.MustCompile(`EFLAGS: ([0-9a-f]{8})\b`)

var fault = regexp.MustCompile(`\bBUG\b|\bWARNING\b|\bOops\b|[Ll]ockup|Kernel panic|Call Trace|general protection fault|` +
	`detected stalls?|self-detected stall|blocked for more than|Out of memory|KASAN|UBSAN`)
