// SPDX-License-Identifier: Apache-2.0

package events

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// record builds the bytes of a record; each step writes fields of bpf/record.h
// at their offsets.
type record []byte

func newRecord(t Type, n int) record {
	r := make(record, n)
	binary.LittleEndian.PutUint64(r, 1_000_000_007) // time
	r.addr(40, "192.0.2.1")
	r.addr(56, "192.0.2.2")
	r.u16(72, 40000).u16(74, 443)
	r[92] = byte(t)
	r[93] = byte(Established)
	return r
}

func (r record) addr(off int, a string) record {
	b := netip.MustParseAddr(a).As16()
	copy(r[off:], b[:])
	return r
}

func (r record) u8(off int, v uint8) record   { r[off] = v; return r }
func (r record) u16(off int, v uint16) record { binary.LittleEndian.PutUint16(r[off:], v); return r }
func (r record) u32(off int, v uint32) record { binary.LittleEndian.PutUint32(r[off:], v); return r }

func rtx() record { return newRecord(Retransmit, retransmitLen) }

func decode(t *testing.T, r record) Event {
	t.Helper()
	d := Decoder{HZ: 250, Reasons: []string{"NOT_SPECIFIED", "NO_SOCKET", "TCP_ABORT_ON_DATA"}, Wall: 1e18}
	var e Event
	if _, err := d.Decode(r, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDecodeRetransmit(t *testing.T) {
	r := rtx().u32(80, 1000).u8(94, sockKnown).u32(84, 77).u32(76, 4026531840)
	copy(r[96:], "curl")
	r.u32(112, 100).u32(116, 1548).u32(120, 1448).u32(124, 1)
	r.u32(128, 51).u32(140, 8*250).u32(144, 4*100)
	r.u32(152, 1).u32(156, 7).u32(160, 3).u32(164, 9).u32(168, 0).u32(172, 65535)
	r.u32(180, 200).u16(188, uint16(PSH|ACK))
	r.u8(195, uint8(CALoss)).u8(196, 2).u8(197, 1).u8(198, sackedLost).u8(201, 15)
	got := decode(t, r)
	want := Event{
		Time: 1e18 + 1_000_000_007, Boot: 1_000_000_007, Type: Retransmit, Family: 4,
		LAddr: netip.MustParseAddr("192.0.2.1"), RAddr: netip.MustParseAddr("192.0.2.2"),
		LPort: 40000, RPort: 443, State: Established, NetNS: 4026531840, UID: 1000, PID: 77,
		Comm: Comm{'c', 'u', 'r', 'l'}, Kind: KindRTO, Phase: PhaseData, Flags: PSH | ACK,
		Seq: 100, EndSeq: 1548, Len: 1448, Segs: 1, Attempt: 2, Backoff: 1,
		RTO: 204 * ms, NextRTO: 408 * ms, SRTT: 250 * time.Microsecond, RTTVar: 100 * time.Microsecond,
		Cwnd: 1, Ssthresh: 7, CAState: CALoss, TotalRetrans: 3, DataSegsOut: 9, GivesUp: got.GivesUp,
		Known: HasUID | HasOrphan | HasFlags | HasSeq | HasBackoff | HasRTO | HasNextRTO | HasSRTT |
			HasCwnd | HasSsthresh | HasCAState | HasTotals | HasGivesUp,
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreUnexported(Event{})); diff != "" {
		t.Error(diff)
	}
	if got.GivesUp < 924*time.Second {
		t.Errorf("gives up after %v, before model(15)", got.GivesUp)
	}
}

// Each row is a signature of kernel-side facts and the mechanism behind it.
func TestClassify(t *testing.T) {
	const (
		pendingRetrans = 1
		lost           = sackedLost
	)
	base := func() record { return rtx().u32(172, 65535).u16(188, uint16(ACK)) }
	for _, tt := range []struct {
		name string
		r    record
		want Kind
	}{
		{"SYN", base().u8(93, uint8(SynSent)).u16(188, uint16(SYN)).u8(195, 4).u8(196, 1).u32(172, 0), KindSYN},
		{"simultaneous open", base().u8(93, uint8(SynRecv)).u16(188, uint16(SYN|ACK)).u8(195, 4).u8(196, 1), KindSYNACK},
		{"request", base().u8(93, uint8(NewSynRecv)).u16(190, rtxRequest), KindSYNACK},
		{"RTO", base().u8(195, 4).u8(196, 1).u8(198, lost), KindRTO},
		{"shrunk window", base().u32(172, 0).u8(195, 4).u8(198, lost), KindProbe},
		{"orphan's RTO in a closed window", base().u32(172, 0).u8(94, sockKnown|sockOrphan).u8(195, 4).u8(196, 1), KindRTO},
		{"TLP", base().u8(194, timeLossProbe).u16(190, rtxTimerExpired), KindTLP},
		{"fast with a loss probe pending", base().u8(194, timeLossProbe).u8(195, 3).u8(198, lost), KindFast},
		{"RACK", base().u8(194, timeReoTimeout).u16(190, rtxTimerExpired).u8(195, 3).u8(198, lost), KindRACK},
		{"fast with a reordering timer pending", base().u8(194, timeReoTimeout).u8(195, 3).u8(198, lost), KindFast},
		{"fast", base().u8(194, pendingRetrans).u8(195, 3).u8(198, lost), KindFast},
		{"after an RTO", base().u8(194, pendingRetrans).u8(195, 4).u8(198, lost).u16(190, rtxUndo), KindLoss},
		{"after an RTO, no progress yet", base().u8(194, pendingRetrans).u8(195, 4).u8(196, 1).u8(198, lost), KindLoss},
		{"path MTU", base().u8(194, pendingRetrans).u8(195, 4).u8(198, lost), KindPMTU},
		{"Fast Open", base().u8(194, pendingRetrans).u8(195, 4).u8(198, lost).u16(190, rtxTFOData), KindTFO},
		{"Fast Open, older", base().u8(194, pendingRetrans).u16(190, rtxTFOData), KindTFO},
		{"Fast Open, then an RTO", base().u8(195, 4).u8(196, 1).u8(198, lost).u16(190, rtxTFOData|rtxTimerExpired), KindRTO},
		{"Open but lost", base().u8(194, pendingRetrans).u8(198, lost), KindFast},
		{"nothing known", base().u8(194, pendingRetrans), KindUnknown},
	} {
		if got := decode(t, tt.r).Kind; got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestDecodeSYNACK(t *testing.T) {
	base := func() record {
		return rtx().u8(93, uint8(NewSynRecv)).u16(190, rtxRequest).u8(199, 5)
	}
	timer := decode(t, base().u16(190, rtxRequest|rtxTimerExpired).u8(196, 1).u8(197, 1))
	if timer.Attempt != 2 || timer.RTO != 2*time.Second || timer.NextRTO != 4*time.Second || timer.Phase != PhaseConnect {
		t.Errorf("by timer: %+v", timer)
	}
	peer := decode(t, base())
	if peer.Attempt != 0 || peer.RTO != time.Second || peer.NextRTO != time.Second {
		t.Errorf("the peer repeated its SYN: %+v", peer)
	}
	if timer.Has(HasCwnd) || timer.Has(HasCAState) {
		t.Error("a request socket has no congestion window")
	}
}

func TestDecodeReset(t *testing.T) {
	base := func(bits uint16, reason uint32) record {
		return newRecord(Reset, resetLen).u16(116, bits).u32(120, reason)
	}
	trigger := func(r record, flags Flags, options ...byte) record {
		binary.BigEndian.PutUint32(r[128:], 11)
		binary.BigEndian.PutUint32(r[132:], 22)
		n := tcpHeaderLen + len(options)
		binary.BigEndian.PutUint16(r[136:], uint16(n/4)<<12|uint16(flags))
		copy(r[144:], options)
		return r.u8(119, uint8(n)).u8(118, 64)
	}

	e := decode(t, trigger(base(rstTrigger|rstNoSocket|rstReason, 1), SYN, 2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0))
	if e.Kind != KindRefused || e.Direction != Sent || e.Reason != "NO_SOCKET" || e.TriggerFlags != SYN ||
		e.TriggerSeq != 11 || e.TriggerAck != 22 || !e.TriggerTimestamps || e.TriggerTTL != 64 || !e.Has(HasTrigger|HasTTL) {
		t.Errorf("closed port: %+v", e)
	}
	if e := decode(t, trigger(base(rstTrigger|rstNoSocket, 0), SYN, 8, 0, 0, 0)); e.TriggerTimestamps {
		t.Error("an option shorter than its own header was believed")
	}
	if e := decode(t, base(rstReason, 77)); e.Reason != "77" {
		t.Errorf("a reason without a name: %q", e.Reason)
	}
	if e := decode(t, base(rstReceived, 0)[:receivedLen]); e.Kind != KindPeer || e.Direction != Received || e.Reason != "" || e.Has(HasTrigger) {
		t.Errorf("received: %+v", e)
	}
}

func TestClassifyReset(t *testing.T) {
	for _, tt := range []struct {
		name  string
		s     resetSignature
		want  Kind
		state State
	}{
		{"unread", resetSignature{bits: rstClosed | rstLinger0 | rstRcvShutdown, reason: "TCP_ABORT_ON_CLOSE"}, KindUnreadData, 0},
		{"unread, no reason", resetSignature{bits: rstClosed | rstUnread | rstLinger0 | rstRcvShutdown}, KindUnreadData, 0},
		{"linger 0", resetSignature{bits: rstClosed | rstLinger0 | rstRcvShutdown, reason: "TCP_STATE"}, KindLinger, 0},
		{"linger 0, no reason", resetSignature{bits: rstClosed | rstLinger0 | rstRcvShutdown}, KindLinger, 0},
		{"linger2", resetSignature{reason: "TCP_ABORT_ON_LINGER"}, KindLinger, 0},
		{"linger2, no reason", resetSignature{state: FinWait2, orphan: true, bits: rstClosed | rstLinger2 | rstRcvShutdown}, KindLinger, FinWait2},
		{"FIN_WAIT2 timed out", resetSignature{state: FinWait2, orphan: true, reason: "TCP_STATE"}, KindAbort, FinWait2},
		{"too many orphans, no reason", resetSignature{state: FinWait1, orphan: true}, KindAbort, FinWait1},
		{"disconnected", resetSignature{bits: rstClosed | rstAttached, reason: "TCP_STATE"}, KindAbort, 0},
		{"ss -K", resetSignature{state: Established, bits: rstAttached, reason: "TCP_STATE"}, KindAbort, Established},
		{"ss -K, no reason", resetSignature{state: Established, bits: rstAttached, skErr: econnaborted}, KindAbort, Established},
		{"a reason that says nothing of it", resetSignature{state: Established, bits: rstAttached, reason: "ERROR"}, KindOther, Established},
		{"listener closed", resetSignature{bits: rstClosed, reason: "TCP_STATE"}, KindAbort, 0},
		{"keepalive", resetSignature{state: Established, bits: rstAttached, reason: "TCP_KEEPALIVE_TIMEOUT"}, KindKeepalive, Established},
		{"keepalive, no reason", resetSignature{state: Established, bits: rstAttached | rstProbed}, KindKeepalive, Established},
		{"ss -K, no reason, error set later", resetSignature{state: Established, bits: rstAttached}, KindAbort, Established},
		{"time wait", resetSignature{state: TimeWait, answered: true, flags: ACK, reason: "TCP_TIMEWAIT_SOCKET"}, KindTimeWait, TimeWait},
		{"data after close", resetSignature{state: FinWait2, bits: rstClosed, answered: true, flags: PSH | ACK, reason: "TCP_ABORT_ON_DATA"}, KindDataAfterClose, FinWait2},
		{"bad ack", resetSignature{state: SynSent, answered: true, flags: ACK, reason: "TCP_INVALID_ACK_SEQUENCE"}, KindBadAck, SynSent},
		{"overflow", resetSignature{state: Listen, answered: true, flags: ACK, reason: "INVALID_SYN"}, KindOverflow, NewSynRecv},
		{"overflow, no reason", resetSignature{state: Listen, bits: rstBacklogFull, answered: true, flags: ACK}, KindOverflow, NewSynRecv},
		{"stray ACK", resetSignature{state: Listen, answered: true, flags: ACK, reason: "TCP_FLAGS"}, KindOther, Listen},
		{"no such connection", resetSignature{bits: rstNoSocket, answered: true, flags: ACK, reason: "NO_SOCKET"}, KindOther, 0},
	} {
		got, why := classifyReset(&tt.s)
		if got != tt.want || tt.s.state != tt.state || why == "" {
			t.Errorf("%s: %v in %v (%q), want %v in %v", tt.name, got, tt.s.state, why, tt.want, tt.state)
		}
	}
}

func TestFamilies(t *testing.T) {
	for _, tt := range []struct {
		l, r   string
		family uint8
		raddr  bool
	}{
		{"192.0.2.1", "192.0.2.2", 4, true},
		{"::ffff:192.0.2.1", "::ffff:192.0.2.2", 4, true},
		{"2001:db8::1", "2001:db8::2", 6, true},
		{"::", "192.0.2.2", 4, true}, // a v6 socket that connects to IPv4
	} {
		e := decode(t, rtx().addr(40, tt.l).addr(56, tt.r))
		if e.Family != tt.family || e.RAddr.IsValid() != tt.raddr || e.LAddr.Is4In6() || e.RAddr.Is4In6() {
			t.Errorf("%s, %s: family %d, %v -> %v", tt.l, tt.r, e.Family, e.LAddr, e.RAddr)
		}
	}
	listener := decode(t, newRecord(StateChange, stateLen).addr(40, "::").addr(56, "::").u16(74, 0))
	if listener.Family != 6 || listener.RAddr.IsValid() || !listener.LAddr.IsUnspecified() {
		t.Errorf("listener: %+v", listener)
	}
	none := decode(t, newRecord(Reset, resetLen).addr(40, "::").addr(56, "::").u16(72, 0).u16(74, 0))
	if none.Family != 0 || none.LAddr.IsValid() || none.RAddr.IsValid() {
		t.Errorf("nothing known: %+v", none)
	}
}

func TestDecodeErrors(t *testing.T) {
	d := Decoder{}
	var e Event
	for _, b := range [][]byte{nil, make([]byte, headerLen-1), make([]byte, headerLen), rtx()[:retransmitLen-1],
		newRecord(Reset, resetLen)[:headerLen], newRecord(StateChange, stateLen)[:stateLen-1],
		newRecord(StateChange, closeLen).u8(112, uint8(Established)).u8(113, uint8(Close))[:closeLen-1], newRecord(Lost, 256)} {
		if _, err := d.Decode(b, &e); !errors.Is(err, ErrRecord) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

func TestUnknownHZ(t *testing.T) {
	var e Event
	if _, err := new(Decoder).Decode(rtx().u32(128, 51).u8(195, 4).u8(196, 1).u32(172, 1), &e); err != nil {
		t.Fatal(err)
	}
	if e.Kind != KindRTO || e.Has(HasRTO) || e.Has(HasGivesUp) {
		t.Errorf("an RTO in unknown units: %+v", e)
	}
}

func TestFailed(t *testing.T) {
	change := func(from, to State, e Errno, unacked, srtt time.Duration) Event {
		ev := Event{Type: StateChange, OldState: from, NewState: to, Error: e, Unacked: unacked, SRTT: srtt}
		if unacked != 0 {
			ev.Known |= HasUnacked
		}
		return ev
	}
	for _, tt := range []struct {
		e    Event
		want bool
	}{
		{change(Established, Close, 110, 0, ms), true},
		{change(SynSent, Close, 0, 0, 0), true},
		{change(SynSent, Close, 0, ms, 0), true}, // the application gave up
		{change(SynSent, Established, 0, 0, ms), false},
		{change(Listen, Close, 0, 0, 0), false},
		{change(LastAck, Close, 0, 0, 0), false},
		{change(Established, Close, 0, 0, ms), false},
		{change(Established, FinWait1, 0, 0, ms), false},
		{change(Established, FinWait1, 0, 49*ms, ms), false},
		{change(Established, FinWait1, 0, 50*ms, ms), true},
		{change(Established, FinWait1, 0, 199*ms, 100*ms), false},
		{change(Established, FinWait1, 0, 200*ms, 100*ms), true},
		{change(CloseWait, LastAck, 0, 300*ms, 0), true},
		{change(Established, Close, 0, 300*ms, ms), true},
		{change(Established, CloseWait, 0, 300*ms, ms), false},
		{Event{Type: StateChange, OldState: Established, NewState: FinWait1, UnackedRetrans: true}, true},
		{Event{Type: Retransmit, NewState: Close, Error: 1}, false},
	} {
		if got := tt.e.Failed(); got != tt.want {
			t.Errorf("%v to %v, error %v, %v unacknowledged, SRTT %v: failed %v", tt.e.OldState, tt.e.NewState, tt.e.Error, tt.e.Unacked, tt.e.SRTT, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(rtx()))
	f.Add([]byte(rtx().u8(199, 255).u8(200, 255).u8(201, 255).u32(136, 1).u8(195, 4).u8(196, 1)))
	f.Add([]byte(newRecord(Reset, resetLen).u16(116, rstTrigger).u8(119, 60)))
	f.Add([]byte(newRecord(Reset, receivedLen).u16(116, rstReceived)))
	f.Add([]byte(newRecord(StateChange, stateLen)))
	f.Add([]byte(newRecord(StateChange, closeLen).u8(112, uint8(CloseWait)).u8(113, uint8(LastAck)).u32(128, 51)))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := Decoder{HZ: 1000}
		var e Event
		if _, err := d.Decode(b, &e); err == nil && (e.RTO < 0 || e.NextRTO < 0 || e.GivesUp < 0) {
			t.Errorf("negative duration: %+v", e)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	d := Decoder{HZ: 250}
	r := rtx().u8(195, 4).u8(196, 1).u8(201, 15).u32(128, 51).u32(172, 1)
	var e Event
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(r, &e); err != nil {
			b.Fatal(err)
		}
	}
}
