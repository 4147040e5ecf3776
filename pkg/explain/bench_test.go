// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// BenchmarkAdd is a busy host: for each retransmission of one of a thousand
// long connections there are the four changes of a short one that is well, and
// for each tenth a refused connect.
func BenchmarkAdd(b *testing.B) {
	client, server := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	var list []events.Event
	boot := uint64(time.Hour)
	add := func(e events.Event) {
		boot += 1e4
		e.Boot, e.Time = boot, int64(boot)
		e.Family, e.LAddr, e.RAddr, e.NetNS = 4, client, server, 4026531840
		e.PID, e.UID, e.Known = 4711, 33, e.Known|events.HasUID
		copy(e.Comm[:], "nginx")
		list = append(list, e)
	}
	for i := range 100_000 {
		long := uint64(1 + i%1000)
		add(events.Event{
			Type: events.Retransmit, Kind: events.KindFast, State: events.Established, Phase: events.PhaseData, Conn: long, LPort: uint16(long), RPort: 443,
			Known: events.HasSeq | events.HasSRTT | events.HasTotals, Segs: 1, Len: 1448, SRTT: time.Millisecond, TotalRetrans: uint32(i / 1000), DataSegsOut: uint32(i),
		})
		short := uint64(10_000 + i)
		for _, c := range [][2]events.State{
			{events.Close, events.SynSent}, {events.SynSent, events.Established}, {events.Established, events.FinWait1}, {events.FinWait1, events.FinWait2}, {events.FinWait2, events.Close},
		} {
			add(events.Event{Type: events.StateChange, OldState: c[0], NewState: c[1], State: c[1], Conn: short, LPort: uint16(32768 + i%28000), RPort: uint16(80 + i%100)})
		}
		if i%10 == 0 {
			add(events.Event{Type: events.Reset, Kind: events.KindRefused, Direction: events.Sent, LPort: 81, RPort: uint16(i), Why: "nothing listens on this port"})
		}
	}
	for _, n := range []int{1, 4} {
		b.Run(fmt.Sprintf("%d rounds", n), func(b *testing.B) {
			b.ReportAllocs()
			events := 0
			for b.Loop() {
				g := New(Options{})
				for range n {
					for i := range list {
						g.Add(&list[i])
						events++
					}
				}
				if r := g.Report(time.Time{}); len(r.Findings) == 0 {
					b.Fatal("nothing was found")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
		})
	}
}

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
