// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// A short one: all holds but what takes longer to tell.
func TestSoak(t *testing.T) {
	r, err := Soak(t.Context(), SoakOptions{Tcptrace: build(t), Duration: 5 * time.Second, MaxSize: 4 << 20, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range r.rows {
		if strings.HasPrefix(row[2], "**") && !strings.HasPrefix(row[0], "memory of the process") && row[0] != "descriptors" {
			t.Errorf("%q", row)
		}
	}
	if t.Failed() {
		t.Log(r.Markdown())
	}
}

// What does not add up is noticed.
func TestBooks(t *testing.T) {
	const netns = 7
	reset := events.Event{Type: events.Reset, Direction: events.Sent, NetNS: netns, Family: 4}
	sent := events.Event{Type: events.Retransmit, NetNS: netns, Family: 4, Segs: 3}
	lost := events.Event{Type: events.Lost, Count: 5, Of: events.Reset}
	audit := []events.Audit{
		{NetNS: netns, Counter: "OutRsts", Kernel: 10, Traced: 7, Bracket: 1, Verdict: events.Missing},
		{NetNS: netns, Counter: "RetransSegs", Kernel: 3, Traced: 5, Verdict: events.Extra},
	}
	good := events.Summary{Events: 3, Lost: 5, Audit: audit}
	for _, tt := range []struct {
		name    string
		sum     events.Summary
		cut     int
		problem string // "" is none
	}{
		{"good", good, 0, ""},
		{"event missing", events.Summary{Events: 4, Lost: 5, Audit: audit}, 0, "the summary says 4 events and 5 lost, the file holds 3 and 5"},
		{"loss missing", events.Summary{Events: 3, Lost: 6, Audit: audit}, 0, "6 lost, the file holds 3 and 5"},
		{"no audit", events.Summary{Events: 3, Lost: 5}, 0, "no audit"},
		{"cut", good, 1, "no summary"},
		{"not checked", events.Summary{Events: 3, Lost: 5, Audit: []events.Audit{
			{NetNS: netns, Counter: "OutRsts", Verdict: events.Unchecked, Note: "gone"},
		}}, 0, "was not checked: gone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var file bytes.Buffer
			w, err := recording.NewWriter(&file, recording.Info{})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Append([]events.Event{reset, sent, lost, reset}); err != nil {
				t.Fatal(err)
			}
			if err := w.Finish(&tt.sum); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a"), file.Bytes()[:file.Len()-tt.cut], 0o600); err != nil {
				t.Fatal(err)
			}
			b := newBooks(dir, netns)
			defer b.close()
			if err := errors.Join(b.find(), b.readFinished(false)); err != nil || b.read != 0 {
				t.Errorf("%v, %d files were read that may not be finished", err, b.read)
			}
			if err := errors.Join(b.find(), b.readFinished(true)); err != nil || b.read != 1 {
				t.Fatalf("%v, %d files", err, b.read)
			}
			said := strings.Join(b.problems, "; ")
			if (tt.problem == "") != (said == "") || !strings.Contains(said, tt.problem) {
				t.Errorf("said %q", said)
			}
			if of := b.of[netns]; of.resets != 2 || of.segments != 3 {
				t.Errorf("%+v", of)
			}
			if tt.name == "good" && (b.missing != 2 || b.extra != 2 || b.of[netns].kernel["OutRsts"] != 10 || b.sum.Lost != 5) {
				t.Errorf("%d missing, %d extra, %+v", b.missing, b.extra, b.sum)
			}
		})
	}
}
