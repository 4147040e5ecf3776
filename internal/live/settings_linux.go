// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"unsafe"

	"github.com/tcptrace/tcptrace/bpf"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// ipv4Settings are the sysctls below net.ipv4, in the order of IPV4_SETTINGS of
// bpf/record.h, and whether the kernel keeps them in ticks, where sysctl gives
// seconds.
var ipv4Settings = [...]struct {
	name  string
	ticks bool
}{
	{"tcp_syn_retries", false},
	{"tcp_synack_retries", false},
	{"tcp_syn_linear_timeouts", false},
	{"tcp_retries1", false},
	{"tcp_retries2", false},
	{"tcp_orphan_retries", false},
	{"tcp_thin_linear_timeouts", false},
	{"tcp_keepalive_probes", false},
	{"tcp_keepalive_time", true},
	{"tcp_keepalive_intvl", true},
	{"tcp_fin_timeout", true},
	{"tcp_tw_reuse", false},
	{"tcp_tw_reuse_delay", false},
	{"tcp_timestamps", false},
	{"tcp_rfc1337", false},
	{"tcp_sack", false},
	{"tcp_syncookies", false},
	{"tcp_abort_on_overflow", false},
	{"tcp_early_retrans", false},
	{"tcp_recovery", false},
	{"tcp_mtu_probing", false},
	{"tcp_fastopen", false},
	{"tcp_rto_min_us", false},
	{"tcp_rto_max_ms", false},
	{"tcp_max_syn_backlog", false},
}

// As many as there are in the kernel side's record.
var _ [len(ipv4Settings)]struct{} = [len(bpf.TcptraceNetnsSettings{}.Ipv4)]struct{}{}

// Settings implements [Source].
func (s *source) Settings(netns []uint32) (list []events.Settings, err error) {
	if s.settings == nil {
		return nil, nil
	}
	boot := bootTime()
	now := int64(boot) + wallOffset()
	err = eachRecord(s.settings, new(bufio.Reader), int(unsafe.Sizeof(bpf.TcptraceNetnsSettings{})), func(b []byte) bool {
		var n bpf.TcptraceNetnsSettings
		if _, err := binary.Decode(b, binary.LittleEndian, &n); err != nil {
			return false // can't be: the length is the structure's
		}
		known := slices.ContainsFunc(list, func(e events.Settings) bool { return e.NetNS == n.Netns })
		if slices.Contains(netns, n.Netns) && !known {
			list = append(list, events.Settings{NetNS: n.Netns, Time: now, Boot: boot, Values: settingsOf(&n, s.dec.HZ)})
		}
		return len(list) < len(netns)
	})
	if err != nil {
		return nil, fmt.Errorf("read the settings of network namespaces: %w", err)
	}
	return list, nil
}

// settingsOf writes out the settings that the kernel has. Without hz, the
// kernel's ticks a second, those in ticks are unknown.
func settingsOf(n *bpf.TcptraceNetnsSettings, hz uint32) (list []events.Setting) {
	for i, f := range ipv4Settings {
		value := int64(n.Ipv4[i])
		if value < 0 || f.ticks && hz == 0 {
			continue
		}
		if f.ticks {
			value /= int64(hz)
		}
		list = append(list, events.Setting{Name: "net.ipv4." + f.name, Value: strconv.FormatInt(value, 10)})
	}
	return append(list,
		events.Setting{Name: "net.ipv4.ip_local_port_range", Value: fmt.Sprintf("%d\t%d", n.FirstPort, n.LastPort)},
		events.Setting{Name: "net.core.somaxconn", Value: strconv.Itoa(int(n.Somaxconn))})
}
