// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// A Scenario makes one sort of trouble. It ends with every socket closed and settled, so that all it causes has been
// seen when it returns.
type Scenario struct {
	// Name identifies it.
	Name string
	// Title says in a phrase what goes wrong.
	Title string
	// Demo says that it is among the few that show most.
	Demo bool
	// Run makes the trouble.
	Run func(ctx context.Context, p Place) (*Facts, error)
}

// An Act is a scenario being played: its sockets, and what it has done so far. The steps return the first error.
type Act struct {
	Place Place
	// Listener, and the two ends of the latest connection. They are closed at the end.
	Listener, Client, Server *Socket
	Facts                    *Facts
	cleanup                  []func() error
}

// Perform plays a scenario: it changes settings at both ends (name, value, ...), has body make the trouble, closes
// everything, waits until it has settled, puts the settings back, and returns the facts. Without a deadline of its own
// it takes a minute at most.
func Perform(ctx context.Context, p Place, body func(context.Context, *Act) error, settings ...string) (*Facts, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	restore, err := p.with(settings...)
	if err != nil {
		return nil, err
	}
	a := &Act{Place: p, Facts: newFacts()}
	before, err := p.counters()
	if err == nil {
		err = body(ctx, a)
	}
	if err != nil { // nothing more is promised, so leave as little as possible behind
		err = errors.Join(err, a.Client.Vanish(), a.Server.Vanish())
	}
	err = errors.Join(err, a.Client.Close(), a.Server.Close(), a.Listener.Close())
	for _, f := range slices.Backward(a.cleanup) {
		err = errors.Join(err, f())
	}
	if err == nil {
		err = errors.Join(p.Client.Settled(ctx), p.Server.Settled(ctx))
	}
	after, countErr := p.counters()
	if err = errors.Join(err, countErr, restore()); err != nil {
		return nil, err
	}
	a.Facts.Client, a.Facts.Server = Delta(before[0], after[0]), Delta(before[1], after[1])
	return a.Facts, nil
}

// counters reads those of the client's and the server's namespace.
func (p Place) counters() (c [2]map[string]uint64, err error) {
	if c[0], err = p.Client.Counters(); err == nil {
		c[1], err = p.Server.Counters()
	}
	return c, err
}

// InTurn runs steps until one fails.
func InTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// Later has f called when the scenario is over. What is called for last comes first.
func (a *Act) Later(f func() error) { a.cleanup = append(a.cleanup, f) }

// Conn is the latest connection.
func (a *Act) Conn() *Conn { return &a.Facts.Conns[len(a.Facts.Conns)-1] }

// Listen makes the listener.
func (a *Act) Listen() error { return a.ListenFor(16, 0) }

// ListenFor is Listen with a backlog and a protocol, 0 or IPPROTO_MPTCP.
func (a *Act) ListenFor(backlog, proto int) (err error) {
	a.Listener, err = a.Place.Server.listen(netip.AddrPortFrom(a.Place.bind(), 0), backlog, proto)
	if err != nil {
		return err
	}
	a.Facts.Listener = netip.AddrPortFrom(a.Place.Addr, a.Listener.Local().Port())
	return nil
}

// An Option prepares a client's socket before it connects.
type Option func(*Socket) error

// Set is an option that sets a socket option.
func Set(level, name, value int) Option {
	return func(s *Socket) error { return s.Set(level, name, value) }
}

func noDelay(s *Socket) error    { return s.Set(unix.SOL_TCP, unix.TCP_NODELAY, 1) }
func blackholed(s *Socket) error { return s.Blackhole(true) }

// bound binds a client to a port.
func bound(p Place, port uint16) Option {
	from := netip.IPv4Unspecified()
	if p.target().Is6() {
		from = netip.IPv6Unspecified()
	}
	return func(s *Socket) error { return s.Bind(netip.AddrPortFrom(from, port)) }
}

// Start makes a client's socket, of which small writes go out at once, and lets it send its first SYN.
func (a *Act) Start(options ...Option) error { return a.StartBy((*Socket).Start, 0, options...) }

// StartBy is Start with another way to begin, and with a protocol.
func (a *Act) StartBy(begin func(*Socket, netip.AddrPort) error, proto int, options ...Option) (err error) {
	if a.Client != nil {
		a.Later(a.Client.Close)
	}
	if a.Client, err = a.Place.Client.Socket(a.Place.target(), proto); err != nil {
		return err
	}
	for _, f := range append([]Option{noDelay}, options...) {
		if err := f(a.Client); err != nil {
			return err
		}
	}
	c := Conn{Client: End{Cookie: a.Client.Cookie()}, Server: End{Addr: a.Facts.Listener}}
	err = begin(a.Client, netip.AddrPortFrom(a.Place.target(), a.Facts.Listener.Port()))
	c.Client.Addr = a.Client.Local()
	a.Facts.Conns = append(a.Facts.Conns, c)
	return err
}

// Accept waits until the connection is established and accepts it.
func (a *Act) Accept(ctx context.Context) (err error) {
	if err := a.Client.Wait(ctx); err != nil {
		return err
	}
	if a.Server != nil {
		a.Later(a.Server.Close)
	}
	if a.Server, err = a.Listener.Accept(ctx); err != nil {
		return err
	}
	a.Conn().Server.Cookie = a.Server.Cookie()
	return noDelay(a.Server)
}

// Establish makes the listener and a connection.
func (a *Act) Establish(ctx context.Context, options ...Option) error {
	return InTurn(
		a.Listen,
		func() error { return a.Start(options...) },
		func() error { return a.Accept(ctx) })
}

// Burst sends segments of the given lengths and waits until the server has them all.
func (a *Act) Burst(ctx context.Context, lengths ...int) error {
	total := 0
	for _, n := range lengths {
		if err := a.Client.Send(ctx, make([]byte, n)); err != nil {
			return err
		}
		total += n
	}
	return a.Server.Discard(ctx, total)
}

// The ways of a connection that is closed as it should be, by the end that connected.
const (
	active  = "CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE"
	passive = "LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE"
)

// Finish closes the latest connection as it should be, the client first, and notes the states it went through.
func (a *Act) Finish(ctx context.Context) error {
	a.Paths(active, passive)
	return CloseBoth(ctx, a.Client, a.Server)
}

// CloseBoth closes two ends in turn, each waiting for the other's FIN.
func CloseBoth(ctx context.Context, first, second *Socket) error {
	return InTurn(
		func() error { return first.Shutdown(unix.SHUT_WR) },
		func() error { return second.WaitEOF(ctx) },
		func() error { return second.Close() },
		func() error { return first.WaitEOF(ctx) },
		func() error { return first.Close() })
}

// Paths notes which way the latest connection's sockets went: see End.States.
func (a *Act) Paths(client, server string) {
	c := a.Conn()
	c.Client.States, c.Server.States = client, server
}

// Expect notes an event that happens exactly n times, on the latest connection.
func (a *Act) Expect(n int, name string, side Side, kinds ...string) *Event {
	f := a.Facts
	f.Events = append(f.Events, Event{
		Name: name, Kinds: kinds, Side: side, Conn: len(f.Conns) - 1, Min: n, Max: n,
	})
	return &f.Events[len(f.Events)-1]
}

// ExpectReset notes a reset that one end sends because of reason, and that the other receives.
func (a *Act) ExpectReset(from Side, kind, reason string) *Event {
	to := Client
	if from == Client {
		to = Server
	}
	a.Expect(1, ReceiveReset, to, "peer")
	e := a.Expect(1, SendReset, from, kind)
	e.Reason = reason
	return e
}

// waitReset waits until s has received a reset. An end that had seen the other's FIN is told EPIPE.
func waitReset(ctx context.Context, s *Socket) error {
	return s.WaitFailure(ctx, unix.ECONNRESET, unix.EPIPE)
}
