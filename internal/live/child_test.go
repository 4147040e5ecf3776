// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"context"
	"testing"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// TestListenerCookie gives the listener a cookie, as ss does: an accepted
// connection has a conn of its own from its first event that has one.
func TestListenerCookie(t *testing.T) {
	var port uint16
	evs := play(t, loopback(t, lab.V4), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
		return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
			return lab.InTurn(
				a.Listen,
				func() error { port = a.Facts.Listener.Port(); a.Listener.Cookie(); return nil },
				func() error { return a.Start() },
				func() error { return a.Accept(ctx) },
				func() error { return a.Finish(ctx) })
		})
	})
	child, listener := uint64(0), uint64(0)
	for i := range evs {
		e := &evs[i]
		if e.LPort != port {
			continue
		}
		switch {
		case e.NewState == events.Listen:
			listener = e.Conn
		case e.OldState == events.SynRecv:
			child = e.Conn
		}
		if e.OldState == events.Listen && e.NewState == events.SynRecv && e.Conn != 0 && e.Conn == listener {
			t.Errorf("a child has its listener's conn: %s", line(e))
		}
		if e.OldState == events.SynRecv && (e.Conn == 0 || e.Conn == listener) || child != 0 && e.OldState != events.Listen && e.Conn != child {
			t.Errorf("conn %x became %x: %s", child, e.Conn, line(e))
		}
	}
	if child == 0 {
		t.Error("no conn")
	}
	if t.Failed() {
		t.Logf("stream:\n%s", dump(evs))
	}
}
