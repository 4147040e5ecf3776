// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// BenchmarkStorm is nothing but trouble: connects that are refused, both ends
// on this host.
func BenchmarkStorm(b *testing.B) {
	client, server := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	b.ReportAllocs()
	g, boot, n := New(Options{}), uint64(time.Hour), 0
	add := func(e events.Event) {
		boot += 1e4
		n++
		e.Boot, e.Time = boot, int64(boot)
		e.Family, e.NetNS = 4, 4026531840
		g.Add(&e)
	}
	for b.Loop() {
		port := uint16(32768 + n/4%28000)
		owner := events.Event{LAddr: client, RAddr: server, LPort: port, RPort: 81, Conn: uint64(1 + n), PID: 4711, Known: events.HasUID}
		copy(owner.Comm[:], "storm")
		e := owner
		e.Type, e.OldState, e.NewState, e.State, e.LPort = events.StateChange, events.Close, events.SynSent, events.SynSent, 0
		add(e)
		add(events.Event{Type: events.Reset, Kind: events.KindRefused, Direction: events.Sent, LAddr: server, RAddr: client, LPort: 81, RPort: port, Why: "nothing listens on this port"})
		e = owner
		e.Type, e.Kind, e.Direction, e.State = events.Reset, events.KindPeer, events.Received, events.SynSent
		add(e)
		e = owner
		e.Type, e.OldState, e.NewState, e.State, e.Error = events.StateChange, events.SynSent, events.Close, events.Close, 111
		add(e)
	}
	if r := g.Report(time.Time{}); len(r.Findings) != 1 || r.Findings[0].Count != n/4 {
		b.Fatalf("of %d there are %+v", n/4, r.Findings)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
}
