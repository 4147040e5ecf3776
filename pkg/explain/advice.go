// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strconv"
)

// What to do next, by finding: one to three things each, from what to look at
// first to what to change last. docs/findings.md says more.

// peer is the address with most connections, as commands take it.
func (f *Finding) peer() string {
	if len(f.Peers) == 0 || !f.Peers[0].Addr.IsValid() {
		return "PEER"
	}
	return f.Peers[0].Addr.WithZone("").String()
}

// filter is the same for ss, which wants brackets around IPv6.
func (f *Finding) filter() string {
	if len(f.Peers) > 0 && f.Peers[0].Addr.Is6() {
		return "'[" + f.peer() + "]'"
	}
	return f.peer()
}

func adviseSendFailed(f *Finding) []string {
	return []string{
		"EHOSTUNREACH or ENETUNREACH: ip route get " + f.peer() + " - the route, or the address that the connection has, went away. EPERM: nft list ruleset (or iptables -S), the output and postrouting chains. ENOBUFS: tc -s qdisc show, its drops and its limit.",
	}
}

func advisePorts(f *Finding) []string {
	list := []string{fmt.Sprintf("ss -Htan dst %s | awk '{print $1}' | sort | uniq -c shows what holds the ports; keep connections open (keep-alive, a pool) rather than making one for each request.", f.filter())}
	switch f.setting("net.ipv4.tcp_tw_reuse") {
	case "1":
		list = append(list, "tcp_tw_reuse is 1 already: a port in TIME_WAIT may be used again after a second (tcp_tw_reuse_delay), if the connection had timestamps.")
	case "0", "2":
		list = append(list, "where TIME_WAIT holds them, sysctl -w net.ipv4.tcp_tw_reuse=1 lets a port be used again after a second, if the connection had timestamps (2, the default, does so on loopback alone).")
	}
	return append(list, "widen net.ipv4.ip_local_port_range, or connect from or to more addresses.")
}

func adviseTimeWait(f *Finding) []string {
	list := []string{"have the client, or the load balancer before the server, keep connections open or use more ports and addresses, so that a port does not come again within 60 s."}
	if f.failed() > 0 {
		list = append(list, "where it fails, the server ignores the reset (net.ipv4.tcp_rfc1337=1 there: set it to 0), or a firewall on the way drops it (nft and iptables: a rule that drops invalid packets): let it pass.")
	}
	return append(list, "timestamps help only where the server sees them rise from one connection to the next: balancers strip them, and with tcp_timestamps=1 Linux gives each pair of ends an offset of its own; 2, on the host that connects, has none. On the server nothing but nstat -az TcpExtPAWSTimewait shows this.")
}

func adviseRejected(*Finding) []string {
	return []string{"nft -a list ruleset | grep reject (or iptables -S | grep REJECT) has the rule that sends the reset; if these packets are welcome, put an accept before it. If they belong to connections that the firewall forgot, see its conntrack time-outs."}
}

func adviseQueue(f *Finding) []string {
	return []string{
		"ss -ltn has the queue (Recv-Q) and its limit (Send-Q): find out why the application does not call accept() - all workers busy, a long pause, a stuck event loop.",
		fmt.Sprintf("a larger backlog in listen() (net.core.somaxconn bounds it%s) buys time, not speed.", f.is("net.core.somaxconn")),
	}
}

func adviseRefused(f *Finding) []string {
	return []string{
		"start the server, or correct the port of those who ask; where it runs, ss -ltnp says on which address it listens.",
		"where it listens and the connection is refused all the same, a firewall or a load balancer answers in its name: tcpdump -nvv 'tcp[tcpflags] & tcp-rst != 0 or icmp' on the client shows who (ip6 and icmp6 for IPv6), and its TTL.",
	}
}

func adviseNAT(*Finding) []string {
	return []string{
		"first rule out that the destination went down meanwhile: does it answer anybody now? If it does, and a NAT is on the way: conntrack -S there (insert_failed, drop); more source ports or addresses cure it.",
		"on the server: net.ipv4.tcp_tw_recycle=1, gone since Linux 4.12, drops the SYNs of a second host behind one NAT address (nstat -az TcpExtPAWSPassive counts them): set it to 0. Firewalls that limit connections per source do the same.",
	}
}

func adviseConnect(f *Finding) []string {
	kernel := f.orDefault("net.ipv4.tcp_syn_retries", "the time of tcp_syn_retries=%s", "the time of tcp_syn_retries")
	if s := f.connecting(); s > 0 {
		kernel += fmt.Sprintf(", about %d s", s)
	}
	return []string{
		"is the server up, and does a firewall on the way drop SYNs? tcpdump on both ends shows whether the SYN or the SYN-ACK is missing; a server drops SYNs itself where nstat -az TcpExtListenDrops TcpExtTCPReqQFullDrop rise.",
		fmt.Sprintf("SYNs go again after 1 s: a connect time-out below that cannot survive one lost SYN, one of 3 s can. The kernel alone tries for %s.", kernel),
	}
}

// connecting is for how many seconds the kernel tries to connect; 0 if unknown.
func (f *Finding) connecting() int {
	retries, err := strconv.Atoi(f.setting("net.ipv4.tcp_syn_retries"))
	if err != nil || retries < 0 || retries > 6 { // the interval is bounded beyond
		return 0
	}
	linear, _ := strconv.Atoi(f.setting("net.ipv4.tcp_syn_linear_timeouts")) // older kernels have none
	return linear + 1<<(retries+1) - 1
}

func adviseSYNACK(*Finding) []string {
	return []string{
		"many peers, none twice: a SYN flood or a scan, there is nobody to answer. The same peers again: their way back to here loses packets (asymmetric routes, a stateful firewall), or they are gone.",
		"a listener with TCP_DEFER_ACCEPT (Apache; nginx: deferred) looks so, too, for clients that connect and then say nothing, such as health checks.",
	}
}

func adviseReadTimeout(*Finding) []string {
	return []string{
		"raise the application's time-out: one below 300 ms cannot survive one retransmission (the first time-out of TCP is at least 200 ms, and the answer still has to come).",
		"where 200 ms is too long on a path of one's own, lower it there: see rto-floor.",
	}
}

func adviseUserTimeout(*Finding) []string {
	return []string{"find out why the peer fell silent (see stalled). TCP_USER_TIMEOUT is the application's own choice; below a second, two lost segments are enough for it."}
}

func adviseKeepalive(*Finding) []string {
	return []string{"the peer, or a NAT or firewall on the way, has forgotten an idle connection: send keepalives more often than its idle time-out (net.ipv4.tcp_keepalive_time, TCP_KEEPIDLE), or lengthen that."}
}

func adviseStalled(f *Finding) []string {
	list := []string{fmt.Sprintf("ip route get %s, ip neigh, ping and tcpdump: does anything leave, is the peer up, do its ACKs come back? A path that loses only large packets stalls too: ping -M do -s 1472 (1452 for IPv6).", f.peer())}
	if f.crowd != "" {
		list = append(list, f.crowd)
	}
	return append(list, "an application that must know sooner than tcp_retries2 tells it (15 is a quarter of an hour) sets TCP_USER_TIMEOUT.")
}

func adviseOrphan(*Finding) []string {
	return []string{"those that fail have a peer that is gone; nobody waits for them. If there are many (ss -tan state fin-wait-1; state last-ack), lower net.ipv4.tcp_orphan_retries (0 means 8), and see tcp_max_orphans."}
}

func adviseUnread(*Finding) []string {
	return []string{"read to the end (EOF) before close(), or shutdown(SHUT_WR) and drain: the reset may destroy an answer that the peer has not read yet. Common: a server that answers before it has read the whole request, a process that was killed; harmless: a TLS client that leaves the last records unread."}
}

func adviseLinger(*Finding) []string {
	return []string{"SO_LINGER with 0 seconds (or TCP_LINGER2 below 0) discards what is not sent and resets the peer: take it out unless that is meant. Health checks and load balancers do it on purpose."}
}

func adviseDataAfterClose(*Finding) []string {
	return []string{"the peer goes on sending after this side closed: agree on who closes first, or read until EOF before close(). With keep-alive, a server's idle time-out that is shorter than the client's does this."}
}

func adviseAborted(*Finding) []string {
	return []string{"the cause says who: an administrator (ss -K), the application (connect(AF_UNSPEC)), a listener closed with connections it had not accepted (drain before stopping the server), a peer that did not close its side in time, or orphans beyond tcp_max_orphans or tcp_mem."}
}

func adviseUnknown(*Finding) []string {
	return []string{"if the peer is a long-lived client: this host, its container or the load balancer forgot the connection (restart, failover, idle time-out); keepalives shorter than that, or a client that opens a new one. If many ports and peers: stray packets or a scan."}
}

func adviseOther(*Finding) []string {
	return []string{"tcptrace resets -o wide has the kernel's reason and the packet that provoked it. A packet that does not fit the connection is often an old one, or forged; a SYN|ACK is the answer to a connect that was given up."}
}

func advisePeer(*Finding) []string {
	return []string{"the answer is at the peer: run tcptrace resets there. A load balancer or firewall may send it in the peer's name: tcpdump -nvv 'tcp[tcpflags] & tcp-rst != 0' shows its TTL, to compare with that of the peer's other packets."}
}

func adviseFloor(f *Finding) []string {
	return []string{
		fmt.Sprintf("on a path of one's own: ip route get %s names the route; repeat it as ip route show has it, with ip route change ROUTE rto_min 50ms (or, for all routes, net.ipv4.tcp_rto_min_us, Linux 6.11 and later).", f.peer()),
		"never towards the internet, and not below the peer's delayed ACK (40 ms on Linux, up to 200 ms elsewhere), or segments are sent again needlessly.",
		"tail loss probes (tcp_early_retrans=3, with SACK) repair such a loss sooner, but only where more than one segment was in flight.",
	}
}

func adviseReordering(*Finding) []string {
	return []string{"something on the way overtakes (per-packet load balancing, several queues or tunnels), or ACKs get lost or late. It costs little with RACK (tcp_recovery=1); where it is not wanted, balance by flow."}
}

func adviseLoss(*Finding) []string {
	return []string{
		"where: ip -s link and ethtool -S DEVICE (drops, errors), tc -s qdisc show, on both ends and between. Bursts are full queues or policers, single losses spread over time a bad link.",
		"one peer alone: its path; all peers: this host, or its uplink.",
	}
}

func adviseError(*Finding) []string {
	return []string{
		"the error is what the application saw. tcpdump of the connection shows what came before; the settings of keepalive and TCP_USER_TIMEOUT decide after how long silence becomes ETIMEDOUT.",
	}
}
