// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/internal/doctor"
	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/internal/pipeline"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/explain"
)

// source gives events, then waits for the end of the context if it is to, and
// ends.
type source struct {
	events []events.Event
	wait   bool
	idle   func() // called in idle moments instead of waiting a moment
	lost   uint64
	err    error // instead of the end
	closed int

	overlooked string
	skipped    uint64
	audit      []events.Audit

	settings    []events.Settings
	settingsErr error
}

func (s *source) Memory() (uint64, error)     { return 0, nil }
func (s *source) Skipped() (uint64, error)    { return s.skipped, nil }
func (s *source) Reasons() []string           { return nil }
func (s *source) Overlooked() string          { return s.overlooked }
func (s *source) Audit(*events.Summary) error { return nil }
func (s *source) Settings(netns []uint32) (list []events.Settings, err error) {
	for _, set := range s.settings {
		if slices.Contains(netns, set.NetNS) {
			list = append(list, set)
		}
	}
	return list, s.settingsErr
}

func (s *source) Read(ctx context.Context, batch []events.Event) ([]events.Event, error) {
	n := min(len(s.events), cap(batch)-len(batch))
	batch = append(batch, s.events[:n]...)
	s.events = s.events[n:]
	if n > 0 {
		return batch, nil
	}
	if s.wait && ctx.Err() == nil {
		if s.idle != nil {
			s.idle()
			return batch, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
		return batch, nil
	}
	if s.err != nil {
		return batch, s.err
	}
	return batch, io.EOF
}

func (s *source) Counts() pipeline.Counts {
	return pipeline.Counts{Lost: s.lost, Skipped: s.skipped, Audit: s.audit, Checked: len(s.audit)}
}

func (s *source) Close() error { s.closed++; return nil }

// run is a run of the program and what came of it.
type run struct {
	ctx      context.Context
	src      *source
	openErr  error
	stdin    io.Reader
	stdout   io.Writer // instead of out
	terminal bool
	name     string
	env      map[string]string
	demo     func(context.Context) (Demo, error)
	limits   []live.Limit
	hooks    []live.Hook
	width    int
	checks   []doctor.Check

	opened   live.Options
	out, err bytes.Buffer
}

func (r *run) run(args ...string) int {
	if r.ctx == nil {
		r.ctx = context.Background()
	}
	if r.src == nil {
		r.src = &source{}
	}
	if r.stdout == nil {
		r.stdout = &r.out
	}
	return Run(r.ctx, Env{
		Stdout:     r.stdout,
		Stderr:     &r.err,
		IsTerminal: func(any) bool { return r.terminal },
		Width:      func(any) int { return r.width },
		Stdin:      r.stdin,
		Getenv:     func(name string) string { return r.env[name] },
		Name:       r.name,
		Version:    Version{Version: "1.2.3", Commit: "abc", Date: "2026-01-31T12:00:00Z"},
		Demo:       r.demo,
		Limits:     func() []live.Limit { return r.limits },
		Doctor: func(_ context.Context, o doctor.Options) []doctor.Check {
			r.opened.Buffer, r.opened.BTF = o.Buffer, o.BTF
			return r.checks
		},
		Open: func(_ context.Context, o live.Options) (live.Source, error) {
			r.opened = o
			r.opened.Hooks = nil
			o.Hooks(r.hooks)
			if r.openErr != nil {
				return nil, r.openErr
			}
			return r.src, nil
		},
	}, args)
}

func sample() []events.Event {
	e := events.Event{
		Time: 1_700_000_000_000_000_000, Type: events.Retransmit, Kind: events.KindRTO, State: events.Established, Family: 4,
		LAddr: netip.MustParseAddr("10.0.0.1"), RAddr: netip.MustParseAddr("10.0.0.2"), LPort: 40000, RPort: 443,
	}
	second := e
	second.Kind = events.KindTLP
	second.RPort = 80
	return []events.Event{e, second}
}

var streamNames = []string{"retrans", "resets", "states", "events", "record", "replay", "explain"}

func TestStream(t *testing.T) {
	r := run{src: &source{events: sample()}}
	if code := r.run("retrans", "-o", "csv", "--columns", "kind,rport", "--rport", "443", "-c", "5"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got, want := r.out.String(), "kind,rport\nrto,443\n"; got != want {
		t.Errorf("stdout:\n%s\nwant:\n%s", got, want)
	}
	lines := strings.Split(r.err.String(), "\n")
	if want := "tcptrace: tracing retransmissions in all network namespaces with --rport 443; stops after -c 5 or with Ctrl-C"; lines[0] != want {
		t.Errorf("banner:\n%s\nwant:\n%s", lines[0], want)
	}
	if want := "tcptrace: 1 event (rto 1) in "; len(lines) != 3 || !strings.HasPrefix(lines[1], want) {
		t.Errorf("summary:\n%q\nwant %q", lines[1:], want)
	}
	if r.src.closed != 1 {
		t.Errorf("the source was closed %d times", r.src.closed)
	}
}

func TestOpened(t *testing.T) {
	tests := []struct {
		args []string
		want live.Options
	}{
		{[]string{"retrans"}, live.Options{Types: []events.Type{events.Retransmit}, Buffer: 64 << 20}},
		{[]string{"resets", "-4"}, live.Options{Types: []events.Type{events.Reset}, Kernel: filter.Kernel{IPv4: true}, Buffer: 64 << 20}},
		{[]string{"states", "--buffer", "5000"}, live.Options{Types: []events.Type{events.StateChange}, Buffer: 8192}},
		{[]string{"resets", "--netns", "1,2,3,4,5,6,7,8,9"}, live.Options{
			Types: []events.Type{events.Reset}, NetNS: []uint32{1, 2, 3, 4, 5, 6, 7, 8, 9}, Buffer: 64 << 20,
		}},
		{[]string{"events", "--btf", "types", "--buffer", "4k"}, live.Options{Types: filter.Types(), Buffer: 4096, BTF: "types"}},
		{[]string{"explain"}, live.Options{Types: filter.Types(), Buffer: 64 << 20, Settings: true}},
		{[]string{"events", "--buffer", "1g"}, live.Options{Types: filter.Types(), Buffer: 1 << 30}},
		{[]string{"events", "--event", "reset", "--event", "state", "--uid", "1,2", "--uid", "3"}, live.Options{
			Types: []events.Type{events.Reset, events.StateChange}, Kernel: filter.Kernel{UIDs: []uint32{1, 2, 3}}, Buffer: 64 << 20,
		}},
	}
	for _, tt := range tests {
		var r run
		if code := r.run(tt.args...); code != 0 {
			t.Errorf("%v: exit code %d: %s", tt.args, code, &r.err)
		}
		if diff := cmp.Diff(tt.want, r.opened); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.args, diff)
		}
	}
}

func TestQuiet(t *testing.T) {
	r := run{src: &source{events: sample()}}
	if code := r.run("retrans", "-q"); code != 0 || r.err.Len() > 0 {
		t.Errorf("exit code %d, stderr %q", code, &r.err)
	}
}

func TestJSONSummary(t *testing.T) {
	r := run{src: &source{events: sample()}}
	if code := r.run("retrans", "-o", "json"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	lines := strings.Split(strings.TrimSpace(r.out.String()), "\n")
	var sum struct {
		Event  string
		Events int
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sum); err != nil || sum.Event != "summary" || sum.Events != 2 {
		t.Errorf("last line %s: %v", lines[len(lines)-1], err)
	}
	if strings.Count(r.err.String(), "\n") != 1 {
		t.Errorf("stderr has more than the banner:\n%s", &r.err)
	}
}

// The audit is one line behind the summary, or a part of it.
func TestAudit(t *testing.T) {
	const want = "\ntcptrace: audit: the kernel counted 3 resets in 1 namespace; not traced: 1 reset, which the kernel did not deliver to BPF programs\n"
	for _, output := range []string{"table", "wide", "csv", "json"} {
		for _, quiet := range []bool{false, true} {
			r := run{src: &source{audit: []events.Audit{{NetNS: 7, Counter: "OutRsts", Kernel: 3, Traced: 2, Verdict: events.Missing}}}}
			args := []string{"resets", "-o", output}
			if quiet {
				args = append(args, "-q")
			}
			code := r.run(args...)
			if said := strings.HasSuffix(r.err.String(), want); code != 0 || said != (output != "json" && !quiet) {
				t.Errorf("%v: exit code %d, said %q", args, code, &r.err)
			}
			if printed := strings.Contains(r.out.String(), `"audit":[{"netns":7,"counter":"OutRsts"`); printed != (output == "json") {
				t.Errorf("%v: printed %q", args, &r.out)
			}
		}
	}
}

func TestColor(t *testing.T) {
	tests := []struct {
		args     []string
		terminal bool
		env      map[string]string
		want     bool
	}{
		{nil, true, nil, true},
		{nil, false, nil, false},
		{nil, true, map[string]string{"NO_COLOR": "1"}, false},
		{nil, true, map[string]string{"TERM": "dumb"}, false},
		{[]string{"--color", "always"}, false, map[string]string{"NO_COLOR": "1"}, true},
		{[]string{"--color", "never"}, true, nil, false},
		{[]string{"-o", "json"}, true, nil, false},
	}
	for _, tt := range tests {
		r := run{src: &source{events: sample()}, terminal: tt.terminal, env: tt.env}
		r.run(append([]string{"retrans"}, tt.args...)...)
		if got := strings.Contains(r.out.String(), "\x1b["); got != tt.want {
			t.Errorf("%v, terminal %v, %v: colour %v", tt.args, tt.terminal, tt.env, got)
		}
	}
}

func TestCount(t *testing.T) {
	r := run{src: &source{events: sample(), wait: true}}
	if code := r.run("retrans", "-c", "1", "-o", "csv", "--columns", "kind"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := r.out.String(); got != "kind\nrto\n" {
		t.Errorf("stdout:\n%s", got)
	}
}

func TestDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := run{src: &source{wait: true}}
		if code := r.run("retrans", "-d", "90s"); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if d := time.Since(start); d != 90*time.Second {
			t.Errorf("it took %v", d)
		}
		if !strings.Contains(r.err.String(), "stops after 1m30s or with Ctrl-C") {
			t.Errorf("banner:\n%s", &r.err)
		}
		if !strings.Contains(r.err.String(), "0 events in 90.0 s") {
			t.Errorf("no summary:\n%s", &r.err)
		}
	})
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	r := run{ctx: ctx, src: &source{events: sample(), wait: true, idle: cancel}}
	if code := r.run("retrans"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(r.err.String(), "2 events") {
		t.Errorf("no summary:\n%s", &r.err)
	}
}

func TestInterruptedBeforeTracing(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := run{ctx: ctx, openErr: ctx.Err()}
	if code := r.run("retrans"); code != 0 || r.err.Len() > 0 {
		t.Errorf("exit code %d, stderr %q", code, &r.err)
	}
}

func TestOpenFails(t *testing.T) {
	r := run{openErr: errors.New("missing CAP_BPF: run it as root")}
	if code := r.run("retrans"); code != 1 || r.err.String() != "tcptrace: missing CAP_BPF: run it as root\n" {
		t.Errorf("exit code %d, stderr %q", code, &r.err)
	}
}

func TestSourceFails(t *testing.T) {
	r := run{src: &source{events: sample(), err: errors.New("read ring buffer: broken")}}
	if code := r.run("retrans"); code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"2 events", "tcptrace: read ring buffer: broken\n"} {
		if !strings.Contains(r.err.String(), want) {
			t.Errorf("stderr lacks %q:\n%s", want, &r.err)
		}
	}
	if r.src.closed != 1 {
		t.Errorf("the source was closed %d times", r.src.closed)
	}
}

func TestLost(t *testing.T) {
	lost := events.Event{Type: events.Lost, Count: 3, Of: events.Retransmit}
	for _, output := range []string{"table", "wide", "csv", "json"} {
		for _, strict := range []bool{false, true} {
			r := run{src: &source{events: append(sample(), lost), lost: 3}}
			args := []string{"retrans", "-q", "-o", output}
			want := exitDone
			if strict {
				args = append(args, "--strict")
				want = exitLost
			}
			if code := r.run(args...); code != want {
				t.Errorf("%v: exit code %d, want %d", args, code, want)
			}
			table := output == "table" || output == "wide"
			if got := strings.Contains(r.err.String(), "lost 3 retransmit events"); got != table {
				t.Errorf("%v: stderr:\n%s", args, &r.err)
			}
			if got := strings.Contains(r.out.String(), "lost"); got == table {
				t.Errorf("%v: stdout:\n%s", args, &r.out)
			}
			if got := strings.Contains(r.err.String(), "--strict"); got != strict {
				t.Errorf("%v: stderr:\n%s", args, &r.err)
			}
		}
	}
}

func TestStrictWithoutLoss(t *testing.T) {
	r := run{src: &source{events: sample()}}
	if code := r.run("retrans", "--strict"); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// brokenPipe is the writing end of a pipe that nobody reads.
func brokenPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	t.Cleanup(func() { w.Close() })
	return w
}

func TestBrokenPipe(t *testing.T) {
	for _, args := range [][]string{{"retrans"}, {"retrans", "-o", "json"}, {"--help"}, {"retrans", "--help"}, {"man"}, {"version"}, {"completion", "bash"}} {
		r := run{src: &source{events: sample(), wait: true}, stdout: brokenPipe(t)}
		if code := r.run(args...); code != 0 {
			t.Errorf("%v: exit code %d", args, code)
		}
		if strings.Contains(r.err.String(), "pipe") || strings.Contains(r.err.String(), "0 filtered") {
			t.Errorf("%v: stderr:\n%s", args, &r.err)
		}
	}
}

// A terminal that was closed gives EIO.
func TestClosedTerminal(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		r := run{src: &source{events: sample()}, stdout: failing{syscall.EIO}, terminal: terminal}
		want := exitDone
		if !terminal {
			want = exitFailed
		}
		if code := r.run("retrans", "-q"); code != want {
			t.Errorf("terminal %v: exit code %d, want %d", terminal, code, want)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestPanic(t *testing.T) {
	r := run{src: &source{wait: true, idle: func() { panic("oh") }}}
	if code := r.run("retrans", "-q"); code != 1 || r.err.String() != "tcptrace: internal error, please report it: oh\n" {
		t.Errorf("exit code %d, stderr %q", code, &r.err)
	}
	r = run{src: &source{wait: true, idle: func() { panic("oh") }}, env: map[string]string{"TCPTRACE_DEBUG": "1"}}
	if r.run("retrans", "-q"); !strings.Contains(r.err.String(), "cli_test.go") {
		t.Errorf("no stack:\n%s", &r.err)
	}
}

// play is a demo.
type play struct {
	run    func(say func(string), settle func(context.Context) error) error
	closes error
	closed bool
}

func (p *play) NetNS() uint32    { return 7 }
func (p *play) Rights() []string { return []string{"CAP_NET_ADMIN"} }

func (p *play) Run(_ context.Context, say func(string), settle func(context.Context) error) error {
	return p.run(say, settle)
}

func (p *play) Close() error { p.closed = true; return p.closes }

func (p *play) demo(context.Context) (Demo, error) { return p, nil }

func TestDemo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside, outside := sample()[0], sample()[1]
		inside.NetNS, outside.NetNS = 7, 8
		r := run{src: &source{events: []events.Event{inside, outside}, wait: true}}
		var p play
		p.run = func(say func(string), settle func(context.Context) error) error {
			say("a segment is lost now")
			return settle(t.Context())
		}
		r.demo = p.demo
		if code := r.run("demo", "-o", "csv", "--columns", "kind"); code != 0 {
			t.Errorf("exit code %d: %s", code, &r.err)
		}
		if got := r.out.String(); got != "kind\nrto\n" {
			t.Errorf("stdout:\n%s", got)
		}
		if !p.closed {
			t.Error("the demo was not closed")
		}
		if diff := cmp.Diff(live.Options{Types: []events.Type{events.Retransmit, events.Reset}, Kernel: filter.Kernel{NetNS: []uint32{7}}, NetNS: []uint32{7}, Buffer: 64 << 20, KeepRights: []string{"CAP_NET_ADMIN"}}, r.opened); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !strings.Contains(r.err.String(), "tcptrace: a segment is lost now\n") {
			t.Errorf("stderr:\n%s", &r.err)
		}
	})
}

func TestDemoInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	r := run{ctx: ctx, src: &source{wait: true, idle: func() {}}}
	p := play{run: func(_ func(string), settle func(context.Context) error) error {
		cancel()
		return settle(ctx)
	}}
	r.demo = p.demo
	if code := r.run("demo", "-q"); code != 0 || r.err.Len() > 0 || !p.closed {
		t.Errorf("exit code %d, stderr %q, closed %v", code, &r.err, p.closed)
	}
}

func TestDemoFails(t *testing.T) {
	fails := errors.New("no namespace")
	tests := []struct {
		demo func(context.Context) (Demo, error)
		want string
	}{
		{func(context.Context) (Demo, error) { return nil, fails }, "tcptrace: no namespace\n"},
		{(&play{run: func(func(string), func(context.Context) error) error { return fails }}).demo, "tcptrace: no namespace\n"},
		{(&play{run: func(func(string), func(context.Context) error) error { return nil }, closes: fails}).demo, "tcptrace: no namespace\n"},
		{
			(&play{run: func(func(string), func(context.Context) error) error { panic("oh") }}).demo,
			"tcptrace: internal error, please report it: oh\ntcptrace: the demo failed\n",
		},
	}
	for _, tt := range tests {
		r := run{src: &source{wait: true}, demo: tt.demo}
		if code := r.run("demo", "-q"); code != 1 || r.err.String() != tt.want {
			t.Errorf("exit code %d, stderr %q, want %q", code, &r.err, tt.want)
		}
	}
}

func TestVersion(t *testing.T) {
	var r run
	if code := r.run("version"); code != 0 || !strings.HasPrefix(r.out.String(), "tcptrace 1.2.3 (abc 2026-01-31T12:00:00Z) go1.") {
		t.Errorf("exit code %d, stdout %q", code, &r.out)
	}
	command := r.out.String()
	r = run{}
	if code := r.run("--version"); code != 0 || r.out.String() != command {
		t.Errorf("--version: exit code %d, stdout %q", code, &r.out)
	}
	r = run{}
	var v map[string]string
	if code := r.run("version", "-o", "json"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := json.Unmarshal(r.out.Bytes(), &v); err != nil || v["version"] != "1.2.3" || v["arch"] == "" {
		t.Errorf("%s: %v", &r.out, err)
	}
}

func TestWarnings(t *testing.T) {
	tests := []struct {
		args string
		want string
	}{
		{"retrans --kind refused,peer", "tcptrace: warning: --kind refused,peer matches nothing here: --help shows the kinds\n"},
		{"states --kind rto", "tcptrace: warning: --kind rto matches nothing here: --help shows the kinds\n"},
		{"retrans --direction sent", "tcptrace: warning: --direction matches nothing here: only resets have one\n"},
		{"retrans --kind refused,rto", ""},
		{"events --kind refused --direction sent", ""},
	}
	for _, tt := range tests {
		var r run
		if code := r.run(append(strings.Fields(tt.args), "-q")...); code != 0 || r.err.String() != tt.want {
			t.Errorf("%s: exit code %d, stderr %q", tt.args, code, &r.err)
		}
	}
}

func TestBanner(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"states"}, "tracing state changes in all network namespaces; stops with Ctrl-C"},
		{[]string{"events"}, "tracing retransmissions, resets and state changes in all network namespaces; stops with Ctrl-C"},
		{[]string{"events", "--event", "reset,state", "--netns", "7", "-4"}, "tracing resets and state changes with --netns 7 --ipv4; stops with Ctrl-C"},
		{
			[]string{"retrans", "--port", "1", "--port", "2,3", "--where", "rto_ms > 1\n", "-d", "1h"},
			`tracing retransmissions in all network namespaces with --port 1,2,3 --where "rto_ms > 1\n"; stops after 1h or with Ctrl-C`,
		},
		{[]string{"retrans", "--comm", "it's"}, `tracing retransmissions in all network namespaces with --comm 'it'\''s'; stops with Ctrl-C`},
	}
	for _, tt := range tests {
		var r run
		r.run(tt.args...)
		if got, _, _ := strings.Cut(r.err.String(), "\n"); got != "tcptrace: "+tt.want {
			t.Errorf("%q:\n got %s\nwant tcptrace: %s", tt.args, got, tt.want)
		}
	}
}

// Every mistake has one line that says what is wrong and what is right, and a
// hint; never the whole usage.
func TestMistakes(t *testing.T) {
	tests := []struct {
		args []string
		want string // without "tcptrace: " and the hint
		hint string // "" is that of the first word
	}{
		{[]string{"retran"}, `unknown command "retran": did you mean retrans?`, "tcptrace"},
		{[]string{"xyz"}, `unknown command "xyz"`, "tcptrace"},
		{[]string{"xyz", "--port", "80"}, `unknown command "xyz"`, "tcptrace"},
		{[]string{"rewind", "x"}, `unknown command "rewind"`, "tcptrace"},
		{[]string{"help", "xyz"}, `unknown command "xyz"`, "tcptrace help"},
		{[]string{"--xyz"}, "unknown flag --xyz: flags of a command follow it, as in tcptrace retrans --port 443", "tcptrace"},
		{[]string{"-q"}, "unknown flag -q: flags of a command follow it, as in tcptrace retrans --port 443", "tcptrace"},
		{[]string{"retrans", "80"}, `unexpected argument "80": tcptrace retrans takes flags only`, ""},
		{[]string{"retrans", "--prt", "80"}, "unknown flag --prt: did you mean --port?", ""},
		{[]string{"retrans", "--event", "reset"}, "unknown flag --event", ""},
		{[]string{"retrans", "-z"}, "unknown flag -z", ""},
		{[]string{"retrans", "--port"}, "--port needs a value: PORT,... (port at either end, as in 80,443,8000-8100)", ""},
		{[]string{"retrans", "-c"}, "--count needs a value: N (stop after so many events)", ""},
		{[]string{"retrans", "--port="}, "--port '': it needs a value", ""},
		{[]string{"retrans", "--where", ""}, "--where '': it needs a value", ""},
		{[]string{"replay", "f", "--since", ""}, "--since '': it needs a value", ""},
		{[]string{"retrans", "--port", "70000"}, "--port 70000: ports go from 0 to 65535", ""},
		{[]string{"retrans", "--port", "80,https"}, `--port 80,https: value 2, "https": it is not a port such as 443, or a range such as 8000-8100`, ""},
		{[]string{"retrans", "--port", "80,"}, "--port 80,: value 2 is empty", ""},
		{[]string{"retrans", "--lport", "90-80"}, "--lport 90-80: the range is backwards: 80-90", ""},
		{[]string{"retrans", "--addr", "localhost"}, "--addr localhost: it is not an IP address, or a network such as 10.0.0.0/8 or 2001:db8::/32", ""},
		{[]string{"retrans", "--addr", "\x1b[31m"}, `--addr "\x1b[31m": it is not an IP address, or a network such as 10.0.0.0/8 or 2001:db8::/32`, ""},
		{[]string{"states", "--state", "OPEN"}, "--state OPEN: the states are ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING, NEW_SYN_RECV, BOUND_INACTIVE", ""},
		{[]string{"resets", "--direction", "in"}, "--direction in: the directions are sent, received", ""},
		{[]string{"events", "--event", "lost"}, "--event lost: the events are retransmit, reset, state", ""},
		{[]string{"retrans", "--pid", "nginx"}, "--pid nginx: it is not a process id; --comm takes names", ""},
		{[]string{"retrans", "--uid", "no-such-user-here"}, "--uid no-such-user-here: there is no such user here; a number works for any", ""},
		{[]string{"retrans", "-o", "xml"}, "--output xml: it is one of table, wide, json, csv", ""},
		{[]string{"retrans", "--color", "yes"}, "--color yes: it is one of auto, always, never", ""},
		{[]string{"retrans", "--utc=maybe"}, "--utc maybe: it is true or false", ""},
		{[]string{"retrans", "--columns", "xyz9"}, `--columns: unknown column "xyz9": it is one of `, ""},
		{[]string{"retrans", "--columns", "port"}, `--columns: unknown column "port": did you mean lport or rport?`, ""},
		{[]string{"retrans", "--columns", "time,time"}, `--columns: column "time" is named twice`, ""},
		{[]string{"retrans", "-o", "json", "--columns", "local"}, `--columns: column "local" is for tables only: `, ""},
		{[]string{"retrans", "-d", "30"}, "--duration 30: it needs a unit, as in 30s or 30m", ""},
		{[]string{"retrans", "-d", "soon"}, "--duration soon: it is not a time such as 30s, 5m, 1h30m or 7d, of at most 36500d", ""},
		{[]string{"retrans", "-d", "-1s"}, "--duration -1s: it must be above 0", ""},
		{[]string{"retrans", "-c", "0"}, "--count 0: it is a number from 1 on", ""},
		{[]string{"retrans", "-c", "many"}, "--count many: it is a number from 1 on", ""},
		{[]string{"retrans", "--buffer", "2KiB"}, "--buffer 2KiB: it goes from 4KiB to 1GiB", ""},
		{[]string{"retrans", "--buffer", "2G"}, "--buffer 2G: it goes from 4KiB to 1GiB", ""},
		{[]string{"retrans", "--buffer", "64MB"}, "--buffer 64MB: it is not a size such as 64MiB; the units are KiB, MiB, GiB, or K, M, G for short", ""},
		{[]string{"retrans", "--where", "rtos > 1"}, "--where: there is no field rtos (1:1)\n | rtos > 1\n | ^", ""},
		{[]string{"retrans", "--where", `rto_ms > "x"`}, "--where: invalid operation: > (mismatched types float64 and string) (1:8)\n | rto_ms > \"x\"\n | .......^", ""},
		{[]string{"retrans", "--where", "rto_ms"}, "--where: it must be true or false: compare something, as in rto_ms > 1000", ""},
		{[]string{"record"}, "record needs one FILE or DIR to write to, or - for standard output", ""},
		{[]string{"record", "a", "b"}, "record needs one FILE or DIR to write to, or - for standard output", ""},
		{[]string{"record", ""}, "the name of a file is empty", ""},
		{[]string{"record", "-", "-o", "json"}, "--output json: the recording is printed there already: give a FILE", ""},
		{[]string{"record", "a", "--columns", "time,time"}, `--columns: column "time" is named twice`, ""},
		{[]string{"record", "-", "--max-age", "1h"}, "--max-age is for a folder, not for standard output", ""},
		{[]string{"record", "d", "--max-size", "1K"}, "--max-size 1K: it goes from 1MiB to 1048576GiB", ""},
		{[]string{"record", "d", "--max-age", "1ns"}, "--max-age 1ns: it must be 1s or more", ""},
		{[]string{"record", "d", "--max-age", "7"}, "--max-age 7: it needs a unit, as in 7s or 7m", ""},
		{[]string{"record", "d", "--flush", "0s"}, "--flush 0s: it must be above 0", ""},
		{[]string{"replay"}, "replay needs a FILE or DIR to read, or - for standard input", ""},
		{[]string{"replay", "f", "--since", "noon"}, `--since noon: it is not a time such as 14:00, "2026-01-31 14:00:05" or 2026-01-31T14:00:05Z, or 10m for ten minutes ago`, ""},
		{[]string{"replay", "f", "--since", "1m", "--until", "2m"}, "--until 2m is before --since 1m", ""},
		{[]string{"replay", "-", "f", "-"}, "standard input (-) is named twice", ""},
		{[]string{"replay", "f", "--netns", "/proc/1/ns/net"}, "--netns /proc/1/ns/net: a recording knows no paths: give the inode number, or the name", ""},
		{[]string{"replay", "f", "-w", "-"}, "-w -: events are printed there already: give a FILE, or use tcptrace record -", ""},
		{[]string{"replay", "f", "--btf", "x"}, "unknown flag --btf", ""},
		{[]string{"replay", "f", "--buffer", "1"}, "--buffer 1: it goes from 4KiB to 1GiB", ""},
		{[]string{"retrans", "--since", "1m"}, "--since is for recordings: name one with -r FILE", ""},
		{[]string{"retrans", "-F"}, "--follow is for recordings: name one with -r FILE", ""},
		{[]string{"retrans", "-r", "f", "--btf", "x"}, "--btf is for tracing: leave it out with -r", ""},
		{[]string{"retrans", "-f"}, "--force is for recording: add -w FILE", ""},
		{[]string{"retrans", "-w", ""}, "--write '': it needs a value", ""},
		{[]string{"retrans", "-w", "-"}, "-w -: events are printed there already: give a FILE, or use tcptrace record -", ""},
		{[]string{"explain", ""}, "the name of a file is empty", ""},
		{[]string{"explain", "-o", "csv"}, "--output csv: a report is one of table, json, markdown; csv is for events, which replay prints from a recording", ""},
		{[]string{"explain", "-o", "wide"}, "--output wide: a report is one of table, json, markdown; wide is for events, which replay prints from a recording", ""},
		{[]string{"explain", "-o", "xml"}, "--output xml: it is one of table, json, markdown", ""},
		{[]string{"explain", "--columns", "time"}, "unknown flag --columns", ""},
		{[]string{"explain", "--fail-on", "refused, refusd"}, "--fail-on 'refused, refusd': there is no finding refusd: they are " + strings.Join(explain.Findings(), ", "), ""},
		{[]string{"explain", "--fail-on", ""}, "--fail-on '': it needs a value", ""},
		{[]string{"explain", "--conn", "0"}, "--conn 0: it is not the id of a connection: a hexadecimal number such as 40000016c0288, as conn in JSON", ""},
		{[]string{"explain", "--conn", "7,"}, "--conn 7,: value 2 is empty", ""},
		{[]string{"explain", "--connection", "10.0.0.1:1-10.0.0.2"}, "--connection 10.0.0.1:1-10.0.0.2: it is not both ends of a connection, as in 10.0.0.1:40000-10.0.0.2:443 or [::1]:40000-[::1]:80", ""},
		{[]string{"explain", "-w", "-"}, "-w -: the report is printed there already: give a FILE", ""},
		{[]string{"explain", "f", "--btf", "x"}, "--btf is for tracing: leave it out with -r", ""},
		{[]string{"explain", "--until", "1m"}, "--until is for recordings: name one with -r FILE", ""},
		{[]string{"completion"}, "completion needs one of bash, zsh, fish, powershell", ""},
		{[]string{"completion", "tcsh"}, "completion needs one of bash, zsh, fish, powershell", ""},
		{[]string{"version", "x"}, `unexpected argument "x": tcptrace version takes flags only`, ""},
		{[]string{"version", "-o", "xml"}, "--output xml: it is one of text, json", ""},
		{[]string{"man", "version"}, "there is a page for each of tcptrace, demo, events, explain, record, replay, resets, retrans, states", ""},
		{[]string{"man", "retrans", "--dir", "x"}, `--dir writes all pages: leave out "retrans"`, ""},
	}
	for _, tt := range tests {
		var r run
		if code := r.run(tt.args...); code != exitUsage {
			t.Errorf("%q: exit code %d", tt.args, code)
		}
		if r.out.Len() > 0 {
			t.Errorf("%q: stdout: %s", tt.args, &r.out)
		}
		if tt.hint == "" {
			tt.hint = "tcptrace " + tt.args[0]
		}
		text, isUsage := strings.CutSuffix(r.err.String(), fmt.Sprintf("\nsee %s --help\n", tt.hint))
		text, isOurs := strings.CutPrefix(text, "tcptrace: ")
		open := strings.HasSuffix(tt.want, " ") // the rest may change with format
		if !isUsage || !isOurs || text != tt.want && !(open && strings.HasPrefix(text, tt.want)) {
			t.Errorf("%q:\n got %s\nwant %s\nsee %s --help", tt.args, &r.err, tt.want, tt.hint)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]string{
		"4096": "4KiB", "4K": "4KiB", "4kib": "4KiB", "5KiB": "8KiB", "64MiB": "64MiB", "63 M": "64MiB", "65M": "128MiB",
		"1G": "1GiB", "1073741824": "1GiB", "1048576k": "1GiB",
	} {
		var v sizeValue
		if err := v.Set(text); err != nil || v.String() != want {
			t.Errorf("%s: got %s, %v, want %s", text, v.String(), err, want)
		}
	}
	for _, text := range []string{"", "M", "-1M", "1.5M", "1T", "0", "4095", "1073741825", "99999999999999999999", "99999999999999999G", "0x1000"} {
		if err := new(sizeValue).Set(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// What the kernel hides is said once, behind the banner.
func TestUnseen(t *testing.T) {
	hidden := []live.Hook{{Point: "f", Gives: "this", Err: errors.New("that")}, {Point: "g", Gives: "more", Err: live.ErrNotLoaded}}
	r := run{hooks: hidden}
	if code := r.run("resets"); code != 0 || !strings.Contains(r.err.String(), "Ctrl-C\ntcptrace: not seen on this kernel: this (that)\n") {
		t.Errorf("exit code %d, said %q", code, r.err.String())
	}
	r = run{src: &source{overlooked: "late", skipped: 3}}
	if code := r.run("resets"); code != 0 || !strings.Contains(r.err.String(), "\ntcptrace: not seen: late\n") || !strings.Contains(r.err.String(), "up to 3 events are missing\n") {
		t.Errorf("exit code %d, said %q", code, r.err.String())
	}
	r = run{hooks: hidden, src: &source{overlooked: "late", skipped: 3}}
	if code := r.run("resets", "-q"); code != 0 || r.err.Len() != 0 {
		t.Errorf("exit code %d, said %q", code, r.err.String())
	}
}

// What a container hides is said once, and a filter on it is warned of.
func TestLimits(t *testing.T) {
	limits := []live.Limit{{Field: "pid", Reason: "not the host's", Remedy: "--pid=host"}, {Field: "cgroup", Reason: "a part", Remedy: "--cgroupns=host"}}
	r := run{limits: limits}
	if code := r.run("retrans"); code != 0 || strings.Count(r.err.String(), "not shown here: pid: not the host's (--pid=host); cgroup: a part (--cgroupns=host)\n") != 1 {
		t.Errorf("exit code %d, said %q", code, r.err.String())
	}
	r = run{limits: limits}
	if code := r.run("retrans", "-q", "--pid", "1"); code != 0 || r.err.String() != "tcptrace: warning: --pid matches nothing here: not the host's (--pid=host)\n" {
		t.Errorf("exit code %d, said %q", code, r.err.String())
	}
}

func TestDoctor(t *testing.T) {
	checks := []doctor.Check{
		{Name: "kernel", Of: "6.1", Status: doctor.OK, Detail: "x86_64"},
		{Name: "function", Of: "f\x1b[31m", Status: doctor.Limited, Detail: "refused", Unseen: "resets"},
		{Name: "right", Of: "CAP_BPF", Status: doctor.Failed, Detail: "missing", Remedy: "be root"},
	}
	r := run{checks: checks[:2]}
	want := "ok       kernel    6.1          x86_64\n" +
		"limited  function  \"f\\x1b[31m\"  refused; not seen: resets\n"
	if code := r.run("doctor", "--buffer", "8KiB", "--btf", "types"); code != 0 || r.out.String() != want || r.err.Len() > 0 || r.opened.Buffer != 8192 || r.opened.BTF != "types" {
		t.Errorf("exit code %d, %+v\n%s%s", code, r.opened, &r.out, &r.err)
	}
	r = run{checks: checks}
	if code := r.run("doctor"); code != 1 || !strings.Contains(r.out.String(), "failed   right     CAP_BPF      missing\n                                -> be root\n") || !strings.Contains(r.err.String(), "does not work here") {
		t.Errorf("exit code %d\n%s%s", code, &r.out, &r.err)
	}
	r = run{checks: checks}
	if code := r.run("doctor", "-o", "json"); code != 1 || r.out.String() != `{"works":false,"checks":[{"check":"kernel","of":"6.1","status":"ok","detail":"x86_64"},`+
		`{"check":"function","of":"f\u001b[31m","status":"limited","detail":"refused","unseen":"resets"},`+
		`{"check":"right","of":"CAP_BPF","status":"failed","detail":"missing","remedy":"be root"}]}`+"\n" {
		t.Errorf("exit code %d\n%s", code, &r.out)
	}
}
