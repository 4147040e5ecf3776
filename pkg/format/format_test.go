// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/csv"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tcptrace/tcptrace/pkg/events"
)

func TestNewErrors(t *testing.T) {
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{Format: "xml"}, `unknown format "xml": it is one of table, wide, json, csv`},
		{Options{Columns: []string{"rto"}}, `unknown column "rto": did you mean rto_ms or next_rto_ms?`},
		{Options{Format: JSON, Columns: []string{"comn"}}, `unknown column "comn": did you mean conn or comm?`},
		{Options{Format: JSON, Columns: []string{"satte"}}, `unknown column "satte": did you mean state?`},
		{Options{Format: JSON, Columns: []string{"kinds"}}, `unknown column "kinds": did you mean kind?`},
		{Options{Format: JSON, Columns: []string{"PID"}}, `unknown column "PID": did you mean pid?`},
		{Options{Format: JSON, Columns: []string{"pid", "comm", "pid"}}, `column "pid" is named twice`},
		{Options{Format: JSON, Columns: []string{"local"}}, `column "local" is for tables only: laddr and lport`},
		{Options{Format: CSV, Columns: []string{"detail"}}, `column "detail" is for tables only: `},
		{Options{Format: CSV, Columns: []string{"zzz"}}, `unknown column "zzz": it is one of time, event, family, `},
		{Options{Columns: []string{""}}, `unknown column "": it is one of time, `},
		{Options{Columns: []string{"a\x1b["}}, `unknown column "a\x1b[": it is one of time, `},
		{Options{Columns: []string{"detal"}}, `unknown column "detal": did you mean detail?`},
	} {
		p, err := New(test.o)
		if err == nil || p != nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("New(%+v): %v, want %s", test.o, err, test.want)
		}
	}
	if _, err := New(Options{Format: Wide, Columns: []string{"local", "remote", "laddr", "detail"}}); err != nil {
		t.Error(err)
	}
}

// TestEverySet makes sure that the choices of columns name columns.
func TestEverySet(t *testing.T) {
	for _, format := range append(Formats(), "") {
		for on := range 1 << (events.Lost + 1) {
			var list []events.Type
			for typ := range events.Lost + 1 {
				if on>>typ&1 != 0 {
					list = append(list, typ)
				}
			}
			if _, err := New(Options{Format: format, Types: list}); err != nil {
				t.Errorf("%q %v: %v", format, list, err)
			}
		}
	}
}

// TestNothingInvented prints events of which nothing is known.
func TestNothingInvented(t *testing.T) {
	for _, typ := range []events.Type{events.Retransmit, events.Reset, events.StateChange, events.Lost} {
		e := &events.Event{Type: typ}
		if got, want := lines(t, Options{Format: JSON}, e), `{"event":"`+typ.String()+`"}`+"\n"; got != want {
			t.Errorf("JSON: %swant %s", got, want)
		}
		want := "," + typ.String() + strings.Repeat(",", len(columns)-2) + "\n"
		if got := lines(t, Options{Format: CSV, NoHeader: true}, e); got != want {
			t.Errorf("CSV: %swant %s", got, want)
		}
		if typ == events.Lost {
			continue
		}
		for _, format := range []string{Table, Wide} {
			got := strings.Fields(lines(t, Options{Format: format, Types: []events.Type{typ}, NoHeader: true}, e))
			for _, cell := range got {
				if cell != "-" {
					t.Errorf("%s of %s has a cell %q", format, typ, cell)
				}
			}
			if want := len(tableSet(format, []events.Type{typ})); len(got) != want {
				t.Errorf("%s of %s has %d cells, want %d", format, typ, len(got), want)
			}
		}
	}
	for _, format := range Formats() { // numbers without a meaning
		for _, typ := range []events.Type{0, 5, 31, 32, 255} {
			got := lines(t, Options{Format: format}, &events.Event{Type: typ, Kind: 200, Direction: 9})
			if !strings.HasSuffix(got, "\n") || strings.ContainsAny(got, "%!") {
				t.Errorf("%s of type %d: %q", format, typ, got)
			}
		}
	}
}

// TestHostileNames: whatever others choose, a line is a line, shows nothing
// but what it says, and is told from others.
func TestHostileNames(t *testing.T) {
	for _, format := range Formats() {
		seen := map[string]string{}
		for _, bad := range hostile {
			for _, typ := range all() {
				e := typ
				e.Comm = comm(bad)
				e.User, e.Cgroup, e.NetNSName = bad, bad, bad
				if e.Type == events.Reset {
					e.Reason, e.Why = bad, bad
				}
				columns := []string{"event", "user", "cgroup", "netns_name", "reason", "why", "comm"}
				if bad != "" {
					e.LAddr = netip.MustParseAddr("fe80::1").WithZone(bad)
					e.RAddr = e.LAddr
					columns = append(columns, "laddr", "raddr")
					if format == Table || format == Wide {
						columns = append(columns, "local", "remote")
					}
				}
				p := mustNew(t, Options{Format: format, Columns: columns})
				got := string(p.AppendEvent(nil, e))
				if format == Table || format == Wide { // the last line: columns may have grown
					got = got[strings.LastIndexByte(strings.TrimSuffix(got, "\n"), '\n')+1:]
				}
				line, ended := strings.CutSuffix(got, "\n")
				if !ended || !utf8.ValidString(line) {
					t.Errorf("%s of %q: %q", format, bad, got)
				}
				for _, r := range line {
					if !shown(r) {
						t.Errorf("%s of %q has %q: %s", format, bad, r, line)
					}
				}
				if line != strings.TrimSpace(line) {
					t.Errorf("%s of %q has spaces at an end: %q", format, bad, line)
				}
				if other, ok := seen[line]; ok {
					t.Errorf("%s: %q and %q look alike: %s", format, bad, other, line)
				}
				seen[line] = bad
			}
		}
	}
}

// TestChoice: --columns chooses and orders, in every format.
func TestChoice(t *testing.T) {
	names := []string{"rto_ms", "pid", "direction", "comm"}
	for format, want := range map[string]string{
		Table: "  RTO     PID RESET    COMM\n1.02s    4711 -        nginx\n",
		Wide:  "  RTO     PID RESET    COMM\n1.02s    4711 -        nginx\n",
		JSON:  `{"rto_ms":1024.5,"pid":4711,"comm":"nginx"}` + "\n",
		CSV:   "rto_ms,pid,direction,comm\n1024.5,4711,,nginx\n",
	} {
		if got := lines(t, Options{Format: format, Columns: names}, aRetransmit()); got != want {
			t.Errorf("%s:\n%swant\n%s", format, got, want)
		}
	}
}

func TestLost(t *testing.T) {
	const object = `{"time":"2026-03-14T13:09:26.535897932Z","event":"lost","count":12,"of":"reset"}` + "\n"
	for _, test := range []struct {
		o     Options
		shows bool
		want  string
	}{
		{Options{Format: JSON}, true, object},
		{Options{Format: JSON, Columns: []string{"pid"}}, true, object},
		{Options{Format: CSV, Columns: []string{"event", "pid", "count"}}, true, "lost,,12\n"},
		{Options{Format: CSV, Columns: []string{"event", "pid"}}, false, ""},
		{Options{Format: CSV, Columns: []string{"count", "of"}}, false, ""},
		{Options{Format: Table}, false, ""},
		{Options{Format: Wide, Columns: []string{"event", "count"}}, false, ""},
	} {
		p := mustNew(t, test.o)
		if got := string(p.AppendEvent([]byte("before "), aLoss())); got != "before "+test.want || p.ShowsLost() != test.shows {
			t.Errorf("%+v: %q, shows %v", test.o, got, p.ShowsLost())
		}
	}
	p := mustNew(t, Options{Format: CSV})
	got := string(p.AppendEvent(nil, aLoss()))
	if !strings.HasPrefix(got, "2026-03-14T13:09:26.535897932Z,lost,,") || !strings.HasSuffix(got, ",,12,reset\n") || !p.ShowsLost() {
		t.Errorf("CSV: %s", got)
	}
}

func TestSummary(t *testing.T) {
	s := &events.Summary{
		Events: 412, Filtered: 5, Merged: 6, Lost: 7, Elapsed: 12_345_678_901,
		ByKind: []events.KindCount{{Name: "rto", Count: 3}, {Name: "fast", Count: 400}, {Name: "tlp", Count: 9}},
	}
	const object = `{"event":"summary","events":412,"filtered":5,"merged":6,"lost":7,` +
		`"by_kind":{"rto":3,"fast":400,"tlp":9},"seconds":12.345}` + "\n"
	for format, want := range map[string]string{JSON: object, CSV: "", Table: "", Wide: ""} {
		if got := string(mustNew(t, Options{Format: format}).AppendSummary([]byte("b"), s)); got != "b"+want {
			t.Errorf("%s: %s", format, got)
		}
	}
	if !json.Valid([]byte(object)) {
		t.Error("not JSON")
	}
	if got, want := SummaryText(s), "412 events (rto 3, fast 400, tlp 9) in 12.3 s; 5 filtered, 6 merged, 7 lost"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	one := &events.Summary{Events: 1}
	if got, want := SummaryText(one), "1 event in 0.0 s; 0 filtered, 0 merged, 0 lost"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	got := string(mustNew(t, Options{Format: JSON}).AppendSummary(nil, one))
	if want := `{"event":"summary","events":1,"filtered":0,"merged":0,"lost":0,"by_kind":{},"seconds":0}` + "\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestLostText(t *testing.T) {
	const rest = " here: the ring buffer was full (try a larger --buffer)"
	for want, e := range map[string]events.Event{
		"lost 12 reset events":    {Count: 12, Of: events.Reset},
		"lost 1 retransmit event": {Count: 1, Of: events.Retransmit},
		"lost 2 events":           {Count: 2},
		"lost state events":       {Of: events.StateChange},
	} {
		if got := LostText(&e); got != want+rest {
			t.Errorf("%s, want %s", got, want+rest)
		}
	}
}

func TestHeaders(t *testing.T) {
	for _, format := range Formats() {
		got := string(mustNew(t, Options{Format: format}).AppendHeader([]byte("b")))
		if lines := strings.Count(got, "\n"); (format == JSON) != (lines == 0) || !strings.HasPrefix(got, "b") {
			t.Errorf("%s: header %q", format, got)
		}
		if got := string(mustNew(t, Options{Format: format, NoHeader: true}).AppendHeader([]byte("b"))); got != "b" {
			t.Errorf("%s: %q though there should be no header", format, got)
		}
	}
	got, err := csv.NewReader(strings.NewReader(lines(t, Options{Format: CSV}))).Read()
	if err != nil || strings.Join(got, " ") != contract {
		t.Errorf("CSV header %v, %v", got, err)
	}
}
