// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/tcptrace/tcptrace/bpf"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// AuditFrom begins an audit of some namespaces in a stream under way. What it
// returns ends it.
func AuditFrom(src Source, netns ...uint32) (end func() (*events.Summary, error), err error) {
	a := *src.(*source).audit
	a.wanted = netns
	if err := a.start(); err != nil {
		return nil, err
	}
	return func() (*events.Summary, error) {
		last, err := a.read(lastReading) // without finish: others audit the same stream
		if err != nil {
			return nil, err
		}
		sum := new(events.Summary)
		a.sum(last, sum)
		return sum, nil
	}, nil
}

// Detach takes all programs that count for the audit off their hooks.
func Detach(src Source) error {
	s := src.(*source)
	for _, p := range s.counting {
		own, err := p.Info()
		if err != nil {
			return err
		}
		id, _ := own.ID()
		for _, l := range s.links {
			info, err := l.Info()
			if err != nil {
				return err
			}
			if info.Program != id {
				continue
			}
			if err := l.Close(); err != nil {
				return err
			}
			s.links = slices.DeleteFunc(s.links, func(other link.Link) bool { return other == l })
			break
		}
	}
	return nil
}

// FreeCounts is how many more namespaces the kernel side can count.
func FreeCounts(t *testing.T, src Source) int {
	t.Helper()
	m := src.(*source).coll.Maps["net_slots"]
	n := int(m.MaxEntries())
	keys, values := make([]uint32, n), make([]uint64, n)
	var cursor ebpf.MapBatchCursor
	used, err := m.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatal(err)
	}
	return n - used
}

// CountReset counts a reset that was none in a namespace that has counts.
func CountReset(src Source, netns uint32) error {
	m := src.(*source).coll.Maps["audits"]
	var slot uint32
	var perCPU []bpf.TcptraceAudit
	for all := m.Iterate(); all.Next(&slot, &perCPU); {
		for cpu := range perCPU {
			if perCPU[cpu].Netns == netns {
				perCPU[cpu].Resets++
				return m.Put(slot, perCPU)
			}
		}
	}
	return fmt.Errorf("namespace %d has no counts", netns)
}
