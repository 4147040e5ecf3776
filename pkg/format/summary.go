// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// SummaryText returns the summary as one line without its end, such as
//
//	412 events (rto 3, fast 400, tlp 9) in 12.3 s; 0 filtered, 0 merged, 0 lost
//
// Of a partial one it says what is known: "at least 7 filtered, 0 lost".
func SummaryText(s *events.Summary) string {
	var b strings.Builder
	b.WriteString(plural(s.Events, "event"))
	for i, k := range s.ByKind {
		if i == 0 {
			b.WriteString(" (")
		} else {
			b.WriteString(", ")
		}
		b.Write(appendEscaped(nil, k.Name, false))
		fmt.Fprintf(&b, " %d", k.Count)
	}
	if len(s.ByKind) > 0 {
		b.WriteByte(')')
	}
	fmt.Fprintf(&b, " in %.1f s; ", s.Elapsed.Seconds())
	account := func(n uint64, what string) {
		switch {
		case !s.Partial:
			fmt.Fprintf(&b, "%d %s, ", n, what)
		case n > 0:
			fmt.Fprintf(&b, "at least %d %s, ", n, what)
		}
	}
	account(s.Filtered, "filtered")
	account(s.Merged, "merged")
	fmt.Fprintf(&b, "%d lost", s.Lost)
	if s.Damaged {
		b.WriteString("; not all of the recording could be read")
	}
	return b.String()
}

// AuditText returns what the audit came to as one line without its end, such as
//
//	audit: the kernel counted 8253 retransmitted segments (7 SYNs and SYN-ACKs, 2 failures) and 12 resets in 3 namespaces; all were traced
//
// and "" if none was made.
func AuditText(s *events.Summary) string {
	if s.Audit == nil {
		return ""
	}
	const inTheMiddle = "of BPF programs, each in the middle of another event"
	var kernel, missing, extra tally
	var bracket uint64
	spaces := map[uint32]bool{} // of those listed, the ones that were checked, if only in part
	for i := range s.Audit {
		a := &s.Audit[i]
		if a.Verdict == events.Unchecked {
			continue
		}
		spaces[a.NetNS] = true
		kernel.add(a.Counter, a.Kernel)
		switch a.Verdict {
		case events.Missing:
			missing.add(a.Counter, a.Kernel-a.Traced-a.Bracket)
		case events.Extra:
			extra.add(a.Counter, a.Traced-a.Kernel)
		}
		if a.Counter != synRetrans && a.Counter != retransFail { // which are part of another
			bracket += a.Bracket
		}
	}
	audit := "audit"
	if s.Partial {
		audit = "audit of what was finished"
	}
	unchecked := unchecked(s.Audit, spaces)
	checked := uint64(max(s.Checked, len(spaces)))
	if checked == 0 {
		return audit + ": nothing could be checked" + strings.TrimPrefix(unchecked, "; not checked")
	}

	var b strings.Builder
	fmt.Fprintf(&b, "%s: the kernel counted %s in %s", audit, kernel.text(true), plural(checked, "namespace"))
	switch {
	case missing.total() > 0 || extra.total() > 0:
		if n := missing.total(); n > 0 {
			b.WriteString("; not traced: ")
			if bracket > 0 {
				b.WriteString("at least ")
			}
			b.WriteString(missing.text(false) + ", which the kernel ")
			switch {
			case s.SkippedCounting == 0:
				b.WriteString("did not deliver to BPF programs")
			case s.SkippedCounting >= n:
				fmt.Fprintf(&b, "skipped (%s %s)", plural(s.SkippedCounting, "run"), inTheMiddle)
			default:
				fmt.Fprintf(&b, "skipped (%s %s) or did not deliver to them", plural(s.SkippedCounting, "run"), inTheMiddle)
			}
		}
		if extra.total() > 0 {
			b.WriteString("; traced but not counted: " + extra.text(false))
		}
		if bracket > 0 {
			fmt.Fprintf(&b, "; %d came while the counters were read", bracket)
		}
	case bracket > 0:
		fmt.Fprintf(&b, "; all were traced, give or take %d that came while the counters were read", bracket)
	case kernel.total() == 0:
		b.WriteString("; none were traced")
	default:
		b.WriteString("; all were traced")
	}
	if s.Lost > 0 && !s.Partial { // or else they may be of what has no audit
		fmt.Fprintf(&b, "; %s lost on the way to the output", pluralOf(s.Lost, "traced event was", "traced events were"))
	}
	if n := s.Skipped - min(s.Skipped, s.SkippedCounting); n > 0 {
		fmt.Fprintf(&b, "; up to %s missing that the kernel does not count (it skipped %s %s)",
			pluralOf(n, "event is", "events are"), plural(n, "run"), inTheMiddle)
	}
	b.WriteString(unchecked)
	return b.String()
}

// unchecked lists what an audit could not check; in checked are the namespaces
// of which it could check a part.
func unchecked(audit []events.Audit, checked map[uint32]bool) string {
	const most = 4
	var list []string
	seen := map[string]bool{}
	for i := range audit {
		a := &audit[i]
		if a.Verdict != events.Unchecked {
			continue
		}
		what := strconv.FormatUint(uint64(a.NetNS), 10)
		if a.NetNS == 0 {
			what = "others"
		}
		if checked[a.NetNS] {
			what = string(appendEscaped(nil, a.Counter, false)) + " of " + what
		}
		if seen[what] {
			continue
		}
		seen[what] = true
		if a.Note != "" && len(list) < most {
			what += " (" + string(appendEscaped(nil, a.Note, false)) + ")"
		}
		list = append(list, what)
	}
	if len(list) == 0 {
		return ""
	}
	more := ""
	if n := len(list) - most; n > 0 {
		list, more = list[:most], fmt.Sprintf(" and %d more", n)
	}
	return "; not checked: " + strings.Join(list, ", ") + more
}

// The kernel's counters that an audit is made of. The first includes the next
// two.
const (
	retransSegs = "RetransSegs"
	synRetrans  = "TCPSynRetrans"
	retransFail = "TCPRetransFail"
	outRsts     = "OutRsts"
)

// tally is a sum for each counter.
type tally struct {
	names []string
	sums  map[string]uint64
}

func (t *tally) add(counter string, n uint64) {
	if t.sums == nil {
		t.sums = map[string]uint64{}
	}
	if _, ok := t.sums[counter]; !ok {
		t.names = append(t.names, counter)
	}
	t.sums[counter] += n
}

// total counts no segment twice.
func (t *tally) total() uint64 {
	var n uint64
	for name, sum := range t.sums {
		if name != synRetrans && name != retransFail {
			n += sum
		}
	}
	return max(n, t.sums[synRetrans], t.sums[retransFail])
}

// text puts the sums into words; those that are zero only if zeros is set.
func (t *tally) text(zeros bool) string {
	var parts, some []string
	if n := t.sums[synRetrans]; n > 0 {
		some = append(some, pluralOf(n, "SYN or SYN-ACK", "SYNs and SYN-ACKs"))
	}
	if n := t.sums[retransFail]; n > 0 {
		some = append(some, plural(n, "failure"))
	}
	main := func(counter, what string) {
		switch n, ok := t.sums[counter]; {
		case n > 0:
			parts = append(parts, plural(n, what))
		case ok && zeros:
			parts = append(parts, "no "+what+"s")
		}
	}
	if main(retransSegs, "retransmitted segment"); len(parts) > 0 && len(some) > 0 {
		parts[0] += " (" + strings.Join(some, ", ") + ")"
	} else {
		parts = append(parts, some...)
	}
	main(outRsts, "reset")
	for _, name := range t.names {
		switch name {
		case retransSegs, synRetrans, retransFail, outRsts:
		default:
			parts = append(parts, fmt.Sprintf("%d %s", t.sums[name], appendEscaped(nil, name, false)))
		}
	}
	if zeros && len(parts) == 0 {
		return "nothing"
	}
	last := len(parts) - 1
	if last < 1 {
		return strings.Join(parts, "")
	}
	return strings.Join(parts[:last], ", ") + " and " + parts[last]
}

// LostText returns a lost event as one line without its end, such as
//
//	lost 12 reset events here: the ring buffer was full (try a larger --buffer)
func LostText(e *events.Event) string {
	what := "event"
	if of := e.Of.String(); of != "" {
		what = of + " event"
	}
	if e.Count == 0 {
		what += "s"
	} else {
		what = plural(e.Count, what)
	}
	return "lost " + what + " here: the ring buffer was full (try a larger --buffer)"
}

func plural(n uint64, what string) string {
	return pluralOf(n, what, what+"s")
}

func pluralOf(n uint64, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}
