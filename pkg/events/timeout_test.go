// SPDX-License-Identifier: Apache-2.0

package events

import (
	"testing"
	"time"
)

const ms = time.Millisecond

// The series are the kernel's own, as seen with ss and packet captures.
func TestAfterTimeout(t *testing.T) {
	syn := func(n, linear uint32) timer {
		// The n-th time-out of a SYN with tcp_syn_retries 6.
		rto, elapsed := initialRTO, time.Duration(0)
		for i := uint32(1); i <= n; i++ {
			if i > 1 && i-1 > linear {
				rto *= 2
			}
			elapsed += rto
		}
		return timer{
			state: SynSent, rto: rto, rtoMax: defaultRTOMax, retransmits: n,
			timeouts: n, limit: 6, linear: linear, elapsed: elapsed,
		}
	}
	established := func(rto time.Duration, n uint32, elapsed time.Duration) timer {
		return timer{
			state: Established, rto: rto, rtoMax: defaultRTOMax, retransmits: n,
			retries2: 15, elapsed: elapsed,
		}
	}
	for _, tt := range []struct {
		name          string
		timer         timer
		next, givesUp time.Duration
	}{
		// 1, 3, 7, 15, 31, 63 and the end at 127 s.
		{"syn, first", syn(1, 0), 2 * time.Second, 126 * time.Second},
		{"syn, last", syn(6, 0), 64 * time.Second, 64 * time.Second},
		// 1, 2, 3, 4, 5, 7, 11, 19, 35, 67 and the end at 131 s.
		{"syn, first of four linear", syn(1, 4), time.Second, 130 * time.Second},
		{"syn, fourth", syn(4, 4), time.Second, 127 * time.Second},
		{"syn, fifth backs off", syn(5, 4), 2 * time.Second, 126 * time.Second},
		{"syn, last with linear", syn(10, 4), 64 * time.Second, 64 * time.Second},
		// model(15) is 924.6 s from the first retransmission; with an RTO of
		// 200 ms the expiries after it come at 0.4, 1.2, 2.8, ... 204.4 s, then
		// each 120 s: 324.4 ... 924.4, 1044.4.
		{"tcp_retries2", established(200*ms, 1, 0), 400 * ms, 1044400 * ms},
		{"tcp_retries2, half way", established(102400*ms, 10, 204400*ms-102400*ms+200*ms),
			120 * time.Second, 840 * time.Second},
		{"thin", timer{state: Established, rto: 220 * ms, rtoMax: defaultRTOMax, thinRTO: 201 * ms,
			retransmits: 1, retries2: 3}, 201 * ms,
			6*201*ms + 402*ms + 804*ms + 1608*ms},
		// TCP_USER_TIMEOUT 1000 ms: 200 + 400 + 408 after the first at 204 ms.
		{"user timeout", timer{state: Established, rto: 204 * ms, rtoMax: defaultRTOMax,
			retransmits: 1, retries2: 15, userTimeout: time.Second}, 408 * ms, 1000 * ms},
		{"user timeout, clamped", timer{state: Established, rto: 408 * ms, rtoMax: defaultRTOMax,
			retransmits: 2, retries2: 15, userTimeout: time.Second, elapsed: 408 * ms}, 592 * ms, 592 * ms},
		// A full queue of this host: again after 500 ms, with the same RTO, and
		// if that goes out the backoff goes on from there.
		{"dropped here", timer{state: Established, rto: 200 * ms, rtoMax: defaultRTOMax, retransmits: 1,
			retries2: 2, dropped: true}, 500 * ms, 1700 * ms},
		// tcp_orphan_retries 0 is 8 while the RTO has not reached its maximum:
		// model(8) is 102.2 s, and the expiry at 102.0 s just misses it.
		{"orphan", timer{state: FinWait1, orphan: true, rto: 200 * ms, rtoMax: defaultRTOMax,
			retransmits: 1}, 400 * ms, 204400 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next, givesUp := tt.timer.afterTimeout()
			if next != tt.next || givesUp != tt.givesUp {
				t.Errorf("next %v, gives up after %v; want %v, %v", next, givesUp, tt.next, tt.givesUp)
			}
		})
	}
}

func TestModelTimeout(t *testing.T) {
	for boundary, want := range map[uint32]time.Duration{
		0: 200 * ms, 3: 3 * time.Second, 8: 102200 * ms, 15: 924600 * ms,
	} {
		if got := modelTimeout(boundary, rtoBase, defaultRTOMax); got != want {
			t.Errorf("model(%d) = %v, want %v", boundary, got, want)
		}
	}
}

func TestAfterSYNACK(t *testing.T) {
	// Sends at 1, 3, 7, 15, 31 s and dies at 63 s.
	for _, tt := range []struct {
		n                  uint32
		byTimer            bool
		rto, next, givesUp time.Duration
	}{
		{0, true, time.Second, 2 * time.Second, 62 * time.Second},
		{4, true, 16 * time.Second, 32 * time.Second, 32 * time.Second},
		{0, false, time.Second, time.Second, 63 * time.Second},
		{2, false, 4 * time.Second, 4 * time.Second, 60 * time.Second},
	} {
		tm := timer{retransmits: tt.n, limit: 5, rtoMax: defaultRTOMax}
		rto, next, givesUp := tm.afterSYNACK(initialRTO, tt.byTimer)
		if rto != tt.rto || next != tt.next || givesUp != tt.givesUp {
			t.Errorf("num_timeout %d, by timer %v: %v, %v, %v; want %v, %v, %v",
				tt.n, tt.byTimer, rto, next, givesUp, tt.rto, tt.next, tt.givesUp)
		}
	}
}
