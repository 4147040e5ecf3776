// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Stalled has the receiver of an established connection ignore everything until the sender has retransmitted by
// time-out so often, each time waiting twice as long. Then it listens again and the next time-out repairs the loss.
//
//	client  as in Clean; timeouts+1 tcp_retransmit_skb in ESTABLISHED, about 0.2, 0.6, 1.4, 3 s after the segment
//	server  as in Clean
//	counts  RetransSegs and TCPTimeouts as many, TCPLostRetransmit and TCPMinTTLDrop fewer by one and as many
func Stalled(ctx context.Context, p Place, timeouts int) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return a.Server.Blackhole(true) },
			func() error { return a.Client.Send(ctx, make([]byte, 100)) },
			func() error { return a.Server.WaitDrops(ctx, 1+timeouts) },
			func() error { return a.Server.Blackhole(false) },
			func() error { return a.Server.Discard(ctx, 100) })
		if err != nil {
			return err
		}
		segs, err := a.repaired(ctx)
		if err != nil {
			return err
		}
		a.Expect(segs, Retransmit, Client, "rto")
		return a.Finish(ctx)
	})
}

// GivenUp sends to a peer that has gone for good, until the kernel gives up (tcp_retries2 is retries) and the application
// is told ETIMEDOUT, without a reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE, the last one by timer; with 2 retries 3 tcp_retransmit_skb in ESTABLISHED,
//	        about 0.2, 0.6 and 1.4 s after the segment, and the end at 3 s
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE
//	counts  RetransSegs 3, TCPTimeouts 4, TCPAbortOnTimeout 1, EstabResets 2, OutRsts 0
func GivenUp(ctx context.Context, p Place, retries int) (*Facts, error) {
	return unanswered(ctx, p, nil, "net.ipv4.tcp_retries2", fmt.Sprint(retries))
}

// tail is the length of the segment that a scenario loses once, unlike that of the others.
const tail = 777

// TailLoss loses the last segments of a burst, one or two. No later segment draws attention to the gap: the sender's
// tail loss probe, a repetition of the last segment, does so before the retransmission timer would. If there were two,
// the acknowledgement of the last has the other repaired by fast retransmission.
//
//	client  as in Clean; 1 tcp_retransmit_skb about 0.2 s after the segment, or with two segments 2 of them, 8 ms after
//	server  as in Clean
//	counts  RetransSegs 1, TCPLossProbes 1, TCPLossProbeRecovery 1;
//	        with two segments RetransSegs 2, TCPLossProbes 1, TCPFastRetrans 1, TCPSackRecovery 1
func TailLoss(ctx context.Context, p Place, segments int) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		burst := []int{1000, 1000}
		for range segments {
			burst = append(burst, tail)
		}
		err := InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return a.Server.Attach(DropOriginal(tail)) },
			func() error { return a.Burst(ctx, burst...) })
		if err != nil {
			return err
		}
		a.Expect(1, Retransmit, Client, "tlp")
		if segments > 1 {
			// A busy machine may let the retransmission timer run out first.
			a.Expect(segments-1, Retransmit, Client, "fast").Kinds = []string{"fast", "rack", "rto"}
		}
		return a.Finish(ctx)
	}, "net.ipv4.tcp_ecn", "1", "net.ipv4.tcp_ecn_fallback", "0", "net.ipv4.tcp_early_retrans", "3")
}

// FastRetransmit loses a segment in the midst of others; the acknowledgements of those that follow tell the sender at
// once.
//
//	client  as in Clean; 1 tcp_retransmit_skb
//	server  as in Clean
//	counts  RetransSegs 1, TCPFastRetrans 1, TCPSackRecovery 1
func FastRetransmit(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return a.Server.Attach(DropOriginal(tail)) },
			func() error { return a.Burst(ctx, 1000, tail, 1000, 1000, 1000, 1000) })
		if err != nil {
			return err
		}
		a.Expect(1, Retransmit, Client, "fast")
		return a.Finish(ctx)
	}, "net.ipv4.tcp_ecn", "1", "net.ipv4.tcp_ecn_fallback", "0")
}

// LossyOptions are the options of Lossy.
type LossyOptions struct {
	// Bytes is the amount of data, Loss the share of segments that get lost.
	Bytes int
	Loss  float64
	// SegmentSize is the greatest length of a segment, 0 the interface's.
	SegmentSize int
	// Bunches lets the sender handle many segments as one (TSO): a bunch is lost whole, and retransmitted as one event.
	Bunches bool
}

// Lossy transfers data while the receiver loses some of it.
//
//	client  as in Clean; tcp_retransmit_skb in ESTABLISHED, one for each segment or, with Bunches, for several
//	server  as in Clean
//	counts  RetransSegs as many as segments; nearly all of it TCPFastRetrans
func Lossy(ctx context.Context, p Place, o LossyOptions) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		if !o.Bunches {
			if err := p.Client.SetSegments(p.Index, 1); err != nil {
				return err
			}
			a.Later(func() error { return p.Client.SetSegments(p.Index, 65535) })
		}
		var options []Option
		if o.SegmentSize > 0 {
			options = append(options, Set(unix.SOL_TCP, unix.TCP_MAXSEG, o.SegmentSize))
		}
		err := InTurn(
			func() error { return a.Establish(ctx, options...) },
			func() error { return a.Server.Attach(DropRandom(o.Loss)) })
		if err != nil {
			return err
		}
		segs, err := a.bulk(ctx, o.Bytes)
		if err != nil {
			return err
		}
		e := a.Expect(segs, Retransmit, Client, "fast", "rto", "loss", "tlp", "rack")
		if e.Segs = segs; o.Bunches {
			e.Min = min(1, segs)
		}
		return a.Finish(ctx)
	}, "net.ipv4.tcp_early_retrans", "3")
}

// bulk transfers n bytes, takes the server's filter away, and returns how many segments were retransmitted.
func (a *Act) bulk(ctx context.Context, n int) (segs int, err error) {
	sent := make(chan error, 1)
	go func() { sent <- a.Client.Send(ctx, make([]byte, n)) }()
	if err := errors.Join(a.Server.Discard(ctx, n), <-sent, a.Server.Detach()); err != nil {
		return 0, err
	}
	return a.repaired(ctx)
}

// repaired waits until the client knows that everything has arrived, and returns how many segments it took.
func (a *Act) repaired(ctx context.Context) (segs int, err error) {
	info, err := a.Client.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.Unacked == 0 })
	if err != nil {
		return 0, err
	}
	return int(info.Total_retrans), nil
}

// TransferOptions are the options of Transfer.
type TransferOptions struct {
	Bytes int
	// Before and After, which may be nil, are called around the transfer, when the connection is established.
	Before, After func() error
	// Kinds are those of the retransmissions that it may take.
	Kinds []string
}

// Transfer transfers data over whatever lies between client and server, in segments sent one by one, and closes the
// connection.
func Transfer(ctx context.Context, p Place, o TransferOptions) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		if err := p.Client.SetSegments(p.Index, 1); err != nil {
			return err
		}
		a.Later(func() error { return p.Client.SetSegments(p.Index, 65535) })
		if err := a.Establish(ctx); err != nil {
			return err
		}
		if o.Before != nil {
			if err := o.Before(); err != nil {
				return err
			}
		}
		segs, err := a.bulk(ctx, o.Bytes)
		if o.After != nil {
			err = errors.Join(err, o.After())
		}
		if err != nil {
			return err
		}
		if segs > 0 {
			a.Expect(segs, Retransmit, Client, o.Kinds...)
		}
		return a.Finish(ctx)
	})
}

// ShrunkWindow takes the receiver's window away while a segment is under way and lost. The retransmission timer then
// sends that segment as a probe, without counting a time-out.
//
//	client  as in Clean; 2 tcp_retransmit_skb in ESTABLISHED, about 0.2 and 0.6 s after the segment
//	server  as in Clean
//	counts  RetransSegs 2, TCPTimeouts 0
func ShrunkWindow(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return a.Server.Blackhole(true) },
			func() error { return a.Client.Send(ctx, make([]byte, 100)) },
			func() error { return a.Client.closeWindow() },
			func() error { return a.Server.WaitDrops(ctx, 2) },
			func() error { return a.Server.Blackhole(false) },
			func() error { return a.Server.Discard(ctx, 100) })
		if err != nil {
			return err
		}
		segs, err := a.repaired(ctx)
		if err != nil {
			return err
		}
		a.Expect(segs, Retransmit, Client, "probe")
		return a.Finish(ctx)
	})
}

// closeWindow makes the socket believe that its peer has announced a window of 0.
func (s *Socket) closeWindow() error {
	var w struct{ sndWl1, sndWnd, maxWindow, rcvWnd, rcvWup uint32 } // struct tcp_repair_window
	if err := s.Set(unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON); err != nil {
		return err
	}
	err := getsockopt(s.fd, unix.SOL_TCP, unix.TCP_REPAIR_WINDOW, unsafe.Pointer(&w), unsafe.Sizeof(w))
	if err == nil {
		w.sndWnd = 0
		err = setsockopt(s.fd, unix.SOL_TCP, unix.TCP_REPAIR_WINDOW, unsafe.Pointer(&w), unsafe.Sizeof(w))
	}
	return errors.Join(err, s.Set(unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP))
}

// ZeroWindow sends more than the receiver has room for, until the sender has to probe a window that is closed, and
// then reads it all. Window probes are no retransmissions and no tracepoint sees them.
//
//	client  as in Clean
//	server  as in Clean
//	counts  RetransSegs 0, TCPWinProbe 1 or more, TCPToZeroWindowAdv 1
func ZeroWindow(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		const size = 1 << 20
		sent, err := a.fill(ctx, size)
		if err = errors.Join(err, a.Server.Discard(ctx, size), <-sent); err != nil {
			return err
		}
		return a.Finish(ctx)
	})
}

// WindowStuck has a receiver close its window, as in ZeroWindow, and then answer no probe of it: the sender gives up after
// its TCP_USER_TIMEOUT of a second.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE, the last one by timer, with ETIMEDOUT
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE
//	counts  RetransSegs 0, TCPWinProbe 1 or more, TCPAbortOnTimeout 1, EstabResets 2, OutRsts 0
func WindowStuck(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		sent, err := a.fill(ctx, 1<<20)
		err = errors.Join(err, a.Server.Blackhole(true), a.Client.Set(unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 1000))
		if failure := <-sent; !errors.Is(failure, unix.ETIMEDOUT) { // else who sent was told
			err = errors.Join(err, failure)
			if err == nil {
				err = a.Client.WaitFailure(ctx, unix.ETIMEDOUT)
			}
		}
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
		return a.Server.Vanish()
	})
}

// fill connects, and sends size bytes, which is more than the receiver has room for, until its window is probed. sent tells
// when all of it is on its way.
func (a *Act) fill(ctx context.Context, size int) (sent <-chan error, err error) {
	done := make(chan error, 1)
	err = InTurn(
		a.Listen,
		func() error { return a.Listener.Set(unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) },
		func() error { return a.Start() },
		func() error { return a.Accept(ctx) })
	if err != nil {
		done <- err
		return done, err
	}
	go func() { done <- a.Client.Send(ctx, make([]byte, size)) }()
	_, err = a.Client.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.Probes > 0 })
	return done, err
}

// OrphanFIN closes a connection whose peer has fallen silent. The socket has no owner any more while its FIN is sent
// again and again, here until tcp_orphan_retries ends it.
//
//	client  CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 CLOSE, the last one by timer; 2 tcp_retransmit_skb in FIN_WAIT1
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE
//	counts  RetransSegs 2, TCPTimeouts 3, TCPAbortOnTimeout 1, EstabResets 1
func OrphanFIN(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return a.Server.Blackhole(true) },
			func() error { return a.Client.Close() },
			func() error { return p.Client.gone(ctx, a.Conn().Client.Addr.Port()) })
		if err != nil {
			return err
		}
		drops, err := a.Server.Drops()
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
		a.Expect(int(drops)-1, Retransmit, Client, "rto")
		return a.Server.Vanish()
	}, "net.ipv4.tcp_orphan_retries", "1")
}

// UserTimeout sends to a peer that has fallen silent, with TCP_USER_TIMEOUT of a second: then the connection is over,
// with ETIMEDOUT and without a reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE, the last one by timer; 2 tcp_retransmit_skb in ESTABLISHED
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE
//	counts  RetransSegs 2, TCPTimeouts 3, TCPAbortOnTimeout 1, EstabResets 2, OutRsts 0
func UserTimeout(ctx context.Context, p Place) (*Facts, error) {
	return unanswered(ctx, p, []Option{Set(unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 1000)})
}

// unanswered sends to a peer that has fallen silent until the kernel gives up.
func unanswered(ctx context.Context, p Place, options []Option, settings ...string) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.Establish(ctx, options...) },
			func() error { return a.Server.Blackhole(true) },
			func() error { return a.Client.Send(ctx, make([]byte, 100)) },
			func() error { return a.Client.WaitFailure(ctx, unix.ETIMEDOUT) })
		if err != nil {
			return err
		}
		info, err := a.Client.Info()
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
		a.Expect(int(info.Total_retrans), Retransmit, Client, "rto")
		return a.Server.Vanish()
	}, settings...)
}

// ReadTimeoutOptions are the options of ReadTimeout: when the application loses patience. Without Probe or RTO it is
// after Wait, which is best below 200 ms, the least time that the kernel's first repair takes.
type ReadTimeoutOptions struct {
	Wait time.Duration
	// Probe: when the tail loss probe got lost, too. RTO: when the first retransmission by time-out did.
	Probe, RTO bool
}

// ReadTimeout sends a request that gets lost, and closes the socket before the kernel's repair of it can arrive: the
// mistake of a read time-out too short. The server has the request a moment later, after the client is gone.
//
//	client  as in Clean; 1 tcp_retransmit_skb in FIN_WAIT1, by an orphan, of all that is missing and the FIN;
//	        with Probe or RTO 1 before it, in ESTABLISHED: the probe 8 ms, the time-out 0.2 s after the request
//	server  as in Clean
//	counts  RetransSegs 1, TCPTimeouts 1; with Probe RetransSegs 2, TCPLossProbes 1; with RTO RetransSegs and TCPTimeouts 2
func ReadTimeout(ctx context.Context, p Place, o ReadTimeoutOptions) (*Facts, error) {
	settings, segments, repairs := []string{}, 1, 1
	if o.Probe {
		// For one segment alone the kernel would wait longer before it probes: its acknowledgement may only be late.
		settings, segments = []string{"net.ipv4.tcp_early_retrans", "3"}, 2
	}
	if o.Probe || o.RTO {
		repairs = 2
	}
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		before, err := p.Client.Counters()
		if err != nil {
			return err
		}
		err = InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return a.Server.Blackhole(true) })
		for i := 0; i < segments && err == nil; i++ {
			err = a.Client.Send(ctx, make([]byte, 100))
		}
		if err != nil {
			return err
		}
		err = InTurn(
			func() error {
				if repairs > 1 {
					return a.Server.WaitDrops(ctx, segments+1)
				}
				return wait(ctx, o.Wait)
			},
			func() error { return a.Client.Close() },
			func() error {
				if o.RTO { // the FIN waits: the congestion window is one segment
					return nil
				}
				return a.Server.WaitDrops(ctx, segments+repairs)
			},
			func() error { return a.Server.Blackhole(false) },
			func() error { return a.Server.Discard(ctx, 100*segments) },
			func() error { return a.Server.WaitEOF(ctx) },
			func() error { return a.Server.Close() },
			func() error { return p.Client.Settled(ctx) })
		if err != nil {
			return err
		}
		a.Paths(active, passive)
		after, err := p.Client.Counters()
		if err != nil {
			return err
		}
		// A busy machine may be late to stop, so that there is one more.
		sent := int(after["RetransSegs"] - before["RetransSegs"])
		if sent < repairs {
			return fmt.Errorf("%d segments sent again, want %d", sent, repairs)
		}
		if o.Probe {
			sent--
			a.Expect(1, Retransmit, Client, "tlp")
		}
		a.Expect(sent, Retransmit, Client, "rto")
		return nil
	}, settings...)
}

// wait waits as long as an application does.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
