// SPDX-License-Identifier: Apache-2.0

package format

import (
	"maps"
	"slices"
	"testing"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// samples are one of each, and some with text to escape.
func samples() map[string]*events.Event {
	strange := aRetransmit()
	strange.Comm = comm(hostile[0])
	strange.Cgroup = "/\u202e,\"" + hostile[0]
	v6 := aChange()
	v6.Family = 6
	v6.LAddr, v6.RAddr = longestIPv6, longestIPv6
	return map[string]*events.Event{
		"retransmit": aRetransmit(), "reset": aReset(), "state": aChange(), "lost": aLoss(),
		"hostile": strange, "ipv6": v6,
	}
}

func TestNoAllocations(t *testing.T) {
	for _, format := range Formats() {
		for name, e := range samples() {
			t.Run(format+"/"+name, func(t *testing.T) {
				p := mustNew(t, Options{Format: format, Color: true})
				b := p.AppendEvent(p.AppendHeader(nil), e)
				buf := make([]byte, 0, 2*len(b)+16)
				if n := testing.AllocsPerRun(100, func() { buf = p.AppendEvent(buf[:0], e) }); n != 0 {
					t.Errorf("%v allocations for an event", n)
				}
			})
		}
	}
	t.Run("values", func(t *testing.T) {
		e := aRetransmit()
		all := Columns()
		present := 0
		n := testing.AllocsPerRun(100, func() {
			for i := range all {
				v := all[i].Value(e)
				if _, ok := v.Int(); ok {
					present++
				}
				if _, ok := v.Float(); ok {
					present++
				}
				if _, ok := v.Bool(); ok {
					present++
				}
				if _, ok := v.Ints(); ok {
					present++
				}
			}
		})
		if n != 0 || present == 0 {
			t.Errorf("%v allocations for the values of an event, %d present", n, present)
		}
	})
}

func BenchmarkAppendEvent(b *testing.B) {
	all := samples()
	for _, format := range Formats() {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			e := all[name]
			b.Run(format+"/"+name, func(b *testing.B) {
				p := mustNew(b, Options{Format: format, Types: []events.Type{e.Type}})
				buf := p.AppendEvent(p.AppendHeader(nil), e)
				b.ReportAllocs()
				for b.Loop() {
					buf = p.AppendEvent(buf[:0], e)
				}
				b.SetBytes(int64(len(buf)))
			})
		}
	}
}

// BenchmarkValue is what a filter pays for one operand.
func BenchmarkValue(b *testing.B) {
	e := aRetransmit()
	c, _ := Lookup("rto_ms")
	var sum float64
	for b.Loop() {
		f, _ := c.Value(e).Float()
		sum += f
	}
	if sum == 0 {
		b.Error("no value")
	}
}
