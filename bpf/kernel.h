/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The kernel's structures, reduced to the fields that tcptrace reads. CO-RE
 * relocates every access, so order and gaps mean nothing here; names and
 * types do. A suffix behind three underscores is a flavour: the same kernel
 * structure with fields that only some releases have.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* libbpf's headers want these names. */
typedef u8 __u8;
typedef u16 __u16, __be16;
typedef u32 __u32, __be32, __wsum;
typedef s32 __s32;
typedef u64 __u64;
typedef s64 __s64;

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

/* include/uapi/linux/bpf.h */
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_ANY 0
#define BPF_NOEXIST 1
#define BPF_RB_NO_WAKEUP 1
#define BPF_RB_FORCE_WAKEUP 2
#define BPF_RB_AVAIL_DATA 0

#define SKB_DST_NOREF 1UL	  /* include/linux/skbuff.h */
#define RTN_LOCAL 2		  /* include/uapi/linux/rtnetlink.h */
#define RTCF_BROADCAST 0x10000000 /* include/uapi/linux/in_route.h */
#define RTCF_MULTICAST 0x20000000 /* the same */
#define RTF_LOCAL 0x80000000	  /* include/uapi/linux/ipv6_route.h */
#define NF_INET_LOCAL_OUT 3	  /* include/uapi/linux/netfilter.h */
#define NF_INET_POST_ROUTING 4

struct bpf_raw_tracepoint_args {
	u64 args[0];
};

#define AF_INET 2
#define AF_INET6 10
#define PROTO_TCP 6 /* IPPROTO_TCP */
#define PROTO_MPTCP 262
#define PF_KTHREAD 0x200000 /* include/linux/sched.h */
#define RCV_SHUTDOWN 1	    /* include/net/sock.h */
#define ECONNABORTED 103    /* include/uapi/asm-generic/errno.h, and others */
#define EHOSTUNREACH 113
#define EBUSY 16
#define EAGAIN 11
#define ENOMEM 12
#define S_IFMT 0170000 /* include/uapi/linux/stat.h */
#define S_IFSOCK 0140000

/*
 * FIELD reads an integer of whatever width and signedness the running kernel
 * gives it, bit-fields included: tcp_skb_cb.tcp_flags was u8 through 6.14 and
 * u16 after, many TCP sysctls were int before 5.13 (4ecc1baf362c and others)
 * and are u8 since, icsk_ca_state is a bit-field. Loaders don't adjust the
 * width of a plain load.
 */
#define FIELD(ptr, field) BPF_CORE_READ_BITFIELD(ptr, field)

/* The same through bpf_probe_read_kernel, for pointers the verifier does not
 * know. */
#define PROBE_FIELD(ptr, field) BPF_CORE_READ_BITFIELD_PROBED(ptr, field)

/* From 6.2 (a35b9af4ec2c): gives an address a type, so that it can be followed
 * directly. A load through it that faults reads 0. */
extern void *bpf_rdonly_cast(void *obj, u32 btf_id) __ksym __weak;

#pragma clang attribute push(__attribute__((preserve_access_index)),           \
			     apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct local_ports {
	u32 range; /* 6.12 and newer: the last in the upper half */
};

struct local_ports___two {
	int range[2]; /* before */
};

struct netns_ipv4 {
	struct local_ports ip_local_ports;
	u8 sysctl_tcp_syn_retries;
	u8 sysctl_tcp_synack_retries;
	u8 sysctl_tcp_syn_linear_timeouts; /* from 6.5, ccce324dabfe */
	u8 sysctl_tcp_retries1;
	u8 sysctl_tcp_retries2;
	u8 sysctl_tcp_orphan_retries;
	u8 sysctl_tcp_thin_linear_timeouts;
	u8 sysctl_tcp_keepalive_probes;
	u8 sysctl_tcp_tw_reuse;
	u8 sysctl_tcp_timestamps;
	u8 sysctl_tcp_rfc1337;
	u8 sysctl_tcp_sack;
	u8 sysctl_tcp_syncookies;
	u8 sysctl_tcp_abort_on_overflow;
	u8 sysctl_tcp_early_retrans;
	u8 sysctl_tcp_recovery;
	u8 sysctl_tcp_mtu_probing;
	int sysctl_tcp_fastopen;
	int sysctl_max_syn_backlog;
	u32 sysctl_tcp_tw_reuse_delay; /* not in 6.12 */
	int sysctl_tcp_rto_min_us;     /* not in 6.1 */
	int sysctl_tcp_rto_max_ms;     /* not in 6.12 */
	int sysctl_tcp_fin_timeout;
	int sysctl_tcp_keepalive_time;
	int sysctl_tcp_keepalive_intvl;
};

struct netns_core {
	int sysctl_somaxconn;
};

struct net {
	struct ns_common ns;
	u32 hash_mix;	/* a random number */
	u64 net_cookie; /* from 5.12, 3d368ab87cf6 */
	struct netns_core core;
	struct netns_ipv4 ipv4;
};

struct nsproxy {
	struct net *net_ns;
};

struct files_struct {
};

struct task_struct {
	unsigned int flags;
	s32 pid;  /* of the thread, in the first namespace */
	s32 tgid; /* of the process */
	struct files_struct *files;
	struct task_struct *group_leader;
	struct nsproxy *nsproxy;
	char comm[16];
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		u32 u6_addr32[4];
	} in6_u;
};

typedef struct {
	s64 counter;
} atomic64_t;

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	u32 val;
} kuid_t;

struct sock_common {
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport;
	u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	unsigned long skc_flags;
};

struct kernfs_node {
	struct kernfs_node *parent; /* through 6.14 */
	const char *name;
	u64 id;
};

struct kernfs_node___rcu {
	struct kernfs_node *__parent; /* from 6.15, 633488947ef6 */
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup; /* a pointer since 5.15, 8520e224f547 */
};

struct sock_cgroup_data___bits {
	u64 val; /* before: a pointer, unless one of the two lowest bits is set
		  */
};

struct inode {
	u16 i_mode;
	unsigned long i_ino;
};

struct socket {
	struct sock *sk;
};

struct file {
	struct inode *f_inode;
	void *private_data;
};

struct seq_file {
};

struct bpf_iter_meta {
	struct seq_file *seq;
	u64 seq_num; /* 0 of the first that the iterator shows */
};

struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
};

struct rb_node {
	struct rb_node *rb_left;
};

struct rb_root {
	struct rb_node *rb_node;
};

struct timer_list {
	unsigned long expires;
};

typedef struct {
	int owned; /* by a process, lock_sock() */
} socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	struct socket *sk_socket;
	kuid_t sk_uid;
	u16 sk_protocol;
	u8 sk_shutdown;
	int sk_err;
	int sk_err_soft;
	u32 sk_ack_backlog;
	u32 sk_max_ack_backlog;
	unsigned long sk_lingertime;
	struct sock_cgroup_data sk_cgrp_data;
	struct rb_root tcp_rtx_queue;
};

struct sock___timer {
	struct timer_list tcp_retransmit_timer; /* from 6.19 */
};

struct sock___ino {
	unsigned long sk_ino; /* 6.18, 5d6b58c932ec */
};

struct request_sock_queue {
	atomic_t qlen;
	atomic_t young;
};

struct inet_sock {
	struct sock sk;
	u16 inet_sport;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue;
	u32 icsk_rto;
	u32 icsk_rto_min; /* not in every 5.10 */
	u32 icsk_rto_max; /* from 6.15 */
	u8 icsk_ca_state : 5;
	u8 icsk_retransmits;
	u8 icsk_pending;
	u8 icsk_backoff;
	u8 icsk_syn_retries;
	u8 icsk_probes_out;
	u32 icsk_user_timeout; /* ms */
};

struct inet_connection_sock___timeout {
	unsigned long icsk_timeout; /* through 6.14 */
};

struct inet_connection_sock___timer {
	struct timer_list icsk_retransmit_timer; /* 6.15 to 6.18 */
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u32 snd_una;
	u32 snd_nxt;
	u32 snd_wnd;
	u32 rcv_nxt;
	u32 copied_seq;
	u32 snd_cwnd;
	u32 snd_ssthresh;
	u32 packets_out;
	u32 srtt_us;   /* << 3 */
	u32 mdev_us;   /* << 2 */
	u32 rttvar_us; /* << 2 */
	u32 undo_marker;
	u32 retrans_stamp; /* ms, or us with tcp_usec_ts; low 32 bits */
	u64 tcp_mstamp;	   /* us, CLOCK_MONOTONIC */
	u64 bytes_acked;
	u32 total_retrans;
	u32 data_segs_out;
	u32 dsack_dups;
	int linger2;
	u16 total_rto; /* from 6.7, 3868ab0f1925 */
	u8 syn_data : 1;
	u8 syn_data_acked : 1;
	u8 thin_lto : 1;
	u8 tcp_usec_ts : 1; /* from 6.7, 614e8316aa4c */
};

struct request_sock {
	struct sock_common __req_common;
	u8 num_retrans;
	u8 num_timeout : 7;
	struct timer_list rsk_timer;
	u32 timeout; /* jiffies; from 5.16, 5903123f662e */
};

struct tcp_request_sock {
	u32 snt_isn;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned long _skb_refdst;
	struct rb_node rbnode;
	u64 skb_mstamp_ns;
	char cb[48];
	unsigned int len;
	u16 transport_header;
	u16 network_header;
	unsigned char *head;
};

struct net_device {
	possible_net_t nd_net;
};

struct rtable {
	unsigned int rt_flags;
	u16 rt_type;
};

struct rt6_info {
	u32 rt6i_flags;
};

struct tcp_skb_cb {
	u32 seq;
	u32 end_seq;
	u16 tcp_gso_segs;
	u16 tcp_flags;
	u8 sacked;
};

enum sk_rst_reason {
	SK_RST_REASON_NOT_SPECIFIED,
};

/* What the tracepoints record tells what they pass. */
struct trace_event_raw_tcp_retransmit_skb {
	int err;
};

struct trace_event_raw_tcp_send_reset {
	enum sk_rst_reason reason;
};

#pragma clang attribute pop

enum sock_flags {
	SOCK_DEAD,
	SOCK_DONE,
	SOCK_KEEPOPEN = 3,
	SOCK_LINGER,
};

enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV,
};
