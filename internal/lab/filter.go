// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// A Filter is a classic BPF program that a TCP socket runs on every segment it receives, before TCP looks at it. A
// segment that the filter drops is lost as if the network had lost it: no answer, no acknowledgement.
//
// At that point offset 0 is the TCP header, the length is that of the TCP segment (header and payload), and the IP
// header lies at SKF_NET_OFF. On a listener the filter sees SYNs and everything addressed to a connection that is not
// established yet; connections accepted from it inherit it. A TIME_WAIT socket has none. A bunch of segments (TSO) passes
// or is dropped as a whole.
//
// The filter runs in the context of whoever the packet interrupts. Where the outcome must not depend on that, use
// Blackhole.
type Filter struct {
	name string
	prog []unix.SockFilter
}

// String names the filter.
func (f Filter) String() string { return f.name }

const (
	skfAdOff    = 0xfffff000 // -0x1000: SKF_AD_OFF
	skfNetOff   = 0xfff00000 // -0x100000: SKF_NET_OFF
	skfAdRandom = 56

	offDataOff = 12
	offFlags   = 13
	flagSYN    = 0x02
	flagACK    = 0x10

	loadByte  = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
	loadWord  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	loadLen   = unix.BPF_LD | unix.BPF_W | unix.BPF_LEN
	andK      = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	rshK      = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	subX      = unix.BPF_ALU | unix.BPF_SUB | unix.BPF_X
	toX       = unix.BPF_MISC | unix.BPF_TAX
	jumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpGreat = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jumpLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	ret       = unix.BPF_RET | unix.BPF_K
)

func op(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
func jump(code uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k}
}

// payload leaves the length of the payload in A.
var payload = []unix.SockFilter{
	op(loadByte, offDataOff), op(rshK, 2), op(andK, 0x3c), op(toX, 0),
	op(loadLen, 0), op(subX, 0),
}

// ect leaves the ECN bits of the IP header in A: ECT(0) is 2.
var ect = []unix.SockFilter{
	op(loadByte, skfNetOff), op(rshK, 4), jump(jumpEqual, 6, 0, 3),
	op(loadByte, skfNetOff+1), op(rshK, 4), jump(unix.BPF_JMP|unix.BPF_JA, 1, 0, 0),
	op(loadByte, skfNetOff+1), op(andK, 3),
}

// dropIf makes a filter that drops a segment if the jump code, compared with k, holds for what load leaves in A.
func dropIf(name string, code uint16, k uint32, load ...[]unix.SockFilter) Filter {
	var prog []unix.SockFilter
	for _, l := range load {
		prog = append(prog, l...)
	}
	return Filter{name, append(prog, jump(code, k, 0, 1), op(ret, 0), op(ret, math.MaxUint32))}
}

// flags leaves the given TCP flags in A.
func flags(mask uint32) []unix.SockFilter {
	return []unix.SockFilter{op(loadByte, offFlags), op(andK, mask)}
}

// DropAll drops every segment.
func DropAll() Filter { return Filter{"drop all", []unix.SockFilter{op(ret, 0)}} }

// DropSYN drops SYNs (not SYN-ACKs): for listeners.
func DropSYN() Filter { return dropIf("drop SYN", jumpEqual, flagSYN, flags(flagSYN|flagACK)) }

// DropSYNACK drops SYN-ACKs: for a client, before it connects.
func DropSYNACK() Filter {
	return dropIf("drop SYN-ACK", jumpEqual, flagSYN|flagACK, flags(flagSYN|flagACK))
}

// DropACK drops everything but SYNs and SYN-ACKs: on a listener it loses the last step of the handshake.
func DropACK() Filter { return dropIf("drop ACK", jumpEqual, 0, flags(flagSYN)) }

// DropData drops segments with payload.
func DropData() Filter { return dropIf("drop data", jumpGreat, 0, payload) }

// DropLength drops segments with exactly n bytes of payload.
func DropLength(n int) Filter {
	return dropIf(fmt.Sprintf("drop payload of %d", n), jumpEqual, uint32(n), payload)
}

// DropOriginal drops segments with exactly n bytes of payload the first time they are sent, and lets retransmissions
// pass: on a connection that negotiated ECN (net.ipv4.tcp_ecn 1) new data carries an ECN codepoint in its IP header, a
// retransmission never does (RFC 3168, 6.1.5). Unlike detaching a filter in time it leaves nothing to chance.
func DropOriginal(n int) Filter {
	f := dropIf("", jumpGreat, 0, ect)
	return Filter{fmt.Sprintf("drop original of %d", n), append(
		append(append([]unix.SockFilter{}, payload...), jump(jumpEqual, uint32(n), 1, 0), op(ret, math.MaxUint32)),
		f.prog...)}
}

// DropRandom drops each segment with probability p.
func DropRandom(p float64) Filter {
	limit := uint32(math.Min(math.Max(p, 0)*(1<<32), math.MaxUint32))
	// JGE is inverted: at or above the limit the segment passes.
	return Filter{fmt.Sprintf("drop %.3g%%", p*100), []unix.SockFilter{
		op(loadWord, skfAdOff+skfAdRandom), jump(jumpLeast, limit, 0, 1), op(ret, math.MaxUint32), op(ret, 0),
	}}
}

// Attach makes the socket run f on what it receives, in place of an earlier filter.
func (s *Socket) Attach(f Filter) error {
	prog := unix.SockFprog{Len: uint16(len(f.prog)), Filter: &f.prog[0]}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("attaching filter %q: %w", f.name, err)
	}
	return nil
}

// Detach takes the filter away. It is no error if there is none.
func (s *Socket) Detach() error {
	err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("detaching the filter: %w", err)
	}
	return nil
}

// Blackhole makes the socket drop all it receives, or stop doing so, without any program: it asks for a hop count that
// no packet still has (IP_MINTTL, IPV6_MINHOPCOUNT; counted in TCPMinTTLDrop). A listener in this state still sees the
// segments of connections that are being established.
func (s *Socket) Blackhole(on bool) error {
	ttl := 0
	if on {
		ttl = 255
	}
	err := unix.SetsockoptInt(s.fd, unix.SOL_IP, unix.IP_MINTTL, ttl)
	if err == nil && s.domain == unix.AF_INET6 {
		err = unix.SetsockoptInt(s.fd, unix.SOL_IPV6, unix.IPV6_MINHOPCOUNT, ttl)
	}
	if err != nil {
		return fmt.Errorf("setting the least hop count: %w", err)
	}
	return nil
}
