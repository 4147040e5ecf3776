// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// containerEnv has the test binary be a container's process in place of running tests. Its value is the name.
const containerEnv = "TCPTRACE_TEST_CONTAINER"

// A Container is a process with sockets of its own in a cgroup of its own: this binary once more, doing what it is told.
type Container struct {
	// Name is the process's, ID the container's, PodUID the pod's. Cgroup is the path, of which the last two are parts.
	Name, ID, PodUID, Cgroup string
	PID                      int

	mu  sync.Mutex
	in  *json.Encoder
	out *json.Decoder
}

// NewPod starts containers, named as given, that share a network namespace as those of a pod do, for the time of a test.
// Their cgroups have the names that Kubernetes would give them.
func NewPod(t testing.TB, ns *lab.Namespace, names ...string) []*Container {
	t.Helper()
	root, err := cgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	hash := func(what string) string {
		sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %s", os.Getpid(), ns.Inum(), what))
		return hex.EncodeToString(sum[:])
	}
	u := hash("pod")
	uid := u[:8] + "-" + u[8:12] + "-" + u[12:16] + "-" + u[16:20] + "-" + u[20:32]
	top := fmt.Sprintf("/tcptrace-lab-%d-%d", os.Getpid(), ns.Inum())
	pod := top + "/kubepods/pod" + uid
	t.Cleanup(func() {
		for dir := pod; dir != "/"; dir = filepath.Dir(dir) {
			if err := removeCgroup(filepath.Join(root, dir)); err != nil {
				t.Error(err)
			}
		}
	})
	var all []*Container
	for _, name := range names {
		c := &Container{Name: name, ID: hash(name), PodUID: uid}
		c.Cgroup = pod + "/" + c.ID
		if err := c.start(t, ns, filepath.Join(root, c.Cgroup)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, c)
	}
	return all
}

// cgroupRoot is where the unified hierarchy is mounted.
func cgroupRoot() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("no unified cgroup hierarchy is mounted")
}

// removeCgroup removes a cgroup that has been left. The kernel may still be at it.
func removeCgroup(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return lab.Until(ctx, func() (bool, error) {
		err := os.Remove(dir)
		switch {
		case err == nil, errors.Is(err, os.ErrNotExist):
			return true, nil
		case errors.Is(err, unix.EBUSY):
			return false, nil
		}
		return false, err
	})
}

func (c *Container) start(t testing.TB, ns *lab.Namespace, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := removeCgroup(dir); err != nil {
			t.Error(err)
		}
	})
	cgroup, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer cgroup.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), containerEnv+"="+c.Name)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	// The child is forked by the namespace's thread, and so born in it.
	if err := ns.Do(cmd.Start); err != nil {
		return err
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("%s: %s", c.Name, stderr.String())
		}
	})
	c.PID, c.in, c.out = cmd.Process.Pid, json.NewEncoder(in), json.NewDecoder(out)
	_, err = c.ask(order{Do: "hello"})
	return err
}

// order is one thing for a container to do, answer what came of it.
type order struct {
	Do       string
	Conn     int            `json:",omitempty"`
	To       netip.AddrPort `json:",omitzero"`
	Patience time.Duration  `json:",omitempty"`
}

type answer struct {
	Conn    int
	Local   netip.AddrPort `json:",omitzero"`
	Errno   unix.Errno     `json:",omitempty"`
	Timeout bool           `json:",omitempty"`
	Error   string         `json:",omitempty"`
}

func (c *Container) ask(o order) (a answer, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err = c.in.Encode(o); err == nil {
		err = c.out.Decode(&a)
	}
	switch {
	case err != nil:
	case a.Errno != 0:
		err = a.Errno
	case a.Timeout:
		err = os.ErrDeadlineExceeded
	case a.Error != "":
		err = errors.New(a.Error)
	}
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", c.Name, o.Do, err)
	}
	return a, err
}

// A ContainerConn is a connection that a container made.
type ContainerConn struct {
	Local     netip.AddrPort
	container *Container
	number    int
}

// Connect has the container connect. Its patience may end before the kernel's does (os.ErrDeadlineExceeded); 0 is no end.
// Other errors are the kernel's (unix.Errno). A container does one thing at a time.
func (c *Container) Connect(to netip.AddrPort, patience time.Duration) (*ContainerConn, error) {
	a, err := c.ask(order{Do: "connect", To: to, Patience: patience})
	if err != nil {
		return nil, err
	}
	return &ContainerConn{Local: a.Local, container: c, number: a.Conn}, nil
}

// Talk sends a byte and waits until it has come back: see Echo.
func (c *ContainerConn) Talk() error {
	_, err := c.container.ask(order{Do: "talk", Conn: c.number})
	return err
}

// Close has the container close the connection.
func (c *ContainerConn) Close() error {
	_, err := c.container.ask(order{Do: "close", Conn: c.number})
	return err
}

// contain is the container's process.
func contain(name string) error {
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
		return err
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var conns []net.Conn
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil // the test is over, however it ended
		} else if err != nil {
			return err
		}
		a := answer{Conn: o.Conn}
		var err error
		switch o.Do {
		case "connect":
			var conn net.Conn
			if conn, err = (&net.Dialer{Timeout: o.Patience}).Dial("tcp", o.To.String()); err == nil {
				a.Conn, a.Local = len(conns), conn.LocalAddr().(*net.TCPAddr).AddrPort()
				conns = append(conns, conn)
			}
		case "talk":
			if _, err = conns[o.Conn].Write([]byte{1}); err == nil {
				_, err = io.ReadFull(conns[o.Conn], make([]byte, 1))
			}
		case "close":
			err = conns[o.Conn].Close()
		}
		if err != nil {
			a.Error = err.Error()
			var timeout net.Error
			if !errors.As(err, &a.Errno) && errors.As(err, &timeout) {
				a.Timeout = timeout.Timeout()
			}
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

// Echo is a server that sends everything back and closes a connection after its client did, for the time of a test.
func Echo(t testing.TB, ns *lab.Namespace, at netip.AddrPort) netip.AddrPort {
	t.Helper()
	l, err := ns.Listen(at, 128)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	serve := func(s *lab.Socket) {
		defer s.Close()
		b := make([]byte, 1<<16)
		for {
			n, err := s.Recv(ctx, b)
			if err == nil {
				err = s.Send(ctx, b[:n])
			}
			if err != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			s, err := l.Accept(ctx)
			if err != nil {
				return
			}
			all.Go(func() { serve(s) })
		}
	})
	t.Cleanup(func() {
		cancel()
		all.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return netip.AddrPortFrom(at.Addr(), l.Local().Port())
}
