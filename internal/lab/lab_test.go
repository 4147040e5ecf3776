// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

func TestNamespace(t *testing.T) {
	ns, err := lab.NewNamespace(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var self, outside unix.Stat_t
	err = ns.Do(func() error { return unix.Stat("/proc/thread-self/ns/net", &self) })
	if err != nil || uint32(self.Ino) != ns.Inum() {
		t.Errorf("inside, the namespace is %d, want %d (%v)", self.Ino, ns.Inum(), err)
	}
	if err := unix.Stat("/proc/self/ns/net", &outside); err != nil || outside.Ino == self.Ino {
		t.Errorf("outside, the namespace is %d (%v)", outside.Ino, err)
	}
	var byFD unix.Stat_t
	if err := unix.Fstat(ns.FD(), &byFD); err != nil || byFD.Ino != self.Ino {
		t.Errorf("the descriptor is of %d, want %d (%v)", byFD.Ino, self.Ino, err)
	}
	// A call within a call, and an error that comes through.
	want := errors.New("an error")
	if err := ns.Do(func() error { return ns.Do(func() error { return want }) }); !errors.Is(err, want) {
		t.Errorf("Do returned %v", err)
	}
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
	if err := ns.Do(func() error { return nil }); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("Do on a closed namespace returned %v", err)
	}
	if err := ns.Close(); err != nil {
		t.Error("closing twice:", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lab.NewNamespace(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: %v", err)
	}
}

// Goexit, as in a test's FailNow, ends the namespace but not the caller.
func TestNamespaceGoexit(t *testing.T) {
	ns, err := lab.NewNamespace(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("no error")
	}
	if err := ns.Do(func() error { return nil }); !errors.Is(err, lab.ErrClosed) {
		t.Error(err)
	}
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
}

// Many at a time, so that some start on the process's first thread, which must not be taken.
func TestNamespaceMainThread(t *testing.T) {
	var before, after unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &before); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		done := make(chan error)
		for range 4 {
			go func() {
				ns, err := lab.NewNamespace(t.Context())
				if err == nil {
					if ns.TID() == os.Getpid() {
						err = errors.New("took the first thread")
					}
					err = errors.Join(err, ns.Close())
				}
				done <- err
			}()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	if err := unix.Stat("/proc/self/ns/net", &after); err != nil || before.Ino != after.Ino {
		t.Errorf("the process moved from %d to %d (%v)", before.Ino, after.Ino, err)
	}
}

// A setting belongs to one namespace, and With puts it back.
func TestSysctl(t *testing.T) {
	const name = "net.ipv4.tcp_syn_retries"
	a, b := labtest.Namespace(t), labtest.Namespace(t)
	host, err := os.ReadFile("/proc/sys/net/ipv4/tcp_syn_retries")
	if err != nil {
		t.Fatal(err)
	}
	values := func() string {
		va, errA := a.ReadSysctl(name)
		vb, errB := b.ReadSysctl(name)
		now, errHost := os.ReadFile("/proc/sys/net/ipv4/tcp_syn_retries")
		if err := errors.Join(errA, errB, errHost); err != nil {
			t.Fatal(err)
		}
		if string(now) != string(host) {
			t.Error("the host's setting changed")
		}
		return va + " " + vb
	}
	if err := errors.Join(a.Sysctl(name, "3"), b.Sysctl(name, "4")); err != nil {
		t.Fatal(err)
	}
	if got := values(); got != "3 4" {
		t.Error(got)
	}
	restore, err := a.With(name, "5", "-net.ipv4.no_such_setting", "1", name, "6")
	if err != nil {
		t.Fatal(err)
	}
	if got := values(); got != "6 4" {
		t.Error(got)
	}
	if err := restore(); err != nil {
		t.Error(err)
	}
	if got := values(); got != "3 4" {
		t.Error(got)
	}
	if _, err := a.With(name, "7", "net.ipv4.no_such_setting", "1"); err == nil {
		t.Error("no error for a setting that does not exist")
	}
	if got := values(); got != "3 4" {
		t.Error("after a failure:", got)
	}
}

// What a filter sees: the TCP header at offset 0, the segment's length, the IP header at SKF_NET_OFF. Every filter is
// given segments that it must drop and others that it must not, by both IP versions.
func TestFilters(t *testing.T) {
	for _, f := range []lab.Family{lab.V4, lab.V6, lab.Mapped, lab.Dual} {
		t.Run(f.String(), func(t *testing.T) {
			ctx := t.Context()
			p, err := labtest.Namespace(t).Loopback(f)
			if err != nil {
				t.Fatal(err)
			}
			_, err = lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
				if err := a.Establish(ctx); err != nil {
					return err
				}
				// What is dropped is sent again by time-out, once the filter is gone.
				for _, c := range []struct {
					filter lab.Filter
					length int
					drops  bool
				}{
					{lab.DropSYN(), 10, false},
					{lab.DropSYNACK(), 10, false},
					{lab.DropLength(10), 11, false},
					{lab.DropLength(10), 10, true},
					{lab.DropOriginal(20), 10, false},
					{lab.DropOriginal(20), 20, true}, // until it is sent again
					{lab.DropRandom(0), 10, false},
					{lab.DropRandom(1), 10, true},
					{lab.DropACK(), 10, true},
					{lab.DropData(), 10, true},
					{lab.DropAll(), 10, true},
				} {
					before, err := a.Server.Drops()
					if err != nil {
						return err
					}
					if err := a.Server.Attach(c.filter); err != nil {
						return err
					}
					if err := a.Client.Send(ctx, make([]byte, c.length)); err != nil {
						return err
					}
					if c.drops {
						if err := a.Server.WaitDrops(ctx, int(before)+1); err != nil {
							return fmt.Errorf("%v did not drop %d bytes: %w", c.filter, c.length, err)
						}
						if c.filter.String() != lab.DropOriginal(20).String() {
							if err := a.Server.Detach(); err != nil {
								return err
							}
						}
					}
					if err := a.Server.Discard(ctx, c.length); err != nil {
						return err
					}
					after, err := a.Server.Drops()
					if err != nil {
						return err
					}
					if !c.drops && after != before {
						t.Errorf("%v dropped %d bytes", c.filter, c.length)
					}
				}
				// An empty segment (here the acknowledgement of what the server sends) is no data.
				before, err := a.Server.Drops()
				if err != nil {
					return err
				}
				err = lab.InTurn(
					func() error { return a.Server.Attach(lab.DropData()) },
					func() error { return a.Server.Send(ctx, make([]byte, 10)) },
					func() error { return a.Client.Discard(ctx, 10) },
					func() error {
						_, err := a.Server.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.Unacked == 0 })
						return err
					})
				if err != nil {
					return err
				}
				if after, err := a.Server.Drops(); err != nil || after != before {
					t.Errorf("a filter for data dropped an acknowledgement (%v)", err)
				}
				return a.Finish(ctx)
			}, "net.ipv4.tcp_ecn", "1")
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A bunch is dropped whole, and counted by its segments.
func TestDropsCountSegments(t *testing.T) {
	p, err := labtest.Namespace(t).Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lab.Perform(t.Context(), p, func(ctx context.Context, a *lab.Act) error {
		err := lab.InTurn(
			func() error { return a.Establish(ctx, lab.Set(unix.SOL_TCP, unix.TCP_MAXSEG, 1000)) },
			func() error { return a.Server.Attach(lab.DropAll()) },
			func() error { return a.Client.Send(ctx, make([]byte, 4500)) })
		if err != nil {
			return err
		}
		info, err := a.Client.Info()
		if err != nil {
			return err
		}
		want := (4500 + info.Snd_mss - 1) / info.Snd_mss
		if n, err := a.Server.Drops(); err != nil || n != want || n < 5 {
			t.Errorf("%d dropped, want %d (%v)", n, want, err)
		}
		return lab.InTurn(a.Client.Vanish, a.Server.Vanish)
	})
	if err != nil {
		t.Error(err)
	}
}

// SYN and SYN-ACK are dropped where they should be.
func TestHandshakeFilters(t *testing.T) {
	p, err := labtest.Namespace(t).Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name             string
		listener, client lab.Filter
	}{
		{"SYN", lab.DropSYN(), lab.DropData()},
		{"SYN-ACK", lab.DropSYNACK(), lab.DropSYNACK()},
	} {
		_, err := lab.Perform(t.Context(), p, func(ctx context.Context, a *lab.Act) error {
			err := lab.InTurn(
				a.Listen,
				func() error { return a.Listener.Attach(c.listener) },
				func() error { return a.Start(func(s *lab.Socket) error { return s.Attach(c.client) }) })
			if err != nil {
				return err
			}
			who, other := a.Listener, a.Client
			if c.name == "SYN-ACK" {
				who, other = other, who
			}
			if err := who.WaitDrops(ctx, 1); err != nil {
				return err
			}
			if n, err := other.Drops(); err != nil || n != 0 {
				t.Errorf("%s: the other side dropped %d (%v)", c.name, n, err)
			}
			return nil
		})
		if err != nil {
			t.Error(c.name, err)
		}
	}
}

// A context ends every wait.
func TestSocketContext(t *testing.T) {
	ns := labtest.Namespace(t)
	p, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ns.Listen(netip.AddrPortFrom(p.Addr, 0), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { _, err := l.Accept(ctx); result <- err }()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n, err := l.Drops(); n != 0 || err != nil {
		t.Error(n, err)
	}
	if err := l.Detach(); err != nil {
		t.Error("detaching nothing:", err)
	}
	if l.Cookie() == 0 || l.Local().Port() == 0 || l.Remote().IsValid() {
		t.Error(l.Cookie(), l.Local(), l.Remote())
	}
}

// The lossy transfer over both kinds of sender: one event a segment, or one a bunch.
func TestBunches(t *testing.T) {
	for _, bunches := range []bool{false, true} {
		p, err := labtest.Namespace(t).Loopback(lab.V4)
		if err != nil {
			t.Fatal(err)
		}
		o := lab.LossyOptions{Bytes: 8 << 20, Loss: 0.05, SegmentSize: 1000, Bunches: bunches}
		facts, events, err := labtest.Play(t.Context(), p, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
			return lab.Lossy(ctx, p, o)
		})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range events {
			if e.Name == lab.Retransmit {
				n++
			}
		}
		segs := int(facts.Client["RetransSegs"])
		if n == 0 || facts.Client["TCPFastRetrans"] == 0 || (n < segs) != bunches {
			t.Errorf("bunches %v: %d events, %d segments, fast %d", bunches, n, segs, facts.Client["TCPFastRetrans"])
		}
	}
}
