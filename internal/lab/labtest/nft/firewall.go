// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package nft puts nftables rules into a test's namespaces, and holds the scenarios that need a firewall.
package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

// A Hook is a place where a firewall looks at packets.
type Hook string

// Hooks.
const (
	Input   Hook = "input"
	Output  Hook = "output"
	Forward Hook = "forward"
)

// A Rule drops TCP segments, or resets their connection.
type Rule struct {
	Hook Hook
	// From and To must match where they are valid; a port of 0 matches any.
	From, To netip.AddrPort
	// Share is the part of the segments that the rule takes at random, 0 meaning all.
	Share float64
	// Reset answers with a reset instead of dropping in silence.
	Reset bool
}

// Firewall puts rules into a namespace. remove takes all rules of the namespace away.
func Firewall(ns *lab.Namespace, rules ...Rule) (remove func() error, err error) {
	err = ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "lab", Family: nftables.TableFamilyINet})
		for i, r := range rules {
			hook := map[Hook]*nftables.ChainHook{
				Input: nftables.ChainHookInput, Output: nftables.ChainHookOutput, Forward: nftables.ChainHookForward,
			}[r.Hook]
			chain := c.AddChain(&nftables.Chain{
				Name: fmt.Sprintf("%s-%d", r.Hook, i), Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(i)),
			})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.exprs()})
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("firewall: %w", err)
		}
		return nil
	})
	return func() error { return flush(ns) }, err
}

// A Translation is source NAT: TCP that leaves a router by the interface Dev comes from the address Own, by a port from
// First to Last.
type Translation struct {
	Dev         string
	Own         netip.Addr
	First, Last uint16
}

// Translate has a router translate addresses. A connection gets lost, SYN by SYN, if there is no port left with which it
// would not look like another one to the same destination. remove takes all rules of the namespace away; connections that
// were translated still are.
func Translate(router *lab.Namespace, tr Translation) (remove func() error, err error) {
	err = router.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{
			Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		dev := make([]byte, unix.IFNAMSIZ)
		copy(dev, tr.Dev)
		family := byte(unix.NFPROTO_IPV4)
		if tr.Own.Is6() {
			family = unix.NFPROTO_IPV6
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: dev},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Immediate{Register: 1, Data: tr.Own.AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(tr.First)},
			&expr.Immediate{Register: 3, Data: binaryutil.BigEndian.PutUint16(tr.Last)},
			&expr.NAT{
				Type: expr.NATTypeSourceNAT, Family: uint32(family),
				RegAddrMin: 1, RegProtoMin: 2, RegProtoMax: 3, Specified: true,
			},
		}})
		if err := c.Flush(); err != nil {
			return fmt.Errorf("address translation: %w", err)
		}
		return nil
	})
	return func() error { return flush(router) }, err
}

// flush takes all rules of a namespace away.
func flush(ns *lab.Namespace) error {
	return ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	})
}

func (r Rule) exprs() []expr.Any {
	equal := func(load expr.Any, value []byte) []expr.Any {
		return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
	}
	field := func(base expr.PayloadBase, offset, length uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}
	}
	all := equal(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, []byte{unix.IPPROTO_TCP})
	for _, end := range []struct {
		addr           netip.AddrPort
		off4, off6, at uint32
	}{{r.From, 12, 8, 0}, {r.To, 16, 24, 2}} {
		if a := end.addr.Addr().Unmap(); a.IsValid() {
			family, offset := byte(unix.NFPROTO_IPV4), end.off4
			if a.Is6() {
				family, offset = unix.NFPROTO_IPV6, end.off6
			}
			all = append(all, equal(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, []byte{family})...)
			all = append(all, equal(field(expr.PayloadBaseNetworkHeader, offset, uint32(a.BitLen()/8)), a.AsSlice())...)
		}
		if port := end.addr.Port(); port != 0 {
			all = append(all, equal(field(expr.PayloadBaseTransportHeader, end.at, 2), binaryutil.BigEndian.PutUint16(port))...)
		}
	}
	if r.Share > 0 {
		all = append(all,
			&expr.Numgen{Register: 1, Modulus: math.MaxUint32, Type: unix.NFT_NG_RANDOM},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, uint32(r.Share*math.MaxUint32))})
	}
	if r.Reset {
		return append(all, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	}
	return append(all, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
}

// BlockedOutput connects while the client's own firewall drops what it sends: the SYN's retransmissions are events with
// the error EPERM (6.17 and later), counted by the kernel though nothing reaches the wire.
func BlockedOutput(ctx context.Context, p lab.Place, retries int) (*lab.Facts, error) {
	return labtest.FailingConnect(ctx, p, retries, "EPERM", func(a *lab.Act) error {
		remove, err := Firewall(p.Client, Rule{Hook: Output})
		a.Later(remove)
		return err
	})
}

// RejectedSYN connects to a server whose firewall rejects that with a reset.
func RejectedSYN(ctx context.Context, p lab.Place) (*lab.Facts, error) {
	return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
		err := lab.InTurn(
			a.Listen,
			func() error { return reject(a, a.Place.Server, Input) },
			func() error { return a.Start() },
			func() error { return a.Client.WaitFailure(ctx, unix.ECONNREFUSED) })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		a.Expect(1, lab.FirewallReset, lab.Server, "firewall")
		a.Expect(1, lab.ReceiveReset, lab.Client, "peer")
		return nil
	})
}

// RejectedOutput connects while the client's own firewall rejects that with a reset: to the client it looks as if the
// server had sent it.
func RejectedOutput(ctx context.Context, p lab.Place) (*lab.Facts, error) {
	return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
		err := lab.InTurn(
			a.Listen,
			func() error { return reject(a, a.Place.Client, Output) },
			func() error { return a.Start() },
			func() error { return a.Client.WaitFailure(ctx, unix.ECONNREFUSED) })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		a.Expect(1, lab.FirewallReset, lab.Client, "firewall")
		a.Expect(1, lab.ReceiveReset, lab.Client, "peer")
		return nil
	})
}

// RejectedData sends over a connection that the server's firewall has come to reject. The server's own end is not told.
func RejectedData(ctx context.Context, p lab.Place) (*lab.Facts, error) {
	return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
		err := lab.InTurn(
			func() error { return a.Establish(ctx) },
			func() error { return reject(a, a.Place.Server, Input) },
			func() error { return a.Client.Send(ctx, make([]byte, 100)) },
			func() error { return a.Client.WaitFailure(ctx, unix.ECONNRESET) },
			func() error { return a.Server.Vanish() })
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT ESTABLISHED CLOSE", "LISTEN SYN_RECV ESTABLISHED CLOSE")
		a.Expect(1, lab.FirewallReset, lab.Server, "firewall")
		a.Expect(1, lab.ReceiveReset, lab.Client, "peer")
		return nil
	})
}

// reject rejects what goes to the listener's port.
func reject(a *lab.Act, at *lab.Namespace, hook Hook) error {
	to := netip.AddrPortFrom(netip.Addr{}, a.Facts.Listener.Port())
	remove, err := Firewall(at, Rule{Hook: hook, To: to, Reset: true})
	a.Later(remove)
	return err
}

// Lossy transfers n bytes past a rule in the server's firewall that drops some at random.
func Lossy(ctx context.Context, p lab.Place, rule Rule, n int) (*lab.Facts, error) {
	var remove func() error
	return lab.Transfer(ctx, p, lab.TransferOptions{
		Bytes:  n,
		Before: func() (err error) { remove, err = Firewall(p.Server, rule); return err },
		After:  func() error { return remove() },
		Kinds:  []string{"fast", "rto", "loss", "rack"},
	})
}
