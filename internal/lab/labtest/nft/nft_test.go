// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nft_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

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
