// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// traffic makes the events of a busy host, as the decoder would: long
// connections that retransmit, short ones that come and go, some of which are
// reset, in several namespaces and services.
type traffic struct {
	rnd    *rand.Rand
	boot   uint64
	wall   int64 // minus boot
	cookie uint64
	inode  uint64
	long   []*socket
	queue  []step // of short ones, by time
}

type socket struct {
	e            events.Event // what all of its events have
	seq          uint32
	mss          uint32
	srtt, rttvar time.Duration
	cwnd         uint32
	ssthresh     uint32
	total, sent  uint32
	dsacks       uint32
	backoff      uint32
	burst        int // fast retransmissions to come
}

type step struct {
	at  uint64
	s   *socket
	old events.State
	new events.State
}

type service struct {
	netns       uint32
	netnsName   string
	uid         uint32
	user        string
	cgroupID    uint64
	cgroup      string
	unit        string
	container   string
	pod         string
	pid         uint32
	comm        string
	sharers     []uint32
	port        uint16
	addr        netip.Addr
	listenInode uint64
}

func newTraffic(seed uint64, long int) *traffic {
	t := &traffic{
		rnd: rand.New(rand.NewPCG(seed, 1)), boot: 345_678_901_234_567, wall: 1773493766_123456789 - 345_678_901_234_567,
		cookie: 0x41a7, inode: 1_234_567,
	}
	services := t.services()
	for range long {
		t.long = append(t.long, t.socket(&services[t.rnd.IntN(len(services))]))
	}
	return t
}

func (t *traffic) services() (list []service) {
	for i, name := range []string{"nginx", "postgres", "sshd", "prometheus", "node_exporter", "curl", "java", "haproxy"} {
		list = append(list, service{
			netns: 4026531840, uid: uint32(100 + i), user: name, cgroupID: uint64(4000 + 37*i),
			cgroup: "/system.slice/" + name + ".service", unit: name + ".service", pid: uint32(800 + 53*i), comm: name,
			port: uint16(80 + 1000*i), addr: netip.MustParseAddr("10.20.0.5"),
		})
	}
	list[0].sharers = []uint32{800, 801, 802, 803, 804}
	for i := range 16 {
		id := fmt.Sprintf("%016x%016x%016x%016x", t.rnd.Uint64(), t.rnd.Uint64(), t.rnd.Uint64(), t.rnd.Uint64())
		pod := fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", t.rnd.Uint32(), t.rnd.Uint32()>>16, t.rnd.Uint32()>>20, t.rnd.Uint32()>>20, t.rnd.Uint64()>>16)
		list = append(list, service{
			netns: 4026532000 + 71*uint32(i), netnsName: fmt.Sprintf("cni-%08x", t.rnd.Uint32()), uid: 1000,
			cgroupID: uint64(9000 + 213*i),
			cgroup:   "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + pod + ".slice/cri-containerd-" + id + ".scope",
			unit:     "cri-containerd-" + id + ".scope", container: id, pod: pod,
			pid: uint32(20000 + 911*i), comm: []string{"envoy", "python3", "app", "redis-server"}[i%4],
			port: uint16(8000 + i), addr: netip.AddrFrom4([4]byte{10, 244, 3, byte(10 + i)}),
		})
	}
	for i := range list {
		list[i].listenInode = uint64(20_000 + 91*i)
	}
	return list
}

// socket makes one: of a server in two of three cases.
func (t *traffic) socket(s *service) *socket {
	r := t.rnd
	t.cookie += uint64(1 + r.IntN(3))
	t.inode += uint64(1 + r.IntN(9))
	k := &socket{mss: 1448, seq: r.Uint32(), cwnd: 10, ssthresh: 0x7fffffff}
	k.srtt = time.Duration(200+r.IntN(60000)) * time.Microsecond
	k.rttvar = k.srtt / time.Duration(2+r.IntN(8))
	k.sent = uint32(r.IntN(20000))
	e := &k.e
	e.Family, e.LAddr, e.LPort = 4, s.addr, s.port
	e.RAddr, e.RPort = netip.AddrFrom4([4]byte{byte(11 + r.IntN(180)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}), uint16(32768+r.IntN(28232))
	if r.IntN(3) == 0 { // a client
		e.LPort, e.RPort = e.RPort, []uint16{443, 5432, 6379}[r.IntN(3)]
	}
	if r.IntN(5) == 0 {
		var a [16]byte
		le.PutUint64(a[8:], r.Uint64())
		copy(a[:], "\x20\x01\x0d\xb8\x00\x42")
		e.Family, e.LAddr, e.RAddr = 6, netip.MustParseAddr("2001:db8:7::5"), netip.AddrFrom16(a)
	}
	e.Conn, e.Cookie, e.Inode, e.HolderInode = t.cookie, t.cookie, t.inode, t.inode
	e.NetNS, e.NetNSName, e.UID, e.User = s.netns, s.netnsName, s.uid, s.user
	e.CgroupID, e.Cgroup, e.Unit, e.Container, e.Pod = s.cgroupID, s.cgroup, s.unit, s.container, s.pod
	e.PID, e.Sharers = s.pid, s.sharers
	copy(e.Comm[:], s.comm)
	e.State = events.Established
	e.Known = events.HasUID | events.HasOrphan
	return k
}

// next makes the next event.
func (t *traffic) next(e *events.Event) {
	r := t.rnd
	t.boot += uint64(r.ExpFloat64() * 200_000) // 5,000 events a second
	if r.IntN(5000) == 0 {
		t.wall += int64(r.IntN(2000) - 1000) // NTP
	}
	switch {
	case len(t.queue) > 0 && t.queue[0].at <= t.boot:
		s := t.queue[0]
		t.queue = t.queue[1:]
		*e = s.s.e
		if s.new == 0 {
			t.reset(e, s.s)
		} else {
			e.Type, e.OldState, e.NewState, e.State = events.StateChange, s.old, s.new, s.new
		}
	case r.IntN(100) < 74:
		t.retransmit(e, t.long[r.IntN(len(t.long))])
	case r.IntN(10) == 0: // nothing listens
		k := t.socket(&service{netns: 4026531840, addr: netip.MustParseAddr("10.20.0.5"), port: uint16(r.IntN(65536))})
		*e = k.e
		e.Conn, e.Cookie, e.Inode, e.HolderInode, e.Known, e.State = 0, 0, 0, 0, 0, 0
		e.Type, e.Direction, e.Kind = events.Reset, events.Sent, events.KindRefused
		e.Reason, e.Why = "NO_SOCKET", "nothing listens on this port"
		e.TriggerFlags, e.TriggerSeq, e.TriggerTTL = events.SYN, r.Uint32(), uint8(44+r.IntN(16))
		e.Known |= events.HasTrigger | events.HasTTL
	default:
		services := t.long[r.IntN(len(t.long))].e
		k := t.socket(&service{
			netns: services.NetNS, netnsName: services.NetNSName, uid: services.UID, user: services.User, cgroupID: services.CgroupID,
			cgroup: services.Cgroup, unit: services.Unit, container: services.Container, pod: services.Pod, pid: services.PID,
			comm: services.Comm.String(), sharers: services.Sharers, port: 8080, addr: netip.MustParseAddr("10.20.0.5"),
		})
		*e = k.e
		e.Type, e.OldState, e.NewState, e.State = events.StateChange, events.Close, events.SynSent, events.SynSent
		at := t.boot
		states := []events.State{events.SynSent, events.Established, events.FinWait1, events.FinWait2, events.Close}
		for i := 1; i < len(states); i++ {
			at += uint64(r.ExpFloat64() * 4e6)
			if states[i] == events.FinWait1 && r.IntN(3) == 0 {
				t.push(step{at: at, s: k})
				t.push(step{at: at + 8000, s: k, old: events.Established, new: events.Close})
				break
			}
			t.push(step{at: at, s: k, old: states[i-1], new: states[i]})
		}
	}
	e.Boot, e.Time = t.boot, int64(t.boot)+t.wall
}

func (t *traffic) push(s step) {
	i := len(t.queue)
	for i > 0 && t.queue[i-1].at > s.at {
		i--
	}
	t.queue = append(t.queue, step{})
	copy(t.queue[i+1:], t.queue[i:])
	t.queue[i] = s
}

func (t *traffic) reset(e *events.Event, k *socket) {
	e.Type, e.Direction = events.Reset, events.Received
	e.Kind, e.Why = events.KindPeer, "the peer reset the connection"
	e.TriggerFlags, e.TriggerSeq, e.TriggerAck, e.TriggerTTL = events.ACK|events.Flags(4), t.rnd.Uint32(), k.seq, 52
	e.Known |= events.HasTrigger | events.HasTTL
	if t.rnd.IntN(2) == 0 {
		e.Direction, e.Kind = events.Sent, events.KindUnreadData
		e.Reason, e.Why = "TCP_ABORT_ON_CLOSE", "closed with unread data"
		e.TriggerFlags, e.TriggerSeq, e.TriggerAck, e.TriggerTTL = 0, 0, 0, 0
		e.Known &^= events.HasTrigger | events.HasTTL
	}
}

func (t *traffic) retransmit(e *events.Event, k *socket) {
	r := t.rnd
	*e = k.e
	e.Type, e.Phase, e.Flags = events.Retransmit, events.PhaseData, events.ACK
	e.Known |= events.HasFlags | events.HasSeq | events.HasBackoff | events.HasRTO | events.HasSRTT |
		events.HasCwnd | events.HasSsthresh | events.HasCAState | events.HasTotals
	if k.burst == 0 { // new data since, and new samples
		k.burst = 1 + r.IntN(5)
		more := uint32(r.ExpFloat64() * 300)
		k.sent += more
		k.seq += more * k.mss
		k.srtt += time.Duration(r.NormFloat64()*float64(k.srtt)/20) / time.Microsecond * time.Microsecond
		k.rttvar += time.Duration(r.NormFloat64()*float64(k.rttvar)/10) / time.Microsecond * time.Microsecond
		k.cwnd = max(2, k.cwnd*7/10+uint32(r.IntN(9)))
		k.ssthresh = max(2, k.cwnd)
		k.backoff = 0
	}
	k.burst--
	rto := (k.srtt + max(4*k.rttvar, 200*time.Millisecond)).Round(4 * time.Millisecond)
	e.Seq, e.Len, e.Segs = k.seq, k.mss, 1
	switch d := r.IntN(100); {
	case d < 70:
		e.Kind, e.CAState = events.KindFast, events.CARecovery
		e.Seq += uint32(r.IntN(3)) * k.mss
	case d < 80:
		e.Kind, e.CAState = events.KindTLP, events.CAOpen
		e.Flags |= events.PSH
		e.Len = uint32(1 + r.IntN(int(k.mss)))
	default:
		e.Kind, e.CAState = events.KindRTO, events.CALoss
		k.cwnd, k.burst = 1, max(k.burst, 1)
		k.backoff++
		if k.backoff > 6 {
			k.backoff, k.burst = 0, 0
		}
		rto <<= k.backoff
		e.Attempt, e.Backoff = k.backoff, k.backoff
		e.NextRTO, e.GivesUp = 2*rto, 924600*time.Millisecond-rto
		e.Known |= events.HasNextRTO | events.HasGivesUp
	}
	e.EndSeq = e.Seq + e.Len
	k.seq = e.EndSeq
	k.total++
	if r.IntN(20) == 0 {
		k.dsacks++
	}
	e.RTO, e.SRTT, e.RTTVar = rto, k.srtt, k.rttvar
	e.Cwnd, e.Ssthresh = k.cwnd, k.ssthresh
	e.TotalRetrans, e.DataSegsOut, e.DSACKDups = k.total, k.sent, k.dsacks
}
