// SPDX-License-Identifier: Apache-2.0

//go:build linux

package balancer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/lab/labtest/nft"
	"github.com/tcptrace/tcptrace/test/stories/story"
)

func TestMain(m *testing.M) { story.Main(m, "shop") }

// A balancer is a load balancer between customers and a shop's web server, in a namespace of its own. To the server all
// connections come from it (SNAT), by ports of its own.
type balancer struct {
	lab.Place // of the customers and the server
	own       *lab.Namespace
	options
}

type options struct {
	ports          int  // of its own, to connect from; 0: see assign
	remembers      bool // does not use a port again for 120 s
	keepTimestamps bool // leaves them in
}

func newBalancer(t testing.TB, o options) *balancer {
	t.Helper()
	pair := labtest.NewPair(t, labtest.PairOptions{Router: true, NoOffload: true})
	b := &balancer{pair.Place(lab.V4), pair.Router, o}
	err := error(nil)
	if o.ports > 0 {
		_, err = nft.Translate(b.own, nft.Translation{
			Dev: labtest.RouterDev, Own: labtest.RouterAddr(lab.V4), First: 5000, Last: 5000 + uint16(o.ports) - 1,
		})
	} else {
		err = assign(b.own)
	}
	if err == nil { // it says nothing to what comes for a connection that it has forgotten
		_, err = nft.Firewall(b.own, nft.Rule{Hook: nft.Input})
	}
	if err == nil && !o.remembers { // connections that both ends have closed
		err = b.own.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "0")
	}
	if err == nil && !o.keepTimestamps {
		err = stripTimestamps(b.own)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rule adds a rule for TCP to a router.
func rule(router *lab.Namespace, chain nftables.Chain, exprs ...expr.Any) error {
	return router.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		chain.Table = c.AddTable(&nftables.Table{Name: "balancer", Family: nftables.TableFamilyIPv4})
		c.AddRule(&nftables.Rule{Table: chain.Table, Chain: c.AddChain(&chain), Exprs: append([]expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		}, exprs...)})
		if err := c.Flush(); err != nil {
			return fmt.Errorf("%s: %w", chain.Name, err)
		}
		return nil
	})
}

const tcp = expr.PayloadBaseTransportHeader

// assign has a router translate addresses as nft.Translate does, but give each customer the one port that has the last
// eight bits of the customer's own: who tries again comes from the same one.
func assign(router *lab.Namespace) error {
	dev := make([]byte, unix.IFNAMSIZ)
	copy(dev, labtest.RouterDev)
	return rule(router, nftables.Chain{
		Name: "assign", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: dev},
		&expr.Immediate{Register: 1, Data: labtest.RouterAddr(lab.V4).AsSlice()},
		&expr.Payload{DestRegister: 2, Base: tcp, Offset: 0, Len: 2},
		&expr.Bitwise{SourceRegister: 2, DestRegister: 2, Len: 2, Mask: []byte{0, 0xff}, Xor: []byte{20, 0}},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, RegProtoMax: 2, Specified: true})
}

// settings of the customers' host and of the shop's: name, value, and so on.
type settings struct{ customers, shop []string }

// set changes settings for good. SYNs that nobody answers go again after one second and after three, on every kernel.
func (b *balancer) set(s settings) error {
	_, err := b.Client.With(append(s.customers, lab.SYNLinearTimeouts, "0")...)
	if err == nil {
		_, err = b.Server.With(s.shop...)
	}
	return err
}

// stripTimestamps has a router put padding in the place of a SYN's timestamps (RFC 7323), as many load balancers do: then
// the whole connection does without. It is where Linux has it in a SYN, behind the segment size and SACK.
func stripTimestamps(router *lab.Namespace) error {
	const (
		flags, option = 13, 26
		syn           = 2
	)
	kind := []byte{8, 10} // and length
	return rule(router, nftables.Chain{
		Name: "strip", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityMangle,
	},
		&expr.Payload{DestRegister: 1, Base: tcp, Offset: flags, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
		&expr.Payload{DestRegister: 1, Base: tcp, Offset: option, Len: uint32(len(kind))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: kind},
		&expr.Immediate{Register: 1, Data: bytes.Repeat([]byte{1}, int(kind[1]))},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: 1, Base: tcp, Offset: option, Len: uint32(kind[1]),
			CsumType: expr.CsumTypeInet, CsumOffset: 16,
		})
}

// A visit is what came of two customers who visit the shop.
type visit struct {
	failure         error // of the second one's connect
	customers, shop labtest.Counters
	handshake       string // the second one's, as the customers' side saw it: flags of those sent, with > before, and got, with <
	ports           int    // of the balancer, as the server saw them
	timestamps      bool   // on the connections, as the server saw them
}

// visit has two customers visit the shop, one after the other. The shop closes the first one's connection, as web servers
// do with idle ones, and remembers it (TIME_WAIT). The second one's initial sequence number is below the first's, which
// with real ones it is about every other time. The customers' kernels try twice to connect, for three seconds.
func (b *balancer) visit(t testing.TB, set settings) visit {
	t.Helper()
	capture, err := labtest.StartCapture(b.Client, labtest.Dev)
	if err == nil {
		err = b.set(set)
	}
	if err != nil {
		t.Fatal(err)
	}
	var v visit
	ports := map[uint16]bool{}
	second := uint16(0)
	isn := func(seq uint32) lab.Option { return func(s *lab.Socket) error { return s.SetISN(seq) } }
	buy := func(ctx context.Context, a *lab.Act) error {
		ports[a.Server.Remote().Port()] = true
		info, err := a.Server.Info()
		if err == nil {
			v.timestamps = info.Options&tcpiTimestamps != 0
			err = a.Burst(ctx, 100)
		}
		return err
	}
	facts, err := lab.Perform(t.Context(), b.Place, func(ctx context.Context, a *lab.Act) error {
		err := lab.InTurn(
			func() error { return a.Establish(ctx, isn(1<<30)) },
			func() error { return buy(ctx, a) },
			func() error { return lab.CloseBoth(ctx, a.Server, a.Client) },
			func() error { return b.Client.Settled(ctx) },
			func() error { return b.Server.Settled(ctx) },
			func() error { return a.Start(isn(1<<29), lab.Set(unix.SOL_TCP, unix.TCP_SYNCNT, 1)) })
		if err != nil {
			return err
		}
		second = a.Client.Local().Port()
		if v.failure = a.Client.Wait(ctx); v.failure != nil {
			return ctx.Err()
		}
		return lab.InTurn(
			func() error { return a.Accept(ctx) },
			func() error { return buy(ctx, a) },
			func() error { return lab.CloseBoth(ctx, a.Client, a.Server) })
	})
	packets, cerr := capture.Stop()
	if err = errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	v.customers, v.shop, v.ports = facts.Client, facts.Server, len(ports)
	v.handshake = handshake(packets, second)
	return v
}

const tcpiTimestamps = 1 // TCPI_OPT_TIMESTAMPS

// handshake lists the flags of a customer's packets, up to the end of the handshake: ">S <." is a SYN and an ACK for it.
func handshake(packets []labtest.Packet, port uint16) string {
	var list []string
	for _, p := range packets {
		if p.Src.Port() != port && p.Dst.Port() != port {
			continue
		}
		way := "<"
		if p.Outgoing {
			way = ">"
		}
		flags := p.String()
		flags = flags[strings.IndexByte(flags, '[')+1 : strings.IndexByte(flags, ']')]
		if list = append(list, way+flags); flags == "S." {
			break
		}
	}
	return strings.Join(list, " ")
}

// told is what explain says of a visit, seen from all three namespaces.
func (b *balancer) told(t testing.TB, set settings) (visit, *story.Report) {
	t.Helper()
	w := story.Start(t, b.Addr, b.Client, b.own, b.Server)
	v := b.visit(t, set)
	return v, w.End()
}

// TestStory: the second customer is let in late or not at all, as README tells, and at once with each cure.
func TestStory(t *testing.T) {
	for _, tt := range []struct {
		name     string
		untold   bool // has no section in README
		options  options
		settings settings
		ports    int // that the balancer used
		shakes   string
		failure  error
		found    string
		cause    []string
	}{
		{
			name: "recovered", options: options{ports: 1}, ports: 1, shakes: ">S <. >R >S <S.",
			found: "timewait-collision recovered likely 1", cause: []string{"(no timestamps)", ", and was let in "},
		},
		{
			name: "failed", options: options{ports: 1}, settings: settings{nil, []string{"net.ipv4.tcp_rfc1337", "1"}}, ports: 1,
			shakes: ">S <. >R >S", failure: unix.ETIMEDOUT,
			found: "timewait-collision failed likely 1", cause: []string{"(no timestamps)", "in vain"},
		},
		{name: "ports", options: options{ports: 1000, remembers: true}, ports: 2, shakes: ">S <S."},
		{
			name: "timestamps", options: options{ports: 1, keepTimestamps: true}, ports: 1, shakes: ">S <S.",
			settings: settings{[]string{"net.ipv4.tcp_timestamps", "2"}, nil},
		},
		// The cures hold where the failure was, too.
		{
			name: "ports at a server that heeds no reset", untold: true, options: options{ports: 1000, remembers: true}, ports: 2, shakes: ">S <S.",
			settings: settings{nil, []string{"net.ipv4.tcp_rfc1337", "1"}},
		},
		{
			name: "timestamps at a server that heeds no reset", untold: true, options: options{ports: 1, keepTimestamps: true}, ports: 1, shakes: ">S <S.",
			settings: settings{[]string{"net.ipv4.tcp_timestamps", "2"}, []string{"net.ipv4.tcp_rfc1337", "1"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := story.Told(t, func() *story.Report {
				b := newBalancer(t, tt.options)
				v, r := b.told(t, tt.settings)
				collided := uint64(0)
				if tt.found != "" {
					collided = 1
				}
				if !errors.Is(v.failure, tt.failure) || v.timestamps != tt.options.keepTimestamps || v.customers["TCPTimeouts"] < collided ||
					!strings.HasPrefix(v.handshake, tt.shakes) || min(v.customers["OutRsts"], 1) != collided || tt.failure == nil && v.ports != tt.ports {
					t.Errorf("%v, %s, timestamps: %v, by %d ports\n%v\n%v", v.failure, v.handshake, v.timestamps, v.ports, v.customers.TCP(), v.shop.TCP())
				}
				r.Want(tt.found)
				r.WantCause(tt.cause...)
				return r
			})
			if !tt.untold {
				r.Keep(t, tt.name)
			}
		})
	}
}

// A crowd is customers who visit the shop at once.
type crowd struct {
	customers, shop []*lab.Socket   // ends of the connections, those that failed left out
	failed          map[uint16]bool // by the customer's port
}

// crowd has n customers connect by ports from first on, with initial sequence numbers and timestamps as the kernel makes
// them.
func (b *balancer) crowd(ctx context.Context, listener *lab.Socket, first uint16, n int, options ...lab.Option) (c *crowd, err error) {
	c = &crowd{failed: map[uint16]bool{}}
	var all []*lab.Socket
	for i := range uint16(n) {
		s, err := b.Client.Socket(b.Addr, 0)
		if err != nil {
			return c, err
		}
		all = append(all, s)
		c.customers = all
		err = s.Bind(netip.AddrPortFrom(netip.IPv4Unspecified(), first+i))
		for _, o := range options {
			err = errors.Join(err, o(s))
		}
		if err == nil {
			err = s.Start(netip.AddrPortFrom(b.Addr, listener.Local().Port()))
		}
		if err != nil {
			return c, err
		}
	}
	c.customers = nil
	for _, s := range all {
		port := s.Local().Port()
		if err := s.Wait(ctx); ctx.Err() != nil {
			return c, err
		} else if err != nil {
			c.failed[port] = true
			if err := s.Close(); err != nil {
				return c, err
			}
			continue
		}
		c.customers = append(c.customers, s)
		accepted, err := listener.Accept(ctx)
		if err != nil {
			return c, err
		}
		c.shop = append(c.shop, accepted)
	}
	return c, nil
}

// leave closes the connections, one side first.
func leave(ctx context.Context, first, second []*lab.Socket) error {
	for _, s := range first {
		if err := s.Shutdown(unix.SHUT_WR); err != nil {
			return err
		}
	}
	for _, s := range slices.Concat(second, first) {
		if err := errors.Join(s.WaitEOF(ctx), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// measured is what came of a second crowd by the ports of the first: customers by their ports.
type measured struct {
	collided, failed map[uint16]bool
	paws             uint64 // TIME_WAIT met by timestamps that did not rise
}

// measure has a crowd visit the shop, which closes their connections, and then another by the same ports.
func (b *balancer) measure(ctx context.Context, n int, options ...lab.Option) (m measured, err error) {
	listener, err := b.Server.Listen(netip.AddrPortFrom(b.Addr, 0), n)
	if err != nil {
		return m, err
	}
	var crowds [2]*crowd
	var capture *labtest.Capture
	defer func() { err = errors.Join(err, listener.Close()) }()
	before, err := b.Server.Counters()
	if err != nil {
		return m, err
	}
	err = lab.InTurn(
		func() (err error) { crowds[0], err = b.crowd(ctx, listener, 0x8000, n); return err },
		func() error { return leave(ctx, crowds[0].shop, crowds[0].customers) },
		func() error { return b.Client.Settled(ctx) },
		func() error { return b.Server.Settled(ctx) },
		func() (err error) { capture, err = labtest.StartCapture(b.Client, labtest.Dev); return err },
		func() (err error) { crowds[1], err = b.crowd(ctx, listener, 0x9000, n, options...); return err },
		func() error { return leave(ctx, crowds[1].customers, crowds[1].shop) },
		func() error { return b.Client.Settled(ctx) },
		func() error { return b.Server.Settled(ctx) })
	if err != nil || len(crowds[0].failed) > 0 {
		return m, fmt.Errorf("%v; of the first crowd %d failed", err, len(crowds[0].failed))
	}
	packets, err := capture.Stop()
	if err != nil {
		return m, err
	}
	after, err := b.Server.Counters()
	m = measured{map[uint16]bool{}, crowds[1].failed, after["PAWSTimewait"] - before["PAWSTimewait"]}
	for _, p := range packets {
		if p.Outgoing && p.Flags&labtest.RST != 0 {
			m.collided[p.Src.Port()] = true
		}
	}
	return m, err
}

// TestMeasured counts how many of a crowd meet TIME_WAIT, and what becomes of them. It prints the rows of README's table.
func TestMeasured(t *testing.T) {
	const customers = 24
	for _, stamps := range []struct {
		name    string
		keep    bool
		setting string
	}{
		{"no timestamps (the balancer strips them)", false, "1"},
		{"timestamps, tcp_timestamps=1", true, "1"},
		{"timestamps, tcp_timestamps=2", true, "2"},
	} {
		for _, rfc1337 := range []string{"0", "1"} {
			row := fmt.Sprintf("%s; tcp_rfc1337=%s", stamps.name, rfc1337)
			t.Run(row, func(t *testing.T) {
				t.Parallel()
				var m measured
				story.Told(t, func() *story.Report {
					b := newBalancer(t, options{keepTimestamps: stamps.keep})
					var options []lab.Option
					if rfc1337 == "1" {
						options = append(options, lab.Set(unix.SOL_TCP, unix.TCP_SYNCNT, 1))
					}
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					w := story.Start(t, b.Addr, b.Client, b.own, b.Server)
					err := b.set(settings{[]string{"net.ipv4.tcp_timestamps", stamps.setting}, []string{"net.ipv4.tcp_rfc1337", rfc1337}})
					if err == nil {
						m, err = b.measure(ctx, customers, options...)
					}
					if err != nil {
						t.Error(err)
					}
					r := w.End()
					checkMeasured(t, m, r, !stamps.keep, stamps.keep && stamps.setting == "2", rfc1337 == "1")
					return r
				})
				value := fmt.Sprintf("%d of %d", len(m.collided), customers)
				if len(m.collided) > 0 {
					value += fmt.Sprintf(": %d recovered, %d failed", len(m.collided)-len(m.failed), len(m.failed))
				}
				t.Logf("shows\t%s\t%s", row, value)
				t.Logf("PAWSTimewait %d", m.paws)
			})
		}
	}
}

// checkMeasured holds what was measured against what it has to be where there are no timestamps, or where they cure it,
// and explain against what was measured.
func checkMeasured(t *testing.T, m measured, r *story.Report, none, cured, ignored bool) {
	t.Helper()
	if none && len(m.collided) == 0 || cured && len(m.collided) > 0 || none && m.paws > 0 {
		t.Errorf("%d collided, PAWSTimewait %d", len(m.collided), m.paws)
	}
	if ignored && len(m.failed) != len(m.collided) || !ignored && len(m.failed) > 0 {
		t.Errorf("of %d that collided %d failed", len(m.collided), len(m.failed))
	}
	for port := range m.failed {
		if !m.collided[port] {
			t.Errorf("customer %d failed without a collision", port)
		}
	}
	if len(m.collided) == 0 {
		r.Want("")
		return
	}
	if len(r.Findings) != 1 || r.Findings[0].ID != "timewait-collision" || r.Findings[0].Outcomes["failed"] != len(m.failed) ||
		r.Findings[0].Outcomes["recovered"] != len(m.collided)-len(m.failed) {
		r.Errorf("%d collided, %d of them failed", len(m.collided), len(m.failed))
	}
	stamps := "(with timestamps)"
	if none {
		stamps = "(no timestamps)"
	}
	for _, c := range r.Connections {
		if !m.collided[uint16(c.LPort)] || (c.Outcome == "failed") != m.failed[uint16(c.LPort)] || len(c.Findings) != 1 || !strings.Contains(c.Findings[0].Cause, stamps) {
			r.Errorf("port %d: %s %+v", c.LPort, c.Outcome, c.Findings)
		}
	}
}
