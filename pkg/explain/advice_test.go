// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// TestAdvice: whatever is known of a finding, there is something to do, and not
// too much.
func TestAdvice(t *testing.T) {
	for _, r := range rules {
		for name, f := range map[string]*Finding{
			"nothing known": {},
			"much known": {
				Peers:    []Peer{{Addr: netip.MustParseAddr("fd00::1"), Port: 443, Count: 2}},
				Outcomes: map[Outcome]int{Failed: 2}, crowd: "2 connections of the 2",
				Settings: []events.Setting{{Name: "net.ipv4.tcp_tw_reuse", Value: "1"}, {Name: "net.core.somaxconn", Value: "4096"}},
			},
		} {
			list := r.advice(f)
			if n := len(list); n < 1 || n > 3 {
				t.Errorf("%s, %s: %d pieces of advice", r.id, name, n)
			}
			for _, a := range list {
				if len(a) < 20 || len(a) > 400 || strings.Contains(a, "%!") {
					t.Errorf("%s, %s: %d characters of advice: %q", r.id, name, len(a), a)
				}
			}
		}
	}
}

// TestAdviceCommands: an address stands in a command as the command takes it.
func TestAdviceCommands(t *testing.T) {
	for addr, want := range map[string][2]string{
		"192.0.2.1":   {"ss -Htan dst 192.0.2.1 |", "ip route get 192.0.2.1 "},
		"2001:db8::1": {"ss -Htan dst '[2001:db8::1]' |", "ip route get 2001:db8::1 "},
		"":            {"ss -Htan dst PEER |", "ip route get PEER "},
	} {
		f := new(Finding)
		if addr != "" {
			f.Peers = []Peer{{Addr: netip.MustParseAddr(addr)}}
		}
		if got := advisePorts(f)[0]; !strings.HasPrefix(got, want[0]) {
			t.Errorf("%q has no %q", got, want[0])
		}
		if got := adviseSendFailed(f)[0]; !strings.Contains(got, want[1]) {
			t.Errorf("%q has no %q", got, want[1])
		}
	}
}

// TestConnecting: for how long the kernel tries, where it was seen.
func TestConnecting(t *testing.T) {
	for _, tt := range []struct {
		retries, linear string
		want            int
	}{
		{"6", "4", 131}, {"6", "", 127}, {"1", "0", 3}, {"", "4", 0}, {"127", "4", 0},
	} {
		f := &Finding{Settings: []events.Setting{
			{Name: "net.ipv4.tcp_syn_retries", Value: tt.retries}, {Name: "net.ipv4.tcp_syn_linear_timeouts", Value: tt.linear},
		}}
		if got := f.connecting(); got != tt.want {
			t.Errorf("tcp_syn_retries %q, tcp_syn_linear_timeouts %q: %d s, want %d", tt.retries, tt.linear, got, tt.want)
		}
	}
}
