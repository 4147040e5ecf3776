// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// BalancerOptions are the options of a Balancer.
type BalancerOptions struct {
	// Ports is the number of its own ports that it has connections come from, 0 meaning 1. It takes them in turn.
	Ports int
	// KeepTimestamps leaves the timestamps in.
	KeepTimestamps bool
}

// A Balancer is a client, a server, and a load balancer on the way between their namespaces, which does as many do: to
// the server all connections come from the balancer, by the same few ports again and again, and it takes timestamps out.
// It knows a connection until its port's next turn. It is no host of its own: it works on the tunnel's wire.
type Balancer struct {
	*Tunnel
	options BalancerOptions
	turns   int
	clients map[netip.AddrPort]netip.AddrPort // by the balancer's address that stands for each
	ports   map[netip.AddrPort]netip.AddrPort // the other way round
}

// balancerPort is the first of the balancer's ports.
const balancerPort = 5000

// NewBalancer makes a balancer for the time of a test.
func NewBalancer(t testing.TB, o BalancerOptions) *Balancer {
	t.Helper()
	b := &Balancer{
		Tunnel: NewTunnel(t), options: o,
		clients: map[netip.AddrPort]netip.AddrPort{}, ports: map[netip.AddrPort]netip.AddrPort{},
	}
	mac, err := hardwareAddr(b.Client, Dev)
	if err == nil {
		err = within(b.Server, func(h *netlink.Handle) error {
			link, err := h.LinkByName(Dev)
			if err != nil {
				return err
			}
			return route(h, link, gateway, nil, mac)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	b.Carry(b.translate)
	return b
}

// translate is what the balancer does to each segment.
func (b *Balancer) translate(s *Segment) []*Segment {
	if s.FromClient {
		from, known := b.ports[s.Src]
		if !known {
			if s.Flags&(SYN|ACK) != SYN {
				return nil // of a connection that it has forgotten
			}
			from = b.next(s.Src)
		}
		s.Readdress(from, s.Dst)
	} else {
		to, known := b.clients[s.Dst]
		if !known {
			return nil
		}
		s.Readdress(s.Src, to)
	}
	if !b.options.KeepTimestamps {
		s.StripTimestamps()
	}
	return []*Segment{s}
}

// next gives a client the port whose turn it is.
func (b *Balancer) next(client netip.AddrPort) netip.AddrPort {
	own := gateway[0]
	if client.Addr().Is6() {
		own = gateway[1]
	}
	at := netip.AddrPortFrom(own, uint16(balancerPort+b.turns%max(b.options.Ports, 1)))
	b.turns++
	delete(b.ports, b.clients[at])
	b.clients[at], b.ports[client] = client, at
	return at
}

// Reuse is what becomes of a balancer's port that is used again: see PortReuse.
type Reuse int

// What becomes of it. A cure is Harmless.
const (
	// Recovered: the client resets what the server says of the old connection, and its next SYN succeeds.
	Recovered Reuse = iota
	// Stuck: the server heeds no reset (tcp_rfc1337), and the connect times out.
	Stuck
	// Harmless: the server takes the new connection at once.
	Harmless
)

// PortReuse makes two connections through the balancer, one after the other, of which the server closes the first. If
// the balancer uses the first one's port again the second meets the server's TIME_WAIT, though the client uses another
// port of its own. That the second's initial sequence number is below the first's, which with real ones it is about every
// other time, is arranged.
//
//	client  CLOSE SYN_SENT ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE, then as in Clean from another port;
//	        1 tcp_send_reset in SYN_SENT, TCP_INVALID_ACK_SEQUENCE; 1 tcp_retransmit_skb in SYN_SENT 10 ms later.
//	        If it is Stuck, the second is CLOSE SYN_SENT CLOSE; if Harmless, there is neither event
//	server  LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE, then as in Clean, both with the balancer's port
//	counts  OutRsts 1, RetransSegs 1, TCPSynRetrans 1 at the client
//
// settings are for both ends. Timestamps that the balancer keeps are a cure for certain only with tcp_timestamps 2. With 1
// each has a random offset: seen on 5.10 and 6.18.15 it was the same for all of a client's ports, which cured it, too; on
// 6.1, 6.12, 6.18.44, 7.2 and 7.3 it was one for each port, and 7 to 11 of 24 met TIME_WAIT all the same, counted in
// PAWSTimewait where the kernel has that.
func (b *Balancer) PortReuse(ctx context.Context, p lab.Place, want Reuse, settings ...string) (*lab.Facts, error) {
	if err := b.patient(); err != nil {
		return nil, err
	}
	if want == Stuck {
		settings = append(settings, "net.ipv4.tcp_rfc1337", "1", lab.SYNLinearTimeouts, "0")
	}
	return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
		isn := func(seq uint32) lab.Option { return func(s *lab.Socket) error { return s.SetISN(seq) } }
		err := lab.InTurn(
			func() error { return a.Establish(ctx, isn(1<<30)) },
			func() error { return a.Burst(ctx, 100) })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE", "")
		seenByServer(a, "LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE")
		options := []lab.Option{isn(1 << 29)}
		if want == Stuck {
			options = append(options, lab.Set(unix.SOL_TCP, unix.TCP_SYNCNT, 1))
		}
		err = lab.InTurn(
			func() error { return lab.CloseBoth(ctx, a.Server, a.Client) },
			func() error { return p.Client.Settled(ctx) },
			func() error { return p.Server.Settled(ctx) },
			func() error { return nextTick(ctx) },
			func() error { return a.Start(options...) })
		if err != nil {
			return err
		}
		if want != Harmless {
			a.Expect(1, lab.SendReset, lab.Client, "bad_ack").Reason = "TCP_INVALID_ACK_SEQUENCE"
			a.Expect(1, lab.Retransmit, lab.Client, "syn")
		}
		if want == Stuck {
			a.Paths("CLOSE SYN_SENT CLOSE", "")
			return a.Client.WaitFailure(ctx, unix.ETIMEDOUT)
		}
		err = lab.InTurn(
			func() error { return a.Accept(ctx) },
			func() error { return a.Burst(ctx, 100) })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE", "")
		seenByServer(a, "LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE")
		return lab.CloseBoth(ctx, a.Client, a.Server)
	}, settings...)
}

// nextTick waits until timestamps, of which there is one a millisecond, have moved on: only a later one tells a server
// that a connection is new.
func nextTick(ctx context.Context) error {
	begun := time.Now()
	return lab.Until(ctx, func() (bool, error) { return time.Since(begun) > 2*time.Millisecond, nil })
}

// seenByServer notes the server's end of the latest connection as one by itself: its peer has another address there.
func seenByServer(a *lab.Act, states string) {
	c := a.Conn()
	own := lab.Conn{Client: lab.End{Addr: a.Server.Remote()}, Server: c.Server}
	own.Server.States = states
	c.Server = lab.End{Addr: c.Server.Addr}
	a.Facts.Conns = append(a.Facts.Conns, own)
}
