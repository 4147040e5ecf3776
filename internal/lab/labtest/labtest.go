// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// Namespace makes a network namespace for the time of a test.
func Namespace(t testing.TB) *lab.Namespace {
	t.Helper()
	ns, err := lab.NewNamespace(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// Witness starts a trace for the time of a test: see StartTrace.
func Witness(t testing.TB, addrs ...netip.Addr) *Trace {
	t.Helper()
	trace, err := StartTrace(addrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := trace.Close(); err != nil {
			t.Error(err)
		}
	})
	return trace
}

// Play plays a scenario and returns what it did and what tracefs saw of it. If so much happens on this machine meanwhile
// that tracefs loses events, it is played again.
func Play(ctx context.Context, p lab.Place, run func(context.Context, lab.Place) (*lab.Facts, error)) (
	facts *lab.Facts, events []TraceEvent, err error) {
	const attempts = 20
	for range attempts {
		facts, events, err = playOnce(ctx, p, run)
		if !errors.Is(err, ErrLost) {
			break
		}
	}
	return facts, Of(p, facts, events), err
}

func playOnce(ctx context.Context, p lab.Place, run func(context.Context, lab.Place) (*lab.Facts, error)) (
	facts *lab.Facts, events []TraceEvent, err error) {
	trace, err := StartTrace(p.Addr)
	if err != nil {
		return nil, nil, err
	}
	if facts, err = run(ctx, p); err == nil {
		events, err = trace.Events()
	}
	return facts, events, errors.Join(err, trace.Close())
}

// PlayAndCheck plays a scenario and fails the test if tracefs or the kernel's counters do not bear out what it says it
// did. On failure, and with -v, it tells what they saw.
func PlayAndCheck(t testing.TB, p lab.Place, run func(context.Context, lab.Place) (*lab.Facts, error)) *lab.Facts {
	t.Helper()
	facts, events, err := Play(t.Context(), p, run)
	if err != nil {
		t.Fatal(err)
	}
	Report(t, p, facts, events)
	return facts
}

// Report is the second half of PlayAndCheck.
func Report(t testing.TB, p lab.Place, facts *lab.Facts, events []TraceEvent) {
	t.Helper()
	err := Check(p, facts, events)
	if err != nil || testing.Verbose() {
		for _, e := range events {
			t.Logf("%v %d %s %v", e.Time, e.TID, e.Comm, e)
		}
		t.Log("client:", Counters(facts.Client).TCP())
		if p.Client != p.Server {
			t.Log("server:", Counters(facts.Server).TCP())
		}
		for _, e := range facts.Events {
			t.Log("said:", e)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// Main is for TestMain: it is the process of a container where NewPod made it one; otherwise it runs the tests, then what the tests share and finish has to end, and fails if that fails or if
// a namespace, a tracing instance or a descriptor is left behind.
func Main(m *testing.M, finish ...func() error) {
	if name := os.Getenv(containerEnv); name != "" {
		if err := contain(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	root, err := tracefs() // it may keep a descriptor
	if err != nil {
		root = ""
	} else {
		sweep(root)
	}
	before := openFiles()
	code := m.Run()
	for _, f := range finish {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, "after the tests:", err)
			code = 1
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var left []string
	// The runtime's threads and poller end or begin when they like; only what stays counts.
	if lab.Until(ctx, func() (bool, error) { left = leftBehind(root, before); return len(left) == 0, nil }) != nil {
		fmt.Fprintln(os.Stderr, "left behind:", strings.Join(left, ", "))
		code = 1
	}
	os.Exit(code)
}

func leftBehind(root string, before map[string]int) (left []string) {
	if root != "" {
		instances, _ := filepath.Glob(filepath.Join(root, "instances", InstancePrefix()+"*"))
		left = append(left, instances...)
	}
	own, _ := os.Readlink("/proc/self/ns/net")
	threads, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, thread := range threads {
		if ns, err := os.Readlink(thread); err == nil && ns != own {
			left = append(left, thread+" "+ns)
		}
	}
	for name, n := range openFiles() {
		if n > before[name] {
			left = append(left, fmt.Sprintf("%d of %s", n-before[name], name))
		}
	}
	return left
}

// openFiles counts the process's descriptors by what they are, sockets without their number. The runtime's own do not
// count.
func openFiles() map[string]int {
	n := map[string]int{}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		name, err := os.Readlink(fd)
		if err != nil || strings.Contains(name, "anon_inode:[event") || strings.HasSuffix(name, "/fd") {
			continue
		}
		kind, _, _ := strings.Cut(name, ":[")
		n[kind]++
	}
	return n
}
