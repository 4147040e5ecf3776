// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// report is what the tests read of explain's JSON.
type report struct {
	Findings []struct {
		ID       string
		Count    int
		Counters []events.Counter
		Settings map[string]string
		Owners   []struct{ PID int }
	}
	Troubled int
	Summary  struct{ Lost uint64 }
}

// TestExplain explains live, as root and as a user with two capabilities, who
// still reads the settings of a namespace that it may not enter, and explains
// the recording of the same. Nothing is left after it.
func TestExplain(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []struct {
		name string
		attr *syscall.SysProcAttr
	}{
		{"root", nil},
		{"user with capabilities", unprivileged(cap.BPF, cap.PERFMON)},
	} {
		t.Run(who.name, func(t *testing.T) {
			ns := labtest.Namespace(t)
			out := tempFile(t)
			file := filepath.Join(t.TempDir(), "recording")
			args := []string{"explain", "-o", "json", "--netns", fmt.Sprint(ns.Inum()), "--fail-on", "stalled"}
			if who.attr == nil {
				args = append(args, "-w", file)
			}
			p := launchAt(t, own, out, who.attr, args...)
			checkDropped(t, p.cmd.Process.Pid, neededLater(t))
			lose(t, ns)
			p.signal(syscall.SIGINT)
			if code := p.end(); code != 4 {
				t.Fatalf("exit code %d: %s", code, p.said.String())
			}
			b, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			checkReport(t, b)
			if who.attr != nil {
				return
			}
			again := exec.Command(own, "explain", "-q", "-o", "json", file)
			if b, err = again.Output(); err != nil {
				t.Fatal(err)
			}
			checkReport(t, b)
		})
	}
}

// checkReport wants what lose does to a connection of this process.
func checkReport(t *testing.T, b []byte) {
	t.Helper()
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	if len(r.Findings) != 1 || r.Findings[0].ID != "stalled" || r.Findings[0].Count != 1 || r.Troubled != 1 || r.Summary.Lost != 0 {
		t.Fatalf("%s", b)
	}
	f := r.Findings[0]
	if len(f.Owners) != 1 || f.Owners[0].PID != os.Getpid() {
		t.Errorf("owners: %+v", f.Owners)
	}
	if f.Settings["net.ipv4.tcp_retries2"] == "" {
		t.Errorf("settings: %v", f.Settings)
	}
}

// TestExplainCounters: what the kernel counted of handshakes that a full accept
// queue turned away stands beside the finding, live and in a recording.
func TestExplainCounters(t *testing.T) {
	ns := labtest.Namespace(t)
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	out, dir := tempFile(t), t.TempDir()
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p := launchAt(t, own, out, nil, "explain", "-o", "json", "--netns", fmt.Sprint(ns.Inum()))
	w := launchAt(t, own, tempFile(t), nil, "record", dir, "--netns", fmt.Sprint(ns.Inum()))
	facts, err := lab.AcceptQueueFull(t.Context(), place, lab.AcceptQueueFullOptions{Clients: 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*tool{p, w} {
		p.signal(syscall.SIGINT)
		if code := p.end(); code != 0 {
			t.Fatalf("exit code %d: %s", code, p.said.String())
		}
	}
	live, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	again, err := exec.Command(own, "explain", "-q", "-o", "json", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []events.Counter{{NetNS: ns.Inum(), Counter: "ListenOverflows", Rise: facts.Server["ListenOverflows"]}}
	for _, b := range [][]byte{live, again} {
		var r report
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if len(r.Findings) != 1 || !slices.Equal(r.Findings[0].Counters, want) || want[0].Rise < 3 {
			t.Errorf("want %+v: %s", want, b)
		}
	}
}
