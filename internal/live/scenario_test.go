// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// kernelTypes spares each test the decoding, which takes most of its time where
// the machine is emulated.
var kernelTypes = btf.NewCache()

// few bounds the streams of tests' own that are open at once: their maps and
// buffers would not fit into a small VM.
var few = make(chan struct{}, 3)

var allTypes = []events.Type{events.Retransmit, events.Reset, events.StateChange}

// tracer collects everything that the source gives of some namespaces.
type tracer struct {
	src    live.Source
	cancel context.CancelFunc
	done   chan struct{}
	events []events.Event
	err    error
	blind  *labtest.BlindSpot
	unseen string // what this kernel does not show
}

func start(t *testing.T, types []events.Type, inums ...uint32) *tracer {
	t.Helper()
	return startFiltered(t, types, filter.Kernel{NetNS: inums})
}

func startFiltered(t *testing.T, types []events.Type, kernel filter.Kernel) *tracer {
	t.Helper()
	blind, err := labtest.StartBlindSpot()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blind.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	tr := &tracer{cancel: cancel, done: make(chan struct{}), blind: blind}
	few <- struct{}{}
	t.Cleanup(func() { <-few })
	src, err := live.Open(ctx, live.Options{
		Types: types, Kernel: kernel, Buffer: 4 << 20, Cache: kernelTypes,
		Hooks: func(hooks []live.Hook) { tr.unseen = live.Unseen(hooks) },
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	tr.src = src
	go func() {
		defer close(tr.done)
		batch := make([]events.Event, 0, 256)
		for tr.err == nil {
			batch, tr.err = src.Read(ctx, batch[:0])
			tr.events = append(tr.events, batch...)
		}
	}()
	t.Cleanup(func() {
		tr.stop()
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// stop ends the stream and returns all of it.
func (tr *tracer) stop() []events.Event {
	tr.cancel()
	<-tr.done
	return tr.events
}

// finish is stop for a test that wants a whole stream: ended as it should, nothing lost.
func (tr *tracer) finish(t *testing.T) []events.Event {
	t.Helper()
	evs := tr.stop()
	if !errors.Is(tr.err, io.EOF) {
		t.Fatal(tr.err)
	}
	c := tr.src.Counts()
	if c.Lost != 0 {
		t.Errorf("%d events lost", c.Lost)
	}
	if got := uint64(len(evs)) + c.Filtered + c.Merged + c.Lost; got != c.Produced {
		t.Errorf("given %d + filtered %d + merged %d + lost %d is not produced %d", len(evs), c.Filtered, c.Merged, c.Lost, c.Produced)
	}
	return evs
}

// name is the tracepoint that an event comes from.
func name(e *events.Event) string {
	switch {
	case e.Type == events.StateChange:
		return lab.SetState
	case e.Kind == events.KindFirewall:
		return lab.FirewallReset
	case e.Type == events.Reset && e.Direction == events.Sent:
		return lab.SendReset
	case e.Type == events.Reset:
		return lab.ReceiveReset
	case e.Kind == events.KindSYNACK && e.State == events.NewSynRecv:
		return lab.RetransSYNACK
	}
	return lab.Retransmit
}

func line(e *events.Event) string {
	return fmt.Sprintf("%s %s %s %v:%d > %v:%d %s>%s conn %x cookie %x reason %q err %q seq %d len %d segs %d attempt %d", name(e), e.Kind, e.State,
		e.LAddr, e.LPort, e.RAddr, e.RPort, e.OldState, e.NewState, e.Conn, e.Cookie, e.Reason, e.Error.String(), e.Seq, e.Len, e.Segs, e.Attempt)
}

func dump(evs []events.Event) string {
	var b strings.Builder
	for i := range evs {
		fmt.Fprintln(&b, line(&evs[i]))
	}
	return b.String()
}

// at tells whether e happened at an end of a connection.
func at(e *events.Event, own, other netip.AddrPort) bool {
	// The local port is not known yet when the first SYN is made.
	port := e.LPort == own.Port() || e.LPort == 0 && e.NewState == events.SynSent
	return e.LAddr == own.Addr().Unmap() && port &&
		e.RAddr == other.Addr().Unmap() && e.RPort == other.Port()
}

// of tells whether e happened to the socket at one end of a connection. Where
// there is a TCP socket its cookie decides, since a 4-tuple can be used again.
func of(e *events.Event, own, other lab.End, cookies map[uint64]uint64) bool {
	known := slices.Contains(slices.Collect(maps.Values(cookies)), own.Cookie)
	if c := cookies[e.Conn]; known && c != 0 && e.State != events.NewSynRecv {
		return c == own.Cookie
	}
	return at(e, own.Addr, other.Addr)
}

// cookiesOf are the cookies in a stream, by connection: a kernel may give a
// socket its cookie late. That of an MPTCP socket is not among them: its
// subflows have their own.
func cookiesOf(evs []events.Event) map[uint64]uint64 {
	m := map[uint64]uint64{}
	for i := range evs {
		if e := &evs[i]; e.Cookie != 0 && e.Conn != 0 {
			m[e.Conn] = e.Cookie
		}
	}
	return m
}

// verdict is what the checks of one try found.
type verdict struct {
	wrong []string // events that are not what the kernel did
	other []string // events that are not those of the script
}

func (v *verdict) Errorf(format string, args ...any) {
	v.wrong = append(v.wrong, fmt.Sprintf(format, args...))
}

func (v *verdict) Differs(format string, args ...any) {
	v.other = append(v.other, fmt.Sprintf(format, args...))
}

// slow is the environment variable that, if not empty, says that this machine
// is emulated. Its timers may run out before what they wait for could come, so
// that the kernel does more than the script of a trouble says. Then the events
// still have to be what its counters say, and the trouble is made again.
const slow = "TCPTRACE_TEST_SLOW"

// shown tells whether this kernel shows an event at all: through 6.16 no
// retransmission that failed, and what the tool said it does not see.
func shown(want lab.Event, unseen string) bool {
	if want.Name == lab.FirewallReset {
		return !strings.Contains(unseen, "firewall")
	}
	return want.Err == "" || labtest.HasField(lab.Retransmit, "err")
}

// check compares a stream with what a scenario did.
func check(t *verdict, facts *lab.Facts, evs []events.Event, unseen string, blind []labtest.TraceEvent) {
	cookies := cookiesOf(evs)
	left := slices.DeleteFunc(slices.Clone(evs), func(e events.Event) bool { return e.Type == events.StateChange })
	for _, want := range facts.Events {
		own, other := facts.Conns[want.Conn].Client, facts.Conns[want.Conn].Server
		if want.Side == lab.Server {
			own, other = other, own
		}
		if want.Name == lab.ReceiveReset && slices.Contains(want.Kinds, "data_after_close") {
			continue // the kernel's false event, folded into the one that was sent
		}
		if !shown(want, unseen) {
			// The first copy leaves a neighbour's queue when its time is up
			// there, just when the second is due: then that one succeeds.
			late := want.Err == "EBUSY"
			left = slices.DeleteFunc(left, func(e events.Event) bool {
				given := late && name(&e) == want.Name && of(&e, own, other, cookies) && slices.Contains(want.Kinds, e.Kind.String())
				late = late && !given // once
				return given
			})
			continue
		}
		n, segs := 0, 0
		left = slices.DeleteFunc(left, func(e events.Event) bool {
			if name(&e) != want.Name || !of(&e, own, other, cookies) || !slices.Contains(want.Kinds, e.Kind.String()) {
				return false
			}
			n++
			segs += int(e.Segs)
			if e.Error.String() != want.Err {
				t.Errorf("error %q, want %q: %s", e.Error, want.Err, line(&e))
			}
			if want.Reason != "" && e.Reason != "" && e.Reason != want.Reason {
				t.Errorf("reason %s, want %s: %s", e.Reason, want.Reason, line(&e))
			}
			checkDecoration(t, &e, unseen)
			return true
		})
		unseen := 0
		for _, b := range blind {
			if b.Name == want.Name && b.Src.Port() == own.Addr.Port() && b.Dst.Port() == other.Addr.Port() {
				unseen++
			}
		}
		if n+unseen < want.Min || n > want.Max {
			t.Differs("%d of: %s (%d in the machine's blind spot)", n, want, unseen)
		}
	}
	if len(left) > 0 {
		t.Differs("unexpected events:\n%s", dump(left))
	}
	checkStates(t, facts, evs, blind)
	checkCloses(t, evs)
	checkOwners(t, facts, evs)
	if len(blind) == 0 {
		checkTimeouts(t, evs)
	}
}

// checkStates follows each end's socket through its states.
func checkStates(t *verdict, facts *lab.Facts, evs []events.Event, blind []labtest.TraceEvent) {
	cookies := cookiesOf(evs)
	for i, c := range facts.Conns {
		for side, ends := range map[lab.Side][2]lab.End{lab.Client: {c.Client, c.Server}, lab.Server: {c.Server, c.Client}} {
			own, other := ends[0], ends[1]
			path, conn := "", uint64(0)
			for _, e := range evs {
				if e.Type != events.StateChange || !of(&e, own, other, cookies) || e.OldState == events.Listen && e.NewState == events.Close {
					continue
				}
				if path == "" {
					path = e.OldState.String()
				}
				path += " " + e.NewState.String()
				if conn != 0 && e.Conn != conn {
					t.Errorf("connection %d, %s: conn %x became %x: %s", i, side, conn, e.Conn, line(&e))
				}
				conn = e.Conn
			}
			missing := slices.ContainsFunc(blind, func(b labtest.TraceEvent) bool { return b.Name == lab.SetState })
			// A "change" from a state to itself is none, and not shown.
			want := strings.Join(slices.Compact(strings.Fields(own.States)), " ")
			if path != want && !missing && !(want == "" && usedAgain(facts, i)) {
				t.Differs("connection %d: the %s went %q, want %q", i, side, path, want)
			}
		}
	}
}

// checkCloses wants changes that end what a connection can send to tell how it
// was, and no others.
func checkCloses(t *verdict, evs []events.Event) {
	for i := range evs {
		e := &evs[i]
		if e.Type != events.StateChange {
			continue
		}
		want := events.Fields(0)
		if from := e.OldState; (from == events.Established || from == events.CloseWait) && e.NewState != events.CloseWait {
			want = events.HasRTO | events.HasTotals
		}
		if got := e.Known & (events.HasRTO | events.HasTotals); got != want || want == 0 && e.Has(events.HasSRTT) || want != 0 && e.RTO <= 0 {
			t.Errorf("RTO, SRTT and totals are known at a close alone: RTO %v, known %b: %s", e.RTO, e.Known, line(e))
		}
		closes := e.NewState == events.FinWait1 || e.NewState == events.LastAck || e.NewState == events.Close
		if known := e.Has(events.HasUnacked); (known || e.UnackedRetrans) && !closes || known && e.UnackedRetrans {
			t.Errorf("not acknowledged for %v, or sent again: %v: %s", e.Unacked, e.UnackedRetrans, line(e))
		}
	}
}

// checkOwners wants every event to name this process, which has all the
// sockets, unless nobody can: see unowned.
func checkOwners(t *verdict, facts *lab.Facts, evs []events.Event) {
	own := ownComm()
	for i := range evs {
		e := &evs[i]
		known := e.PID == uint32(facts.PID) && e.Comm.String() == own
		// Tests side by side run tools. Until its exec is done such a child has
		// every socket of this process, and may be the last to have one.
		known = known || e.PID != 0 && slices.Contains([]string{"exe", "ss", "tc"}, e.Comm.String())
		absent := e.PID == 0 && len(e.Comm.Bytes()) == 0
		if !known && !(absent && unowned(facts, e)) {
			fail := t.Errorf
			if absent {
				fail = t.Differs // too late to know, which is not wrong
			}
			fail("pid %d, comm %q; the socket (inode %d) is of %d, %q: %s", e.PID, e.Comm, e.HolderInode, facts.PID, own, line(e))
		}
	}
}

// unowned tells whether no process had the socket of an event, as far as the
// scenario goes: there was none, or it was not accepted yet.
func unowned(facts *lab.Facts, e *events.Event) bool {
	if e.Kind == events.KindFirewall {
		return e.Cookie == 0
	}
	if e.Type == events.Reset && e.Direction == events.Sent && slices.ContainsFunc(facts.Events, func(w lab.Event) bool {
		return w.NoSocket && slices.Contains(w.Kinds, e.Kind.String())
	}) {
		return true
	}
	if e.OldState == events.Listen && e.NewState == events.SynRecv || e.OldState == events.SynRecv && e.NewState == events.Established {
		return true
	}
	return slices.ContainsFunc(facts.Conns, func(c lab.Conn) bool {
		// Seen on 6.1: a kernel thread closes MPTCP's accepted TCP sockets,
		// which no longer have the inode of what the process has.
		closing := e.NewState == events.CloseWait || e.NewState == events.LastAck || e.NewState == events.Close
		if c.Repeats && closing && e.HolderInode == 0 && at(e, c.Server.Addr, c.Client.Addr) {
			return true
		}
		accepted := c.Server.Cookie != 0 || c.Repeats
		return !accepted && e.State != events.NewSynRecv && at(e, c.Server.Addr, c.Client.Addr)
	})
}

// ownComm is what the kernel calls this process.
var ownComm = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
})

// usedAgain tells whether another connection has the addresses of this one.
func usedAgain(facts *lab.Facts, i int) bool {
	c := facts.Conns[i]
	for j, o := range facts.Conns {
		if j != i && o.Client.Addr == c.Client.Addr && o.Server.Addr == c.Server.Addr {
			return true
		}
	}
	return false
}

// checkDecoration looks at what every event of a kind must have, and must not.
func checkDecoration(t *verdict, e *events.Event, unseen string) {
	fail := func(format string, args ...any) { t.Errorf(format+": "+line(e), args...) }
	switch e.Type {
	case events.Retransmit:
		if e.Kind == events.KindUnknown || e.Kind == 0 || e.Phase == 0 || !e.Has(events.HasSeq|events.HasFlags|events.HasRTO) || e.RTO <= 0 {
			fail("kind, phase, flags, seq and RTO are always known")
		}
		timeout := e.Kind == events.KindSYN || e.Kind == events.KindRTO
		if timeout && (e.Attempt == 0 || !e.Has(events.HasGivesUp|events.HasNextRTO)) {
			fail("a time-out has an attempt, a next RTO and an end")
		}
		if e.Has(events.HasAcceptQueue) != (e.State == events.NewSynRecv) {
			fail("a listener alone has an accept queue")
		}
	case events.Reset:
		if e.Kind == 0 || e.Why == "" || e.Direction == 0 {
			fail("kind, why and direction are always known")
		}
		packet := e.Has(events.HasTrigger | events.HasTTL)
		switch {
		case e.Direction != events.Received:
		case packet && (strings.Contains(unseen, "flags and TTL of received resets") || e.TriggerFlags&events.RST == 0 || e.TriggerTTL == 0):
			fail("packet known, flags %v, TTL %d", e.TriggerFlags, e.TriggerTTL)
		case !packet && !strings.Contains(unseen, "flags and TTL of received resets"):
			// Another process may have gone on between the two programs.
			t.Differs("packet not known: %s", line(e))
		}
	}
}

// jiffy is longer than any kernel's tick: timers count ticks, so they may seem
// to run out that much early.
const jiffy = 10 * time.Millisecond

// checkTimeouts compares what each time-out announced with what came of it:
// the next one's RTO, its number, its time, and, where the kernel gave the
// connection up, that it did so when it was foretold.
func checkTimeouts(t *verdict, evs []events.Event) {
	last := map[uint64]*events.Event{}
	for i := range evs {
		e := &evs[i]
		prev := last[e.Conn]
		switch {
		case e.Kind == events.KindSYN || e.Kind == events.KindRTO:
			if prev != nil && e.Attempt > 1 {
				waited := time.Duration(e.Boot - prev.Boot)
				// With TCP_USER_TIMEOUT the timer may be shorter than the RTO.
				if e.Attempt != prev.Attempt+1 || e.RTO < prev.NextRTO || waited < prev.NextRTO-jiffy {
					t.Errorf("after %v, expected in %v:\n%s\ncame\n%s", waited, prev.NextRTO, line(prev), line(e))
				}
				if prev.GivesUp <= prev.NextRTO {
					t.Errorf("came after the foretold end: %s", line(e))
				}
			}
			last[e.Conn] = e
		case e.Type == events.StateChange && e.NewState == events.Close && e.Error.String() == "ETIMEDOUT" && prev != nil:
			// A machine that lets a timer wait may skip a time-out.
			if after := time.Duration(e.Boot - prev.Boot); after < prev.GivesUp-jiffy {
				t.Errorf("given up after %v, not, as foretold, in %v: %s", after, prev.GivesUp, line(prev))
			}
		}
	}
}

// identity compares the counters of a namespace with the events in it: kernel-facts' proof that nothing was missed.
func identity(t *verdict, delta map[string]uint64, evs []events.Event, blind []labtest.TraceEvent) {
	var segs, sent, syn, synack, fast, slow, tfo, tlp, timer, missed uint64
	for i := range evs {
		e := &evs[i]
		switch {
		case e.Type == events.Reset && e.Direction == events.Sent && e.Kind != events.KindFirewall:
			sent++ // the firewall's are not counted
		case e.Type == events.Retransmit:
			n := uint64(e.Segs)
			if e.Error == 0 {
				segs += n
			}
			if e.Attempt > 0 && e.Kind != events.KindRTO {
				timer++ // SYNs and SYN-ACKs that went again by themselves
			}
			switch e.Kind {
			case events.KindSYN:
				// What never got as far as the sending is not counted.
				if e.Error == 0 || e.Error.String() == "EPERM" || e.Error.String() == "ENOBUFS" {
					syn++
				}
			case events.KindSYNACK:
				synack++
			case events.KindTLP:
				tlp++
			case events.KindRTO:
				timer++
			case events.KindFast, events.KindRACK:
				fast += n
			case events.KindLoss, events.KindPMTU:
				slow += n
			case events.KindTFO:
				tfo += n
			}
		}
	}
	for _, b := range blind {
		if b.Name == lab.SendReset {
			sent++
		}
		if b.Name == lab.Retransmit || b.Name == lab.RetransSYNACK {
			missed++
		}
	}
	// What was hidden may be a bunch of up to 64 KiB.
	if got, want := segs+delta["TCPRetransFail"], delta["RetransSegs"]; want < got+missed || want > got+missed<<16 {
		t.Errorf("%d segments traced or failed, %d retransmissions hidden from BPF, RetransSegs says %d", got, missed, want)
	}
	if want := delta["OutRsts"]; sent != want {
		t.Errorf("%d resets sent, OutRsts says %d", sent, want)
	}
	if missed > 0 {
		return // the splits below need every event
	}
	if !labtest.HasField(lab.Retransmit, "err") {
		syn += delta["TCPRetransFail"] // counted as sent again, and no event
	}
	if want := delta["TCPSynRetrans"]; syn+synack != want {
		t.Errorf("%d SYNs and %d SYN-ACKs sent again, TCPSynRetrans says %d", syn, synack, want)
	}
	// The kernel also counts the time-out that ends a connection, those of
	// requests, and probes that sent new data.
	if most := delta["TCPTimeouts"]; timer > most {
		t.Errorf("%d time-outs, TCPTimeouts says %d", timer, most)
	}
	if most := delta["TCPLossProbes"]; tlp > most {
		t.Errorf("%d loss probes, TCPLossProbes says %d", tlp, most)
	}
	if want := delta["TCPFastRetrans"]; fast != want {
		t.Errorf("%d segments sent again fast, TCPFastRetrans says %d", fast, want)
	}
	// Old kernels count Fast Open's data with neither.
	if want := delta["TCPSlowStartRetrans"]; slow+tfo != want && slow != want {
		t.Errorf("%d segments sent again after a time-out, TCPSlowStartRetrans says %d", slow+tfo, want)
	}
}

// checkGaps: where every event was seen there is no gap. Before 6.17 what failed
// is one.
func checkGaps(t *verdict, evs []events.Event, delta map[string]uint64, blind []labtest.TraceEvent) {
	failed := uint64(0)
	if !labtest.HasField(lab.Retransmit, "err") {
		failed = delta["TCPRetransFail"]
	}
	for i := range evs {
		if gap := uint64(evs[i].Gap); gap > failed && len(blind) == 0 {
			t.Errorf("a gap of %d: %s", gap, line(&evs[i]))
		}
	}
}

type trouble = func(context.Context, lab.Place) (*lab.Facts, error)

// play makes one trouble, traced, and wants exactly its events, its states and
// the kernel's counts at both ends. Where the machine hid an event from BPF the
// rest is as strictly checked, and the trouble is made again for a stream that
// is whole.
func play(t *testing.T, place lab.Place, run trouble) []events.Event {
	t.Helper()
	return whole(t, allSeen, func() ([]events.Event, seen) { return playOnce(t, place, run) })
}

// seen tells how much of what a try did can be held against it.
type seen int

const (
	otherDone seen = iota // more was done than asked, or programs were skipped
	someSeen              // as asked, and right but for what the machine hid
	allSeen               // as asked, and right
)

func unless(hidden bool) seen {
	if hidden {
		return someSeen
	}
	return allSeen
}

// whole returns what the first try gives of which enough was seen. Of a thousand
// events one or two are hidden, where the machine hides any, and more while
// process 1 is busy.
func whole[T any](t *testing.T, enough seen, try func() (T, seen)) T {
	t.Helper()
	for range 12 {
		got, s := try()
		if t.Failed() {
			t.FailNow()
		}
		if s >= enough {
			return got
		}
		labtest.AwaitQuiet(t)
	}
	t.Fatal("this machine hides events from BPF, does more than was asked of it, or skips programs, again and again")
	panic("unreachable")
}

func playOnce(t *testing.T, place lab.Place, run trouble) ([]events.Event, seen) {
	t.Helper()
	inums := []uint32{place.Client.Inum()}
	if place.Server != place.Client {
		inums = append(inums, place.Server.Inum())
	}
	stop := everything.start(t, inums...)
	audit, err := live.AuditFrom(everything.src, inums...)
	if err != nil {
		t.Fatal(err)
	}
	hidden, err := everything.blind.Watch(func(e labtest.TraceEvent) bool { return e.Involves(place.Addr) })
	if err != nil {
		t.Fatal(err)
	}
	skipped := everything.skipped(t)
	facts, err := run(t.Context(), place)
	evs := stop()
	emulated := os.Getenv(slow) != ""
	if err != nil && emulated {
		t.Logf("%v: again", err)
		return nil, otherDone
	}
	if err != nil {
		t.Fatal(err)
	}
	sum, err := audit()
	if err != nil {
		t.Fatal(err)
	}
	skipped = everything.skipped(t) - skipped
	blind, err := hidden()
	if err != nil {
		t.Fatal(err)
	}
	v := new(verdict)
	check(v, facts, evs, everything.unseen, blind)
	for inum, delta := range map[uint32]map[string]uint64{place.Client.Inum(): facts.Client, place.Server.Inum(): facts.Server} {
		there := slices.DeleteFunc(slices.Clone(evs), func(e events.Event) bool { return e.NetNS != inum })
		identity(v, delta, there, blind)
		checkAudit(v, sum, inum, delta, blind)
		checkGaps(v, there, delta, blind)
	}
	report := t.Errorf
	if skipped > 0 || emulated && len(v.wrong) == 0 {
		report = t.Logf
	}
	switch {
	case len(v.wrong)+len(v.other) > 0:
		report("%d runs of programs skipped\n%s\nstream:\n%s", skipped, strings.Join(append(v.wrong, v.other...), "\n"), dump(evs))
		return evs, otherDone
	case len(blind) > 0:
		t.Logf("%d events hidden from BPF", len(blind))
		return evs, someSeen
	}
	return evs, allSeen
}

func loopback(t *testing.T, family lab.Family) lab.Place {
	t.Helper()
	place, err := labtest.Namespace(t).Loopback(family)
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// TestScenarios makes each trouble that the lab knows, over IPv4, IPv6 and IPv4
// between AF_INET6 sockets, and to a listener on [::].
func TestScenarios(t *testing.T) {
	for _, sc := range lab.Scenarios() {
		for _, family := range []lab.Family{lab.V4, lab.V6, lab.Mapped, lab.Dual} {
			t.Run(sc.Name+"/"+family.String(), func(t *testing.T) {
				t.Parallel()
				if sc.Name == "mptcp" && !hasMPTCP() {
					t.Skip("this kernel has no MPTCP")
				}
				details(t, sc.Name, playFound(t, sc.Name, loopback(t, family), sc.Run))
			})
		}
	}
}

func hasMPTCP() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err == nil {
		err = unix.Close(fd)
	}
	return !errors.Is(err, unix.EPROTONOSUPPORT)
}

// TestMerged: data after shutdown is one reset, and counted as merged.
func TestMerged(t *testing.T) {
	i := slices.IndexFunc(lab.Scenarios(), func(s lab.Scenario) bool { return s.Name == "data-after-shutdown" })
	place := loopback(t, lab.V4)
	whole(t, allSeen, func() (struct{}, seen) {
		tr := start(t, allTypes, place.Client.Inum())
		facts, err := lab.Scenarios()[i].Run(t.Context(), place)
		if err != nil {
			t.Fatal(err)
		}
		evs := tr.finish(t)
		blind, err := tr.blind.Events(func(e labtest.TraceEvent) bool { return e.Involves(place.Addr) })
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, e := range facts.Events {
			if e.Merged {
				want += e.Min
			}
		}
		if got := tr.src.Counts().Merged; len(blind) == 0 && (want == 0 || got != uint64(want)) {
			t.Errorf("%d merged, want %d:\n%s", got, want, dump(evs))
		}
		return struct{}{}, unless(len(blind) > 0)
	})
}

// details looks at what makes an event of one scenario unlike others.
func details(t *testing.T, scenario string, evs []events.Event) {
	t.Helper()
	resetOf := map[string]struct {
		kind  events.Kind
		state events.State
		flags events.Flags // of the packet that it answers, but for PSH; 0: none
	}{
		"refused":             {events.KindRefused, 0, events.SYN},
		"linger0":             {events.KindLinger, events.Established, 0},
		"unread-data":         {events.KindUnreadData, events.Established, 0},
		"keepalive":           {events.KindKeepalive, events.Established, 0},
		"disconnect":          {events.KindAbort, events.Established, 0},
		"overflow":            {events.KindOverflow, events.NewSynRecv, events.ACK},
		"data-after-shutdown": {events.KindDataAfterClose, events.FinWait2, events.ACK},
		"data-after-close":    {events.KindDataAfterClose, events.FinWait2, events.ACK},
		"time-wait":           {events.KindTimeWait, events.TimeWait, events.ACK},
		"time-wait-reuse":     {events.KindBadAck, events.SynSent, events.ACK},
	}
	want, isReset := resetOf[scenario]
	found := false
	for i := range evs {
		e := &evs[i]
		switch {
		case e.Type == events.Reset && e.Direction == events.Sent && e.Kind == want.kind:
			found = true
			answers := e.Has(events.HasTrigger)
			if e.State != want.state || answers != (want.flags != 0) || answers && e.TriggerFlags&^events.PSH != want.flags {
				t.Errorf("%s, in answer to %v: want state %v, in answer to %v", line(e), e.TriggerFlags, want.state, want.flags)
			}
			if answers && (e.TriggerTTL == 0 || !e.Has(events.HasTTL)) {
				t.Errorf("TTL %d of a packet on loopback: %s", e.TriggerTTL, line(e))
			}
			if scenario == "refused" && !e.TriggerTimestamps || scenario == "time-wait-reuse" && e.TriggerTimestamps {
				t.Errorf("timestamps: %v: %s", e.TriggerTimestamps, line(e))
			}
		case e.Type == events.Retransmit && (e.UserTimeout == time.Second) != (scenario == "user-timeout"):
			t.Errorf("TCP_USER_TIMEOUT %v: %s", e.UserTimeout, line(e))
		case scenario == "orphan-fin" && e.Type == events.Retransmit:
			if !e.Orphan || e.Phase != events.PhaseClose || e.Flags&events.FIN == 0 || e.State != events.FinWait1 {
				t.Errorf("no orphan's FIN: %s", line(e))
			}
		case scenario == "ports-exhausted" && e.NewState == events.Close && e.OldState == events.SynSent:
			found = true
			if e.LPort != 0 || e.RPort == 0 || e.Error != 0 || !e.Failed() {
				t.Errorf("no port was left: %s", line(e))
			}
		case scenario == "clean" && e.Failed():
			t.Errorf("not a failure: not acknowledged for %v: %s", e.Unacked, line(e))
		}
	}
	if (isReset || scenario == "ports-exhausted") && !found {
		t.Errorf("the event that makes the scenario is missing:\n%s", dump(evs))
	}
}
