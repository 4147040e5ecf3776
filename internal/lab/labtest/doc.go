// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package labtest is for tests: it has witnesses that have nothing to do with BPF, against which tcptrace is held, and
// places for package lab's scenarios beyond one namespace.
//
//   - Counters are the kernel's own counts, per namespace.
//   - Trace records the five tracepoints by tracefs, in an instance of its own. Check holds a scenario's facts against
//     it and against the counters.
//   - BlindSpot counts the events that a BPF program may not have been shown.
//   - Capture sees what was on the wire; SS asks ss(8) what the kernel keeps about a socket.
//   - Pair joins two namespaces by a cable, or by two with a router that takes smaller packets.
//   - Tunnel joins two namespaces by a wire that the test carries segment by segment; Balancer puts a load balancer on
//     that wire.
//   - NewPod starts processes in cgroups of their own that share a network namespace.
//
// Main, called from TestMain, fails a test binary that leaves something behind. Package labtest/nft adds a firewall
// and a translator of addresses (NAT).
package labtest
