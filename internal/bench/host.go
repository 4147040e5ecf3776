// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// host is where it was measured, without its name.
type host struct {
	CPU      string // the processor's model
	CPUs     int
	Virtual  bool
	Kernel   string
	Versions []string // of the other tools
}

func readHost() (h host, err error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return h, err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return h, err
	}
	h.CPU, h.Virtual = parseCPU(string(info))
	h.CPUs = runtime.NumCPU()
	h.Kernel = kernelVersion(unix.ByteSliceToString(u.Release[:]))
	for _, tool := range []string{"bpftrace", "perf"} {
		out, err := exec.Command(tool, "--version").Output()
		if err == nil {
			h.Versions = append(h.Versions, toolVersion(tool, string(out)))
		}
	}
	return h, nil
}

// parseCPU finds the model in /proc/cpuinfo, and whether it is a virtual one's.
func parseCPU(info string) (model string, virtual bool) {
	model = "unknown processor, " + runtime.GOARCH
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "model name":
			model = strings.Join(strings.Fields(value), " ")
		case "flags":
			virtual = strings.Contains(" "+strings.TrimSpace(value)+" ", " hypervisor ")
		}
	}
	return model, virtual
}

var number = regexp.MustCompile(`\d+(\.\d+)*`)

// kernelVersion is a release without what its builder added.
func kernelVersion(release string) string { return number.FindString(release) }

func toolVersion(tool, text string) string { return tool + " " + number.FindString(text) }

func (h host) String() string {
	machine := "Machine"
	if h.Virtual {
		machine = "Virtual machine"
	}
	s := fmt.Sprintf("%s with %d processors (%s), Linux %s", machine, h.CPUs, h.CPU, h.Kernel)
	if len(h.Versions) > 0 {
		s += "; " + strings.Join(h.Versions, ", ")
	}
	return s
}
