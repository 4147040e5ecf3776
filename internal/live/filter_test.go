// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// TestKernelFilters runs a stream that the kernel side filters beside one that
// it does not: what user space wants of either is the same.
func TestKernelFilters(t *testing.T) {
	prefix := func(p string) netip.Prefix { return netip.MustParsePrefix(p) }
	ports := func(first, last uint16) []filter.PortRange { return []filter.PortRange{{First: first, Last: last}} }
	// More networks than the kernel side has room for.
	many := slices.Repeat([]netip.Prefix{prefix("192.0.2.1/32")}, filter.MaxKernel)

	for _, tt := range []struct {
		name    string
		spec    filter.Spec
		rejects bool // the kernel side can decide, and has something to reject
	}{
		{"nothing", filter.Spec{}, false},
		{"IPv4", filter.Spec{IPv4: true}, true},
		{"IPv6", filter.Spec{IPv6: true}, true},
		{"both families", filter.Spec{IPv4: true, IPv6: true}, false},
		{"laddr", filter.Spec{LAddr: []netip.Prefix{prefix("127.0.0.1/32")}}, true},
		{"raddr", filter.Spec{RAddr: []netip.Prefix{prefix("127.64.0.0/10")}}, true},
		{"either addr, IPv6", filter.Spec{Addr: []netip.Prefix{prefix("fd74::/16")}}, true},
		{"all of IPv4", filter.Spec{Addr: []netip.Prefix{prefix("0.0.0.0/0")}}, true},
		{"many addresses", filter.Spec{LAddr: append(many, prefix("127.0.0.1/32"))}, false},
		{"ports that nobody has", filter.Spec{Port: ports(1, 2)}, true},
		{"all local ports", filter.Spec{LPort: ports(1, 65535)}, false},
		{"the upper half of the remote ports", filter.Spec{RPort: ports(32768, 65535)}, false},
		{"SYN_SENT", filter.Spec{States: []events.State{events.SynSent}}, true},
		{"NEW_SYN_RECV", filter.Spec{States: []events.State{events.NewSynRecv}}, true},
		{"uid", filter.Spec{UIDs: []uint32{0}}, true}, // a reset without a socket has none
		{"nobody's uid", filter.Spec{UIDs: []uint32{12345}}, true},
		{"all of it", filter.Spec{IPv4: true, LAddr: []netip.Prefix{prefix("127.0.0.0/8")}, LPort: ports(1, 65535),
			States: []events.State{events.Established, events.SynSent}, UIDs: []uint32{0}}, true},
	} {
		if os.Getenv(slow) != "" && tt.name != "nothing" && tt.name != "IPv6" && tt.name != "all of it" {
			continue // what is left shows that the kernel takes the filter
		}
		t.Run(tt.name, func(t *testing.T) {
			ns := loopback(t, lab.V4).Client
			spec := tt.spec
			spec.Types, spec.NetNS = allTypes, []uint32{ns.Inum()}
			match, err := spec.Match()
			if err != nil {
				t.Fatal(err)
			}
			stop := everything.start(t, ns.Inum())
			filtered := startFiltered(t, allTypes, spec.Kernel())
			for _, family := range []lab.Family{lab.V4, lab.V6} {
				place, err := ns.Loopback(family)
				if err != nil {
					t.Fatal(err)
				}
				for _, run := range []trouble{lab.Refused, lab.Linger0, lab.Overflow} {
					if _, err := run(t.Context(), place); err != nil {
						t.Fatal(err)
					}
				}
			}
			all, some := stop(), filtered.finish(t)
			want, got := wanted(all, match), wanted(some, match)
			if !slices.Equal(want, got) {
				t.Errorf("the kernel side let these pass:\n%q\nuser space wants these:\n%q", got, want)
			}
			if rejects := len(some) < len(all); rejects != tt.rejects {
				t.Errorf("the kernel side let %d of %d events pass", len(some), len(all))
			}
		})
	}
}

// wanted are the events that match, without what differs from stream to stream,
// in the order of the alphabet: CPUs race for the buffers.
func wanted(evs []events.Event, match func(*events.Event) bool) (out []string) {
	for i := range evs {
		if e := &evs[i]; match(e) {
			out = append(out, fmt.Sprintln(name(e), e.Kind, e.State, e.LAddr, e.LPort, e.RAddr, e.RPort, e.OldState, e.NewState))
		}
	}
	slices.Sort(out)
	return out
}
