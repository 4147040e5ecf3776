// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// TestOwnerColumns: what a column with the mark shows can't change without
// being another owner's.
func TestOwnerColumns(t *testing.T) {
	marked := 0
	for _, c := range columns {
		if !c.owner {
			continue
		}
		marked++
		if c.paint || c.on != onSocket {
			t.Errorf("%s can't have the mark", c.Name)
		}
		show := func(e *events.Event) string {
			v := c.Value(e)
			text, _ := v.Text()
			return text + string(v.appendPlain(nil))
		}
		for i := range reflect.TypeFor[events.Event]().NumField() {
			e := aReset()
			var m ownerMemo
			owner, before := m.of(e), show(e)
			f := reflect.ValueOf(e).Elem().Field(i)
			switch {
			case !f.CanSet() || reflect.TypeFor[events.Event]().Field(i).Name == "Type":
				continue
			case f.CanUint():
				f.SetUint(f.Uint() ^ 1)
			case f.CanInt():
				f.SetInt(f.Int() ^ 1)
			default:
				f.SetZero()
			}
			if show(e) != before && owner.is(e) {
				t.Errorf("%s shows the event's %s, which is not of the owner", c.Name, reflect.TypeFor[events.Event]().Field(i).Name)
			}
		}
	}
	if marked == 0 {
		t.Error("no column has the mark")
	}
}

// owners are events of owners that differ in one thing each, and more of them
// than are remembered.
func owners() []*events.Event {
	var list []*events.Event
	for _, change := range []func(*events.Event){
		func(*events.Event) {},
		func(e *events.Event) { e.PID++ },
		func(e *events.Event) { e.PID = 0 },
		func(e *events.Event) { e.UID++ },
		func(e *events.Event) { e.Known &^= events.HasUID },
		func(e *events.Event) { e.NetNS++ },
		func(e *events.Event) { e.NetNSName = "" },
		func(e *events.Event) { e.Comm = comm(hostile[0]) },
		func(e *events.Event) { e.User = "a,b" },
		func(e *events.Event) { e.Cgroup = "/" },
		func(e *events.Event) { e.Unit = "" },
		func(e *events.Event) { e.Container = "" },
		func(e *events.Event) { e.Pod = "-" },
		func(e *events.Event) { e.Sharers = nil },
		func(e *events.Event) { e.Sharers = []uint32{4711, 4713} },
		func(e *events.Event) { *e = events.Event{Type: e.Type} },
		func(e *events.Event) { e.Type = 0 },
	} {
		for _, e := range all() {
			change(e)
			list = append(list, e)
		}
	}
	for pid := range uint32(200) {
		e := aReset()
		e.PID = pid
		list = append(list, e)
	}
	return list
}

// TestOwnersKept: a line doesn't depend on the lines before it.
func TestOwnersKept(t *testing.T) {
	list := append(owners(), aLoss())
	var names []string // of columns that don't grow
	for _, c := range columns {
		if !c.grows {
			names = append(names, c.Name)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, format := range Formats() {
		for _, chosen := range [][]string{names, {"pid", "comm"}, {"comm", "time", "pid", "user", "netns"}, {"unit"}} {
			for _, color := range []bool{false, true} {
				o := Options{Format: format, Columns: chosen, Color: color, NoHeader: true}
				p := mustNew(t, o)
				for range 600 {
					e := list[r.IntN(len(list))]
					if got, want := string(p.AppendEvent(nil, e)), lines(t, o, e); got != want {
						t.Fatalf("%s %v:\n%swant\n%s", format, chosen, got, want)
					}
				}
			}
		}
	}
}

// TestOwnersKeptWhenColumnsGrow: a text that was kept has the new widths.
func TestOwnersKeptWhenColumnsGrow(t *testing.T) {
	long := aReset()
	long.PID++
	long.Container = strings.Repeat("0123456789abcdef", 4)
	o := Options{Format: Wide, Types: []events.Type{events.Reset}}
	last := func(list ...*events.Event) string {
		all := slices.Collect(strings.Lines(lines(t, o, list...)))
		return all[len(all)-1]
	}
	if got, want := last(aReset(), long, aReset()), last(long, aReset()); got != want {
		t.Errorf("%swant\n%s", got, want)
	}
	if got, want := last(long, aReset(), long), last(long, long); got != want {
		t.Errorf("%swant\n%s", got, want)
	}
}

// BenchmarkOwners prints events of many owners: what is kept of them helps
// little, and must not cost much.
func BenchmarkOwners(b *testing.B) {
	for _, format := range Formats() {
		for _, n := range []int{1, 30, 1000} {
			b.Run(fmt.Sprintf("%s/%d", format, n), func(b *testing.B) {
				list := make([]*events.Event, n)
				for i := range list {
					list[i] = aReset()
					list[i].PID += uint32(i)
				}
				p := mustNew(b, Options{Format: format, Types: []events.Type{events.Reset}})
				var buf []byte
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					buf = p.AppendEvent(buf[:0], list[i%n])
				}
			})
		}
	}
}
