// SPDX-License-Identifier: Apache-2.0

package events

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// ErrRecord is what every error of [Decoder.Decode] wraps.
var ErrRecord = errors.New("malformed record")

// The sizes of the BPF side's records, bpf/record.h.
const (
	headerLen     = 112
	retransmitLen = 208
	receivedLen   = 120
	resetLen      = 184
	stateLen      = 120
	closeLen      = 144
)

const (
	sockKnown    = 1 << 0
	sockOrphan   = 1 << 1
	sockListener = 1 << 2
)

// Decoder makes events of the BPF side's records. Its fields are what the
// records of one kernel leave out.
type Decoder struct {
	HZ      uint32   // jiffies a second; 0 unknown: what depends on it is absent
	Reasons []string // names of enum sk_rst_reason, without the prefix, by value
	Wall    int64    // wall clock minus CLOCK_BOOTTIME, ns
}

// Decode makes *e of one record, b. It returns how many records the kernel had
// lost, of any type, when it made this one. It keeps no reference to b.
func (d *Decoder) Decode(b []byte, e *Event) (lost uint32, err error) {
	if len(b) < headerLen {
		return 0, fmt.Errorf("%w: %d bytes, less than a header", ErrRecord, len(b))
	}
	*e = Event{}
	le := binary.LittleEndian
	e.Boot = le.Uint64(b)
	e.Time = int64(e.Boot) + d.Wall
	e.Conn = le.Uint64(b[8:])
	e.Cookie = le.Uint64(b[16:])
	e.HolderInode = le.Uint64(b[24:])
	if b[94]&sockListener == 0 {
		e.Inode = e.HolderInode
	}
	e.CgroupID = le.Uint64(b[32:])
	l := netip.AddrFrom16([16]byte(b[40:56])).Unmap()
	r := netip.AddrFrom16([16]byte(b[56:72])).Unmap()
	e.LPort = le.Uint16(b[72:])
	e.RPort = le.Uint16(b[74:])
	e.setAddrs(l, r)
	e.NetNS = le.Uint32(b[76:])
	if bits := b[94]; bits&sockKnown != 0 {
		e.UID = le.Uint32(b[80:])
		e.Orphan = bits&sockOrphan != 0
		e.Known |= HasUID | HasOrphan
	}
	e.PID = le.Uint32(b[84:])
	lost = le.Uint32(b[88:])
	e.Type = Type(b[92])
	e.State = State(b[93])
	e.Comm = Comm(b[96:112])

	want := 0
	switch e.Type {
	case Retransmit:
		if want = retransmitLen; len(b) >= want {
			d.retransmit(b, e)
		}
	case Reset:
		if want = receivedLen; len(b) < want {
			break
		}
		if le.Uint16(b[116:])&(rstReceived|rstTrigger) != rstReceived {
			want = resetLen
		}
		if len(b) >= want {
			d.reset(b, e)
		}
	case StateChange:
		if want = stateLen; len(b) < want {
			break
		}
		if endsSending(State(b[112]), State(b[113])) {
			want = closeLen
		}
		if len(b) >= want {
			d.state(b, e)
		}
	default:
		return lost, fmt.Errorf("%w: type %d", ErrRecord, b[92])
	}
	if len(b) < want {
		return lost, fmt.Errorf("%w: %d bytes, a %s has %d", ErrRecord, len(b), e.Type, want)
	}
	return lost, nil
}

// setAddrs gives e its addresses, family first: the remote one decides, since
// a listener on [::] that also serves IPv4 has no family on the wire. The
// unspecified address is one that is not known, but for the local end of a
// listener, where it means all.
func (e *Event) setAddrs(l, r netip.Addr) {
	if l.IsUnspecified() && r.IsUnspecified() && l.Is6() && e.LPort == 0 && e.RPort == 0 {
		return // nothing was filled in
	}
	e.LAddr, e.RAddr = l, r
	switch {
	case !r.IsUnspecified() && r.Is4(), l.Is4():
		e.Family = 4
	default:
		e.Family = 6
	}
	if r.IsUnspecified() && e.RPort == 0 {
		e.RAddr = netip.Addr{}
	}
}

// setSRTT gives e its round-trip time, in the kernel's units.
func (e *Event) setSRTT(srtt, mdev uint32) {
	if srtt == 0 {
		return // no sample yet
	}
	e.SRTT = time.Duration(srtt>>3) * time.Microsecond
	e.RTTVar = time.Duration(mdev>>2) * time.Microsecond
	e.Known |= HasSRTT
}

// jiffies converts; the result is right to the nanosecond for the usual HZ.
func (d *Decoder) jiffies(j uint32) time.Duration {
	if d.HZ == 0 {
		return 0
	}
	return time.Duration(j) * time.Second / time.Duration(d.HZ)
}

const (
	rtxRequest      = 1 << 0
	rtxTimerExpired = 1 << 1
	rtxThinLinear   = 1 << 2
	rtxTFOData      = 1 << 3
	rtxUndo         = 1 << 4
	rtxSoftError    = 1 << 5
)

func (d *Decoder) retransmit(b []byte, e *Event) {
	le := binary.LittleEndian
	e.Seq = le.Uint32(b[112:])
	e.EndSeq = le.Uint32(b[116:])
	e.Len = le.Uint32(b[120:])
	e.Segs = max(1, le.Uint32(b[124:]))
	e.TotalRetrans = le.Uint32(b[160:])
	outcome := int32(le.Uint32(b[184:]))
	if outcome > 0 {
		e.Error = enobufs // NET_XMIT_DROP: net_xmit_errno() calls it that
	} else {
		e.Error = Errno(-outcome)
	}
	e.Flags = Flags(le.Uint16(b[188:]))
	e.Known |= HasFlags | HasSeq | HasBackoff
	e.Phase = phaseOf(e.State)
	bits := le.Uint16(b[190:])

	e.UserTimeout = time.Duration(le.Uint32(b[176:])) * time.Millisecond

	t := timer{
		rtoMax:        d.jiffies(le.Uint32(b[136:])),
		userTimeout:   e.UserTimeout,
		elapsed:       time.Duration(le.Uint32(b[180:])) * time.Millisecond,
		timeouts:      uint32(le.Uint16(b[192:])),
		retransmits:   uint32(b[196]),
		limit:         uint32(b[199]),
		linear:        uint32(b[200]),
		retries2:      uint32(b[201]),
		orphanRetries: uint32(b[202]),
		softError:     bits&rtxSoftError != 0,
		dropped:       outcome > 0,
		state:         e.State,
		orphan:        e.Orphan,
	}
	if t.rtoMax == 0 {
		t.rtoMax = defaultRTOMax
	}
	if bits&rtxRequest != 0 {
		d.synack(b, e, &t, bits&rtxTimerExpired != 0)
		return
	}

	e.Kind = classify(&signature{
		state: e.State, flags: e.Flags, orphan: e.Orphan, bits: bits,
		pending: b[194], ca: CAState(b[195]), sacked: b[198],
		retransmits: b[196], window: le.Uint32(b[172:]),
	})
	e.Backoff = uint32(b[197])
	e.setSRTT(le.Uint32(b[140:]), le.Uint32(b[144:]))
	e.Cwnd = le.Uint32(b[152:])
	e.Ssthresh = le.Uint32(b[156:])
	e.DataSegsOut = le.Uint32(b[164:])
	e.DSACKDups = le.Uint32(b[168:])
	e.CAState = CAState(b[195])
	e.Known |= HasCwnd | HasSsthresh | HasTotals | HasCAState
	if e.Kind == KindSYN || e.Kind == KindSYNACK || e.Kind == KindRTO {
		e.Attempt = t.retransmits
	}
	if d.HZ == 0 {
		return
	}
	t.rto = d.jiffies(le.Uint32(b[128:]))
	e.RTO = t.rto
	e.Known |= HasRTO
	if bits&rtxThinLinear != 0 {
		// __tcp_set_rto(): the smoothed RTT and its variation, no backoff.
		us := le.Uint32(b[140:])>>3 + le.Uint32(b[148:])
		t.thinRTO = max(time.Duration(us)*time.Microsecond, d.jiffies(le.Uint32(b[132:])))
	}
	switch e.Kind {
	case KindSYN, KindSYNACK, KindRTO:
		e.NextRTO, e.GivesUp = t.afterTimeout()
		e.Known |= HasNextRTO | HasGivesUp
	case KindProbe:
		// tcp_retransmit_timer() backs off, but the window's owner is alive:
		// nothing is given up while it answers.
		e.NextRTO, _ = t.afterTimeout()
		e.Known |= HasNextRTO
	}
}

// synack finishes the retransmission of a request socket's SYN-ACK. byTimer
// tells it from the answer to a SYN that the peer repeated.
func (d *Decoder) synack(b []byte, e *Event, t *timer, byTimer bool) {
	le := binary.LittleEndian
	e.Kind = KindSYNACK
	if e.State == NewSynRecv { // or else a Fast Open child, which has no queue
		e.AcceptQueue, e.AcceptQueueMax = le.Uint32(b[152:]), le.Uint32(b[156:])
		e.Known |= HasAcceptQueue
	}
	e.Backoff = t.retransmits
	if byTimer {
		e.Attempt = t.retransmits + 1
	}
	first := d.jiffies(le.Uint32(b[128:]))
	if first == 0 {
		first = initialRTO
	}
	e.RTO, e.NextRTO, e.GivesUp = t.afterSYNACK(first, byTimer)
	e.Known |= HasRTO | HasNextRTO | HasGivesUp
}

const (
	rstReceived    = 1 << 0
	rstTrigger     = 1 << 1
	rstNoSocket    = 1 << 2
	rstReason      = 1 << 3
	rstUnread      = 1 << 4
	rstLinger0     = 1 << 5
	rstRcvShutdown = 1 << 6
	rstAttached    = 1 << 7
	rstBacklogFull = 1 << 8
	rstClosed      = 1 << 9
	rstLinger2     = 1 << 10
	rstFirewall    = 1 << 11
	rstOutgoing    = 1 << 12
	rstProbed      = 1 << 13
)

func (d *Decoder) reset(b []byte, e *Event) {
	le := binary.LittleEndian
	s := resetSignature{
		bits:   le.Uint16(b[116:]),
		state:  e.State,
		orphan: e.Orphan,
		skErr:  Errno(le.Uint32(b[112:])),
	}
	if n := int(b[119]); s.bits&rstTrigger != 0 && n >= tcpHeaderLen && n <= 60 {
		d.trigger(b[124:124+n], e)
		e.TriggerTTL = b[118]
		e.Known |= HasTTL
	}
	if s.bits&rstReceived != 0 {
		e.Direction = Received
		e.Kind = KindPeer
		e.Why = whyReceived(e.State)
		e.shutdown = s.bits&rstRcvShutdown != 0
		return
	}
	e.Direction = Sent
	if s.bits&rstReason != 0 {
		e.Reason = d.reason(le.Uint32(b[120:]))
	}
	s.reason = e.Reason
	s.flags, s.answered = e.TriggerFlags, e.Has(HasTrigger)
	e.Kind, e.Why = classifyReset(&s)
	e.State = s.state
}

// reason is the running kernel's name; a number that it has no name for stays
// a number.
func (d *Decoder) reason(r uint32) string {
	if int64(r) < int64(len(d.Reasons)) && d.Reasons[r] != "" {
		return d.Reasons[r]
	}
	return fmt.Sprint(r)
}

const (
	tcpHeaderLen  = 20
	optEnd        = 0
	optNop        = 1
	optTimestamps = 8
)

// trigger reads a TCP header, with its options.
func (d *Decoder) trigger(h []byte, e *Event) {
	e.TriggerSeq = binary.BigEndian.Uint32(h[4:])
	e.TriggerAck = binary.BigEndian.Uint32(h[8:])
	e.TriggerFlags = Flags(binary.BigEndian.Uint16(h[12:])) & 0x1ff
	e.Known |= HasTrigger
	for o := h[tcpHeaderLen:]; len(o) > 0; {
		switch {
		case o[0] == optEnd:
			return
		case o[0] == optNop:
			o = o[1:]
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return // not one of ours to judge
		default:
			if o[0] == optTimestamps {
				e.TriggerTimestamps = true
			}
			o = o[o[1]:]
		}
	}
}

const sentAgain = 1<<32 - 1

// endsSending reports whether a socket could send data until this change.
func endsSending(from, to State) bool {
	return (from == Established || from == CloseWait) && (to == FinWait1 || to == LastAck || to == Close)
}

func (d *Decoder) state(b []byte, e *Event) {
	le := binary.LittleEndian
	e.OldState = State(b[112])
	e.NewState = State(b[113])
	e.Error = Errno(le.Uint16(b[114:]))
	switch us := le.Uint32(b[116:]); us {
	case 0:
	case sentAgain:
		e.UnackedRetrans = true
	default:
		e.Unacked = time.Duration(us) * time.Microsecond
		e.Known |= HasUnacked
	}
	if !endsSending(e.OldState, e.NewState) {
		return
	}
	e.setSRTT(le.Uint32(b[120:]), le.Uint32(b[124:]))
	if d.HZ != 0 {
		e.RTO = d.jiffies(le.Uint32(b[128:]))
		e.Known |= HasRTO
	}
	e.TotalRetrans = le.Uint32(b[132:])
	e.DataSegsOut = le.Uint32(b[136:])
	e.DSACKDups = le.Uint32(b[140:])
	e.Known |= HasTotals
}
