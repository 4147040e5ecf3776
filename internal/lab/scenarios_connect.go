// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Refused connects to a port that is bound but not listened on.
//
//	client  CLOSE SYN_SENT CLOSE; 1 tcp_receive_reset
//	server  1 tcp_send_reset: no socket, NO_SOCKET
//	counts  OutRsts 1, AttemptFails 1
func Refused(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) (err error) {
		// Bound, the port is nobody else's.
		if a.Listener, err = p.Server.Socket(p.bind(), 0); err != nil {
			return err
		}
		if err := a.Listener.Bind(netip.AddrPortFrom(p.bind(), 0)); err != nil {
			return err
		}
		a.Facts.Listener = netip.AddrPortFrom(p.Addr, a.Listener.Local().Port())
		if err := a.Start(); err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		a.ExpectReset(Server, "refused", "NO_SOCKET").NoSocket = true
		return a.Client.WaitFailure(ctx, unix.ECONNREFUSED)
	})
}

// SYNLinearTimeouts is the setting of how many SYNs come a second apart before the interval doubles, for With: kernels
// before 6.5 do not have it and behave as if it were 0.
const SYNLinearTimeouts = "-net.ipv4.tcp_syn_linear_timeouts"

// SYNBlackholeOptions are the options of SYNBlackhole.
type SYNBlackholeOptions struct {
	// Linear is for SYNLinearTimeouts.
	Linear int
	// Retries is the number of SYNs sent again. The client then closes its socket; with GiveUp it waits until the
	// kernel does (TCP_SYNCNT is Retries less Linear, at least 1) and connect fails with ETIMEDOUT.
	Retries int
	GiveUp  bool
}

// SYNBlackhole connects to a listener that ignores everything.
//
//	client  CLOSE SYN_SENT CLOSE; Retries tcp_retransmit_skb in SYN_SENT
//	counts  RetransSegs and TCPSynRetrans as many, TCPTimeouts as many (one more with GiveUp, and TCPAbortOnTimeout 1),
//	        TCPMinTTLDrop one more
func SYNBlackhole(ctx context.Context, p Place, o SYNBlackholeOptions) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		var options []Option
		if o.GiveUp {
			count := o.Retries - o.Linear
			if _, err := p.Client.ReadSysctl(SYNLinearTimeouts[1:]); errors.Is(err, os.ErrNotExist) {
				count = o.Retries
			}
			options = append(options, Set(unix.SOL_TCP, unix.TCP_SYNCNT, count))
		}
		err := InTurn(
			a.Listen,
			func() error { return a.Listener.Blackhole(true) },
			func() error { return a.Start(options...) },
			func() error { return a.Listener.WaitDrops(ctx, 1+o.Retries) })
		if err == nil && o.GiveUp {
			err = a.Client.WaitFailure(ctx, unix.ETIMEDOUT)
		}
		if err = errors.Join(err, a.Client.Close()); err != nil {
			return err
		}
		drops, err := a.Listener.Drops()
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		a.Expect(int(drops)-1, Retransmit, Client, "syn")
		return nil
	}, SYNLinearTimeouts, fmt.Sprint(o.Linear))
}

// LostSYNACK loses the first SYN, and the SYN-ACK that answers the second. The SYN-ACK goes again by its own timer,
// at two seconds, before the client's next SYN would, at three.
//
//	client  as in Clean; 1 tcp_retransmit_skb in SYN_SENT, at 1 s
//	server  as in Clean, but from SYN_RECV on after 2 s; 1 tcp_retransmit_synack
//	counts  RetransSegs 2, TCPSynRetrans 2, TCPTimeouts 2
func LostSYNACK(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			a.Listen,
			func() error { return a.Listener.Blackhole(true) },
			func() error { return a.Start(blackholed) },
			func() error { return a.Listener.WaitDrops(ctx, 1) },
			func() error { return a.Listener.Blackhole(false) },
			func() error { return a.Client.WaitDrops(ctx, 1) },
			func() error { return a.Client.Blackhole(false) },
			func() error { return a.Accept(ctx) })
		if err != nil {
			return err
		}
		a.Expect(1, Retransmit, Client, "syn")
		a.Expect(1, RetransSYNACK, Server, "synack")
		return a.Finish(ctx)
	}, SYNLinearTimeouts, "0")
}

// LostACK loses the last step of a handshake: the client's side is established, the server's is not until the SYN-ACK
// has gone again by its timer.
//
//	client  as in Clean
//	server  as in Clean, but from SYN_RECV on after 1 s; 1 tcp_retransmit_synack
//	counts  RetransSegs 1, TCPSynRetrans 1, TCPTimeouts 1, TCPSYNChallenge 1, InErrs 1
func LostACK(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			a.Listen,
			func() error { return a.Listener.Attach(DropACK()) },
			func() error { return a.Start() },
			func() error { return a.Client.Wait(ctx) },
			func() error { return a.Listener.WaitDrops(ctx, 1) },
			func() error { return a.Listener.Detach() },
			func() error { return a.Accept(ctx) })
		if err != nil {
			return err
		}
		a.Expect(1, RetransSYNACK, Server, "synack")
		return a.Finish(ctx)
	})
}

// RepeatedSYN has a client give up on a connection whose SYN-ACK it never saw, and another take its port and the same
// initial sequence number. Its SYN is the first one's twin, so the SYN-ACK is repeated at once, by no timer.
//
//	client  CLOSE SYN_SENT CLOSE, then as in Clean from the same port
//	server  as in Clean; 1 tcp_retransmit_synack
//	counts  RetransSegs 1, TCPSynRetrans 1, TCPTimeouts 0
func RepeatedSYN(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		isn := func(s *Socket) error { return s.SetISN(1 << 30) }
		err := InTurn(
			a.Listen,
			func() error { return a.Start(isn, blackholed) },
			func() error { return a.Client.WaitDrops(ctx, 1) },
			func() error { return a.Client.Close() })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		err = InTurn(
			func() error { return a.Start(isn, bound(p, a.Conn().Client.Addr.Port())) },
			func() error { return a.Accept(ctx) })
		if err != nil {
			return err
		}
		a.Expect(1, RetransSYNACK, Server, "synack")
		return a.Finish(ctx)
	}, "net.ipv4.tcp_timestamps", "0") // the first SYN's would give the second away
}

// FastOpenRefused sends data in the SYN, by TCP Fast Open, to a server that does not take it: the data goes again when
// the SYN-ACK acknowledges the SYN alone.
//
//	client  as in Clean; 1 tcp_retransmit_skb in ESTABLISHED
//	server  as in Clean
//	counts  RetransSegs 1, TCPSlowStartRetrans 1, TCPFastOpenActiveFail 1
func FastOpenRefused(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		data := make([]byte, 100)
		err := InTurn(
			a.Listen,
			func() error {
				return a.StartBy(func(s *Socket, to netip.AddrPort) error {
					return unix.Sendto(s.fd, data, unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL, s.sockaddr(to))
				}, 0)
			},
			func() error { return a.Accept(ctx) },
			func() error { return a.Server.Discard(ctx, len(data)) })
		if err != nil {
			return err
		}
		a.Expect(1, Retransmit, Client, "tfo")
		return a.Finish(ctx)
	}, "net.ipv4.tcp_fastopen", "5") // 1: clients may, 4: even without a cookie; not 2: no server
}

// PortsExhausted connects twice where there is one local port to connect from: the second fails with EADDRNOTAVAIL,
// without a packet.
//
//	client  as in Clean; the second CLOSE SYN_SENT CLOSE, with local port 0 in both changes
//	server  as in Clean, once
//	counts  nothing
func PortsExhausted(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		if err := a.Listen(); err != nil { // its port comes from the full range
			return err
		}
		port := 40000
		if a.Facts.Listener.Port() == 40000 {
			port++
		}
		restore, err := p.Client.With("net.ipv4.ip_local_port_range", fmt.Sprintf("%d %d", port, port))
		if err != nil {
			return err
		}
		a.Later(restore)
		err = InTurn(
			func() error { return a.Start() },
			func() error { return a.Accept(ctx) })
		if err != nil {
			return err
		}
		first := a.Client
		a.Paths(active, passive)
		if err := a.Start(); !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("%v in place of %v", err, unix.EADDRNOTAVAIL)
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		return CloseBoth(ctx, first, a.Server)
	})
}

// TimeWaitReuse has a client use a port again while the server's end of its last connection is in TIME_WAIT, with an
// initial sequence number below the last one's and no timestamps. The server answers the SYN with an acknowledgement of
// the old connection, the client resets that, and its next SYN, a moment later, succeeds.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE, then as in Clean from the same port;
//	        1 tcp_send_reset in SYN_SENT, TCP_INVALID_ACK_SEQUENCE; 1 tcp_retransmit_skb in SYN_SENT 10 ms later
//	server  LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE, then as in Clean; no tcp_receive_reset
//	counts  OutRsts 1, RetransSegs 1, TCPSynRetrans 1, TCPTimeouts 1
func TimeWaitReuse(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		if err := a.timeWaitReuse(ctx); err != nil {
			return err
		}
		if err := a.Accept(ctx); err != nil {
			return err
		}
		return a.Finish(ctx)
	}, "net.ipv4.tcp_timestamps", "0")
}

// timeWaitReuse makes a connection, has the server close it first, and begins another from the same port.
func (a *Act) timeWaitReuse(ctx context.Context, options ...Option) error {
	isn := func(seq uint32) Option { return func(s *Socket) error { return s.SetISN(seq) } }
	if err := a.Establish(ctx, isn(1<<30)); err != nil {
		return err
	}
	a.Paths(
		"CLOSE SYN_SENT ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE",
		"LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE")
	options = append(options, isn(1<<29), bound(a.Place, a.Conn().Client.Addr.Port()))
	err := InTurn(
		func() error { return CloseBoth(ctx, a.Server, a.Client) },
		func() error { return a.Place.Client.Settled(ctx) },
		func() error { return a.Place.Server.Settled(ctx) },
		func() error { return a.Start(options...) })
	if err != nil {
		return err
	}
	a.Expect(1, SendReset, Client, "bad_ack").Reason = "TCP_INVALID_ACK_SEQUENCE"
	a.Expect(1, Retransmit, Client, "syn")
	return nil
}

// TimeWaitStuck is TimeWaitReuse with a server that ignores the client's reset (tcp_rfc1337), as where something on the
// way eats it: the connect times out.
//
//	client  as in TimeWaitReuse, but the second CLOSE SYN_SENT CLOSE; 1 tcp_send_reset, 1 tcp_retransmit_skb
//	server  as in TimeWaitReuse, once
//	counts  OutRsts 1, RetransSegs 1, TCPSynRetrans 1, TCPAbortOnTimeout 1
func TimeWaitStuck(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		if err := a.timeWaitReuse(ctx, Set(unix.SOL_TCP, unix.TCP_SYNCNT, 1)); err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		return a.Client.WaitFailure(ctx, unix.ETIMEDOUT)
	}, "net.ipv4.tcp_timestamps", "0", "net.ipv4.tcp_rfc1337", "1", SYNLinearTimeouts, "0")
}

// MPTCP transfers some data over a Multipath TCP connection of one path, and closes it.
//
//	client  as in Clean; beside each change one of protocol MPTCP, some from a state to itself
//	server  the same
func MPTCP(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.ListenFor(16, unix.IPPROTO_MPTCP) },
			func() error { return a.StartBy((*Socket).Start, unix.IPPROTO_MPTCP) },
			func() error { return a.Accept(ctx) },
			func() error { return a.Burst(ctx, 1000, 1000) })
		if err != nil {
			return err
		}
		// The cookies are those of the MPTCP sockets, which the TCP sockets below them do not share.
		a.Conn().Client.Cookie, a.Conn().Server.Cookie = 0, 0
		a.Conn().Repeats = true
		return a.Finish(ctx)
	}, "net.mptcp.enabled", "1")
}

// Clean makes a connection, transfers some data both ways and closes it: nothing but state changes.
//
//	client  CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE
//	server  CLOSE LISTEN CLOSE of the listener; LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE
//	counts  no RetransSegs, OutRsts or EstabResets
func Clean(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return a.Burst(ctx, 1000, 1000) },
			func() error { return a.Server.Send(ctx, make([]byte, 1000)) },
			func() error { return a.Client.Discard(ctx, 1000) })
		if err != nil {
			return err
		}
		return a.Finish(ctx)
	})
}
