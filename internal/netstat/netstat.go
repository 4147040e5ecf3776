// SPDX-License-Identifier: Apache-2.0

// Package netstat reads the format of /proc/net/snmp and /proc/net/netstat.
package netstat

import (
	"fmt"
	"strconv"
	"strings"
)

// Each calls f with every counter of text: pairs of lines, the names of one
// group's counters and their values. The group is without its colon, such as
// Tcp or TcpExt. A value below 0, which only MaxConn has, is left out.
func Each(text string, f func(group, name string, value uint64)) error {
	for rest := strings.TrimSpace(text); rest != ""; {
		var names, values string
		names, rest, _ = strings.Cut(rest, "\n")
		values, rest, _ = strings.Cut(rest, "\n")
		group, names, ok := strings.Cut(names, ":")
		if other, _, _ := strings.Cut(values, ":"); !ok || other != group {
			return fmt.Errorf("lines of %q and %q do not belong together", group, other)
		}
		_, values, _ = strings.Cut(values, ":")
		for {
			var name, value string
			name, names = word(names)
			value, values = word(values)
			if name == "" && value == "" {
				break
			}
			if name == "" || value == "" {
				return fmt.Errorf("%s has not as many values as names", group)
			}
			if value[0] == '-' {
				continue
			}
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return fmt.Errorf("%s %s: %w", group, name, err)
			}
			f(group, name, n)
		}
	}
	return nil
}

// word cuts the first word off s; "" if there is none.
func word(s string) (first, rest string) {
	s = strings.TrimLeft(s, " ")
	first, rest, _ = strings.Cut(s, " ")
	return first, rest
}
