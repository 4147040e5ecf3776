// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// A SocketInfo is what ss(8) says of a socket. A value that ss does not print is 0.
type SocketInfo struct {
	State         string // as ss names it: ESTAB, SYN-SENT
	Local, Remote netip.AddrPort
	// RecvQ and SendQ are bytes; of a listener the connections that wait to be accepted, and its backlog.
	RecvQ, SendQ int
	// RTO is in milliseconds.
	RTO float64
	// Backoff, Cwnd and the retransmissions, now outstanding and in total.
	Backoff, Cwnd, Retrans, TotalRetrans int
	// Raw is the line.
	Raw string
}

// SS runs ss in a namespace, with a filter in its syntax, and returns the TCP sockets. It is an independent witness of
// what the kernel keeps about them.
func SS(ctx context.Context, ns *lab.Namespace, filter ...string) ([]SocketInfo, error) {
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "ss", append([]string{"-tinoaHO"}, filter...)...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	// The child is forked by the namespace's thread, and so born in the namespace.
	if err := ns.Do(cmd.Run); err != nil {
		return nil, fmt.Errorf("ss: %w: %s", err, stderr.String())
	}
	var all []SocketInfo
	for line := range strings.Lines(out.String()) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		all = append(all, parseSS(f, strings.TrimSpace(line)))
	}
	return all, nil
}

func parseSS(f []string, line string) SocketInfo {
	s := SocketInfo{State: f[0], Local: ssAddr(f[3]), Remote: ssAddr(f[4]), Raw: line}
	s.RecvQ, _ = strconv.Atoi(f[1])
	s.SendQ, _ = strconv.Atoi(f[2])
	for _, field := range f[5:] {
		name, value, _ := strings.Cut(field, ":")
		switch name {
		case "rto":
			s.RTO, _ = strconv.ParseFloat(value, 64)
		case "backoff":
			s.Backoff, _ = strconv.Atoi(value)
		case "cwnd":
			s.Cwnd, _ = strconv.Atoi(value)
		case "retrans":
			now, total, _ := strings.Cut(value, "/")
			s.Retrans, _ = strconv.Atoi(now)
			s.TotalRetrans, _ = strconv.Atoi(total)
		}
	}
	return s
}

// ssAddr reads an address; one that is a wildcard stays invalid.
func ssAddr(s string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
