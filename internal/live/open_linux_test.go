// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// A kernel that lacks a tracepoint is told apart by its BTF.
func TestMissingTracepoint(t *testing.T) {
	proto := &btf.FuncProto{Return: &btf.Void{}}
	var types []btf.Type
	for _, h := range hooks {
		if h.point != "tcp_send_reset" {
			types = append(types, &btf.Typedef{Name: "btf_trace_" + h.point, Type: proto})
		}
	}
	kernel := fakeTypes(t, types...)
	if got, err := chooseHooks(kernel, &Options{Types: []events.Type{events.Retransmit}}); err != nil || len(got) != 6 {
		t.Errorf("retransmissions need %d hooks: %v", len(got), err)
	}
	if _, err := chooseHooks(kernel, &Options{Types: []events.Type{events.Reset}}); err == nil || !strings.Contains(err.Error(), "no tracepoint tcp_send_reset") {
		t.Errorf("%v", err)
	}
}

func TestKernelFilter(t *testing.T) {
	ports := new(filter.PortSet)
	ports[443>>6] |= 1 << (443 & 63)
	f := kernelFilter(&filter.Kernel{
		IPv6: true, RPort: ports, States: 2, NetNS: []uint32{7, 8}, UIDs: []uint32{1000},
		LAddr: []filter.Prefix{{Addr: [16]byte{0x20, 0x01, 0x0d, 0xb8}, Mask: [16]byte{0xff, 0xff, 0xff, 0xff}}},
	})
	if f.Family != 6 || f.States != 2 || f.N_netns != 2 || f.Netns[1] != 8 || f.N_uids != 1 || f.Uids[0] != 1000 {
		t.Errorf("%+v", f)
	}
	if f.PortsSet != [3]uint8{0, 0, 1} || f.Ports[2] != *ports {
		t.Errorf("ports of %v", f.PortsSet)
	}
	if f.N_prefixes != [3]uint32{0, 1, 0} || f.Prefixes[1][0].Addr[0] != binary.NativeEndian.Uint32([]byte{0x20, 0x01, 0x0d, 0xb8}) ||
		f.Prefixes[1][0].Mask[0] != 0xffffffff || f.Prefixes[1][0].Mask[1] != 0 {
		t.Errorf("prefixes %v: %+v", f.N_prefixes, f.Prefixes[1][0])
	}
	if both := kernelFilter(&filter.Kernel{IPv4: true, IPv6: true}); both.Family != 0 {
		t.Errorf("-4 -6 is family %d", both.Family)
	}
}

func fakeTypes(t *testing.T, types ...btf.Type) *btf.Spec {
	t.Helper()
	b, err := btf.NewBuilder(types, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, btf.KernelMarshalOptions())
	if err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}
