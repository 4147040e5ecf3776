// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/explain"
	"github.com/tcptrace/tcptrace/pkg/recording"
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
	"given-up":            "stalled failed certain 1",
	"rto-floor":           "rto-floor recovered certain 1",
	"read-timeout":        "read-timeout-too-short failed certain 1",
	"read-timeout-probe":  "read-timeout-too-short failed likely 1",
	"read-timeout-rto":    "read-timeout-too-short failed certain 1",
	"synack-unanswered":   "syn-ack-unanswered recovered certain 1",
	"synack-given-up":     "syn-ack-unanswered failed certain 1",
	"accept-queue-full":   "accept-queue-full recovered certain 3",
	"accept-queue-stuck":  "accept-queue-full failed certain 3",
	"lossy":               "loss recovered certain 1",
	"bunches":             "loss recovered certain 1",
}

// explained explains events as they are.
func explained(evs []events.Event) *explain.Report {
	g := explain.New(explain.Options{})
	for i := range evs {
		g.Add(&evs[i])
	}
	return g.Report(time.Now().Add(time.Minute)) // nothing more comes of it
}

// recorded gives events back as a recording has them.
func recorded(t *testing.T, evs []events.Event) (list []events.Event) {
	t.Helper()
	var file bytes.Buffer
	w, err := recording.NewWriter(&file, recording.Info{Tool: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range evs {
		if err := w.Append(&evs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	r, err := recording.NewReader(&file, recording.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		list, err = r.Read(slices.Grow(list, 256))
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return list
}

// checkFindings wants of a situation its finding and no other, also of a
// recording of it.
func checkFindings(t *testing.T, scenario string, evs []events.Event) {
	t.Helper()
	want, known := found[scenario]
	if !known {
		t.Errorf("nobody says what explain is to find in %s", scenario)
	}
	r := explained(evs)
	var got, text []string
	for _, f := range r.Findings {
		got = append(got, fmt.Sprintf("%s %s %s %d", f.ID, f.Outcome, f.Certainty, f.Count))
	}
	for _, c := range r.Connections {
		text = append(text, fmt.Sprintf("%v > %v %s", c.Local, c.Remote, c.Outcome))
		for _, f := range c.Findings {
			text = append(text, fmt.Sprintf(" %s: %s %s", f.ID, f.Cause, f.Missing))
		}
		for _, m := range c.Timeline {
			text = append(text, fmt.Sprintf("  %+v %s", m.Offset, m.Text))
		}
	}
	t.Log(strings.Join(text, "\n"))
	slices.Sort(got)
	if strings.Join(got, ", ") != want {
		t.Errorf("found %q, want %q:\n%s", got, want, dump(evs))
	}
	if again := explained(recorded(t, evs)); !reflect.DeepEqual(again.Connections, r.Connections) {
		t.Errorf("of a recording there is\n%+v\nand live there was\n%+v", again.Connections, r.Connections)
	}
}
