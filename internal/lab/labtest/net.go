// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// PairOptions are the options of a Pair.
type PairOptions struct {
	// NoOffload has every segment cross the wire alone (TSO and GRO off).
	NoOffload bool
	// NoNeighbour leaves out the client's entry for the server's hardware address; nobody answers its question for it
	// either.
	NoNeighbour bool
	// Router puts a router between the two.
	Router bool
	// PathMTU does so, too, and its way to the server takes packets of this size at most.
	PathMTU int
}

// A Pair is two namespaces joined by a virtual Ethernet cable, or by two and a router. Hardware addresses are set by
// hand, so that nothing crosses it but TCP (and IPv6's multicast listener reports). Its addresses belong to this pair
// alone.
type Pair struct {
	Client, Server *lab.Namespace
	// Router is nil if there is none. Its interface on the server's side is RouterDev.
	Router *lab.Namespace
	index  int32
}

// Dev is the name of the interfaces of a Pair's client and server.
const Dev = "veth0"

// RouterDev is the name of a router's interface on the server's side.
const RouterDev = "server"

// NewPair makes a pair for the time of a test.
func NewPair(t testing.TB, o PairOptions) *Pair {
	t.Helper()
	p := &Pair{Client: Namespace(t), Server: Namespace(t)}
	var err error
	if o.Router && o.PathMTU == 0 {
		o.PathMTU = 1500
	}
	if o.PathMTU > 0 {
		p.Router = Namespace(t)
		err = p.routed(o)
	} else {
		err = p.direct(o)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range []*lab.Namespace{p.Client, p.Server} {
		for _, a := range addrs(ns) {
			if err := ns.Ready(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
	}
	if p.Router != nil { // its address stands in what it says
		if err := p.Router.Ready(t.Context(), gateway[1]); err != nil {
			t.Fatal(err)
		}
	}
	if o.NoOffload {
		for _, ns := range []*lab.Namespace{p.Client, p.Server} {
			if err := ns.Offload(Dev, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	return p
}

// Place is the pair as a place for scenarios.
func (p *Pair) Place(f lab.Family) lab.Place {
	a := addrs(p.Server)[0]
	if f == lab.V6 {
		a = addrs(p.Server)[1]
	}
	return lab.Place{Client: p.Client, Server: p.Server, Family: f, Addr: a, Dev: Dev, Index: p.index}
}

// addrs are the namespace's IPv4 and IPv6 address on its cable, made from its number.
func addrs(ns *lab.Namespace) [2]netip.Addr {
	a4 := [4]byte{10, byte(ns.Inum() >> 16), byte(ns.Inum() >> 8), byte(ns.Inum())}
	a6 := [16]byte{0xfd, 't', 'c', 'p', 't', 'r', 'a', 'c', 15: 2}
	binary.BigEndian.PutUint32(a6[8:], ns.Inum())
	return [2]netip.Addr{netip.AddrFrom4(a4), netip.AddrFrom16(a6)}
}

// gateway are the router's addresses, the same on both of its sides.
var gateway = [2]netip.Addr{netip.MustParseAddr("169.254.9.1"), netip.MustParseAddr("fd00:9::1")}

// RouterAddr is the address that a pair's router, or a balancer, has on both of its sides.
func RouterAddr(f lab.Family) netip.Addr {
	if f == lab.V6 {
		return gateway[1]
	}
	return gateway[0]
}

func (p *Pair) direct(o PairOptions) error {
	if err := cable(p.Client, Dev, p.Server, Dev); err != nil {
		return err
	}
	for _, end := range []struct{ ns, peer *lab.Namespace }{{p.Client, p.Server}, {p.Server, p.Client}} {
		err := within(end.ns, func(h *netlink.Handle) error {
			link, err := bringUp(h, Dev, addrs(end.ns))
			if err != nil {
				return err
			}
			if end.ns == p.Client {
				p.index = int32(link.Attrs().Index)
			}
			if o.NoNeighbour && end.ns == p.Client {
				return route(h, link, addrs(end.peer), nil, nil)
			}
			mac, err := hardwareAddr(end.peer, Dev)
			if err != nil {
				return err
			}
			return route(h, link, addrs(end.peer), nil, mac)
		})
		if err != nil {
			return err
		}
	}
	if o.NoNeighbour { // let the server not answer either
		return errors.Join(
			within(p.Server, func(h *netlink.Handle) error {
				link, err := h.LinkByName(Dev)
				if err != nil {
					return err
				}
				return h.LinkSetARPOff(link)
			}))
	}
	return nil
}

func (p *Pair) routed(o PairOptions) error {
	for _, side := range []struct {
		ns  *lab.Namespace
		dev string
		mtu int
	}{{p.Client, "client", 1500}, {p.Server, RouterDev, o.PathMTU}} {
		if err := cable(side.ns, Dev, p.Router, side.dev); err != nil {
			return err
		}
		routerMAC, err := hardwareAddr(p.Router, side.dev)
		if err != nil {
			return err
		}
		mac, err := hardwareAddr(side.ns, Dev)
		if err != nil {
			return err
		}
		err = within(p.Router, func(h *netlink.Handle) error {
			link, err := bringUp(h, side.dev, gateway)
			if err != nil {
				return err
			}
			if err := h.LinkSetMTU(link, side.mtu); err != nil {
				return err
			}
			return route(h, link, addrs(side.ns), nil, mac)
		})
		if err != nil {
			return err
		}
		err = within(side.ns, func(h *netlink.Handle) error {
			link, err := bringUp(h, Dev, addrs(side.ns))
			if err != nil {
				return err
			}
			if side.ns == p.Client {
				p.index = int32(link.Attrs().Index)
			}
			return route(h, link, [2]netip.Addr{}, gateway[:], routerMAC)
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(
		p.Router.Sysctl("net.ipv4.ip_forward", "1"),
		p.Router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
}

// cable joins two namespaces. Neither interface makes addresses of its own.
func cable(a *lab.Namespace, aDev string, b *lab.Namespace, bDev string) error {
	for _, ns := range []*lab.Namespace{a, b} {
		err := errors.Join(
			ns.Sysctl("net.ipv6.conf.default.addr_gen_mode", "1"),
			ns.Sysctl("net.ipv6.conf.default.accept_ra", "0"))
		if err != nil {
			return err
		}
	}
	return within(a, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = aDev
		return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bDev, PeerNamespace: netlink.NsFd(b.FD())})
	})
}

// bringUp gives an interface its addresses and turns it on.
func bringUp(h *netlink.Handle, dev string, own [2]netip.Addr) (netlink.Link, error) {
	link, err := h.LinkByName(dev)
	if err != nil {
		return nil, err
	}
	for _, a := range own {
		addr := &netlink.Addr{IPNet: host(a), Flags: unix.IFA_F_NODAD}
		if a.Is4() {
			addr.Flags = 0
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return nil, fmt.Errorf("adding %v: %w", a, err)
		}
	}
	return link, h.LinkSetUp(link)
}

// route leads to the addresses over link: directly, or all others by a gateway. mac is the next hop's.
func route(h *netlink.Handle, link netlink.Link, to [2]netip.Addr, via []netip.Addr, mac net.HardwareAddr) error {
	for i := range to {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK}
		next := to[i]
		if via != nil {
			next = via[i]
			r.Gw, r.Flags, r.Scope = next.AsSlice(), int(netlink.FLAG_ONLINK), netlink.SCOPE_UNIVERSE
		}
		if r.Dst = host(to[i]); via != nil {
			r.Dst = &net.IPNet{IP: make(net.IP, len(next.AsSlice())), Mask: net.CIDRMask(0, next.BitLen())}
		}
		if err := h.RouteAdd(r); err != nil {
			return fmt.Errorf("adding the route to %v: %w", r.Dst, err)
		}
		if mac == nil {
			continue
		}
		n := &netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: next.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT,
		}
		if err := h.NeighSet(n); err != nil {
			return fmt.Errorf("setting the neighbour %v: %w", next, err)
		}
	}
	return nil
}

// RTOMin sets the least time-out of connections over an interface's routes, as "ip route change ... rto_min" does. Those
// made before keep theirs.
func RTOMin(ns *lab.Namespace, dev string, least time.Duration) error {
	return within(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		routes, err := h.RouteList(link, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Protocol == unix.RTPROT_KERNEL {
				continue
			}
			r.RtoMin, r.RtoMinLock = int(least.Milliseconds()), true
			if err := h.RouteReplace(&r); err != nil {
				return fmt.Errorf("changing the route to %v: %w", r.Dst, err)
			}
		}
		return nil
	})
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func hardwareAddr(ns *lab.Namespace, dev string) (mac net.HardwareAddr, err error) {
	err = within(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(dev)
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	return mac, err
}

// within gives f a netlink handle of the namespace.
func within(ns *lab.Namespace, f func(*netlink.Handle) error) error {
	return ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

// Unreachable connects to a host of the own network whose hardware address nobody tells (PairOptions.NoNeighbour). The
// SYN waits in the neighbour's queue, so that its retransmissions are refused with EBUSY: they are events with an error
// (6.17 and later), and not counted by the kernel.
func Unreachable(ctx context.Context, p lab.Place, retries int) (*lab.Facts, error) {
	return FailingConnect(ctx, p, retries, "EBUSY", func(*lab.Act) error { return nil })
}

// FailingConnect connects over a path that prepare has closed on this side, waits until the SYN was due again so often,
// each time failing with errno, and gives up.
func FailingConnect(ctx context.Context, p lab.Place, retries int, errno string,
	prepare func(*lab.Act) error) (*lab.Facts, error) {
	return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
		err := lab.InTurn(
			a.Listen,
			func() error { return prepare(a) },
			func() error { return a.Start() },
			func() error {
				_, err := a.Client.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return int(i.Retransmits) >= retries })
				return err
			})
		if err != nil {
			return err
		}
		a.Paths("CLOSE SYN_SENT CLOSE", "")
		a.Expect(retries, lab.Retransmit, lab.Client, "syn").Err = errno
		return nil
	}, lab.SYNLinearTimeouts, "4")
}

// PathMTU sends a segment that is too long for a router on its way (PairOptions.PathMTU). The router says so, and the
// segment goes again at once, as two (seen on 6.18: in one event).
func PathMTU(ctx context.Context, p lab.Place) (*lab.Facts, error) {
	return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
		err := a.Establish(ctx)
		if err != nil {
			return err
		}
		info, err := a.Client.Info()
		if err != nil {
			return err
		}
		if err := a.Burst(ctx, int(info.Snd_mss)); err != nil {
			return err
		}
		if info, err = a.Client.Info(); err != nil {
			return err
		}
		e := a.Expect(1, lab.Retransmit, lab.Client, "pmtu")
		e.Segs = int(info.Total_retrans)
		e.Max = e.Segs
		return a.Finish(ctx)
	})
}
