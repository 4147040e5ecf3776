// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/lab/labtest/nft"
	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/pkg/events"
)

const gone = "gone, or without a process"

// rowsOf are the rows of one namespace, by counter: not of those that had its
// number before, and are gone.
func rowsOf(audit []events.Audit, netns uint32) map[string]events.Audit {
	m := map[string]events.Audit{}
	for _, a := range audit {
		if _, ok := m[a.Counter]; a.NetNS == netns && !(ok && a.Note == gone) {
			m[a.Counter] = a
		}
	}
	return m
}

// checkAudit compares the audit of a namespace with what the kernel counted
// there, and with what the machine hid from BPF.
func checkAudit(t *verdict, sum *events.Summary, netns uint32, delta map[string]uint64, blind []labtest.TraceEvent) {
	rows := rowsOf(sum.Audit, netns)
	hidden := map[string]uint64{}
	for _, b := range blind {
		switch b.Name {
		case lab.SendReset:
			hidden["OutRsts"]++
		case lab.Retransmit, lab.RetransSYNACK:
			hidden["RetransSegs"] += 1 << 16 // a bunch of any size
			hidden["TCPSynRetrans"]++
			hidden["TCPRetransFail"] += 1 << 16
		}
	}
	for _, counter := range []string{"ListenOverflows", "TCPReqQFullDrop", "PAWSTimewait"} {
		i := slices.IndexFunc(sum.Counters, func(c events.Counter) bool { return c.NetNS == netns && c.Counter == counter })
		if rise := delta[counter]; i < 0 && rise > 0 || i >= 0 && sum.Counters[i].Rise != rise {
			t.Differs("%s rose by %d, the summary says %+v", counter, rise, sum.Counters)
		}
	}
	for counter, a := range rows {
		if a.Verdict == events.Unchecked && os.Getenv(slow) != "" {
			t.Differs("the audit says %+v", a) // the counters could not be read in time
			continue
		}
		// What failed is in one of these, where no event tells.
		width := uint64(0)
		if counter == "TCPSynRetrans" && !labtest.HasField(lab.Retransmit, "err") {
			width = delta["TCPRetransFail"]
		}
		want := events.Exact
		if width > 0 {
			want = events.Within
		}
		if missing := a.Kernel - a.Traced; hidden[counter] > 0 && missing > 0 && missing <= hidden[counter] {
			want = events.Missing
		}
		if a.Verdict != want && (a.Verdict != events.Within || want == events.Missing) {
			t.Errorf("the audit says %+v, want %v", a, want)
		}
		if a.Kernel != delta[counter] || a.Bracket != width {
			t.Differs("%s rose by %d, the audit says %+v", counter, delta[counter], a)
		}
	}
}

// TestAudit: each of the kernel's counters that a command is about is what was
// traced, though all of it is filtered. ([TestScenarios] and the tests beside it
// audit every trouble in a stream of everything.)
func TestAudit(t *testing.T) {
	scenario := func(name string) trouble {
		i := slices.IndexFunc(lab.Scenarios(), func(s lab.Scenario) bool { return s.Name == name })
		return lab.Scenarios()[i].Run
	}
	type act struct {
		name    string
		run     trouble
		counter string // that has to rise
		pair    *labtest.PairOptions
	}
	blocked := func(ctx context.Context, p lab.Place) (*lab.Facts, error) { return nft.BlockedOutput(ctx, p, 2) }
	unreachable := func(ctx context.Context, p lab.Place) (*lab.Facts, error) { return labtest.Unreachable(ctx, p, 2) }
	for _, tt := range []struct {
		typ      events.Type
		counters []string
		acts     []act
	}{
		{events.Retransmit, []string{"RetransSegs", "TCPRetransFail", "TCPSynRetrans"}, []act{
			{"segments", scenario("fast-retransmit"), "RetransSegs", nil},
			{"SYNs", scenario("syn-blackhole"), "TCPSynRetrans", nil},
			{"SYN-ACKs", scenario("lost-synack"), "TCPSynRetrans", nil},
			{"failures", blocked, "RetransSegs", &labtest.PairOptions{}},
			{"refusals", unreachable, "", &labtest.PairOptions{NoNeighbour: true}},
		}},
		{events.Reset, []string{"OutRsts"}, []act{
			{"refused", lab.Refused, "OutRsts", nil},
			{"active", lab.UnreadData, "OutRsts", nil},
			{"TIME_WAIT", scenario("time-wait"), "OutRsts", nil},
		}},
	} {
		t.Run(tt.typ.String(), func(t *testing.T) {
			untilSeen(t, func(t *testing.T) (hidden bool) {
				tr := startFiltered(t, []events.Type{tt.typ}, filter.Kernel{UIDs: []uint32{4242}, States: 1 << events.Closing})
				counters := slices.DeleteFunc(slices.Clone(tt.counters), func(c string) bool {
					return c == "TCPRetransFail" && !labtest.HasField(lab.Retransmit, "err")
				})
				for _, act := range tt.acts {
					for _, family := range families {
						place := lab.Place{}
						if act.pair != nil {
							place = labtest.NewPair(t, *act.pair).Place(family)
						} else {
							place = loopback(t, family)
						}
						hidden = audited(t, tr, place, act.run, act.name+" "+family.String(), counters, act.counter) || hidden
					}
				}
				if evs := tr.finish(t); len(evs) > 0 {
					t.Errorf("the filter let through:\n%s", dump(evs))
				}
				return hidden
			})
		})
	}
}

// audited makes a trouble, and compares what the audit says of the client's
// namespace with its counters. Of these there has to be a row, and one of them
// has to rise.
func audited(t *testing.T, tr *tracer, place lab.Place, run trouble, name string, counters []string, rises string) (hidden bool) {
	t.Helper()
	skipped, err := tr.src.Skipped()
	if err != nil {
		t.Fatal(err)
	}
	end, err := live.AuditFrom(tr.src, place.Client.Inum())
	if err != nil {
		t.Fatal(err)
	}
	unseen, err := tr.blind.Watch(func(e labtest.TraceEvent) bool { return e.Involves(place.Addr) })
	if err != nil {
		t.Fatal(err)
	}
	facts, err := run(t.Context(), place)
	if err != nil {
		if os.Getenv(slow) == "" {
			t.Fatal(err)
		}
		t.Logf("%s: %v", name, err) // its counters stay right
		return true
	}
	sum, err := end()
	if err != nil {
		t.Fatal(err)
	}
	blind, err := unseen()
	if err != nil {
		t.Fatal(err)
	}
	now, err := tr.src.Skipped()
	if err != nil {
		t.Fatal(err)
	}
	rows := rowsOf(sum.Audit, place.Client.Inum())
	v := new(verdict)
	checkAudit(v, sum, place.Client.Inum(), facts.Client, blind)
	wrong := append(v.wrong, v.other...)
	report := t.Errorf
	if now > skipped || os.Getenv(slow) != "" && len(v.wrong) == 0 {
		report = t.Logf
	}
	for _, text := range wrong {
		report("%s: %d runs of programs skipped: %s", name, now-skipped, text)
	}
	if a := rows[rises]; rises != "" && a.Kernel == 0 {
		t.Errorf("%s: nothing happened: %+v", name, a)
	}
	if got := slices.Sorted(maps.Keys(rows)); !slices.Equal(got, slices.Sorted(slices.Values(counters))) {
		t.Errorf("%s: checked %v, want %v", name, got, counters)
	}
	return len(blind) > 0 || len(wrong) > 0
}

// Only what the kernel counts can be checked.
func TestNoAudit(t *testing.T) {
	tr := start(t, []events.Type{events.StateChange})
	tr.finish(t)
	if c := tr.src.Counts(); c.Audit != nil || c.Checked != 0 {
		t.Errorf("%d checked: %+v", c.Checked, c.Audit)
	}
}

func refuseIn(t *testing.T, ns *lab.Namespace, n int) {
	t.Helper()
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := lab.Refused(t.Context(), place); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAuditComeAndGone has namespaces that are there from the start, made
// meanwhile, and gone at the end, some with the inode number of another.
func TestAuditComeAndGone(t *testing.T) { untilSeen(t, auditComeAndGone) }

func auditComeAndGone(t *testing.T) (hidden bool) {
	quiet, old := labtest.Namespace(t), labtest.Namespace(t)
	refuseIn(t, old, 3) // before: not of this stream
	brief, err := lab.NewNamespace(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closed := []*lab.Namespace{brief}
	t.Cleanup(func() {
		for _, ns := range closed {
			_ = ns.Close() // twice does nothing
		}
	})
	// Of no event: a storm of somebody else's is none of this.
	tr := startFiltered(t, []events.Type{events.Reset}, filter.Kernel{UIDs: []uint32{4242}})
	refuseIn(t, old, 2)
	refuseIn(t, brief, 1)
	if err := brief.Close(); err != nil {
		t.Fatal(err)
	}
	// The kernel gives the lowest free number: one of these often has an old one.
	for range 3 {
		ns, err := lab.NewNamespace(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		closed = append(closed, ns)
		refuseIn(t, ns, 4)
		if err := ns.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fresh := labtest.Namespace(t)
	refuseIn(t, fresh, 5)
	tr.finish(t)
	c := tr.src.Counts()
	find := func(ns *lab.Namespace, traced uint64, note string) (found bool) {
		for _, a := range c.Audit {
			found = found || a.NetNS == ns.Inum() && a.Traced == traced && a.Note == note &&
				(note == "" && a.Verdict == events.Exact && a.Kernel == traced || note != "" && a.Verdict == events.Unchecked)
		}
		return found
	}
	blind, err := tr.blind.Count(func(e labtest.TraceEvent) bool { return e.Name == lab.SendReset })
	if err != nil {
		t.Fatal(err)
	}
	if blind[lab.SendReset] > 0 || c.Skipped > 0 {
		return true
	}
	for _, tt := range []struct {
		what   string
		ns     *lab.Namespace
		traced uint64
		note   string
	}{
		{"there all the time", old, 2, ""},
		{"made meanwhile", fresh, 5, ""},
		{"gone meanwhile", brief, 1, gone},
		{"made and gone", closed[1], 4, gone},
		{"made and gone", closed[3], 4, gone},
	} {
		if !find(tt.ns, tt.traced, tt.note) {
			t.Errorf("%s: namespace %d, traced %d, note %q is not in %+v", tt.what, tt.ns.Inum(), tt.traced, tt.note, c.Audit)
		}
	}
	if rows := rowsOf(c.Audit, quiet.Inum()); len(rows) > 0 {
		t.Errorf("nothing happened, and is listed: %+v", rows)
	}
	if c.Checked < 4 { // the own, quiet, old, fresh
		t.Errorf("%d namespaces checked", c.Checked)
	}
	return false
}

// TestAuditParts: each part of a stream has an audit of its own.
func TestAuditParts(t *testing.T) {
	untilSeen(t, func(t *testing.T) (hidden bool) {
		ns := labtest.Namespace(t)
		tr := startFiltered(t, []events.Type{events.Reset}, filter.Kernel{UIDs: []uint32{4242}})
		part := func(n uint64, rows []events.Audit) {
			t.Helper()
			a := rowsOf(rows, ns.Inum())["OutRsts"]
			if blind, err := tr.blind.Count(nil); err != nil || blind[lab.SendReset] > 0 {
				hidden = true
				return
			}
			if a.Kernel != n || a.Traced != n || n > 0 && a.Verdict != events.Exact {
				t.Errorf("%d resets: %+v", n, a)
			}
		}
		for _, n := range []int{2, 0, 3} {
			refuseIn(t, ns, n)
			var sum events.Summary
			if err := tr.src.Audit(&sum); err != nil || sum.Checked < 2 { // the own one, too
				t.Fatalf("%d checked, %v", sum.Checked, err)
			}
			part(uint64(n), sum.Audit)
		}
		refuseIn(t, ns, 1)
		tr.finish(t)
		part(1, tr.src.Counts().Audit)
		return hidden
	})
}

// TestAuditForgets: namespaces that are gone don't take room for ever, and what
// took the place of one has its own counts.
func TestAuditForgets(t *testing.T) {
	untilSeen(t, func(t *testing.T) (hidden bool) {
		tr := startFiltered(t, []events.Type{events.Reset}, filter.Kernel{UIDs: []uint32{4242}})
		audit := func() map[uint32]events.Audit {
			t.Helper()
			var sum events.Summary
			if err := tr.src.Audit(&sum); err != nil {
				t.Fatal(err)
			}
			m := map[uint32]events.Audit{}
			for _, r := range sum.Audit {
				m[r.NetNS] = r
			}
			return m
		}
		free := live.FreeCounts(t, tr.src)
		gone := map[uint32]bool{}
		for range 4 {
			ns, err := lab.NewNamespace(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			refuseIn(t, ns, 1)
			gone[ns.Inum()] = true
			if err := ns.Close(); err != nil {
				t.Fatal(err)
			}
		}
		before := live.FreeCounts(t, tr.src)
		if rows := audit(); free-before < len(gone) || len(rows) < len(gone) {
			t.Errorf("%d free, then %d: %+v", free, before, rows)
		}
		refuseIn(t, labtest.Namespace(t), 1) // no CPU may have one of these for its last
		for range 3 {
			for _, r := range audit() {
				if gone[r.NetNS] && r.Note != "" {
					t.Errorf("nothing happened there any more: %+v", r)
				}
			}
		}
		// A CPU that has seen nothing since may keep one.
		if after := live.FreeCounts(t, tr.src); after < before+len(gone)-runtime.NumCPU() {
			t.Errorf("%d free after %d namespaces were gone, %d before", after, len(gone), before)
		}
		fresh := labtest.Namespace(t)
		refuseIn(t, fresh, 3)
		a := audit()[fresh.Inum()]
		if blind, err := tr.blind.Count(nil); err != nil || blind[lab.SendReset] > 0 {
			return true
		}
		if a.Kernel != 3 || a.Traced != 3 {
			t.Errorf("%+v", a)
		}
		tr.finish(t)
		return false
	})
}

// TestAuditBusy begins and ends an audit in the middle of a storm: the kernel's
// count lies in a bracket that has a width.
func TestAuditBusy(t *testing.T) {
	place := loopback(t, lab.V4)
	tr := startFiltered(t, []events.Type{events.Reset}, filter.Kernel{UIDs: []uint32{4242}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- place.Client.Storm(ctx, place.Addr, 1<<30, 2) }()
	rises := func(n uint64) { // waits until there are so many more
		t.Helper()
		before, err := place.Client.Counters()
		if err != nil {
			t.Fatal(err)
		}
		if err := lab.Until(t.Context(), func() (bool, error) {
			now, err := place.Client.Counters()
			return now["OutRsts"] >= before["OutRsts"]+n, err
		}); err != nil {
			t.Fatal(err)
		}
	}
	rises(1)
	const least = 500
	var a events.Audit
	// With one processor nothing may happen while the counts are read.
	for try := 0; try < 20 && a.Bracket == 0; try++ {
		end, err := live.AuditFrom(tr.src, place.Client.Inum())
		if err != nil {
			t.Fatal(err)
		}
		rises(least)
		sum, err := end()
		if err != nil {
			t.Fatal(err)
		}
		a = rowsOf(sum.Audit, place.Client.Inum())["OutRsts"]
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	tr.finish(t)
	blind, err := tr.blind.Count(func(e labtest.TraceEvent) bool { return e.Name == lab.SendReset })
	if err != nil {
		t.Fatal(err)
	}
	hidden := uint64(blind[lab.SendReset]) + tr.src.Counts().SkippedCounting
	if a.Kernel < least || a.Bracket == 0 || a.Kernel < a.Traced || a.Kernel > a.Traced+a.Bracket+hidden {
		t.Errorf("%+v; %d hidden from BPF", a, hidden)
	}
	if hidden == 0 && a.Verdict != events.Within {
		t.Errorf("%+v", a)
	}
}

// TestAuditFails: an audit that can't fail proves nothing.
func TestAuditFails(t *testing.T) {
	t.Run("missing", func(t *testing.T) {
		place := loopback(t, lab.V4)
		tr := start(t, []events.Type{events.Reset}, place.Client.Inum())
		refuseIn(t, place.Client, 2)
		if err := live.Detach(tr.src); err != nil {
			t.Fatal(err)
		}
		refuseIn(t, place.Client, 3)
		tr.finish(t)
		a := rowsOf(tr.src.Counts().Audit, place.Client.Inum())["OutRsts"]
		if a.Kernel != 5 || a.Traced > 2 || a.Verdict != events.Missing {
			t.Errorf("%+v", a)
		}
	})
	t.Run("extra", func(t *testing.T) {
		place := loopback(t, lab.V4)
		tr := start(t, []events.Type{events.Reset}, place.Client.Inum())
		refuseIn(t, place.Client, 3)
		if err := live.CountReset(tr.src, place.Client.Inum()); err != nil {
			t.Fatal(err)
		}
		blind, err := tr.blind.Count(func(e labtest.TraceEvent) bool { return e.Name == lab.SendReset && e.Involves(place.Addr) })
		if err != nil {
			t.Fatal(err)
		}
		tr.finish(t)
		a := rowsOf(tr.src.Counts().Audit, place.Client.Inum())["OutRsts"]
		if hidden := uint64(blind[lab.SendReset]); a.Kernel != 3 || a.Traced != 4-hidden || hidden == 0 && a.Verdict != events.Extra {
			t.Errorf("%+v; %d in the blind spot", a, hidden)
		}
	})
}

// TestGap: a retransmission that was lost is a gap on its connection, and all
// that the kernel sent again is in the events or in the gaps.
func TestGap(t *testing.T) {
	untilSeen(t, func(t *testing.T) (hidden bool) {
		place := loopback(t, lab.V4)
		blind, err := labtest.StartBlindSpot()
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := blind.Close(); err != nil {
				t.Error(err)
			}
		}()
		ctx, cancel := context.WithCancel(t.Context())
		src, err := live.Open(ctx, live.Options{
			Types: []events.Type{events.Retransmit}, Kernel: filter.Kernel{NetNS: []uint32{place.Client.Inum()}}, Buffer: 4096, Cache: kernelTypes,
		})
		if err != nil {
			t.Fatalf("%+v", err)
		}
		defer func() {
			if err := src.Close(); err != nil {
				t.Error(err)
			}
		}()
		var all []events.Event
		done := make(chan error, 1)
		read := func() {
			var err error
			for batch := make([]events.Event, 0, 256); err == nil; {
				batch, err = src.Read(ctx, batch[:0])
				all = append(all, batch...)
			}
			done <- err
		}
		facts, err := lab.Perform(t.Context(), place, func(ctx context.Context, a *lab.Act) error {
			transfer := func() error {
				const n = 4 << 20
				sent := make(chan error, 1)
				go func() { sent <- a.Client.Send(ctx, make([]byte, n)) }()
				return errors.Join(a.Server.Discard(ctx, n), <-sent)
			}
			a.Later(func() error { return place.Client.SetSegments(place.Index, 65535) })
			return lab.InTurn(
				func() error { return place.Client.SetSegments(place.Index, 1) },
				func() error { return a.Establish(ctx, lab.Set(unix.SOL_TCP, unix.TCP_MAXSEG, 1400)) },
				func() error { return a.Server.Attach(lab.DropRandom(0.1)) },
				transfer, // nobody reads: there is room for less than a hundred
				func() error { go read(); return nil },
				transfer,
				func() error { return a.Server.Detach() },
				func() error { return a.Finish(ctx) })
		})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		unseen, err := blind.Count(func(e labtest.TraceEvent) bool { return e.Involves(place.Addr) })
		if err != nil {
			t.Fatal(err)
		}
		skipped, err := src.Skipped()
		if err != nil {
			t.Fatal(err)
		}
		if unseen[lab.Retransmit] > 0 || skipped > 0 {
			return true
		}

		var lost, sum, gaps uint64
		var last events.Event
		for _, e := range all {
			if e.Type == events.Lost {
				lost += e.Count
				continue
			}
			if uint64(e.Gap) != lost && sum > 0 {
				t.Errorf("a gap of %d behind %d lost events: %s", e.Gap, lost, line(&e))
			}
			sum += uint64(e.Segs) + lost
			gaps += uint64(e.Gap)
			lost, last = 0, e
		}
		if gaps == 0 || sum != uint64(last.TotalRetrans) || sum+lost != facts.Client["RetransSegs"] {
			t.Errorf("%d segments in events and gaps, %d of them in gaps, and %d lost behind them; the connection counts %d, RetransSegs says %d",
				sum, gaps, lost, last.TotalRetrans, facts.Client["RetransSegs"])
		}
		return false
	})
}

// untilSeen repeats a test from which the machine hid an event.
func untilSeen(t *testing.T, try func(t *testing.T) (hidden bool)) {
	t.Helper()
	for i := range 5 {
		hidden := true
		if !t.Run(fmt.Sprintf("try %d", i+1), func(t *testing.T) { hidden = try(t) }) || !hidden {
			return
		}
	}
	t.Error("this machine hides events from BPF again and again")
}

// TestGapOfRequest: the count of a request's SYN-ACKs goes on in its connection,
// and there is no gap between the two.
func TestGapOfRequest(t *testing.T) {
	place := loopback(t, lab.V4)
	evs := play(t, place, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
		return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
			err := lab.InTurn(
				a.Listen,
				func() error { return a.Listener.Blackhole(true) },
				func() error { return a.Start(func(s *lab.Socket) error { return s.Blackhole(true) }) },
				func() error { return a.Listener.WaitDrops(ctx, 1) },
				func() error { return a.Listener.Blackhole(false) },
				func() error { return a.Client.WaitDrops(ctx, 1) },
				func() error { return a.Client.Blackhole(false) },
				func() error { return a.Accept(ctx) },
				func() error { return a.Client.Blackhole(true) },
				func() error { return a.Server.Send(ctx, make([]byte, 100)) },
				func() error { return a.Client.WaitDrops(ctx, 3) }, // the SYN-ACK's, the segment, and that again
				func() error { return a.Client.Blackhole(false) },
				func() error { return a.Client.Discard(ctx, 100) })
			if err != nil {
				return err
			}
			info, err := a.Server.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.Unacked == 0 })
			if err != nil {
				return err
			}
			a.Expect(1, lab.Retransmit, lab.Client, "syn")
			a.Expect(1, lab.RetransSYNACK, lab.Server, "synack")
			a.Expect(int(info.Total_retrans)-1, lab.Retransmit, lab.Server, "rto")
			return a.Finish(ctx)
		}, lab.SYNLinearTimeouts, "0")
	})
	var conn uint64 // of the request
	found := false
	for i := range evs {
		switch e := &evs[i]; e.Kind {
		case events.KindSYNACK:
			conn = e.Conn
		case events.KindRTO:
			found = found || e.Conn == conn
			if e.Gap != 0 {
				t.Errorf("a gap of %d: %s", e.Gap, line(e))
			}
		}
	}
	if !found && cookiesOf(evs)[conn] != 0 {
		t.Errorf("the request and its connection have nothing in common:\n%s", dump(evs))
	}
}
