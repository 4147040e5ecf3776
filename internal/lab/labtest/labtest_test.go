// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

var families = []lab.Family{lab.V4, lab.V6}

// Every scenario does the same between two namespaces as in one.
func TestScenariosOverPair(t *testing.T) {
	for _, f := range families {
		for _, s := range lab.Scenarios() {
			t.Run(fmt.Sprintf("%s/%v", s.Name, f), func(t *testing.T) {
				t.Parallel()
				labtest.PlayAndCheck(t, labtest.NewPair(t, labtest.PairOptions{}).Place(f), s.Run)
			})
		}
	}
}

// Nothing crosses a pair but TCP, and reports of IPv6's multicast listeners.
func TestPairIsSilent(t *testing.T) {
	for _, f := range families {
		pair := labtest.NewPair(t, labtest.PairOptions{NoOffload: true})
		facts := labtest.PlayAndCheck(t, pair.Place(f), lab.Clean)
		for name, n := range facts.Client {
			if strings.HasPrefix(name, "Icmp") && n > facts.Client["Icmp6OutMLDv2Reports"] {
				t.Errorf("%v: %s %d", f, name, n)
			}
		}
	}
}

// A router with a smaller way out has the sender cut its segments and send them again.
func TestPathMTU(t *testing.T) {
	for _, f := range families {
		t.Run(f.String(), func(t *testing.T) {
			pair := labtest.NewPair(t, labtest.PairOptions{PathMTU: 1400})
			labtest.PlayAndCheck(t, pair.Place(f), labtest.PathMTU)
		})
	}
}

// The least time-out of a route is that of its connections.
func TestRTOMin(t *testing.T) {
	for _, f := range families {
		p := labtest.NewPair(t, labtest.PairOptions{}).Place(f)
		if err := labtest.RTOMin(p.Client, p.Dev, 20*time.Second); err != nil {
			t.Fatal(err)
		}
		_, err := lab.Perform(t.Context(), p, func(ctx context.Context, a *lab.Act) error {
			if err := a.Establish(ctx); err != nil {
				return err
			}
			info, err := a.Client.Info()
			if err == nil && (info.Rto < 20e6 || info.Rto > 25e6) {
				t.Errorf("%v: RTO %d µs", f, info.Rto)
			}
			return errors.Join(err, a.Finish(ctx))
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// A neighbour whose hardware address nobody tells: the retransmissions fail before they leave.
func TestUnreachable(t *testing.T) {
	pair := labtest.NewPair(t, labtest.PairOptions{NoNeighbour: true})
	facts := labtest.PlayAndCheck(t, pair.Place(lab.V4), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
		return labtest.Unreachable(ctx, p, 2)
	})
	if n := facts.Client["RetransSegs"]; n != 0 {
		t.Error("RetransSegs is", n)
	}
}

// The capture sees what was sent, and the retransmission as a repetition of the lost segment.
func TestCapture(t *testing.T) {
	for _, f := range families {
		for _, veth := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/veth=%v", f, veth), func(t *testing.T) {
				var p lab.Place
				if veth {
					p = labtest.NewPair(t, labtest.PairOptions{NoOffload: true}).Place(f)
				} else {
					var err error
					if p, err = labtest.Namespace(t).Loopback(f); err != nil {
						t.Fatal(err)
					}
				}
				capture, err := labtest.StartCapture(p.Client, p.Dev)
				if err != nil {
					t.Fatal(err)
				}
				facts, err := lab.FastRetransmit(t.Context(), p)
				packets, captureErr := capture.Stop()
				if err := errors.Join(err, captureErr); err != nil {
					t.Fatal(err)
				}
				conn := facts.Conns[0]
				var seqs []uint32
				var ecn []uint8
				for i, p := range packets {
					if p.Src == conn.Client.Addr && p.Len == 777 {
						seqs, ecn = append(seqs, p.Seq), append(ecn, p.ECN)
					}
					if i > 0 && p.Time.Before(packets[i-1].Time) {
						t.Error("time goes back")
					}
					if p.Src != conn.Client.Addr && p.Src != conn.Server.Addr || p.TTL != 64 || p.Segs != 1 {
						t.Errorf("odd packet %+v", p)
					}
					if p.Outgoing != (veth && p.Src == conn.Client.Addr) {
						t.Error("direction", p)
					}
				}
				if len(seqs) != 2 || seqs[0] != seqs[1] || ecn[0] != 2 || ecn[1] != 0 {
					t.Errorf("the lost segment was sent as %v, ECN %v", seqs, ecn)
				}
				if first := packets[0]; first.Flags&^(labtest.ECE|labtest.CWR) != labtest.SYN || first.Dst != conn.Server.Addr {
					t.Error("the first packet is", first)
				}
				sent := 0
				for _, p := range packets {
					if p.Src == conn.Client.Addr {
						sent += p.Len
					}
				}
				if want := 6*1000 - 1000 + 777 + 777; sent != want {
					t.Errorf("sent %d bytes, want %d", sent, want)
				}
			})
		}
	}
}

// A bunch of segments is seen as such, with its number of segments.
func TestCaptureBunches(t *testing.T) {
	p, err := labtest.Namespace(t).Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	capture, err := labtest.StartCapture(p.Client, p.Dev)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := lab.Lossy(t.Context(), p, lab.LossyOptions{Bytes: 1 << 20, Loss: 0.02, SegmentSize: 1000, Bunches: true})
	packets, captureErr := capture.Stop()
	if err := errors.Join(err, captureErr); err != nil {
		t.Fatal(err)
	}
	segs, most := 0, 0
	for _, p := range packets {
		segs, most = segs+p.Segs, max(most, p.Segs)
	}
	// OutSegs counts every segment but retransmitted ones.
	want := int(facts.Client["OutSegs"] + facts.Client["RetransSegs"])
	if most < 2 || segs != want {
		t.Errorf("%d segments, up to %d at once, want %d", segs, most, want)
	}
}

// ss agrees with TCP_INFO about a stalled connection.
func TestSS(t *testing.T) {
	for _, f := range []lab.Family{lab.V4, lab.V6, lab.Mapped} {
		ns := labtest.Namespace(t)
		p, err := ns.Loopback(f)
		if err != nil {
			t.Fatal(err)
		}
		_, err = lab.Perform(t.Context(), p, func(ctx context.Context, a *lab.Act) error {
			err := lab.InTurn(
				func() error { return a.Establish(ctx) },
				func() error { return a.Server.Blackhole(true) },
				func() error { return a.Client.Send(ctx, make([]byte, 100)) },
				func() error { return a.Server.WaitDrops(ctx, 3) })
			if err != nil {
				return err
			}
			all, err := labtest.SS(ctx, ns)
			if err != nil {
				return err
			}
			info, err := a.Client.Info()
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all, func(s labtest.SocketInfo) bool { return s.Local == a.Facts.Conns[0].Client.Addr })
			if len(all) != 3 || i < 0 {
				return fmt.Errorf("ss saw %+v", all)
			}
			// Between ss and TCP_INFO time may have run on, by no more than one time-out.
			s := all[i]
			if s.State != "ESTAB" || s.Remote != a.Facts.Conns[0].Server.Addr || s.Cwnd != 1 ||
				s.TotalRetrans < 2 || s.TotalRetrans > int(info.Total_retrans) || s.Backoff != s.TotalRetrans ||
				s.RTO < 600 {
				t.Errorf("%v: %+v, TCP_INFO %+v", f, s, info)
			}
			return lab.InTurn(a.Client.Vanish, a.Server.Vanish)
		})
		if err != nil {
			t.Error(f, err)
		}
	}
}

// Counters belong to a namespace and move with what happens in it.
func TestCounters(t *testing.T) {
	ns, other := labtest.Namespace(t), labtest.Namespace(t)
	p, err := ns.Loopback(lab.V6)
	if err != nil {
		t.Fatal(err)
	}
	read := func(ns *lab.Namespace) labtest.Counters {
		c, err := labtest.ReadCounters(ns)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before, otherBefore := read(ns), read(other)
	if _, ok := before["RetransSegs"]; !ok {
		t.Error("no RetransSegs")
	}
	facts, err := lab.Linger0(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	d := read(ns).Delta(before)
	if d["OutRsts"] != 1 || d["EstabResets"] != 2 || d["Ip6OutRequests"] == 0 || d["RetransSegs"] != 0 {
		t.Error(d)
	}
	if facts.Client["OutRsts"] != 1 || facts.Server["OutRsts"] != 1 {
		t.Error(facts)
	}
	if d := read(other).Delta(otherBefore).TCP(); len(d) != 0 {
		t.Error("the other namespace counted", d)
	}
}

// The blind spot sees the events of process 1 alone. Nobody can make process 1 have some, so what is tested is that
// others' are not taken for its, and that counting works at all.
func TestBlindSpot(t *testing.T) {
	b, err := labtest.StartBlindSpot()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	if b.Absent() {
		t.Fatal("no tracefs")
	}
	p, err := labtest.Namespace(t).Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	own := func(e labtest.TraceEvent) bool { return e.Involves(p.Addr) }
	_, events, err := labtest.Play(t.Context(), p, lab.Linger0)
	if err != nil || len(events) == 0 {
		t.Fatal(len(events), err)
	}
	counts, err := b.Count(own)
	if err != nil || len(counts) != 0 { // all of it happened in this thread's system calls
		t.Error(counts, err)
	}
}

// A trace without addresses sees everything, one with addresses its own and no other's.
func TestTraceAddresses(t *testing.T) {
	a, b := labtest.Namespace(t), labtest.Namespace(t)
	pa, errA := a.Loopback(lab.V6)
	pb, errB := b.Loopback(lab.Dual)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	all, onlyA := labtest.Witness(t), labtest.Witness(t, pa.Addr)
	var fa *lab.Facts
	fb, eventsB, err := labtest.Play(t.Context(), pb, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
		var err error
		if fa, err = lab.HalfOpen(ctx, pa); err != nil {
			return nil, err
		}
		return lab.HalfOpen(ctx, pb)
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := func(name string, events []labtest.TraceEvent, wantA, wantB bool) {
		if got := labtest.Check(pa, fa, events) == nil; got != wantA {
			t.Errorf("%s: a was seen: %v", name, got)
		}
		if got := labtest.Check(pb, fb, events) == nil; got != wantB {
			t.Errorf("%s: b was seen: %v", name, got)
		}
	}
	seen("b", eventsB, false, true)
	for _, w := range []struct {
		name  string
		trace *labtest.Trace
		b     bool
	}{{"all", all, true}, {"a", onlyA, false}} {
		events, err := w.trace.Events()
		if errors.Is(err, labtest.ErrLost) { // a storm next door
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		seen(w.name, events, true, w.b)
	}
}

// Check notices what is missing and what is too much.
func TestCheckFails(t *testing.T) {
	p, err := labtest.Namespace(t).Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	facts, events, err := labtest.Play(t.Context(), p, lab.UnreadData)
	if err != nil {
		t.Fatal(err)
	}
	if err := labtest.Check(p, facts, events); err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if e.NewState == "LISTEN" || e.OldState == "LISTEN" && e.NewState == "CLOSE" {
			continue // a listener's way is not checked
		}
		if err := labtest.Check(p, facts, slices.Delete(slices.Clone(events), i, i+1)); err == nil {
			t.Errorf("without %v nothing was amiss", e)
		}
		if err := labtest.Check(p, facts, slices.Insert(slices.Clone(events), i, e)); err == nil {
			t.Errorf("with %v twice nothing was amiss", e)
		}
	}
	for i := range facts.Events {
		facts.Events[i].Reason = "ANOTHER"
	}
	if err := labtest.Check(p, facts, events); err == nil {
		t.Error("another reason was not noticed")
	}
}

// Offloads can be turned off and on again.
func TestOffload(t *testing.T) {
	ns := labtest.Namespace(t)
	if err := errors.Join(ns.Offload("lo", false), ns.Offload("lo", true)); err != nil {
		t.Error(err)
	}
	if err := ns.Offload("nosuchdev", true); !errors.Is(err, unix.ENODEV) {
		t.Error(err)
	}
	if err := ns.SetSegments(99, 1); !errors.Is(err, unix.ENODEV) {
		t.Error(err)
	}
}
