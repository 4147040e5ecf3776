// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// TCP flags of a Packet.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// A Packet is a TCP segment, or a bunch of them, as it crossed an interface.
type Packet struct {
	// Time is the kernel's, CLOCK_REALTIME.
	Time     time.Time
	Src, Dst netip.AddrPort
	Flags    uint8
	Seq, Ack uint32
	Window   uint16
	// Len is the length of the payload.
	Len int
	// TTL is the hop limit, ECN the ECN field of the IP header.
	TTL, ECN uint8
	// GSOSize is the payload of each segment of a bunch, 0 if it is none. Segs is the number of segments.
	GSOSize, Segs int
	// Outgoing says that this side sent it.
	Outgoing bool
}

// String prints the packet as tcpdump would.
func (p Packet) String() string {
	var flags strings.Builder
	for i, c := range "FSRP.UEW" {
		if p.Flags&(1<<i) != 0 {
			flags.WriteRune(c)
		}
	}
	return fmt.Sprintf("%v > %v [%s] seq %d ack %d len %d segs %d",
		p.Src, p.Dst, flags.String(), p.Seq, p.Ack, p.Len, p.Segs)
}

// A Capture records the TCP packets of an interface: a witness of what was on the wire.
type Capture struct {
	fd       int
	loopback bool
	stopping atomic.Bool
	done     chan struct{}
	packets  []Packet
	err      error
}

const vnetHeader = 10 // struct virtio_net_hdr

// StartCapture starts to record.
func StartCapture(ns *lab.Namespace, dev string) (*Capture, error) {
	c := &Capture{fd: -1, loopback: dev == "lo", done: make(chan struct{})}
	if err := ns.Do(func() error { return c.open(dev) }); err != nil {
		if c.fd >= 0 {
			err = errors.Join(err, unix.Close(c.fd))
		}
		return nil, fmt.Errorf("capturing on %s: %w", dev, err)
	}
	go c.run()
	return c, nil
}

func (c *Capture) open(dev string) (err error) {
	// Protocol 0 receives nothing until bind, when everything is set up.
	c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	iface, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	// The first 256 bytes are enough for the headers.
	snap := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 256}}
	return lab.InTurn(
		func() error { return unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1) },
		func() error { return unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1) },
		func() error { return unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) },
		func() error { return unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) },
		func() error {
			return unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
				&unix.SockFprog{Len: 1, Filter: &snap[0]})
		},
		func() error {
			all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
			return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Index})
		})
}

func (c *Capture) run() {
	defer close(c.done)
	buf, oob := make([]byte, 4096), make([]byte, 256)
	for {
		stopping := c.stopping.Load() // asked before the queue is found empty
		n, on, _, from, err := unix.Recvmsg(c.fd, buf, oob, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && stopping:
			return
		case errors.Is(err, unix.EAGAIN):
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, 20)
			if err != nil && !errors.Is(err, unix.EINTR) {
				c.err = err
				return
			}
		case err != nil:
			c.err = err
			return
		default:
			outgoing := false
			if sll, ok := from.(*unix.SockaddrLinklayer); ok {
				outgoing = sll.Pkttype == unix.PACKET_OUTGOING
			}
			if c.loopback && outgoing { // it comes again
				continue
			}
			at, length, err := ancillary(oob[:on])
			if err != nil {
				c.err = err
				return
			}
			if p, ok := decode(buf[:n], length); ok {
				p.Time, p.Outgoing = at, outgoing
				c.packets = append(c.packets, p)
			}
		}
	}
}

// Stop ends the capture and returns the packets. It fails if some were lost.
func (c *Capture) Stop() ([]Packet, error) {
	c.stopping.Store(true)
	<-c.done
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && stats.Drops > 0 {
		err = fmt.Errorf("the capture lost %d packets", stats.Drops)
	}
	return c.packets, errors.Join(c.err, err, unix.Close(c.fd))
}

// ancillary reads what the kernel says about a packet: when it came, and how long it was.
func ancillary(oob []byte) (at time.Time, length int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return at, 0, err
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS &&
			len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})):
			ts := *(*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			at = time.Unix(ts.Unix())
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 8:
			length = int(binary.NativeEndian.Uint32(m.Data[4:])) // struct tpacket_auxdata: tp_len
		}
	}
	return at, length, nil
}

// decode reads a packet with its virtio_net_hdr and Ethernet header. b may be cut short: total is the packet's length
// from the Ethernet header on.
func decode(b []byte, total int) (p Packet, ok bool) {
	const ethernet = 14
	if len(b) < vnetHeader+ethernet+20 {
		return p, false
	}
	if b[1] != 0 { // gso_type
		p.GSOSize = int(binary.NativeEndian.Uint16(b[4:]))
	}
	etherType := binary.BigEndian.Uint16(b[vnetHeader+12:])
	ip := b[vnetHeader+ethernet:]
	total -= ethernet
	var src, dst netip.Addr
	var header int
	switch {
	case etherType == unix.ETH_P_IP && ip[9] == unix.IPPROTO_TCP:
		header = int(ip[0]&15) * 4
		p.ECN, p.TTL = ip[1]&3, ip[8]
		if n := int(binary.BigEndian.Uint16(ip[2:])); n > 0 && n < total { // padding
			total = n
		}
		src, _ = netip.AddrFromSlice(ip[12:16])
		dst, _ = netip.AddrFromSlice(ip[16:20])
	case etherType == unix.ETH_P_IPV6 && len(ip) >= 40 && ip[6] == unix.IPPROTO_TCP:
		header = 40
		p.ECN, p.TTL = ip[1]>>4&3, ip[7]
		if n := int(binary.BigEndian.Uint16(ip[4:])); n > 0 && n+40 < total {
			total = n + 40
		}
		src, _ = netip.AddrFromSlice(ip[8:24])
		dst, _ = netip.AddrFromSlice(ip[24:40])
	default:
		return p, false
	}
	if len(ip) < header+20 {
		return p, false
	}
	tcp := ip[header:]
	p.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp))
	p.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:]))
	p.Seq, p.Ack = binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	p.Flags, p.Window = tcp[13], binary.BigEndian.Uint16(tcp[14:])
	p.Len = total - header - int(tcp[12]>>4)*4
	if p.Segs = 1; p.GSOSize > 0 {
		p.Segs = (p.Len + p.GSOSize - 1) / p.GSOSize
	}
	return p, true
}
