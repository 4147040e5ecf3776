// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/explain"
)

// found is what explain makes of each situation of the lab, as its ids with
// outcome, certainty and count; none for trouble that is none.
var found = map[string]string{
	"refused":             "refused failed certain 1",
	"syn-blackhole":       "connect-timeout failed certain 1",
	"lost-synack":         "syn-ack-unanswered recovered certain 1",
	"stalled":             "stalled recovered certain 1",
	"tail-loss":           "",
	"linger0":             "linger-reset failed certain 1",
	"unread-data":         "closed-with-unread-data failed certain 1",
	"syn-timeout":         "connect-timeout failed certain 1",
	"lost-ack":            "syn-ack-unanswered recovered certain 1",
	"repeated-syn":        "",
	"fast-retransmit":     "loss recovered certain 1",
	"tail-loss-2":         "loss recovered certain 1",
	"shrunk-window":       "",
	"zero-window":         "",
	"fastopen-refused":    "",
	"orphan-fin":          "orphan-fin failed certain 1",
	"user-timeout":        "user-timeout failed certain 1",
	"keepalive":           "keepalive-timeout failed certain 1",
	"disconnect":          "aborted failed certain 1",
	"linger2":             "linger-reset failed certain 1",
	"listener-closed":     "aborted failed certain 1",
	"overflow":            "accept-queue-full failed certain 1",
	"half-open":           "unknown-connection failed certain 1",
	"half-open-gone":      "unknown-connection failed certain 1",
	"data-after-shutdown": "data-after-close failed certain 1",
	"data-after-close":    "data-after-close failed certain 1",
	"time-wait":           "data-after-close failed certain 1",
	"time-wait-reuse":     "timewait-collision recovered likely 1",
	"time-wait-stuck":     "timewait-collision failed likely 1",
	"ports-exhausted":     "ports-exhausted failed certain 1",
	"mptcp":               "",
	"clean":               "",
	"lossy":               "loss recovered certain 1",
	"bunches":             "loss recovered certain 1",
}

func explained(evs []events.Event) *explain.Report {
	g := explain.New(explain.Options{})
	for i := range evs {
		g.Add(&evs[i])
	}
	return g.Report(time.Time{})
}

func checkFindings(t *testing.T, scenario string, evs []events.Event) {
	t.Helper()
	r := explained(evs)
	var got []string
	for _, f := range r.Findings {
		got = append(got, strings.TrimSpace(strings.Join([]string{f.ID, string(f.Outcome), string(f.Certainty), itoa(f.Count)}, " ")))
	}
	slices.Sort(got)
	if want := found[scenario]; strings.Join(got, ", ") != want {
		t.Errorf("found %q, want %q:\n%s", got, want, dump(evs))
	}
	for _, c := range r.Connections {
		for _, f := range c.Findings {
			t.Logf("%s: %s [%s]", f.ID, f.Cause, f.Missing)
		}
		for _, m := range c.Timeline {
			t.Logf("  %+v %s", m.Offset, m.Text)
		}
	}
}

func itoa(n int) string { return string(rune('0' + n)) }
