// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// broken is of a connect that times out, one to a port where nobody listens,
// and a connection that fares well.
func broken() []events.Event {
	base := events.Event{
		Time: 1_700_000_000_000_000_000, Boot: 5_000_000_000, Family: 4, NetNS: 7, PID: 42, Known: events.HasUID, UID: 1000, User: "web", Cgroup: "/a.slice",
		LAddr: netip.MustParseAddr("10.0.0.1"), RAddr: netip.MustParseAddr("192.0.2.200"), LPort: 40000, RPort: 443, Conn: 0xabc, Type: events.StateChange,
	}
	copy(base.Comm[:], "c\x1b[2J")
	var list []events.Event
	add := func(ms int64, change func(*events.Event)) {
		e := base
		e.Time += ms * 1_000_000
		e.Boot += uint64(ms) * 1_000_000
		change(&e)
		if e.Type == events.StateChange {
			e.State = e.NewState
		}
		list = append(list, e)
	}
	add(0, func(e *events.Event) { e.OldState, e.NewState = events.Close, events.SynSent })
	add(1000, func(e *events.Event) {
		e.Type, e.Kind, e.Phase, e.State, e.Attempt, e.RTO, e.NextRTO = events.Retransmit, events.KindSYN, events.PhaseConnect, events.SynSent, 1, 1e9, 2e9
		e.Known |= events.HasRTO | events.HasNextRTO
	})
	other := func(e *events.Event) { e.LPort, e.Conn = 40002, 0xdef }
	add(1100, func(e *events.Event) { other(e); e.OldState, e.NewState = events.Close, events.SynSent })
	add(1200, func(e *events.Event) { other(e); e.OldState, e.NewState = events.SynSent, events.Established })
	add(1300, func(e *events.Event) {
		e.Type, e.Kind, e.Direction, e.Conn, e.PID = events.Reset, events.KindRefused, events.Sent, 0, 0
		e.LAddr, e.LPort, e.RAddr, e.RPort, e.Family = netip.MustParseAddr("::1"), 81, netip.MustParseAddr("::1"), 50000, 6
	})
	add(3000, func(e *events.Event) { e.OldState, e.NewState, e.Error = events.SynSent, events.Close, 110 })
	return list
}

func brokenSource() *source {
	return &source{events: broken(), settings: []events.Settings{{NetNS: 7, Values: []events.Setting{{Name: "net.ipv4.tcp_syn_retries", Value: "1"}}}}}
}

// reported is what JSON says of a report.
type reported struct {
	Start, End   string
	Events, Lost int
	Troubled     int
	Findings     []map[string]any
	Connections  []map[string]any
	Notes        []string
	Summary      map[string]any
}

func (r *run) reported(t *testing.T) *reported {
	t.Helper()
	if strings.Contains(r.out.String(), "\x1b") {
		t.Errorf("escape sequences: %q", &r.out)
	}
	v := new(reported)
	if err := json.Unmarshal(r.out.Bytes(), v); err != nil {
		t.Fatalf("%v: %s\n%s", err, &r.out, &r.err)
	}
	return v
}

func (v *reported) ids() string {
	var ids []string
	for _, f := range v.Findings {
		ids = append(ids, f["id"].(string))
	}
	return strings.Join(ids, " ")
}

func TestExplain(t *testing.T) {
	r := run{src: brokenSource()}
	if code := r.run("explain", "--utc", "--rport", "443,50000"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !r.opened.Settings {
		t.Error("the settings of namespaces were not asked for")
	}
	for _, want := range []string{
		"2 connections in trouble in ", ": 2 failed\nretransmissions, resets and state changes in all network namespaces with --rport\n443,50000; 2023-11-14 22:13:20 to ", " UTC; 6 events\n",
		"\nconnect-timeout: nobody answered a SYN in time\n  connection abc: failed; certain; ", "  peers     192.0.2.200:443\n  owners    c\\x1b[2J (42) in /a.slice, user web\n",
		"  settings  net.ipv4.tcp_syn_retries=1\n", "\nrefused: nothing listens on the port\n", " SYN again (1)",
	} {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("no %q in\n%s", want, &r.out)
		}
	}
	if strings.Contains(r.out.String(), "--conn ID") {
		t.Errorf("what happened live can't be asked for again:\n%s", &r.out)
	}
	lines := strings.Split(r.err.String(), "\n")
	if want := "tcptrace: tracing retransmissions, resets and state changes in all network namespaces with --rport 443,50000; stops with Ctrl-C, and then explains"; lines[0] != want {
		t.Errorf("banner:\n%s\nwant:\n%s", lines[0], want)
	}
	if want := "tcptrace: 6 events (state 4, syn 1, refused 1) in "; len(lines) != 3 || !strings.HasPrefix(lines[1], want) {
		t.Errorf("summary:\n%q\nwant %q", lines[1:], want)
	}
}

// A recording tells what was told live.
func TestExplainRecorded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a")
	live := run{src: brokenSource()}
	if code := live.run("explain", "-o", "json", "-w", file); code != 0 {
		t.Fatalf("exit code %d: %s", code, &live.err)
	}
	want := live.reported(t)
	if want.ids() != "connect-timeout refused" || len(want.Connections) != 2 || want.Summary["events"] != 6.0 {
		t.Errorf("%s\n%s", &live.out, &live.err)
	}
	if strings.Count(live.err.String(), "\n") != 2 { // banner, and how much was recorded
		t.Errorf("stderr:\n%s", &live.err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "b")
	for _, args := range [][]string{{file}, {"-r", file}, {"-"}, {file, "-w", again}, {again}, {file, "--event", "retransmit,reset,state"}} {
		r := run{stdin: bytes.NewReader(content)}
		if code := r.run(append([]string{"explain", "-o", "json"}, args...)...); code != 0 || r.opened.Types != nil {
			t.Errorf("%v: exit code %d: %s", args, code, &r.err)
		}
		got := r.reported(t)
		if diff := cmp.Diff(want.Findings, got.Findings); diff != "" {
			t.Errorf("%v (-live +recorded):\n%s", args, diff)
		}
		if diff := cmp.Diff(want.Connections, got.Connections); diff != "" {
			t.Errorf("%v (-live +recorded):\n%s", args, diff)
		}
	}
	r := run{}
	copied := filepath.Join(t.TempDir(), "copied")
	if err := os.WriteFile(copied, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := r.run("explain", file, copied); code != 0 || !strings.Contains(strings.Join(strings.Fields(r.out.String()), " "), "; 12 events ") || !strings.Contains(r.out.String(), "\nall that happened to one connection: tcptrace explain "+file+" "+copied+" --conn ID") {
		t.Errorf("exit code %d\n%s", code, &r.out)
	}
	r = run{}
	if code := r.run("explain", file, "--since", "2023-11-14T22:13:21.25Z", "--until", "2023-11-14T22:13:22Z", "-q", "-o", "json"); code != 0 || r.reported(t).Events != 1 || r.reported(t).ids() != "refused" || r.err.Len() > 0 {
		t.Errorf("exit code %d: %s\n%s", code, &r.err, &r.out)
	}
}

func TestExplainOne(t *testing.T) {
	for args, want := range map[string]string{
		"--conn abc":       "connect-timeout",
		"--conn 0xABC,999": "connect-timeout",
		"--conn 999":       "",
		"--connection 10.0.0.1:40000-192.0.2.200:443":          "connect-timeout",
		"--connection 192.0.2.200:443-10.0.0.1:40000":          "connect-timeout",
		"--connection [::ffff:192.0.2.200]:443-10.0.0.1:40000": "connect-timeout",
		"--connection 192.0.2.200:443-10.0.0.1:40001":          "",
		"--connection [::1]:50000-[::1]:81":                    "refused",
		"--connection [::1]:50000-[::1]:81 --conn abc":         "",
	} {
		r := run{src: brokenSource()}
		if code := r.run(append([]string{"explain", "-o", "json"}, strings.Fields(args)...)...); code != 0 {
			t.Errorf("%s: exit code %d: %s", args, code, &r.err)
		}
		if got := r.reported(t); got.ids() != want || len(got.Connections) != len(got.Findings) {
			t.Errorf("%s: %s", args, &r.out)
		}
	}
	r := run{src: brokenSource()}
	if code := r.run("explain", "--conn", "abc", "--utc", "--no-header", "-q"); code != 0 || !strings.HasPrefix(r.out.String(), "10.0.0.1:40000-192.0.2.200:443, connection abc: failed\n") ||
		!strings.Contains(r.out.String(), "\n  22:13:20.000     +0.000 s  CLOSE -> SYN_SENT\n") && !strings.Contains(r.out.String(), "\n  2023-11-14 22:13:20.000     +0.000 s  CLOSE -> SYN_SENT\n") {
		t.Errorf("exit code %d\n%s", code, &r.out)
	}
	r = run{src: brokenSource()}
	if code := r.run("explain", "--conn", "999", "-q"); code != 0 || !strings.HasPrefix(r.out.String(), "no such connection in ") {
		t.Errorf("exit code %d\n%s", code, &r.out)
	}
}

// Where all is well, a line says so, and what was watched.
func TestExplainNothing(t *testing.T) {
	for _, list := range [][]events.Event{nil, broken()[2:4]} {
		r := run{src: &source{events: list}}
		if code := r.run("explain", "-q", "--fail-on", "refused"); code != 0 || r.err.Len() > 0 || strings.Count(r.out.String(), "\n") != 1 ||
			!strings.HasPrefix(r.out.String(), "no connection in trouble in ") || !strings.Contains(r.out.String(), " (retransmissions, resets and state changes in all network namespaces; ") {
			t.Errorf("exit code %d: %s\n%s", code, &r.err, &r.out)
		}
		r = run{src: &source{events: list}}
		if code := r.run("explain", "-o", "json"); code != 0 || r.reported(t).Findings == nil || r.reported(t).Start == "" || len(r.reported(t).Findings) > 0 {
			t.Errorf("exit code %d: %s\n%s", code, &r.err, &r.out)
		}
	}
}

func TestFailOn(t *testing.T) {
	lost := events.Event{Time: broken()[0].Time, Boot: broken()[0].Boot, Type: events.Lost, Count: 3, Of: events.Reset}
	for _, tt := range []struct {
		args string
		lost bool
		code int
		says string
	}{
		{"--fail-on refused", false, 4, "tcptrace: found refused (1 connection), which --fail-on makes a failure\n"},
		{"--fail-on stalled,refused --fail-on connect-timeout", false, 4, "tcptrace: found connect-timeout (1 connection), refused (1 connection), which --fail-on makes a failure\n"},
		{"--fail-on stalled,loss", false, 0, ""},
		{"--fail-on stalled --strict", true, 3, "tcptrace: lost events (3), which --strict makes a failure: try a larger --buffer\n"},
		{"--fail-on refused --strict", true, 4, "tcptrace: found refused (1 connection), which --fail-on makes a failure\n"},
		{"--fail-on refused --conn abc", false, 0, ""},
	} {
		for _, output := range reports() {
			r := run{src: brokenSource()}
			if tt.lost {
				r.src.events, r.src.lost = append(r.src.events, lost), 3
			}
			code := r.run(append([]string{"explain", "-q", "-o", output}, strings.Fields(tt.args)...)...)
			if code != tt.code || !strings.HasSuffix(r.err.String(), tt.says) || tt.says == "" && r.err.Len() > 0 || !strings.Contains(r.out.String(), "connect-timeout") {
				t.Errorf("%s -o %s: exit code %d: %s\n%s", tt.args, output, code, &r.err, &r.out)
			}
			if said := strings.Contains(r.err.String(), "lost 3 reset events"); said != (tt.lost && output != "json") {
				t.Errorf("%s -o %s: %s", tt.args, output, &r.err)
			}
		}
	}
	r := run{src: brokenSource(), stdout: brokenPipe(t)}
	if code := r.run("explain", "--fail-on", "refused"); code != 4 || strings.Contains(r.err.String(), "pipe") {
		t.Errorf("exit code %d: %s", code, &r.err)
	}
	r = run{src: brokenSource(), stdout: brokenPipe(t)}
	if code := r.run("explain"); code != 0 || strings.Contains(r.err.String(), "pipe") {
		t.Errorf("exit code %d: %s", code, &r.err)
	}
}

// What can be read, and what was read before a failure, is explained.
func TestExplainDamaged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a")
	r := run{src: brokenSource()}
	r.run("events", "-w", file)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(content, make([]byte, 4096)...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{file}, {file, "--fail-on", "refused"}} {
		r = run{}
		if code := r.run(append([]string{"explain", "-o", "json"}, args...)...); code != 1 || r.reported(t).ids() != "connect-timeout refused" || !strings.Contains(r.err.String(), "at byte ") {
			t.Errorf("exit code %d: %s\n%s", code, &r.err, &r.out)
		}
	}
	r = run{src: brokenSource()}
	r.src.err = errors.New("ring buffer is broken")
	if code := r.run("explain", "-o", "json"); code != 1 || r.reported(t).ids() != "connect-timeout refused" || !strings.HasSuffix(r.err.String(), "tcptrace: ring buffer is broken\n") {
		t.Errorf("exit code %d: %s\n%s", code, &r.err, &r.out)
	}
	r = run{}
	if code := r.run("explain", filepath.Join(t.TempDir(), "none")); code != 1 || r.out.Len() > 0 || strings.Count(r.err.String(), "\n") != 1 {
		t.Errorf("exit code %d: %s\n%s", code, &r.err, &r.out)
	}
}

// A connection of which nothing more came has recovered, if it was watched for
// long enough.
func TestExplainEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a")
	for args, want := range map[string]string{"": "recovered", "-c 2": "pending"} {
		r := run{src: &source{events: broken()[:2]}}
		if code := r.run(append([]string{"explain", "-o", "json"}, strings.Fields(args)...)...); code != 0 || r.reported(t).Findings[0]["outcome"] != want {
			t.Errorf("%s: exit code %d\n%s", args, code, &r.out)
		}
	}
	// A recording that ends right behind does not know.
	r := run{src: &source{events: broken()[:2]}}
	r.run("record", file, "--event", "retransmit,reset,state")
	r = run{}
	if code := r.run("explain", file, "-o", "json", "--until", "2023-11-14T22:13:21Z"); code != 0 || r.reported(t).Findings[0]["outcome"] != "pending" {
		t.Errorf("exit code %d\n%s", code, &r.out)
	}
}

func TestExplainLooks(t *testing.T) {
	longest := func(s string) (n int) {
		for line := range strings.Lines(s) {
			n = max(n, len(line)-1)
		}
		return n
	}
	for width, want := range map[int]int{0: 80, 60: 60, 200: 200} {
		r := run{src: brokenSource(), width: width}
		if r.run("explain"); longest(r.out.String()) > want || longest(r.out.String()) < want*3/4 {
			t.Errorf("width %d: %d columns\n%s", width, longest(r.out.String()), &r.out)
		}
	}
	r := run{src: brokenSource(), terminal: true}
	if r.run("explain"); !strings.Contains(r.out.String(), "\x1b[1mrefused\x1b[22m: ") {
		t.Errorf("no colours: %q", &r.out)
	}
	r = run{src: brokenSource()}
	if r.run("explain", "-o", "markdown", "--utc"); !strings.HasPrefix(r.out.String(), "## 2 connections in trouble in ") || strings.Contains(r.out.String(), "\x1b") {
		t.Errorf("%s", &r.out)
	}
	r = run{src: brokenSource()}
	if r.run("explain", "--no-header"); !strings.HasPrefix(r.out.String(), "connect-timeout: ") {
		t.Errorf("%s", &r.out)
	}
}

// Settings that can't be read are unknown, and that is said once.
func TestExplainNoSettings(t *testing.T) {
	r := run{src: brokenSource()}
	r.src.settingsErr = errors.New("refused")
	r.src.settings = nil
	if code := r.run("explain", "-q"); code != 0 || r.err.String() != "tcptrace: warning: settings of network namespaces are not known: refused\n" || strings.Contains(r.out.String(), "settings ") {
		t.Errorf("exit code %d: %s\n%s", code, &r.err, &r.out)
	}
}

// sunk is a sink that fails.
type sunk struct {
	calls int
	err   error
}

func (s *sunk) Append([]events.Event) error      { s.calls++; return s.err }
func (s *sunk) Tick(func() events.Summary) error { s.calls++; return s.err }
func (s *sunk) Finish(*events.Summary) error     { s.calls++; return s.err }

func TestBoth(t *testing.T) {
	var fine sunk
	full := sunk{err: errors.New("full")}
	b := both{&fine, &full}
	for _, err := range []error{b.Append(make([]events.Event, 1)), b.Tick(nil), b.Finish(nil)} {
		if !errors.Is(err, full.err) {
			t.Errorf("%v", err)
		}
	}
	if fine.calls != 3 || full.calls != 3 {
		t.Errorf("%d and %d calls", fine.calls, full.calls)
	}
}
