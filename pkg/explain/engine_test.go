// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// script makes events by hand, where a real situation would take too long or
// can't be had twice the same: internal/live has those.
type script struct {
	g    *Engine
	boot uint64
}

func newScript(o Options) *script { return &script{New(o), uint64(time.Hour)} }

func (s *script) after(d time.Duration) *script { s.boot += uint64(d); return s }

func (s *script) add(e events.Event) {
	e.Boot, e.Time = s.boot, int64(s.boot)
	e.Family = 4
	s.g.Add(&e)
}

// conn is a connection of a process, from 10.0.0.1 to 10.0.0.2:443.
func conn(id uint64, pid uint32, comm string) events.Event {
	e := events.Event{
		Conn: id, NetNS: 1, PID: pid, Container: comm, LAddr: netip.MustParseAddr("10.0.0.1"), LPort: uint16(40000 + id),
		RAddr: netip.MustParseAddr("10.0.0.2"), RPort: 443,
	}
	copy(e.Comm[:], comm)
	return e
}

func turn(e events.Event, from, to events.State, err events.Errno) events.Event {
	e.Type, e.OldState, e.NewState, e.State, e.Error = events.StateChange, from, to, to, err
	return e
}

func syn(e events.Event, attempt uint32, rto, next time.Duration) events.Event {
	e.Type, e.Kind, e.State, e.Phase, e.Attempt, e.Segs = events.Retransmit, events.KindSYN, events.SynSent, events.PhaseConnect, attempt, 1
	e.RTO, e.NextRTO, e.GivesUp = rto, next, 4*next
	e.Known = events.HasRTO | events.HasNextRTO | events.HasGivesUp
	return e
}

func rto(e events.Event, attempt uint32, after time.Duration) events.Event {
	e = syn(e, attempt, after, 2*after)
	e.Kind, e.State, e.Phase = events.KindRTO, events.Established, events.PhaseData
	return e
}

func found(r *Report) string {
	var list []string
	for _, f := range r.Findings {
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s %s %d", f.ID, f.Outcome, f.Certainty, f.Count)))
	}
	return strings.Join(list, ", ")
}

// TestCount: counters that rose stand beside the finding in whose namespaces
// they did, else in a note; of those that nobody knows nothing is said.
func TestCount(t *testing.T) {
	s := newScript(Options{})
	e := conn(1, 7, "server")
	e.Type, e.Kind, e.State, e.Phase, e.Attempt, e.RTO = events.Retransmit, events.KindSYNACK, events.SynRecv, events.PhaseConnect, 1, time.Second
	e.AcceptQueue, e.AcceptQueueMax, e.Known = 2, 1, events.HasAcceptQueue|events.HasRTO
	s.add(e)
	r := s.g.Report(time.Time{})
	if got := found(r); got != "accept-queue-full pending certain 1" {
		t.Fatal(got)
	}
	before := len(r.Notes)
	own := events.Counter{NetNS: e.NetNS, Counter: "ListenOverflows", Rise: 12}
	r.Count([]events.Counter{
		own, {NetNS: e.NetNS, Counter: "\x1b[2J", Rise: 1}, {NetNS: 9, Counter: "ListenOverflows", Rise: 3},
		{NetNS: 10, Counter: "ListenOverflows", Rise: 4}, {NetNS: e.NetNS, Counter: "PAWSTimewait", Rise: 4},
	})
	if f := r.Findings[0]; !slices.Equal(f.Counters, []events.Counter{own}) {
		t.Errorf("%+v", f.Counters)
	}
	if notes := r.Notes[before:]; len(notes) != 2 || !strings.HasPrefix(notes[0], "ListenOverflows rose by 7 in 2 network namespaces (by 4 in 10): SYNs, ") ||
		!strings.HasPrefix(notes[1], "PAWSTimewait rose by 4 in network namespace 1: segments ") {
		t.Errorf("%q", notes)
	}
}

// TestSilence: that the time-out which was announced did not come means an
// answer came, unless events were lost or the time is not over.
func TestSilence(t *testing.T) {
	for _, tt := range []struct {
		watched time.Duration // after the last time-out
		lost    uint64
		want    string
	}{
		{time.Second, 0, "stalled pending certain 1"},
		{3 * time.Second, 0, "stalled recovered certain 1"},
		{3 * time.Second, 1, "stalled pending certain 1"},
	} {
		s := newScript(Options{})
		e := conn(1, 7, "app")
		s.add(rto(e, 1, 400*time.Millisecond))
		s.after(800 * time.Millisecond).add(rto(e, 2, 800*time.Millisecond))
		if tt.lost > 0 {
			s.g.Add(&events.Event{Type: events.Lost, Count: tt.lost, Of: events.Retransmit})
		}
		r := s.g.Report(time.Unix(0, int64(s.boot)).Add(tt.watched))
		if got := found(r); got != tt.want {
			t.Errorf("%v later, %d lost: %q, want %q", tt.watched, tt.lost, got, tt.want)
		}
		if missing := r.Findings[0].Missing; (len(missing) > 0) != (tt.lost > 0) || r.Lost != tt.lost {
			t.Errorf("%d lost: missing %q, lost %d", tt.lost, missing, r.Lost)
		}
	}
}

// TestNATReuse tells silence that one process meets from one that all meet.
func TestNATReuse(t *testing.T) {
	const none, before, meanwhile = 0, 1, 2
	for _, tt := range []struct {
		answered int // others
		who      string
		long     time.Duration // before
		want     string
	}{
		{none, "", 0, "connect-timeout failed certain 1"},
		{before, "other", time.Second, "nat-reuse failed possible 1"},
		{before, "other", 2 * time.Minute, "connect-timeout failed certain 1"},
		{before, "app", time.Second, "connect-timeout failed certain 1"},
		{meanwhile, "other", time.Second, "nat-reuse failed likely 1"},
	} {
		s := newScript(Options{})
		reach := func(id uint64) {
			pid := uint32(8)
			if tt.who == "app" {
				pid = 7
			}
			s.add(turn(conn(id, pid, tt.who), events.Close, events.SynSent, 0))
			s.add(turn(conn(id, pid, tt.who), events.SynSent, events.Established, 0))
		}
		if tt.answered != none {
			reach(2)
		}
		s.after(tt.long)
		e := conn(1, 7, "app")
		s.add(turn(e, events.Close, events.SynSent, 0))
		s.after(time.Second).add(syn(e, 1, time.Second, 2*time.Second))
		if tt.answered == meanwhile {
			reach(3)
		}
		s.after(2 * time.Second).add(syn(e, 2, 2*time.Second, 4*time.Second))
		s.after(4 * time.Second).add(turn(e, events.SynSent, events.Close, etimedout))
		r := s.g.Report(time.Time{})
		if got := found(r); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
		if f := r.Findings[0]; f.ID == "nat-reuse" && (!strings.Contains(f.Cause, "app (7)") || !strings.Contains(f.Cause, "other (8)")) {
			t.Errorf("it does not name both: %s", f.Cause)
		}
	}
}

// TestRestart: after a boot the same ids are of other connections.
func TestRestart(t *testing.T) {
	s := newScript(Options{})
	s.add(rto(conn(1, 7, "app"), 1, 400*time.Millisecond))
	s.after(800 * time.Millisecond).add(rto(conn(1, 7, "app"), 2, 800*time.Millisecond))
	s.boot = uint64(time.Minute)
	s.add(rto(conn(1, 9, "new"), 1, 400*time.Millisecond))
	s.after(800 * time.Millisecond).add(rto(conn(1, 9, "new"), 2, 800*time.Millisecond))
	r := s.g.Report(time.Time{})
	if len(r.Connections) != 2 || r.Findings[0].Count != 2 || len(r.Findings[0].Owners) != 2 {
		t.Errorf("found %q, of %+v", found(r), r.Connections)
	}
}

// TestBounded: connections without trouble take no room, and one that is
// forgotten is told all the same when trouble comes.
func TestBounded(t *testing.T) {
	s := newScript(Options{})
	n := uint64(3 * maxQuiet)
	for id := range n {
		e := conn(id+1, 7, "app")
		s.add(turn(e, events.Close, events.SynSent, 0))
		s.after(time.Millisecond).add(turn(e, events.SynSent, events.Established, 0))
		if id%2 == 0 {
			s.add(turn(e, events.Established, events.FinWait1, 0))
			s.add(turn(e, events.FinWait1, events.FinWait2, 0))
			s.add(turn(e, events.FinWait2, events.Close, 0))
		}
	}
	if open, most := len(s.g.open), maxQuiet+maxRecent; open > most || s.g.quiet.len() > 2*maxQuiet || s.g.recent.len() > maxRecent {
		t.Errorf("%d connections of %d are remembered, %d queued", open, n, s.g.quiet.len())
	}
	s.add(rto(conn(2, 7, "app"), 1, 400*time.Millisecond))
	s.after(800 * time.Millisecond).add(rto(conn(2, 7, "app"), 2, 800*time.Millisecond))
	if got := found(s.g.Report(time.Time{})); got != "stalled pending certain 1" {
		t.Errorf("found %q", got)
	}
}

// TestSettings: a story has the settings of its namespace at its time, asked
// for not too often.
func TestSettings(t *testing.T) {
	asked := 0
	s := newScript(Options{Settings: func(netns uint32) *events.Settings {
		asked++
		return &events.Settings{NetNS: netns, Values: []events.Setting{{Name: "net.ipv4.tcp_retries2", Value: fmt.Sprint(7 + asked)}}}
	}})
	for id := uint64(1); id <= 10; id++ {
		s.add(rto(conn(id, 7, "app"), 1, 400*time.Millisecond))
		s.after(800 * time.Millisecond).add(rto(conn(id, 7, "app"), 2, 800*time.Millisecond))
		if id == 5 {
			s.after(2 * settingsAge)
		}
	}
	r := s.g.Report(time.Time{})
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	if len(r.Findings) != 1 || len(r.Findings[0].Settings) != 1 || r.Findings[0].Settings[0].Value != "8 or 9" {
		t.Errorf("%+v", r.Findings)
	}
}

// TestManyNamespaces: namespaces that come and go take no room.
func TestManyNamespaces(t *testing.T) {
	s := newScript(Options{Settings: func(netns uint32) *events.Settings { return &events.Settings{NetNS: netns} }})
	for id := range uint64(3 * maxNets) {
		e := rto(conn(id+1, 7, "app"), 1, 400*time.Millisecond)
		e.NetNS = uint32(id + 1)
		s.add(e)
	}
	if n := len(s.g.settings); n > maxNets {
		t.Errorf("the settings of %d namespaces are remembered", n)
	}
}

// TestMany: of more connections than a report lists the numbers are right.
func TestMany(t *testing.T) {
	s := newScript(Options{})
	const more = 1000
	for id := range uint64(maxListed + more) {
		e := conn(id+1, uint32(id%7), "app")
		e.Type, e.Kind, e.Direction, e.State, e.Why = events.Reset, events.KindUnreadData, events.Sent, events.Established, "closed with unread data"
		s.after(time.Millisecond).add(e)
	}
	r := s.g.Report(time.Time{})
	if got, want := found(r), fmt.Sprintf("closed-with-unread-data failed certain %d", maxListed+more); got != want || r.Troubled != maxListed+more || r.Unlisted != more || len(r.Connections) != maxListed {
		t.Errorf("found %q, %d in trouble, %d listed, %d not", got, r.Troubled, len(r.Connections), r.Unlisted)
	}
	if len(s.g.ends) > 0 || len(s.g.open) > 0 {
		t.Errorf("%d stories and %d ends are left", len(s.g.open), len(s.g.ends))
	}
}

// TestTroubledBounded: what is over makes room, however much of it there is in a
// moment, and no connection is taken for another that was told in its place.
func TestTroubledBounded(t *testing.T) {
	s := newScript(Options{})
	const n = 3 * maxEnding
	for i := range uint64(n) {
		e := conn(1+i, uint32(1+i%100), fmt.Sprint("app", i%100))
		e.LPort = uint16(1 + i%60000)
		s.after(time.Microsecond).add(turn(e, events.Close, events.SynSent, 0))
		s.add(turn(e, events.SynSent, events.Close, econnrefused))
		if at := len(s.g.open); at > maxEnding+2 {
			t.Fatalf("%d connections are kept", at)
		}
		if at := len(s.g.ends); at > maxEnding+2 {
			t.Fatalf("%d ends are kept", at)
		}
	}
	r := s.g.Report(time.Time{})
	if got, want := found(r), fmt.Sprintf("refused failed likely %d", n); got != want {
		t.Errorf("found %q, want %q", got, want)
	}
	if f := r.Findings[0]; f.Owners[0].Count < n/100 || f.Owners[0].Count > n/100+1 || f.MoreOwners != 100-len(f.Owners) {
		t.Errorf("owners: %+v and %d more", f.Owners, f.MoreOwners)
	}
	for i, c := range r.Connections {
		if len(c.Timeline) != 2 || c.Conn != uint64(1+i) || c.Owner.PID != uint32(1+i%100) || c.Local.Port() != uint16(1+i%60000) {
			t.Fatalf("%+v", c)
		}
	}
}

// TestPortAtOnce: the kernel gives a port again before it shows that the socket
// which had it is closed. Each attempt is refused once, and both processes asked.
func TestPortAtOnce(t *testing.T) {
	s := newScript(Options{})
	first, second := conn(1, 7, "app"), conn(2, 8, "other")
	second.LPort = first.LPort
	answer := func(e events.Event) {
		sent := events.Event{Type: events.Reset, Kind: events.KindRefused, Direction: events.Sent, NetNS: 1, LAddr: e.RAddr, LPort: e.RPort, RAddr: e.LAddr, RPort: e.LPort}
		s.add(sent)
		e.Type, e.Kind, e.Direction, e.State = events.Reset, events.KindPeer, events.Received, events.SynSent
		s.add(e)
	}
	s.add(turn(first, events.Close, events.SynSent, 0))
	answer(first)
	s.add(turn(second, events.Close, events.SynSent, 0))
	answer(second)
	s.add(turn(first, events.SynSent, events.Close, econnrefused))
	s.add(turn(second, events.SynSent, events.Close, econnrefused))
	if n := len(s.g.open) + len(s.g.ends); n > 0 {
		t.Errorf("%d are kept, of which nothing more comes", n)
	}
	r := s.g.Report(time.Time{})
	if got, want := found(r), "refused failed certain 2"; got != want {
		t.Fatalf("found %q, want %q", got, want)
	}
	for _, o := range r.Findings[0].Owners {
		if o.Count != 1 {
			t.Errorf("%s asked %d times", o.Comm, o.Count)
		}
	}
	if n := len(r.Findings[0].Owners); n != 2 {
		t.Errorf("%d asked", n)
	}
}

// TestReuse: it makes no difference that stories are told in the places of
// others, whatever comes.
func TestReuse(t *testing.T) {
	used := 0
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 1))
		engines := [2]*Engine{New(Options{}), New(Options{})}
		boot := uint64(time.Hour)
		for range 5000 {
			boot += 1 + r.Uint64N(uint64(20*time.Millisecond))
			e := conn(r.Uint64N(40), uint32(r.IntN(5)), fmt.Sprint("app", r.IntN(3)))
			e.LPort, e.RPort = uint16(r.IntN(20)), uint16(r.IntN(20))
			if r.IntN(2) == 0 { // the other end's
				e.Conn += 100
				e.LAddr, e.RAddr, e.LPort, e.RPort = e.RAddr, e.LAddr, e.RPort, e.LPort
			}
			e.Cookie = e.Conn
			e.Conn += r.Uint64N(3) << 48
			e.State, e.OldState, e.NewState = events.State(r.IntN(13)), events.State(r.IntN(13)), events.State(r.IntN(13))
			e.Type, e.Kind, e.Direction = events.Type(1+r.IntN(3)), events.Kind(r.IntN(25)), events.Direction(1+r.IntN(2))
			e.Attempt, e.RTO, e.NextRTO, e.Segs = uint32(r.IntN(4)), time.Duration(r.IntN(1e9)), time.Duration(r.IntN(1e9)), 1
			e.Error = []events.Errno{0, 0, 0, etimedout, econnrefused, ebusy}[r.IntN(6)]
			e.Boot, e.Time = boot, int64(boot)
			for i, g := range engines {
				spare := len(g.spare)
				g.Add(&e)
				if used += max(0, spare-len(g.spare)); i == 1 {
					g.spare = nil
				}
			}
		}
		var texts [2]bytes.Buffer
		for i, g := range engines {
			if err := g.Report(time.Unix(0, int64(boot))).WriteJSON(&texts[i], nil); err != nil {
				t.Fatal(err)
			}
		}
		if want, got := texts[1].String(), texts[0].String(); got != want {
			t.Fatalf("seed %d: %s", seed, cmp.Diff(want, got))
		}
	}
	if used < 1000 {
		t.Errorf("%d places were used again", used)
	}
}

// TestLateAnswer: a SYN-ACK that comes for a connect that was given up is reset,
// which is no other trouble, but for other ends.
func TestLateAnswer(t *testing.T) {
	for after, want := range map[time.Duration]string{
		500 * time.Millisecond: "connect-timeout failed likely 1",
		10 * time.Second:       "connect-timeout failed likely 1",
		2 * time.Minute:        "connect-timeout failed likely 1, reset-sent failed certain 1",
	} {
		s := newScript(Options{})
		e := conn(1, 7, "app")
		s.add(turn(e, events.Close, events.SynSent, 0))
		s.after(300 * time.Millisecond).add(turn(e, events.SynSent, events.Close, 0))
		other := conn(2, 7, "app")
		other.Type, other.OldState, other.NewState = events.StateChange, events.Close, events.SynSent
		s.after(after - time.Millisecond).add(other) // so that the first one's story ends
		late := conn(1, 0, "")
		late.Conn, late.Type, late.Kind, late.Direction = 0, events.Reset, events.KindOther, events.Sent
		late.Known, late.TriggerFlags = events.HasTrigger, events.SYN|events.ACK
		s.after(time.Millisecond).add(late)
		if got := found(s.g.Report(time.Time{})); got != want {
			t.Errorf("after %v: found %q, want %q", after, got, want)
		}
	}
}

// TestStrayAfterEnd: what was on its way when a connection ended well is no other
// trouble, also if the kernel shows the end a moment later, and if nothing else was
// known of the connection. A new SYN is none of it.
func TestStrayAfterEnd(t *testing.T) {
	const unknown = "unknown-connection failed certain 1"
	for _, tt := range []struct {
		name  string
		known bool          // from its beginning
		end   time.Duration // after the stray packet
		from  events.State  // the end; else LAST_ACK
		flags events.Flags
		port  uint16
		want  string
	}{
		{name: "no FIN", known: true, end: -time.Millisecond, from: events.Established, flags: events.ACK, want: unknown},
		{name: "after", known: true, end: -time.Millisecond, flags: events.ACK},
		{name: "just before", known: true, end: 20 * time.Microsecond, flags: events.ACK},
		{name: "later", known: true, end: -10 * time.Second, flags: events.ACK, want: unknown},
		{name: "unknown", end: -time.Millisecond, flags: events.ACK},
		{name: "another port", known: true, end: -time.Millisecond, flags: events.ACK, port: 1, want: unknown},
		{name: "syn", known: true, end: -time.Millisecond, flags: events.SYN, want: "reset-sent failed certain 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(Options{})
			c := conn(1, 7, "app")
			if tt.from == 0 {
				tt.from = events.LastAck
			}
			end := turn(c, tt.from, events.Close, 0)
			stray := conn(1, 0, "")
			stray.LPort += tt.port
			stray.Conn, stray.Type, stray.Kind, stray.Direction, stray.State = 0, events.Reset, events.KindOther, events.Sent, events.Listen
			stray.Known, stray.TriggerFlags = events.HasTrigger, tt.flags
			if tt.known {
				s.add(turn(c, events.Listen, events.SynRecv, 0))
				s.add(turn(c, events.SynRecv, events.Established, 0))
				s.after(time.Second)
			}
			if tt.end > 0 {
				s.add(stray)
				s.after(tt.end).add(end)
			} else {
				s.add(end)
				s.after(-tt.end).add(stray)
			}
			if got := found(s.g.Report(time.Time{})); got != tt.want {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
}

// TestLives: what is left of a socket in TIME_WAIT has its cookie, which is not
// all of conn where somebody else had asked for it before.
func TestLives(t *testing.T) {
	for _, life := range []uint64{0, 7 << 48} {
		s := newScript(Options{})
		c := conn(5, 42, "client")
		c.Cookie = c.Conn
		c.Conn |= life
		s.add(turn(c, events.Close, events.SynSent, 0))
		s.add(turn(c, events.SynSent, events.Established, 0))
		asked := turn(c, events.Established, events.FinWait1, 0)
		asked.Known, asked.Unacked, asked.SRTT = events.HasUnacked|events.HasSRTT, 200*time.Millisecond, time.Millisecond
		s.after(time.Second).add(asked)
		r := c
		r.Type, r.Kind, r.Direction, r.State, r.Conn = events.Reset, events.KindTimeWait, events.Sent, events.TimeWait, c.Cookie
		s.after(time.Millisecond).add(r)
		if got, want := found(s.g.Report(time.Time{})), "read-timeout-too-short failed likely 1"; got != want {
			t.Errorf("life %x: found %q, want %q", life, got, want)
		}
		if len(s.g.lives)+len(s.g.open) > 0 {
			t.Errorf("kept %v and %v", s.g.lives, s.g.open)
		}
	}
}

// TestGivenUp: a connect that the application gave up before a SYN went again,
// and one that it gave up because another was faster.
func TestGivenUp(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration
		raced bool
		want  string
	}{
		{300 * time.Millisecond, false, "connect-timeout failed likely 1"},
		{300 * time.Millisecond, true, ""},
		{20 * time.Millisecond, false, ""}, // no time-out is so short
		{2 * time.Second, false, "send-failed failed likely 1"},
	} {
		s := newScript(Options{})
		e := conn(1, 7, "app")
		s.add(turn(e, events.Close, events.SynSent, 0))
		if tt.raced {
			s.add(turn(conn(2, 7, "app"), events.Close, events.SynSent, 0))
			s.add(turn(conn(2, 7, "app"), events.SynSent, events.Established, 0))
		}
		s.after(tt.after).add(turn(e, events.SynSent, events.Close, 0))
		if got := found(s.g.Report(time.Time{})); got != tt.want {
			t.Errorf("after %v, raced %v: found %q, want %q", tt.after, tt.raced, got, tt.want)
		}
	}
}

// TestReadTimeout tells an application that lost patience from one that is done
// with sending, or waits for the answer.
func TestReadTimeout(t *testing.T) {
	fast := func(e events.Event) events.Event {
		e.Type, e.Kind, e.State, e.Phase, e.Segs = events.Retransmit, events.KindFast, events.Established, events.PhaseData, 1
		return e
	}
	for _, tt := range []struct {
		name   string
		before func(events.Event) events.Event
		after  events.Fields // what the retransmission after the close tells of its socket
		orphan bool
		want   string
	}{
		{"lost patience", nil, events.HasOrphan, true, "read-timeout-too-short failed certain 1"},
		{"half close", nil, events.HasOrphan, false, "stalled recovered certain 1"},
		{"bulk", fast, events.HasOrphan, true, "loss recovered certain 1"},
	} {
		s := newScript(Options{})
		e := conn(1, 7, "app")
		if tt.before != nil {
			s.add(tt.before(e))
		}
		s.after(time.Second).add(rto(e, 1, 200*time.Millisecond))
		leave := turn(e, events.Established, events.FinWait1, 0)
		leave.UnackedRetrans = true
		s.after(50 * time.Millisecond).add(leave)
		again := rto(e, 2, 400*time.Millisecond)
		if tt.orphan {
			again.Attempt, again.Phase = 1, events.PhaseClose
		}
		again.State, again.Orphan, again.Known = events.FinWait1, tt.orphan, again.Known|tt.after
		s.after(350 * time.Millisecond).add(again)
		s.add(turn(e, events.FinWait1, events.FinWait2, 0))
		s.add(turn(e, events.FinWait2, events.Close, 0))
		if got := found(s.g.Report(time.Unix(0, int64(s.boot)).Add(time.Minute))); got != tt.want {
			t.Errorf("%s: found %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestError: no connection that ended with an error is left out.
func TestError(t *testing.T) {
	for _, tt := range []struct {
		from events.State
		err  events.Errno
		want string
	}{
		{events.Established, etimedout, "closed-with-error failed certain 1"},
		{events.SynSent, ehostunreach, "closed-with-error failed certain 1"},
		{events.SynSent, econnrefused, "refused failed likely 1"},
		{events.Established, econnreset, "closed-with-error failed certain 1"},
	} {
		s := newScript(Options{})
		s.add(turn(conn(1, 7, "app"), tt.from, events.Close, tt.err))
		r := s.g.Report(time.Time{})
		if got := found(r); got != tt.want {
			t.Errorf("%v in %v: found %q, want %q", tt.err, tt.from, got, tt.want)
		}
		if tt.err == econnreset && len(r.Findings[0].Missing) == 0 {
			t.Error("the reset is not said to be missing")
		}
	}
}

// TestSendFailed: a repair that could not be sent is followed by a time-out,
// unless an answer came all the same.
func TestSendFailed(t *testing.T) {
	for after, want := range map[time.Duration]string{
		100 * time.Millisecond: "send-failed pending certain 1",
		time.Second:            "send-failed recovered certain 1",
	} {
		s := newScript(Options{})
		e := rto(conn(1, 7, "app"), 0, 200*time.Millisecond)
		e.Kind, e.Error = events.KindFast, enobufs
		s.add(e)
		if got := found(s.g.Report(time.Unix(0, int64(s.boot)).Add(after))); got != want {
			t.Errorf("after %v: found %q, want %q", after, got, want)
		}
	}
}

// TestNeighbour: what was never sent is not what nobody answered.
func TestNeighbour(t *testing.T) {
	s := newScript(Options{})
	for i := uint32(1); i <= 3; i++ {
		e := rto(conn(1, 7, "app"), i, time.Duration(i)*200*time.Millisecond)
		e.Error = ebusy
		s.after(e.RTO).add(e)
	}
	if got := found(s.g.Report(time.Time{})); got != "send-failed pending certain 1" {
		t.Errorf("found %q", got)
	}
}

// TestDeferAccept: a client that answered and says nothing looks like one that
// does not answer, and is said to.
func TestDeferAccept(t *testing.T) {
	for first, want := range map[uint32]string{1: "syn-ack-unanswered recovered certain 1", 3: "syn-ack-unanswered recovered likely 1"} {
		s := newScript(Options{})
		e := syn(conn(1, 7, "httpd"), first, time.Second, 2*time.Second)
		e.Kind, e.State = events.KindSYNACK, events.NewSynRecv
		s.add(e)
		s.after(time.Second).add(turn(conn(1, 7, "httpd"), events.Listen, events.SynRecv, 0))
		s.add(turn(conn(1, 7, "httpd"), events.SynRecv, events.Established, 0))
		if got := found(s.g.Report(time.Time{})); got != want {
			t.Errorf("first %d: found %q, want %q", first, got, want)
		}
	}
}
