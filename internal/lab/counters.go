// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/tcptrace/tcptrace/internal/netstat"
)

// Counters reads the namespace's network counters (snmp, netstat, snmp6). Those of TCP have their bare name, as
// RetransSegs, OutRsts or TCPTimeouts; the others have their group before it, as IpExtInOctets or
// MPTcpExtMPCapableSYNRX.
func (n *Namespace) Counters() (map[string]uint64, error) {
	c := map[string]uint64{}
	for _, name := range []string{"snmp", "netstat"} {
		b, err := n.ReadNet(name)
		if err != nil {
			return nil, err
		}
		if err := addPairs(c, string(b)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	b, err := n.ReadNet("snmp6")
	if errors.Is(err, os.ErrNotExist) { // no IPv6
		return c, nil
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 {
			if c[f[0]], err = strconv.ParseUint(f[1], 10, 64); err != nil {
				return nil, fmt.Errorf("snmp6: %w", err)
			}
		}
	}
	return c, err
}

// addPairs reads the format of snmp and netstat.
func addPairs(c map[string]uint64, text string) error {
	return netstat.Each(text, func(group, name string, value uint64) {
		if group == "Tcp" || group == "TcpExt" {
			group = ""
		}
		c[group+name] = value
	})
}

// Delta returns what the counters gained since before, without those that did not move.
func Delta(before, after map[string]uint64) map[string]uint64 {
	d := map[string]uint64{}
	for name, v := range after {
		if v != before[name] {
			d[name] = v - before[name]
		}
	}
	return d
}
