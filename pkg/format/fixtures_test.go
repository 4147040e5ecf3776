// SPDX-License-Identifier: Apache-2.0

package format

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// at is 2026-03-14 13:09:26.535897932 UTC.
var at = time.Date(2026, 3, 14, 13, 9, 26, 535897932, time.UTC).UnixNano()

// plus530 is a time zone without an even hour, so that a mistake shows.
var plus530 = time.FixedZone("", (5*60+30)*60)

var longestIPv6 = netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")

func comm(s string) (c events.Comm) {
	copy(c[:], s)
	return c
}

// owned fills what every event of a socket can have.
func owned(e events.Event) *events.Event {
	e.Time = at
	e.Family = 4
	e.LAddr, e.LPort = netip.MustParseAddr("10.0.0.1"), 40312
	e.RAddr, e.RPort = netip.MustParseAddr("::ffff:192.0.2.7"), 443
	e.Conn = 0xfedcba9876543210
	e.Cookie = 0x1f
	e.NetNS, e.NetNSName = 4026531840, "blue"
	e.Inode = 31337
	e.UID, e.User = 0, "root"
	e.Cgroup = "/system.slice/nginx.service"
	e.Unit, e.Container, e.Pod = "nginx.service", "c0ffee4711aa", "5be2cfa7"
	e.PID, e.Comm = 4711, comm("nginx")
	e.Sharers = []uint32{4711, 4712}
	e.Known |= events.HasUID | events.HasOrphan
	return &e
}

// aRetransmit has everything that a retransmission can have.
func aRetransmit() *events.Event {
	return owned(events.Event{
		Type: events.Retransmit, State: events.Established,
		Known: events.HasFlags | events.HasSeq | events.HasBackoff | events.HasRTO | events.HasNextRTO |
			events.HasSRTT | events.HasCwnd | events.HasSsthresh | events.HasCAState | events.HasTotals |
			events.HasGivesUp | events.HasAcceptQueue,
		Kind: events.KindRTO, Phase: events.PhaseData, Flags: events.PSH | events.ACK,
		Seq: 4294967295, EndSeq: 1447, Len: 1448, Segs: 1, Attempt: 3, Backoff: 2,
		RTO: 1024500 * time.Microsecond, NextRTO: 2049 * time.Millisecond,
		SRTT: 47 * time.Microsecond, RTTVar: 204 * time.Millisecond,
		Cwnd: 1, Ssthresh: 7, CAState: events.CALoss,
		TotalRetrans: 4, Gap: 2, DataSegsOut: 90, DSACKDups: 0,
		GivesUp: 15*time.Minute + 24*time.Second, UserTimeout: 30 * time.Second,
		AcceptQueue: 5, AcceptQueueMax: 4, Error: 16,
	})
}

// aReset has everything that a reset can have.
func aReset() *events.Event {
	return owned(events.Event{
		Type: events.Reset, State: events.Established,
		Known: events.HasTrigger | events.HasTTL | events.HasReason,
		Kind:  events.KindUnreadData, Direction: events.Sent,
		Reason: "TCP_ABORT_ON_CLOSE", Why: "closed with unread data",
		TriggerFlags: events.ACK, TriggerSeq: 0, TriggerAck: 4000000000, TriggerTimestamps: true, TriggerTTL: 64,
	})
}

// aChange has everything that a state change can have.
func aChange() *events.Event {
	return owned(events.Event{
		Type: events.StateChange, State: events.Close,
		Known:    events.HasUnacked | events.HasSRTT | events.HasRTO | events.HasTotals,
		OldState: events.SynSent, NewState: events.Close, Error: 110, Unacked: 131 * time.Second, UnackedRetrans: true,
		SRTT: 47 * time.Microsecond, RTTVar: 204 * time.Millisecond, RTO: 816 * time.Millisecond,
		TotalRetrans: 1, DataSegsOut: 8, DSACKDups: 0,
	})
}

func aLoss() *events.Event {
	return &events.Event{Type: events.Lost, Time: at, Count: 12, Of: events.Reset}
}

// hostile is as much harm as fits a process's name, in several helpings.
var hostile = []string{
	"\x1b]0;pwned\x07\"a,b\n",
	"\xc2\x9b31m\x9b31m\xc2\x85", // C1 controls, as UTF-8 and alone
	"a\u202eb\u2066c\u200ed",     // bidirectional
	"a\u2028b\u200bc\ufeffd",     // line separator, zero width
	"=1+1|'x'!A1",                // a spreadsheet's formula
	"a\\nb\\x1b\\\\c\r\t",        // escapes already, and real ones
	"caf\u00e9 \u4e16\u754c",     // harmless
	"\xff\xfe\xe2\x82",           // not UTF-8
	"-", " x ", "\U000e0041\U0001f600\u0301",
}

func mustNew(t testing.TB, o Options) *Printer {
	t.Helper()
	if o.Location == nil {
		o.Location = time.UTC
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// all is one event of each type that an application's socket can have.
func all() []*events.Event { return []*events.Event{aRetransmit(), aReset(), aChange()} }

// lines prints the header and the events.
func lines(t testing.TB, o Options, list ...*events.Event) string {
	t.Helper()
	p := mustNew(t, o)
	b := p.AppendHeader(nil)
	for _, e := range list {
		b = p.AppendEvent(b, e)
	}
	return string(b)
}
