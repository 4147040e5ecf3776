// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package story has an incident explained while it happens, and keeps what was said in the README beside the test.
package story

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/tcptrace/tcptrace/internal/cli"
	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/internal/marked"
)

var update = flag.Bool("update", false, "write to README.md what tcptrace said")

// Main is for TestMain: labtest.Main in a process of this name, which is that of the incident's application.
func Main(m *testing.M, name string) {
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	labtest.Main(m)
}

// A Report is what explain said of an incident.
type Report struct {
	// Text is what it printed, Args what it was called with, as an operator would.
	Text, Args  string
	Findings    []Finding
	Connections []Connection
	// Sent are the retransmissions, as replay shows them.
	Sent []Retransmission

	hidden int      // events that BPF was not shown, or may not have been
	wrong  []string // what is not as it should be
}

// A Finding is one of a report, as in JSON.
type Finding struct {
	ID, Title, Outcome, Certainty string
	Count                         int
	Outcomes                      map[string]int
	Owners                        []Owner
	Cause                         string
	Advice                        []string
}

// An Owner is one of a finding.
type Owner struct {
	PID                          int
	Comm, Container, Pod, Cgroup string
}

// A Connection is one in trouble.
type Connection struct {
	LPort    int
	Outcome  string
	Findings []struct{ ID, Outcome, Cause string }
}

// A Retransmission is one, as in JSON.
type Retransmission struct {
	Kind         string
	Attempt      int
	RTO, NextRTO float64 // ms
}

// Summary lists the findings: id, outcome, certainty and count of each.
func (r *Report) Summary() string {
	var list []string
	for _, f := range r.Findings {
		list = append(list, fmt.Sprintf("%s %s %s %d", f.ID, f.Outcome, f.Certainty, f.Count))
	}
	return strings.Join(list, ", ")
}

// Errorf notes that the report is not as it should be: see Told.
func (r *Report) Errorf(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// Want wants these findings, as Summary has them; "" is none, and no connection in trouble.
func (r *Report) Want(want string) {
	if got := r.Summary(); got != want || want == "" && !strings.HasPrefix(r.Text, "no connection in trouble ") {
		r.Errorf("found %q, want %q", got, want)
	}
}

// WantCause wants the only finding's cause to have these parts.
func (r *Report) WantCause(parts ...string) {
	for _, p := range parts {
		if len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Cause, p) {
			r.Errorf("there is no cause %q", p)
		}
	}
}

// Told has an incident happen, and fails the test if something is wrong with the report. Some machines hide one or two
// events of a thousand from BPF programs (see labtest.BlindSpot), or skip programs while there is much else to trace: if
// that may be why, the incident happens again, a dozen times at most. nil is an incident that did not come about.
func Told(t testing.TB, happen func() *Report) *Report {
	t.Helper()
	for range 12 {
		r := happen()
		switch {
		case t.Failed():
			t.FailNow()
		case r == nil:
		case len(r.wrong) == 0:
			return r
		case r.hidden == 0:
			t.Fatalf("%s:\n%s", strings.Join(r.wrong, "\n"), r.Text)
		default:
			t.Logf("%d events may be hidden: %s", r.hidden, strings.Join(r.wrong, "; "))
		}
		labtest.AwaitQuiet(t)
	}
	t.Fatal("this machine hides events from BPF, or is too busy for what is to happen, again and again")
	return nil
}

// A Watch is a "tcptrace explain" under way.
type Watch struct {
	t      testing.TB
	args   []string // but for the recording
	file   string
	blind  *labtest.BlindSpot
	addr   netip.Addr
	cancel context.CancelFunc
	code   chan int
	stdout bytes.Buffer
	stderr *banner
	ended  bool
}

// Start starts explain on namespaces, and returns when it traces. What happens there involves the address.
func Start(t testing.TB, addr netip.Addr, at ...*lab.Namespace) *Watch {
	t.Helper()
	var inums []string
	for _, ns := range at {
		inums = append(inums, fmt.Sprint(ns.Inum()))
	}
	w := &Watch{
		t: t, addr: addr, file: filepath.Join(t.TempDir(), "incident.tcptrace"), code: make(chan int, 1),
		args: []string{"explain", "--utc", "--netns", strings.Join(inums, ",")}, stderr: &banner{up: make(chan struct{})},
	}
	var err error
	if w.blind, err = labtest.StartBlindSpot(); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(t.Context())
	go func() { w.code <- run(ctx, &w.stdout, w.stderr, append(slices.Clone(w.args), "-w", w.file)...) }()
	t.Cleanup(func() {
		w.cancel()
		if !w.ended { // the test has failed
			<-w.code
			_ = w.blind.Close()
		}
	})
	select {
	case <-w.stderr.up:
	case code := <-w.code:
		w.code <- code
		t.Fatalf("explain ended with %d: %s", code, w.stderr)
	}
	return w
}

// run runs the program in this process.
func run(ctx context.Context, stdout, stderr io.Writer, args ...string) int {
	return cli.Run(ctx, cli.Env{
		Stdin: strings.NewReader(""), Stdout: stdout, Stderr: stderr,
		IsTerminal: func(any) bool { return false },
		Getenv:     func(string) string { return "" },
		Open:       open,
		Limits:     live.Limits,
	}, args)
}

// types spares each watch the decoding of the kernel's types, which takes most of its time where machines are slow.
var types struct {
	sync.Mutex
	cache *btf.Cache
}

// open starts live tracing as the program does, but keeps the rights of this process, and memory low.
func open(ctx context.Context, o live.Options) (live.Source, error) {
	types.Lock()
	defer types.Unlock()
	if types.cache == nil {
		types.cache = btf.NewCache()
	}
	o.Cache, o.Buffer = types.cache, 4<<20
	return live.Open(ctx, o)
}

// End ends explain, as Ctrl-C does, and returns what it says. Of its own recording it has to say the same.
func (w *Watch) End() *Report {
	w.t.Helper()
	w.cancel()
	code := <-w.code
	w.ended = true
	blind, err := w.blind.Events(func(e labtest.TraceEvent) bool { return e.Involves(w.addr) })
	if err = errors.Join(err, w.blind.Close()); err != nil {
		w.t.Fatal(err)
	}
	if code != 0 {
		w.t.Fatalf("explain ended with %d: %s", code, w.stderr)
	}
	r := &Report{Text: w.stdout.String(), Args: strings.Join(w.args, " "), hidden: len(blind)}
	again := w.recorded("explain", "--utc")
	if l, a := findings(r.Text), findings(again); l != a {
		w.t.Errorf("live:\n%s\nof the recording:\n%s", l, a)
	}
	var all struct {
		*Report
		Lost    int
		Summary struct {
			Skipped int
		}
	}
	all.Report = r
	text := w.recorded("explain", "-o", "json")
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		w.t.Fatalf("%v: %s", err, text)
	}
	r.hidden += all.Lost + all.Summary.Skipped
	for line := range strings.Lines(w.recorded("replay", "-q", "-o", "json", "--event", "retransmit")) {
		var e struct {
			Event string
			Retransmission
			RTO     float64 `json:"rto_ms"`
			NextRTO float64 `json:"next_rto_ms"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatalf("%v: %s", err, line)
		}
		if e.Event == "retransmit" {
			e.Retransmission.RTO, e.Retransmission.NextRTO = e.RTO, e.NextRTO
			r.Sent = append(r.Sent, e.Retransmission)
		}
	}
	if testing.Verbose() {
		w.t.Logf("%s%s", w.stderr, r.Text)
	}
	return r
}

// recorded has a command read the recording.
func (w *Watch) recorded(command string, args ...string) string {
	w.t.Helper()
	var stdout bytes.Buffer
	stderr := new(banner)
	if code := run(w.t.Context(), &stdout, stderr, append([]string{command, w.file}, args...)...); code != 0 {
		w.t.Fatalf("%s of the recording ended with %d: %s", command, code, stderr)
	}
	return stdout.String()
}

// findings is the part of a report that live and recorded have in common: the findings, or that there are none.
func findings(text string) string {
	_, rest, ok := strings.Cut(text, "\n\n")
	if !ok {
		head, _, _ := strings.Cut(text, " in trouble ")
		return head
	}
	rest, _, _ = strings.Cut(rest, "\nall that happened to one connection: ")
	return strings.TrimSpace(rest)
}

// banner is a standard error that tells when a banner was written to it.
type banner struct {
	mu   sync.Mutex
	text bytes.Buffer
	up   chan struct{} // closed then; nil: nobody waits
	seen bool
}

func (b *banner) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.text.Write(p)
	if b.up != nil && !b.seen && strings.Contains(b.text.String(), "tcptrace: tracing ") {
		b.seen = true
		close(b.up)
	}
	return n, err
}

func (b *banner) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// readme guards the file.
var readme sync.Mutex

// number is what differs from run to run: an address, too.
var number = regexp.MustCompile(`[0-9][0-9a-f.:]*`)

// Keep has a section of README.md show the report, if the tests run with -update, and else fails the test if what is there
// is out of date: its findings and advice, not the numbers.
func (r *Report) Keep(t testing.TB, name string) {
	t.Helper()
	readme.Lock()
	defer readme.Unlock()
	const file = "README.md"
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	s := marked.Section{Name: name, By: "go test ./test/stories/" + filepath.Base(dir) + " -update"}
	if *update {
		if err := s.Write(file, fmt.Sprintf("```console\n$ sudo tcptrace %s\n^C\n%s\n```\n", r.Args, strings.TrimSpace(r.Text))); err != nil {
			t.Error(err)
		}
		return
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && os.Getenv(labtest.NoBlindSpot) != "" {
		return // a test VM has no documents
	}
	if err != nil {
		t.Fatal(err)
	}
	body, err := s.Body(text)
	if err != nil {
		t.Fatal(err)
	}
	flat := func(s string) string { return number.ReplaceAllString(strings.Join(strings.Fields(s), " "), "N") }
	body = flat(body)
	want := []string{"no connection in trouble"}
	if len(r.Findings) > 0 {
		want = nil
	}
	for _, f := range r.Findings {
		want = append(append(want, f.ID+": "+f.Title), f.Advice...)
	}
	for _, w := range want {
		if !strings.Contains(body, flat(w)) {
			t.Errorf("%s is out of date (%s): in %q there is no %q", file, s.By, name, w)
		}
	}
}
