// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/tcptrace/tcptrace/bpf"
)

// kernelSide is the loaded BPF object. Its methods may be called from any
// goroutine.
type kernelSide struct {
	coll     *ebpf.Collection
	programs []*ebpf.Program // that are attached; beside those of coll the optional ones
	counting []*ebpf.Program // of these, the ones whose events the kernel counts too
}

// totals counts events by type.
type totals = bpf.TcptraceTotals

const numTypes = len(totals{}.Lost)

// totals adds the counts of all CPUs.
func (k *kernelSide) totals() (totals, error) {
	var perCPU []totals
	var sum totals
	if err := k.coll.Maps["counts"].Lookup(uint32(0), &perCPU); err != nil {
		return sum, fmt.Errorf("read counts: %w", err)
	}
	for i := range perCPU {
		for t := range sum.Produced {
			sum.Produced[t] += perCPU[i].Produced[t]
			sum.Filtered[t] += perCPU[i].Filtered[t]
			sum.Lost[t] += perCPU[i].Lost[t]
		}
	}
	return sum, nil
}

// lost is how many records found no room so far. It is what each record says
// of those before it, and wraps around.
func (k *kernelSide) lost() (n uint32, err error) {
	if err := k.coll.Variables["lost_total"].Get(&n); err != nil {
		return 0, fmt.Errorf("read lost events: %w", err)
	}
	return n, nil
}

// cgroupPath returns the path of a cgroup, "" if it isn't known or too deep.
func (k *kernelSide) cgroupPath(id uint64) string {
	var n bpf.TcptraceCgroupNames
	if k.coll.Maps["cgroups"].Lookup(id, &n) != nil || int(n.Depth) >= len(n.Names) {
		return ""
	}
	path := []byte{'/'}
	for i := int(n.Depth) - 1; i >= 0; i-- { // the outermost is the last
		for _, c := range n.Names[i] {
			if c == 0 {
				break
			}
			path = append(path, byte(c))
		}
		if i > 0 {
			path = append(path, '/')
		}
	}
	return string(path)
}

// Memory implements [Source].
func (k *kernelSide) Memory() (sum uint64, err error) {
	for name, m := range k.coll.Maps {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("ask about map %s: %w", name, err)
		}
		n, ok := info.Memlock()
		if !ok {
			return 0, fmt.Errorf("the kernel does not tell the size of map %s", name)
		}
		sum += n
	}
	return sum, nil
}

// Skipped implements [Source].
func (k *kernelSide) Skipped() (uint64, error) {
	all, _, err := k.skips()
	return all, err
}

// skips is how often the kernel skipped a program, and one of those in counting.
func (k *kernelSide) skips() (all, counting uint64, err error) {
	for _, p := range k.programs {
		stats, err := p.Stats()
		if err != nil {
			return 0, 0, fmt.Errorf("ask about %s: %w", p, err)
		}
		all += stats.RecursionMisses
		if slices.Contains(k.counting, p) {
			counting += stats.RecursionMisses
		}
	}
	return all, counting, nil
}

// announceWait asks to be woken when much is waiting.
func (k *kernelSide) announceWait() error {
	if err := k.coll.Variables["reader_waits"].Set(uint32(1)); err != nil {
		return fmt.Errorf("announce the wait: %w", err)
	}
	return nil
}
