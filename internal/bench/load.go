// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// A load is trouble of one kind, the same each time.
type load interface {
	// word is what the names of the tracepoints have in common that stand for
	// its events, "" if all do.
	word() string
	// run makes the trouble and returns the number of events, as the kernel
	// counted it.
	run(ctx context.Context, p lab.Place) (events int, err error)
}

// storm is refused connections, four events each.
type storm struct{ connections int }

func (storm) word() string { return "" }

func (s storm) run(ctx context.Context, p lab.Place) (events int, err error) {
	const threads = 2
	delta, err := counted(p, func() error { return p.Client.Storm(ctx, p.Addr, s.connections, threads) })
	if err != nil {
		return 0, err
	}
	if n := delta["OutRsts"]; n != uint64(s.connections) {
		return 0, fmt.Errorf("the kernel counted %d resets for %d refused connections", n, s.connections)
	}
	return 4 * s.connections, nil
}

// lossy is a bulk transfer over some connections whose receivers lose a share
// of the segments, until so many have been retransmitted.
type lossy struct{ retransmissions int }

// So many connections at a time, segments so short, and this share lost: then
// the time goes into retransmitting, not into copying or into time-outs.
const (
	lossyConnections = 64
	segmentSize      = 500
	lossShare        = 0.08
)

func (lossy) word() string { return "retransmit" }

func (l lossy) run(ctx context.Context, p lab.Place) (events int, err error) {
	// One segment to a socket buffer, so that an event is a segment.
	if err := p.Client.SetSegments(p.Index, 1); err != nil {
		return 0, err
	}
	delta, err := counted(p, func() error { return l.transfer(ctx, p) })
	return int(delta["RetransSegs"] - delta["TCPRetransFail"]), err
}

func (l lossy) transfer(ctx context.Context, p lab.Place) (err error) {
	listener, err := p.Server.Listen(netip.AddrPortFrom(p.Addr, 0), lossyConnections)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, listener.Close()) }()
	before, err := p.Client.Counters()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ends []*lab.Socket
	running := make(chan error, 2*lossyConnections)
	defer func() {
		// Without a FIN: nothing is sent, and nothing repeated, when it is over.
		cancel()
		for range ends {
			<-running // ended by the context
		}
		for _, s := range ends {
			err = errors.Join(err, s.Vanish())
		}
	}()
	for range lossyConnections {
		client, err := p.Client.Socket(p.Addr, 0)
		if err != nil {
			return err
		}
		err = client.Set(unix.SOL_TCP, unix.TCP_MAXSEG, segmentSize)
		var server *lab.Socket
		if err == nil {
			server, err = connect(ctx, client, listener)
		}
		if err == nil {
			err = server.Attach(lab.DropRandom(lossShare))
		}
		if err != nil {
			return errors.Join(err, client.Close(), server.Close())
		}
		ends = append(ends, client, server)
		go func() { running <- pump(func(b []byte) error { return client.Send(ctx, b) }) }()
		go func() {
			running <- pump(func(b []byte) error { _, err := server.Recv(ctx, b); return err })
		}()
	}
	return lab.Until(ctx, func() (bool, error) {
		now, err := p.Client.Counters()
		return now["RetransSegs"]-before["RetransSegs"] >= uint64(l.retransmissions), err
	})
}

// crowd is connections that each transfer a little to a receiver that loses a
// share of it, and close: a mixture of all that can happen to them.
type crowd struct{ connections int }

// So many at a time, which wait for time-outs most of the time, and so many
// segments of each: retransmissions then are about half of the events.
const (
	crowdAtATime  = 500
	crowdSegments = 100
)

func (crowd) word() string { return "" }

func (c crowd) run(ctx context.Context, p lab.Place) (retransmissions int, err error) {
	if err := p.Client.SetSegments(p.Index, 1); err != nil {
		return 0, err
	}
	delta, err := counted(p, func() error { return c.pass(ctx, p) })
	return int(delta["RetransSegs"] - delta["TCPRetransFail"]), err
}

func (c crowd) pass(ctx context.Context, p lab.Place) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rows := min(crowdAtATime, c.connections)
	ended := make(chan error, rows)
	for i := range rows {
		go func() {
			err := c.row(ctx, p, (c.connections+i)/rows)
			if err != nil {
				cancel()
			}
			ended <- err
		}()
	}
	var first error
	for range rows {
		if err := <-ended; err != nil && (first == nil || errors.Is(first, context.Canceled)) {
			first = err
		}
	}
	return first
}

// row makes connections one after the other, to a listener of its own.
func (crowd) row(ctx context.Context, p lab.Place, n int) (err error) {
	listener, err := p.Server.Listen(netip.AddrPortFrom(p.Addr, 0), 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, listener.Close()) }()
	for range n {
		if err := lossyConnection(ctx, p, listener); err != nil {
			return err
		}
	}
	return nil
}

func lossyConnection(ctx context.Context, p lab.Place, listener *lab.Socket) (err error) {
	client, err := p.Client.Socket(p.Addr, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if err := client.Set(unix.SOL_TCP, unix.TCP_MAXSEG, segmentSize); err != nil {
		return err
	}
	server, err := connect(ctx, client, listener)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := server.Attach(lab.DropRandom(lossShare)); err != nil {
		return err
	}
	const size = crowdSegments * segmentSize
	sent := make(chan error, 1)
	go func() { sent <- client.Send(ctx, make([]byte, size)) }()
	if err := errors.Join(server.Discard(ctx, size), <-sent); err != nil {
		return err
	}
	return lab.CloseBoth(ctx, client, server)
}

// connect connects a client's socket and returns the server's.
func connect(ctx context.Context, client, listener *lab.Socket) (*lab.Socket, error) {
	if err := client.Connect(ctx, listener.Local()); err != nil {
		return nil, err
	}
	return listener.Accept(ctx)
}

// pump repeats f until it fails.
func pump(f func([]byte) error) error {
	b := make([]byte, 1<<16)
	for {
		if err := f(b); err != nil {
			return err
		}
	}
}

// counted returns what the counters of the place gained by f.
func counted(p lab.Place, f func() error) (map[string]uint64, error) {
	before, err := p.Client.Counters()
	if err != nil {
		return nil, err
	}
	if err := f(); err != nil {
		return nil, err
	}
	after, err := p.Client.Counters()
	return lab.Delta(before, after), err
}
