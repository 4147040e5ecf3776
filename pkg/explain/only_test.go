// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// The timeline of a connection that was asked for is whole; the others are not
// kept for it.
func TestOnly(t *testing.T) {
	const n = 100
	g := New(Options{
		Only: func(c *Connection) bool { return c.Conn == 1 },
		May:  func(e *events.Event) bool { return e.Conn == 1 },
	})
	for i := range 2 * n {
		g.Add(&events.Event{
			Time: int64(i+1) * 1e9, Boot: uint64(i+1) * 1e9, Type: events.Retransmit, Kind: events.KindTLP, Conn: uint64(i%2 + 1), Segs: 1, State: events.Established,
			LAddr: netip.MustParseAddr("10.0.0.1"), LPort: uint16(i%2 + 1), RAddr: netip.MustParseAddr("10.0.0.2"), RPort: 443,
		})
	}
	for _, s := range g.open {
		if kept := len(s.line.list); s.conn == 2 && kept > keptFirst+keptLast {
			t.Errorf("%d events are kept of a connection that nobody asked for", kept)
		}
	}
	r := g.Report(time.Time{})
	if len(r.Connections) != 1 || r.Connections[0].Conn != 1 || len(r.Connections[0].Timeline) != n || r.Troubled != 0 {
		t.Errorf("%d connections in trouble: %+v", r.Troubled, r.Connections)
	}
}
