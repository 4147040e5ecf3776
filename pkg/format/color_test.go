// SPDX-License-Identifier: Apache-2.0

package format

import (
	"regexp"
	"strings"
	"testing"

	"github.com/fatih/color"

	"github.com/tcptrace/tcptrace/pkg/events"
)

var sequence = regexp.MustCompile("\x1b\\[[0-9;]*m")

// colorful is story, and what else has a colour of its own; some lines make
// columns grow.
func colorful() []*events.Event {
	list := story()
	for kind := events.KindUnknown; kind <= events.KindTFO; kind++ {
		e := aRetransmit()
		e.Kind = kind
		list = append(list, e)
	}
	ended := aChange()
	ended.Error, ended.LAddr = 0, longestIPv6
	nothing := &events.Event{Type: events.Reset, Direction: events.Sent}
	return append(list, ended, nothing)
}

// TestColorIsNothingElse: apart from the sequences, the text is the same, and
// every line ends as it began.
func TestColorIsNothingElse(t *testing.T) {
	old := color.NoColor
	defer func() { color.NoColor = old }()
	for _, color.NoColor = range []bool{true, false} {
		for _, format := range Formats() {
			for _, types := range [][]events.Type{{events.Retransmit}, {events.Reset}, {events.StateChange}, nil} {
				plain := lines(t, Options{Format: format, Types: types}, colorful()...)
				painted := lines(t, Options{Format: format, Types: types, Color: true}, colorful()...)
				if strings.Contains(plain, "\x1b") {
					t.Errorf("%s %v has escape sequences without colour", format, types)
				}
				if stripped := sequence.ReplaceAllString(painted, ""); stripped != plain {
					t.Errorf("%s %v:\n%s\nwith colour:\n%s", format, types, plain, stripped)
				}
				if want := format == Table || format == Wide; (painted != plain) != want {
					t.Errorf("%s %v: colour is %v, want %v", format, types, painted != plain, want)
				}
				for line := range strings.Lines(painted) {
					on := false
					for _, s := range sequence.FindAllString(line, -1) {
						off := strings.HasPrefix(s, "\x1b[0") || s == "\x1b[22m"
						if off != on {
							t.Fatalf("%s %v: %s does not pair up in %q", format, types, s, line)
						}
						on = !off
					}
					if on {
						t.Errorf("%s %v: the colour runs on after %q", format, types, line)
					}
				}
			}
		}
	}
}

// TestColors: meanings that differ look different.
func TestColors(t *testing.T) {
	of := func(e *events.Event) string {
		return sequence.FindString(lines(t, Options{Columns: []string{"detail"}, NoHeader: true, Color: true}, e))
	}
	received := aReset()
	received.Direction = events.Received
	tlp := aRetransmit()
	tlp.Kind = events.KindTLP
	opened, closed, other := aChange(), aChange(), aChange()
	opened.NewState, opened.Error = events.Established, 0
	closed.Error = 0
	other.NewState, other.Error = events.FinWait1, 0
	meanings := map[string]string{
		"rto": of(aRetransmit()), "tlp": of(tlp), "sent": of(aReset()), "received": of(received),
		"established": of(opened), "closed": of(closed),
	}
	seen := map[string]string{}
	for name, s := range meanings {
		if other, ok := seen[s]; ok || s == "" {
			t.Errorf("%s has the colour %q of %s", name, s, other)
		}
		seen[s] = name
	}
	if got := of(aChange()); got != meanings["rto"] {
		t.Errorf("a connection that timed out has %q", got)
	}
	unknown := lines(t, Options{Columns: []string{"kind"}, NoHeader: true, Color: true},
		&events.Event{Type: events.Reset, Direction: events.Sent})
	if unknown != "-\n" {
		t.Errorf("what is unknown has a colour: %q", unknown)
	}
	if got := of(other); got != "" {
		t.Errorf("an ordinary change has %q", got)
	}
}
