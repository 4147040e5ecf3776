// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/lab/labtest/nft"
	"github.com/tcptrace/tcptrace/pkg/events"
)

var families = []lab.Family{lab.V4, lab.V6}

// capture records what crosses the client's interface while run makes trouble.
func capture(t *testing.T, place lab.Place, run trouble) ([]events.Event, []labtest.Packet) {
	t.Helper()
	type both struct {
		evs     []events.Event
		packets []labtest.Packet
	}
	got := whole(t, allSeen, func() (b both, s seen) {
		c, err := labtest.StartCapture(place.Client, place.Dev)
		if err != nil {
			t.Fatal(err)
		}
		b.evs, s = playOnce(t, place, run)
		if b.packets, err = c.Stop(); err != nil {
			t.Fatal(err)
		}
		return b, s
	})
	return got.evs, got.packets
}

// repeated are the packets whose sequence numbers had been sent before.
func repeated(packets []labtest.Packet, from netip.Addr, wanted func(labtest.Packet) bool) (all, again []labtest.Packet) {
	seen := map[uint32]bool{}
	for _, p := range packets {
		if p.Src.Addr() != from || !wanted(p) {
			continue
		}
		all = append(all, p)
		if seen[p.Seq] {
			again = append(again, p)
		}
		seen[p.Seq] = true
	}
	return all, again
}

func only(evs []events.Event, kind events.Kind) []events.Event {
	return slices.DeleteFunc(slices.Clone(evs), func(e events.Event) bool { return e.Kind != kind })
}

// onWire wants each event to be a packet that was seen again on the wire, at
// the time that the event has: after it, and before the next.
func onWire(t *testing.T, evs []events.Event, again []labtest.Packet) {
	t.Helper()
	if len(evs) != len(again) {
		t.Fatalf("%d events, %d packets again on the wire:\n%s%v", len(evs), len(again), dump(evs), again)
	}
	slack := jiffy
	if os.Getenv(slow) != "" {
		slack *= 20
	}
	for i := range evs {
		e, p := &evs[i], again[i]
		at := time.Unix(0, e.Time)
		// The clocks are read one after the other, and the packet is stamped
		// before the tracepoint fires.
		early := at.Before(p.Time.Add(-slack))
		late := i+1 < len(again) && at.After(again[i+1].Time)
		if e.Seq != p.Seq || int(e.Len) != p.Len || uint8(e.Flags) != p.Flags || early || late {
			t.Errorf("event at %v: %s\npacket at %v: %v", at, line(e), p.Time, p)
		}
	}
}

// TestSYNTimes repeats a SYN, with linear time-outs and without: the RTOs add
// up to the times known from the kernel, and each SYN is on the wire.
func TestSYNTimes(t *testing.T) {
	for _, tt := range []struct {
		linear int
		at     []int // seconds after the first SYN
	}{
		{4, []int{1, 2, 3, 4, 5, 7}},
		{0, []int{1, 3, 7}},
	} {
		for _, family := range families {
			t.Run(fmt.Sprintf("%d linear/%v", tt.linear, family), func(t *testing.T) {
				t.Parallel()
				place := loopback(t, family)
				_, err := place.Client.ReadSysctl(lab.SYNLinearTimeouts[1:])
				if tt.linear > 0 && errors.Is(err, os.ErrNotExist) {
					t.Skip("this kernel has no linear time-outs")
				}
				evs, packets := capture(t, place, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
					return lab.SYNBlackhole(ctx, p, lab.SYNBlackholeOptions{Linear: tt.linear, Retries: len(tt.at)})
				})
				syns := only(evs, events.KindSYN)
				var at []int
				elapsed := time.Duration(0)
				for i := range syns {
					elapsed += syns[i].RTO
					at = append(at, int(elapsed/time.Second))
				}
				if !slices.Equal(at, tt.at) {
					t.Errorf("SYNs again at %v, want %v", at, tt.at)
				}
				if len(syns) == 0 {
					return
				}
				_, again := repeated(packets, syns[0].LAddr, func(p labtest.Packet) bool { return p.Flags == labtest.SYN })
				onWire(t, syns, again)
			})
		}
	}
}

// TestRTOSeries lets an established connection meet silence: after each
// time-out ss says what the event announced, and each segment is on the wire.
func TestRTOSeries(t *testing.T) {
	const rounds = 5
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			place := loopback(t, family)
			said := map[int]labtest.SocketInfo{} // by the number of time-outs
			evs, packets := capture(t, place, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
					err := lab.InTurn(
						func() error { return a.Establish(ctx) },
						func() error { return a.Server.Blackhole(true) },
						func() error { return a.Client.Send(ctx, make([]byte, 100)) })
					for n := 1; n <= rounds && err == nil; n++ {
						if _, err = a.Client.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return int(i.Retransmits) >= n }); err != nil {
							break
						}
						var all []labtest.SocketInfo
						if all, err = labtest.SS(ctx, p.Client, "dport", "=", fmt.Sprint(a.Facts.Listener.Port())); err != nil {
							break
						}
						for _, s := range all {
							if s.State == "ESTAB" {
								said[s.Backoff] = s
							}
						}
					}
					err = errors.Join(err, a.Client.Vanish(), a.Server.Vanish())
					a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
					e := a.Expect(rounds, lab.Retransmit, lab.Client, "rto")
					e.Max = rounds + 1 // one more may come before the end
					return err
				})
			})
			rtos := only(evs, events.KindRTO)
			for i := range rtos {
				e := &rtos[i]
				s, ok := said[int(e.Attempt)]
				if !ok {
					continue // ss came late for it
				}
				if got := time.Duration(s.RTO * float64(time.Millisecond)); got != e.NextRTO {
					t.Errorf("after time-out %d ss says RTO %v, the event %v: %s", e.Attempt, got, e.NextRTO, s.Raw)
				}
				if int(e.Backoff)+1 != s.Backoff || s.TotalRetrans != int(e.TotalRetrans) || int(e.Cwnd) != s.Cwnd {
					t.Errorf("ss: %s\nevent: %s", s.Raw, line(e))
				}
			}
			if len(said) < 2 || len(rtos) < rounds {
				t.Fatalf("ss answered %d times, %d events", len(said), len(rtos))
			}
			_, again := repeated(packets, rtos[0].LAddr, func(p labtest.Packet) bool { return p.Len > 0 })
			onWire(t, rtos, again)
		})
	}
}

// TestWire has trouble cross a cable, segment by segment.
func TestWire(t *testing.T) {
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			place := labtest.NewPair(t, labtest.PairOptions{NoOffload: true}).Place(family)
			evs, packets := capture(t, place, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				return lab.Lossy(ctx, p, lab.LossyOptions{Bytes: 1 << 20, Loss: 0.02, SegmentSize: 1400})
			})
			// Retransmissions of one flow are on the wire in the order of the events.
			rtx := slices.DeleteFunc(slices.Clone(evs), func(e events.Event) bool { return e.Type != events.Retransmit })
			if len(rtx) == 0 {
				t.Fatal("no loss")
			}
			_, again := repeated(packets, rtx[0].LAddr, func(p labtest.Packet) bool { return p.Len > 0 })
			segs := 0
			for i := range rtx {
				segs += int(rtx[i].Segs)
			}
			if segs != len(again) {
				t.Errorf("%d segments in the events, %d again on the wire", segs, len(again))
			}
		})
	}
}

// TestManyLosses has more than a thousand segments sent again. It keeps the
// machine busy, so it is not beside tests of exact timers.
func TestManyLosses(t *testing.T) {
	for _, bunches := range []bool{false, true} { // one by one, and with segmentation offload
		for _, family := range families {
			t.Run(fmt.Sprintf("bunches %v/%v", bunches, family), func(t *testing.T) {
				o := lab.LossyOptions{Bytes: 40 << 20, Loss: 0.05, SegmentSize: 1400, Bunches: bunches}
				place := loopback(t, family)
				// Of so many, some are hidden where the machine hides any.
				evs := whole(t, someSeen, func() ([]events.Event, seen) {
					return playOnce(t, place, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
						return lab.Lossy(ctx, p, o)
					})
				})
				segs := 0
				for i := range evs {
					segs += int(evs[i].Segs)
				}
				if segs < 1000 {
					t.Errorf("%d segments sent again, the test wants more than 1000", segs)
				}
			})
		}
	}
}

// TestSendFailures are retransmissions that this host could not send.
func TestSendFailures(t *testing.T) {
	for _, family := range families {
		t.Run("firewall/"+family.String(), func(t *testing.T) {
			t.Parallel()
			playFound(t, "blocked output", labtest.NewPair(t, labtest.PairOptions{}).Place(family), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				return nft.BlockedOutput(ctx, p, 2)
			})
		})
		t.Run("no neighbour/"+family.String(), func(t *testing.T) {
			t.Parallel()
			playFound(t, "no neighbour", labtest.NewPair(t, labtest.PairOptions{NoNeighbour: true}).Place(family), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				return labtest.Unreachable(ctx, p, 2)
			})
		})
	}
}

// TestFirewall has netfilter reset connections.
func TestFirewall(t *testing.T) {
	for name, run := range map[string]trouble{
		"SYN": nft.RejectedSYN, "output": nft.RejectedOutput, "data": nft.RejectedData,
	} {
		for _, family := range families {
			t.Run(name+"/"+family.String(), func(t *testing.T) {
				t.Parallel()
				evs := playFound(t, "rejected "+name, labtest.NewPair(t, labtest.PairOptions{}).Place(family), run)
				for _, e := range only(evs, events.KindFirewall) {
					if e.Why == "" || !e.Has(events.HasTrigger|events.HasTTL) || e.NetNS == 0 ||
						name == "output" && (e.State != events.SynSent || e.Cookie == 0) {
						t.Errorf("%s, in answer to %v", line(&e), e.TriggerFlags)
					}
				}
			})
		}
	}
}

// TestPathMTU sends segments that are too large for a router on the way.
func TestPathMTU(t *testing.T) {
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			place := labtest.NewPair(t, labtest.PairOptions{PathMTU: 1400}).Place(family)
			evs := playFound(t, "path MTU", place, labtest.PathMTU)
			if len(only(evs, events.KindPMTU)) == 0 {
				t.Errorf("nothing of kind pmtu:\n%s", dump(evs))
			}
		})
	}
}

// TestTimeWaitReuse reuses a port over a cable, where tcp_tw_reuse needs a
// second to have passed.
func TestTimeWaitReuse(t *testing.T) {
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			play(t, labtest.NewPair(t, labtest.PairOptions{}).Place(family), lab.TimeWaitReuse)
		})
	}
}

// TestPortReuse has a load balancer without timestamps use its port again, and
// what cures that.
func TestPortReuse(t *testing.T) {
	for name, tt := range map[string]struct {
		options  labtest.BalancerOptions
		want     labtest.Reuse
		settings []string
	}{
		"recovered":  {labtest.BalancerOptions{}, labtest.Recovered, nil},
		"stuck":      {labtest.BalancerOptions{}, labtest.Stuck, nil},
		"more ports": {labtest.BalancerOptions{Ports: 2}, labtest.Harmless, nil},
		"timestamps": {labtest.BalancerOptions{KeepTimestamps: true}, labtest.Harmless, []string{"net.ipv4.tcp_timestamps", "2"}},
	} {
		for _, family := range families {
			t.Run(name+"/"+family.String(), func(t *testing.T) {
				t.Parallel()
				b := labtest.NewBalancer(t, tt.options)
				evs := playFound(t, "balancer, "+name, b.Place(family), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
					return b.PortReuse(ctx, p, tt.want, tt.settings...)
				})
				for _, e := range only(evs, events.KindBadAck) {
					if e.State != events.SynSent || e.TriggerFlags != events.ACK || e.TriggerTimestamps {
						t.Errorf("%s, in answer to %v, timestamps %v", line(&e), e.TriggerFlags, e.TriggerTimestamps)
					}
				}
			})
		}
	}
}

// TestReordered has segments overtaken by others: what is sent again is known
// for needless, by the count of duplicates that the other end reported.
func TestReordered(t *testing.T) {
	const bursts = 3
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			tunnel := labtest.NewTunnel(t)
			evs := playFound(t, "reordered", tunnel.Place(family), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				return tunnel.Reordered(ctx, p, bursts)
			})
			n := uint32(0)
			for _, e := range evs {
				if e.Type == events.Retransmit {
					if e.DSACKDups != n {
						t.Errorf("%d duplicates, want %d: %s", e.DSACKDups, n, line(&e))
					}
					n++
				}
			}
		})
	}
}

// TestSameTuple has the same addresses and ports in two namespaces at once.
func TestSameTuple(t *testing.T) {
	a, b := labtest.Namespace(t), labtest.Namespace(t)
	evs := whole(t, allSeen, func() ([]events.Event, seen) { return refusedInBoth(t, a, b) })
	conns := map[uint32]uint64{}
	count := map[string]int{}
	for i := range evs {
		e := &evs[i]
		count[fmt.Sprint(e.NetNS, " ", name(e))]++
		if e.Conn == 0 {
			continue // the reset without a socket
		}
		if c := conns[e.NetNS]; c != 0 && c != e.Conn {
			t.Errorf("conn %x became %x: %s", c, e.Conn, line(e))
		}
		conns[e.NetNS] = e.Conn
	}
	if conns[a.Inum()] == 0 || conns[a.Inum()] == conns[b.Inum()] || len(conns) != 2 {
		t.Errorf("connections by namespace: %x", conns)
	}
	for _, ns := range []*lab.Namespace{a, b} {
		for point, n := range map[string]int{lab.SendReset: 1, lab.ReceiveReset: 1, lab.SetState: 2} {
			if got := count[fmt.Sprint(ns.Inum(), " ", point)]; got != n {
				t.Errorf("namespace %d: %d of %s, want %d", ns.Inum(), got, point, n)
			}
		}
	}
}

// refusedInBoth makes the same refused connection in two namespaces.
func refusedInBoth(t *testing.T, a, b *lab.Namespace) (evs []events.Event, s seen) {
	t.Helper()
	tr := start(t, allTypes, a.Inum(), b.Inum())
	local, remote := netip.MustParseAddrPort("127.0.0.1:40001"), netip.MustParseAddrPort("127.0.0.1:9")
	for _, ns := range []*lab.Namespace{a, b} {
		s, err := ns.Socket(local.Addr(), 0)
		if err != nil {
			t.Fatal(err)
		}
		err = lab.InTurn(
			func() error { return s.Bind(local) },
			func() error {
				if err := s.Connect(t.Context(), remote); !errors.Is(err, unix.ECONNREFUSED) {
					return fmt.Errorf("%w in place of a refusal", err)
				}
				return nil
			},
			s.Close)
		if err != nil {
			t.Fatal(err)
		}
	}
	evs = tr.finish(t)
	blind, err := tr.blind.Events(func(e labtest.TraceEvent) bool {
		return e.Src.Port() == local.Port() || e.Dst.Port() == local.Port()
	})
	if err != nil {
		t.Fatal(err)
	}
	return evs, unless(len(blind) > 0)
}

// TestGivesUp has the kernel give a stalled connection up, by a setting of the
// socket's own namespace: when the events foretold it (checkTimeouts).
func TestGivesUp(t *testing.T) {
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			// model(2) is 1.4 s: with an RTO of some 200 ms the time-outs after the
			// first come at 0.4, 1.2 and 2.8 s.
			evs := play(t, loopback(t, family), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				return lab.GivenUp(ctx, p, 2)
			})
			if rtos := only(evs, events.KindRTO); len(rtos) == 3 && rtos[0].GivesUp != 14*rtos[0].RTO {
				t.Errorf("foretold in %v, want 2+4+8 times %v", rtos[0].GivesUp, rtos[0].RTO)
			}
		})
	}
}

// TestKilled has ss end a connection.
func TestKilled(t *testing.T) {
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			evs := play(t, loopback(t, family), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
					err := lab.InTurn(
						func() error { return a.Establish(ctx) },
						func() error {
							kill := exec.CommandContext(ctx, "ss", "-K", "-t", "dport", "=", fmt.Sprint(a.Facts.Listener.Port()))
							return p.Client.Do(kill.Run)
						},
						func() error { return a.Client.WaitFailure(ctx, unix.ECONNABORTED) },
						func() error { return a.Server.WaitFailure(ctx, unix.ECONNRESET) })
					a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
					a.ExpectReset(lab.Client, "abort", "TCP_STATE")
					return err
				})
			})
			for i := range evs {
				if e := &evs[i]; e.Direction == events.Sent && e.State != events.Established {
					t.Errorf("the state before is ESTABLISHED: %s", line(e))
				}
			}
		})
	}
}

// TestQueueFull has this host's queueing discipline drop what is sent again.
func TestQueueFull(t *testing.T) {
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			place := labtest.NewPair(t, labtest.PairOptions{}).Place(family)
			evs := playFound(t, "queue full", place, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				return labtest.FailingConnect(ctx, p, 2, "ENOBUFS", func(*lab.Act) error {
					tc := exec.CommandContext(ctx, "tc", "qdisc", "replace", "dev", p.Dev, "root", "pfifo", "limit", "0")
					return p.Client.Do(tc.Run)
				})
			})
			for _, e := range only(evs, events.KindSYN) {
				if e.NextRTO != 500*time.Millisecond {
					t.Errorf("the next try is in %v: %s", e.NextRTO, line(&e))
				}
			}
		})
	}
}

// TestAcceptQueue has a listener repeat a SYN-ACK while connections wait to be
// accepted, first with room for more and then without: ss has the same numbers.
func TestAcceptQueue(t *testing.T) {
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			var said []labtest.SocketInfo
			evs := play(t, loopback(t, family), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				said = nil
				return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
					var clients []*lab.Socket
					connect := func() error {
						err := lab.InTurn(func() error { return a.Start() }, func() error { return a.Client.Wait(ctx) })
						clients = append(clients, a.Client)
						a.Paths("CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE")
						return err
					}
					listener := func() (s labtest.SocketInfo, err error) {
						all, err := labtest.SS(ctx, p.Server, "sport", "=", fmt.Sprint(a.Facts.Listener.Port()))
						i := slices.IndexFunc(all, func(s labtest.SocketInfo) bool { return s.State == "LISTEN" })
						if err == nil && i >= 0 {
							s = all[i]
						}
						return s, err
					}
					ask := func() error {
						s, err := listener()
						said = append(said, s)
						return err
					}
					before, err := p.Server.Counters()
					if err != nil {
						return err
					}
					err = lab.InTurn(
						func() error { return a.ListenFor(4, 0) },
						connect,
						connect,
						func() error {
							return lab.Until(ctx, func() (bool, error) {
								s, err := listener()
								return s.RecvQ == 2, err
							})
						},
						// The last step of this handshake is lost, and again when
						// the SYN-ACK was repeated.
						func() error { return a.Listener.Attach(lab.DropACK()) },
						connect,
						func() error { return a.Listener.WaitDrops(ctx, 2) },
						ask,
						// The next is refused for want of room.
						func() error { return a.Listener.Listen(1) },
						func() error { return a.Listener.Detach() },
						func() error {
							return lab.Until(ctx, func() (bool, error) {
								c, err := p.Server.Counters()
								return c["ListenOverflows"] > before["ListenOverflows"], err
							})
						},
						ask,
						func() error { return a.Listener.Listen(4) },
						func() error { return a.Client.Send(ctx, make([]byte, 100)) })
					if err != nil {
						return err
					}
					// On a slow machine one more comes before each step.
					a.Expect(2, lab.RetransSYNACK, lab.Server, "synack").Max = 5
					for i, c := range clients {
						s, err := a.Listener.Accept(ctx)
						if err != nil {
							return err
						}
						a.Later(s.Close)
						a.Facts.Conns[i].Server.Cookie = s.Cookie()
						if c == a.Client {
							err = s.Discard(ctx, 100)
						}
						if err = errors.Join(err, lab.CloseBoth(ctx, c, s)); err != nil {
							return err
						}
					}
					return nil
				})
			})
			var queues [][2]int
			for _, e := range only(evs, events.KindSYNACK) {
				queues = append(queues, [2]int{int(e.AcceptQueue), int(e.AcceptQueueMax)})
			}
			roomy, full := [2]int{said[0].RecvQ, said[0].SendQ}, [2]int{said[1].RecvQ, said[1].SendQ}
			if roomy != [2]int{2, 4} || full != [2]int{2, 1} {
				t.Errorf("ss:\n%s\n%s", said[0].Raw, said[1].Raw)
			}
			others := slices.ContainsFunc(queues, func(q [2]int) bool { return q != roomy && q != full })
			if queues[0] != roomy || !slices.Contains(queues, full) || others {
				t.Errorf("queues %d, ss says %d, then %d", queues, roomy, full)
			}
		})
	}
}

// TestAtClose closes connections with data that is not acknowledged: the event
// has what TCP_INFO said just before, and an age between what the clock says,
// or that the data was sent again.
func TestAtClose(t *testing.T) {
	const finWait2 = 5
	for name, tt := range map[string]struct{ abort, again bool }{"shutdown": {}, "linger 0": {abort: true}, "sent again": {again: true}} {
		for _, family := range families {
			t.Run(name+"/"+family.String(), func(t *testing.T) {
				t.Parallel()
				place := loopback(t, family)
				var client, server *unix.TCPInfo
				var sending, sent, closing, closed time.Time
				run := func(ctx context.Context, a *lab.Act) error {
					err := lab.InTurn(
						func() error { return a.Establish(ctx) },
						// What is sent again though it arrived comes back as a DSACK.
						func() error { return a.Client.Blackhole(true) },
						func() error { return a.Client.Send(ctx, make([]byte, 100)) },
						func() error { return a.Server.Discard(ctx, 100) },
						func() error {
							_, err := a.Client.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.Total_retrans > 0 })
							return err
						},
						func() error { return a.Client.Blackhole(false) },
						func() error {
							_, err := a.Client.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.Unacked == 0 && i.Dsack_dups > 0 })
							return err
						},
						func() error { return a.Server.Blackhole(true) },
						func() error {
							sending = time.Now()
							err := a.Client.Send(ctx, make([]byte, 100))
							sent = time.Now()
							return err
						},
						func() (err error) {
							client, err = a.Client.WaitInfo(ctx, func(i *unix.TCPInfo) bool {
								return tt.again && i.Retransmits > 0 || !tt.again && i.Last_data_sent >= 60
							})
							return err
						})
					if err == nil && tt.abort {
						err = a.Client.SetLinger0()
					}
					if err != nil {
						return err
					}
					closing = time.Now()
					if tt.abort {
						err = a.Client.Close()
					} else {
						err = a.Client.Shutdown(unix.SHUT_WR)
					}
					closed = time.Now()
					if err != nil {
						return err
					}
					if tt.abort {
						a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
						a.Expect(1, lab.SendReset, lab.Client, "linger").Reason = "TCP_STATE"
						a.Expect(int(client.Total_retrans), lab.Retransmit, lab.Client, "rto").Max++ // one more may come before the end
						return lab.InTurn(
							func() error { return a.Server.WaitDrops(ctx, 2) },
							func() error { return a.Server.Vanish() })
					}
					a.Paths("CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE")
					return lab.InTurn(
						func() error { return a.Server.Blackhole(false) },
						func() error { return a.Server.Discard(ctx, 100) },
						func() error { return a.Server.WaitEOF(ctx) },
						func() error {
							i, err := a.Client.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.State == finWait2 })
							a.Expect(int(i.Total_retrans), lab.Retransmit, lab.Client, "rto", "loss")
							return err
						},
						func() error { return a.Server.Send(ctx, make([]byte, 1000)) },
						func() error { return a.Client.Discard(ctx, 1000) },
						func() (err error) {
							server, err = a.Server.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.Unacked == 0 })
							return err
						},
						func() error { return a.Server.Close() },
						func() error { return a.Client.WaitEOF(ctx) },
						func() error { return a.Client.Close() })
				}
				evs := whole(t, allSeen, func() ([]events.Event, seen) {
					evs, s := playOnce(t, place, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
						return lab.Perform(ctx, p, run, "net.ipv4.tcp_early_retrans", "0")
					})
					if i := slices.IndexFunc(evs, closesSender); i >= 0 && (evs[i].TotalRetrans != client.Total_retrans || tt.again != (client.Retransmits > 0)) {
						return evs, otherDone // a time-out came in between
					}
					return evs, s
				})
				checked := 0
				for i := range evs {
					e := &evs[i]
					switch {
					case closesSender(*e):
						checked++
						sameInfo(t, e, client)
						least, most := closing.Sub(sent)-time.Microsecond, closed.Sub(sending)
						if tt.again && (e.Has(events.HasUnacked) || !e.UnackedRetrans) {
							t.Errorf("not acknowledged for %v, the data was sent again: %s", e.Unacked, line(e))
						}
						if !tt.again && (!e.Has(events.HasUnacked) || e.Unacked < least || e.Unacked > most) {
							t.Errorf("not acknowledged for %v, the clock says %v to %v: %s", e.Unacked, least, most, line(e))
						}
						if !e.Failed() {
							t.Errorf("closed after %v without an answer, with SRTT %v: %s", e.Unacked, e.SRTT, line(e))
						}
					case e.OldState == events.CloseWait && e.NewState == events.LastAck:
						checked++
						sameInfo(t, e, server)
						if e.Has(events.HasUnacked) || e.UnackedRetrans || e.Failed() {
							t.Errorf("all was acknowledged: %v, %s", e.Unacked, line(e))
						}
					}
				}
				if want := map[bool]int{true: 1, false: 2}[tt.abort]; checked != want {
					t.Errorf("%d closes, want %d:\n%s", checked, want, dump(evs))
				}
			})
		}
	}
}

// closesSender tells whether e closes an established connection that sent data.
func closesSender(e events.Event) bool {
	return e.OldState == events.Established && e.DataSegsOut > 0
}

// sameInfo compares a close with what TCP_INFO said before it.
func sameInfo(t *testing.T, e *events.Event, i *unix.TCPInfo) {
	t.Helper()
	us := func(n uint32) time.Duration { return time.Duration(n) * time.Microsecond }
	if !e.Has(events.HasSRTT|events.HasRTO|events.HasTotals) || e.SRTT != us(i.Rtt) || e.RTTVar != us(i.Rttvar) || e.RTO.Truncate(time.Microsecond) != us(i.Rto) ||
		e.TotalRetrans != i.Total_retrans || e.DataSegsOut != i.Data_segs_out || e.DSACKDups != i.Dsack_dups {
		t.Errorf("%s\nSRTT %v, variation %v, RTO %v, sent %d, again %d, DSACKs %d, TCP_INFO: %+v", line(e), e.SRTT, e.RTTVar, e.RTO, e.DataSegsOut, e.TotalRetrans, e.DSACKDups, i)
	}
}
