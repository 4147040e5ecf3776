// SPDX-License-Identifier: Apache-2.0

package events

import "slices"

// Add adds another summary to s, as if one stream had been both. Rows of the
// audits with the same namespace and counter are added and judged anew, but one
// that is unchecked on either side stays so. How many namespaces were checked in
// both is not known: it is the greater number.
func (s *Summary) Add(o *Summary) {
	s.Events += o.Events
	s.Filtered += o.Filtered
	s.Merged += o.Merged
	s.Lost += o.Lost
	s.Elapsed += o.Elapsed
	s.Skipped += o.Skipped
	s.SkippedCounting += o.SkippedCounting
	s.Checked = max(s.Checked, o.Checked)
	for _, k := range o.ByKind {
		i := slices.IndexFunc(s.ByKind, func(have KindCount) bool { return have.Name == k.Name })
		if i < 0 {
			s.ByKind = append(s.ByKind, k)
			continue
		}
		s.ByKind[i].Count += k.Count
	}
	s.Audit = AddAudits(s.Audit, o.Audit)
}

// AddAudits appends the rows of b to a, or adds them to those of the same
// namespace and counter. It returns nil only if both are nil.
func AddAudits(a, b []Audit) []Audit {
	if a == nil && b != nil {
		a = []Audit{}
	}
	type key struct {
		netns   uint32
		counter string
	}
	rows := make(map[key]int, len(a))
	for i := range a {
		rows[key{a[i].NetNS, a[i].Counter}] = i
	}
	for i := range b {
		k := key{b[i].NetNS, b[i].Counter}
		j, known := rows[k]
		if !known {
			rows[k] = len(a)
			a = append(a, b[i])
			continue
		}
		a[j].add(&b[i])
	}
	return a
}

func (a *Audit) add(o *Audit) {
	a.Traced += o.Traced
	a.Bracket += o.Bracket
	if a.Verdict == Unchecked || o.Verdict == Unchecked {
		if a.Note == "" {
			a.Note = o.Note
		}
		a.Kernel, a.Verdict = 0, Unchecked
		return
	}
	a.Kernel += o.Kernel
	a.Verdict = Judge(a.Kernel, a.Traced, a.Bracket)
}
