//go:build ignore
// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The least that a tracer of these tracepoints can do: a record of the size
 * that tcptrace needs, with the time in it, and no wake-up of the reader.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Constant before load: the sizes of tcptrace's records. */
const volatile u32 state_size;
const volatile u32 retransmit_size;
const volatile u32 sent_size;
const volatile u32 received_size;

u64 lost; /* records that found no room */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 20);
} records SEC(".maps");

static __always_inline int store(u64 size)
{
	u64 *r = bpf_ringbuf_reserve(&records, size, 0);

	if (!r) {
		__sync_fetch_and_add(&lost, 1);
		return 0;
	}
	*r = bpf_ktime_get_boot_ns();
	bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int set_state(u64 *ctx)
{
	return store(state_size);
}

SEC("tp_btf/tcp_retransmit_skb")
int retransmit_skb(u64 *ctx)
{
	return store(retransmit_size);
}

SEC("tp_btf/tcp_retransmit_synack")
int retransmit_synack(u64 *ctx)
{
	return store(retransmit_size);
}

SEC("raw_tp/tcp_send_reset")
int send_reset(u64 *ctx)
{
	return store(sent_size);
}

SEC("tp_btf/tcp_receive_reset")
int receive_reset(u64 *ctx)
{
	return store(received_size);
}
