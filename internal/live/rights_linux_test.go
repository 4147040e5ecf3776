// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tcptrace/tcptrace/pkg/events"
)

func TestMissingCaps(t *testing.T) {
	for _, tt := range []struct {
		own, want []string
	}{
		{nil, []string{"CAP_BPF", "CAP_PERFMON"}},
		{[]string{"cap_bpf"}, []string{"CAP_PERFMON"}},
		{[]string{"cap_perfmon"}, []string{"CAP_BPF"}},
		{[]string{"cap_bpf", "cap_perfmon"}, nil},
	} {
		own := func(v cap.Value) bool { return slices.Contains(tt.own, v.String()) }
		if got := missingCaps(own); !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.own, got, tt.want)
		}
	}
}

func TestRights(t *testing.T) {
	list, err := Rights()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 5 || list[0].Name != "CAP_BPF" || list[1].Name != "CAP_PERFMON" {
		t.Fatalf("%+v", list)
	}
	for i, r := range list {
		if r.Needed != (i < 2) || r.Gives == "" || r.Present != (r.Remedy == "") || strings.Contains(r.Gives+r.Remedy, "\n") {
			t.Errorf("%+v", r)
		}
	}
}

func TestLockdown(t *testing.T) {
	for text, want := range map[string]string{
		"none [integrity] confidentiality\n": "integrity",
		"none integrity [confidentiality]\n": "confidentiality",
		"":                                   "",
		"[none":                              "none",
	} {
		if got := lockdown(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Each refusal of the kernel has a remedy in one line.
func TestLoadError(t *testing.T) {
	eperm := fmt.Errorf("map create: %w", unix.EPERM)
	for _, tt := range []struct {
		err     error
		limited bool
		want    string
	}{
		{eperm, true, "ulimit -l unlimited"},
		{eperm, false, "seccomp"},
		{unix.ENOMEM, false, "smaller --buffer"},
		{&ebpf.VerifierError{Cause: unix.EACCES}, false, "report this"},
		{errors.New("else"), true, "load BPF programs: else"},
	} {
		if got := loadError(tt.err, tt.limited).Error(); !strings.Contains(got, tt.want) || strings.Contains(got, "\n") {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

func TestCountsMemory(t *testing.T) {
	old := fakeTypes(t, &btf.Struct{Name: "bpf_map_memory", Size: 4, Members: []btf.Member{{Name: "pages", Type: &btf.Int{Name: "u32", Size: 4}}}})
	if !countsMemory(old) || countsMemory(fakeTypes(t, &btf.Int{Name: "u32", Size: 4})) {
		t.Error("5.10 and 5.11 are not told apart")
	}
}

// FuzzTypes feeds hostile files to what reads them before the kernel is asked.
func FuzzTypes(f *testing.F) {
	var list []btf.Type
	for _, h := range hooks {
		list = append(list, &btf.Typedef{Name: "btf_trace_" + h.point, Type: &btf.FuncProto{Return: &btf.Void{}}})
	}
	list = append(list, &btf.Enum{Name: "sk_rst_reason", Size: 4, Values: []btf.EnumValue{{Name: "SK_RST_REASON_NO_SOCKET", Value: 2}}})
	b, err := btf.NewBuilder(list, nil)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := b.Marshal(nil, btf.KernelMarshalOptions())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	if self, err := os.ReadFile("/proc/self/exe"); err == nil {
		f.Add(self[:4096])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		spec, _, err := parseTypes(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
			return
		}
		_, _ = chooseHooks(spec, &Options{Types: []events.Type{events.Retransmit, events.Reset}})
		_ = reasonNames(spec)
	})
}
