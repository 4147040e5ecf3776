// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// requests are a healthy load: requests and answers, in which nothing gets
// lost, on each processor.
type requests struct {
	name string
	// serve answers one request of a client in the calling thread, which plays
	// both, so that no wake-up and no other processor has a part in it.
	serve func(*exchange) error
}

var healthyLoads = []requests{
	{"requests on connections that stay", (*exchange).request},
	{"a connection for each request", (*exchange).connectAndRequest},
}

const (
	requestSize = 128
	answerSize  = 1024
)

// healthyResult is what one load came to.
type healthyResult struct {
	Load string
	// Rates are requests a second without tcptrace, one a round.
	Rates []float64
	// Ratios are the rate with it by the rate without, one a round.
	Ratios []float64
}

// measureHealthy compares each load without and with "tcptrace retrans": in
// each round without, with, with, without.
func measureHealthy(ctx context.Context, o *Options) (all []healthyResult, err error) {
	ns, err := lab.NewNamespace(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	// Each closed connection would hold a port for a minute.
	if err := ns.Sysctl("net.ipv4.tcp_max_tw_buckets", "0"); err != nil {
		return nil, err
	}
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		return nil, err
	}
	for _, l := range healthyLoads {
		if _, err := l.rate(ctx, place, o.Block); err != nil { // warm up
			return nil, err
		}
		r := healthyResult{Load: l.name}
		for round := range o.HealthyRounds {
			without, with, err := l.round(ctx, o, place)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
			r.Rates = append(r.Rates, without)
			r.Ratios = append(r.Ratios, with/without)
			o.Logf("healthy %d/%d: %s: %.0f a second, %.4f of it with tcptrace", round+1, o.HealthyRounds, l.name, without, with/without)
		}
		all = append(all, r)
	}
	return all, nil
}

// round returns the rates without and with tcptrace, each of two blocks.
func (l *requests) round(ctx context.Context, o *Options, place lab.Place) (without, with float64, err error) {
	var rates [4]float64
	var p *process
	for i := range rates {
		if i == 1 {
			if p, err = (tcptrace{o.Tcptrace, "retrans", "table"}).trace(ctx, nil); err != nil {
				return 0, 0, err
			}
		}
		if rates[i], err = l.rate(ctx, place, o.Block); err != nil {
			if p != nil {
				p.kill()
			}
			return 0, 0, err
		}
		if i == 2 {
			if err := p.end(); err != nil {
				return 0, 0, err
			}
			p = nil
		}
	}
	return math.Sqrt(rates[0] * rates[3]), math.Sqrt(rates[1] * rates[2]), nil
}

// rate is how many requests a second all processors together serve.
func (l *requests) rate(ctx context.Context, place lab.Place, block time.Duration) (sum float64, err error) {
	type result struct {
		rate float64
		err  error
	}
	workers := runtime.NumCPU()
	results := make(chan result, workers)
	for range workers {
		go func() {
			var r result
			r.err = place.Client.OnThread(func() (err error) {
				r.rate, err = l.work(ctx, place, block)
				return err
			})
			results <- r
		}()
	}
	for range workers {
		r := <-results
		sum += r.rate
		err = errors.Join(err, r.err)
	}
	return sum, err
}

// work serves requests for the length of a block, in the calling thread.
func (l *requests) work(ctx context.Context, place lab.Place, block time.Duration) (rate float64, err error) {
	listener, err := place.Server.Listen(netip.AddrPortFrom(place.Addr, 0), 16)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, listener.Close()) }()
	x := exchange{listener: listener.FD(), buf: make([]byte, answerSize)}
	if x.to, err = unix.Getsockname(listener.FD()); err != nil {
		return 0, err
	}
	if err := unix.SetNonblock(listener.FD(), false); err != nil {
		return 0, err
	}
	client, server, err := x.connect()
	if err != nil {
		return 0, err
	}
	x.client, x.server = client, server
	defer func() { err = errors.Join(err, unix.Close(client), unix.Close(server)) }()
	begin := time.Now()
	for n := 0; ; n++ {
		if n%64 == 0 {
			if took := time.Since(begin); took >= block {
				return float64(n) / took.Seconds(), nil
			}
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
		}
		if err := l.serve(&x); err != nil {
			return 0, err
		}
	}
}

// exchange is a thread that plays client and server, on blocking sockets.
type exchange struct {
	listener       int
	to             unix.Sockaddr
	client, server int
	buf            []byte
}

func (x *exchange) connect() (client, server int, err error) {
	client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, err
	}
	if err = uninterrupted(func() error { return unix.Connect(client, x.to) }); err == nil {
		err = uninterrupted(func() (err error) {
			server, _, err = unix.Accept4(x.listener, unix.SOCK_CLOEXEC)
			return err
		})
	}
	if err != nil {
		return -1, -1, errors.Join(err, unix.Close(client))
	}
	return client, server, nil
}

// request has the client ask and the server answer.
func (x *exchange) request() error {
	return errors.Join(
		x.send(x.client, x.server, requestSize),
		x.send(x.server, x.client, answerSize))
}

// connectAndRequest does so on a connection of its own, which the client closes.
func (x *exchange) connectAndRequest() error {
	client, server, err := x.connect()
	if err != nil {
		return err
	}
	y := exchange{client: client, server: server, buf: x.buf}
	return errors.Join(y.request(), unix.Close(client), unix.Close(server))
}

// send sends n bytes from one socket to another, and receives them.
func (x *exchange) send(from, to, n int) error {
	err := uninterrupted(func() error {
		m, err := unix.Write(from, x.buf[:n])
		if err == nil && m < n {
			err = fmt.Errorf("sent %d bytes of %d", m, n)
		}
		return err
	})
	for err == nil && n > 0 {
		err = uninterrupted(func() error {
			m, err := unix.Read(to, x.buf[:n])
			if err == nil && m == 0 {
				return errors.New("the connection ended")
			}
			n -= max(m, 0)
			return err
		})
	}
	return err
}

// uninterrupted repeats a system call that a signal interrupted, as the
// runtime's preemption does.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
