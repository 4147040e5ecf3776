// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/format"
)

// field is a column as expressions see it: an int, float64, string, bool or []int.
type field struct {
	name  string
	zero  any
	names []string // the values that it can have, if it is one of a few names
	value func(*events.Event) (any, bool)
}

// fields returns what expressions can name: the fields of the JSON.
func fields() []field {
	var list []field
	names := enums()
	for _, c := range format.Columns() {
		f := field{name: c.Name, names: names[c.Name]}
		switch c.Type {
		case format.Int:
			f.zero = 0
			f.value = func(e *events.Event) (any, bool) { v, ok := c.Value(e).Int(); return int(v), ok }
		case format.Float:
			f.zero = 0.0
			f.value = func(e *events.Event) (any, bool) { v, ok := c.Value(e).Float(); return v, ok }
		case format.Bool:
			f.zero = false
			f.value = func(e *events.Event) (any, bool) { v, ok := c.Value(e).Bool(); return v, ok }
		case format.Ints:
			f.zero = []int(nil)
			var buf []int
			f.value = func(e *events.Event) (any, bool) {
				v, ok := c.Value(e).Ints()
				buf = buf[:0]
				for _, n := range v {
					buf = append(buf, int(n))
				}
				return buf, ok
			}
		default:
			f.zero = ""
			f.value = func(e *events.Event) (any, bool) { v, ok := c.Value(e).Text(); return v, ok }
		}
		list = append(list, f)
	}
	return list
}

// enums returns the values of the fields that have one of a few names.
func enums() map[string][]string {
	states := texts(States())
	return map[string][]string{
		"event":     texts(append(Types(), events.Lost)),
		"state":     states,
		"old_state": states,
		"new_state": states,
		"kind":      texts(Kinds()),
		"direction": texts(Directions()),
		"phase":     texts(named(events.PhaseConnect)),
		"ca_state":  texts(named(events.CAOpen)),
	}
}

func texts[T fmt.Stringer](values []T) []string {
	var list []string
	for _, v := range values {
		list = append(list, v.String())
	}
	return list
}
