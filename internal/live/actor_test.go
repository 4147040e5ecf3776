// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// actorEnv has the test binary be an actor in place of running tests.
const (
	actorEnv = "TCPTRACE_TEST_ACTOR" // its name
	againEnv = "TCPTRACE_TEST_ACTOR_AGAIN"
)

// An actor is a process with sockets of its own: this binary once more, doing
// what it is told on its standard input and telling what came of it.
type actor struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   *json.Encoder
	out  *json.Decoder
	pid  int // in this process's numbers
	comm string
	up   *actor // whose child it is, nil if the test's
}

// order is one thing to do. What a field means depends on it.
type order struct {
	Do    string
	FD    int            `json:",omitempty"`
	Addr  netip.AddrPort `json:",omitzero"`
	N     int            `json:",omitempty"`
	Name  string         `json:",omitempty"`
	Child *order         `json:",omitempty"` // for the actor's child
}

type answer struct {
	PID   int // getpid, and that is in its own pid namespace
	FD    int
	Port  uint16
	Ports []uint16
	Error string // errno's name
}

// hire starts an actor in a namespace. files are its descriptors from 3 on.
func hire(t *testing.T, ns *lab.Namespace, comm string, prepare ...func(*exec.Cmd)) *actor {
	t.Helper()
	return hireAfter(t, ns, comm, func() error { return nil }, prepare...)
}

// hireAfter is hire with something to be done just before.
func hireAfter(t *testing.T, ns *lab.Namespace, comm string, before func() error, prepare ...func(*exec.Cmd)) *actor {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), actorEnv+"="+comm)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(cmd)
	}
	// The child is forked by the namespace's thread, and so born in it.
	if err := ns.Do(func() error { return errors.Join(before(), cmd.Start()) }); err != nil {
		t.Fatal(err)
	}
	a := &actor{t: t, cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(out), pid: cmd.Process.Pid, comm: comm}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("%s: %s", comm, stderr.String())
		}
	})
	a.do(order{Do: "hello"})
	return a
}

// files gives an actor descriptors, from 3 on.
func files(f ...*os.File) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.ExtraFiles = f }
}

// ask has the actor do something that may fail, and returns what came of it.
func (a *actor) ask(o order) (r answer, err error) {
	if a.up != nil {
		return a.up.ask(order{Do: "child", Child: &o})
	}
	if err = a.in.Encode(o); err == nil {
		err = a.out.Decode(&r)
	}
	return r, err
}

// do has the actor do something that must succeed.
func (a *actor) do(o order) answer {
	a.t.Helper()
	r, err := a.ask(o)
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil {
		a.t.Fatalf("%s: %s: %v", a.comm, o.Do, err)
	}
	return r
}

// spawn has the actor fork a child that shares its sockets: one of them is the
// child's descriptor 3.
func (a *actor) spawn(comm string, fd int) *actor {
	a.t.Helper()
	child := &actor{t: a.t, up: a, comm: comm}
	child.pid = a.do(order{Do: "spawn", Name: comm, FD: fd}).PID
	return child
}

// end has the actor exit, with all that it has, and waits until it is gone.
func (a *actor) end() {
	a.t.Helper()
	if a.up != nil {
		a.up.do(order{Do: "bury"})
		return
	}
	_ = a.in.Encode(order{Do: "exit"})
	_ = a.cmd.Wait()
}

// act is the actor's side.
func act() {
	if err := perform(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func setComm(name string) error { return os.WriteFile("/proc/self/comm", []byte(name), 0) }

// stage is what an actor has beside its sockets.
type stage struct {
	child    *exec.Cmd
	childIn  *json.Encoder
	childOut *json.Decoder
}

// The first thread is the process's in the kernel's eyes, and does what has no
// thread of its own to do it.
func init() {
	if os.Getenv(actorEnv) != "" {
		runtime.LockOSThread()
	}
}

func perform() error {
	if err := setComm(os.Getenv(actorEnv)); err != nil {
		return err
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	if os.Getenv(againEnv) != "" { // the order "exec" is done
		if err := out.Encode(answer{PID: os.Getpid()}); err != nil {
			return err
		}
	}
	var s stage
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return nil // the test is over
		}
		if o.Do == "exit" {
			return nil
		}
		r, err := s.follow(o)
		if r.PID == 0 {
			r.PID = os.Getpid()
		}
		var errno syscall.Errno
		switch {
		case errors.As(err, &errno):
			r.Error = unix.ErrnoName(errno)
		case err != nil:
			r.Error = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

func socketFor(addr netip.AddrPort) (int, unix.Sockaddr, error) {
	if addr.Addr().Is4() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}, err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	return fd, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}, err
}

func portOf(sa unix.Sockaddr, err error) (uint16, error) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), err
	case *unix.SockaddrInet6:
		return uint16(sa.Port), err
	}
	return 0, err
}

// eintr repeats a call that a signal of the runtime interrupted.
func eintr(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func connect(addr netip.AddrPort) (fd int, port uint16, err error) {
	fd, sa, err := socketFor(addr)
	if err != nil {
		return fd, 0, err
	}
	err = unix.Connect(fd, sa)
	for errors.Is(err, unix.EINTR) || errors.Is(err, unix.EALREADY) {
		if err = unix.Connect(fd, sa); errors.Is(err, unix.EISCONN) {
			err = nil
		}
	}
	if err != nil {
		return fd, 0, errors.Join(err, unix.Close(fd))
	}
	port, err = portOf(unix.Getsockname(fd))
	return fd, port, err
}

func accept(listener int) (fd int, port uint16, err error) {
	var sa unix.Sockaddr
	err = eintr(func() (err error) { fd, sa, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); return err })
	if err != nil {
		return fd, 0, err
	}
	port, err = portOf(sa, nil)
	return fd, port, err
}

func waitFor(fd int, events int16) error {
	return eintr(func() error {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, -1)
		return err
	})
}

func linger0(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// onThread runs f on a thread of its own that has a name of its own.
func onThread(name string, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its name
		b := append([]byte(name), 0)
		if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

func (s *stage) follow(o order) (r answer, err error) {
	switch o.Do {
	case "hello": // the first to be said to an actor of the test
		// Before its first child the runtime forks another, to try whether it
		// can: let it do so while there are no sockets that both would have.
		_, err = os.FindProcess(os.Getpid())
	case "rename":
		err = setComm(o.Name)
	case "listen":
		var sa unix.Sockaddr
		if r.FD, sa, err = socketFor(o.Addr); err != nil {
			return r, err
		}
		if err = errors.Join(unix.Bind(r.FD, sa), unix.Listen(r.FD, 128)); err == nil {
			r.Port, err = portOf(unix.Getsockname(r.FD))
		}
	case "connect": // waits for the outcome; on a thread called Name, if given
		call := func() (err error) { r.FD, r.Port, err = connect(o.Addr); return err }
		if o.Name != "" {
			err = onThread(o.Name, call)
		} else {
			err = call()
		}
	case "start": // sends the first SYN
		var sa unix.Sockaddr
		if r.FD, sa, err = socketFor(o.Addr); err != nil {
			return r, err
		}
		if err = unix.SetNonblock(r.FD, true); err == nil {
			err = unix.Connect(r.FD, sa)
		}
		if errors.Is(err, unix.EINPROGRESS) {
			r.Port, err = portOf(unix.Getsockname(r.FD))
		}
	case "accept": // Port is the other end's
		r.FD, r.Port, err = accept(o.FD)
	case "send":
		_, err = unix.SendmsgN(o.FD, make([]byte, o.N), nil, nil, unix.MSG_NOSIGNAL)
	case "await": // data, the end or an error
		err = waitFor(o.FD, unix.POLLIN)
	case "retransmitted": // waits until the socket sent N segments again
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = lab.Until(ctx, func() (bool, error) {
			i, err := unix.GetsockoptTCPInfo(o.FD, unix.SOL_TCP, unix.TCP_INFO)
			return err == nil && int(i.Total_retrans) >= o.N, err
		})
	case "blackhole":
		err = unix.SetsockoptInt(o.FD, unix.SOL_IP, unix.IP_MINTTL, o.N)
	case "blackhole6":
		err = unix.SetsockoptInt(o.FD, unix.SOL_IPV6, unix.IPV6_MINHOPCOUNT, o.N)
	case "linger0":
		err = linger0(o.FD)
	case "shutdown":
		err = unix.Shutdown(o.FD, unix.SHUT_WR)
	case "close":
		err = unix.Close(o.FD)
	case "pass": // hands FD over through the socket 3, and keeps it
		err = unix.Sendmsg(3, []byte{1}, unix.UnixRights(o.FD), nil, 0)
	case "take":
		r.FD, err = take(3)
	case "exec": // becomes a process of another name, which keeps its descriptor FD as it is
		if _, err = unix.FcntlInt(uintptr(o.FD), unix.F_SETFD, 0); err == nil {
			err = errors.Join(os.Setenv(actorEnv, o.Name), os.Setenv(againEnv, "1"))
		}
		if err == nil {
			err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
		}
	case "spawn":
		r.PID, err = s.spawn(o.Name, o.FD)
	case "child":
		if err = s.childIn.Encode(o.Child); err == nil {
			err = s.childOut.Decode(&r)
		}
	case "bury":
		if err = s.childIn.Encode(order{Do: "exit"}); err == nil {
			err = s.child.Wait()
		}
	case "serve": // N connections: greets each, and closes it as soon as the other end did
		for range o.N {
			fd, port, err := accept(o.FD)
			if err == nil {
				r.Ports = append(r.Ports, port)
				_, err = unix.Write(fd, []byte{1})
			}
			if err == nil {
				err = errors.Join(waitFor(fd, unix.POLLIN), unix.Close(fd))
			}
			if err != nil {
				return r, err
			}
		}
	case "dial", "call": // N connections, each ended when the greeting is there: by a reset, or as it should be
		for range o.N {
			fd, port, err := connect(o.Addr)
			if err == nil {
				r.Ports = append(r.Ports, port)
				_, err = unix.Read(fd, make([]byte, 1))
			}
			if err == nil && o.Do == "dial" {
				err = linger0(fd)
			}
			if err == nil {
				err = unix.Close(fd)
			}
			if err != nil {
				return r, err
			}
		}
	case "spin": // keeps the processor N busy, whenever nobody else wants it
		err = spin(o.N)
	default:
		err = errors.New("unknown order")
	}
	return r, err
}

func (s *stage) spawn(comm string, fd int) (pid int, err error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	f := os.NewFile(uintptr(dup), "socket")
	defer f.Close()
	s.child = exec.Command("/proc/self/exe")
	s.child.Env = append(os.Environ(), actorEnv+"="+comm)
	s.child.ExtraFiles = []*os.File{f}
	s.child.Stderr = os.Stderr
	in, err := s.child.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := s.child.StdoutPipe()
	if err != nil {
		return 0, err
	}
	s.childIn, s.childOut = json.NewEncoder(in), json.NewDecoder(out)
	if err := s.child.Start(); err != nil {
		return 0, err
	}
	var r answer
	if err := s.childIn.Encode(order{Do: "rename", Name: comm}); err != nil {
		return 0, err
	}
	return s.child.Process.Pid, s.childOut.Decode(&r)
}

func take(socket int) (int, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	var n int
	err := eintr(func() (err error) {
		_, n, _, _, err = unix.Recvmsg(socket, b, oob, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 {
		return -1, errors.Join(err, errors.New("no descriptor came"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

func spin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_IDLE}, 0); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer{PID: os.Getpid()}); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over, however it ends
		os.Exit(0)
	}()
	for {
		runtime.KeepAlive(&set)
	}
}

// commOf is the kernel's own word for a process's name.
func commOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
