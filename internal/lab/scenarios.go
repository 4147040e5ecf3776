// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"time"
)

// Scenarios lists everything that can go wrong in one namespace, with moderate parameters.
func Scenarios() []Scenario {
	return []Scenario{
		{"refused", "connecting to a port where nobody listens", true, Refused},
		{"syn-blackhole", "SYNs that nobody answers", true, func(ctx context.Context, p Place) (*Facts, error) {
			return SYNBlackhole(ctx, p, SYNBlackholeOptions{Linear: 4, Retries: 2})
		}},
		{"lost-synack", "a SYN and then a SYN-ACK that get lost", true, LostSYNACK},
		{"stalled", "an established connection that meets silence, and recovers", true,
			func(ctx context.Context, p Place) (*Facts, error) { return Stalled(ctx, p, 3) }},
		{"tail-loss", "the last segment of a burst gets lost", true,
			func(ctx context.Context, p Place) (*Facts, error) { return TailLoss(ctx, p, 1) }},
		{"lossy", "a bulk transfer over a path that loses segments", true,
			func(ctx context.Context, p Place) (*Facts, error) {
				return Lossy(ctx, p, LossyOptions{Bytes: 1 << 20, Loss: 0.02, SegmentSize: 1400})
			}},
		{"linger0", "a close that is a reset (SO_LINGER 0)", true, Linger0},
		{"unread-data", "closing a socket that has unread data", true, UnreadData},

		{"syn-timeout", "a connect that times out", false, func(ctx context.Context, p Place) (*Facts, error) {
			return SYNBlackhole(ctx, p, SYNBlackholeOptions{Retries: 1, GiveUp: true})
		}},
		{"impatient-connect", "an application that gives up a connect before the kernel tries again", false, ImpatientConnect},
		{"raced-connect", "two connects at once, of which the slower one is given up", false, RacedConnect},
		{"lost-ack", "the last step of a handshake gets lost", false, LostACK},
		{"repeated-syn", "a SYN that comes twice", false, RepeatedSYN},
		{"bunches", "the same lossy transfer with segmentation offload", false,
			func(ctx context.Context, p Place) (*Facts, error) {
				return Lossy(ctx, p, LossyOptions{Bytes: 16 << 20, Loss: 0.05, SegmentSize: 1400, Bunches: true})
			}},
		{"fast-retransmit", "one segment among others gets lost", false, FastRetransmit},
		{"tail-loss-2", "the last two segments of a burst get lost", false,
			func(ctx context.Context, p Place) (*Facts, error) { return TailLoss(ctx, p, 2) }},
		{"shrunk-window", "a receiver that takes its window back", false, ShrunkWindow},
		{"zero-window", "a receiver that does not read for a while", false, ZeroWindow},
		{"window-stuck", "a receiver that does not read, and then falls silent", false, WindowStuck},
		{"fastopen-refused", "data in a SYN that the server ignores", false, FastOpenRefused},
		{"orphan-fin", "a FIN that nobody acknowledges", false, OrphanFIN},
		{"user-timeout", "a sender that gives up early (TCP_USER_TIMEOUT)", false, UserTimeout},
		{"keepalive", "a peer that answers no keepalive", false, Keepalive},
		{"disconnect", "an abort by connect(AF_UNSPEC)", false, Disconnect},
		{"linger2", "a close that does not wait for the peer's FIN (TCP_LINGER2 -1)", false, Linger2},
		{"listener-closed", "a server that exits with connections it never accepted", false, ListenerClosed},
		{"overflow", "an accept queue that is full (tcp_abort_on_overflow)", false, Overflow},
		{"half-open", "a server that restarted and forgot its connections", false, HalfOpen},
		{"half-open-gone", "a server that went away and forgot its connections", false, HalfOpenGone},
		{"data-after-shutdown", "data for a socket that was shut down", false, DataAfterShutdown},
		{"data-after-close", "data for a socket that was closed", false, DataAfterClose},
		{"time-wait", "data for a connection in TIME_WAIT", false, TimeWait},
		{"time-wait-reuse", "a port used again while the server is in TIME_WAIT", false, TimeWaitReuse},
		{"time-wait-stuck", "the same with the client's reset getting lost", false, TimeWaitStuck},
		{"syn-in-fin-wait2", "a port used again while the server waits for the last connection's FIN", false, SYNInFinWait2},
		{"ports-exhausted", "no local port left to connect from", false, PortsExhausted},
		{"port-in-time-wait", "the only local port is in TIME_WAIT", false,
			func(ctx context.Context, p Place) (*Facts, error) { return PortInTimeWait(ctx, p, false) }},
		{"port-reuse", "the same, until it may be used again (tcp_tw_reuse)", false,
			func(ctx context.Context, p Place) (*Facts, error) { return PortInTimeWait(ctx, p, true) }},
		{"mptcp", "a Multipath TCP connection, without trouble", false, MPTCP},
		{"given-up", "a peer that vanishes, until the kernel gives up", false,
			func(ctx context.Context, p Place) (*Facts, error) { return GivenUp(ctx, p, 2) }},
		{"rto-floor", "a lost segment that costs 200 ms on a path of microseconds", false,
			func(ctx context.Context, p Place) (*Facts, error) { return Stalled(ctx, p, 0) }},
		{"read-timeout", "a read time-out shorter than one retransmission", false,
			func(ctx context.Context, p Place) (*Facts, error) {
				return ReadTimeout(ctx, p, ReadTimeoutOptions{Wait: 100 * time.Millisecond})
			}},
		{"read-timeout-probe", "the same after a tail loss probe that got lost, too", false,
			func(ctx context.Context, p Place) (*Facts, error) {
				return ReadTimeout(ctx, p, ReadTimeoutOptions{Probe: true})
			}},
		{"read-timeout-rto", "the same after a first retransmission that got lost, too", false,
			func(ctx context.Context, p Place) (*Facts, error) {
				return ReadTimeout(ctx, p, ReadTimeoutOptions{RTO: true})
			}},
		{"synack-unanswered", "SYN-ACKs that get no answer for a while", false,
			func(ctx context.Context, p Place) (*Facts, error) {
				return SYNACKUnanswered(ctx, p, SYNACKUnansweredOptions{Retries: 2})
			}},
		{"synack-given-up", "SYN-ACKs to a client that is gone", false,
			func(ctx context.Context, p Place) (*Facts, error) {
				return SYNACKUnanswered(ctx, p, SYNACKUnansweredOptions{Retries: 2, GiveUp: true})
			}},
		{"accept-queue-full", "an application that accepts too slowly", false,
			func(ctx context.Context, p Place) (*Facts, error) {
				return AcceptQueueFull(ctx, p, AcceptQueueFullOptions{Clients: 3})
			}},
		{"accept-queue-stuck", "an application that accepts too late", false,
			func(ctx context.Context, p Place) (*Facts, error) {
				return AcceptQueueFull(ctx, p, AcceptQueueFullOptions{Clients: 3, GiveUp: true})
			}},
		{"clean", "a connection without trouble", false, Clean},
	}
}
