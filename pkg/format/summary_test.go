// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// audited judges what the kernel counted; tests change what is else.
func audited(netns uint32, counter string, kernel, traced, bracket uint64) events.Audit {
	return events.Audit{
		NetNS: netns, Counter: counter, Kernel: kernel, Traced: traced, Bracket: bracket,
		Verdict: events.Judge(kernel, traced, bracket),
	}
}

func notAudited(netns uint32, counter, why string) events.Audit {
	return events.Audit{NetNS: netns, Counter: counter, Traced: 3, Verdict: events.Unchecked, Note: why}
}

func TestAuditText(t *testing.T) {
	complete := []events.Audit{
		audited(1, "RetransSegs", 8000, 8000, 0), audited(1, "TCPSynRetrans", 0, 0, 0),
		audited(1, "TCPRetransFail", 2, 2, 0), audited(1, "OutRsts", 12, 12, 0),
		audited(2, "RetransSegs", 253, 253, 0), audited(2, "TCPSynRetrans", 7, 7, 0),
		audited(2, "OutRsts", 0, 0, 0), audited(3, "RetransSegs", 0, 0, 0),
	}
	const counted = "audit: the kernel counted 8253 retransmitted segments (7 SYNs and SYN-ACKs, 2 failures) and 12 resets in 3 namespaces"
	var many []events.Audit
	for n := range uint32(20) {
		many = append(many, notAudited(100+n, "RetransSegs", "gone"), notAudited(100+n, "OutRsts", "gone"))
	}
	for _, tt := range []struct {
		name string
		s    events.Summary
		want string
	}{
		{"none was made", events.Summary{}, ""},
		{"all traced", events.Summary{Audit: complete}, counted + "; all were traced"},
		{"what was skipped did not count", events.Summary{Audit: complete, Skipped: 3}, counted + "; all were traced; " +
			"up to 3 events are missing that the kernel does not count (it skipped 3 runs of BPF programs, each in the middle of another event)"},
		{"most are not listed", events.Summary{Audit: complete, Checked: 40}, strings.Replace(counted, "3 namespaces", "40 namespaces", 1) + "; all were traced"},
		{"none is listed", events.Summary{Audit: []events.Audit{}, Checked: 1}, "audit: the kernel counted nothing in 1 namespace; none were traced"},
		{"idle", events.Summary{Audit: []events.Audit{audited(1, "RetransSegs", 0, 0, 0), audited(1, "OutRsts", 0, 0, 0)}},
			"audit: the kernel counted no retransmitted segments and no resets in 1 namespace; none were traced"},
		{"one of each", events.Summary{Audit: []events.Audit{audited(1, "RetransSegs", 1, 1, 0),
			audited(1, "TCPSynRetrans", 1, 1, 0), audited(1, "TCPRetransFail", 1, 1, 0), audited(1, "OutRsts", 1, 1, 0)}},
			"audit: the kernel counted 1 retransmitted segment (1 SYN or SYN-ACK, 1 failure) and 1 reset in 1 namespace; all were traced"},
		{"resets alone", events.Summary{Audit: []events.Audit{audited(1, "OutRsts", 9, 9, 0)}},
			"audit: the kernel counted 9 resets in 1 namespace; all were traced"},
		{"another counter", events.Summary{Audit: []events.Audit{audited(1, "OutRsts", 0, 0, 0), audited(1, "Estab\nResets", 2, 2, 0)}},
			`audit: the kernel counted no resets and 2 Estab\nResets in 1 namespace; all were traced`},
		{"busy", events.Summary{Audit: []events.Audit{audited(1, "RetransSegs", 105, 100, 14), audited(1, "TCPSynRetrans", 1, 1, 9)}},
			"audit: the kernel counted 105 retransmitted segments (1 SYN or SYN-ACK) in 1 namespace; all were traced, " +
				"give or take 14 that came while the counters were read"},
		{"not delivered", events.Summary{Audit: append(slices.Clone(complete), audited(4, "RetransSegs", 30, 12, 0))},
			"audit: the kernel counted 8283 retransmitted segments (7 SYNs and SYN-ACKs, 2 failures) and 12 resets in 4 namespaces; " +
				"not traced: 18 retransmitted segments, which the kernel did not deliver to BPF programs"},
		{"skipped", events.Summary{Skipped: 5, SkippedCounting: 5, Audit: []events.Audit{
			audited(1, "RetransSegs", 12, 10, 0), audited(1, "TCPSynRetrans", 2, 1, 0), audited(1, "OutRsts", 6, 3, 0)}},
			"audit: the kernel counted 12 retransmitted segments (2 SYNs and SYN-ACKs) and 6 resets in 1 namespace; " +
				"not traced: 2 retransmitted segments (1 SYN or SYN-ACK) and 3 resets, which the kernel skipped " +
				"(5 runs of BPF programs, each in the middle of another event)"},
		{"both", events.Summary{Skipped: 1, SkippedCounting: 1, Audit: []events.Audit{audited(1, "OutRsts", 26, 3, 0)}},
			"audit: the kernel counted 26 resets in 1 namespace; not traced: 23 resets, which the kernel skipped " +
				"(1 run of BPF programs, each in the middle of another event) or did not deliver to them"},
		{"skipped elsewhere", events.Summary{Skipped: 4, SkippedCounting: 3, Audit: []events.Audit{audited(1, "OutRsts", 6, 3, 0)}},
			"audit: the kernel counted 6 resets in 1 namespace; not traced: 3 resets, which the kernel skipped " +
				"(3 runs of BPF programs, each in the middle of another event); up to 1 event is missing that the kernel does not count " +
				"(it skipped 1 run of BPF programs, each in the middle of another event)"},
		{"lost later", events.Summary{Lost: 5, Audit: complete}, counted + "; all were traced; 5 traced events were lost on the way to the output"},
		{"no room", events.Summary{Audit: append([]events.Audit{notAudited(0, "OutRsts", "more")}, complete...)},
			counted + "; all were traced; not checked: others (more)"},
		{"a shortfall beyond the bracket", events.Summary{Audit: []events.Audit{audited(1, "OutRsts", 26, 3, 20)}},
			"audit: the kernel counted 26 resets in 1 namespace; not traced: at least 3 resets, which the kernel " +
				"did not deliver to BPF programs; 20 came while the counters were read"},
		{"only a part is missing", events.Summary{Audit: []events.Audit{audited(1, "RetransSegs", 5, 5, 0), audited(1, "TCPSynRetrans", 2, 1, 0)}},
			"audit: the kernel counted 5 retransmitted segments (2 SYNs and SYN-ACKs) in 1 namespace; " +
				"not traced: 1 SYN or SYN-ACK, which the kernel did not deliver to BPF programs"},
		{"too many", events.Summary{Audit: []events.Audit{audited(1, "OutRsts", 3, 5, 0)}},
			"audit: the kernel counted 3 resets in 1 namespace; traced but not counted: 2 resets"},
		{"missing here, too many there", events.Summary{Audit: []events.Audit{audited(1, "OutRsts", 3, 5, 0), audited(2, "OutRsts", 4, 3, 0)}},
			"audit: the kernel counted 7 resets in 2 namespaces; not traced: 1 reset, which the kernel " +
				"did not deliver to BPF programs; traced but not counted: 2 resets"},
		{"some not checked", events.Summary{Audit: append([]events.Audit{
			notAudited(4026532281, "RetransSegs", "gone"), notAudited(4026532281, "OutRsts", "gone"),
			notAudited(4026532300, "OutRsts", "no reading from its start"), notAudited(5, "OutRsts", "")}, complete...)},
			counted + "; all were traced; not checked: 4026532281 (gone), 4026532300 (no reading from its start), 5"},
		{"a part not checked", events.Summary{Audit: append([]events.Audit{notAudited(3, "OutRsts", "unreadable")}, complete...)},
			counted + "; all were traced; not checked: OutRsts of 3 (unreadable)"},
		{"many not checked", events.Summary{Audit: append(slices.Clone(complete), many...)},
			counted + "; all were traced; not checked: 100 (gone), 101 (gone), 102 (gone), 103 (gone) and 16 more"},
		{"nothing checked", events.Summary{Audit: many[:2]}, "audit: nothing could be checked: 100 (gone)"},
		{"nothing to check", events.Summary{Audit: []events.Audit{}}, "audit: nothing could be checked"},
		{"a hostile note", events.Summary{Audit: []events.Audit{notAudited(1, "OutRsts", "\x1b]0;x\n")}},
			`audit: nothing could be checked: 1 (\x1b]0;x\n)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := AuditText(&tt.s)
			if got != tt.want {
				t.Errorf("\n%s, want\n%s", got, tt.want)
			}
			if strings.ContainsFunc(got, func(r rune) bool { return !shown(r) }) || !utf8.ValidString(got) {
				t.Errorf("%q is not for a terminal", got)
			}
		})
	}
}

func TestAuditJSON(t *testing.T) {
	s := &events.Summary{Events: 7, Skipped: 2, SkippedCounting: 1, Checked: 9, Audit: []events.Audit{
		audited(4026531840, "RetransSegs", 7, 7, 0), audited(4026531840, "TCPSynRetrans", 5, 4, 0),
		audited(4026531840, "OutRsts", 3, 5, 0), audited(2, "OutRsts", 9, 5, 6), notAudited(3, "OutRsts", "gone \"\x1b"), notAudited(0, "OutRsts", ""),
	}, Counters: []events.Counter{{NetNS: 7, Counter: "ListenOverflows", Rise: 3}, {NetNS: 7, Counter: "\"", Rise: 1}}}
	got := string(mustNew(t, Options{Format: JSON}).AppendSummary(nil, s))
	want := `{"event":"summary","events":7,"filtered":0,"merged":0,"lost":0,"by_kind":{},"seconds":0,"skipped":2,"skipped_counting":1,"audited_netns":9,"audit":[` +
		`{"netns":4026531840,"counter":"RetransSegs","kernel":7,"traced":7,"bracket":0,"verdict":"exact"},` +
		`{"netns":4026531840,"counter":"TCPSynRetrans","kernel":5,"traced":4,"bracket":0,"verdict":"missing"},` +
		`{"netns":4026531840,"counter":"OutRsts","kernel":3,"traced":5,"bracket":0,"verdict":"extra"},` +
		`{"netns":2,"counter":"OutRsts","kernel":9,"traced":5,"bracket":6,"verdict":"within"},` +
		`{"netns":3,"counter":"OutRsts","traced":3,"bracket":0,"verdict":"unchecked","note":"gone \"\u001b"},` +
		`{"counter":"OutRsts","traced":3,"bracket":0,"verdict":"unchecked"}],` +
		`"counters":[{"netns":7,"counter":"ListenOverflows","rise":3},{"netns":7,"counter":"\"","rise":1}]}` + "\n"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if !json.Valid([]byte(got)) {
		t.Error("not JSON")
	}
	for n := range uint32(3000) {
		s.Audit = append(s.Audit, audited(n, "OutRsts", 1, 1, 0))
	}
	var back struct{ Audit []map[string]any }
	if err := json.Unmarshal(mustNew(t, Options{Format: JSON}).AppendSummary(nil, s), &back); err != nil || len(back.Audit) != 3006 {
		t.Errorf("%d of 3006: %v", len(back.Audit), err)
	}
}

// TestSharers: a list in each format.
func TestSharers(t *testing.T) {
	names := []string{"comm", "sharers", "pid"}
	for _, list := range [][]uint32{{812, 813}, {1, 22, 4194304}} {
		e := aRetransmit()
		e.Sharers = list
		text := strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ","), "[]")
		for format, want := range map[string]string{
			Table: "nginx           " + text + strings.Repeat(" ", max(1, 12-len(text))) + "   4711\n",
			JSON:  `{"comm":"nginx","sharers":[` + text + `],"pid":4711}` + "\n",
			CSV:   `nginx,"` + text + `",4711` + "\n",
		} {
			if got := lines(t, Options{Format: format, Columns: names, NoHeader: true}, e); got != want {
				t.Errorf("%s:\n%swant\n%s", format, got, want)
			}
		}
	}
	e := aRetransmit()
	e.Sharers = nil
	if got := lines(t, Options{Format: JSON, Columns: names}, e); got != `{"comm":"nginx","pid":4711}`+"\n" {
		t.Errorf("absent: %s", got)
	}
}
