// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nft_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/lab/labtest/nft"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// Every scenario does what its facts say, on loopback and over a cable.
func TestScenarios(t *testing.T) {
	for _, s := range []struct {
		name string
		play func(context.Context, lab.Place) (*lab.Facts, error)
	}{
		{"blocked-output", func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
			return nft.BlockedOutput(ctx, p, 2)
		}},
		{"rejected-syn", nft.RejectedSYN},
		{"rejected-output", nft.RejectedOutput},
		{"rejected-data", nft.RejectedData},
		{"random-loss", func(ctx context.Context, p lab.Place) (*lab.Facts, error) {
			rule := nft.Rule{Hook: nft.Input, To: netip.AddrPortFrom(p.Addr, 0), Share: 0.03}
			return nft.Lossy(ctx, p, rule, 8<<20)
		}},
	} {
		for _, f := range []lab.Family{lab.V4, lab.V6} {
			for _, veth := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/veth=%v", s.name, f, veth), func(t *testing.T) {
					t.Parallel()
					var p lab.Place
					if veth {
						p = labtest.NewPair(t, labtest.PairOptions{}).Place(f)
					} else {
						var err error
						if p, err = labtest.Namespace(t).Loopback(f); err != nil {
							t.Fatal(err)
						}
					}
					labtest.PlayAndCheck(t, p, s.play)
				})
			}
		}
	}
}

// A rule for one connection's addresses and ports leaves the others alone.
func TestRuleMatches(t *testing.T) {
	for _, f := range []lab.Family{lab.V4, lab.V6} {
		p := labtest.NewPair(t, labtest.PairOptions{}).Place(f)
		_, err := lab.Perform(t.Context(), p, func(ctx context.Context, a *lab.Act) error {
			if err := a.Establish(ctx); err != nil {
				return err
			}
			conn := a.Conn()
			other := netip.AddrPortFrom(conn.Client.Addr.Addr(), conn.Client.Addr.Port()+1)
			remove, err := nft.Firewall(p.Server, nft.Rule{Hook: nft.Input, From: other, To: conn.Server.Addr})
			if err != nil {
				return err
			}
			if err := a.Burst(ctx, 100); err != nil { // not for this one
				return err
			}
			remove2, err := nft.Firewall(p.Server, nft.Rule{Hook: nft.Input, From: conn.Client.Addr, To: conn.Server.Addr})
			if err != nil {
				return err
			}
			err = lab.InTurn(
				func() error { return a.Client.Send(ctx, make([]byte, 100)) },
				func() error {
					return lab.Until(ctx, func() (bool, error) {
						info, err := a.Client.Info()
						return err == nil && info.Total_retrans > 0, err
					})
				},
				remove2, remove,
				func() error { return a.Server.Discard(ctx, 100) })
			if err != nil {
				return err
			}
			return a.Finish(ctx)
		})
		if err != nil {
			t.Error(f, err)
		}
	}
}

// Two containers of a pod talk to one server behind a router that has one port for both: the second one's SYNs stay
// unanswered while the first one's connection lasts. More ports cure it.
func TestTranslate(t *testing.T) {
	for _, f := range []lab.Family{lab.V4, lab.V6} {
		t.Run(f.String(), func(t *testing.T) {
			pair := labtest.NewPair(t, labtest.PairOptions{Router: true})
			pod := labtest.NewPod(t, pair.Client, "billing", "mailer")
			server := labtest.Echo(t, pair.Server, netip.AddrPortFrom(pair.Place(f).Addr, 0))
			nat := nft.Translation{Dev: labtest.RouterDev, Own: labtest.RouterAddr(f), First: 5000, Last: 5000}
			remove, err := nft.Translate(pair.Router, nat)
			if err != nil {
				t.Fatal(err)
			}
			first, err := pod[0].Connect(server, time.Minute)
			if err == nil {
				err = first.Talk()
			}
			if err != nil {
				t.Fatal(err)
			}
			before, err := pair.Client.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pod[1].Connect(server, 1500*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("through the only port, which is taken: %v", err)
			}
			// The third time it is the port, not the container, that makes the difference.
			again := make(chan error, 1)
			go func() { _, err := pod[1].Connect(server, 0); again <- err }()
			err = lab.Until(t.Context(), func() (bool, error) {
				now, err := pair.Client.Counters()
				return now["TCPSynRetrans"]-before["TCPSynRetrans"] >= 3, err
			})
			if err == nil {
				err = remove()
			}
			if err == nil {
				nat.Last++
				_, err = nft.Translate(pair.Router, nat)
			}
			if err = errors.Join(err, <-again, first.Talk()); err != nil {
				t.Error("with another port:", err)
			}
			after, err := pair.Client.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if d := lab.Delta(before, after); d["InSegs"] == 0 || d["OutRsts"] != 0 || d["RetransSegs"] != d["TCPSynRetrans"] {
				t.Error(labtest.Counters(d).TCP())
			}
			if err := first.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
