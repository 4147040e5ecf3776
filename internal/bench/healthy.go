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
	// Without is the pace without tcptrace, one a round.
	Without []pace
	// Rates and CPUs are the ratios with and without it, one a round.
	Rates, CPUs []float64
}

// pace is how fast a load goes.
type pace struct {
	Rate float64 // requests a second, all processors together
	CPU  float64 // time that a request takes, with tcptrace's, in nanoseconds
}

// and is the geometric mean.
func (p pace) and(q pace) pace { return pace{math.Sqrt(p.Rate * q.Rate), math.Sqrt(p.CPU * q.CPU)} }

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
		if _, err := l.pace(ctx, place, o.Block, 0); err != nil { // warm up
			return nil, err
		}
		r := healthyResult{Load: l.name}
		for round := range o.HealthyRounds {
			without, with, err := l.round(ctx, o, place)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
			r.Without = append(r.Without, without)
			r.Rates = append(r.Rates, with.Rate/without.Rate)
			r.CPUs = append(r.CPUs, with.CPU/without.CPU)
			o.Logf("healthy %d/%d: %s: %.0f a second, with tcptrace %.4f of it; CPU %.4f", round+1, o.HealthyRounds,
				l.name, without.Rate, with.Rate/without.Rate, with.CPU/without.CPU)
		}
		all = append(all, r)
	}
	return all, nil
}

// round returns the paces without and with tcptrace, each of two blocks.
func (l *requests) round(ctx context.Context, o *Options, place lab.Place) (without, with pace, err error) {
	var paces [4]pace
	var p *process
	pid := 0
	for i := range paces {
		if i == 1 {
			if p, err = (tcptrace{o.Tcptrace, "retrans", "table"}).trace(ctx, nil); err != nil {
				return pace{}, pace{}, err
			}
			pid = p.pid()
		}
		if paces[i], err = l.pace(ctx, place, o.Block, pid); err != nil {
			if pid != 0 {
				p.kill()
			}
			return pace{}, pace{}, err
		}
		if i == 2 {
			pid = 0
			if err := p.end(); err != nil {
				return pace{}, pace{}, err
			}
		}
	}
	return paces[0].and(paces[3]), paces[1].and(paces[2]), nil
}

// pace serves requests on all processors. The CPU of process pid, if that is
// not 0, is theirs, too.
func (l *requests) pace(ctx context.Context, place lab.Place, block time.Duration, pid int) (sum pace, err error) {
	before, err := cpuTime(pid)
	if err != nil {
		return sum, err
	}
	type result struct {
		requests  int
		took, cpu time.Duration
		err       error
	}
	workers := runtime.NumCPU()
	results := make(chan result, workers)
	for range workers {
		go func() {
			var r result
			r.err = place.Client.OnThread(func() (err error) {
				r.requests, r.took, r.cpu, err = l.work(ctx, place, block)
				return err
			})
			results <- r
		}()
	}
	var requests int
	var cpu time.Duration
	for range workers {
		r := <-results
		if r.err != nil {
			err = errors.Join(err, r.err)
			continue
		}
		sum.Rate += float64(r.requests) / r.took.Seconds()
		requests += r.requests
		cpu += r.cpu
	}
	after, err2 := cpuTime(pid)
	if err = errors.Join(err, err2); err != nil {
		return sum, err
	}
	sum.CPU = float64(cpu+after-before) / float64(requests)
	return sum, nil
}

// cpuTime is the time that a process has run, 0 if pid is.
func cpuTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	const whole = 2 // CPUCLOCK_SCHED of a process: see MAKE_PROCESS_CPUCLOCK
	return clock(int32(^pid<<3 | whole))
}

func clock(id int32) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0, fmt.Errorf("read clock %d: %w", id, err)
	}
	return time.Duration(ts.Nano()), nil
}

// work serves requests for the length of a block, in the calling thread.
func (l *requests) work(ctx context.Context, place lab.Place, block time.Duration) (n int, took, cpu time.Duration, err error) {
	listener, err := place.Server.Listen(netip.AddrPortFrom(place.Addr, 0), 16)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, listener.Close()) }()
	x := exchange{listener: listener.FD(), buf: make([]byte, answerSize)}
	if x.to, err = unix.Getsockname(listener.FD()); err != nil {
		return 0, 0, 0, err
	}
	if err := unix.SetNonblock(listener.FD(), false); err != nil {
		return 0, 0, 0, err
	}
	client, server, err := x.connect()
	if err != nil {
		return 0, 0, 0, err
	}
	x.client, x.server = client, server
	defer func() { err = errors.Join(err, unix.Close(client), unix.Close(server)) }()
	before, err := clock(unix.CLOCK_THREAD_CPUTIME_ID)
	if err != nil {
		return 0, 0, 0, err
	}
	for begin := time.Now(); took < block; took = time.Since(begin) {
		if ctx.Err() != nil {
			return 0, 0, 0, ctx.Err()
		}
		const some = 64 // between looks at the clock
		for range some {
			if err := l.serve(&x); err != nil {
				return 0, 0, 0, err
			}
		}
		n += some
	}
	after, err := clock(unix.CLOCK_THREAD_CPUTIME_ID)
	return n, took, after - before, err
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
