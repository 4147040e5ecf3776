// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/format"
)

var update = flag.Bool("update", false, "write what is rendered to testdata")

var start = time.Date(2026, 1, 31, 14, 2, 11, 123_456_789, time.UTC)

func after(d time.Duration) time.Time { return start.Add(d) }

// made is a report with all that one may have.
func made() *Report {
	nginx := Owner{PID: 4711, Comm: "nginx", UID: 33, HasUID: true, User: "www-data", Cgroup: "/system.slice/nginx.service", Unit: "nginx.service", NetNS: 4026531840}
	curl := Owner{
		PID: 815, Comm: "curl", UID: 1000, HasUID: true, Cgroup: "/kubepods/pod7/0123456789abcdef0123456789abcdef", Container: "0123456789abcdef0123456789abcdef", Pod: "7",
		NetNS: 4026532177, NetNSName: "blue",
	}
	server := netip.MustParseAddr("2001:db8::5")
	local := netip.MustParseAddrPort("10.0.0.1:40000")
	return &Report{
		Start: start, End: after(5*time.Minute + 12*time.Second), Events: 8123, Lost: 12, Troubled: 52,
		Outcomes: map[Outcome]int{Failed: 11, Pending: 1, Recovered: 40},
		Findings: []*Finding{
			{
				ID: "connect-timeout", Title: "nobody answered a SYN in time", Outcome: Failed, Outcomes: map[Outcome]int{Failed: 11, Pending: 1}, Certainty: Likely, Count: 12,
				First: start, Last: after(5 * time.Minute),
				Peers: []Peer{{Addr: server, Port: 443, Count: 8}, {Addr: local.Addr(), Port: 80, Count: 2}, {Port: 53, Count: 1}}, MorePeers: 1,
				Owners: []Tally{{nginx, 8}, {curl, 3}, {Owner{NetNS: 4026532178}, 1}}, MoreOwners: 2,
				Cause: "5 SYNs to [2001:db8::5]:443 went unanswered, sent at 0, 1, 3, 7 and 15 s; the application gave up after 15.2 s",
				Evidence: []Evidence{
					{after(time.Second), 0x40000016c0288, "SYN again (1), unanswered for 1 s; next in 2 s, gives up in 2 min"},
					{after(15200 * time.Millisecond), 0x40000016c0288, "SYN_SENT -> CLOSE"},
				},
				Settings: []events.Setting{{Name: "net.ipv4.tcp_syn_retries", Value: "6 or 3"}, {Name: "net.ipv4.ip_local_port_range", Value: "32768 60999"}},
				Counters: []events.Counter{{NetNS: 4026532177, Counter: "ListenOverflows", Rise: 12}},
				Missing:  []string{"12 events of this time were lost"},
				Advice:   []string{"ss -tan dst PEER | awk '{print $1}' shows what holds them.", "raise net.ipv4.tcp_syn_retries, see https://example.org/x."},
			},
			{
				ID: "refused", Title: "nothing listens on the port", Outcomes: map[Outcome]int{"": 1}, Certainty: Certain, Count: 1,
				First: after(time.Minute), Last: after(time.Minute), Peers: []Peer{{Addr: local.Addr(), Local: 8080, Count: 1}}, Owners: []Tally{{Owner{}, 1}},
				Cause:    "nothing listens on 10.0.0.1:8080",
				Evidence: []Evidence{{after(time.Minute), 0, "reset sent: nothing listens on this port (SYN, with timestamps) [NO_SOCKET]"}},
				Advice:   []string{"start the server."},
			},
		},
		Connections: []Connection{
			{
				Conn: 0x40000016c0288, NetNS: 4026532177, Family: 4, Local: local, Remote: netip.AddrPortFrom(server, 443), Owner: curl,
				First: start, Last: after(15200 * time.Millisecond), Outcome: Failed,
				Findings: []Story{{"connect-timeout", Failed, Certain, "5 SYNs went unanswered", "the rest"}, {ID: "loss", Outcome: Recovered, Certainty: Certain, Cause: "2 segments sent again"}},
				Timeline: []Moment{
					{Time: start, Text: "CLOSE -> SYN_SENT"},
					{Time: after(time.Second), Offset: time.Second, Text: "SYN again (1), unanswered for 1 s; next in 2 s, gives up in 2 min"},
					{Omitted: 3},
					{Time: after(15200 * time.Millisecond), Offset: 15200*time.Millisecond + 1, Text: "SYN_SENT -> CLOSE"},
				},
			},
			{First: start, Last: start},
		},
		Unlisted: 3,
		Notes:    []string{"12 events were lost: outcomes that rest on nothing more being heard are pending"},
	}
}

// renderings are all ways to write a report.
var renderings = map[string]func(*Report, *bytes.Buffer) error{
	"report.txt":  func(r *Report, b *bytes.Buffer) error { return r.WriteTable(b, view) },
	"wide.txt":    func(r *Report, b *bytes.Buffer) error { return r.WriteTable(b, View{Width: 120, Location: time.UTC}) },
	"narrow.txt":  func(r *Report, b *bytes.Buffer) error { return r.WriteTable(b, View{Width: 10, Location: time.UTC}) },
	"color.txt":   func(r *Report, b *bytes.Buffer) error { return r.WriteTable(b, View{Color: true, Location: time.UTC}) },
	"story.txt":   func(r *Report, b *bytes.Buffer) error { return r.WriteTable(b, whole) },
	"report.md":   func(r *Report, b *bytes.Buffer) error { return r.WriteMarkdown(b, view) },
	"story.md":    func(r *Report, b *bytes.Buffer) error { return r.WriteMarkdown(b, whole) },
	"report.json": func(r *Report, b *bytes.Buffer) error { return r.WriteJSON(b, &events.Summary{Events: 8123, Lost: 12}) },
}

var (
	view  = View{Location: time.UTC, Watched: "all of it with --comm 'a_b'", More: "tcptrace explain file --conn ID"}
	whole = View{Location: time.FixedZone("TST", (9*60+55)*60), Whole: true, NoHeader: true} // where midnight is in between
)

func TestGolden(t *testing.T) {
	for name, write := range renderings {
		var b bytes.Buffer
		if err := write(made(), &b); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s (-want +got; go test -update writes it anew):\n%s", name, diff)
		}
	}
}

// Lines keep to the width, unless a word is longer.
func TestWidth(t *testing.T) {
	for _, width := range []int{40, 60, 80, 120, 1000} {
		for _, v := range []View{{Width: width, Color: true}, {Width: width, Whole: true}} {
			var b bytes.Buffer
			if err := made().WriteTable(&b, v); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(b.String()) {
				line = strings.TrimSuffix(line, "\n")
				if visible(line) > width && strings.Contains(strings.TrimSpace(line), " ") && width > 60 {
					t.Errorf("%d columns of %d: %s", visible(line), width, line)
				}
			}
		}
	}
	var b bytes.Buffer
	tab := table{w: newWriter(&b), width: 10}
	tab.paragraph("a ", "\u4e16\u754c \u4e16\u754c x 12 ms.")
	_ = tab.w.flush()
	if want := "a \u4e16\u754c\n  \u4e16\u754c x\n  12 ms.\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", &b, want)
	}
}

// JSON that others build on.
func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := made().WriteJSON(&b, nil); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if _, there := got["summary"]; there {
		t.Error("a summary where there is none")
	}
	unknown := got["connections"].([]any)[1].(map[string]any)
	var names []string
	for name := range unknown {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"findings", "first", "last", "timeline"}; !slices.Equal(names, want) {
		t.Errorf("of an unknown connection: %v, want %v", names, want)
	}
	b.Reset()
	if err := (&Report{}).WriteJSON(&b, nil); err != nil {
		t.Fatal(err)
	}
	want := `{"events":0,"lost":0,"troubled":0,"outcomes":{"failed":0,"pending":0,"recovered":0,"unknown":0},"unlisted":0,` +
		"\n\"findings\":[],\n\"connections\":[]}\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", &b, want)
	}
}

func TestNothing(t *testing.T) {
	calm := func() *Report {
		return &Report{Start: start, End: after(90 * time.Second), Events: 2, Notes: []string{"that"}}
	}
	for want, v := range map[string]View{
		"no connection in trouble in 1 min 30 s (all of it; 2026-01-31 14:02:11 to 14:03:41 UTC; 2 events)\nnote: that\n":     {NoHeader: true},
		"no such connection in 1 min 30 s (all of it; 2026-01-31 14:02:11 to 14:03:41\nUTC; 2 events)\nnote: that\n":          {Whole: true, Width: 80},
		"## no such connection in 1 min 30 s\n\nall of it; 2026-01-31 14:02:11 to 14:03:41 UTC; 2 events\n\n*Note:* that\n\n": {Whole: true, More: "md"},
	} {
		v.Location, v.Watched = time.UTC, "all of it"
		var b bytes.Buffer
		write := calm().WriteTable
		if v.More == "md" {
			write = calm().WriteMarkdown
		}
		if err := write(&b, v); err != nil || b.String() != want {
			t.Errorf("%v\n got %swant %s", err, &b, want)
		}
	}
	var b bytes.Buffer
	if err := (&Report{}).WriteTable(&b, View{}); err != nil || b.String() != "no connection in trouble (0 events)\n" {
		t.Errorf("%v: %s", err, &b)
	}
}

// hostile texts come from processes, peers, and whoever made a recording.
var hostile = []string{
	"\x1b]0;pwned\x07\x1b[2J", "a\nb\r\n\n# c", "\u202emoc.elgoog\u2066", "\x9b31m\xff", "x\u2028y\u200b", "```\n</td>", "`` ` ```` ",
	"[click](javascript:x) ![i](//x) <script>", "| a | b |", "@everyone #1 https://evil.example www.evil.example", "**b** __b__ ~~b~~ $x$ &lt; \\`", "\u007f\t",
}

// poison puts s wherever a text may come from elsewhere.
func poison(s string) *Report {
	r := made()
	owner := func(o *Owner) {
		o.Comm, o.User, o.Cgroup, o.Unit, o.Container, o.Pod, o.NetNSName = s, s, s, s, "", s, s
	}
	for _, f := range r.Findings {
		f.Cause += " " + s
		for i := range f.Owners {
			owner(&f.Owners[i].Owner)
		}
		for i := range f.Evidence {
			f.Evidence[i].Text += s
		}
		f.Settings = append(f.Settings, events.Setting{Name: s, Value: s})
		f.Counters = append(f.Counters, events.Counter{NetNS: 1, Counter: s, Rise: 100})
		f.Missing = append(f.Missing, s)
		f.Advice = append(f.Advice, s)
	}
	for i := range r.Connections {
		c := &r.Connections[i]
		owner(&c.Owner)
		c.Owner.Container, c.Owner.Unit = "", ""
		for j := range c.Findings {
			c.Findings[j].Cause, c.Findings[j].Missing = s, s
		}
		for j := range c.Timeline {
			if c.Timeline[j].Omitted == 0 {
				c.Timeline[j].Text = s
			}
		}
	}
	r.Notes = append(r.Notes, s)
	return r
}

// Nothing that others choose moves the cursor, or adds a line.
func TestHostile(t *testing.T) {
	all := maps.Clone(renderings)
	delete(all, "color.txt")                                                                               // it has sequences of ours
	all["broad"] = func(r *Report, b *bytes.Buffer) error { return r.WriteTable(b, View{Width: 1 << 20}) } // no line breaks
	for name, write := range all {
		var harmless bytes.Buffer
		if err := write(poison("x"), &harmless); err != nil {
			t.Fatal(err)
		}
		for _, s := range hostile {
			var b bytes.Buffer
			if err := write(poison(s), &b); err != nil {
				t.Fatal(err)
			}
			for _, r := range b.String() {
				if r != '\n' && (!unicode.IsPrint(r) || unicode.Is(unicode.Cf, r)) || r == utf8.RuneError {
					t.Fatalf("%s: %q shows %q", name, s, r)
				}
			}
			if got, want := strings.Count(b.String(), "\n"), strings.Count(harmless.String(), "\n"); got != want && (name == "broad" || !strings.HasSuffix(name, ".txt")) {
				t.Errorf("%s: %q makes %d lines of %d", name, s, got, want)
			}
			if strings.HasSuffix(name, ".json") && !json.Valid(b.Bytes()) {
				t.Errorf("%q: %s", s, &b)
			}
		}
	}
}

// JSON gives back what was put in.
func TestHostileJSON(t *testing.T) {
	for _, s := range hostile {
		var b bytes.Buffer
		if err := poison(s).WriteJSON(&b, nil); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Findings []struct {
				Owners   []struct{ Comm string }
				Settings map[string]string
			}
		}
		if err := json.Unmarshal(b.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x9b", "\ufffd"), "\ufffd")
		if got.Findings[0].Owners[0].Comm != s || got.Findings[0].Settings[s] != s {
			t.Errorf("%q became %q, %q", s, got.Findings[0].Owners[0].Comm, got.Findings[0].Settings)
		}
	}
}

func TestProse(t *testing.T) {
	for text, want := range map[string]string{
		"a b, c":                           "a b, c",
		"(tcp_sack=1), so":                 "(`tcp_sack=1`), so",
		"(connect(AF_UNSPEC)), f(a_b).":    "(`connect(AF_UNSPEC)`), `f(a_b)`.",
		"user@1000.service.":               "`user@1000.service`.",
		"see https://x.example/_a_, WWW.x": "see `https://x.example/_a_`, `WWW.x`",
		"#1 @all":                          "`#1` `@all`",
		"a`b_c``d_e`":                      "``` a`b_c``d_e` ```",
		"*a* [b](c) <d> | ~ & $ \\":        `\*a\* \[b\](c) \<d\> \| \~ \& \$ \\`,
		"[::1]:80":                         `\[::1\]:80`,
	} {
		if got := prose(text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1500 * time.Millisecond:        "1.5 s",
		59400 * time.Millisecond:       "59 s",
		59500 * time.Millisecond:       "1 min",
		5*time.Minute + 12*time.Second: "5 min 12 s",
		time.Hour - time.Millisecond:   "1 h",
		3*time.Hour + 5*time.Minute:    "3 h 5 min",
		24*time.Hour - time.Second:     "1 d",
		49*time.Hour + 40*time.Minute:  "2 d 2 h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

func TestTitle(t *testing.T) {
	for _, id := range Findings() {
		if Title(id) == "" || format.Escape(id) != id {
			t.Errorf("%q has no title, or is odd", id)
		}
	}
	if Title("none") != "" {
		t.Error("a title of nothing")
	}
}

type failing struct{ n int }

var errFull = errors.New("full")

func (f *failing) Write([]byte) (int, error) { f.n++; return 0, errFull }

// The first error of the writer is told, and nothing more is written.
func TestWriteFails(t *testing.T) {
	r := made()
	for len(r.Connections) < 2000 {
		r.Connections = append(r.Connections, r.Connections[0])
	}
	for name, write := range map[string]func(*failing) error{
		"table": func(f *failing) error { return r.WriteTable(f, View{Whole: true}) }, "json": func(f *failing) error { return r.WriteJSON(f, nil) },
		"markdown": func(f *failing) error { return r.WriteMarkdown(f, View{Whole: true}) },
	} {
		var f failing
		if err := write(&f); !errors.Is(err, errFull) || f.n != 1 {
			t.Errorf("%s: %v, %d writes", name, err, f.n)
		}
	}
}
