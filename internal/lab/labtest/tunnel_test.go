// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

// A tunnel that carries all does not change what happens.
func TestScenariosOverTunnel(t *testing.T) {
	for _, f := range families {
		for _, s := range lab.Scenarios() {
			if !slices.Contains([]string{"refused", "fast-retransmit", "linger0", "time-wait-reuse", "clean"}, s.Name) {
				continue
			}
			t.Run(fmt.Sprintf("%s/%v", s.Name, f), func(t *testing.T) {
				t.Parallel()
				p := labtest.NewTunnel(t).Place(f)
				// The carrier may be late where many run at once.
				for _, ns := range []*lab.Namespace{p.Client, p.Server} {
					if err := labtest.RTOMin(ns, p.Dev, 10*time.Second); err != nil {
						t.Fatal(err)
					}
				}
				labtest.PlayAndCheck(t, p, s.Run)
			})
		}
	}
}

// What is not carried is lost, once it is carried it arrives; and the segments are those that a capture sees.
func TestTunnelLoses(t *testing.T) {
	for _, f := range families {
		t.Run(f.String(), func(t *testing.T) {
			tunnel := labtest.NewTunnel(t)
			p := tunnel.Place(f)
			var seen, packets []labtest.Packet
			labtest.PlayAndCheck(t, p, func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				capture, err := labtest.StartCapture(p.Client, p.Dev)
				if err != nil {
					return nil, err
				}
				seen = nil
				lost := 0
				tunnel.Carry(func(s *labtest.Segment) []*labtest.Segment {
					seen = append(seen, s.Packet)
					if s.Len > 0 && s.FromClient && lost < 2 {
						lost++
						return nil
					}
					return []*labtest.Segment{s}
				})
				facts, err := lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
					if err := a.Establish(ctx); err != nil {
						return err
					}
					if err := a.Burst(ctx, 100); err != nil {
						return err
					}
					a.Expect(2, lab.Retransmit, lab.Client, "rto")
					return a.Finish(ctx)
				})
				tunnel.Carry(nil)
				var captureErr error
				packets, captureErr = capture.Stop()
				return facts, errors.Join(err, captureErr)
			})
			if len(packets) < 10 || len(packets) != len(seen) {
				t.Fatalf("carried %d segments, captured %d", len(seen), len(packets))
			}
			data := 0
			for i, p := range packets {
				if p.Len > 0 && p.Outgoing {
					data++
				}
				found := slices.ContainsFunc(seen, func(s labtest.Packet) bool { return s.String() == p.String() })
				if !found {
					t.Errorf("captured %d: %v, which was not carried", i, p)
				}
			}
			if data != 3 {
				t.Errorf("%d segments with data, want 3", data)
			}
		})
	}
}

// A segment that comes late is sent again for nothing, and nothing was lost.
func TestReordered(t *testing.T) {
	const bursts = 3
	for _, f := range []lab.Family{lab.V4, lab.V6, lab.Mapped, lab.Dual} {
		t.Run(f.String(), func(t *testing.T) {
			tunnel := labtest.NewTunnel(t)
			facts := labtest.PlayAndCheck(t, tunnel.Place(f), func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
				return tunnel.Reordered(ctx, p, bursts)
			})
			if facts.Client["TCPDSACKRecv"] != bursts || facts.Client["RetransSegs"] != bursts {
				t.Error(labtest.Counters(facts.Client).TCP())
			}
		})
	}
}
