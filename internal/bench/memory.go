// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// memory is what a process takes beside its ring buffers, in bytes.
type memory struct {
	Peak   uint64 // of its pages, without those of BPF maps
	Now    uint64 // the same, when it was asked
	Mapped uint64 // pages of BPF maps, which are not in Peak
	Maps   uint64 // of BPF, without the ring buffers
}

// readMemory asks the kernel. Mapped ring buffers count as resident, twice at
// that, because their pages are mapped twice.
func readMemory(pid int) (m memory, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return m, err
	}
	smaps, err := os.ReadFile(dir + "/smaps")
	if err != nil {
		return m, err
	}
	n, err := numbers(peakLine, string(status))
	if err != nil {
		return m, err
	}
	if m.Mapped, err = mappedMaps(string(smaps)); err != nil {
		return m, err
	}
	m.Peak = uint64(n[0])<<10 - m.Mapped
	if n, err = numbers(residentLine, string(status)); err != nil {
		return m, err
	}
	m.Now = uint64(n[0])<<10 - m.Mapped
	files, err := filepath.Glob(dir + "/fdinfo/*")
	if err != nil {
		return m, err
	}
	seen := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // closed meanwhile
		}
		const ringBuffer = "27" // BPF_MAP_TYPE_RINGBUF
		info := parseInfo(b)
		id, kind := info["map_id"], info["map_type"]
		if id == "" || kind == ringBuffer || seen[id] {
			continue
		}
		seen[id] = true
		n, err := strconv.ParseUint(info["memlock"], 10, 64)
		if err != nil {
			return m, fmt.Errorf("%s: %w", f, err)
		}
		m.Maps += n
	}
	return m, nil
}

// parseInfo reads lines of a name, a colon and a value.
func parseInfo(b []byte) map[string]string {
	info := map[string]string{}
	for line := range bytes.Lines(b) {
		name, value, _ := strings.Cut(string(line), ":")
		info[name] = strings.TrimSpace(value)
	}
	return info
}

var (
	peakLine     = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)
	residentLine = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)
	mapping      = regexp.MustCompile(`(?m)^[0-9a-f]+-[0-9a-f]+ .*anon_inode:bpf-map\n(?:[A-Za-z_]+:.*\n)*?Rss:\s+(\d+) kB$`)
)

// mappedMaps is how much of a process's memory are BPF maps, in bytes.
func mappedMaps(smaps string) (sum uint64, err error) {
	for _, m := range mapping.FindAllStringSubmatch(smaps, -1) {
		kib, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += kib << 10
	}
	return sum, nil
}

// userTime is the time that a running process has spent in user space, in
// steps of 10 ms.
func userTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseUserTime(string(b))
}

func parseUserTime(stat string) (time.Duration, error) {
	// The name, in parentheses, may hold anything.
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const utime = 14 - 3 // the third field is the first of these
	if len(f) <= utime {
		return 0, fmt.Errorf("/proc/PID/stat is %q", stat)
	}
	n, err := strconv.ParseInt(f[utime], 10, 64)
	return time.Duration(n) * time.Second / userHZ, err
}

// userHZ is the unit of times in /proc, on all architectures that Go knows.
const userHZ = 100
