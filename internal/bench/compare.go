// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// comparison is what became of some tools on one load.
type comparison struct {
	Load   string
	Series []*series // in the order in which the tables have them
}

// series are the trials of a tool, one a round.
type series struct {
	Tool   string
	Trials []trial
	Absent error // why there are none
}

// compare has every tool meet the load once a round, in turn: there and back.
func compare(ctx context.Context, o *Options, rounds int, dir, name string, l load, tools []tool) (*comparison, error) {
	c := &comparison{Load: name}
	of := map[string]*series{}
	for _, t := range tools {
		s := &series{Tool: t.name()}
		of[t.name()] = s
		c.Series = append(c.Series, s)
	}
	order := slices.Clone(tools)
	for round := range rounds {
		for _, t := range order {
			s := of[t.name()]
			if s.Absent != nil {
				continue
			}
			r, err := try(ctx, dir, t, l)
			if err != nil && ctx.Err() == nil && replaceable(t) {
				// One hitch of another tool is not the end of its row: bpftrace was seen not to end when it was told to.
				o.Logf("%s: %s once more, after %v", name, t.name(), err)
				r, err = try(ctx, dir, t, l)
			}
			if err != nil && ctx.Err() == nil && replaceable(t) {
				s.Absent = err
				s.Trials = nil
				o.Logf("%s: %s not measured: %v", name, t.name(), err)
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", name, t.name(), err)
			}
			s.Trials = append(s.Trials, r)
			o.Logf("%s %d/%d: %-11s %s", name, round+1, rounds, t.name(), r)
		}
		slices.Reverse(order)
	}
	return c, nil
}

// replaceable tells whether the comparison goes on without the tool.
func replaceable(t tool) bool {
	switch t.(type) {
	case untraced, floorTool, tcptrace:
		return false
	}
	return true
}

func (r trial) String() string {
	text := fmt.Sprintf("%d events in %v, %d delivered", r.Events, r.Took.Round(time.Millisecond), r.Delivered)
	if ns := r.kernelCost(); ns > 0 {
		text += fmt.Sprintf(", %.0f ns an event in the kernel", ns)
	}
	return text
}

// kernelCost is the time that the tool's BPF programs took for an event, in
// nanoseconds; 0 if it has none.
func (r *trial) kernelCost() float64 {
	return float64(total(r.Programs).Time) / float64(max(1, r.Handled))
}

// hidden is how many events the kernel did not hand to the tool's programs.
func (r *trial) hidden() int {
	sum := total(r.Programs)
	if sum.Runs == 0 {
		return 0
	}
	return max(0, r.Events-r.Handled-int(sum.Misses))
}

// foreign is the share of events that others on this machine made meanwhile.
func (r *trial) foreign() float64 { return float64(max(0, r.Handled-r.Events)) / float64(r.Events) }

// lost is how many events the tool could have delivered and did not.
func (r *trial) lost() int { return max(0, r.Events-r.hidden()-r.Delivered) }

// values are those of all trials.
func (s *series) values(f func(*trial) float64) (list []float64) {
	for i := range s.Trials {
		list = append(list, f(&s.Trials[i]))
	}
	return list
}

// find returns the series of a tool; nil if there is no trial of it.
func (c *comparison) find(tool string) *series {
	i := slices.IndexFunc(c.Series, func(s *series) bool { return s.Tool == tool && len(s.Trials) > 0 })
	if i < 0 {
		return nil
	}
	return c.Series[i]
}

// ratio is the median, over the rounds, of what f is for one tool and for
// another; NaN where one of them was not measured.
func (c *comparison) ratio(one, other string, f func(*trial) float64) float64 {
	a, b := c.find(one), c.find(other)
	if a == nil || b == nil {
		return median(nil)
	}
	x, y := a.values(f), b.values(f)
	var ratios []float64
	for i := range min(len(x), len(y)) {
		ratios = append(ratios, x[i]/y[i])
	}
	return median(ratios)
}
