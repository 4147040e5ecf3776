// SPDX-License-Identifier: Apache-2.0

package explain

import "fmt"

// What to do next, by finding. Each list goes from what to look at first to
// what to change last; docs/findings.md says more, and what it was seen to cure.

func adviseSendFailed(f *Finding) []string {
	return []string{
		"EPERM: nft list ruleset, the output and postrouting chains. ENETUNREACH: ip route get PEER. EHOSTUNREACH: ip neigh; the next hop is down or in another VLAN. ENOBUFS: tc -s qdisc show, and its limit.",
	}
}

func advisePorts(f *Finding) []string {
	list := []string{"ss -tan dst PEER | awk '{print $1}' | sort | uniq -c shows what holds the ports; reuse connections (keep-alive, a pool) rather than opening one for each request."}
	switch f.setting("net.ipv4.tcp_tw_reuse") {
	case "1":
		list = append(list, "tcp_tw_reuse is 1 already: a port in TIME_WAIT is free again after a second, if both ends use timestamps.")
	case "0", "2":
		list = append(list, "tcp_tw_reuse=1 on this host frees ports in TIME_WAIT after a second, if both ends use timestamps (2, the default, does so on loopback alone); it does not help where open connections hold them.")
	}
	return append(list, "widen net.ipv4.ip_local_port_range, or connect from or to more addresses.")
}

func adviseTimeWait(f *Finding) []string {
	list := []string{"have the client, or the load balancer before the server, keep connections open or use more ports and addresses, so that a port does not come again within 60 s."}
	if f.failed() > 0 {
		list = append(list, "where it fails: the server ignores the reset (net.ipv4.tcp_rfc1337=1), or a firewall between eats it (nft: invalid packets dropped). Set tcp_rfc1337=0 there and let the reset pass.")
	}
	return append(list,
		"timestamps help only if the server sees them rise from one connection to the next: load balancers strip them, and Linux adds a random offset to each pair of ends (tcp_timestamps=1). tcp_timestamps=2 on the host that connects has no offset.",
		"on the server no event shows it: nstat -az TcpExtPAWSTimewait TcpExtTWRecycled.")
}

func adviseRejected(*Finding) []string {
	return []string{"nft list ruleset | grep -n reject (or iptables -S | grep REJECT): the rule that sends tcp-reset; if these clients are meant to come in, put an accept before it."}
}

func adviseQueue(f *Finding) []string {
	return []string{
		"ss -ltn shows the queue (Recv-Q) and its limit (Send-Q): find out why the application does not call accept() - all workers busy, a long pause, a stuck event loop.",
		fmt.Sprintf("a larger backlog in listen() (bounded by net.core.somaxconn%s) gives it time, not speed; nstat -az TcpExtListenOverflows TcpExtListenDrops counts what was turned away.", f.is("net.core.somaxconn")),
	}
}

func adviseRefused(f *Finding) []string {
	return []string{
		"start the server, or correct the port of those who ask; if it runs, see which address it listens on: ss -ltnp.",
		"where the server runs and a reset comes all the same, a firewall or a load balancer without a healthy server answers in its name: compare trigger_ttl of this reset (tcptrace resets -o wide) with that of an answer.",
	}
}

func adviseNAT(*Finding) []string {
	return []string{
		"the destination is up, but not for every client behind this address. If a NAT is on the way: conntrack -S (insert_failed, drop) and its ports for this destination; more source ports or addresses cure it.",
		"on the server: Linux before 4.12 with net.ipv4.tcp_tw_recycle=1 drops the SYNs of a second host behind one NAT address; set it to 0. nstat -az TcpExtPAWSPassive (there) counts them. Firewalls with a limit on connections per source do the same.",
	}
}

func adviseConnect(f *Finding) []string {
	return []string{
		"is the server up, and does a firewall on the way drop SYNs? tcpdump on both ends shows which SYN or SYN-ACK is missing; on the server, nstat -az TcpExtListenOverflows TcpExtTCPReqQFullDrop.",
		fmt.Sprintf("a connect time-out below 1 s cannot survive one lost SYN, 3 s survives one (without tcp_syn_linear_timeouts), 7 s two; the kernel alone tries on for %s.", f.orDefault("net.ipv4.tcp_syn_retries", "tcp_syn_retries=%s", "the time of tcp_syn_retries")),
	}
}

func adviseSYNACK(*Finding) []string {
	return []string{
		"the way back to these peers loses packets, their host is gone, or they were never there (a SYN flood or a scan: many peers, none comes twice); asymmetric routes and stateful firewalls look the same.",
	}
}

func adviseReadTimeout(*Finding) []string {
	return []string{
		"raise the application's time-out: one below 300 ms cannot survive one retransmission (the first time-out of TCP is at least 200 ms, and the answer still has to come).",
		"where 200 ms is too long on a path of one's own, lower it there: see rto-floor.",
	}
}

func adviseUserTimeout(*Finding) []string {
	return []string{"find out why the peer fell silent (see stalled); TCP_USER_TIMEOUT is the application's own choice, and below a second two lost segments are enough for it."}
}

func adviseKeepalive(*Finding) []string {
	return []string{"the peer, or a NAT or firewall on the way, has forgotten an idle connection: send keepalives more often than its idle time-out (net.ipv4.tcp_keepalive_time, TCP_KEEPIDLE), or lengthen that."}
}

func adviseStalled(f *Finding) []string {
	list := []string{"ping and tcpdump towards the peer: is it up, and do its ACKs come back? A path that loses only large segments stalls too: ping -M do -s 1472."}
	if f.crowd != "" {
		list = append(list, f.crowd)
	}
	return append(list, "an application that must know sooner than tcp_retries2 tells it (15 is a quarter of an hour) sets TCP_USER_TIMEOUT.")
}

func adviseOrphan(*Finding) []string {
	return []string{"the peer is gone, or something dropped its state; nobody waits for these. If they are many, lower net.ipv4.tcp_orphan_retries (0 means 8), and see tcp_max_orphans."}
}

func adviseUnread(*Finding) []string {
	return []string{"read to the end (EOF) before close(), or shutdown(SHUT_WR) and drain: the reset may destroy an answer that the peer has not read yet. Common: an HTTP server that answers before it has read the request's body, and a client that leaves at the first error."}
}

func adviseLinger(*Finding) []string {
	return []string{"SO_LINGER with 0 seconds (or TCP_LINGER2 below 0) discards what is not sent and resets the peer: take it out unless that is meant. Health checks and load balancers do it on purpose."}
}

func adviseDataAfterClose(*Finding) []string {
	return []string{"the peer goes on sending after this side closed: agree on who closes first, or read until EOF before close(). With keep-alive, a server's idle time-out that is shorter than the client's does this."}
}

func adviseAborted(*Finding) []string {
	return []string{"who: an administrator (ss -K), connect(AF_UNSPEC), a listener closed with connections not accepted (drain before stopping the server), or orphans beyond tcp_max_orphans and tcp_mem."}
}

func adviseUnknown(*Finding) []string {
	return []string{"if the peer is a long-lived client: this host, its container or the load balancer forgot the connection (restart, failover, idle time-out); keepalives shorter than that, or a client that opens a new one. If many ports and peers: stray packets or a scan."}
}

func adviseOther(*Finding) []string {
	return []string{"the reason is the kernel's own (tcptrace resets -o wide has it); a packet that does not fit the connection is often an old one, or forged."}
}

func advisePeer(*Finding) []string {
	return []string{"the answer is at the peer: run tcptrace resets there. A load balancer or firewall may send it in the peer's name: compare trigger_ttl (tcptrace resets -o wide) with the peer's."}
}

func adviseFloor(f *Finding) []string {
	return []string{
		"each loss at the end of what is sent costs 200 ms or more here. On a path of one's own: ip route change DEST ... rto_min 20ms (or net.ipv4.tcp_rto_min_us, Linux 6.11 and later). Never towards the internet: below the peer's delayed ACK (40 ms on Linux, up to 200 ms elsewhere) segments are sent again needlessly.",
		"tail loss probes (tcp_early_retrans=3, SACK) repair most of these sooner, where there is more than one segment or the RTT is known.",
	}
}

func adviseReordering(*Finding) []string {
	return []string{"something on the way overtakes: per-packet load balancing, several queues or tunnels. It costs little with RACK (tcp_recovery=1); if it is not wanted, balance by flow."}
}

func adviseLoss(*Finding) []string {
	return []string{"where: ip -s link and ethtool -S (drops, errors), tc -s qdisc on both ends and between. Bursts are full queues or policers, single losses spread over time a bad link. One peer alone: its path; all: this host."}
}
