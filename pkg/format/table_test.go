// SPDX-License-Identifier: Apache-2.0

package format

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// story is a few events with different lengths of everything.
func story() []*events.Event {
	syn := aRetransmit()
	syn.Kind, syn.Attempt, syn.Error, syn.Comm = events.KindSYN, 1, 0, comm("curl")
	syn.RTO, syn.GivesUp = time.Second, 131*time.Second
	fast := aRetransmit()
	fast.Kind, fast.Attempt, fast.Error, fast.RTO = events.KindFast, 0, 0, 204*time.Millisecond
	fast.Known &^= events.HasGivesUp
	fast.Comm = events.Comm{}
	received := aReset()
	received.Kind, received.Direction, received.Why = events.KindPeer, events.Received, ""
	received.State = events.SynSent
	opened := aChange()
	opened.NewState, opened.Error = events.Established, 0
	return []*events.Event{syn, aRetransmit(), fast, aReset(), received, opened, aLoss(), aChange()}
}

func only(list []*events.Event, typ events.Type) (some []*events.Event) {
	for _, e := range list {
		if e.Type == typ {
			some = append(some, e)
		}
	}
	return some
}

func compareLines(t *testing.T, want, got string) {
	t.Helper()
	want = strings.TrimPrefix(want, "\n")
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s\ngot:\n%s", diff, got)
	}
}

func TestTableOfRetransmissions(t *testing.T) {
	types := []events.Type{events.Retransmit}
	compareLines(t, `
TIME         KIND     STATE       LOCAL                 REMOTE                  RTO COMM
18:39:26.535 syn 1    ESTABLISHED 10.0.0.1:40312        192.0.2.7:443            1s curl
18:39:26.535 rto 3    ESTABLISHED 10.0.0.1:40312        192.0.2.7:443         1.02s nginx
18:39:26.535 fast     ESTABLISHED 10.0.0.1:40312        192.0.2.7:443         204ms -
`, lines(t, Options{Types: types, Location: plus530}, only(story(), events.Retransmit)...))
	compareLines(t, `
TIME                    KIND    PHASE   STATE       LOCAL                 REMOTE                FLAGS          SEQ   LEN SEGS TRY BACKOFF   RTO NEXT-RTO GIVES-UP   SRTT RTTVAR CWND SSTHRESH CA-STATE RETRANS GAP DATA-SEGS DSACKS ERROR        ORPHAN   UID USER         PID COMM            SHARERS          NETNS NETNS-NAME CONN             UNIT                     CONTAINER    POD          CGROUP
2026-03-14 18:39:26.535 rto     data    ESTABLISHED 10.0.0.1:40312        192.0.2.7:443         PSH|ACK 4294967295  1448    1   3       2 1.02s    2.05s   15m24s   47us  204ms    1        7 Loss           4   2        90      0 EBUSY        false      0 root        4711 nginx           4711,4712   4026531840 blue       fedcba9876543210 nginx.service            c0ffee4711aa 5be2cfa7     /system.slice/nginx.service
`, lines(t, Options{Format: Wide, Types: types, Location: plus530}, aRetransmit()))
}

func TestTableOfResets(t *testing.T) {
	types := []events.Type{events.Reset}
	compareLines(t, `
TIME         RESET    KIND             STATE       LOCAL                 REMOTE
13:09:26.535 sent     unread_data      ESTABLISHED 10.0.0.1:40312        192.0.2.7:443
13:09:26.535 received peer             SYN_SENT    10.0.0.1:40312        192.0.2.7:443
`, lines(t, Options{Types: types}, only(story(), events.Reset)...))
	compareLines(t, `
TIME                    RESET    KIND             STATE       LOCAL                 REMOTE                REASON                   TRIGGER   TRIG-SEQ   TRIG-ACK TRIG-TS TRIG-TTL ORPHAN   UID USER         PID COMM            SHARERS          NETNS NETNS-NAME CONN             UNIT                     CONTAINER    POD          CGROUP                                   WHY
2026-03-14 13:09:26.535 sent     unread_data      ESTABLISHED 10.0.0.1:40312        192.0.2.7:443         TCP_ABORT_ON_CLOSE       ACK              0 4000000000 true          64 false      0 root        4711 nginx           4711,4712   4026531840 blue       fedcba9876543210 nginx.service            c0ffee4711aa 5be2cfa7     /system.slice/nginx.service              closed with unread data
`, lines(t, Options{Format: Wide, Types: types}, aReset()))
}

func TestTableOfStateChanges(t *testing.T) {
	types := []events.Type{events.StateChange}
	compareLines(t, `
TIME         CHANGE                  LOCAL                 REMOTE                ERROR
13:09:26.535 SYN_SENT->ESTABLISHED   10.0.0.1:40312        192.0.2.7:443         -
13:09:26.535 SYN_SENT->CLOSE         10.0.0.1:40312        192.0.2.7:443         ETIMEDOUT
`, lines(t, Options{Types: types}, only(story(), events.StateChange)...))
	compareLines(t, `
TIME                    CHANGE                  LOCAL                 REMOTE                ERROR        UNACKED ORPHAN   UID USER         PID COMM            SHARERS          NETNS NETNS-NAME CONN             UNIT                     CONTAINER    POD          CGROUP
2026-03-14 13:09:26.535 SYN_SENT->CLOSE         10.0.0.1:40312        192.0.2.7:443         ETIMEDOUT      2m11s false      0 root        4711 nginx           4711,4712   4026531840 blue       fedcba9876543210 nginx.service            c0ffee4711aa 5be2cfa7     /system.slice/nginx.service
`, lines(t, Options{Format: Wide, Types: types}, aChange()))
}

func TestTableOfEvents(t *testing.T) {
	compareLines(t, `
TIME         EVENT      LOCAL                 REMOTE                DETAIL
13:09:26.535 retransmit 10.0.0.1:40312        192.0.2.7:443         syn 1 RTO 1s ESTABLISHED
13:09:26.535 retransmit 10.0.0.1:40312        192.0.2.7:443         rto 3 unsent EBUSY
13:09:26.535 retransmit 10.0.0.1:40312        192.0.2.7:443         fast RTO 204ms ESTABLISHED
13:09:26.535 reset      10.0.0.1:40312        192.0.2.7:443         sent unread_data ESTABLISHED
13:09:26.535 reset      10.0.0.1:40312        192.0.2.7:443         received SYN_SENT
13:09:26.535 state      10.0.0.1:40312        192.0.2.7:443         SYN_SENT->ESTABLISHED
13:09:26.535 state      10.0.0.1:40312        192.0.2.7:443         SYN_SENT->CLOSE ETIMEDOUT
`, lines(t, Options{}, story()...))
	compareLines(t, `
TIME                    EVENT      RESET    KIND             STATE       LOCAL                 REMOTE                FLAGS          SEQ   LEN TRY   RTO GIVES-UP REASON                   OLD-STATE   ERROR        ORPHAN   UID USER         PID COMM            SHARERS          NETNS NETNS-NAME CONN             UNIT                     CONTAINER    POD          CGROUP                                   WHY
2026-03-14 13:09:26.535 retransmit -        rto              ESTABLISHED 10.0.0.1:40312        192.0.2.7:443         PSH|ACK 4294967295  1448   3 1.02s   15m24s -                        -           EBUSY        false      0 root        4711 nginx           4711,4712   4026531840 blue       fedcba9876543210 nginx.service            c0ffee4711aa 5be2cfa7     /system.slice/nginx.service              -
2026-03-14 13:09:26.535 reset      sent     unread_data      ESTABLISHED 10.0.0.1:40312        192.0.2.7:443         -                -     -   -     -        - TCP_ABORT_ON_CLOSE       -           -            false      0 root        4711 nginx           4711,4712   4026531840 blue       fedcba9876543210 nginx.service            c0ffee4711aa 5be2cfa7     /system.slice/nginx.service              closed with unread data
2026-03-14 13:09:26.535 state      -        -                CLOSE       10.0.0.1:40312        192.0.2.7:443         -                -     -   - 816ms        - -                        SYN_SENT    ETIMEDOUT    false      0 root        4711 nginx           4711,4712   4026531840 blue       fedcba9876543210 nginx.service            c0ffee4711aa 5be2cfa7     /system.slice/nginx.service              -
`, lines(t, Options{Format: Wide}, all()...))
}

// TestUnder100 prints the longest that IPv4 brings.
func TestUnder100(t *testing.T) {
	longest := netip.MustParseAddr("255.255.255.255")
	var list []*events.Event
	add := func(e *events.Event) {
		e.LAddr, e.RAddr, e.LPort, e.RPort = longest, longest, 65535, 65535
		e.Comm = comm("fifteen-letters")
		e.Attempt, e.GivesUp = 0, 15*time.Minute+24*time.Second
		switch e.Kind {
		case events.KindSYN, events.KindRTO:
			e.Attempt = 15
		case events.KindSYNACK:
			e.Attempt, e.State, e.Comm = 5, events.NewSynRecv, comm("nginx")
		}
		list = append(list, e)
	}
	for kind := events.KindUnknown; kind <= events.KindTFO; kind++ {
		for _, errno := range []events.Errno{0, 1, 105} {
			e := aRetransmit()
			e.Kind, e.Error, e.RTO = kind, errno, 59900*time.Millisecond
			add(e)
		}
	}
	for kind := events.KindRefused; kind <= events.KindOther; kind++ {
		e := aReset()
		e.Kind, e.State = kind, events.Established
		if kind == events.KindDataAfterClose {
			e.State = events.FinWait2
		}
		if kind == events.KindPeer {
			e.Direction = events.Received
		}
		add(e)
	}
	for _, s := range [][2]events.State{
		{events.Established, events.CloseWait}, {events.FinWait1, events.FinWait2},
		{events.SynRecv, events.Established}, {events.Established, events.Close},
	} {
		e := aChange()
		e.OldState, e.NewState, e.Error = s[0], s[1], 0
		if e.NewState == events.Close {
			e.Error = 103
		}
		add(e)
	}
	for _, types := range [][]events.Type{{events.Retransmit}, {events.Reset}, {events.StateChange}, nil} {
		some := list
		if types != nil {
			some = only(list, types[0])
		}
		got := lines(t, Options{Types: types}, some...)
		if n := strings.Count(got, "TIME "); n != 1 {
			t.Errorf("%v: %d headings for IPv4:\n%s", types, n, got)
		}
		for line := range strings.Lines(got) {
			if n := len(strings.TrimSuffix(line, "\n")); n >= 100 {
				t.Errorf("%v: %d columns: %s", types, n, line)
			}
		}
	}
}

// TestWidths: a longer cell widens its column for good, and the headings come
// again then, only then, and above it.
func TestWidths(t *testing.T) {
	v4, short, long := aChange(), aChange(), aChange()
	short.RAddr = netip.MustParseAddr("fe80::1234:5678:9abc")
	long.LAddr, long.RAddr = longestIPv6, longestIPv6
	list := []*events.Event{v4, short, v4, long, short, v4, long}
	o := Options{Types: []events.Type{events.StateChange}}
	got := lines(t, o, list...)
	if again := lines(t, o, list...); again != got {
		t.Errorf("the same events twice:\n%s\n%s", got, again)
	}
	compareLines(t, `
TIME         CHANGE                  LOCAL                 REMOTE                ERROR
13:09:26.535 SYN_SENT->CLOSE         10.0.0.1:40312        192.0.2.7:443         ETIMEDOUT
TIME         CHANGE                  LOCAL                 REMOTE                           ERROR
13:09:26.535 SYN_SENT->CLOSE         10.0.0.1:40312        [fe80::1234:5678:9abc]:443       ETIMEDOUT
13:09:26.535 SYN_SENT->CLOSE         10.0.0.1:40312        192.0.2.7:443                    ETIMEDOUT
TIME         CHANGE                  LOCAL                                            REMOTE                                           ERROR
13:09:26.535 SYN_SENT->CLOSE         [2001:db8:1111:2222:3333:4444:5555:6666]:40312   [2001:db8:1111:2222:3333:4444:5555:6666]:443     ETIMEDOUT
13:09:26.535 SYN_SENT->CLOSE         10.0.0.1:40312                                   [fe80::1234:5678:9abc]:443                       ETIMEDOUT
13:09:26.535 SYN_SENT->CLOSE         10.0.0.1:40312                                   192.0.2.7:443                                    ETIMEDOUT
13:09:26.535 SYN_SENT->CLOSE         [2001:db8:1111:2222:3333:4444:5555:6666]:40312   [2001:db8:1111:2222:3333:4444:5555:6666]:443     ETIMEDOUT
`, got)

	o.NoHeader = true
	var rows []string
	for line := range strings.Lines(got) {
		if !strings.HasPrefix(line, "TIME") {
			rows = append(rows, line)
		}
	}
	if bare := lines(t, o, list...); bare != strings.Join(rows, "") {
		t.Errorf("without headings:\n%s", bare)
	}
}

// TestWidthsCountColumns: what a terminal shows counts, not bytes; and what is
// no address stands out of its line when it is too long.
func TestWidthsCountColumns(t *testing.T) {
	var list []*events.Event
	for _, user := range []string{"root", "caf\u00e9", "\u4e16\u754c", "cafe\u0301", strings.Repeat("m", 60), "root"} {
		e := aReset()
		e.User = user
		list = append(list, e)
	}
	compareLines(t, `
USER     EVENT
root     reset
caf`+"\u00e9"+`     reset
`+"\u4e16\u754c"+`     reset
cafe`+"\u0301"+`     reset
`+strings.Repeat("m", 60)+` reset
root     reset
`, lines(t, Options{Columns: []string{"user", "event"}}, list...))
}

// TestLastNumberAligns: a number that stands last is padded before, not after.
func TestLastNumberAligns(t *testing.T) {
	a, b := aReset(), aReset()
	a.Inode, b.Inode = 7, 123456789
	compareLines(t, `
EVENT         INODE
reset             7
reset      123456789
reset             7
`, lines(t, Options{Columns: []string{"event", "inode"}}, a, b, a))
}

func TestEndpoints(t *testing.T) {
	v4, mapped, v6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("::ffff:192.0.2.7"), netip.MustParseAddr("2001:db8::1")
	for _, test := range []struct {
		addr netip.Addr
		port uint16
		want string
	}{
		{v4, 443, "192.0.2.7:443"},
		{mapped, 443, "192.0.2.7:443"},
		{v6, 443, "[2001:db8::1]:443"},
		{v4, 0, "192.0.2.7:?"},
		{mapped, 0, "192.0.2.7:?"},
		{v6, 0, "[2001:db8::1]:?"},
		{netip.Addr{}, 443, "?:443"},
		{netip.Addr{}, 0, ""},
	} {
		if got := string(appendEndpoint(nil, test.addr, test.port)); got != test.want {
			t.Errorf("%v and %d = %s, want %s", test.addr, test.port, got, test.want)
		}
	}
}

// TestDetailOfLittle: what is missing leaves neither a gap nor a separator.
func TestDetailOfLittle(t *testing.T) {
	for _, test := range []struct {
		e    events.Event
		want string
	}{
		{events.Event{Type: events.Retransmit, Kind: events.KindTLP}, "tlp"},
		{events.Event{Type: events.Retransmit, Attempt: 2}, "2"},
		{events.Event{Type: events.Retransmit, Error: 11}, "unsent EAGAIN"},
		{events.Event{Type: events.Retransmit, Known: events.HasRTO, RTO: time.Second}, "RTO 1s"},
		{events.Event{Type: events.Retransmit, Attempt: 1, Known: events.HasRTO, RTO: time.Second}, "1 RTO 1s"},
		{events.Event{Type: events.Reset, Kind: events.KindPeer}, "peer"},
		{events.Event{Type: events.Reset, Direction: events.Sent}, "sent"},
		{events.Event{Type: events.Reset, State: events.Listen}, "LISTEN"},
		{events.Event{Type: events.StateChange, NewState: events.Listen}, "?->LISTEN"},
		{events.Event{Type: events.StateChange, OldState: events.Listen}, "LISTEN->?"},
		{events.Event{Type: events.StateChange, Error: 110}, "ETIMEDOUT"},
	} {
		if got := lines(t, Options{Columns: []string{"detail"}, NoHeader: true}, &test.e); got != test.want+"\n" {
			t.Errorf("%swant %s", got, test.want)
		}
	}
}

func TestDurations(t *testing.T) {
	const us, ms, s, m, h = time.Microsecond, time.Millisecond, time.Second, time.Minute, time.Hour
	for d, want := range map[time.Duration]string{
		0:                     "0ms",
		499:                   "0us",
		47 * us:               "47us",
		999*us + 499:          "999us",
		999*us + 500:          "1ms",
		4100 * us:             "4.1ms",
		9949 * us:             "9.9ms",
		9950 * us:             "10ms",
		204 * ms:              "204ms",
		999*ms + 499*us:       "999ms",
		999*ms + 500*us:       "1s",
		1024 * ms:             "1.02s",
		1500 * ms:             "1.5s",
		9994 * ms:             "9.99s",
		9995 * ms:             "10s",
		12345 * ms:            "12.3s",
		59949 * ms:            "59.9s",
		59950 * ms:            "1m0s",
		131 * s:               "2m11s",
		15*m + 24*s:           "15m24s",
		h - 501*ms:            "59m59s",
		h - 500*ms:            "1h0m",
		3*h + 59*m + 29*s:     "3h59m",
		3*h + 59*m + 30*s:     "4h0m",
		100 * h:               "100h0m",
		-204 * ms:             "-204ms",
		math.MaxInt64:         "2562047h47m",
		math.MinInt64:         "-2562047h47m",
		2*h + 5*m + 3*s + 1*s: "2h5m",
	} {
		if got := string(appendDuration(nil, d)); got != want {
			t.Errorf("%v = %s, want %s", d, got, want)
		}
	}
}
