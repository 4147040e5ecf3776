// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// Counters are the network counters of a namespace by name: see lab.Namespace.Counters.
type Counters map[string]uint64

// ReadCounters reads the counters of a namespace.
func ReadCounters(ns *lab.Namespace) (Counters, error) { return ns.Counters() }

// Delta returns what was counted since before, without what did not move.
func (c Counters) Delta(before Counters) Counters { return lab.Delta(before, c) }

// String prints the counters that are not zero, sorted, in one line.
func (c Counters) String() string {
	var s []string
	for _, name := range sortedKeys(c) {
		if c[name] != 0 {
			s = append(s, fmt.Sprintf("%s=%d", name, c[name]))
		}
	}
	return strings.Join(s, " ")
}

// TCP returns only the counters that concern TCP and MPTCP, not those of IP, ICMP and UDP.
func (c Counters) TCP() Counters {
	tcp := Counters{}
	for name, v := range c {
		if !slices.ContainsFunc([]string{"Ip", "Icmp", "Udp"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
			tcp[name] = v
		}
	}
	return tcp
}
