// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// Linger0 closes an established connection with SO_LINGER 0, which sends a reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE; 1 tcp_send_reset in CLOSE, TCP_STATE
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE; 1 tcp_receive_reset, which comes before the other's tcp_send_reset
//	counts  OutRsts 1, EstabResets 2, TCPAbortOnData 1
func Linger0(ctx context.Context, p Place) (*Facts, error) {
	return cut(ctx, p, Client, "linger", "TCP_STATE", func(_ context.Context, a *Act) error {
		return errors.Join(a.Client.SetLinger0(), a.Client.Close())
	})
}

// UnreadData closes a connection though the peer's data was not read, which sends a reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE; 1 tcp_receive_reset
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE; 1 tcp_send_reset in CLOSE, TCP_ABORT_ON_CLOSE
//	counts  OutRsts 1, EstabResets 2, TCPAbortOnClose 1
func UnreadData(ctx context.Context, p Place) (*Facts, error) {
	return cut(ctx, p, Server, "unread_data", "TCP_ABORT_ON_CLOSE", func(ctx context.Context, a *Act) error {
		return InTurn(
			func() error { return a.Client.Send(ctx, make([]byte, 100)) },
			func() error { return a.Server.WaitReadable(ctx) },
			func() error { return a.Server.Close() })
	})
}

// Disconnect ends a connection by connect(AF_UNSPEC), which sends a reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE; 1 tcp_send_reset in CLOSE, TCP_STATE
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE; 1 tcp_receive_reset
//	counts  OutRsts 1, EstabResets 2
func Disconnect(ctx context.Context, p Place) (*Facts, error) {
	return cut(ctx, p, Client, "abort", "TCP_STATE", func(_ context.Context, a *Act) error {
		return a.Client.Disconnect()
	})
}

// cut establishes a connection, has one end cut it with a reset and waits until the other has received that.
func cut(ctx context.Context, p Place, from Side, kind, reason string, by func(context.Context, *Act) error,
	settings ...string) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		if err := a.Establish(ctx); err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
		a.ExpectReset(from, kind, reason)
		if err := by(ctx, a); err != nil {
			return err
		}
		if from == Client {
			return waitReset(ctx, a.Server)
		}
		return waitReset(ctx, a.Client)
	}, settings...)
}

// Keepalive lets a connection idle whose peer has fallen silent: its keepalive probe goes unanswered, and the
// connection ends with ETIMEDOUT and a reset that the peer does not hear.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE, the last one by timer; 1 tcp_send_reset in ESTABLISHED,
//	        TCP_KEEPALIVE_TIMEOUT, before it
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE
//	counts  OutRsts 1, EstabResets 2, TCPKeepAlive 1, TCPAbortOnTimeout 1
func Keepalive(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error {
				return a.Establish(ctx,
					Set(unix.SOL_TCP, unix.TCP_KEEPIDLE, 1), Set(unix.SOL_TCP, unix.TCP_KEEPINTVL, 1),
					Set(unix.SOL_TCP, unix.TCP_KEEPCNT, 1))
			},
			func() error { return a.Server.Blackhole(true) },
			func() error { return a.Client.Set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1) },
			func() error { return a.Client.WaitFailure(ctx, unix.ETIMEDOUT) },
			func() error { return a.Server.WaitDrops(ctx, 2) },
			func() error { return a.Server.Vanish() })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
		a.Expect(1, SendReset, Client, "keepalive").Reason = "TCP_KEEPALIVE_TIMEOUT"
		return nil
	})
}

// Linger2 closes a socket that has sent its FIN and waits for the peer's, with TCP_LINGER2 set to -1: it does not wait
// but sends a reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 FIN_WAIT2 CLOSE; 1 tcp_send_reset in CLOSE,
//	        TCP_ABORT_ON_LINGER
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT CLOSE; 1 tcp_receive_reset
//	counts  OutRsts 1, EstabResets 1, TCPAbortOnLinger 1
func Linger2(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.Establish(ctx, Set(unix.SOL_TCP, unix.TCP_LINGER2, -1)) },
			func() error { return halfClose(ctx, a.Client, a.Server, unix.SHUT_WR) },
			func() error { return a.Client.Close() },
			func() error { return waitReset(ctx, a.Server) })
		if err != nil {
			return err
		}
		a.halfPaths(true)
		a.ExpectReset(Client, "linger", "TCP_ABORT_ON_LINGER")
		return nil
	})
}

// halfClose has one end send its FIN, and waits until both know.
func halfClose(ctx context.Context, first, second *Socket, how int) error {
	return InTurn(
		func() error { return first.Shutdown(how) },
		func() error { return second.WaitEOF(ctx) },
		func() error {
			const finWait2 = 5
			_, err := first.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.State == finWait2 })
			return err
		})
}

// halfPaths notes the states of a connection cut after the client had sent its FIN.
// close() in FIN_WAIT2 shows as a change from this state to itself.
func (a *Act) halfPaths(closed bool) {
	client := "CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 "
	if closed {
		client += "FIN_WAIT2 "
	}
	a.Paths(client+"CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT CLOSE")
}

// ListenerClosed closes a listener that has an established connection nobody accepted: the peer gets a reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE; 1 tcp_receive_reset
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE; 1 tcp_send_reset in CLOSE, TCP_STATE
//	counts  OutRsts 1, EstabResets 2
func ListenerClosed(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			a.Listen,
			func() error { return a.Start() },
			func() error { return a.Client.Wait(ctx) },
			func() error { return a.Listener.WaitReadable(ctx) },
			func() error { return a.Listener.Close() },
			func() error { return waitReset(ctx, a.Client) })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
		a.ExpectReset(Server, "abort", "TCP_STATE")
		return nil
	})
}

// Overflow fills an accept queue of one. A second client, whose handshake had begun when there was room, is reset when
// it completes it, because of tcp_abort_on_overflow.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE and 1 tcp_receive_reset; the other as in Clean
//	server  1 tcp_send_reset of the listener, INVALID_SYN, to 0.0.0.0:0; the other as in Clean
//	counts  OutRsts 1, EstabResets 1, EmbryonicRsts 1, ListenOverflows 1, ListenDrops 1
func Overflow(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.ListenFor(1, 0) },
			func() error { return a.Listener.Attach(DropACK()) },
			func() error { return a.Start() },
			func() error { return a.Client.Wait(ctx) },
			func() error { return a.Listener.WaitDrops(ctx, 1) },
			func() error { return a.Listener.Detach() })
		if err != nil {
			return err
		}
		unlucky := a.Client
		a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "")
		a.ExpectReset(Server, "overflow", "INVALID_SYN")
		err = InTurn(
			func() error { return a.Start() },
			func() error { return a.Client.Wait(ctx) },
			func() error { return a.Listener.WaitReadable(ctx) },
			func() error { return a.Listener.Listen(0) }, // room for one
			func() error { return unlucky.Send(ctx, make([]byte, 100)) },
			func() error { return waitReset(ctx, unlucky) },
			func() error { return a.Accept(ctx) })
		if err != nil {
			return err
		}
		return a.Finish(ctx)
	}, "net.ipv4.tcp_abort_on_overflow", "1")
}

// HalfOpen sends over a connection that the server has forgotten, as after a restart: its listener resets an
// acknowledgement that belongs to nothing.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE; 1 tcp_receive_reset
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE; 1 tcp_send_reset of the listener, TCP_FLAGS, to 0.0.0.0:0
//	counts  OutRsts 1, EstabResets 2
func HalfOpen(ctx context.Context, p Place) (*Facts, error) {
	return halfOpen(ctx, p, "other", "TCP_FLAGS", func(a *Act) error { return nil })
}

// HalfOpenGone is HalfOpen with nobody listening any more.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE; 1 tcp_receive_reset
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE; 1 tcp_send_reset: no socket, NO_SOCKET
//	counts  OutRsts 1, EstabResets 2
func HalfOpenGone(ctx context.Context, p Place) (*Facts, error) {
	return halfOpen(ctx, p, "other", "NO_SOCKET", func(a *Act) error { return a.Listener.Close() })
}

func halfOpen(ctx context.Context, p Place, kind, reason string, then func(*Act) error) (*Facts, error) {
	return cut(ctx, p, Server, kind, reason, func(ctx context.Context, a *Act) error {
		a.Facts.Events[len(a.Facts.Events)-1].NoSocket = reason == "NO_SOCKET"
		return InTurn(
			func() error { return a.Server.Vanish() },
			func() error { return then(a) },
			func() error { return a.Client.Send(ctx, make([]byte, 100)) })
	})
}

// DataAfterShutdown shuts a socket down for both directions, whose peer then sends data: it is reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE; 1 tcp_receive_reset though none came, then
//	        1 tcp_send_reset in CLOSE, TCP_ABORT_ON_DATA
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT CLOSE; 1 tcp_receive_reset
//	counts  OutRsts 1, EstabResets 1, TCPAbortOnData 1
func DataAfterShutdown(ctx context.Context, p Place) (*Facts, error) {
	return dataAfterClose(ctx, p, false, func(ctx context.Context, a *Act) error {
		return halfClose(ctx, a.Client, a.Server, unix.SHUT_RDWR)
	})
}

// DataAfterClose closes a socket that then stays in FIN_WAIT2 in full (its time there, TCP_LINGER2, is above the 60 s
// that a TIME_WAIT socket can stand in for); the peer sends data and is reset.
//
//	client  as in DataAfterShutdown, with FIN_WAIT2 FIN_WAIT2 at the close
//	server  as in DataAfterShutdown
//	counts  as in DataAfterShutdown
func DataAfterClose(ctx context.Context, p Place) (*Facts, error) {
	return dataAfterClose(ctx, p, true, func(ctx context.Context, a *Act) error {
		return InTurn(
			func() error { return a.Client.Set(unix.SOL_TCP, unix.TCP_LINGER2, 100) },
			func() error { return halfClose(ctx, a.Client, a.Server, unix.SHUT_WR) },
			func() error { return a.Client.Close() })
	}, "net.ipv4.tcp_fin_timeout", "100")
}

func dataAfterClose(ctx context.Context, p Place, closed bool, closing func(context.Context, *Act) error,
	settings ...string) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return closing(ctx, a) },
			func() error { return a.Server.Send(ctx, make([]byte, 100)) },
			func() error { return waitReset(ctx, a.Server) })
		if err != nil {
			return err
		}
		a.halfPaths(closed)
		a.ExpectReset(Client, "data_after_close", "TCP_ABORT_ON_DATA")
		a.Expect(1, ReceiveReset, Client, "data_after_close").Merged = true
		return nil
	}, settings...)
}

// TimeWait closes a socket whose peer then sends data: it waited for the peer's FIN as a TIME_WAIT socket, which
// answers with a reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 FIN_WAIT2 CLOSE; 1 tcp_send_reset in TIME_WAIT,
//	        TCP_TIMEWAIT_SOCKET
//	server  LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT CLOSE; 1 tcp_receive_reset
//	counts  OutRsts 1, EstabResets 1
func TimeWait(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		err := InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return halfClose(ctx, a.Client, a.Server, unix.SHUT_WR) },
			func() error { return a.Client.Close() },
			func() error { return a.Server.Send(ctx, make([]byte, 100)) },
			func() error { return waitReset(ctx, a.Server) })
		if err != nil {
			return err
		}
		a.halfPaths(true)
		a.ExpectReset(Client, "time_wait", "TCP_TIMEWAIT_SOCKET").NoSocket = true
		return nil
	})
}

// SYNInFinWait2 has a client that lost its connection, as in a crash, use the port again while the server's end, which it
// had closed first, still waits for the client's FIN: the new SYN looks like a part of the old connection, and is reset.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE_WAIT CLOSE, then CLOSE SYN_SENT CLOSE from the same port;
//	        1 tcp_receive_reset
//	server  LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 FIN_WAIT2 CLOSE; 1 tcp_send_reset in TIME_WAIT,
//	        TCP_TIMEWAIT_SOCKET
//	counts  OutRsts 1
func SYNInFinWait2(ctx context.Context, p Place) (*Facts, error) {
	return Perform(ctx, p, func(ctx context.Context, a *Act) error {
		isn := func(seq uint32) Option { return func(s *Socket) error { return s.SetISN(seq) } }
		err := InTurn(
			func() error { return a.Establish(ctx, isn(1<<29)) },
			func() error { return halfClose(ctx, a.Server, a.Client, unix.SHUT_WR) },
			func() error { return a.Server.Close() },
			func() error { return a.Client.Vanish() })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE_WAIT CLOSE", "LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 FIN_WAIT2 CLOSE")
		err = InTurn(
			func() error { return a.Start(isn(1<<29+100), bound(p, a.Conn().Client.Addr.Port())) },
			func() error { return a.Client.WaitFailure(ctx, unix.ECONNREFUSED) })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		a.ExpectReset(Server, "time_wait", "TCP_TIMEWAIT_SOCKET").NoSocket = true
		return nil
	}, "net.ipv4.tcp_timestamps", "0")
}
