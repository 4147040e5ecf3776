//go:build ignore
// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The kernel side of tcptrace: six tracepoints, one ring buffer.
 *
 * Nothing here runs for a healthy packet. Each program builds a header on its
 * stack, applies the filters, and only then reserves a record. A reserve that
 * fails is counted. User space is woken when much is waiting, and looks by
 * itself a dozen times a second.
 */
#include "record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* -- configuration, constant before load -- */

enum { EITHER, LOCAL, REMOTE, ENDS };

#define MAX_LIST 8

struct prefix {
	u32 addr[4];
	u32 mask[4];
};

/* What user space can let the kernel decide. A list of length 0 accepts all;
 * the kernel may accept more than the user asked for, never less. */
struct filters {
	u32 states; /* bit per state, 0 accepts all */
	u32 n_netns;
	u32 n_uids;
	u32 netns[MAX_LIST];
	u32 uids[MAX_LIST];
	u8 family; /* 4, 6, 0 both */
	u8 ports_set[ENDS];
	u32 n_prefixes[ENDS];
	struct prefix prefixes[ENDS][MAX_LIST];
	u64 ports[ENDS][1024];
};

const volatile struct filters filter;
/* bpf_get_socket_cookie exists for tracing programs (from 5.12, c5dbb89fc2ac)
 */
const volatile bool have_cookie_helper;
/* So does bpf_get_current_task_btf (from 5.11, 3ca1032ab7ab) */
const volatile bool have_task_helper;
/* And so does bpf_rdonly_cast (from 6.2, a35b9af4ec2c) */
const volatile bool have_rdonly_cast;
const volatile bool want_resets;
const volatile bool want_states;
const volatile u64 conn_seed;	 /* makes conn of a socket without a cookie */
const volatile u32 wakeup_bytes; /* waiting bytes that are worth a wake-up */

/* -- state shared with user space -- */

u32 reader_waits; /* user space sleeps; it sets this, whoever wakes it clears it
		   */
u32 lost_total;	  /* grows with every failed reserve, of any type */

/* Numbers the lives of sockets that had a cookie before they connected, as one
 * has that connects for the second time. */
u32 lives;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 20); /* --buffer */
} records SEC(".maps");

struct totals {
	u64 produced[RECORD_TYPES];
	u64 filtered[RECORD_TYPES];
	u64 lost[RECORD_TYPES];
	u64 cgroup; /* the last one whose name was noted */
	u64 net; /* the last one: the low bits of net_key(), and its number in
		    audits. One word: an interrupt may come in between */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct totals);
} counts SEC(".maps");

/* What was seen in one network namespace before any filter, in the units of
 * the kernel's own counters. */
struct audit {
	u64 segments; /* sent again: RetransSegs, but for SYN-ACKs and failures
		       */
	u64 synacks;
	u64 syns;   /* TCPSynRetrans, but for SYN-ACKs */
	u64 failed; /* segments that could not be sent: TCPRetransFail */
	u64 resets; /* OutRsts */
	u32 netns;  /* inode number */
	u32 pad;
};

#define MAX_NETS 2048

/* Which of audits are a namespace's, by net_key(). Inserted at a namespace's
 * first event, read at the end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_NETS);
	__type(key, u64);
	__type(value, u32);
} nets SEC(".maps");

/* The first are those of namespaces that found no room. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_NETS);
	__type(key, u32);
	__type(value, struct audit);
} audits SEC(".maps");

u32 nets_last; /* about the last number of audits that was given away */

/* The numbers that are, so that no two namespaces get one. User space takes
 * back those of namespaces that are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_NETS);
	__type(key, u32);
	__type(value, u64);
} net_slots SEC(".maps");

#define CGROUP_DEPTH 14
#define CGROUP_NAME 256 /* NAME_MAX and the NUL */

/* A cgroup's name and those of its parents, innermost first. */
struct cgroup_names {
	u32 depth; /* CGROUP_DEPTH: perhaps not all */
	char names[CGROUP_DEPTH][CGROUP_NAME];
};

/* By the cgroup's id. Inserted at an event of a socket in a cgroup that was not
 * seen before, since the cgroup may be gone when the event is read; read by
 * user space; evicted by age. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 512);
	__type(key, u64);
	__type(value, struct cgroup_names);
} cgroups SEC(".maps");

/* Where one is put together: it is too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cgroup_names);
} cgroup_scratch SEC(".maps");

/* What is remembered of a socket: who has it, which of its lives this is. */
struct memory {
	u64 cookie;
	u64 born; /* conn of this life where there is no cookie */
	u32 life; /* 0 unless the socket may have lived before */
	u32 pid;
	char comm[16];
	bool closed;   /* the life is over */
	u8 last_state; /* before that */
	bool held;     /* a process had yet to close the socket by then; at
			  CLOSE alone */
	u8 pad[5];
	u64 unborn; /* when a child was made whose ends are not known yet */
};

/* By the socket's address. Inserted at connect, listen and close, which run in
 * the owner; read by every event. After CLOSE it stays for the reset that may
 * follow and for destroy_sock, and until another socket has the address, or
 * it is evicted by age: writing over it costs less than deleting it and
 * inserting another. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct memory);
} socks SEC(".maps");

/* Who closed a connection that events may have come from before its process was
 * known, by conn, or by the inode of an MPTCP socket (BY_INODE): the socket may
 * be gone before they are read. Inserted at close, read by user space, evicted
 * by age. */
struct closer {
	u32 pid;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, u64);
	__type(value, struct closer);
} closers SEC(".maps");

u32 closers_total; /* grows with every entry: whether to look */
u64 handed_over;   /* CLOCK_BOOTTIME of the last whose process had been known as
		      another's, ns */

/* About how many sockets are closed and held: whether destroy_sock has to look.
 * Those that were evicted count for ever. */
u32 held_socks;

/* The thread of user space that looks who has what, 0 while none does. */
u32 looker;

/* -- records -- */

static __always_inline struct totals *own_totals(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&counts, &zero);
}

static __always_inline struct totals *count_produced(u8 type)
{
	struct totals *c = own_totals();

	if (c)
		c->produced[type]++;
	return c;
}

static __always_inline void *reserve(struct totals *c, u8 type, u64 size)
{
	void *r = bpf_ringbuf_reserve(&records, size, 0);

	if (!r) {
		if (c)
			c->lost[type]++;
		__sync_fetch_and_add(&lost_total, 1);
	}
	return r;
}

static __noinline u32 find_audit(u64 key)
{
	u32 *slot = bpf_map_lookup_elem(&nets, &key);
	long taken = 0;
	u32 fresh;

	if (slot)
		return *slot;
	/* An atomic addition that tells the sum came with 5.12. */
	fresh = *(volatile u32 *)&nets_last;
	for (int i = 0; i < 64; i++) { /* others may be here, too */
		if (++fresh >= MAX_NETS)
			fresh = 1;
		taken = bpf_map_update_elem(&net_slots, &fresh, &key,
					    BPF_NOEXIST);
		if (!taken)
			break;
	}
	*(volatile u32 *)&nets_last = fresh; /* the next one tries others */
	if (taken)
		return 0;
	/* Another CPU may have been faster. */
	bpf_map_update_elem(&nets, &key, &fresh, BPF_NOEXIST);
	slot = bpf_map_lookup_elem(&nets, &key);
	return slot ? *slot : 0;
}

/*
 * READ and READ_FIELD follow a typed pointer directly, and any other with
 * bpf_probe_read_kernel. direct is a constant of each call, so that one
 * body serves both.
 */
#define READ(direct, ptr, field)                                               \
	((direct) ? (ptr)->field : BPF_CORE_READ(ptr, field))
#define READ_FIELD(direct, ptr, field)                                         \
	((direct) ? FIELD(ptr, field) : PROBE_FIELD(ptr, field))

/* Never another namespace's; 0 if net is NULL. */
static __always_inline u64 net_key(bool direct, struct net *net)
{
	/* Before 5.12 it is no plain number, and 0 unless something asked. The
	 * kernel gives an inode number again, but hardly to one with the same
	 * random number. */
	if (bpf_core_field_exists(net->net_cookie))
		return READ(direct, net, net_cookie);
	return (u64)READ(direct, net, hash_mix) << 32 |
	       READ(direct, net, ns.inum);
}

/* What is counted of a namespace, which may be NULL. */
static __always_inline struct audit *audit_of(bool direct, struct totals *c,
					      struct net *net)
{
	u64 last = c ? *(volatile u64 *)&c->net : 0;
	u32 slot = last & 0xffff, none = 0;
	struct audit *a;
	u64 key;

	if (!net)
		return bpf_map_lookup_elem(&audits, &none);
	key = net_key(direct, net);
	if (!slot || last >> 16 != (key & (~0ULL >> 16))) {
		slot = find_audit(key);
		if (c)
			*(volatile u64 *)&c->net = key << 16 | slot;
	}
	a = bpf_map_lookup_elem(&audits, &slot);
	if (a && slot && !a->netns)
		a->netns = READ(direct, net, ns.inum);
	return a;
}

/* The inode number of a namespace, from what is counted of it: beside it the
 * kernel keeps how many sockets a namespace has, so that reading it means
 * waiting for another CPU. */
static __always_inline u32 netns_of(bool direct, struct audit *a,
				    struct net *net)
{
	if (a && a->netns)
		return a->netns;
	return READ(direct, net, ns.inum);
}

static __always_inline void write_header(struct header *dst, struct header *h)
{
	h->time = bpf_ktime_get_boot_ns();
	h->lost = *(volatile u32 *)&lost_total;
	*dst = *h;
}

static __always_inline void submit(void *r)
{
	u64 flags = BPF_RB_NO_WAKEUP;

	if (*(volatile u32 *)&reader_waits &&
	    bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA) >= wakeup_bytes) {
		reader_waits = 0;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	bpf_ringbuf_submit(r, flags);
}

/* -- filters -- */

static __always_inline bool in_ports(int end, u16 port)
{
	return filter.ports[end][port >> 6] >> (port & 63) & 1;
}

static __always_inline bool in_prefixes(int end, const u32 *addr)
{
	for (u32 i = 0; i < MAX_LIST; i++) {
		const volatile struct prefix *p = &filter.prefixes[end][i];

		if (i >= filter.n_prefixes[end])
			break;
		if ((addr[0] & p->mask[0]) == p->addr[0] &&
		    (addr[1] & p->mask[1]) == p->addr[1] &&
		    (addr[2] & p->mask[2]) == p->addr[2] &&
		    (addr[3] & p->mask[3]) == p->addr[3])
			return true;
	}
	return false;
}

static __always_inline bool in_list(const volatile u32 *list, u32 n, u32 v)
{
	for (u32 i = 0; i < MAX_LIST; i++) {
		if (i >= n)
			break;
		if (list[i] == v)
			return true;
	}
	return false;
}

static __always_inline bool is_v4(const u32 *a)
{
	return !a[0] && !a[1] && a[2] == bpf_htonl(0xffff);
}

/* states has the bits of all states that the event shows. */
static __always_inline bool wanted(const struct header *h, u32 states)
{
	if (filter.states && !(filter.states & states))
		return false;
	if (filter.family && filter.family != (is_v4(h->laddr) ? 4 : 6))
		return false;
	if (filter.ports_set[EITHER] && !in_ports(EITHER, h->lport) &&
	    !in_ports(EITHER, h->rport))
		return false;
	if (filter.ports_set[LOCAL] && !in_ports(LOCAL, h->lport))
		return false;
	if (filter.ports_set[REMOTE] && !in_ports(REMOTE, h->rport))
		return false;
	if (filter.n_prefixes[EITHER] && !in_prefixes(EITHER, h->laddr) &&
	    !in_prefixes(EITHER, h->raddr))
		return false;
	if (filter.n_prefixes[LOCAL] && !in_prefixes(LOCAL, h->laddr))
		return false;
	if (filter.n_prefixes[REMOTE] && !in_prefixes(REMOTE, h->raddr))
		return false;
	if (filter.n_netns && !in_list(filter.netns, filter.n_netns, h->netns))
		return false;
	if (filter.n_uids && (!(h->bits & SOCK_KNOWN) ||
			      !in_list(filter.uids, filter.n_uids, h->uid)))
		return false;
	return true;
}

static __always_inline bool accept(struct totals *c, const struct header *h,
				   u32 states)
{
	if (wanted(h, states))
		return true;
	if (c)
		c->filtered[h->type]++;
	return false;
}

/* -- sockets -- */

static __always_inline void set_v4(u32 *dst, u32 addr)
{
	dst[0] = 0;
	dst[1] = 0;
	dst[2] = bpf_htonl(0xffff);
	dst[3] = addr;
}

#define COPY_V6(direct, dst, sk, field)                                        \
	do {                                                                   \
		(dst)[0] = READ(direct, sk, field.in6_u.u6_addr32[0]);         \
		(dst)[1] = READ(direct, sk, field.in6_u.u6_addr32[1]);         \
		(dst)[2] = READ(direct, sk, field.in6_u.u6_addr32[2]);         \
		(dst)[3] = READ(direct, sk, field.in6_u.u6_addr32[3]);         \
	} while (0)

/* The addresses. A v6 child's v4 fields hold rubbish, so the family decides. */
#define COPY_ADDRS(direct, h, ptr, common)                                     \
	do {                                                                   \
		if (READ(direct, ptr, common.skc_family) == AF_INET6) {        \
			COPY_V6(direct, (h)->laddr, ptr,                       \
				common.skc_v6_rcv_saddr);                      \
			COPY_V6(direct, (h)->raddr, ptr, common.skc_v6_daddr); \
		} else {                                                       \
			set_v4((h)->laddr,                                     \
			       READ(direct, ptr, common.skc_rcv_saddr));       \
			set_v4((h)->raddr,                                     \
			       READ(direct, ptr, common.skc_daddr));           \
		}                                                              \
	} while (0)

static __always_inline bool has_flag(unsigned long flags, int flag)
{
	return flags >> flag & 1;
}

/* A socket's cgroup before 5.15. NULL where it is not known: with the cgroups
 * of version 1 that give sockets a class or a priority. */
static __always_inline struct cgroup *early_cgroup(struct sock *sk)
{
	struct sock_cgroup_data___bits *data = (void *)&sk->sk_cgrp_data;
	u64 val = BPF_CORE_READ(data, val);

	return val & 3 ? NULL : (struct cgroup *)val;
}

static __always_inline u64 inode_of(bool direct, struct sock *sk)
{
	struct sock___ino *ino = (void *)sk;
	struct socket_alloc *s;

	if (bpf_core_field_exists(ino->sk_ino))
		return READ(direct, ino, sk_ino);
	/* SOCK_INODE(): the socket is embedded at the front of its struct
	 * socket_alloc. */
	s = (void *)READ(direct, sk, sk_socket);
	return s ? BPF_CORE_READ(s, vfs_inode.i_ino) : 0;
}

/* The socket's own uid, namespace, cgroup and inode: right whoever was
 * interrupted. */
static __always_inline void read_owner(bool direct, struct header *h,
				       struct sock *sk, struct audit *a)
{
	struct net *net = READ(direct, sk, __sk_common.skc_net.net);

	h->netns = netns_of(direct, a, net);
	h->uid = READ(direct, sk, sk_uid.val);
	h->bits = SOCK_KNOWN;
	if (has_flag(READ(direct, sk, __sk_common.skc_flags), SOCK_DEAD))
		h->bits |= SOCK_ORPHAN;
	if (bpf_core_field_exists(((struct sock *)0)->sk_cgrp_data.cgroup)) {
		struct cgroup *cg = READ(direct, sk, sk_cgrp_data.cgroup);
		struct kernfs_node *kn;

		if (cg) {
			kn = READ(direct, cg, kn);
			h->cgroup = READ(direct, kn, id);
		}
	} else {
		struct cgroup *cg = early_cgroup(sk);

		if (cg)
			h->cgroup = BPF_CORE_READ(cg, kn, id);
	}
	h->inode = inode_of(direct, sk);
}

static __always_inline struct kernfs_node *parent_of(struct kernfs_node *kn)
{
	struct kernfs_node___rcu *new = (void *)kn;

	if (bpf_core_field_exists(kn->parent))
		return BPF_CORE_READ(kn, parent);
	return BPF_CORE_READ(new, __parent);
}

/* Keeps the names of the cgroup with this id, which sk is in. The parents of a
 * cgroup that was removed stay with it as long as sk does. */
static __noinline int keep_cgroup(struct sock *sk, u64 id)
{
	struct cgroup_names *n;
	struct kernfs_node *kn;
	struct cgroup *cg;
	u32 zero = 0;

	if (bpf_map_lookup_elem(&cgroups, &id))
		return 0;
	n = bpf_map_lookup_elem(&cgroup_scratch, &zero);
	if (!n)
		return 0;
	if (bpf_core_field_exists(((struct sock *)0)->sk_cgrp_data.cgroup))
		cg = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	else
		cg = early_cgroup(sk);
	kn = BPF_CORE_READ(cg, kn);
	n->depth = CGROUP_DEPTH;
	for (u32 i = 0; i < CGROUP_DEPTH; i++) {
		struct kernfs_node *parent = parent_of(kn);

		if (!parent) { /* the root, whose name says nothing */
			n->depth = i;
			break;
		}
		bpf_probe_read_kernel_str(n->names[i], CGROUP_NAME,
					  BPF_CORE_READ(kn, name));
		kn = parent;
	}
	bpf_map_update_elem(&cgroups, &id, n, BPF_ANY);
	return 0;
}

/* Called before a record is made of an event. Each CPU asks the map only when
 * the cgroup is another than at its last event. */
static __always_inline void note_cgroup(struct totals *c,
					const struct header *h, void *sk)
{
	if (!c || !h->cgroup || c->cgroup == h->cgroup)
		return;
	c->cgroup = h->cgroup;
	keep_cgroup(sk, h->cgroup);
}

/* port is inet_sport, which a typed struct sock doesn't have. */
static __always_inline void read_ports(bool direct, struct header *h,
				       struct sock *sk, u16 port)
{
	/* At CLOSE skc_num is already 0 (inet_put_port); before the first
	 * packet inet_sport may be. */
	h->lport =
		port ? bpf_ntohs(port) : READ(direct, sk, __sk_common.skc_num);
	h->rport = bpf_ntohs(READ(direct, sk, __sk_common.skc_dport));
}

/* A spreading of the bits (splitmix64's finaliser), so that the ids of sockets
 * without a cookie look nothing like each other, or like a cookie. */
static __always_inline u64 spread(u64 x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* The id of a connection: the socket's cookie, and above it a number that
 * tells the lives of one socket apart. Where the kernel makes no cookie for
 * us, somebody else may while the connection lives: what it was born with
 * stays. */
static __always_inline u64 conn_id(u64 cookie, const struct memory *m)
{
	if (m && m->born)
		return m->born;
	return cookie && m ? cookie | (u64)m->life << 48 : cookie;
}

/* m if it is of this socket, and not of one that had its address before. */
static __always_inline struct memory *same_sock(struct memory *m, u64 cookie)
{
	return m && (!m->cookie || !cookie || m->cookie == cookie) ? m : NULL;
}

/* The same, if the socket is alive. */
static __always_inline struct memory *same_life(struct memory *m, u64 cookie)
{
	return m && !m->closed ? same_sock(m, cookie) : NULL;
}

static __always_inline struct memory *recall(u64 sk, u64 cookie)
{
	return same_life(bpf_map_lookup_elem(&socks, &sk), cookie);
}

static __always_inline void use_memory(struct header *h, struct memory *m)
{
	h->conn = conn_id(h->cookie, m);
	if (m) {
		h->pid = m->pid;
		__builtin_memcpy(h->comm, m->comm, sizeof(h->comm));
	}
}

/* Everything of a full socket that a tp_btf program was given. */
static __always_inline void read_sock(struct header *h, struct sock *sk,
				      struct audit *a)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	read_owner(true, h, sk, a);
	COPY_ADDRS(true, h, sk, __sk_common);
	read_ports(true, h, sk, tp ? tp->inet_conn.icsk_inet.inet_sport : 0);
	h->state = sk->__sk_common.skc_state;
	h->cookie = sk->__sk_common.skc_cookie.counter;
	if (!h->cookie && have_cookie_helper)
		h->cookie = bpf_get_socket_cookie(sk);
}

/* -- retransmissions -- */

static __always_inline unsigned long timer_expires(struct sock *sk,
						   struct tcp_sock *tp)
{
	struct inet_connection_sock___timeout *old = (void *)&tp->inet_conn;
	struct inet_connection_sock___timer *mid = (void *)&tp->inet_conn;
	struct sock___timer *new = (void *)sk;

	if (bpf_core_field_exists(old->icsk_timeout))
		return old->icsk_timeout;
	if (bpf_core_field_exists(mid->icsk_retransmit_timer))
		return mid->icsk_retransmit_timer.expires;
	return new->tcp_retransmit_timer.expires;
}

/* The settings of the socket's own namespace. */
static __always_inline void read_settings(struct retransmit *r, struct sock *sk)
{
	struct net *net = sk->__sk_common.skc_net.net;

	r->retries2 = FIELD(net, ipv4.sysctl_tcp_retries2);
	r->orphan_retries = FIELD(net, ipv4.sysctl_tcp_orphan_retries);
	r->linear_timeouts = 0;
	if (bpf_core_field_exists(net->ipv4.sysctl_tcp_syn_linear_timeouts))
		r->linear_timeouts =
			FIELD(net, ipv4.sysctl_tcp_syn_linear_timeouts);
	if (FIELD(net, ipv4.sysctl_tcp_thin_linear_timeouts))
		r->bits |= RTX_THIN_LINEAR;
}

#define TCP_INFINITE_SSTHRESH 0x7fffffff /* include/net/tcp.h */

#define TCPHDR_SYN 0x02
#define TCPHDR_ACK 0x10

/* Counts one event the way that __tcp_retransmit_skb() does. What it refuses
 * before it sends is in none of its counters, and neither is it in ours; with
 * these errors it never gets as far, except that -EBUSY can also come late. */
static __always_inline void audit_retransmit(struct audit *a, u32 segs,
					     u16 flags, s32 err)
{
	if (err == -EBUSY || err == -EAGAIN || err == -ENOMEM ||
	    err == -EHOSTUNREACH)
		return;
	if (!a)
		return;
	__sync_fetch_and_add(err ? &a->failed : &a->segments, segs ?: 1);
	if (flags & TCPHDR_SYN)
		__sync_fetch_and_add(&a->syns, 1);
}

SEC("tp_btf/tcp_retransmit_skb")
int retransmit_skb(u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct sk_buff *skb = (struct sk_buff *)ctx[1];
	struct totals *c = count_produced(RECORD_RETRANSMIT);
	struct tcp_skb_cb *cb = (struct tcp_skb_cb *)skb->cb;
	struct audit *a = audit_of(true, c, sk->__sk_common.skc_net.net);
	struct header h = {.type = RECORD_RETRANSMIT};
	struct inet_connection_sock *icsk;
	struct retransmit *r;
	struct tcp_sock *tp;
	u32 segs = cb->tcp_gso_segs; /* tcp_skb_pcount() */
	u16 flags = FIELD(cb, tcp_flags);
	u64 now, stamp;
	s32 err = 0;

	/* From 6.17 (ad892e912b84) the tracepoint passes the outcome, and fires
	 * for failures too. Distributions backport it: ask BTF. */
	if (bpf_core_field_exists(
		    ((struct trace_event_raw_tcp_retransmit_skb *)0)->err))
		err = (s32)ctx[2];
	audit_retransmit(a, segs, flags, err);

	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	icsk = &tp->inet_conn;
	read_sock(&h, sk, a);
	if (!accept(c, &h, 1 << h.state))
		return 0;
	use_memory(&h, recall((u64)sk, h.cookie));
	note_cgroup(c, &h, sk);
	r = reserve(c, RECORD_RETRANSMIT, sizeof(*r));
	if (!r)
		return 0;
	write_header(&r->h, &h);

	r->seq = cb->seq;
	r->end_seq = cb->end_seq;
	r->len = skb->len; /* no header yet: the clone that is sent gets it */
	r->segs = segs;
	r->tcp_flags = flags;
	r->sacked = cb->sacked;
	r->err = err;

	r->bits = 0;
	r->timeouts = icsk->icsk_retransmits;
	if (bpf_core_field_exists(tp->total_rto))
		r->timeouts = tp->total_rto;
	read_settings(r, sk);
	r->syn_retries = icsk->icsk_syn_retries; /* TCP_SYNCNT */
	if (!r->syn_retries)
		r->syn_retries = FIELD(sk->__sk_common.skc_net.net,
				       ipv4.sysctl_tcp_syn_retries);
	if (FIELD(tp, thin_lto))
		r->bits |= RTX_THIN_LINEAR;
	/* tcp_stream_is_thin() */
	if (tp->packets_out >= 4 || tp->snd_ssthresh >= TCP_INFINITE_SSTHRESH ||
	    h.state != TCP_ESTABLISHED)
		r->bits &= ~RTX_THIN_LINEAR;
	if ((long)(bpf_jiffies64() - timer_expires(sk, tp)) >= 0)
		r->bits |= RTX_TIMER_EXPIRED;
	/* bytes_acked counts the SYN: nothing beyond it was acknowledged. */
	if (FIELD(tp, syn_data) && !FIELD(tp, syn_data_acked) &&
	    tp->bytes_acked <= 1)
		r->bits |= RTX_TFO_DATA;
	if (tp->undo_marker)
		r->bits |= RTX_UNDO;
	if (sk->sk_err_soft)
		r->bits |= RTX_SOFT_ERROR;

	r->rto = icsk->icsk_rto;
	r->rto_min = 0;
	if (bpf_core_field_exists(icsk->icsk_rto_min))
		r->rto_min = icsk->icsk_rto_min;
	r->rto_max = 0;
	if (bpf_core_field_exists(icsk->icsk_rto_max))
		r->rto_max = icsk->icsk_rto_max;
	r->srtt = tp->srtt_us;
	r->mdev = tp->mdev_us;
	r->rttvar = tp->rttvar_us;
	r->cwnd = tp->snd_cwnd;
	r->ssthresh = tp->snd_ssthresh;
	r->total_retrans = tp->total_retrans;
	r->data_segs_out = tp->data_segs_out;
	r->dsack_dups = tp->dsack_dups;
	r->snd_wnd = tp->snd_wnd;
	r->user_timeout = icsk->icsk_user_timeout;
	r->pending = icsk->icsk_pending;
	r->ca_state = FIELD(icsk, icsk_ca_state);
	r->retransmits = icsk->icsk_retransmits;
	r->backoff = icsk->icsk_backoff;

	/* What retransmits_timed_out() compares: the clock that the timer
	 * refreshed, against the first retransmission (of a SYN: the first
	 * SYN), in the unit of this connection's timestamps. */
	r->elapsed = 0;
	stamp = tp->retrans_stamp;
	now = tp->tcp_mstamp;
	if (stamp) {
		if (bpf_core_field_exists(tp->tcp_usec_ts) &&
		    FIELD(tp, tcp_usec_ts))
			r->elapsed = ((u32)now - (u32)stamp) / 1000;
		else
			r->elapsed = (u32)(now / 1000) - (u32)stamp;
	}
	r->pad = 0;
	r->pad2 = 0;
	submit(r);
	return 0;
}

SEC("tp_btf/tcp_retransmit_synack")
int retransmit_synack(u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0]; /* listener, or TFO child */
	struct request_sock *req = (struct request_sock *)ctx[1];
	struct totals *c = count_produced(RECORD_RETRANSMIT);
	struct header h = {.type = RECORD_RETRANSMIT};
	struct net *net = sk->__sk_common.skc_net.net;
	struct inet_connection_sock *icsk;
	struct retransmit *r;
	struct memory *m;
	struct tcp_sock *tp;
	struct audit *a;
	u32 limit, qlen, young, isn;
	unsigned long expires;

	a = audit_of(true, c, net);
	if (a)
		__sync_fetch_and_add(&a->synacks, 1);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	icsk = &tp->inet_conn;
	read_owner(true, &h, sk, a);
	COPY_ADDRS(true, &h, req, __req_common);
	h.lport = req->__req_common.skc_num;
	h.rport = bpf_ntohs(req->__req_common.skc_dport);
	h.state = sk->__sk_common.skc_state;
	if (h.state == TCP_LISTEN)
		h.state = TCP_NEW_SYN_RECV; /* the request's own state */
	if (!accept(c, &h, 1 << h.state))
		return 0;
	note_cgroup(c, &h, sk);
	if (h.state == TCP_NEW_SYN_RECV)
		h.bits |= SOCK_LISTENER; /* a request has no inode of its own */
	/* The child inherits the request's cookie (inet_csk_clone_lock). */
	h.cookie = req->__req_common.skc_cookie.counter;
	if (!h.cookie && have_cookie_helper)
		h.cookie = bpf_get_socket_cookie(req);
	m = recall((u64)sk, 0);
	use_memory(&h, m);
	/* The memory is the listener's; the connection is the request's. */
	isn = BPF_CORE_READ((struct tcp_request_sock *)req, snt_isn);
	h.conn = h.cookie;
	if (!h.conn)
		h.conn = spread(conn_seed ^ (u64)isn << 32 ^ h.lport << 16 ^
				h.rport) |
			 1ULL << 63;
	r = reserve(c, RECORD_RETRANSMIT, sizeof(*r));
	if (!r)
		return 0;
	write_header(&r->h, &h);

	r->seq = isn;
	r->end_seq = r->seq + 1;
	r->len = 0;
	r->segs = 1;
	r->tcp_flags = TCPHDR_SYN | TCPHDR_ACK;
	r->err = 0;
	r->bits = RTX_REQUEST;
	/* A Fast Open child has its own timer do it (tcp_retransmit_timer). */
	expires = h.state == TCP_NEW_SYN_RECV ? req->rsk_timer.expires
					      : timer_expires(sk, tp);
	if ((long)(bpf_jiffies64() - expires) >= 0)
		r->bits |= RTX_TIMER_EXPIRED;
	r->rto = 0; /* TCP_TIMEOUT_INIT */
	if (bpf_core_field_exists(req->timeout))
		r->rto = req->timeout;
	r->rto_min = 0;
	r->rto_max = 0;
	if (bpf_core_field_exists(icsk->icsk_rto_max))
		r->rto_max = icsk->icsk_rto_max;
	r->retransmits = FIELD(req, num_timeout);
	r->backoff = req->num_retrans;

	/* The limit, lowered while the accept queue is more than half full:
	 * reqsk_timer_handler(). */
	limit = icsk->icsk_syn_retries;
	if (!limit) {
		limit = FIELD(sk->__sk_common.skc_net.net,
			      ipv4.sysctl_tcp_synack_retries);
		if (h.state != TCP_NEW_SYN_RECV)
			limit++; /* tcp_fastopen_synack_timer() */
	}
	if (h.state == TCP_NEW_SYN_RECV) {
		u32 backlog = sk->sk_max_ack_backlog;

		qlen = icsk->icsk_accept_queue.qlen.counter;
		young = icsk->icsk_accept_queue.young.counter << 1;
		if (qlen << 1 > (backlog > 8 ? backlog : 8)) {
			for (int i = 0; i < 32; i++) {
				if (limit <= 2 || qlen < young)
					break;
				limit--;
				young <<= 1;
			}
		}
	}
	r->syn_retries = limit;
	read_settings(r, sk);
	r->bits &= ~RTX_THIN_LINEAR;

	r->timeouts = 0;
	r->srtt = 0;
	r->mdev = 0;
	r->rttvar = 0;
	r->cwnd = 0;
	r->ssthresh = 0;
	if (h.state == TCP_NEW_SYN_RECV) {
		r->cwnd = sk->sk_ack_backlog;
		r->ssthresh = sk->sk_max_ack_backlog;
	}
	r->total_retrans = r->backoff + 1;
	r->data_segs_out = 0;
	r->dsack_dups = 0;
	r->snd_wnd = 0;
	r->user_timeout = 0;
	r->elapsed = 0;
	r->pending = 0;
	r->ca_state = 0;
	r->sacked = 0;
	r->pad = 0;
	r->pad2 = 0;
	submit(r);
	return 0;
}

/* -- resets -- */

/* The IPv4 and IPv6 headers' places are fixed by the RFCs. */
#define IPV4_FRAGMENT 6
#define IPV4_TTL 8
#define IPV4_SADDR 12
#define IPV4_DADDR 16
#define IPV6_HOP_LIMIT 7
#define IPV6_SADDR 8
#define IPV6_DADDR 24
#define TCP_HEADER 20
#define TCP_DOFF 12
#define TCP_FLAGS 13
#define TCPHDR_RST 0x04

/* Arrays of words: the compiler copies those of bytes byte by byte. */
struct packet {
	u32 saddr[4];
	u32 daddr[4];
	u8 ttl;
	bool known;
	u32 tcp[TCP_HEADER / 4]; /* without options */
	unsigned char *options;
};

#define SPORT(p) bpf_ntohs(((u16 *)(p)->tcp)[0])
#define DPORT(p) bpf_ntohs(((u16 *)(p)->tcp)[1])

/* The packet that provoked a reset: it comes from the remote end. */
static __always_inline void read_packet(bool direct, struct packet *p,
					struct sk_buff *skb)
{
	unsigned char *head = READ(direct, skb, head);
	unsigned char *ip = head + READ(direct, skb, network_header);
	unsigned char *tcp = head + READ(direct, skb, transport_header);
	u32 words[10];
	u8 *raw = (u8 *)words;

	if (bpf_probe_read_kernel(words, sizeof(words), ip) ||
	    bpf_probe_read_kernel(p->tcp, sizeof(p->tcp), tcp))
		return;
	p->options = tcp + TCP_HEADER;
	if (raw[0] >> 4 == 4) {
		set_v4(p->saddr, words[IPV4_SADDR / 4]);
		set_v4(p->daddr, words[IPV4_DADDR / 4]);
		p->ttl = raw[IPV4_TTL];
	} else {
		__builtin_memcpy(p->saddr, words + IPV6_SADDR / 4, 16);
		__builtin_memcpy(p->daddr, words + IPV6_DADDR / 4, 16);
		p->ttl = raw[IPV6_HOP_LIMIT];
	}
	p->known = true;
}

static __always_inline void write_trigger(struct reset *r, struct packet *p)
{
	u32 *options = r->tcp + TCP_HEADER / 4;
	u32 len;

	r->ttl = 0;
	r->tcp_len = 0;
	__builtin_memcpy(r->tcp, p->tcp, TCP_HEADER);
	__builtin_memset(options, 0, sizeof(r->tcp) - TCP_HEADER);
	if (!p->known)
		return;
	len = ((u8 *)p->tcp)[TCP_DOFF] >> 4 << 2;
	if (len > sizeof(r->tcp)) /* for the verifier: 4 bits can't */
		len = sizeof(r->tcp);
	if (len <= TCP_HEADER)
		len = TCP_HEADER;
	else if (bpf_probe_read_kernel(options, len - TCP_HEADER, p->options))
		return;
	r->tcp_len = len;
	r->ttl = p->ttl;
	r->bits |= RST_TRIGGER;
}

/* A reset that TCP sends. sk may be NULL or no full socket, tp is the same, skb
 * is the packet that it answers or NULL. */
static __always_inline int reset_sent(bool direct, struct sock *sk,
				      struct tcp_sock *tp, struct sk_buff *skb,
				      u32 reason, u32 bits)
{
	struct totals *c = count_produced(RECORD_RESET);
	struct header h = {.type = RECORD_RESET};
	struct memory *m = NULL;
	struct packet p = {};
	struct net *net = NULL;
	struct audit *a;
	struct reset *r;
	u64 key = (u64)sk;
	u8 state = 0;

	if (sk) {
		state = READ(direct, sk, __sk_common.skc_state);
		net = READ(direct, sk, __sk_common.skc_net.net);
	} else {
		bits |= RST_NO_SOCKET;
		if (skb) {
			struct net_device *dev = READ(direct, skb, dev);

			net = READ(direct, dev, nd_net.net);
		}
	}
	a = audit_of(direct, c, net);
	if (a)
		__sync_fetch_and_add(&a->resets, 1);
	h.state = state;
	if (skb)
		read_packet(direct, &p, skb);
	if (p.known) {
		__builtin_memcpy(h.laddr, p.daddr, sizeof(h.laddr));
		__builtin_memcpy(h.raddr, p.saddr, sizeof(h.raddr));
		h.lport = DPORT(&p);
		h.rport = SPORT(&p);
	}
	if (!sk) {
		if (net)
			h.netns = netns_of(direct, a, net);
	} else if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV) {
		/* Not a full socket: only the common part exists. */
		h.netns = netns_of(direct, a, net);
		h.cookie = READ(direct, sk, __sk_common.skc_cookie.counter);
		h.conn = h.cookie;
	} else {
		unsigned long flags;
		u32 unread;
		u64 cookie;

		read_owner(direct, &h, sk, a);
		if (!p.known) {
			COPY_ADDRS(direct, &h, sk, __sk_common);
			read_ports(direct, &h, sk,
				   READ(direct, tp,
					inet_conn.icsk_inet.inet_sport));
		}
		cookie = READ(direct, sk, __sk_common.skc_cookie.counter);
		m = same_sock(bpf_map_lookup_elem(&socks, &key), cookie);
		if (m && m->closed != (state == TCP_CLOSE))
			m = NULL;
		if (state == TCP_CLOSE) {
			h.state = 0;
			if (m) {
				h.state = m->last_state;
				bits |= RST_CLOSED;
			}
		}
		if (state != TCP_LISTEN)
			h.cookie = cookie;
		use_memory(&h, m);
		if (state == TCP_LISTEN) {
			/* The socket is the listener: its owner is right, but
			 * the connection is another. */
			h.conn = 0;
			h.bits |= SOCK_LISTENER;
			if (READ(direct, sk, sk_ack_backlog) >
			    READ(direct, sk, sk_max_ack_backlog))
				bits |= RST_BACKLOG_FULL;
		}
		flags = READ(direct, sk, __sk_common.skc_flags);
		if (has_flag(flags, SOCK_LINGER) &&
		    !READ(direct, sk, sk_lingertime))
			bits |= RST_LINGER0;
		if (READ_FIELD(direct, sk, sk_shutdown) & RCV_SHUTDOWN)
			bits |= RST_RCV_SHUTDOWN;
		if (READ(direct, tp, linger2) < 0)
			bits |= RST_LINGER2;
		if (READ_FIELD(direct, &tp->inet_conn, icsk_probes_out))
			bits |= RST_PROBED;
		if (READ(direct, sk, sk_socket))
			bits |= RST_ATTACHED;
		/* tcp_close() has flushed the receive queue by now, but what
		 * was copied to the user still lags what was received. A FIN
		 * (tcp_fin() sets SOCK_DONE) takes one number and is no data.
		 */
		unread = READ(direct, tp, rcv_nxt) -
			 READ(direct, tp, copied_seq);
		if (unread > has_flag(flags, SOCK_DONE))
			bits |= RST_UNREAD;
	}
	/* The connection that a listener resets may be one in its handshake:
	 * user space tells. */
	if (!accept(c, &h,
		    1 << h.state |
			    (state == TCP_LISTEN ? 1 << TCP_NEW_SYN_RECV : 0)))
		return 0;
	note_cgroup(c, &h, sk);
	r = reserve(c, RECORD_RESET, sizeof(*r));
	if (!r)
		return 0;
	write_header(&r->h, &h);
	r->reason = reason;
	r->bits = bits;
	r->sk_err = 0;
	if (sk && state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV)
		r->sk_err = READ(direct, sk, sk_err);
	write_trigger(r, &p);
	submit(r);
	return 0;
}

/*
 * raw_tp on every kernel. From 6.12 the arguments of a tp_btf program are
 * trusted pointers, this tracepoint passes NULL for either, and where they
 * are not marked nullable the verifier folds the test away.
 */
SEC("raw_tp/tcp_send_reset")
int send_reset(struct bpf_raw_tracepoint_args *ctx)
{
	void *sk = (void *)ctx->args[0], *skb = (void *)ctx->args[1];
	u32 reason = 0, bits = 0;

	/* From 6.10 (5691276b39da and others) there is a reason. */
	if (bpf_core_field_exists(
		    ((struct trace_event_raw_tcp_send_reset *)0)->reason)) {
		reason = ctx->args[2];
		bits |= RST_REASON;
	}
	if (have_rdonly_cast)
		return reset_sent(
			true,
			bpf_rdonly_cast(sk,
					bpf_core_type_id_kernel(struct sock)),
			bpf_rdonly_cast(
				sk, bpf_core_type_id_kernel(struct tcp_sock)),
			bpf_rdonly_cast(
				skb, bpf_core_type_id_kernel(struct sk_buff)),
			reason, bits);
	return reset_sent(false, sk, sk, skb, reason, bits);
}

static __always_inline bool full_sock(struct sock *sk)
{
	u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

static __always_inline void *route_of(struct sk_buff *skb)
{
	return (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~SKB_DST_NOREF);
}

#define TCPOPT_MD5SIG 19

/* Whether a TCP header carries an MD5 signature (RFC 2385). Read byte by byte:
 * before 5.12 (01f810ace9ed) a stack can't be read at a variable offset. */
static __always_inline bool is_signed(unsigned char *tcp)
{
	u8 doff = 0, option[2];
	u32 len, at = 20;

	bpf_probe_read_kernel(&doff, 1, tcp + TCP_DOFF);
	len = doff >> 4 << 2;
	for (int i = 0; i < 40; i++) {
		if (at + 2 > len ||
		    bpf_probe_read_kernel(option, 2, tcp + at) ||
		    !option[0]) /* the end of the list */
			break;
		if (option[0] == TCPOPT_MD5SIG)
			return true;
		if (option[0] == 1) /* padding */
			at++;
		else if (option[1] < 2)
			break;
		else
			at += option[1];
	}
	return false;
}

/*
 * Through 6.9 (19822a980e19 changed it) tcp_v4_send_reset() and
 * tcp_v6_send_reset() call the tracepoint for full sockets alone. The others
 * are seen at the functions' entry, if they get past what would end them.
 */
static __always_inline int untraced_reset(u64 *ctx, bool ipv4)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct sk_buff *skb = (struct sk_buff *)ctx[1];
	unsigned char *tcp;
	u8 flags = 0;
	void *route;

	if (sk && full_sock(sk))
		return 0;
	tcp = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header);
	if (bpf_probe_read_kernel(&flags, 1, tcp + TCP_FLAGS) ||
	    flags & TCPHDR_RST)
		return 0;
	if (!sk) {
		route = route_of(skb);
		if (ipv4 &&
		    BPF_CORE_READ((struct rtable *)route, rt_type) != RTN_LOCAL)
			return 0;
		if (!ipv4 &&
		    !(BPF_CORE_READ((struct rt6_info *)route, rt6i_flags) &
		      RTF_LOCAL)) /* ipv6_unicast_destination() */
			return 0;
	}
	/* A signed packet is answered only if a listener has its key and the
	 * signature is right, which can't be told from here. */
	if (is_signed(tcp))
		return 0;
	return reset_sent(false, sk, (void *)sk, skb, 0, 0);
}

SEC("fentry/tcp_v4_send_reset")
int send_reset_v4(u64 *ctx)
{
	return untraced_reset(ctx, true);
}

SEC("fentry/tcp_v6_send_reset")
int send_reset_v6(u64 *ctx)
{
	return untraced_reset(ctx, false);
}

/* A reset that netfilter sends in place of the packet's receiver. */
static __always_inline int firewall_reset(struct net *net, struct sk_buff *skb,
					  u32 hook)
{
	struct totals *c = count_produced(RECORD_RESET);
	bool outgoing =
		hook == NF_INET_LOCAL_OUT || hook == NF_INET_POST_ROUTING;
	struct header h = {.type = RECORD_RESET};
	struct packet p = {};
	struct reset *r;
	struct sock *sk;

	read_packet(false, &p, skb);
	h.netns = BPF_CORE_READ(net, ns.inum);
	/* Of an outgoing packet, or of one that early demultiplexing knows. */
	sk = BPF_CORE_READ(skb, sk);
	if (sk && full_sock(sk) && PROBE_FIELD(sk, sk_protocol) == PROTO_TCP) {
		h.state = BPF_CORE_READ(sk, __sk_common.skc_state);
		h.cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
		read_owner(false, &h, sk, NULL);
		use_memory(&h, recall((u64)sk, h.cookie));
	} else {
		sk = NULL;
	}
	if (p.known && outgoing) {
		__builtin_memcpy(h.laddr, p.saddr, sizeof(h.laddr));
		__builtin_memcpy(h.raddr, p.daddr, sizeof(h.raddr));
		h.lport = SPORT(&p);
		h.rport = DPORT(&p);
	} else if (p.known) {
		__builtin_memcpy(h.laddr, p.daddr, sizeof(h.laddr));
		__builtin_memcpy(h.raddr, p.saddr, sizeof(h.raddr));
		h.lport = DPORT(&p);
		h.rport = SPORT(&p);
	}
	if (!accept(c, &h, 1 << h.state))
		return 0;
	note_cgroup(c, &h, sk);
	r = reserve(c, RECORD_RESET, sizeof(*r));
	if (!r)
		return 0;
	write_header(&r->h, &h);
	r->reason = 0;
	r->bits = RST_FIREWALL | (outgoing ? RST_OUTGOING : 0);
	r->sk_err = 0;
	write_trigger(r, &p);
	submit(r);
	return 0;
}

/* nf_send_reset() has a socket before the packet from 5.12 on (04295878beac),
 * which stable series have too. */
const volatile bool firewall_has_sk;

/* An argument of it, by its place without the socket. The barriers keep the
 * compiler from loading at a computed place, which the verifier refuses. */
static __always_inline u64 firewall_arg(u64 *ctx, int arg)
{
	u64 v;

	if (firewall_has_sk) {
		v = ctx[arg + 1];
		barrier_var(v);
	} else {
		v = ctx[arg];
		barrier_var(v);
	}
	return v;
}

/* The functions return early for packets that TCP would not answer either; the
 * rule that calls them has seen that the protocol is TCP. What they also look
 * at, and this doesn't, is the checksum. */
SEC("fentry/nf_send_reset")
int firewall_reset_v4(u64 *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)firewall_arg(ctx, 1);
	unsigned char *ip =
		BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	unsigned char *tcp =
		BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header);
	struct rtable *route = route_of(skb);
	u16 fragment = 0;
	u8 flags = 0;

	if (bpf_probe_read_kernel(&fragment, 2, ip + IPV4_FRAGMENT) ||
	    bpf_ntohs(fragment) & 0x1fff ||
	    bpf_probe_read_kernel(&flags, 1, tcp + TCP_FLAGS) ||
	    flags & TCPHDR_RST)
		return 0;
	if (route &&
	    BPF_CORE_READ(route, rt_flags) & (RTCF_BROADCAST | RTCF_MULTICAST))
		return 0;
	return firewall_reset((struct net *)ctx[0], skb, firewall_arg(ctx, 2));
}

SEC("fentry/nf_send_reset6")
int firewall_reset_v6(u64 *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)firewall_arg(ctx, 1);
	unsigned char *ip =
		BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	unsigned char *tcp =
		BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header);
	u8 saddr = 0, daddr = 0, flags = 0;

	/* Multicast, ff00::/8 */
	if (bpf_probe_read_kernel(&saddr, 1, ip + IPV6_SADDR) ||
	    bpf_probe_read_kernel(&daddr, 1, ip + IPV6_DADDR) ||
	    saddr == 0xff || daddr == 0xff ||
	    bpf_probe_read_kernel(&flags, 1, tcp + TCP_FLAGS) ||
	    flags & TCPHDR_RST)
		return 0;
	return firewall_reset((struct net *)ctx[0], skb, firewall_arg(ctx, 2));
}

/* The packet of the tcp_reset() that runs on this CPU. */
struct incoming {
	u64 sk;
	u64 skb;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct incoming);
} incoming_reset SEC(".maps");

/* tcp_reset() calls the tracepoint first of all, and has the packet, which the
 * tracepoint has not. (From 5.11, 049fe386d353; user space looks whether.) */
SEC("fentry/tcp_reset")
int reset_packet(u64 *ctx)
{
	u32 zero = 0;
	struct incoming *in = bpf_map_lookup_elem(&incoming_reset, &zero);

	if (in) {
		in->sk = ctx[0];
		in->skb = ctx[1];
	}
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int receive_reset(u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct totals *c = count_produced(RECORD_RESET);
	struct header h = {.type = RECORD_RESET};
	u32 zero = 0, bits = RST_RECEIVED;
	struct incoming *in;
	struct packet p = {};
	struct reset *r;

	in = bpf_map_lookup_elem(&incoming_reset, &zero);
	if (in && in->sk == (u64)sk && in->skb) {
		in->sk = 0;
		read_packet(false, &p, (struct sk_buff *)in->skb);
	}
	read_sock(&h, sk, audit_of(true, c, sk->__sk_common.skc_net.net));
	if (!accept(c, &h, 1 << h.state))
		return 0;
	use_memory(&h, recall((u64)sk, h.cookie));
	note_cgroup(c, &h, sk);
	/* tcp_rcv_state_process() calls tcp_reset() for data that comes after
	 * shutdown(SHUT_RD), although no reset came: user space looks whether
	 * this host sends one right away. */
	if (FIELD(sk, sk_shutdown) & RCV_SHUTDOWN)
		bits |= RST_RCV_SHUTDOWN;
	if (!p.known) {
		r = reserve(c, RECORD_RESET, RECEIVED_RESET_SIZE);
		if (!r)
			return 0;
		write_header(&r->h, &h);
		r->sk_err = sk->sk_err;
		r->bits = bits;
		r->ttl = 0;
		r->tcp_len = 0;
		submit(r);
		return 0;
	}
	r = reserve(c, RECORD_RESET, sizeof(*r));
	if (!r)
		return 0;
	write_header(&r->h, &h);
	r->sk_err = sk->sk_err;
	r->bits = bits;
	r->reason = 0;
	write_trigger(r, &p);
	submit(r);
	return 0;
}

/* -- state changes -- */

#define MAX_DEPTH 24 /* of the retransmission queue's tree: 2^12 segments */

/* The age of the oldest unacknowledged segment, in us; 0 if there is none or
 * it is not known. A segment that was sent again no longer shows when it was
 * first sent. */
static __always_inline u32 unacked_age(struct sock *sk)
{
	struct rb_node *node = sk->tcp_rtx_queue.rb_node, *left;
	struct sk_buff *skb;
	u64 sent, now;

	if (!node)
		return 0;
	for (int i = 0; i < MAX_DEPTH; i++) {
		left = BPF_CORE_READ(node, rb_left);
		if (!left)
			break;
		node = left;
	}
	skb = (void *)node - bpf_core_field_offset(struct sk_buff, rbnode);
	if (PROBE_FIELD((struct tcp_skb_cb *)((void *)skb +
					      bpf_core_field_offset(
						      struct sk_buff, cb)),
			sacked) &
	    0x82) /* TCPCB_SACKED_RETRANS, TCPCB_EVER_RETRANS */
		return SENT_AGAIN;
	sent = BPF_CORE_READ(skb, skb_mstamp_ns); /* CLOCK_MONOTONIC */
	now = bpf_ktime_get_ns();
	return sent && now > sent ? (now - sent) / 1000 : 0;
}

static __always_inline bool reset_may_follow(int state)
{
	/* tcp_need_reset(), tcp_disconnect(), and data after shutdown in
	 * tcp_rcv_state_process(). */
	return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT ||
	       state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 ||
	       state == TCP_SYN_RECV || state == TCP_CLOSING ||
	       state == TCP_LAST_ACK;
}

/* Whether current is a thread of the kernel, which works for somebody else:
 * MPTCP's subflows, the last close of a file. */
static __always_inline bool in_kernel_thread(void)
{
	struct task_struct *task;

	if (have_task_helper) {
		task = bpf_get_current_task_btf();
		return task->flags & PF_KTHREAD;
	}
	task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, flags) & PF_KTHREAD;
}

/* The process that is current, and its name, which is not its thread's. */
static __always_inline void read_current(u32 *pid, char *comm)
{
	struct task_struct *task;

	*pid = bpf_get_current_pid_tgid() >> 32;
	if (have_task_helper) {
		task = bpf_get_current_task_btf();
		task = task->group_leader;
		__builtin_memcpy(comm, task->comm, sizeof(task->comm));
		return;
	}
	task = (void *)bpf_get_current_task();
	task = BPF_CORE_READ(task, group_leader);
	bpf_probe_read_kernel(comm, sizeof(task->comm), &task->comm);
}

/* Whether current does for itself what it does. Our own iterator keeps each
 * open file for a moment, and so may be the last to let go of one. */
static __always_inline bool on_own_behalf(void)
{
	return !in_kernel_thread() &&
	       (u32)bpf_get_current_pid_tgid() != *(volatile u32 *)&looker;
}

/* connect(), listen() and close() run in a process that has the socket, and
 * lock it. Where the lock is not a process's, current is whoever was
 * interrupted, or the other end. */
static __always_inline bool user_is_current(struct sock *sk)
{
	if (!sk->sk_lock.owned)
		return false;
	/* tcp_abort(): "ss -K" works on the sockets of others. */
	if (sk->sk_err == ECONNABORTED)
		return false;
	return on_own_behalf();
}

/* Whether the socket could send data until this change. */
static __always_inline bool ends_sending(int old, int new)
{
	return (old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT) &&
	       (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK ||
		new == TCP_CLOSE);
}

/* time is that of a change that was put off, else 0. */
static __always_inline void emit_change(struct header *h, struct sock *sk,
					int old, int new, u64 time)
{
	struct totals *c = count_produced(RECORD_STATE);
	struct state_change *r;
	struct tcp_sock *tp;

	/* The tracepoint fires before the state is stored. */
	h->state = new;
	if (!accept(c, h, 1 << old | 1 << new))
		return;
	note_cgroup(c, h, sk);
	if (ends_sending(old, new)) {
		tp = bpf_skc_to_tcp_sock(sk);
		if (!tp)
			return;
		r = reserve(c, RECORD_STATE, sizeof(*r));
		if (!r)
			return;
		r->srtt = tp->srtt_us;
		r->mdev = tp->mdev_us;
		r->rto = tp->inet_conn.icsk_rto;
		r->total_retrans = tp->total_retrans;
		r->data_segs_out = tp->data_segs_out;
		r->dsack_dups = tp->dsack_dups;
	} else {
		r = reserve(c, RECORD_STATE, SHORT_CHANGE_SIZE);
		if (!r)
			return;
	}
	write_header(&r->h, h);
	if (time)
		r->h.time = time;
	r->old_state = old;
	r->new_state = new;
	r->err = 0;
	r->unacked = 0;
	if (new == TCP_CLOSE)
		r->err = sk->sk_err;
	/* tcp_close_state() comes before the FIN. */
	if (new == TCP_CLOSE || new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK)
		r->unacked = unacked_age(sk);
	submit(r);
}

/* A socket begins a life in a process, or as the child of a listener. m is what
 * stands at its address. */
static __always_inline struct memory *begin_life(struct memory *m,
						 struct sock *sk, u64 cookie,
						 int new, bool lived,
						 bool unborn)
{
	struct memory fresh = {.cookie = cookie};
	u64 key = (u64)sk;

	/* With the helper a child needs no memory: it will have the cookie of
	 * its request, as its SYN-ACK has. */
	if (new == TCP_SYN_RECV && have_cookie_helper &&
	    !(unborn && want_states))
		return NULL;
	/* A child in SYN_RECV runs in the softirq of whoever. */
	if (new != TCP_SYN_RECV && !in_kernel_thread())
		read_current(&fresh.pid, fresh.comm);
	if (!cookie && !(unborn && have_cookie_helper))
		fresh.born = spread(conn_seed ^ (u64)lives++ << 40 ^
				    bpf_ktime_get_boot_ns()) |
			     1ULL << 63;
	if (lived && new == TCP_SYN_SENT)
		fresh.life = 1 + (lives++ & 0x3fff);
	if (unborn && want_states)
		fresh.unborn = bpf_ktime_get_boot_ns();
	if (m) {
		*m = fresh;
		return m;
	}
	bpf_map_update_elem(&socks, &key, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&socks, &key);
}

/* before is the pid that was known until now. */
static __always_inline void note_closer(u64 conn, const struct closer *closer,
					u32 before)
{
	bpf_map_update_elem(&closers, &conn, closer, BPF_ANY);
	if (before)
		handed_over = bpf_ktime_get_boot_ns();
	__sync_fetch_and_add(&closers_total, 1);
}

/* A process closes a socket, or is about to find out that it was closed. */
static __always_inline struct memory *learn_closer(struct memory *m,
						   struct sock *sk, u64 cookie)
{
	struct memory fresh = {.cookie = cookie};
	struct closer closer = {};
	u64 key = (u64)sk;
	u64 conn;

	read_current(&closer.pid, closer.comm);
	if (!m || m->pid != closer.pid) {
		/* It was accepted, handed over, or there before the start. */
		struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

		conn = conn_id(cookie, m);
		if (conn && (want_states || (tp && tp->total_retrans)))
			note_closer(conn, &closer, m ? m->pid : 0);
	}
	if (m) {
		m->held = false;
		m->pid = closer.pid;
		__builtin_memcpy(m->comm, closer.comm, sizeof(m->comm));
		return m;
	}
	fresh.pid = closer.pid;
	__builtin_memcpy(fresh.comm, closer.comm, sizeof(fresh.comm));
	bpf_map_update_elem(&socks, &key, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&socks, &key);
}

#define BY_INODE (1ULL << 62) /* of a key of closers: no conn is like it */

/* Its TCP sockets, which have its inode, are closed by a kernel thread. */
static __always_inline int note_mptcp(struct sock *sk, int new)
{
	struct closer closer = {};
	u64 inode;

	if ((new != TCP_FIN_WAIT1 &&new != TCP_LAST_ACK &&new != TCP_CLOSE) ||
	    !user_is_current(sk))
		return 0;
	inode = inode_of(true, sk);
	if (!inode)
		return 0;
	read_current(&closer.pid, closer.comm);
	note_closer(BY_INODE | inode, &closer, 0);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int set_state(u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	int old = (int)ctx[1], new = (int)ctx[2];
	struct header h = {.type = RECORD_STATE};
	struct memory *m;
	u64 key = (u64)sk;
	bool unborn, held;
	u64 cookie = 0;

	/* MPTCP sends parallel changes of its own socket. */
	if (sk->sk_protocol != PROTO_TCP) {
		if (sk->sk_protocol == PROTO_MPTCP)
			note_mptcp(sk, new);
		return 0;
	}
	/* tcp_close_state() of a socket in FIN_WAIT2 "changes" to FIN_WAIT2. */
	if (old == new)
		return 0;

	/* Seen through 6.12: inet_csk_clone_lock() changes the child's state
	 * before it gives it what is its own. Until then it has the cookie of
	 * its listener, and no remote end. The change is shown with the next,
	 * which follows at once but for a Fast Open child. */
	unborn = old == TCP_LISTEN && new == TCP_SYN_RECV &&
		 !sk->__sk_common.skc_dport;
	if (!unborn)
		cookie = sk->__sk_common.skc_cookie.counter;
	h.cookie = cookie;
	if (!h.cookie && have_cookie_helper && !unborn)
		h.cookie = bpf_get_socket_cookie(sk);
	m = bpf_map_lookup_elem(&socks, &key);
	if (new == TCP_SYN_SENT || new == TCP_LISTEN ||
	    (new == TCP_SYN_RECV &&old == TCP_LISTEN)) {
		m = begin_life(m, sk, h.cookie, new, cookie, unborn);
	} else {
		m = same_life(m, h.cookie);
		if (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK ||
		    new == TCP_CLOSE) {
			if (user_is_current(sk))
				m = learn_closer(m, sk, h.cookie);
			else if (m)
				m->held = !has_flag(sk->__sk_common.skc_flags,
						    SOCK_DEAD);
		}
	}
	/* Read again, the verifier forgets what it concluded of them: the ways
	 * here become one. */
	old = ((volatile u64 *)ctx)[1];
	new = ((volatile u64 *)ctx)[2];
	if (want_states && !unborn) {
		read_sock(&h, sk,
			  audit_of(true, own_totals(),
				   sk->__sk_common.skc_net.net));
		use_memory(&h, m);
		if (m && m->unborn) {
			emit_change(&h, sk, TCP_LISTEN, TCP_SYN_RECV,
				    m->unborn);
			m->unborn = 0;
			if (have_cookie_helper) {
				m->closed = true; /* it needs none */
				m = NULL;
			}
		}
		emit_change(&h, sk, old, new, 0);
	}
	if (new == TCP_CLOSE) {
		held = !has_flag(sk->__sk_common.skc_flags, SOCK_DEAD);
		if (m) {
			m->closed = true;
			m->last_state = old;
			held = m->held;
		} else if (held || (want_resets && reset_may_follow(old))) {
			struct memory last = {
				.cookie = h.cookie,
				.closed = true,
				.last_state = old,
				.held = held,
			};

			bpf_map_update_elem(&socks, &key, &last, BPF_ANY);
		}
		if (held)
			__sync_fetch_and_add(&held_socks, 1);
	}
	return 0;
}

/* A socket that lost its connection in a softirq goes when the process that had
 * it closes it; then no state changes any more. */
SEC("tp_btf/tcp_destroy_sock")
int destroy_sock(u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct closer closer = {};
	struct memory *m;
	u64 key = (u64)sk;
	u64 conn;

	if (!*(volatile u32 *)&held_socks || !sk->sk_lock.owned)
		return 0;
	m = same_sock(bpf_map_lookup_elem(&socks, &key),
		      sk->__sk_common.skc_cookie.counter);
	if (!m || !m->held || !on_own_behalf())
		return 0;
	m->held = false;
	__sync_fetch_and_add(&held_socks, -1);
	read_current(&closer.pid, closer.comm);
	conn = conn_id(m->cookie, m);
	if (closer.pid == m->pid || !conn)
		return 0;
	note_closer(conn, &closer, m->pid);
	m->pid = closer.pid;
	__builtin_memcpy(m->comm, closer.comm, sizeof(m->comm));
	return 0;
}

/* -- who has what -- */

/* Every open file that is a TCP socket, once for each process that has it. */
SEC("iter/task_file")
int holders(u64 *ctx)
{
	struct bpf_iter_meta *meta = (struct bpf_iter_meta *)ctx[0];
	struct task_struct *task = (struct task_struct *)ctx[1];
	struct file *file = (struct file *)ctx[3];
	struct holder h = {};
	struct socket *socket;
	struct inode *inode;
	struct sock *sk;
	u32 protocol;

	if (!task || !file) /* the end */
		return 0;
	inode = file->f_inode;
	if ((inode->i_mode & S_IFMT) != S_IFSOCK)
		return 0;
	/* task_seq_get_next() leaves out most threads that share the files of
	 * their leader. */
	if (task->pid != task->tgid && task->files == task->group_leader->files)
		return 0;
	socket = file->private_data;
	sk = BPF_CORE_READ(socket, sk);
	if (!sk)
		return 0;
	protocol = PROBE_FIELD(sk, sk_protocol);
	if (protocol != PROTO_TCP && protocol != PROTO_MPTCP)
		return 0;
	if (BPF_CORE_READ(sk, __sk_common.skc_family) != AF_INET &&
	    BPF_CORE_READ(sk, __sk_common.skc_family) != AF_INET6)
		return 0;
	h.inode = inode->i_ino;
	/* An MPTCP socket's TCP sockets have its inode, and cookies of their
	 * own. */
	if (protocol == PROTO_TCP)
		h.cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	h.pid = task->tgid;
	BPF_CORE_READ_STR_INTO(&h.comm, task, group_leader, comm);
	bpf_seq_write(meta->seq, &h, sizeof(h));
	return 0;
}

/* The network namespace of every thread. */
SEC("iter/task")
int dwellers(u64 *ctx)
{
	struct bpf_iter_meta *meta = (struct bpf_iter_meta *)ctx[0];
	struct task_struct *task = (struct task_struct *)ctx[1];
	struct dweller d = {};
	struct nsproxy *ns;
	struct net *net;

	if (!task) /* the end */
		return 0;
	ns = task->nsproxy;
	if (!ns) /* it is exiting */
		return 0;
	net = ns->net_ns;
	d.net = net_key(true, net);
	d.netns = net->ns.inum;
	d.tid = task->pid;
	bpf_seq_write(meta->seq, &d, sizeof(d));
	return 0;
}

/* The namespace that settings() showed last. */
u64 settings_of;

/* The settings of every network namespace that a thread is in, some more than
 * once: each thread would show those of its own, but for what the one before
 * has shown. */
SEC("iter/task")
int settings(u64 *ctx)
{
	struct bpf_iter_meta *meta = (struct bpf_iter_meta *)ctx[0];
	struct task_struct *task = (struct task_struct *)ctx[1];
	struct netns_settings s = {};
	struct local_ports___two *two;
	struct netns_ipv4 *ipv4;
	struct nsproxy *ns;
	struct net *net;
	u64 key;

	if (!meta->seq_num)
		settings_of = 0;
	if (!task)
		return 0;
	ns = task->nsproxy;
	if (!ns)
		return 0;
	net = ns->net_ns;
	key = net_key(true, net);
	if (key == settings_of)
		return 0;
	settings_of = key;
	s.net = key;
	s.netns = net->ns.inum;
	s.somaxconn = net->core.sysctl_somaxconn;
	ipv4 = &net->ipv4;
	two = (struct local_ports___two *)&ipv4->ip_local_ports;
	if (bpf_core_field_exists(two->range)) {
		s.first_port = two->range[0];
		s.last_port = two->range[1];
	} else {
		u32 range = ipv4->ip_local_ports.range;

		s.first_port = range & 0xffff;
		s.last_port = range >> 16;
	}
#define SETTING(name)                                                          \
	s.ipv4[SETTING_##name] = -1;                                           \
	if (bpf_core_field_exists(ipv4->sysctl_##name))                        \
		s.ipv4[SETTING_##name] = FIELD(ipv4, sysctl_##name);
	IPV4_SETTINGS(SETTING)
#undef SETTING
	bpf_seq_write(meta->seq, &s, sizeof(s));
	return 0;
}

/* -- questions before the start -- */

/* Three settings in jiffies, whose /proc files give them in seconds: their
 * ratio is HZ. Run once by user space, in its own namespace; never attached. */
u32 probe_fin_timeout;
u32 probe_keepalive_time;
u32 probe_keepalive_intvl;

SEC("raw_tp/sys_enter")
int probe_hz(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct net *net = BPF_CORE_READ(task, nsproxy, net_ns);

	probe_fin_timeout = BPF_CORE_READ(net, ipv4.sysctl_tcp_fin_timeout);
	probe_keepalive_time =
		BPF_CORE_READ(net, ipv4.sysctl_tcp_keepalive_time);
	probe_keepalive_intvl =
		BPF_CORE_READ(net, ipv4.sysctl_tcp_keepalive_intvl);
	return 0;
}

/* So that bpf2go makes Go types of the records. */
const struct retransmit *unused_retransmit __attribute__((unused));
const struct reset *unused_reset __attribute__((unused));
const struct state_change *unused_state_change __attribute__((unused));
const struct holder *unused_holder __attribute__((unused));
const struct dweller *unused_dweller __attribute__((unused));
const struct netns_settings *unused_settings __attribute__((unused));
