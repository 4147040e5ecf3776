// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/pkg/events"
)

func TestMain(m *testing.M) {
	if os.Getenv(actorEnv) != "" {
		act()
		return
	}
	labtest.Main(m, func() error { return everything.close() })
}

// everything is one stream of all events of the machine, for tests that look at
// their own namespaces in it, side by side.
var everything stream

type stream struct {
	once   sync.Once
	err    error // of open
	src    live.Source
	blind  *labtest.BlindSpot
	unseen string // what this kernel does not show
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	change   sync.Cond            // of the following, which mu guards
	follow   map[uint32]*followed // by namespace
	given    uint64
	gone     uint64 // lost
	readUpTo uint64 // CLOCK_BOOTTIME, ns: what was made before has been read
	end      error  // of the reading
}

// followed are the events of some namespaces from a time on.
type followed struct {
	since  uint64 // CLOCK_BOOTTIME, ns
	events []events.Event
}

func (s *stream) open() error {
	s.once.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		s.cancel, s.done, s.follow = cancel, make(chan struct{}), map[uint32]*followed{}
		s.change.L = &s.mu
		if s.blind, s.err = labtest.StartBlindSpot(); s.err != nil {
			return
		}
		s.src, s.err = live.Open(ctx, live.Options{
			Types: allTypes, Buffer: 16 << 20, Cache: kernelTypes,
			Hooks: func(hooks []live.Hook) { s.unseen = live.Unseen(hooks) },
		})
		if s.err == nil {
			go s.read(ctx)
		}
	})
	return s.err
}

func (s *stream) read(ctx context.Context) {
	defer close(s.done)
	idle := uint64(0) // when the last reading began, if nothing came of it
	for err := error(nil); err == nil; {
		var batch []events.Event
		before := bootTime()
		batch, err = s.src.Read(ctx, make([]events.Event, 0, 256))
		s.mu.Lock()
		for _, e := range batch {
			if e.Type != events.Lost {
				s.given++
			} else {
				s.gone += e.Count
			}
			// Another namespace may have had the number before.
			if f := s.follow[e.NetNS]; f != nil && e.Boot >= f.since {
				f.events = append(f.events, e)
			}
		}
		if len(batch) == 0 {
			// That nothing was there may have been found out before this reading
			// began, but not before the one before it.
			s.readUpTo = max(s.readUpTo, idle)
			idle = before
		} else {
			idle = 0
			// Programs that run side by side may finish in another order.
			const disorder = 100e6
			s.readUpTo = max(s.readUpTo, batch[len(batch)-1].Boot-min(disorder, batch[len(batch)-1].Boot))
		}
		s.end = err
		s.mu.Unlock()
		s.change.Broadcast()
	}
}

// start follows what happens in these namespaces. What it returns gives the
// events until then, in order, and ends that.
func (s *stream) start(t *testing.T, inums ...uint32) (stop func() []events.Event) {
	t.Helper()
	if err := s.open(); err != nil {
		t.Fatalf("%+v", err)
	}
	f := &followed{since: bootTime()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, inum := range inums {
		s.follow[inum] = f
	}
	return func() []events.Event {
		t.Helper()
		now := bootTime()
		s.mu.Lock()
		defer s.mu.Unlock()
		for s.readUpTo < now && s.end == nil {
			s.change.Wait()
		}
		if s.end != nil {
			t.Fatal(s.end)
		}
		for _, inum := range inums {
			delete(s.follow, inum)
		}
		return f.events
	}
}

// lost is how many events were lost so far.
func (s *stream) lost() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// skipped is how often the kernel skipped a program so far.
func (s *stream) skipped(t *testing.T) uint64 {
	t.Helper()
	n, err := s.src.Skipped()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// close ends the stream and holds it to its account.
func (s *stream) close() error {
	if s.src == nil {
		return s.err
	}
	s.cancel()
	<-s.done
	c := s.src.Counts()
	err := errors.Join(s.src.Close(), s.blind.Close())
	if !errors.Is(s.end, io.EOF) {
		err = errors.Join(err, s.end)
	}
	if c.Lost != 0 || s.given+c.Filtered+c.Merged != c.Produced {
		err = errors.Join(err, fmt.Errorf("given %d + filtered %d + merged %d + lost %d is not produced %d, or some were lost", s.given, c.Filtered, c.Merged, c.Lost, c.Produced))
	}
	return err
}

func bootTime() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return uint64(ts.Nano())
}
