// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
)

// programStats are the kernel's statistics of one BPF program.
type programStats struct {
	Time   time.Duration // that it ran
	Runs   uint64
	Misses uint64 // not run, because it was running on that CPU
}

func (s programStats) minus(t programStats) programStats {
	return programStats{s.Time - t.Time, s.Runs - t.Runs, s.Misses - t.Misses}
}

func (s programStats) plus(t programStats) programStats {
	return programStats{s.Time + t.Time, s.Runs + t.Runs, s.Misses + t.Misses}
}

var progID = regexp.MustCompile(`(?m)^prog_id:\s*(\d+)`)

// programsOf are the ids of the BPF programs that a process holds, by their
// descriptors or by those of their links.
func programsOf(pid int) (ids []ebpf.ProgramID, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // closed meanwhile
		}
		if m := progID.FindSubmatch(b); m != nil {
			n, err := strconv.ParseUint(string(m[1]), 10, 32)
			if err != nil {
				return nil, err
			}
			ids = append(ids, ebpf.ProgramID(n))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// readPrograms returns the statistics of a process's programs by name. They
// move only while statistics are enabled. Process 0 has none.
func readPrograms(pid int) (map[string]programStats, error) {
	if pid == 0 {
		return nil, nil
	}
	ids, err := programsOf(pid)
	if err != nil {
		return nil, err
	}
	all := map[string]programStats{}
	for _, id := range ids {
		name, stats, err := readProgram(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // unloaded meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("BPF program %d: %w", id, err)
		}
		all[name] = all[name].plus(stats)
	}
	return all, nil
}

func readProgram(id ebpf.ProgramID) (name string, s programStats, err error) {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", s, err
	}
	defer func() { err = errors.Join(err, prog.Close()) }()
	info, err := prog.Info()
	if err != nil {
		return "", s, err
	}
	stats, err := prog.Stats()
	if err != nil {
		return "", s, err
	}
	return info.Name, programStats{stats.Runtime, stats.RunCount, stats.RecursionMisses}, nil
}

// gained is what the programs gained since before, those that did not run left out.
func gained(before, after map[string]programStats) map[string]programStats {
	out := map[string]programStats{}
	for name, s := range after {
		if d := s.minus(before[name]); d.Runs > 0 || d.Misses > 0 {
			out[name] = d
		}
	}
	return out
}

// total adds the statistics of all programs.
func total(all map[string]programStats) (sum programStats) {
	for _, s := range all {
		sum = sum.plus(s)
	}
	return sum
}
