// SPDX-License-Identifier: Apache-2.0

//go:build linux

package silence_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/lab/labtest/nft"
	"github.com/tcptrace/tcptrace/test/stories/story"
)

func TestMain(m *testing.M) { story.Main(m, "backup") }

// perform plays what f says, and returns what the sender's counters gained.
func perform(t testing.TB, p lab.Place, f func(context.Context, *lab.Act) error, settings ...string) labtest.Counters {
	t.Helper()
	facts, err := lab.Perform(t.Context(), p, f, settings...)
	if err != nil {
		t.Fatal(err)
	}
	return facts.Client
}

// chunks sends so many kilobytes, each when the last one has arrived.
func chunks(ctx context.Context, a *lab.Act, n int) error {
	for range n {
		if err := a.Burst(ctx, 1024); err != nil {
			return err
		}
	}
	return nil
}

// vanishes transfers data to a host that loses power meanwhile.
func vanishes(ctx context.Context, a *lab.Act, options ...lab.Option) error {
	err := lab.InTurn(
		func() error { return a.Establish(ctx, options...) },
		func() error { return chunks(ctx, a, 20) })
	if err != nil {
		return err
	}
	back, err := nft.Firewall(a.Place.Server, nft.Rule{Hook: nft.Input})
	if err != nil {
		return err
	}
	return lab.InTurn(
		func() error { return a.Client.Send(ctx, make([]byte, 1024)) },
		func() error { return a.Client.WaitFailure(ctx, unix.ETIMEDOUT) },
		func() error { return a.Server.Vanish() },
		back)
}

// TestVanished: a backup's target loses power. The kernel tries for as long as tcp_retries2 says, each time waiting twice
// as long, or as the application says.
func TestVanished(t *testing.T) {
	const retries2 = "net.ipv4.tcp_retries2"
	for _, tt := range []struct {
		name, found, gaveUp string
		options             []lab.Option
		times               int
	}{
		{"stalled", "stalled failed certain 1", "the application saw ETIMEDOUT", nil, 4},
		{
			"user-timeout", "user-timeout failed certain 1", "allows that for 1 s (TCP_USER_TIMEOUT): ETIMEDOUT",
			[]lab.Option{lab.Set(unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 1000)}, 2,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := story.Told(t, func() *story.Report {
				p := labtest.NewPair(t, labtest.PairOptions{NoOffload: true}).Place(lab.V4)
				w := story.Start(t, p.Addr, p.Client)
				counts := perform(t, p, func(ctx context.Context, a *lab.Act) error { return vanishes(ctx, a, tt.options...) }, retries2, "3")
				r := w.End()
				if counts["TCPAbortOnTimeout"] != 1 || counts["RetransSegs"] < uint64(tt.times) || counts["TCPTimeouts"] != counts["RetransSegs"]+1 {
					t.Error(counts.TCP())
				}
				if len(r.Sent) != int(counts["RetransSegs"]) {
					r.Errorf("%d of %d retransmissions", len(r.Sent), counts["RetransSegs"])
				}
				r.Want(tt.found)
				r.WantCause(tt.gaveUp)
				for i, e := range r.Sent {
					if e.Kind != "rto" || e.Attempt != i+1 {
						r.Errorf("%d: %+v", i, e)
					}
					// The last interval is cut short where the application says when to end.
					if last := &r.Sent[max(i-1, 0)]; i > 0 && (e.RTO != last.NextRTO || len(tt.options) == 0 && e.RTO != 2*last.RTO) {
						r.Errorf("%d: %+v after %+v", i, e, *last)
					}
				}
				return r
			})
			r.Keep(t, tt.name)
		})
	}
}

// TestBack: the host is there again, and all is well.
func TestBack(t *testing.T) {
	t.Parallel()
	r := story.Told(t, func() *story.Report {
		p := labtest.NewPair(t, labtest.PairOptions{NoOffload: true}).Place(lab.V4)
		perform(t, p, func(ctx context.Context, a *lab.Act) error { return vanishes(ctx, a) }, "net.ipv4.tcp_retries2", "1")
		w := story.Start(t, p.Addr, p.Client)
		counts := perform(t, p, func(ctx context.Context, a *lab.Act) error {
			return lab.InTurn(
				func() error { return a.Establish(ctx) },
				func() error { return chunks(ctx, a, 20) },
				func() error { return a.Finish(ctx) })
		})
		if counts["RetransSegs"] > 0 {
			t.Error(counts.TCP())
		}
		r := w.End()
		r.Want("")
		return r
	})
	r.Keep(t, "back")
}

// TestFloor: one segment is lost, the last of what is sent. What that costs is the least time-out, which the route sets.
func TestFloor(t *testing.T) {
	const last = 777 // its length
	for _, tt := range []struct {
		name, found string
		route       time.Duration // 0: as it is
		least, most float64       // RTO, ms
	}{
		{"floor", "rto-floor recovered certain 1", 0, 200, 300},
		{"lowered", "loss recovered certain 1", 50 * time.Millisecond, 50, 150},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := story.Told(t, func() *story.Report {
				p := labtest.NewPair(t, labtest.PairOptions{NoOffload: true}).Place(lab.V4)
				if tt.route > 0 {
					if err := labtest.RTOMin(p.Client, p.Dev, tt.route); err != nil {
						t.Fatal(err)
					}
				}
				w := story.Start(t, p.Addr, p.Client)
				var lost, told uint32
				counts := perform(t, p, func(ctx context.Context, a *lab.Act) error {
					err := lab.InTurn(
						func() error { return a.Establish(ctx) },
						func() error { return chunks(ctx, a, 20) },
						func() error { return a.Server.Attach(lab.DropOriginal(last)) })
					if err != nil {
						return err
					}
					info, err := a.Client.Info()
					if err != nil {
						return err
					}
					told = info.Rto
					if err := a.Burst(ctx, last); err != nil {
						return err
					}
					if lost, err = a.Server.Drops(); err != nil {
						return err
					}
					return a.Finish(ctx)
				}, "net.ipv4.tcp_ecn", "1")
				r := w.End()
				if lost != 1 || counts["RetransSegs"] != 1 {
					t.Logf("%d segments lost, %d sent again", lost, counts["RetransSegs"])
					return nil // the machine was busy with something that runs no filter
				}
				r.Want(tt.found)
				if len(r.Sent) != 1 || r.Sent[0].RTO < tt.least || r.Sent[0].RTO > tt.most || r.Sent[0].RTO != float64(told)/1000 {
					r.Errorf("%+v, and the socket's RTO was %d µs", r.Sent, told)
				}
				return r
			})
			r.Keep(t, tt.name)
		})
	}
}

// TestReadTimeout: a request is lost. It goes again after 200 ms or a little more, and the application has hung up by
// then, or it has not.
func TestReadTimeout(t *testing.T) {
	for _, tt := range []struct {
		name, found string
		patience    time.Duration
	}{
		{"impatient", "read-timeout-too-short failed likely 1", 200 * time.Millisecond},
		{"patient", "rto-floor recovered certain 1", time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := story.Told(t, func() *story.Report {
				p := labtest.NewPair(t, labtest.PairOptions{NoOffload: true}).Place(lab.V4)
				w := story.Start(t, p.Addr, p.Client)
				var answered bool
				var lost uint32
				counts := perform(t, p, func(ctx context.Context, a *lab.Act) (err error) {
					answered, lost, err = ask(ctx, a, tt.patience)
					return err
				}, "net.ipv4.tcp_ecn", "1")
				r := w.End()
				if lost != 1 || answered != (tt.patience > 200*time.Millisecond) || counts["RetransSegs"] == 0 {
					t.Logf("%d segments lost, %d sent again, answered: %v", lost, counts["RetransSegs"], answered)
					return nil // the machine was busy with something that runs no filter, or the application's timer was late
				}
				r.Want(tt.found)
				return r
			})
			r.Keep(t, tt.name)
		})
	}
}

// ask sends two requests of a different length and waits so long for each answer, then hangs up. The second one is lost
// once.
func ask(ctx context.Context, a *lab.Act, patience time.Duration) (answered bool, lost uint32, err error) {
	call := func(n int) (served chan error, err error) {
		served = make(chan error, 1)
		go func() {
			served <- lab.InTurn(
				func() error { return a.Server.Discard(ctx, n) },
				func() error { return a.Server.Send(ctx, make([]byte, n)) })
		}()
		if err = a.Client.Send(ctx, make([]byte, n)); err != nil {
			return served, err
		}
		if answered, err = readable(a.Client, patience); err != nil || !answered {
			return served, err
		}
		return served, a.Client.Discard(ctx, n)
	}
	if err := a.Establish(ctx); err != nil {
		return false, 0, err
	}
	served, err := call(100)
	if err = errors.Join(err, <-served, a.Server.Attach(lab.DropOriginal(200))); err != nil {
		return answered, 0, err
	}
	served, err = call(200)
	if err = errors.Join(err, a.Client.Close()); err == nil {
		err = <-served // what the server answers then, nobody reads
	}
	if err == nil {
		lost, err = a.Server.Drops()
	}
	return answered, lost, err
}

// readable is the application's wait for an answer: whether there is one, or its patience is at an end.
func readable(s *lab.Socket, patience time.Duration) (bool, error) {
	for end := time.Now().Add(patience); ; {
		left := max(time.Until(end).Round(time.Millisecond), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
