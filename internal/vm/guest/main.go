// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Guest is process 1 of a test VM: it mounts what a system has, loads modules, runs the jobs of /vm.json one after the
// other, and ends the machine. What the jobs print and its own lines, which begin with "##vm ", go to the virtual
// serial port called results; the console is the kernel's.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/vm/wire"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: this is the first process of a test VM, and of use nowhere else")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err) // the console
	}
	unix.Sync()
	// The emulator ends with that, too (-no-reboot). It does not power off any more once it was suspended.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Fprintln(os.Stderr, "guest: restart:", err)
	}
}

func run() error {
	if err := mount(); err != nil {
		return err
	}
	text, err := os.ReadFile("/vm.json")
	if err != nil {
		return err
	}
	var plan wire.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("/vm.json: %w", err)
	}
	for _, m := range plan.Modules {
		if err := loadModule(m); err != nil {
			fmt.Fprintf(os.Stderr, "guest: module %s: %v\n", m, err)
		}
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	out, err := openPort("results")
	if err != nil {
		return err
	}
	for _, e := range plan.Env {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	say(out, wire.Line{Boot: unix.ByteSliceToString(uts.Release[:])})
	for _, job := range plan.Jobs {
		say(out, wire.Line{Begin: job.Name})
		say(out, runJob(job, out))
		reap()
	}
	say(out, wire.Line{Done: true})
	return out.Close()
}

// mount mounts what a booted system has. Errors of what a kernel may lack are told and passed over.
func mount() error {
	for _, m := range []struct {
		fstype, dir string
		must        bool
	}{
		{"proc", "/proc", true},
		{"sysfs", "/sys", true},
		{"devtmpfs", "/dev", true},
		{"devpts", "/dev/pts", false},
		{"tmpfs", "/dev/shm", false},
		{"tmpfs", "/tmp", true},
		{"tmpfs", "/run", true},
		{"debugfs", "/sys/kernel/debug", false},
		{"tracefs", "/sys/kernel/tracing", false},
		{"cgroup2", "/sys/fs/cgroup", false},
		{"bpf", "/sys/fs/bpf", false},
		{"securityfs", "/sys/kernel/security", false},
	} {
		err := os.MkdirAll(m.dir, 0o755)
		if err == nil {
			err = unix.Mount(m.fstype, m.dir, m.fstype, 0, "")
		}
		if err != nil && !errors.Is(err, unix.EBUSY) { // devtmpfs: the kernel may have done it
			err = fmt.Errorf("mounting %s: %w", m.dir, err)
			if m.must {
				return err
			}
			fmt.Fprintln(os.Stderr, "guest:", err)
		}
	}
	return errors.Join(os.Chmod("/tmp", 0o777|os.ModeSticky), os.MkdirAll("/run/netns", 0o755))
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// openPort opens a virtual serial port by its name. It comes up a moment after its driver, and nothing tells when.
func openPort(name string) (*os.File, error) {
	for range 1000 {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if text, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(text)) == name {
				// Opened by the system call: the runtime would make it non-blocking, for the children too.
				fd, err := unix.Open("/dev/"+filepath.Base(filepath.Dir(n)), unix.O_WRONLY|unix.O_CLOEXEC, 0)
				if err == nil {
					return os.NewFile(uintptr(fd), name), nil
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtual serial port %q", name)
}

// runJob runs a program, to whom out is the standard output and error.
func runJob(job wire.Job, out *os.File) wire.Line {
	cmd := exec.Command(job.Args[0], job.Args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = job.Dir, out, out
	end := wire.Line{End: job.Name}
	if err := cmd.Run(); err != nil {
		end.Exit, end.Error = 1, err.Error()
		if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
			end.Exit = exit.ExitCode()
		}
	}
	return end
}

// reap buries the orphans that a job left.
func reap() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func say(out io.Writer, l wire.Line) {
	text, err := json.Marshal(l)
	if err == nil {
		_, err = fmt.Fprintf(out, "\n%s%s\n", wire.Prefix, text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
}
