// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"net/netip"
	"slices"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// MaxKernel is how many addresses, namespaces and users of one flag the kernel
// side compares; with more of them it leaves that flag to [Spec.Match].
const MaxKernel = 8

// Kernel is what the kernel side can decide. Each part rejects an event only
// where [Spec.Match] would; an empty or nil part rejects nothing.
type Kernel struct {
	IPv4, IPv6 bool // neither or both: any family

	// Port 0, one that is not known yet, is in every set.
	Port, LPort, RPort *PortSet

	Addr, LAddr, RAddr []Prefix // at most MaxKernel
	States             uint32   // bit 1<<state; of a state change either state counts; 0: any
	NetNS              []uint32 // at most MaxKernel
	UIDs               []uint32 // at most MaxKernel
}

// Prefix is a network in 16 bytes, IPv4 as ::ffff:a.b.c.d. It holds the
// addresses a with a&Mask == Addr.
type Prefix struct{ Addr, Mask [16]byte }

// Kernel returns the part of s that the kernel side can decide.
func (s *Spec) Kernel() Kernel {
	return Kernel{
		IPv4:   s.IPv4,
		IPv6:   s.IPv6,
		Port:   kernelPorts(s.Port),
		LPort:  kernelPorts(s.LPort),
		RPort:  kernelPorts(s.RPort),
		Addr:   kernelPrefixes(s.Addr),
		LAddr:  kernelPrefixes(s.LAddr),
		RAddr:  kernelPrefixes(s.RAddr),
		States: uint32(bitsOf[events.State](s.States)),
		NetNS:  kernelNumbers(s.NetNS),
		UIDs:   kernelNumbers(s.UIDs),
	}
}

func kernelPorts(ranges []PortRange) *PortSet {
	s := portSet(ranges)
	if s != nil {
		s.add(0)
	}
	return s
}

func kernelNumbers(list []uint32) []uint32 {
	if len(list) > MaxKernel {
		return nil
	}
	return slices.Clone(list)
}

func kernelPrefixes(list []netip.Prefix) []Prefix {
	if len(list) > MaxKernel {
		return nil
	}
	var out []Prefix
	for _, p := range list {
		k := Prefix{Addr: p.Addr().As16()}
		ones := p.Bits()
		if p.Addr().Is4() {
			ones += 96
		}
		for i := range ones {
			k.Mask[i/8] |= 0x80 >> (i % 8)
		}
		for i := range k.Addr {
			k.Addr[i] &= k.Mask[i]
		}
		out = append(out, k)
	}
	return out
}
