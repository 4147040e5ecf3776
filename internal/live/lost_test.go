// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// TestLost lets a tiny ring buffer, and what user space keeps besides, overflow
// while nobody reads: each event is given or counted as lost, and the loss
// stands where the gap is.
func TestLost(t *testing.T) {
	place := loopback(t, lab.V4)
	ctx, cancel := context.WithCancel(t.Context())
	src, err := live.Open(ctx, live.Options{
		Types: allTypes, Kernel: filter.Kernel{NetNS: []uint32{place.Client.Inum()}}, Buffer: 4096, Cache: kernelTypes,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}()
	var all []events.Event
	// read takes what is there, once there is something.
	read := func() (err error) {
		batch := make([]events.Event, 0, 256)
		for begin := len(all); err == nil; {
			n := len(all)
			batch, err = src.Read(ctx, batch[:0])
			all = append(all, batch...)
			if len(all) == n && n > begin {
				break
			}
		}
		return err
	}
	refuse := func(n int) {
		for range n {
			if _, err := lab.Refused(t.Context(), place); err != nil {
				t.Fatal(err)
			}
		}
	}
	refuse(100) // 400 events; there is room for about 100
	if err := read(); err != nil {
		t.Fatal(err)
	}
	gap := len(all)
	refuse(1)
	if err := read(); err != nil {
		t.Fatal(err)
	}
	cancel()
	err = nil
	for err == nil {
		err = read()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}

	given, lost, types := uint64(0), uint64(0), map[events.Type]bool{}
	for i, e := range all {
		if e.Type != events.Lost {
			given++
			continue
		}
		if lost += e.Count; e.Count == 0 {
			t.Errorf("lost none of %v", e.Of)
		}
		types[e.Of] = true
		if i > gap || i < 10 {
			t.Errorf("a loss stands at %d of %d events; the gap is at %d", i, len(all), gap)
		}
	}
	c := src.Counts()
	if lost == 0 || lost != c.Lost || !types[events.Reset] || !types[events.StateChange] {
		t.Errorf("%d lost events reported, %d counted, of %v", lost, c.Lost, types)
	}
	if given+c.Filtered+c.Merged+c.Lost != c.Produced {
		t.Errorf("given %d + filtered %d + merged %d + lost %d is not produced %d", given, c.Filtered, c.Merged, c.Lost, c.Produced)
	}
}

// TestBacklog ends a stream while much is waiting that looks as if it could be
// merged: all of it is given.
func TestBacklog(t *testing.T) {
	place := loopback(t, lab.V4)
	ctx, cancel := context.WithCancel(t.Context())
	src, err := live.Open(ctx, live.Options{
		Types: []events.Type{events.Reset}, Kernel: filter.Kernel{NetNS: []uint32{place.Client.Inum()}, States: 1<<events.FinWait1 | 1<<events.FinWait2},
		Buffer: 16 << 20, Cache: kernelTypes,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}()
	// The client has shut down both ways; the server resets it.
	const n = 300
	for range n {
		_, err := lab.Perform(t.Context(), place, func(ctx context.Context, a *lab.Act) error {
			return lab.InTurn(
				func() error { return a.Establish(ctx) },
				func() error { return a.Client.Shutdown(unix.SHUT_RDWR) },
				func() error { return a.Server.WaitEOF(ctx) },
				func() error { return a.Server.SetLinger0() },
				func() error { return a.Server.Close() })
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	given := uint64(0)
	for batch := make([]events.Event, 0, 256); err == nil; {
		batch, err = src.Read(ctx, batch[:0])
		given += uint64(len(batch))
	}
	c := src.Counts()
	if !errors.Is(err, io.EOF) || given < n-n/10 || given+c.Filtered+c.Merged+c.Lost != c.Produced {
		t.Errorf("%v: given %d + filtered %d + merged %d + lost %d is not produced %d", err, given, c.Filtered, c.Merged, c.Lost, c.Produced)
	}
}

// TestClose closes streams that nobody has read to their end, in a storm: what
// moves records must not look into a buffer that is gone.
func TestClose(t *testing.T) {
	place := loopback(t, lab.V4)
	rounds := 10
	if os.Getenv(slow) != "" {
		rounds = 2 // to wait there for what programs still do takes long
	}
	for range rounds {
		src, err := live.Open(t.Context(), live.Options{Types: allTypes, Buffer: 64 << 20, Cache: kernelTypes})
		if err != nil {
			t.Fatalf("%+v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- place.Client.Storm(ctx, place.Addr, 1<<30, 2) }()
		for ctx.Err() == nil && src.Counts().Produced < 1000 {
			runtime.Gosched()
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
