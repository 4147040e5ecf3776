// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

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

// impatience is how long applications of scenarios wait for an answer: far less than the kernel before it repeats a SYN.
const impatience = 100 * time.Millisecond

// ImpatientConnect connects to a listener that does not answer, and closes the socket before the SYN can go again.
//
//	client  CLOSE SYN_SENT CLOSE
//	counts  none, unless the machine is so busy that the SYN goes again
func ImpatientConnect(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		if err := a.silence(ctx); err != nil {
			return err
		}
		return InTurn(
			func() error { return wait(ctx, impatience) },
			func() error { return a.Client.Close() })
	})
}

// RacedConnect connects twice at once, as browsers do to several addresses of a name: nobody answers the first, which is
// closed when the second has long been established.
//
//	client  CLOSE SYN_SENT CLOSE; and as in Clean
//	server  as in Clean
//	counts  as in ImpatientConnect
func RacedConnect(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		if err := a.silence(ctx); err != nil {
			return err
		}
		slower := a.Client
		a.Later(a.Listener.Close)
		return InTurn(
			a.Listen,
			func() error { return a.Start() },
			func() error { return a.Accept(ctx) },
			func() error { return wait(ctx, impatience) },
			slower.Close,
			func() error { return a.Finish(ctx) })
	})
}

// silence connects to a listener that does not answer.
func (a *Act) silence(ctx context.Context) error {
	err := InTurn(
		a.Listen,
		func() error { return a.Listener.Blackhole(true) },
		func() error { return a.Start() },
		func() error { return a.Listener.WaitDrops(ctx, 1) })
	if err != nil {
		return err
	}
	a.Paths("CLOSE SYN_SENT CLOSE", "")
	again := a.Expect(0, Retransmit, Client, "syn")
	again.Max = 3
	return nil
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

// SYNACKUnansweredOptions are the options of SYNACKUnanswered.
type SYNACKUnansweredOptions struct {
	// Retries is the number of SYN-ACKs sent again in vain. The next one is answered; with GiveUp the server forgets the
	// client then, for it never comes back (tcp_synack_retries is Retries).
	Retries int
	GiveUp  bool
}

// SYNACKUnanswered has a listener send its SYN-ACK again, without an answer. With GiveUp the client's host is silent
// after its SYN, as if it were gone or the SYN's address forged; otherwise the client is there, and what it sends gets
// lost for a while.
//
//	client  as in Clean; with GiveUp CLOSE SYN_SENT CLOSE
//	server  as in Clean, but from SYN_RECV on after 1, 3, 7 s; Retries+1 tcp_retransmit_synack. With GiveUp nothing but
//	        Retries of these
//	counts  RetransSegs, TCPSynRetrans and TCPTimeouts as many, with GiveUp TCPTimeouts one more
func SYNACKUnanswered(ctx context.Context, p Place, o SYNACKUnansweredOptions) (*Facts, error) {
	if o.GiveUp {
		return synackGivenUp(ctx, p, o.Retries)
	}
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			a.Listen,
			func() error { return a.Listener.Attach(DropACK()) },
			func() error { return a.Start() },
			func() error { return a.Client.Wait(ctx) },
			func() error { return a.Listener.WaitDrops(ctx, 1+o.Retries) },
			func() error { return a.Listener.Detach() },
			func() error { return a.Accept(ctx) })
		if err != nil {
			return err
		}
		a.Expect(o.Retries+1, RetransSYNACK, Server, "synack")
		return a.Finish(ctx)
	})
}

func synackGivenUp(ctx context.Context, p Place, retries int) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			a.Listen,
			func() error { return a.Start(blackholed) },
			func() error { return a.Client.WaitDrops(ctx, 1) },
			func() error { return a.Client.Close() })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		// Without a socket the client's host would answer with resets: a deaf listener takes what comes for the port.
		deaf, err := p.Client.Socket(p.target(), 0)
		if err != nil {
			return err
		}
		a.Later(deaf.Close)
		err = InTurn(
			func() error { return bound(p, a.Conn().Client.Addr.Port())(deaf) },
			func() error { return deaf.Blackhole(true) },
			func() error { return deaf.Listen(1) },
			func() error { return deaf.WaitDrops(ctx, retries) },
			func() error { return p.Server.noRequests(ctx) })
		if err != nil {
			return err
		}
		drops, err := deaf.Drops()
		a.Expect(int(drops), RetransSYNACK, Server, "synack")
		return err
	}, "net.ipv4.tcp_synack_retries", fmt.Sprint(retries))
}

// AcceptQueueFullOptions are the options of AcceptQueueFull.
type AcceptQueueFullOptions struct {
	// Clients is the number of those that wait in vain, up to 4: more would have the kernel send fewer SYN-ACKs.
	Clients int
	// GiveUp has the application accept only when the listener has forgotten them (tcp_synack_retries is 1), after 3 s.
	// Otherwise it accepts after the first SYN-ACKs that went again for nothing, at 1 s.
	GiveUp bool
}

// AcceptQueueFull fills an accept queue of one while other clients are about to complete their handshakes. To these the
// connection is established; to the server it is not, since their acknowledgements find no room, and it sends its
// SYN-ACKs again. When the application accepts, the next SYN-ACKs have them all served; with GiveUp it is too late, and
// they leave without a word.
//
//	client  as in Clean; with GiveUp CLOSE SYN_SENT ESTABLISHED CLOSE for each that waited in vain
//	server  as in Clean; 2 tcp_retransmit_synack for each that waited, at 1 and 3 s. With GiveUp 1 of these for each, at
//	        1 s, and the states of the one that got in alone
//	counts  for each that waited: RetransSegs and TCPSynRetrans 2 (with GiveUp 1), TCPTimeouts 2, ListenOverflows 1,
//	        ListenDrops 1
func AcceptQueueFull(ctx context.Context, p Place, o AcceptQueueFullOptions) (*Facts, error) {
	const room = 16 // in the queue of requests; in the accept queue 1
	retries := "5"
	if o.GiveUp {
		retries = "1"
	}
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		before, err := p.Server.Counters()
		if err != nil {
			return err
		}
		overflowed := func() (bool, error) {
			now, err := p.Server.Counters()
			return int(now["ListenOverflows"]-before["ListenOverflows"]) >= o.Clients, err
		}
		var clients []*Socket
		connect := func() error {
			err := InTurn(
				func() error { return a.Start() },
				func() error { return a.Client.Wait(ctx) })
			clients = append(clients, a.Client)
			a.Paths(active, passive)
			return err
		}
		err = InTurn(
			func() error { return a.ListenFor(room, 0) },
			connect, // the one that takes the place
			func() error { return a.Listener.WaitReadable(ctx) },
			func() error { return a.Listener.Attach(DropACK()) })
		for n := 1; n <= o.Clients && err == nil; n++ {
			err = InTurn(connect, func() error { return a.Listener.WaitDrops(ctx, n) })
		}
		if err != nil {
			return err
		}
		err = InTurn(
			func() error { return a.Listener.Listen(0) },
			func() error { return a.Listener.Detach() },
			func() error { return Until(ctx, overflowed) })
		if err == nil && o.GiveUp {
			err = p.Server.noRequests(ctx)
		}
		if err != nil {
			return err
		}
		if err := a.Listener.Listen(room); err != nil {
			return err
		}
		for i := range clients {
			waited := i > 0
			if waited && o.GiveUp {
				a.Facts.Conns[i].Client.States, a.Facts.Conns[i].Server.States = "CLOSE SYN_SENT ESTABLISHED CLOSE", ""
				if err := clients[i].Vanish(); err != nil {
					return err
				}
			} else if err := a.serve(ctx, clients); err != nil {
				return err
			}
			if waited {
				e := a.Expect(2, RetransSYNACK, Server, "synack")
				if e.Conn = i; o.GiveUp {
					e.Min, e.Max = 1, 1
				}
			}
		}
		return nil
	}, "net.ipv4.tcp_synack_retries", retries)
}

// serve accepts a connection of one of clients, which are those of the facts, and closes it as it should be.
func (a *Act) serve(ctx context.Context, clients []*Socket) error {
	server, err := a.Listener.Accept(ctx)
	if err != nil {
		return err
	}
	a.Later(server.Close)
	for i := range clients {
		if c := &a.Facts.Conns[i]; c.Client.Addr == server.Remote() {
			c.Server.Cookie = server.Cookie()
			return CloseBoth(ctx, clients[i], server)
		}
	}
	return fmt.Errorf("accepted a stranger, %v", server.Remote())
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
		err := InTurn(
			func() error { return a.onePort() },
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

// onePort makes the listener and leaves clients one port to connect from.
func (a *Act) onePort() error {
	if err := a.Listen(); err != nil { // its port comes from the full range
		return err
	}
	port := 40000
	if a.Facts.Listener.Port() == 40000 {
		port++
	}
	restore, err := a.Place.Client.With("net.ipv4.ip_local_port_range", fmt.Sprintf("%d %d", port, port))
	if err != nil {
		return err
	}
	a.Later(restore)
	return nil
}

// PortInTimeWait connects twice where there is one local port to connect from, and the first connection has been closed,
// by the client: its port waits in TIME_WAIT. The second fails with EADDRNOTAVAIL, without a packet, and so do two more
// attempts, 0.3 s apart. With reuse (tcp_tw_reuse 1) the client tries until it succeeds, when about a second has passed.
// The setting's default, 2, is the same as 1 on loopback, and as 0 elsewhere.
//
//	client  as in Clean; then CLOSE SYN_SENT CLOSE, with local port 0 in both changes, for each attempt that fails;
//	        with reuse as in Clean again, from the same port
//	server  as in Clean; with reuse twice
//	counts  with reuse TWRecycled 1
func PortInTimeWait(ctx context.Context, p Place, reuse bool) (*Facts, error) {
	setting := "0"
	if reuse {
		setting = "1"
	}
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.onePort() },
			func() error { return a.Start() },
			func() error { return a.Accept(ctx) },
			func() error { return a.Finish(ctx) },
			func() error { return p.Client.Settled(ctx) })
		if err != nil {
			return err
		}
		again := time.NewTicker(300 * time.Millisecond)
		defer again.Stop()
		for n := 1; ; n++ {
			err := a.Start()
			if err == nil && reuse {
				break
			}
			if !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("%v in place of %v", err, unix.EADDRNOTAVAIL)
			}
			a.Paths("CLOSE SYN_SENT CLOSE", "")
			if n == 3 && !reuse {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-again.C:
			}
		}
		return InTurn(
			func() error { return a.Accept(ctx) },
			func() error { return a.Finish(ctx) })
	}, "net.ipv4.tcp_tw_reuse", setting)
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
