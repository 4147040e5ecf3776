// SPDX-License-Identifier: Apache-2.0

package events

import (
	"math/bits"
	"time"
)

const (
	initialRTO    = time.Second            // TCP_TIMEOUT_INIT
	rtoBase       = 200 * time.Millisecond // TCP_RTO_MIN: constant, whatever rto_min is set to
	defaultRTOMax = 120 * time.Second      // TCP_RTO_MAX, before tcp_rto_max_ms
	maxExpiries   = 512                    // bounds the loops; limits are bytes
	thinRetries   = 6                      // TCP_THIN_LINEAR_RETRIES
	resourceProbe = 500 * time.Millisecond // TCP_RESOURCE_PROBE_INTERVAL
)

// timer replays net/ipv4/tcp_timer.c from a retransmission on.
type timer struct {
	state         State
	orphan        bool
	softError     bool
	dropped       bool          // by a queueing discipline of this host
	rto           time.Duration // in force when the timer ran out
	rtoMax        time.Duration
	thinRTO       time.Duration // linear time-outs of a thin stream; 0: none
	retransmits   uint32        // icsk_retransmits, this one included
	timeouts      uint32        // total_rto, this one included
	limit         uint32        // SYN and SYN-ACK: retries
	linear        uint32        // tcp_syn_linear_timeouts
	retries2      uint32
	orphanRetries uint32
	userTimeout   time.Duration // 0: not set
	elapsed       time.Duration // since the first retransmission (of a SYN: since the first SYN)
}

// backoff is the end of tcp_retransmit_timer(): the next RTO, before the clamp.
func (t *timer) backoff() time.Duration {
	switch {
	case t.thinRTO > 0 && t.retransmits <= thinRetries:
		return t.thinRTO
	case t.state == SynSent && t.timeouts <= t.linear:
		return t.rto
	}
	return min(2*t.rto, t.rtoMax)
}

// clamp is tcp_clamp_rto_to_user_timeout().
func (t *timer) clamp(rto time.Duration) time.Duration {
	if t.userTimeout == 0 {
		return rto
	}
	return min(rto, max(t.userTimeout-t.elapsed, time.Millisecond))
}

// modelTimeout is tcp_model_timeout(): how long boundary exponential backoffs
// from base last.
func modelTimeout(boundary uint32, base, rtoMax time.Duration) time.Duration {
	thresh := uint32(max(bits.Len64(uint64(rtoMax/base)), 1) - 1) // ilog2
	if boundary <= thresh {
		return (2<<boundary - 1) * base
	}
	return (2<<thresh-1)*base + time.Duration(boundary-thresh)*rtoMax
}

// expired is tcp_write_timeout(), at the moment at which t.rto runs out.
func (t *timer) expired() bool {
	retries, base := t.retries2, rtoBase
	switch {
	case t.state == SynSent || t.state == SynRecv:
		limit := t.limit
		if t.state == SynSent {
			limit += t.linear
		}
		if t.retransmits >= limit {
			return true
		}
		retries, base = t.limit, initialRTO
	case t.orphan:
		alive := t.rto < t.rtoMax
		retries = t.orphanRetries
		if t.softError && !alive {
			retries = 0
		}
		if retries == 0 && alive {
			retries = 8 // tcp_orphan_retries()
		}
	}
	limit := t.userTimeout
	if limit == 0 {
		limit = modelTimeout(retries, base, t.rtoMax)
	}
	return t.elapsed >= limit
}

// afterTimeout returns when the timer that has just run out will run out next,
// and after how long the kernel gives the connection up, if nothing is heard
// from the peer until then.
func (t timer) afterTimeout() (next, givesUp time.Duration) {
	for range maxExpiries {
		var wait time.Duration
		if t.dropped { // local congestion: soon again, no backoff
			wait = min(resourceProbe, t.rtoMax)
			t.dropped = false
		} else {
			t.rto = t.backoff()
			wait = t.clamp(t.rto)
		}
		if next == 0 {
			next = wait
		}
		givesUp += wait
		t.elapsed += wait
		if t.expired() {
			break
		}
		t.retransmits++
		t.timeouts++
	}
	return next, givesUp
}

// afterSYNACK does the same for a SYN-ACK (reqsk_timer_handler()), whose first
// time-out is first. t.retransmits is num_timeout before this retransmission.
func (t timer) afterSYNACK(first time.Duration, byTimer bool) (rto, next, givesUp time.Duration) {
	at := func(n uint32) time.Duration { // tcp_reqsk_timeout()
		return min(first<<min(n, 20), t.rtoMax)
	}
	n := t.retransmits
	rto = at(n)
	if byTimer {
		n++
	}
	next = at(n)
	givesUp = next
	for ; n < t.limit; n++ {
		givesUp += at(n + 1)
	}
	return rto, next, givesUp
}
