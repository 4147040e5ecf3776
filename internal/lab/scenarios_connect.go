// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Refused connects to a port that is bound but not listened on.
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

// SYNBlackholeOptions are the options of SYNBlackhole.
type SYNBlackholeOptions struct {
	// Linear is tcp_syn_linear_timeouts: so many retries come a second apart before the interval doubles (6.5 and
	// later; 0 is the behaviour of older kernels).
	Linear int
	// Retries is the number of SYNs sent again. The client then closes its socket; with GiveUp it waits until the
	// kernel does (TCP_SYNCNT is Retries less Linear, at least 1) and connect fails with ETIMEDOUT.
	Retries int
	GiveUp  bool
}

// SYNBlackhole connects to a listener that ignores everything.
func SYNBlackhole(ctx context.Context, p Place, o SYNBlackholeOptions) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) (err error) {
		var options []Option
		if o.GiveUp {
			options = append(options, Set(unix.SOL_TCP, unix.TCP_SYNCNT, o.Retries-o.Linear))
		}
		err = InTurn(
			a.Listen,
			func() error { return a.Listener.Blackhole(true) },
			func() error { return a.Start(options...) },
			func() error { return a.Listener.WaitDrops(ctx, 1+o.Retries) })
		if err == nil && o.GiveUp {
			err = a.Client.WaitFailure(ctx, unix.ETIMEDOUT)
		}
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		a.Expect(o.Retries, Retransmit, Client, "syn")
		return nil
	}, "net.ipv4.tcp_syn_linear_timeouts", fmt.Sprint(o.Linear))
}

// LostSYNACK loses the first SYN, and the SYN-ACK that answers the second. The SYN-ACK goes again by its own timer,
// at two seconds, before the client's next SYN would, at three.
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
	}, "net.ipv4.tcp_syn_linear_timeouts", "0")
}

// LostACK loses the last step of a handshake: the client's side is established, the server's is not until the SYN-ACK
// has gone again by its timer.
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
func TimeWaitReuse(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		if err := a.Establish(ctx, func(s *Socket) error { return s.SetISN(1 << 30) }); err != nil {
			return err
		}
		a.Paths(
			"CLOSE SYN_SENT ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE",
			"LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE")
		port := a.Conn().Client.Addr.Port()
		err := InTurn(
			func() error { return CloseBoth(ctx, a.Server, a.Client) },
			func() error { return p.Client.Settled(ctx) },
			func() error {
				return a.Start(func(s *Socket) error { return s.SetISN(1 << 29) }, bound(p, port))
			},
			func() error { return a.Accept(ctx) })
		if err != nil {
			return err
		}
		a.Expect(1, SendReset, Client, "bad_ack").Reason = "TCP_INVALID_ACK_SEQUENCE"
		a.Expect(1, Retransmit, Client, "syn")
		return a.Finish(ctx)
	}, "net.ipv4.tcp_timestamps", "0")
}

// MPTCP transfers some data over a Multipath TCP connection of one path, and closes it.
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
		return a.Finish(ctx)
	}, "net.mptcp.enabled", "1")
}

// Clean makes a connection, transfers some data both ways and closes it: nothing but state changes.
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
