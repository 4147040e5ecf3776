// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by Do on a namespace that was closed.
var ErrClosed = errors.New("lab: namespace is closed")

// baseline makes a namespace behave the same whatever the host's settings are: a congestion control that every kernel
// has built in and that does not pace, no memory of earlier connections, every small write sent at once, and no tail
// loss probe unless a scenario asks for it (on a busy machine probes fire for nothing).
var baseline = [][2]string{
	{"net.ipv4.tcp_congestion_control", "reno"},
	{"net.ipv4.tcp_no_metrics_save", "1"},
	{"net.ipv4.tcp_autocorking", "0"},
	{"net.ipv4.tcp_early_retrans", "0"},
}

// A Namespace is a private network namespace, kept alive by one operating system thread that runs the functions given
// to Do. Sockets made there belong to it for life, whichever thread uses them later.
type Namespace struct {
	jobs  chan func()
	stop  chan struct{}
	done  chan struct{}
	close sync.Once
	tid   int
	fd    int
	inum  uint32
	v6    bool
}

// NewNamespace makes a network namespace whose loopback interface is up, with 127.0.0.0/8, ::1 and two addresses that
// no other namespace has (see Loopback), and the baseline settings.
func NewNamespace(ctx context.Context) (*Namespace, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n := &Namespace{jobs: make(chan func()), stop: make(chan struct{}), done: make(chan struct{}), fd: -1}
	started := make(chan error, 1)
	go n.run(started)
	if err := <-started; err != nil {
		<-n.done
		return nil, err
	}
	if err := n.Do(func() error { return n.setUp(ctx) }); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// run is the thread of the namespace. It never unlocks the thread, so that the runtime ends it together with the
// goroutine instead of letting other goroutines run in the wrong namespace.
func (n *Namespace) run(started chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The runtime parks the main thread instead of ending it, and /proc/self would show its namespace.
		other := make(chan struct{})
		go func() { defer close(other); n.run(started) }()
		<-other
		runtime.UnlockOSThread()
		return
	}
	defer close(n.done)
	n.tid = unix.Gettid()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		started <- fmt.Errorf("making a network namespace: %w", err)
		return
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		started <- fmt.Errorf("opening the namespace: %w", err)
		return
	}
	n.fd = fd
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		started <- fmt.Errorf("reading the namespace's number: %w", err)
		return
	}
	n.inum = uint32(st.Ino)
	started <- nil
	for {
		select {
		case job := <-n.jobs:
			job()
		case <-n.stop:
			return
		}
	}
}

// Do runs f on the namespace's thread and returns its error. Calls from f itself are allowed. f must not call
// runtime.Goexit (as testing's FailNow does): that would end the namespace.
func (n *Namespace) Do(f func() error) error {
	if unix.Gettid() == n.tid {
		return f()
	}
	result := make(chan error, 1)
	job := func() {
		finished := false
		defer func() {
			if !finished {
				result <- errors.New("lab: the function given to Do did not return")
			}
		}()
		err := f()
		finished = true
		result <- err
	}
	select {
	case n.jobs <- job:
		return <-result
	case <-n.done:
		return ErrClosed
	}
}

// Inum is the inode number of the namespace, the one that lsns and tcptrace print.
func (n *Namespace) Inum() uint32 { return n.inum }

// FD is a descriptor of the namespace for setns. It belongs to the namespace and is valid until Close.
func (n *Namespace) FD() int { return n.fd }

// TID is the thread that lives in the namespace: /proc/self/task/TID/net shows it.
func (n *Namespace) TID() int { return n.tid }

// Close ends the namespace's thread and waits until it is gone. The kernel frees the namespace once its last socket is
// closed too.
func (n *Namespace) Close() error {
	n.close.Do(func() { close(n.stop) })
	<-n.done
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// The goroutine is over, its thread ends a moment later and nothing tells when.
	return Until(ctx, func() (bool, error) {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", n.tid))
		return errors.Is(err, os.ErrNotExist), nil
	})
}

// Sysctl writes a setting of this namespace, named as sysctl(8) does: net.ipv4.tcp_syn_retries.
func (n *Namespace) Sysctl(name, value string) error {
	return n.Do(func() error {
		return os.WriteFile(sysctlPath(name), []byte(value), 0)
	})
}

// ReadSysctl reads a setting of this namespace.
func (n *Namespace) ReadSysctl(name string) (string, error) {
	var b []byte
	err := n.Do(func() (err error) {
		b, err = os.ReadFile(sysctlPath(name))
		return err
	})
	return strings.TrimSpace(string(b)), err
}

// With changes settings (name, value, name, value, ...) and returns a function that puts the old values back. A name
// that begins with a minus sign, as in sysctl.d(5), is passed over if this kernel does not have it.
func (n *Namespace) With(settings ...string) (restore func() error, err error) {
	var undo []string
	restore = func() error {
		var errs []error
		for i := len(undo) - 2; i >= 0; i -= 2 {
			errs = append(errs, n.Sysctl(undo[i], undo[i+1]))
		}
		return errors.Join(errs...)
	}
	for i := 0; i+1 < len(settings); i += 2 {
		name, optional := strings.CutPrefix(settings[i], "-")
		value := settings[i+1]
		old, err := n.ReadSysctl(name)
		if errors.Is(err, os.ErrNotExist) && optional {
			continue
		}
		if err == nil {
			undo = append(undo, name, old)
			err = n.Sysctl(name, value)
		}
		if err != nil {
			return nil, errors.Join(err, restore())
		}
	}
	return restore, nil
}

// Every net sysctl is looked up in the namespace of the calling thread, so the path needs no thread id.
func sysctlPath(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

// ReadNet reads a file of /proc/net as this namespace sees it: snmp, netstat, tcp, tcp6.
func (n *Namespace) ReadNet(name string) ([]byte, error) {
	return os.ReadFile(fmt.Sprintf("/proc/self/task/%d/net/%s", n.tid, name))
}

// Settled waits until the namespace has no TCP socket but listeners and TIME_WAIT: everything that closing connections
// causes has then happened.
func (n *Namespace) Settled(ctx context.Context) error {
	return n.waitSockets(ctx, func(_ uint16, state string) bool {
		const timeWait, listen = "06", "0A"
		return state == timeWait || state == listen
	})
}

// gone waits until no socket has a local port.
func (n *Namespace) gone(ctx context.Context, port uint16) error {
	return n.waitSockets(ctx, func(local uint16, _ string) bool { return local != port })
}

// noRequests waits until no handshake is under way.
func (n *Namespace) noRequests(ctx context.Context) error {
	return n.waitSockets(ctx, func(_ uint16, state string) bool {
		const synRecv = "03"
		return state != synRecv
	})
}

// waitSockets waits until all TCP sockets of the namespace satisfy cond.
func (n *Namespace) waitSockets(ctx context.Context, cond func(port uint16, state string) bool) error {
	return Until(ctx, func() (bool, error) {
		for _, name := range []string{"tcp", "tcp6"} {
			b, err := n.ReadNet(name)
			if errors.Is(err, os.ErrNotExist) && name == "tcp6" {
				continue
			}
			if err != nil {
				return false, err
			}
			for line := range strings.Lines(string(b)) { // sl local_address rem_address st ...
				f := strings.Fields(line)
				if len(f) < 4 {
					continue
				}
				_, port, _ := strings.Cut(f[1], ":")
				p, err := strconv.ParseUint(port, 16, 16)
				if err == nil && !cond(uint16(p), f[3]) { // the heading has no port
					return false, nil
				}
			}
		}
		return true, nil
	})
}

func (n *Namespace) setUp(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making a socket: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("reading the flags of lo: %w", err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	if n.v6 = n.addLoopback6() == nil; n.v6 {
		if err := n.Ready(ctx, n.own6()); err != nil {
			return err
		}
	}
	for _, s := range baseline {
		if err := n.Sysctl(s[0], s[1]); err != nil {
			return fmt.Errorf("setting %s: %w", s[0], err)
		}
	}
	return nil
}

// Ready waits until an address of the namespace can be used. The kernel's work on a new IPv6 address goes on after the
// call that added it; its last step is a route of type local, before which packets to the address go astray.
func (n *Namespace) Ready(ctx context.Context, addr netip.Addr) error {
	if !addr.Is6() {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	want := hex.EncodeToString(addr.AsSlice())
	err := Until(ctx, func() (bool, error) {
		b, err := n.ReadNet("ipv6_route")
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(b)) { // dst len src len via metric refs use flags dev
			const local = 1 << 31 // RTF_LOCAL
			f := strings.Fields(line)
			if len(f) == 10 && f[0] == want && f[1] == "80" {
				if flags, err := strconv.ParseUint(f[8], 16, 32); err == nil && flags&local != 0 {
					return true, nil
				}
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %v: %w", addr, err)
	}
	return nil
}

// addLoopback6 gives lo the namespace's own IPv6 address. It fails on a kernel without IPv6.
func (n *Namespace) addLoopback6() error {
	addr := n.own6().As16()
	msg := []byte{unix.AF_INET6, 128, unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE} // struct ifaddrmsg
	msg = binary.NativeEndian.AppendUint32(msg, 1)                              // lo is 1 in every namespace
	msg = appendAttr(msg, unix.IFA_LOCAL, addr[:])
	return rtnetlink(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, msg)
}

// rtnetlink sends a request in the calling thread's namespace and waits for the answer.
func rtnetlink(kind, flags uint16, body []byte) error {
	le := binary.NativeEndian
	msg := le.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	msg = le.AppendUint16(msg, kind)
	msg = le.AppendUint16(msg, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = append(msg, make([]byte, 8)...) // sequence, port
	msg = append(msg, body...)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	m, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil {
		return err
	}
	if m < unix.NLMSG_HDRLEN+4 || le.Uint16(reply[4:]) != unix.NLMSG_ERROR {
		return errors.New("rtnetlink: unexpected answer")
	}
	return errnoErr(unix.Errno(-int32(le.Uint32(reply[unix.NLMSG_HDRLEN:]))))
}

// appendAttr appends a netlink attribute whose length is a multiple of 4.
func appendAttr(msg []byte, kind uint16, value []byte) []byte {
	msg = binary.NativeEndian.AppendUint16(msg, uint16(4+len(value)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	return append(msg, value...)
}

// own4 is an address of 127.0.0.0/8 that stands for this namespace alone (its number's low 22 bits), so that a witness
// which does not print the namespace can still tell whose event it saw.
func (n *Namespace) own4() netip.Addr {
	return netip.AddrFrom4([4]byte{127, 64 | byte(n.inum>>16)&0x3f, byte(n.inum >> 8), byte(n.inum)})
}

// own6 is the same for IPv6.
func (n *Namespace) own6() netip.Addr {
	a := [16]byte{0xfd, 't', 'c', 'p', 't', 'r', 'a', 'c', 15: 1}
	binary.BigEndian.PutUint32(a[8:], n.inum)
	return netip.AddrFrom16(a)
}

// Offload turns TCP segmentation offload and generic receive offload of an interface on or off. Off, every segment
// crosses the interface alone; the sending socket still handles bunches, which SetSegments prevents.
func (n *Namespace) Offload(ifname string, on bool) error {
	value := uint32(0)
	if on {
		value = 1
	}
	return n.Do(func() error {
		for _, cmd := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGRO} {
			if err := ethtool(ifname, cmd, value); err != nil {
				return fmt.Errorf("offloads of %s: %w", ifname, err)
			}
		}
		return nil
	})
}

func ethtool(ifname string, cmd, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	data := [2]uint32{cmd, value} // struct ethtool_value
	var ifr struct {              // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], ifname)
	ifr.data = unsafe.Pointer(&data)
	return ioctl(fd, unix.SIOCETHTOOL, unsafe.Pointer(&ifr))
}

func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
	return errnoErr(errno)
}

// SetSegments limits how many segments one socket buffer sent over an interface holds (IFLA_GSO_MAX_SEGS): with 1
// every retransmission is one segment. Connections made before keep their limit.
func (n *Namespace) SetSegments(ifindex int32, most uint32) error {
	const iflaGSOMaxSegs = 40
	msg := binary.NativeEndian.AppendUint32(make([]byte, 4), uint32(ifindex)) // struct ifinfomsg
	msg = append(msg, make([]byte, 8)...)
	msg = appendAttr(msg, iflaGSOMaxSegs, binary.NativeEndian.AppendUint32(nil, most))
	err := n.Do(func() error { return rtnetlink(unix.RTM_NEWLINK, 0, msg) })
	if err != nil {
		return fmt.Errorf("limiting interface %d to %d segments: %w", ifindex, most, err)
	}
	return nil
}

// Until calls cond until it is true, fails or ctx ends. It is for facts the kernel offers no way to wait for.
func Until(ctx context.Context, cond func() (bool, error)) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := cond()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
