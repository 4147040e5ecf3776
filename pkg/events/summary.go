// SPDX-License-Identifier: Apache-2.0

package events

import "slices"

// How much of a sum is told apart. What is beyond, as only many files or hostile
// ones have it, is summed up: kinds as unknown, rows without a namespace. More
// names of counters than there are kinds, which only a hostile file has, are left
// out then.
const (
	maxKinds = 256
	maxRows  = 1 << 16
)

// Add adds another summary to s, as if one stream had been both: see
// [AddAudits]. How many namespaces were checked in both is not known: it is the
// greater number.
func (s *Summary) Add(o *Summary) {
	s.Events += o.Events
	s.Filtered += o.Filtered
	s.Merged += o.Merged
	s.Lost += o.Lost
	s.Partial = s.Partial || o.Partial
	s.Elapsed += o.Elapsed
	s.Skipped += o.Skipped
	s.SkippedCounting += o.SkippedCounting
	for _, k := range o.ByKind {
		s.addKind(k)
	}
	s.AddProof(o)
}

func (s *Summary) addKind(k KindCount) {
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

// AddProof adds what the kernel's counters say of another part of the stream:
// see [AddAudits].
func (s *Summary) AddProof(o *Summary) {
	s.Checked = max(s.Checked, o.Checked)
	s.Audit = AddAudits(s.Audit, o.Audit)
	s.Counters = addCounters(s.Counters, o.Counters)
}

// addCounters adds those of b to those of a that are of the same namespace, and
// appends the others.
func addCounters(a, b []Counter) []Counter {
	if len(b) == 0 {
		return a
	}
	of := func(c Counter) Counter { c.Rise = 0; return c }
	at := make(map[Counter]int, len(a))
	sum := slices.Clone(a)
	for i, c := range a {
		at[of(c)] = i
	}
	for _, c := range b {
		i, known := at[of(c)]
		if !known && len(sum) >= maxRows {
			c.NetNS = 0
			if i, known = at[of(c)]; !known && len(sum) >= maxRows+maxKinds {
				continue
			}
		}
		if !known {
			at[of(c)] = len(sum)
			sum = append(sum, c)
			continue
		}
		sum[i].Rise += c.Rise
	}
	return sum
}

// TakeProof takes over what the kernel's counters say of another summary.
func (s *Summary) TakeProof(o *Summary) {
	s.Audit, s.Checked, s.Counters = o.Audit, o.Checked, o.Counters
}

// AddAudits adds the rows of b to those of a that are about the same namespace
// and counter and came to the same, and appends the others: what was missing at
// one time is not made up for by a wide bracket at another. It returns nil only
// if both are nil.
func AddAudits(a, b []Audit) []Audit {
	if a == nil && b != nil {
		a = []Audit{}
	}
	rows := make(map[Audit]int, len(a))
	for i := range a {
		rows[a[i].outcome()] = i
	}
	for i := range b {
		row := b[i]
		j, known := rows[row.outcome()]
		if !known && len(a) >= maxRows {
			row.NetNS, row.Note = 0, ""
			if j, known = rows[row.outcome()]; !known {
				if len(a) >= maxRows+maxKinds {
					continue
				}
				rows[row.outcome()] = len(a)
			}
		}
		if !known {
			a = append(a, row)
			continue
		}
		r := &a[j]
		r.Kernel += b[i].Kernel
		r.Traced += b[i].Traced
		r.Bracket += b[i].Bracket
		if r.Verdict != Unchecked {
			r.Verdict = Judge(r.Kernel, r.Traced, r.Bracket)
		}
	}
	return a
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
