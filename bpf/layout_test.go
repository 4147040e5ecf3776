// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tcptrace/tcptrace/bpf"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// The types that bpf2go makes of the C records are the truth about the layout:
// what is written through them must come out of the decoder.

func decode(t *testing.T, rec any) events.Event {
	t.Helper()
	b, err := binary.Append(nil, binary.LittleEndian, rec)
	if err != nil {
		t.Fatal(err)
	}
	d := events.Decoder{HZ: 1000, Reasons: []string{2: "TEST"}}
	var e events.Event
	lost, err := d.Decode(b, &e)
	if err != nil {
		t.Fatal(err)
	}
	if lost != 7 {
		t.Errorf("lost %d, want 7", lost)
	}
	return e
}

func same(t *testing.T, want, got events.Event) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreUnexported(events.Event{})); diff != "" {
		t.Error(diff)
	}
}

// native is how the kernel side holds an address: network order in memory.
func native(a string) (out [4]uint32) {
	b := netip.MustParseAddr(a).As16()
	for i := range out {
		out[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return out
}

func TestRetransmitLayout(t *testing.T) {
	var r bpf.TcptraceRetransmit
	h := &r.H
	h.Time, h.Conn, h.Cookie, h.Inode, h.Cgroup = 1, 2, 3, 4, 5
	h.Laddr, h.Raddr = native("2001:db8::1"), native("2001:db8::2")
	h.Lport, h.Rport, h.Netns, h.Uid, h.Pid, h.Lost = 6, 8, 9, 10, 11, 7
	h.Type, h.State, h.Bits = uint8(events.Retransmit), uint8(events.Established), 3
	h.Comm = [16]int8{'x'}
	r.Seq, r.EndSeq, r.Len, r.Segs, r.Rto, r.RtoMax = 12, 13, 14, 15, 16, 17000
	r.RtoMin, r.Srtt, r.Mdev, r.Rttvar = 1, 18<<3, 19<<2, 20
	r.Cwnd, r.Ssthresh, r.TotalRetrans, r.DataSegsOut, r.DsackDups = 21, 22, 23, 24, 25
	r.SndWnd, r.UserTimeout, r.Elapsed = 26, 1000, 900
	r.Err = -16
	r.TcpFlags, r.Bits = uint16(events.FIN), 0
	r.Pending, r.CaState, r.Retransmits, r.Backoff = 0, uint8(events.CALoss), 27, 28
	same(t, events.Event{
		Time: 1, Boot: 1, Type: events.Retransmit, Conn: 2, Cookie: 3, Inode: 4, HolderInode: 4, CgroupID: 5,
		Family: 6, LAddr: netip.MustParseAddr("2001:db8::1"), RAddr: netip.MustParseAddr("2001:db8::2"),
		LPort: 6, RPort: 8, NetNS: 9, UID: 10, PID: 11, State: events.Established, Orphan: true,
		Comm: events.Comm{'x'}, Kind: events.KindRTO, Phase: events.PhaseData, Error: 16, Flags: events.FIN,
		Seq: 12, EndSeq: 13, Len: 14, Segs: 15, Attempt: 27, Backoff: 28,
		RTO: 16 * time.Millisecond, NextRTO: 32 * time.Millisecond, GivesUp: 100 * time.Millisecond, UserTimeout: time.Second,
		SRTT: 18 * time.Microsecond, RTTVar: 19 * time.Microsecond, Cwnd: 21, Ssthresh: 22,
		CAState: events.CALoss, TotalRetrans: 23, DataSegsOut: 24, DSACKDups: 25,
		Known: events.HasUID | events.HasOrphan | events.HasFlags | events.HasSeq | events.HasBackoff |
			events.HasRTO | events.HasNextRTO | events.HasSRTT | events.HasCwnd | events.HasSsthresh |
			events.HasCAState | events.HasTotals | events.HasGivesUp,
	}, decode(t, &r))

	r.H.Bits = 1<<2 | 3 // a request: the inode is its listener's
	if e := decode(t, &r); e.Inode != 0 || e.HolderInode != 4 {
		t.Errorf("request: inode %d, holders of %d", e.Inode, e.HolderInode)
	}

	// The limits and settings show in when the kernel gives up.
	r.UserTimeout, r.Err = 0, 0
	r.H.Bits = 1
	r.H.State, r.TcpFlags = uint8(events.SynSent), uint16(events.SYN)
	r.Rto, r.RtoMax, r.Elapsed = 1000, 0, 1000
	r.Retransmits, r.Timeouts, r.SynRetries, r.LinearTimeouts = 1, 1, 2, 1
	if e := decode(t, &r); e.NextRTO != time.Second || e.GivesUp != 7*time.Second {
		t.Errorf("SYN: next %v, gives up after %v", e.NextRTO, e.GivesUp)
	}
	r.H.State, r.TcpFlags, r.Rto = uint8(events.Established), uint16(events.ACK), 200
	r.Retries2, r.Elapsed = 3, 0
	if e := decode(t, &r); e.GivesUp != 6*time.Second {
		t.Errorf("tcp_retries2: gives up after %v", e.GivesUp)
	}
	r.H.State, r.H.Bits, r.OrphanRetries = uint8(events.FinWait1), 3, 1
	if e := decode(t, &r); e.GivesUp != 1200*time.Millisecond {
		t.Errorf("tcp_orphan_retries: gives up after %v", e.GivesUp)
	}
	r.Bits = 1 << 2 // thin: (srtt + 4 * rttvar) without backoff
	r.H.State, r.H.Bits, r.Srtt, r.Rttvar, r.RtoMin = uint8(events.Established), 1, 100_000<<3, 150_000, 200
	if e := decode(t, &r); e.NextRTO != 250*time.Millisecond {
		t.Errorf("thin stream: next RTO %v", e.NextRTO)
	}
	r.Pending, r.Sacked, r.CaState = 6, 4, uint8(events.CALoss)
	if e := decode(t, &r); e.Kind != events.KindLoss {
		t.Errorf("retransmits %d: kind %v", r.Retransmits, e.Kind)
	}
	r.Pending, r.SndWnd = 0, 0
	if e := decode(t, &r); e.Kind != events.KindProbe {
		t.Errorf("shrunk window: kind %v", e.Kind)
	}
	r.Pending, r.Sacked = 5, 0
	if e := decode(t, &r); e.Kind != events.KindTLP || e.Has(events.HasAcceptQueue) || e.UserTimeout != 0 {
		t.Errorf("loss probe: %+v", e)
	}

	// A request has no congestion window, but a listener with a queue.
	r.H.State, r.Bits, r.Cwnd, r.Ssthresh = uint8(events.NewSynRecv), 1, 5, 4
	if e := decode(t, &r); !e.Has(events.HasAcceptQueue) || e.AcceptQueue != 5 || e.AcceptQueueMax != 4 || e.Has(events.HasCwnd) || e.Cwnd != 0 || e.Ssthresh != 0 {
		t.Errorf("SYN-ACK: %+v", e)
	}
	r.H.State = uint8(events.SynRecv)
	if e := decode(t, &r); e.Kind != events.KindSYNACK || e.Has(events.HasAcceptQueue) {
		t.Errorf("a Fast Open child's SYN-ACK: %+v", e)
	}
}

func TestResetLayout(t *testing.T) {
	var r bpf.TcptraceReset
	r.H.Type, r.H.Lost = uint8(events.Reset), 7
	r.Reason, r.SkErr, r.Bits, r.Ttl, r.TcpLen = 2, 103, 1<<1|1<<3, 63, 20
	tcp := make([]byte, 4*len(r.Tcp))
	binary.BigEndian.PutUint32(tcp[4:], 1000)
	binary.BigEndian.PutUint32(tcp[8:], 2000)
	binary.BigEndian.PutUint16(tcp[12:], 5<<12|uint16(events.ACK))
	for i := range r.Tcp {
		r.Tcp[i] = binary.NativeEndian.Uint32(tcp[4*i:])
	}
	e := decode(t, &r)
	if e.Reason != "TEST" || e.TriggerTTL != 63 || e.TriggerSeq != 1000 || e.TriggerAck != 2000 || e.TriggerFlags != events.ACK {
		t.Errorf("%+v", e)
	}
	r.Bits = 0
	if e := decode(t, &r); e.Kind != events.KindAbort {
		t.Errorf("sk_err is not where it should be: %v", e.Kind)
	}

	// A received one ends before the reason.
	r.Bits = 1
	b, err := binary.Append(nil, binary.LittleEndian, &r)
	if err != nil {
		t.Fatal(err)
	}
	if e := decode(t, b[:unsafe.Offsetof(r.Reason)]); e.Kind != events.KindPeer {
		t.Errorf("received: %v", e.Kind)
	}
}

func TestStateLayout(t *testing.T) {
	var r bpf.TcptraceStateChange
	r.H.Type, r.H.Lost = uint8(events.StateChange), 7
	r.OldState, r.NewState, r.Err, r.Unacked = uint8(events.SynSent), uint8(events.Close), 110, 5
	r.Srtt, r.Mdev, r.Rto, r.TotalRetrans, r.DataSegsOut, r.DsackDups = 6<<3, 7<<2, 8, 9, 10, 11
	want := events.Event{
		Type: events.StateChange, OldState: events.SynSent, NewState: events.Close, Error: 110,
		Unacked: 5 * time.Microsecond, Known: events.HasUnacked,
	}
	short := func() []byte {
		b, err := binary.Append(nil, binary.LittleEndian, &r)
		if err != nil {
			t.Fatal(err)
		}
		return b[:unsafe.Offsetof(r.Srtt)]
	}
	same(t, want, decode(t, short()))
	r.Unacked = 1<<32 - 1
	if e := decode(t, short()); !e.UnackedRetrans || e.Has(events.HasUnacked) || e.Unacked != 0 {
		t.Errorf("sent again: %+v", e)
	}
	r.Unacked = 5

	want.Known |= events.HasSRTT | events.HasRTO | events.HasTotals
	want.SRTT, want.RTTVar, want.RTO = 6*time.Microsecond, 7*time.Microsecond, 8*time.Millisecond
	want.TotalRetrans, want.DataSegsOut, want.DSACKDups = 9, 10, 11
	for _, change := range [][2]events.State{
		{events.Established, events.Close}, {events.Established, events.FinWait1},
		{events.CloseWait, events.Close}, {events.CloseWait, events.LastAck},
	} {
		r.OldState, r.NewState = uint8(change[0]), uint8(change[1])
		want.OldState, want.NewState = change[0], change[1]
		same(t, want, decode(t, &r))
		if _, err := new(events.Decoder).Decode(short(), new(events.Event)); !errors.Is(err, events.ErrRecord) {
			t.Errorf("%v to %v without its end: %v", change[0], change[1], err)
		}
	}
}

func TestRecordSizes(t *testing.T) {
	if n := unsafe.Sizeof(bpf.TcptraceRetransmit{}); n > 256 {
		t.Errorf("a retransmission takes %d bytes", n)
	}
	if n := unsafe.Sizeof(bpf.TcptraceReset{}); n > 256 {
		t.Errorf("a reset takes %d bytes", n)
	}
	if n, m := unsafe.Sizeof(bpf.TcptraceStateChange{}), unsafe.Sizeof(bpf.TcptraceReset{}); n >= m {
		t.Errorf("a state change takes %d bytes, no less than a reset's %d", n, m)
	}
}
