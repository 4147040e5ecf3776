// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"strings"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// SummaryText returns the summary as one line without its end, such as
//
//	412 events (rto 3, fast 400, tlp 9) in 12.3 s; 0 filtered, 0 merged, 0 lost
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
	fmt.Fprintf(&b, " in %.1f s; %d filtered, %d merged, %d lost",
		s.Elapsed.Seconds(), s.Filtered, s.Merged, s.Lost)
	return b.String()
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
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
