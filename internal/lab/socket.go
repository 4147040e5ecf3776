// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Socket is a TCP socket of a namespace, used through plain system calls. Calls that can block take a context and
// end with it. A Socket is not safe for concurrent use, except that one goroutine may send while another receives.
type Socket struct {
	fd     int
	domain int
}

// Socket makes a TCP socket for addresses like addr: AF_INET for IPv4, AF_INET6 for IPv6 and IPv4-mapped ones. proto
// is 0, or IPPROTO_MPTCP.
func (n *Namespace) Socket(addr netip.Addr, proto int) (*Socket, error) {
	s := &Socket{fd: -1, domain: unix.AF_INET6}
	if addr.Is4() {
		s.domain = unix.AF_INET
	}
	err := n.Do(func() (err error) {
		s.fd, err = unix.Socket(s.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making a socket: %w", err)
	}
	return s, nil
}

// Listen makes a listening socket. Port 0 takes a free one.
func (n *Namespace) Listen(addr netip.AddrPort, backlog int) (*Socket, error) {
	return n.listen(addr, backlog, 0)
}

func (n *Namespace) listen(addr netip.AddrPort, backlog, proto int) (*Socket, error) {
	s, err := n.Socket(addr.Addr(), proto)
	if err != nil {
		return nil, err
	}
	if err = s.Bind(addr); err == nil {
		err = s.Listen(backlog)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Listen makes the socket a listener, or changes the backlog of one.
func (s *Socket) Listen(backlog int) error {
	if err := unix.Listen(s.fd, backlog); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	return nil
}

// Bind gives the socket a local address. The address may be in use by connections in TIME_WAIT.
func (s *Socket) Bind(addr netip.AddrPort) error {
	if err := s.Set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(s.fd, s.sockaddr(addr)); err != nil {
		return fmt.Errorf("binding %v: %w", addr, err)
	}
	return nil
}

func (s *Socket) sockaddr(addr netip.AddrPort) unix.Sockaddr { return sockaddr(s.domain, addr) }

func sockaddr(domain int, addr netip.AddrPort) unix.Sockaddr {
	if domain == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().Unmap().As4()}
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
}

// Connect connects and waits for the outcome.
func (s *Socket) Connect(ctx context.Context, addr netip.AddrPort) error {
	if err := s.Start(addr); err != nil {
		return err
	}
	return s.Wait(ctx)
}

// Start begins to connect: the first SYN has been sent when it returns. Wait tells the outcome.
func (s *Socket) Start(addr netip.AddrPort) error {
	err := unix.Connect(s.fd, s.sockaddr(addr))
	if errors.Is(err, unix.EINPROGRESS) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("connecting to %v: %w", addr, err)
	}
	return nil
}

// Wait waits until a connection begun by Start is established, or fails.
func (s *Socket) Wait(ctx context.Context) error {
	if err := s.ready(ctx, unix.POLLOUT); err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	return nil
}

// Err returns the socket's pending error (SO_ERROR), and clears it.
func (s *Socket) Err() error {
	errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// WaitFailure waits until the kernel gives up on the socket, with one of the errors.
func (s *Socket) WaitFailure(ctx context.Context, want ...unix.Errno) error {
	if err := s.ready(ctx, 0); err != nil { // errors and hang-ups alone
		return err
	}
	err := s.Err()
	for _, w := range want {
		if errors.Is(err, w) {
			return nil
		}
	}
	return fmt.Errorf("%v in place of %v", err, want)
}

// ready waits for one of events, or for an error or hang-up.
func (s *Socket) ready(ctx context.Context, events int16) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: events}}
		n, err := unix.Poll(fds, 50) // a slice of time, so that the end of ctx is noticed
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

// retry repeats call while it would block.
func (s *Socket) retry(ctx context.Context, events int16, call func() (int, error)) (int, error) {
	for {
		n, err := call()
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := s.ready(ctx, events); err != nil {
				return 0, err
			}
		default:
			return n, err
		}
	}
}

// Accept waits for a connection.
func (s *Socket) Accept(ctx context.Context) (*Socket, error) {
	fd, err := s.retry(ctx, unix.POLLIN, func() (int, error) {
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return fd, err
	})
	if err != nil {
		return nil, fmt.Errorf("accepting: %w", err)
	}
	return &Socket{fd: fd, domain: s.domain}, nil
}

// Send sends all of b.
func (s *Socket) Send(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		n, err := s.retry(ctx, unix.POLLOUT, func() (int, error) {
			return unix.SendmsgN(s.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		})
		if err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// Recv receives up to len(b) bytes; io.EOF if the peer closed.
func (s *Socket) Recv(ctx context.Context, b []byte) (int, error) {
	n, err := s.retry(ctx, unix.POLLIN, func() (int, error) { return unix.Read(s.fd, b) })
	if err != nil {
		return 0, fmt.Errorf("receiving: %w", err)
	}
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Discard receives exactly n bytes.
func (s *Socket) Discard(ctx context.Context, n int) error {
	b := make([]byte, min(n, 1<<18))
	for n > 0 {
		m, err := s.Recv(ctx, b[:min(n, len(b))])
		if err != nil {
			return fmt.Errorf("%d bytes missing: %w", n, err)
		}
		n -= m
	}
	return nil
}

// WaitEOF waits for the peer's FIN. Data before it is an error.
func (s *Socket) WaitEOF(ctx context.Context) error {
	n, err := s.Recv(ctx, make([]byte, 1))
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%d bytes in place of the end", n)
	}
	return err
}

// WaitReadable waits until there is something to receive, without receiving it.
func (s *Socket) WaitReadable(ctx context.Context) error { return s.ready(ctx, unix.POLLIN) }

// Shutdown shuts down one direction or both: unix.SHUT_RD, SHUT_WR, SHUT_RDWR.
func (s *Socket) Shutdown(how int) error { return unix.Shutdown(s.fd, how) }

// Close closes the socket. Closing twice is harmless.
func (s *Socket) Close() error {
	if s == nil || s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// SetLinger0 makes Close send a reset instead of a FIN.
func (s *Socket) SetLinger0() error {
	return unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// Vanish closes the socket without telling its peer, as a host that loses power does: in repair mode no segment is
// sent. State changes are seen as usual.
func (s *Socket) Vanish() error {
	if s == nil || s.fd < 0 {
		return nil
	}
	return errors.Join(s.Set(unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON), s.Close())
}

// Disconnect ends the connection by connect(AF_UNSPEC). The socket could be connected again.
func (s *Socket) Disconnect() error {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	return errnoErr(errno)
}

// SetISN chooses the initial sequence number of a connection not begun yet.
func (s *Socket) SetISN(seq uint32) error {
	return errors.Join(
		s.Set(unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON),
		s.Set(unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, repairSendQueue),
		s.Set(unix.SOL_TCP, unix.TCP_QUEUE_SEQ, int(int32(seq))),
		s.Set(unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF))
}

const repairSendQueue = 2 // TCP_SEND_QUEUE

// Set sets an option that takes a number.
func (s *Socket) Set(level, name, value int) error {
	if err := unix.SetsockoptInt(s.fd, level, name, value); err != nil {
		return fmt.Errorf("socket option %d/%d: %w", level, name, err)
	}
	return nil
}

// FD is the socket's descriptor.
func (s *Socket) FD() int { return s.fd }

// Local is the socket's own address, Remote its peer's; an IPv4-mapped one is given as IPv4. They are zero where the
// kernel knows none.
func (s *Socket) Local() netip.AddrPort { sa, _ := unix.Getsockname(s.fd); return addrPort(sa) }

// Remote is the address of the socket's peer.
func (s *Socket) Remote() netip.AddrPort { sa, _ := unix.Getpeername(s.fd); return addrPort(sa) }

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Info reads TCP_INFO.
func (s *Socket) Info() (*unix.TCPInfo, error) {
	return unix.GetsockoptTCPInfo(s.fd, unix.SOL_TCP, unix.TCP_INFO)
}

// WaitInfo waits until TCP_INFO satisfies cond, and returns it.
func (s *Socket) WaitInfo(ctx context.Context, cond func(*unix.TCPInfo) bool) (info *unix.TCPInfo, err error) {
	err = Until(ctx, func() (bool, error) {
		info, err = s.Info()
		return err == nil && cond(info), err
	})
	return info, err
}

// Cookie is the socket's cookie (SO_COOKIE), which the kernel gives out at the first request for it. It is 0 for a
// closed socket.
func (s *Socket) Cookie() uint64 {
	v, err := unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0
	}
	return v
}

// Drops tells how many segments the socket refused: by its filter, by Blackhole, or for want of room. A bunch counts as
// the segments in it.
func (s *Socket) Drops() (uint32, error) {
	const memInfoDrops = 8 // SK_MEMINFO_DROPS
	var info [9]uint32
	err := getsockopt(s.fd, unix.SOL_SOCKET, unix.SO_MEMINFO, unsafe.Pointer(&info), unsafe.Sizeof(info))
	if err != nil {
		return 0, fmt.Errorf("reading SO_MEMINFO: %w", err)
	}
	return info[memInfoDrops], nil
}

// getsockopt and setsockopt with options for which x/sys has no type.
func getsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) error {
	n := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(value), uintptr(unsafe.Pointer(&n)), 0)
	return errnoErr(errno)
}

func setsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(value), size, 0)
	return errnoErr(errno)
}

func errnoErr(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// WaitDrops waits until the socket has refused n segments.
func (s *Socket) WaitDrops(ctx context.Context, n int) error {
	return Until(ctx, func() (bool, error) {
		drops, err := s.Drops()
		return int(drops) >= n, err
	})
}

// bounded gives ctx a deadline if it has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Minute)
}
