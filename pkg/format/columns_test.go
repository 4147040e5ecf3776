// SPDX-License-Identifier: Apache-2.0

package format

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// contract is the order that users of CSV rely on; only append within reason.
const contract = "time event family laddr lport raddr rport state conn cookie netns netns_name inode uid user cgroup " +
	"unit container pod pid comm sharers orphan kind phase flags seq end_seq len segs attempt backoff rto_ms next_rto_ms srtt_ms rttvar_ms cwnd " +
	"ssthresh ca_state total_retrans data_segs_out dsack_dups gap gives_up_in_ms user_timeout_ms accept_queue accept_queue_max error direction reason why trigger_flags " +
	"trigger_seq trigger_ack trigger_timestamps trigger_ttl old_state new_state unacked_ms unacked_retrans count of"

func TestColumns(t *testing.T) {
	var names []string
	seen := map[string]bool{}
	for _, c := range Columns() {
		names = append(names, c.Name)
		if got, ok := Lookup(c.Name); !ok || got.Title != c.Title {
			t.Errorf("Lookup(%q) = %q, %v", c.Name, got.Title, ok)
		}
	}
	if diff := cmp.Diff(strings.Fields(contract), names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for _, c := range slices.Concat(Columns(), Composites()) {
		if c.Title == "" || c.Doc == "" || c.Type.String() == "" || c.on == 0 || (c.value == nil) == (c.cell == nil) {
			t.Errorf("%s: incomplete: %+v", c.Name, c)
		}
		if strings.ContainsAny(c.Title, " \t") || strings.ContainsAny(c.Doc, "\n") {
			t.Errorf("%s: title %q, doc %q", c.Name, c.Title, c.Doc)
		}
		if strings.HasSuffix(c.Name, "_ms") != (c.Type == Float) {
			t.Errorf("%s is of type %s", c.Name, c.Type)
		}
		if seen[c.Name] {
			t.Errorf("%s is declared twice", c.Name)
		}
		seen[c.Name] = true
	}
	for _, c := range Composites() {
		if _, ok := Lookup(c.Name); ok {
			t.Errorf("Lookup finds the composite %s", c.Name)
		}
		if c.Value(aReset()).Present() {
			t.Errorf("the composite %s has a value", c.Name)
		}
	}
	Columns()[0].Name = "changed"
	if _, ok := Lookup("time"); !ok {
		t.Error("Columns gives the declaration itself away")
	}
}

// TestTypes holds each column to its declared type, with events that have it.
func TestTypes(t *testing.T) {
	present := map[string]bool{}
	for _, e := range append(all(), aLoss()) {
		for _, c := range Columns() {
			v := c.Value(e)
			if !v.Present() {
				if c.concerns(e.Type) {
					t.Errorf("%s: the full %s event lacks it", c.Name, e.Type)
				}
				continue
			}
			present[c.Name] = true
			_, isInt := v.Int()
			_, isFloat := v.Float()
			_, isBool := v.Bool()
			_, isText := v.Text()
			_, isInts := v.Ints()
			got := [...]bool{isInt, isFloat, isBool, isText, isInts}
			want := map[Type][5]bool{
				String: {3: true}, Hex: {3: true}, Time: {3: true},
				Int: {0: true, 1: true}, Float: {1: true}, Bool: {2: true}, Ints: {4: true},
			}[c.Type]
			if got != want {
				t.Errorf("%s of %s: int, float, bool, text, ints = %v, want %v for %s", c.Name, e.Type, got, want, c.Type)
			}
		}
	}
	for _, c := range Columns() {
		if !present[c.Name] {
			t.Errorf("%s: no event has it", c.Name)
		}
	}
	var none Value
	if _, ok := none.Int(); ok {
		t.Error("an absent value is an int")
	}
	if _, ok := none.Float(); ok {
		t.Error("an absent value is a float")
	}
	if _, ok := none.Bool(); ok {
		t.Error("an absent value is a bool")
	}
	if _, ok := none.Text(); ok {
		t.Error("an absent value is a text")
	}
	if _, ok := none.Ints(); ok {
		t.Error("an absent value is a list")
	}
}

func text(e *events.Event, column string) string {
	c, ok := Lookup(column)
	if !ok {
		return "no column " + column
	}
	s, ok := c.Value(e).Text()
	if !ok {
		return "absent"
	}
	return s
}

func TestText(t *testing.T) {
	e := aRetransmit()
	e.Comm = comm("\xff\n")
	for column, want := range map[string]string{
		"time":   "2026-03-14T13:09:26.535897932Z",
		"event":  "retransmit",
		"raddr":  "192.0.2.7",
		"state":  "ESTABLISHED",
		"conn":   "fedcba9876543210",
		"cookie": "1f",
		"comm":   "\xff\n",
		"user":   "root",
		"flags":  "PSH|ACK",
		"error":  "EBUSY",
		"pid":    "absent",
		"orphan": "absent",
		"why":    "absent",
	} {
		if got := text(e, column); got != want {
			t.Errorf("%s = %q, want %q", column, got, want)
		}
	}
	s := text(e, "comm")
	e.Comm = comm("other")
	if s != "\xff\n" {
		t.Errorf("a text changed with its event, to %q", s)
	}
	e.Error = 4000
	if got := text(e, "error"); got != "errno 4000" {
		t.Errorf("an error without a name is %q", got)
	}
	e.Flags = 0
	if got := text(e, "flags"); got != "none" {
		t.Errorf("no flags are %q", got)
	}
	e.Flags = 1<<9 - 1
	if got := text(e, "flags"); got != "FIN|SYN|RST|PSH|ACK|URG|ECE|CWR|AE" {
		t.Errorf("all flags are %q", got)
	}
}

func TestTimestamps(t *testing.T) {
	for _, ns := range []int64{1, -1, 1e9, 951827696123456789, at, 1<<63 - 1} {
		e := events.Event{Type: events.Reset, Time: ns}
		want := time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000000000Z")
		if got := text(&e, "time"); got != want {
			t.Errorf("time %d = %s, want %s", ns, got, want)
		}
	}
}

func TestFloat(t *testing.T) {
	c, _ := Lookup("rto_ms")
	for d, want := range map[time.Duration]string{
		0:                        "0",
		1:                        "0.000001",
		47 * time.Microsecond:    "0.047",
		204 * time.Millisecond:   "204",
		1024500000:               "1024.5",
		-1500000:                 "-1.5",
		math.MaxInt64:            "9223372036854.775807",
		100*time.Hour + 10*1000:  "360000000.01",
		120 * time.Second:        "120000",
		time.Second + 10*1000000: "1010",
	} {
		e := events.Event{Type: events.Retransmit, Known: events.HasRTO, RTO: d}
		v := c.Value(&e)
		if got := string(v.appendPlain(nil)); got != want {
			t.Errorf("%d ns = %s, want %s", d, got, want)
		}
		if f, _ := v.Float(); f != float64(d)/1e6 {
			t.Errorf("%d ns = %g ms", d, f)
		}
	}
}

// TestZerosThatAreKnown: a presence bit makes a zero a fact.
func TestZerosThatAreKnown(t *testing.T) {
	for column, e := range map[string]events.Event{
		"uid":                {Type: events.Reset, Known: events.HasUID},
		"orphan":             {Type: events.Reset, Known: events.HasOrphan},
		"flags":              {Type: events.Retransmit, Known: events.HasFlags},
		"seq":                {Type: events.Retransmit, Known: events.HasSeq},
		"end_seq":            {Type: events.Retransmit, Known: events.HasSeq},
		"len":                {Type: events.Retransmit, Known: events.HasSeq},
		"segs":               {Type: events.Retransmit, Known: events.HasSeq},
		"backoff":            {Type: events.Retransmit, Known: events.HasBackoff},
		"rto_ms":             {Type: events.Retransmit, Known: events.HasRTO},
		"next_rto_ms":        {Type: events.Retransmit, Known: events.HasNextRTO},
		"srtt_ms":            {Type: events.Retransmit, Known: events.HasSRTT},
		"rttvar_ms":          {Type: events.Retransmit, Known: events.HasSRTT},
		"cwnd":               {Type: events.Retransmit, Known: events.HasCwnd},
		"ssthresh":           {Type: events.Retransmit, Known: events.HasSsthresh},
		"ca_state":           {Type: events.Retransmit, Known: events.HasCAState},
		"total_retrans":      {Type: events.Retransmit, Known: events.HasTotals},
		"data_segs_out":      {Type: events.Retransmit, Known: events.HasTotals},
		"dsack_dups":         {Type: events.Retransmit, Known: events.HasTotals},
		"gives_up_in_ms":     {Type: events.Retransmit, Known: events.HasGivesUp},
		"accept_queue":       {Type: events.Retransmit, Known: events.HasAcceptQueue},
		"accept_queue_max":   {Type: events.Retransmit, Known: events.HasAcceptQueue},
		"trigger_flags":      {Type: events.Reset, Known: events.HasTrigger},
		"trigger_seq":        {Type: events.Reset, Known: events.HasTrigger},
		"trigger_ack":        {Type: events.Reset, Known: events.HasTrigger},
		"trigger_timestamps": {Type: events.Reset, Known: events.HasTrigger},
		"trigger_ttl":        {Type: events.Reset, Known: events.HasTTL},
		"unacked_ms":         {Type: events.StateChange, Known: events.HasUnacked},
	} {
		c, ok := Lookup(column)
		if !ok || !c.Value(&e).Present() {
			t.Errorf("%s is absent though known", column)
		}
		e.Known = ^e.Known
		if c.Value(&e).Present() {
			t.Errorf("%s is present though only all the others are known", column)
		}
	}
}

func TestAbsent(t *testing.T) {
	e := aRetransmit()
	e.Ssthresh = infiniteSsthresh
	e.LAddr = netip.Addr{}
	e.State = 200
	e.CAState = 200
	for _, column := range []string{"ssthresh", "laddr", "state", "ca_state", "direction", "old_state", "count"} {
		c, ok := Lookup(column)
		if !ok || c.Value(e).Present() {
			t.Errorf("%s is present", column)
		}
	}
}

func TestStateOfAChangeIsTheNewOne(t *testing.T) {
	e := &events.Event{Type: events.StateChange, OldState: events.SynSent, NewState: events.Established}
	if got := text(e, "state"); got != "ESTABLISHED" {
		t.Errorf("state = %s", got)
	}
}
