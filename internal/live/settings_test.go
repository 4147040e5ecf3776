// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// TestSettings compares the settings of two namespaces with what sysctl says in
// each, as they are and changed.
func TestSettings(t *testing.T) {
	src, err := live.Open(t.Context(), live.Options{
		Types: []events.Type{events.Reset}, Kernel: filter.Kernel{UIDs: []uint32{4242}}, Buffer: os.Getpagesize(), Cache: kernelTypes, Settings: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	one, two := labtest.Namespace(t), labtest.Namespace(t)
	for round := range 2 {
		list, err := src.Settings([]uint32{two.Inum(), 4242, one.Inum()})
		if err != nil || len(list) != 2 {
			t.Fatalf("%+v, %v", list, err)
		}
		for _, ns := range []interface {
			Inum() uint32
			ReadSysctl(string) (string, error)
			Sysctl(name, value string) error
		}{one, two} {
			i := slices.IndexFunc(list, func(s events.Settings) bool { return s.NetNS == ns.Inum() })
			if i < 0 || list[i].Boot == 0 || list[i].Time == 0 {
				t.Fatalf("namespace %d is not in %+v", ns.Inum(), list)
			}
			names := map[string]bool{}
			for _, s := range list[i].Values {
				if names[s.Name] = true; s.Value == "" {
					t.Errorf("%s is empty", s.Name)
				}
				want, err := ns.ReadSysctl(s.Name)
				if err != nil || s.Value != want {
					t.Errorf("%s is %q, the kernel says %q, %v", s.Name, s.Value, want, err)
				}
				if round > 0 || ns == two {
					continue
				}
				// The next round has other values, where the kernel takes them.
				words := strings.Fields(want)
				n, err := strconv.Atoi(words[0])
				if err != nil {
					t.Fatal(err)
				}
				words[0] = strconv.Itoa(n + 1)
				if ns.Sysctl(s.Name, strings.Join(words, " ")) != nil && ns.Sysctl(s.Name, strconv.Itoa(max(0, n-1))) != nil {
					t.Errorf("%s can't be changed", s.Name)
				}
			}
			// What the kernel has is shown.
			for _, name := range []string{"tcp_retries2", "tcp_syn_linear_timeouts", "tcp_rto_min_us", "tcp_rto_max_ms", "tcp_tw_reuse_delay", "ip_local_port_range"} {
				name = "net.ipv4." + name
				if _, err := os.Stat("/proc/sys/" + strings.ReplaceAll(name, ".", "/")); (err == nil) != names[name] {
					t.Errorf("%s: shown %v, %v", name, names[name], err)
				}
			}
		}
	}
}

// Nobody pays for settings that nobody asked for.
func TestNoSettings(t *testing.T) {
	ns := labtest.Namespace(t)
	if err := everything.open(); err != nil {
		t.Fatalf("%+v", err)
	}
	if list, err := everything.src.Settings([]uint32{ns.Inum()}); err != nil || list != nil {
		t.Errorf("%+v, %v", list, err)
	}
}
