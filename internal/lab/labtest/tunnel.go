// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// A Tunnel is two namespaces joined by a wire of which the test carries every frame from one end to the other, so that
// it can lose, hold back, reorder and change segments at will: see Carry. Nothing crosses it but TCP (and IPv6's
// multicast listener reports), each segment alone. Its addresses belong to this tunnel alone.
type Tunnel struct {
	Client, Server *lab.Namespace
	index          int32
	ends           [2]*os.File // the client's and the server's

	mu    sync.Mutex
	carry func(*Segment) []*Segment
	errs  []error
}

// A Segment is a TCP segment on its way through a tunnel.
type Segment struct {
	Packet
	// FromClient tells which way it goes.
	FromClient bool
	frame      []byte // with its Ethernet header
}

// NewTunnel makes a tunnel for the time of a test.
func NewTunnel(t testing.TB) *Tunnel {
	t.Helper()
	w := &Tunnel{Client: Namespace(t), Server: Namespace(t)}
	if err := w.open(t.Context()); err != nil {
		t.Fatal(errors.Join(err, w.close()))
	}
	var carriers sync.WaitGroup
	for from := range w.ends {
		carriers.Go(func() { w.run(from) })
	}
	t.Cleanup(func() {
		err := w.close()
		carriers.Wait()
		if err = errors.Join(append(w.errs, err)...); err != nil {
			t.Error(err)
		}
	})
	return w
}

// Place is the tunnel as a place for scenarios.
func (w *Tunnel) Place(f lab.Family) lab.Place {
	a := addrs(w.Server)[0]
	if f == lab.V6 {
		a = addrs(w.Server)[1]
	}
	return lab.Place{Client: w.Client, Server: w.Server, Family: f, Addr: a, Dev: Dev, Index: w.index}
}

// Carry has f decide what becomes of each segment, of both directions, one after the other: f returns those that arrive
// now, in this order, each at its own end. One that f does not return is lost, or may be returned later, when it is given
// another. nil carries all.
func (w *Tunnel) Carry(f func(*Segment) []*Segment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.carry = f
}

// patient has new connections over the tunnel wait so long for an acknowledgement that they don't notice a carrier that
// a busy machine lets wait.
func (w *Tunnel) patient() error {
	const least = 10 * time.Second
	return errors.Join(RTOMin(w.Client, Dev, least), RTOMin(w.Server, Dev, least))
}

func (w *Tunnel) open(ctx context.Context) error {
	for i, ns := range []*lab.Namespace{w.Client, w.Server} {
		err := errors.Join(
			ns.Sysctl("net.ipv6.conf.default.addr_gen_mode", "1"),
			ns.Sysctl("net.ipv6.conf.default.accept_ra", "0"))
		if err == nil {
			err = ns.Do(func() (err error) { w.ends[i], err = tap(Dev); return err })
		}
		if err != nil {
			return err
		}
	}
	for _, end := range []struct{ ns, peer *lab.Namespace }{{w.Client, w.Server}, {w.Server, w.Client}} {
		mac, err := hardwareAddr(end.peer, Dev)
		if err != nil {
			return err
		}
		err = within(end.ns, func(h *netlink.Handle) error {
			link, err := h.LinkByName(Dev)
			if err != nil {
				return err
			}
			if end.ns == w.Client {
				w.index = int32(link.Attrs().Index)
			}
			const queue = 10000 // the carrier may be late
			if err := h.LinkSetTxQLen(link, queue); err != nil {
				return err
			}
			if link, err = bringUp(h, Dev, addrs(end.ns)); err != nil {
				return err
			}
			return route(h, link, addrs(end.peer), nil, mac)
		})
		if err != nil {
			return err
		}
		for _, a := range addrs(end.ns) {
			if err := end.ns.Ready(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// tap makes a network interface of the calling thread's namespace whose cable ends in a file.
func tap(dev string) (*os.File, error) {
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ifr, err := unix.NewIfreq(dev)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making %s: %w", dev, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (w *Tunnel) close() (err error) {
	for _, f := range w.ends {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// run carries what one end sends.
func (w *Tunnel) run(from int) {
	buf := make([]byte, 1<<16)
	for {
		n, err := w.ends[from].Read(buf)
		if err != nil {
			w.failed(err)
			return
		}
		w.deliver(from, append([]byte(nil), buf[:n]...))
	}
}

// failed keeps an error, unless it is that of an end that was closed, or of an interface that is not up yet.
func (w *Tunnel) failed(err error) {
	if err == nil || errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EIO) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

func (w *Tunnel) deliver(from int, frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	packet, ok := decode(append(make([]byte, vnetHeader), frame...), len(frame))
	if !ok || w.carry == nil {
		w.write(1-from, frame)
		return
	}
	for _, s := range w.carry(&Segment{Packet: packet, FromClient: from == 0, frame: frame}) {
		to := 0
		if s.FromClient {
			to = 1
		}
		w.write(to, s.frame)
	}
}

// write has a frame arrive at an end. The caller has w.mu.
func (w *Tunnel) write(to int, frame []byte) {
	_, err := w.ends[to].Write(frame)
	if err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EIO) {
		w.errs = append(w.errs, err)
	}
}

// ip is the frame's IP packet, tcp the segment in it.
func (s *Segment) ip() []byte { return s.frame[14:] }
func (s *Segment) tcp() []byte {
	if ip := s.ip(); s.Src.Addr().Is4() {
		return ip[int(ip[0]&15)*4:]
	}
	return s.ip()[40:]
}

// Readdress changes the segment's addresses, as a translator (NAT) does.
func (s *Segment) Readdress(src, dst netip.AddrPort) {
	ip, tcp := s.ip(), s.tcp()
	at := 12
	if s.Src.Addr().Is6() {
		at = 8
	}
	copy(ip[at:], src.Addr().AsSlice())
	copy(ip[at+src.Addr().BitLen()/8:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	s.Src, s.Dst = src, dst
	s.seal()
}

// StripTimestamps puts padding in the place of the segment's timestamps (RFC 7323). Of a SYN it has the whole connection
// do without.
func (s *Segment) StripTimestamps() {
	tcp := s.tcp()
	const end, pad, timestamps = 0, 1, 8
	options := tcp[20 : int(tcp[12]>>4)*4]
	for len(options) > 0 && options[0] != end {
		n := 1
		if options[0] != pad {
			if len(options) < 2 || int(options[1]) < 2 || int(options[1]) > len(options) {
				break
			}
			n = int(options[1])
		}
		if options[0] == timestamps {
			for i := range options[:n] {
				options[i] = pad
			}
		}
		options = options[n:]
	}
	s.seal()
}

// seal computes the checksums anew.
func (s *Segment) seal() {
	ip, tcp := s.ip(), s.tcp()
	if s.Src.Addr().Is4() {
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip[:int(ip[0]&15)*4]))
	}
	length := int(tcp[12]>>4)*4 + s.Len
	pseudo := append(append([]byte(nil), s.Src.Addr().AsSlice()...), s.Dst.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(length))
	pseudo = binary.BigEndian.AppendUint32(pseudo, unix.IPPROTO_TCP)
	binary.BigEndian.PutUint16(tcp[16:], 0)
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp[:length]...)))
}

// checksum is that of IP, TCP and UDP (RFC 1071).
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// Reordered sends bursts of which one segment is overtaken by all others: it arrives only when the sender, who takes it
// for lost, sends it again, and just before that copy. So the copy was for nothing, and the receiver says so (DSACK).
// Nothing is lost.
//
//	client  as in Clean; 1 tcp_retransmit_skb for each burst
//	server  as in Clean
//	counts  for each burst RetransSegs 1, TCPFastRetrans 1; TCPDSACKRecv 1 at the client, TCPDSACKOldSent 1 at the server
func (w *Tunnel) Reordered(ctx context.Context, p lab.Place, bursts int) (*lab.Facts, error) {
	const late = 777 // the length of that segment
	defer w.Carry(nil)
	if err := w.patient(); err != nil {
		return nil, err
	}
	return lab.Perform(ctx, p, func(ctx context.Context, a *lab.Act) error {
		if err := a.Establish(ctx); err != nil {
			return err
		}
		var held *Segment
		w.Carry(func(s *Segment) []*Segment {
			switch {
			case !s.FromClient || s.Len != late:
				return []*Segment{s}
			case held == nil:
				held = s
				return nil
			}
			both := []*Segment{held, s}
			held = nil
			return both
		})
		for n := range bursts {
			if err := a.Burst(ctx, 1000, late, 1000, 1000, 1000, 1000); err != nil {
				return err
			}
			_, err := a.Client.WaitInfo(ctx, func(i *unix.TCPInfo) bool { return i.Unacked == 0 && int(i.Dsack_dups) == n+1 })
			if err != nil {
				return fmt.Errorf("waiting for the DSACK: %w", err)
			}
		}
		info, err := a.Client.Info()
		if err != nil {
			return err
		}
		// Once it knows that the path reorders the sender waits a little.
		a.Expect(int(info.Total_retrans), lab.Retransmit, lab.Client, "fast", "rack")
		return a.Finish(ctx)
	})
}
