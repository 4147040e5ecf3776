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

// A link is the set of sockets of a scenario with one connection.
type link struct {
	place                    Place
	listener, client, server *Socket // the latest connection's
	facts                    *Facts
	cleanup                  []func() error
}

// conn is the latest connection.
func (a *Act) conn() *Conn { return &a.Facts.Conns[len(a.Facts.Conns)-1] }

// run gives body an empty link and cleans up after it, waits until everything has settled, and returns the facts.
func run(ctx context.Context, p Place, body func(context.Context, *Act) error, settings ...string) (*Facts, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	restore, err := p.with(settings...)
	if err != nil {
		return nil, err
	}
	l := &link{place: p, facts: newFacts()}
	before, err := p.counters()
	if err != nil {
		return nil, errors.Join(err, restore())
	}
	err = body(ctx, l)
	if err != nil { // nothing more is promised, so leave as little as possible behind
		err = errors.Join(err, a.Client.Vanish(), a.Server.Vanish())
	}
	err = errors.Join(err, a.Client.Close(), a.Server.Close(), a.Listener.Close())
	for _, f := range a.cleanup {
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

// later has f called when the scenario is over.
func (a *Act) later(f func() error) { a.cleanup = append(a.cleanup, f) }

// listen makes the listener.
func (a *Act) listen() error { return a.ListenFor(16, 0) }

func (a *Act) listenFor(backlog, proto int) (err error) {
	a.Listener, err = a.Place.Server.listen(netip.AddrPortFrom(a.Place.bind(), 0), backlog, proto)
	if err != nil {
		return err
	}
	a.Facts.Listener = netip.AddrPortFrom(a.Place.Addr, a.Listener.Local().Port())
	return nil
}

// An option prepares a client's socket before it connects.
type option func(*Socket) error

// newClient makes a socket at the client's side, of which small writes go out at once. An earlier one is closed when
// the scenario is over.
func (a *Act) newClient(proto int, options ...option) (err error) {
	if a.Client != nil {
		a.Later(a.Client.Close)
	}
	a.Client, err = a.Place.Client.Socket(a.Place.target(), proto)
	if err != nil {
		return err
	}
	for _, f := range append([]option{noDelay}, options...) {
		if err := f(a.Client); err != nil {
			return err
		}
	}
	return nil
}

func noDelay(s *Socket) error    { return s.Set(unix.SOL_TCP, unix.TCP_NODELAY, 1) }
func blackholed(s *Socket) error { return s.Blackhole(true) }

// set sets a socket option that takes a number.
func set(level, name, value int) option {
	return func(s *Socket) error { return s.Set(level, name, value) }
}

// bound binds a client to a port.
func bound(p Place, port uint16) option {
	any := netip.IPv4Unspecified()
	if p.target().Is6() {
		any = netip.IPv6Unspecified()
	}
	return func(s *Socket) error { return s.Bind(netip.AddrPortFrom(any, port)) }
}

// start makes the client's socket and lets it send its first SYN.
func (a *Act) start(options ...option) error { return a.StartBy((*Socket).Start, 0, options...) }

// startBy is start with another way to begin and another protocol.
func (a *Act) startBy(begin func(*Socket, netip.AddrPort) error, proto int, options ...option) error {
	if err := a.newClient(proto, options...); err != nil {
		return err
	}
	c := Conn{Client: End{Cookie: a.Client.Cookie()}, Server: End{Addr: a.Facts.Listener}}
	err := begin(a.Client, netip.AddrPortFrom(a.Place.target(), a.Facts.Listener.Port()))
	c.Client.Addr = a.Client.Local()
	a.Facts.Conns = append(a.Facts.Conns, c)
	return err
}

// accept waits until the connection is established and accepts it.
func (a *Act) accept(ctx context.Context) (err error) {
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

// establish makes a connection.
func (a *Act) establish(ctx context.Context, options ...option) error {
	if err := a.Listen(); err != nil {
		return err
	}
	if err := a.Start(options...); err != nil {
		return err
	}
	return a.Accept(ctx)
}

// paths notes which way the connection's sockets went.
func (a *Act) paths(client, server string) {
	c := a.Conn()
	c.Client.States, c.Server.States = client, server
}

// The ways of a connection that is closed as it should be, by the end that connected.
const (
	active  = "CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE"
	passive = "LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE"
)

// finish closes the latest connection as it should be, the client first.
func (a *Act) finish(ctx context.Context) error {
	a.Paths(active, passive)
	return CloseBoth(ctx, a.Client, a.Server)
}

// closeBoth closes two ends in turn, each waiting for the other's FIN.
func CloseBoth(ctx context.Context, first, second *Socket) error {
	return InTurn(
		func() error { return first.Shutdown(unix.SHUT_WR) },
		func() error { return second.WaitEOF(ctx) },
		func() error { return second.Close() },
		func() error { return first.WaitEOF(ctx) },
		func() error { return first.Close() })
}

// expect adds an event that happens exactly n times on the latest connection.
func (a *Act) expect(n int, name string, side Side, kinds ...string) *Event {
	f := a.Facts
	f.Events = append(f.Events, Event{
		Name: name, Kinds: kinds, Side: side, Conn: len(f.Conns) - 1, Min: n, Max: n,
	})
	return &f.Events[len(f.Events)-1]
}

// sent adds a reset that one end sends because of reason, and that the other receives.
func (a *Act) sent(from Side, kind, reason string) *Event {
	to := Client
	if from == Client {
		to = Server
	}
	a.Expect(1, ReceiveReset, to, "peer")
	e := a.Expect(1, SendReset, from, kind)
	e.Reason = reason
	return e
}

// waitReset waits until s, which is not merely closed for receiving, has received a reset. An end that had seen the
// other's FIN is told EPIPE.
func waitReset(ctx context.Context, s *Socket) error {
	return fails(ctx, s, unix.ECONNRESET, unix.EPIPE)
}

// fails waits until the kernel gives up on s with one of the errors.
func fails(ctx context.Context, s *Socket, want ...unix.Errno) error {
	if err := s.ready(ctx, 0); err != nil { // an error alone
		return err
	}
	err := s.Err()
	for _, w := range want {
		if errors.Is(err, w) {
			return nil
		}
	}
	return fmt.Errorf("%v in place of %v", err, want)
}

// do runs steps until one fails.
func InTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
