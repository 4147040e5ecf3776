// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/explain"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// found is what explain makes of each situation of the lab, as its ids with
// outcome, certainty and count; none for trouble that is none.
var found = map[string]string{
	"refused":              "refused failed certain 1",
	"syn-blackhole":        "connect-timeout failed certain 1",
	"lost-synack":          "syn-ack-unanswered recovered certain 1",
	"stalled":              "stalled recovered certain 1",
	"tail-loss":            "",
	"linger0":              "linger-reset failed certain 1",
	"unread-data":          "closed-with-unread-data failed certain 1",
	"syn-timeout":          "connect-timeout failed certain 1",
	"impatient-connect":    "connect-timeout failed likely 1",
	"raced-connect":        "",
	"syn-in-fin-wait2":     "reset-sent failed certain 1",
	"lost-ack":             "syn-ack-unanswered recovered certain 1",
	"repeated-syn":         "",
	"fast-retransmit":      "loss recovered certain 1",
	"tail-loss-2":          "loss recovered certain 1",
	"shrunk-window":        "",
	"zero-window":          "",
	"window-stuck":         "closed-with-error failed certain 1",
	"fastopen-refused":     "",
	"orphan-fin":           "orphan-fin failed certain 1",
	"user-timeout":         "user-timeout failed certain 1",
	"keepalive":            "keepalive-timeout failed certain 1",
	"disconnect":           "aborted failed certain 1",
	"linger2":              "linger-reset failed certain 1",
	"listener-closed":      "aborted failed certain 1",
	"overflow":             "accept-queue-full failed certain 1",
	"half-open":            "unknown-connection failed certain 1",
	"half-open-gone":       "unknown-connection failed certain 1",
	"data-after-shutdown":  "data-after-close failed certain 1",
	"data-after-close":     "data-after-close failed certain 1",
	"time-wait":            "data-after-close failed certain 1",
	"time-wait-reuse":      "timewait-collision recovered likely 1",
	"time-wait-stuck":      "timewait-collision failed likely 1",
	"ports-exhausted":      "ports-exhausted failed certain 1",
	"mptcp":                "",
	"clean":                "",
	"port-in-time-wait":    "ports-exhausted failed certain 3",
	"port-reuse":           "", // see checkFindings
	"given-up":             "stalled failed certain 1",
	"rto-floor":            "rto-floor recovered certain 1",
	"read-timeout":         hurriedFound[0], // see checkFindings
	"read-timeout-probe":   hurriedFound[0],
	"read-timeout-rto":     hurriedFound[1],
	"synack-unanswered":    "syn-ack-unanswered recovered certain 1",
	"synack-given-up":      "syn-ack-unanswered failed certain 1",
	"accept-queue-full":    "accept-queue-full recovered certain 3",
	"accept-queue-stuck":   "accept-queue-full failed certain 3",
	"blocked output":       "send-failed failed certain 1",
	"no neighbour":         "send-failed failed certain 1",
	"queue full":           "send-failed failed certain 1",
	"rejected SYN":         "rejected-by-firewall failed certain 1",
	"rejected output":      "rejected-by-firewall failed certain 1",
	"rejected data":        "rejected-by-firewall failed certain 1",
	"path MTU":             "",
	"reordered":            "reordering recovered likely 1",
	"balancer, recovered":  "timewait-collision recovered likely 1",
	"balancer, stuck":      "timewait-collision failed likely 1",
	"balancer, more ports": "",
	"balancer, timestamps": "",
	"lossy":                "loss recovered certain 1",
	"bunches":              "loss recovered certain 1",
}

// failedUnseen is found before 6.17, where retransmissions that fail are no
// events.
const failedUnseen = "send-failed failed likely 1"

// unseenFound is the same where the kernel, or this machine, does not show what
// happened: the firewall's resets, or what could not be sent.
var unseenFound = map[string]string{
	"blocked output":  failedUnseen,
	"no neighbour":    failedUnseen,
	"queue full":      failedUnseen,
	"rejected SYN":    "refused failed likely 1",
	"rejected output": "refused failed likely 1",
	"rejected data":   "reset-by-peer failed certain 1",
}

// slowFound is what is also right, on a machine that takes its time, or where
// chance has it.
var slowFound = map[string]string{
	"lossy":        "stalled recovered certain 1", // the same segment was lost four times
	"bunches":      "stalled recovered certain 1",
	"repeated-syn": "connect-timeout failed likely 1", // given up after 50 ms or more

	"impatient-connect": "connect-timeout failed certain 1", // given up after a second
	"raced-connect":     "connect-timeout failed certain 1",
}

// hurriedFound is what is found of an application that gives up, by how many
// time-outs came before: a busy machine closes late.
var hurriedFound = [...]string{
	"read-timeout-too-short failed likely 1",
	"read-timeout-too-short failed certain 1",
	"stalled failed certain 1",
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
	if err := w.Append(evs); err != nil {
		t.Fatal(err)
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

// summary lists findings as found does.
func summary(r *explain.Report) string {
	var list []string
	for _, f := range r.Findings {
		list = append(list, fmt.Sprintf("%s %s %s %d", f.ID, f.Outcome, f.Certainty, f.Count))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// stories tells all of a report's connections.
func stories(r *explain.Report) string {
	var b strings.Builder
	for _, c := range r.Connections {
		fmt.Fprintf(&b, "%v > %v %s\n", c.Local, c.Remote, c.Outcome)
		for _, f := range c.Findings {
			fmt.Fprintf(&b, " %s: %s %s\n", f.ID, f.Cause, f.Missing)
		}
		for _, m := range c.Timeline {
			fmt.Fprintf(&b, "  %+v %s\n", m.Offset, m.Text)
		}
	}
	return b.String()
}

// playFound is [play] for trouble of which explain finds what it should. On an
// emulated machine, where timers may make more of it than was asked, the trouble
// is made again for that.
func playFound(t *testing.T, scenario string, place lab.Place, run trouble) []events.Event {
	t.Helper()
	return whole(t, allSeen, func() ([]events.Event, seen) {
		evs, s := playOnce(t, place, run)
		if s < allSeen {
			return evs, s
		}
		v := new(verdict)
		checkFindings(v, scenario, evs, recorded(t, evs))
		switch {
		case len(v.wrong) > 0:
			t.Error(strings.Join(v.wrong, "\n"))
		case len(v.other) > 0 && os.Getenv(slow) != "":
			t.Log(strings.Join(v.other, "\n"))
			return evs, otherDone
		case len(v.other) > 0:
			t.Error(strings.Join(v.other, "\n"))
		}
		return evs, s
	})
}

// checkFindings wants of a situation its finding and no other, also of a
// recording of it.
func checkFindings(t *verdict, scenario string, evs, again []events.Event) {
	want, known := found[scenario]
	// Attempts are made until one succeeds: as many as the machine is quick.
	attempts := 0
	for i := range evs {
		if e := &evs[i]; e.OldState == events.SynSent && e.NewState == events.Close && e.LPort == 0 {
			attempts++
		}
	}
	if scenario == "port-reuse" && attempts > 0 {
		want = fmt.Sprintf("ports-exhausted failed certain %d", attempts)
	}
	if strings.HasPrefix(scenario, "read-timeout") {
		timeouts := 0
		for i := range evs {
			if e := &evs[i]; e.Kind == events.KindRTO && e.State == events.Established {
				timeouts++
			}
		}
		want = hurriedFound[min(timeouts, len(hurriedFound)-1)]
	}
	switch other, differs := unseenFound[scenario]; {
	case !differs:
	case other == failedUnseen && !labtest.HasField(lab.Retransmit, "err"),
		other != failedUnseen && strings.Contains(everything.unseen, "firewall"):
		want = other
	}
	if !known {
		t.Errorf("nobody says what explain is to find in %s", scenario)
	}
	r := explained(evs)
	if got := summary(r); got != want && got != slowFound[scenario] {
		t.Differs("found %q, want %q:\n%s\n%s", got, want, stories(r), dump(evs))
	}
	if again := explained(again); !reflect.DeepEqual(again.Connections, r.Connections) {
		t.Errorf("of a recording there is\n%s\nand live there was\n%s", stories(again), stories(r))
	}
}

// seenFrom is what explain makes of situations of which it sees one end alone,
// the client's and the server's.
var seenFrom = map[string][2]string{
	"refused":            {"refused failed likely 1", "refused failed certain 1"},
	"unread-data":        {"reset-by-peer failed certain 1", "closed-with-unread-data failed certain 1"},
	"linger0":            {"linger-reset failed certain 1", "reset-by-peer failed certain 1"},
	"overflow":           {"reset-by-peer failed certain 1", "accept-queue-full failed certain 1"},
	"half-open":          {"reset-by-peer failed certain 1", "unknown-connection failed certain 1"},
	"data-after-close":   {"data-after-close failed certain 1", "reset-by-peer failed certain 1"},
	"time-wait":          {"data-after-close failed certain 1", "reset-by-peer failed certain 1"},
	"time-wait-stuck":    {"timewait-collision failed likely 1", ""},
	"lost-synack":        {"connect-timeout recovered certain 1", "syn-ack-unanswered recovered certain 1"},
	"accept-queue-stuck": {"", "accept-queue-full failed certain 3"},
	"given-up":           {"stalled failed certain 1", ""},
	"clean":              {"", ""},
}

// TestFindingsOfOneEnd has the ends of a connection on different hosts.
func TestFindingsOfOneEnd(t *testing.T) {
	for _, sc := range lab.Scenarios() {
		want, chosen := seenFrom[sc.Name]
		if !chosen {
			continue
		}
		for _, family := range families {
			t.Run(sc.Name+"/"+family.String(), func(t *testing.T) {
				t.Parallel()
				place := labtest.NewPair(t, labtest.PairOptions{}).Place(family)
				evs := play(t, place, sc.Run)
				for i, ns := range []*lab.Namespace{place.Client, place.Server} {
					own := slices.DeleteFunc(slices.Clone(evs), func(e events.Event) bool { return e.NetNS != ns.Inum() })
					r := explained(own)
					if got := summary(r); got != want[i] {
						t.Errorf("from the %v found %q, want %q:\n%s\n%s", []lab.Side{lab.Client, lab.Server}[i], got, want[i], stories(r), dump(own))
					}
				}
			})
		}
	}
}

// TestFindingsTogether has three sorts of trouble at once on 50 connections of
// several processes. It is not beside others: a child has all of their sockets
// until its exec is done.
func TestFindingsTogether(t *testing.T) {
	const refused, unread, stalled = 20, 15, 15
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			type both struct {
				evs    []events.Event
				owners map[string]int // pids of who is to be found
			}
			got := whole(t, allSeen, func() (both, seen) {
				place := loopback(t, family) // what is left in trouble stays there
				ns := place.Client
				server := hire(t, ns, "server")
				stop := everything.start(t, ns.Inum())
				hidden, err := everything.blind.Watch(func(e labtest.TraceEvent) bool { return e.Involves(place.Addr) })
				if err != nil {
					t.Fatal(err)
				}
				skipped := everything.skipped(t)
				at := netip.AddrPortFrom(place.Addr, 0)
				reader := server.do(order{Do: "listen", Addr: at})
				sleeper := server.do(order{Do: "listen", Addr: at})
				closed := server.do(order{Do: "listen", Addr: at})
				server.do(order{Do: "close", FD: closed.FD})
				to := func(a answer) netip.AddrPort { return netip.AddrPortFrom(place.Addr, a.Port) }

				var work sync.WaitGroup
				asks, sends, waits := hire(t, ns, "asks"), hire(t, ns, "sends"), hire(t, ns, "waits")
				work.Go(func() {
					for range refused {
						if r, err := asks.ask(order{Do: "connect", Addr: to(closed)}); err != nil || r.Error != "ECONNREFUSED" {
							t.Errorf("connect: %v %v", r.Error, err)
						}
					}
				})
				for range unread {
					c := sends.do(order{Do: "connect", Addr: to(reader)})
					a := server.do(order{Do: "accept", FD: reader.FD})
					sends.do(order{Do: "send", FD: c.FD, N: 100})
					server.do(order{Do: "await", FD: a.FD})
					server.do(order{Do: "close", FD: a.FD})
				}
				var hanging []int
				for range stalled {
					c := waits.do(order{Do: "connect", Addr: to(sleeper)})
					a := server.do(order{Do: "accept", FD: sleeper.FD})
					blackhole := order{Do: "blackhole", FD: a.FD, N: 255}
					if family == lab.V6 {
						blackhole.Do = "blackhole6"
					}
					server.do(blackhole)
					waits.do(order{Do: "send", FD: c.FD, N: 100})
					hanging = append(hanging, c.FD)
				}
				for _, fd := range hanging {
					waits.do(order{Do: "retransmitted", FD: fd, N: 2})
				}
				work.Wait()
				evs := stop()
				for _, a := range []*actor{asks, sends, waits, server} {
					a.end()
				}
				blind, err := hidden()
				if err != nil {
					t.Fatal(err)
				}
				b := both{evs, map[string]int{"refused": asks.pid, "closed-with-unread-data": server.pid, "stalled": waits.pid}}
				return b, unless(len(blind) > 0 || everything.skipped(t) > skipped)
			})
			g := explain.New(explain.Options{})
			for i := range got.evs {
				g.Add(&got.evs[i])
			}
			r := g.Report(time.Time{})
			want := fmt.Sprintf("closed-with-unread-data failed certain %d, refused failed certain %d, stalled pending certain %d", unread, refused, stalled)
			if s := summary(r); s != want {
				t.Errorf("found %q, want %q:\n%s", s, want, stories(r))
			}
			for _, f := range r.Findings {
				if len(f.Owners) != 1 || int(f.Owners[0].PID) != got.owners[f.ID] || f.Owners[0].Count != f.Count {
					t.Errorf("%s is of %+v, want process %d alone", f.ID, f.Owners, got.owners[f.ID])
				}
				if len(f.Peers) != 1 && f.ID != "closed-with-unread-data" {
					t.Errorf("%s: peers %+v", f.ID, f.Peers)
				}
			}
			if r.Troubled != refused+unread+stalled {
				t.Errorf("%d connections in trouble", r.Troubled)
			}
		})
	}
}

// TestHealthy: of many connections that are well there is nothing to say.
func TestHealthy(t *testing.T) {
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			place := loopback(t, family)
			ns := place.Client
			const callers, calls = 4, 100
			server := hire(t, ns, "server")
			stop := everything.start(t, ns.Inum())
			listener := server.do(order{Do: "listen", Addr: netip.AddrPortFrom(place.Addr, 0)})
			var work sync.WaitGroup
			for i := range callers {
				caller := hire(t, ns, fmt.Sprintf("caller%d", i))
				work.Go(func() {
					o := order{Do: "call", Addr: netip.AddrPortFrom(place.Addr, listener.Port), N: calls}
					if r, err := caller.ask(o); err != nil || r.Error != "" {
						t.Errorf("%v %v", r.Error, err)
					}
					caller.end()
				})
			}
			server.do(order{Do: "serve", FD: listener.FD, N: callers * calls})
			work.Wait()
			evs := stop()
			server.end()
			if n := len(evs); n < callers*calls*8 {
				t.Errorf("%d events of %d connections", n, callers*calls)
			}
			r := explained(evs)
			if got := summary(r); got != "" || r.Troubled > 0 {
				t.Errorf("found %q:\n%s", got, stories(r))
			}
		})
	}
}
