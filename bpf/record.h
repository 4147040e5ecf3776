/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The records of the ring buffer. pkg/events decodes them by offset; a test
 * compares every offset with the Go types that bpf2go makes of these.
 * Every field is naturally aligned and there is no padding, so assigning
 * each field initialises each byte.
 */
#pragma once

#include "kernel.h"

enum record_type {
	RECORD_RETRANSMIT = 1,
	RECORD_RESET,
	RECORD_STATE,
	RECORD_TYPES,
};

enum header_bits {
	SOCK_KNOWN = 1 << 0, /* uid and the orphan bit mean something */
	SOCK_ORPHAN = 1 << 1,
	SOCK_LISTENER =
		1 << 2, /* inode is the listener's: it owns the request */
};

/* Of every record: the connection and its socket. Zero is "unknown", except
 * for uid. */
struct header {
	u64 time; /* CLOCK_BOOTTIME, ns */
	u64 conn; /* same socket, same life */
	u64 cookie;
	u64 inode;
	u64 cgroup;
	u32 laddr[4]; /* network order; IPv4 as ::ffff:a.b.c.d */
	u32 raddr[4];
	u16 lport; /* host order */
	u16 rport;
	u32 netns; /* inode number */
	u32 uid;
	u32 pid;
	u32 lost; /* records of any type that had been lost by then */
	u8 type;  /* enum record_type */
	u8 state;
	u8 bits; /* enum header_bits */
	u8 pad;
	char comm[16];
};

enum retransmit_bits {
	RTX_REQUEST = 1 << 0,	    /* a request socket's SYN-ACK */
	RTX_TIMER_EXPIRED = 1 << 1, /* the timer that was pending has run out */
	RTX_THIN_LINEAR = 1 << 2,   /* thin stream with linear time-outs */
	RTX_TFO_DATA = 1 << 3,	    /* the SYN's data was not acknowledged */
	RTX_UNDO = 1 << 4,	    /* undo_marker is set */
	RTX_SOFT_ERROR = 1 << 5,    /* sk_err_soft is set */
};

struct retransmit {
	struct header h;
	u32 seq;
	u32 end_seq;
	u32 len;
	u32 segs;
	u32 rto;      /* jiffies */
	u32 rto_min;  /* jiffies, 0 unknown */
	u32 rto_max;  /* jiffies, 0 unknown */
	u32 srtt;     /* us << 3, 0 unknown */
	u32 mdev;     /* us << 2 */
	u32 rttvar;   /* us << 2, what the RTO is computed with */
	u32 cwnd;     /* of a request: its listener's accept queue */
	u32 ssthresh; /* of a request: how long that may be */
	u32 total_retrans;
	u32 data_segs_out;
	u32 dsack_dups;
	u32 snd_wnd;
	u32 user_timeout; /* ms */
	u32 elapsed;	  /* ms since retrans_stamp; 0 where that is 0 */
	s32 err;
	u16 tcp_flags;
	u16 bits;     /* enum retransmit_bits */
	u16 timeouts; /* that count for tcp_syn_linear_timeouts */
	u8 pending;
	u8 ca_state;
	u8 retransmits; /* of a request: num_timeout */
	u8 backoff;	/* of a request: num_retrans */
	u8 sacked;
	u8 syn_retries; /* SYN, SYN-ACK: the limit in force */
	u8 linear_timeouts;
	u8 retries2;
	u8 orphan_retries;
	u8 pad;
	u32 pad2;
};

enum reset_bits {
	RST_RECEIVED = 1 << 0,
	RST_TRIGGER = 1 << 1, /* answers a packet, or is one that came: ttl and
				 tcp are set */
	RST_NO_SOCKET = 1 << 2,
	RST_REASON = 1 << 3,	   /* the kernel gives reasons */
	RST_UNREAD = 1 << 4,	   /* the receive queue held data */
	RST_LINGER0 = 1 << 5,	   /* SO_LINGER with a time of 0 */
	RST_RCV_SHUTDOWN = 1 << 6, /* the socket no longer receives */
	RST_ATTACHED = 1 << 7,	   /* a process holds the socket */
	RST_BACKLOG_FULL = 1 << 8, /* a listener's accept queue is full */
	RST_CLOSED = 1 << 9, /* was closed just before; state is from memory */
	RST_LINGER2 = 1 << 10,	/* TCP_LINGER2 is below 0 */
	RST_FIREWALL = 1 << 11, /* made by netfilter, not by TCP */
	RST_OUTGOING = 1 << 12, /* answers a packet of this host */
	RST_PROBED = 1 << 13,	/* the peer owes answers to keepalive probes */
};

/* Without a packet a received reset's record ends before the reason. */
struct reset {
	struct header h;
	s32 sk_err;
	u16 bits; /* enum reset_bits */
	u8 ttl;
	u8 tcp_len;
	u32 reason;
	u32 tcp[15]; /* the packet's TCP header, with options: 60 bytes */
};

#define RECEIVED_RESET_SIZE __builtin_offsetof(struct reset, reason)

#define SENT_AGAIN ~0U /* unacked of a segment that was */

/* What is behind unacked is known where a connection stops sending: the other
 * records end there. */
struct state_change {
	struct header h;
	u8 old_state;
	u8 new_state;
	u16 err;     /* sk_err, at CLOSE */
	u32 unacked; /* us, 0 unknown; at CLOSE, FIN_WAIT1 and LAST_ACK */
	u32 srtt;    /* us << 3, 0 unknown */
	u32 mdev;    /* us << 2 */
	u32 rto;     /* jiffies */
	u32 total_retrans;
	u32 data_segs_out;
	u32 dsack_dups;
};

#define SHORT_CHANGE_SIZE __builtin_offsetof(struct state_change, srtt)

/* What the iterators over tasks print. */

/* An open file of a process that is a TCP socket. */
struct holder {
	u64 inode;
	u64 cookie; /* 0 unless something asked for one */
	u32 pid;
	u32 pad;
	char comm[16];
};

/* A thread and its network namespace. */
struct dweller {
	u64 net; /* the key of audits */
	u32 netns;
	u32 tid;
};

/* The settings of TCP that settings() shows, as fields of struct net
 * behind "sysctl_". internal/live has their names and units in this order. */
#define IPV4_SETTINGS(X)                                                       \
	X(tcp_syn_retries)                                                     \
	X(tcp_synack_retries)                                                  \
	X(tcp_syn_linear_timeouts)                                             \
	X(tcp_retries1)                                                        \
	X(tcp_retries2)                                                        \
	X(tcp_orphan_retries)                                                  \
	X(tcp_thin_linear_timeouts)                                            \
	X(tcp_keepalive_probes)                                                \
	X(tcp_keepalive_time)                                                  \
	X(tcp_keepalive_intvl)                                                 \
	X(tcp_fin_timeout)                                                     \
	X(tcp_tw_reuse)                                                        \
	X(tcp_tw_reuse_delay)                                                  \
	X(tcp_timestamps)                                                      \
	X(tcp_rfc1337)                                                         \
	X(tcp_sack)                                                            \
	X(tcp_syncookies)                                                      \
	X(tcp_abort_on_overflow)                                               \
	X(tcp_early_retrans)                                                   \
	X(tcp_recovery)                                                        \
	X(tcp_mtu_probing)                                                     \
	X(tcp_fastopen)                                                        \
	X(tcp_rto_min_us)                                                      \
	X(tcp_rto_max_ms)                                                      \
	X(max_syn_backlog)

#define NUMBER(name) SETTING_##name,
enum setting { IPV4_SETTINGS(NUMBER) SETTINGS };
#undef NUMBER

/* A network namespace and its settings; -1 of those that the kernel lacks. */
struct netns_settings {
	u64 net; /* the key of audits */
	u32 netns;
	s32 somaxconn;
	s32 first_port; /* ip_local_port_range */
	s32 last_port;
	s32 ipv4[SETTINGS]; /* by enum setting */
	s32 pad;
};
