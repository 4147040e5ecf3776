// SPDX-License-Identifier: Apache-2.0

package events

import "slices"

// How much of a sum is told apart. What is beyond, as only many files or hostile
// ones have it, is summed up: kinds as unknown, rows without a namespace. More
// names of counters than there are kinds, which only a hostile file has, are left
// out then.
const (
	maxKinds = 256
	maxRows  = 1 << 14
)

// Sum adds up summaries, as if one stream had been them all.
type Sum struct {
	Summary
	audits   map[Audit]int // index of a row, by its outcome
	counters map[Counter]int
}

// Add adds another summary. How many namespaces were checked in both is not
// known: it is the greater number.
func (s *Sum) Add(o *Summary) {
	s.Events += o.Events
	s.Filtered += o.Filtered
	s.Merged += o.Merged
	s.Lost += o.Lost
	s.Partial = s.Partial || o.Partial
	s.Damaged = s.Damaged || o.Damaged
	s.Elapsed += o.Elapsed
	s.Skipped += o.Skipped
	s.SkippedCounting += o.SkippedCounting
	for _, k := range o.ByKind {
		s.addKind(k)
	}
	s.AddProof(o)
}

func (s *Sum) addKind(k KindCount) {
	for {
		i := slices.IndexFunc(s.ByKind, func(have KindCount) bool { return have.Name == k.Name })
		switch {
		case i >= 0:
			s.ByKind[i].Count += k.Count
			return
		case len(s.ByKind) < maxKinds || k.Name == KindUnknown.String():
			s.ByKind = append(s.ByKind, k)
			return
		}
		k.Name = KindUnknown.String()
	}
}

// AddProof adds what the kernel's counters say of another part of the stream. It
// adds rows to those that are about the same namespace and counter and came to
// the same, and appends the others: what was missing at one time is not made up
// for by a wide bracket at another. The audit stays nil only if all are.
func (s *Sum) AddProof(o *Summary) {
	s.Checked = max(s.Checked, o.Checked)
	if s.Audit == nil && o.Audit != nil {
		s.Audit, s.audits = []Audit{}, map[Audit]int{}
	}
	before := len(s.Audit)
	for i := range o.Audit {
		s.addAudit(o.Audit[i], before)
	}
	if s.counters == nil {
		s.counters = map[Counter]int{}
	}
	for _, c := range o.Counters {
		s.addCounter(c)
	}
}

// addAudit adds a row to one of the first rows, which are of other summaries.
// Two of one summary, as of a number that two namespaces had one after the other,
// stay two.
func (s *Sum) addAudit(row Audit, first int) {
	i, known := s.audits[row.outcome()]
	known = known && i < first
	if !known && len(s.Audit) >= maxRows {
		row.NetNS, row.Note = 0, ""
		if i, known = s.audits[row.outcome()]; !known && len(s.Audit) >= maxRows+maxKinds {
			return
		}
	}
	if !known {
		s.audits[row.outcome()] = len(s.Audit)
		s.Audit = append(s.Audit, row)
		return
	}
	r := &s.Audit[i]
	r.Kernel += row.Kernel
	r.Traced += row.Traced
	r.Bracket += row.Bracket
	if r.Verdict != Unchecked {
		r.Verdict = Judge(r.Kernel, r.Traced, r.Bracket)
	}
}

func (s *Sum) addCounter(c Counter) {
	of := func(c Counter) Counter { c.Rise = 0; return c }
	i, known := s.counters[of(c)]
	if !known && len(s.Counters) >= maxRows {
		c.NetNS = 0
		if i, known = s.counters[of(c)]; !known && len(s.Counters) >= maxRows+maxKinds {
			return
		}
	}
	if !known {
		s.counters[of(c)] = len(s.Counters)
		s.Counters = append(s.Counters, c)
		return
	}
	s.Counters[i].Rise += c.Rise
}

// TakeProof takes over what the kernel's counters say of another summary.
func (s *Summary) TakeProof(o *Summary) {
	s.Audit, s.Checked, s.Counters = o.Audit, o.Checked, o.Counters
}

// outcome is a row without its numbers. To be exact and to be within the bracket
// is the same outcome.
func (a *Audit) outcome() Audit {
	o := Audit{NetNS: a.NetNS, Counter: a.Counter, Verdict: a.Verdict, Note: a.Note}
	if o.Verdict == Within {
		o.Verdict = Exact
	}
	return o
}
