// SPDX-License-Identifier: Apache-2.0

package record

import (
	"slices"

	"github.com/tcptrace/tcptrace/pkg/events"
)

func addAudit(to, s *events.Summary) {
	if s.Audit != nil && to.Audit == nil {
		to.Audit = []events.Audit{}
	}
	to.Checked = max(to.Checked, s.Checked)
	for _, a := range s.Audit {
		i := slices.IndexFunc(to.Audit, func(b events.Audit) bool { return b.NetNS == a.NetNS && b.Counter == a.Counter })
		if i < 0 {
			to.Audit = append(to.Audit, a)
			continue
		}
		b := &to.Audit[i]
		b.Kernel, b.Traced, b.Bracket = b.Kernel+a.Kernel, b.Traced+a.Traced, b.Bracket+a.Bracket
		if b.Verdict != events.Unchecked && a.Verdict != events.Unchecked {
			b.Verdict = events.Judge(b.Kernel, b.Traced, b.Bracket)
		} else {
			b.Verdict = events.Unchecked
		}
	}
}

func addSummary(to, s *events.Summary) {
	to.Events += s.Events
	to.Filtered += s.Filtered
	to.Merged += s.Merged
	to.Lost += s.Lost
	to.Skipped += s.Skipped
	to.SkippedCounting += s.SkippedCounting
	to.Elapsed += s.Elapsed
	addAudit(to, s)
}
