// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package lab makes real TCP trouble: retransmissions, resets and failed connects between sockets of this process, in
// network namespaces of its own, the same every time. It serves "tcptrace demo", and the tests that hold tcptrace
// against the truth. It needs the rights of root (CAP_SYS_ADMIN, CAP_NET_ADMIN), Linux 5.10 or later, and nothing but
// system calls: no firewall, no traffic control, no external program. Nothing leaves the machine, every wait ends with
// its context, and closing a Namespace leaves nothing behind.
//
// # Use
//
//	ns, err := lab.NewNamespace(ctx)
//	defer ns.Close()
//	place, err := ns.Loopback(lab.V6)
//	for _, s := range lab.Scenarios() {
//		facts, err := s.Run(ctx, place)
//		// facts.Conns: addresses, cookies and states of both ends
//		// facts.Events: which tracepoints fired, how often, where, and why
//		// facts.Client, facts.Server: what the kernel's counters gained
//	}
//
// Scenarios are also functions of their own (Stalled, Refused, ...), some with options. They run one at a time in a
// namespace, for they change its settings; different namespaces do not disturb each other. When one returns, its sockets
// are closed and everything it causes has happened, so a witness can be asked at once. New scenarios are made with
// Perform from the steps of an Act.
//
// # How segments get lost
//
// At the receiving socket, which drops them before TCP looks at them:
//
//   - Socket.Blackhole loses everything. It demands a hop count that no packet has, so it is no program that could fail
//     to run, and it serves wherever a timer sends what is to be lost: the packet then arrives in the context of whoever
//     was interrupted, and some machines run no BPF program in some of these.
//   - Socket.Attach loses what a Filter picks: SYNs, SYN-ACKs, data, a random share.
//   - DropOriginal loses a segment the first time it is sent and lets its repetition pass. It takes no luck: with ECN
//     negotiated, the two differ in the IP header.
//
// Socket.Drops tells how many were lost, which is also how a scenario learns that a retransmission has been sent.
// Socket.Vanish takes a socket away without a packet, as a power failure would.
//
// # Determinism
//
// A namespace starts from settings that do not depend on the host's: congestion control reno, no memory of earlier
// connections, no autocorking, no tail loss probe unless a scenario is about it. Where the number of events is a matter
// of timing (random loss; a busy machine that is late to stop) it is read from the socket afterwards, so that facts are
// exact nevertheless. The addresses of a Namespace's Loopback belong to it alone, because the kernel's tracepoints print
// addresses but no namespace. A client is not bound, as an ordinary program's is not: its first state change (CLOSE to
// SYN_SENT) shows port 0.
//
// What each scenario was seen to cause on 6.18, by tracefs and by the counters, stands in its comment: one line for each
// end, with the states its socket goes through and the other tracepoints, and one for the counters that matter. It is the
// same for IPv4, IPv6, IPv4-mapped addresses and an IPv4 client of an IPv6 listener. The tests check all of it.
//
// Package labtest has the witnesses, and namespaces joined by a cable.
package lab
