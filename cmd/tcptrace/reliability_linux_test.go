// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

// What can happen to a recorder that is left alone for long. docs/reliability.md
// tells of each, and of what came out.

// everything has record keep what storms are counted by.
const everything = "--event=retransmit,reset,state"

// review is what replay shows.
type review struct {
	code        int
	said        string   // on stderr
	events      []string // lines of JSON, without the last
	shown, lost uint64
	summary     string // the last line
}

// reviewed replays recordings.
func reviewed(t *testing.T, paths ...string) review {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return reviewedBy(t, path, paths...)
}

func reviewedBy(t *testing.T, binary string, paths ...string) (r review) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"replay", "-o", "json"}, paths...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	r.code, r.said = cmd.ProcessState.ExitCode(), stderr.String()
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	r.events, r.summary = lines[:len(lines)-1], lines[len(lines)-1]
	for _, line := range r.events {
		if !strings.Contains(line, `"event":"lost"`) {
			r.shown++
			continue
		}
		var e struct{ Count uint64 }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		r.lost += e.Count
	}
	return r
}

// whole checks that a recording is undamaged and finished, and that its summary
// says what it holds.
func (r *review) whole(t *testing.T) {
	t.Helper()
	if r.code != 0 || strings.Contains(r.said, "warning") {
		t.Fatalf("exit code %d: %s", r.code, r.said)
	}
	if sum := parseSummary(t, r.summary); sum.Events != r.shown || sum.Lost != r.lost {
		t.Errorf("%d events and %d lost; the summary says %d and %d", r.shown, r.lost, sum.Events, sum.Lost)
	}
}

// cut checks that what is there of a recording is told, and that it has no end.
func (r *review) cut(t *testing.T) {
	t.Helper()
	switch {
	case r.code == 0 && strings.Contains(r.said, "not finished"):
	case r.code == 1 && strings.Contains(r.said, "incomplete"): // the end came in the middle of a write
	default:
		t.Errorf("exit code %d: %s", r.code, r.said)
	}
}

// stage is a namespace for a storm, and the witness of what BPF is not shown.
type stage struct {
	t     *testing.T
	ns    *lab.Namespace
	place lab.Place
	blind *labtest.BlindSpot
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, ns: labtest.Namespace(t)}
	var err error
	if s.place, err = s.ns.Loopback(lab.V4); err != nil {
		t.Fatal(err)
	}
	if s.blind, err = labtest.StartBlindSpot(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.blind.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// record starts a recorder of this namespace.
func (s *stage) record(path string, more ...string) *tool {
	s.t.Helper()
	return trace(s.t, nil, s.args(path, more...)...)
}

func (s *stage) args(path string, more ...string) []string {
	return append([]string{"record", path, everything, "--netns", fmt.Sprint(s.ns.Inum())}, more...)
}

func (s *stage) storm(connections int) {
	s.t.Helper()
	if err := s.ns.Storm(s.t.Context(), s.place.Addr, connections, 2); err != nil {
		s.t.Fatal(err)
	}
}

// unseen counts the events of the storm that no program of a recorder was run
// for, with the programs' misses.
func (s *stage) unseen(misses map[string]uint64) (all, resets uint64) {
	s.t.Helper()
	hidden, err := s.blind.Count(func(e labtest.TraceEvent) bool { return e.Involves(s.place.Addr) })
	if err != nil {
		s.t.Fatal(err)
	}
	resets = uint64(hidden[lab.SendReset]) + misses["send_reset"]
	return resets + uint64(hidden[lab.ReceiveReset]+hidden[lab.SetState]) + misses["receive_reset"] + misses["set_state"], resets
}

// sent is the kernel's count of resets. A refused connection is four events.
func (s *stage) sent() uint64 {
	s.t.Helper()
	c, err := s.ns.Counters()
	if err != nil {
		s.t.Fatal(err)
	}
	return c["OutRsts"]
}

// account checks that shown, lost and unseen is all that was made.
func (s *stage) account(r *review, misses map[string]uint64) {
	s.t.Helper()
	made := 4 * s.sent()
	unseen, resets := s.unseen(misses)
	if r.shown+r.lost+unseen != made {
		s.t.Errorf("%d recorded, %d lost, %d hidden from BPF; the kernel made %d", r.shown, r.lost, unseen, made)
	}
	checkStormAudit(s.t, r.summary, "json", s.sent(), resets)
}

// grown waits until the files of a path have more than so many bytes.
func grown(t *testing.T, path string, than int64) (size int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := lab.Until(ctx, func() (bool, error) {
		size = 0
		err := filepath.Walk(path, func(_ string, fi os.FileInfo, err error) error {
			if err == nil && fi.Mode().IsRegular() {
				size += fi.Size()
			}
			if errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			return err
		})
		return size > than, err
	})
	if err != nil {
		t.Fatalf("%s has %d bytes, %d expected: %v", path, size, than, err)
	}
	return size
}

// A recorder that is stopped for a whole storm loses what its buffer has no
// room for, and the recording says how much, and where.
func TestRecordStopped(t *testing.T) {
	s := newStage(t)
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	p := s.record(file, "--buffer", "1MiB")
	p.signal(syscall.SIGSTOP)
	p.await('T')
	s.storm(20_000)
	p.signal(syscall.SIGCONT)
	misses := p.misses()
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.said.String())
	}
	r := reviewed(t, file)
	r.whole(t)
	s.account(&r, misses)
	if r.lost == 0 || r.shown == 0 {
		t.Errorf("%d events, %d lost", r.shown, r.lost)
	}
	if first := slices.IndexFunc(r.events, func(l string) bool { return strings.Contains(l, `"event":"lost"`) }); first < int(r.shown) {
		t.Errorf("lost after %d events of %d: they were in the buffer before", first, r.shown)
	}
}

// What was on disk when a flight recorder was killed stays, nothing of it is left
// in the kernel, and another can go on in the same folder.
func TestRecordKilledFolder(t *testing.T) {
	s := newStage(t)
	dir := filepath.Join(t.TempDir(), "flight")
	p := s.record(dir, "--max-size", "64MiB", "--flush", "100ms")
	s.storm(1)
	size := grown(t, dir, 0)
	first := reviewed(t, dir) // as it is being written
	if first.code != 0 {
		t.Errorf("exit code %d: %s", first.code, first.said)
	}
	ctx, cancel := context.WithCancel(t.Context())
	storm := make(chan error, 1)
	go func() { storm <- s.ns.Storm(ctx, s.place.Addr, 10_000_000, 1) }()
	grown(t, dir, size+64<<10)
	p.signal(syscall.SIGKILL)
	if code := p.end(); code != -1 {
		t.Errorf("exit code %d", code)
	}
	cancel()
	if err := <-storm; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r := reviewed(t, dir)
	r.cut(t)
	if r.shown < 1000 {
		t.Errorf("%d events in more than 64 KiB", r.shown)
	}

	again := s.record(dir, "--max-size", "64MiB")
	s.storm(1)
	again.signal(syscall.SIGINT)
	if code := again.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, again.said.String())
	}
	both := reviewed(t, dir)
	both.cut(t)
	if more := both.shown - r.shown; more < 2 || more > 4 { // of four, of which the machine may hide some
		t.Errorf("%d events of one connection", more)
	}
}

// mounted mounts a small file system, for the test alone.
func mounted(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// On a full disk a flight recorder ends, and says so; what was written is read.
func TestRecordFullFolder(t *testing.T) {
	s := newStage(t)
	path := filepath.Join(mounted(t, "size=1m"), "flight")
	p := s.record(path, "--max-size", "1GiB")
	s.storm(100_000) // some 3 MiB
	if code := p.end(); code != 1 || !strings.Contains(p.said.String(), "no space left on device") {
		t.Errorf("exit code %d: %s", code, p.said.String())
	}
	r := reviewed(t, path)
	r.cut(t)
	if r.shown < 50_000 {
		t.Errorf("%d events in a mebibyte", r.shown)
	}
}

// A path that can't be written to is refused before anything is traced.
func TestRecordNowhere(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := mounted(t, "size=1m")
	for _, name := range []string{"there", "full"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{filepath.Join(dir, "a.tcptrace")},
		{filepath.Join(dir, "there")},
		{filepath.Join(dir, "new"), "--max-size", "1MiB"},
	} {
		out, err := exec.Command(path, append([]string{"record"}, args...)...).CombinedOutput()
		exit := new(exec.ExitError)
		if !errors.As(err, &exit) || exit.ExitCode() != 1 ||
			!strings.Contains(string(out), "read-only file system") || bytes.Count(out, []byte{'\n'}) != 1 {
			t.Errorf("%q: %v: %s", args, err, out)
		}
	}
}

// A recorder whose folder is deleted ends when it needs another file.
func TestRecordFolderDeleted(t *testing.T) {
	s := newStage(t)
	dir := filepath.Join(t.TempDir(), "flight")
	p := s.record(dir, "--max-size", "1MiB") // a new file for every 64 KiB
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.storm(50_000)
	if code := p.end(); code != 1 || !strings.Contains(p.said.String(), "no such file or directory") {
		t.Errorf("exit code %d: %s", code, p.said.String())
	}
}

// Two recorders of the same folder see the same, and don't disturb each other.
func TestRecordBeside(t *testing.T) {
	s := newStage(t)
	dir := filepath.Join(t.TempDir(), "flight")
	alone := filepath.Join(t.TempDir(), "a.tcptrace")
	tools := []*tool{s.record(dir, "--max-size", "64MiB"), s.record(dir, "--max-size", "64MiB"), s.record(alone)}
	s.storm(5_000)
	var misses []map[string]uint64
	for _, p := range tools {
		misses = append(misses, p.misses())
		p.signal(syscall.SIGINT)
		if code := p.end(); code != 0 {
			t.Errorf("exit code %d: %s", code, p.said.String())
		}
	}
	r := reviewed(t, alone)
	r.whole(t)
	s.account(&r, misses[2])
	both := reviewed(t, dir)
	both.whole(t)
	unseen, _ := s.unseen(misses[0])
	unseenToo, _ := s.unseen(misses[1])
	if want := 8*s.sent() - unseen - unseenToo; both.lost != 0 || both.shown != want {
		t.Errorf("two recorders recorded %d events of %d, and lost %d", both.shown, want, both.lost)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("%v: %v", err, files)
	}
}

// memoryCgroup makes a cgroup with a limit, of whichever version limits memory
// here.
func memoryCgroup(t *testing.T, limit string) (procs string) {
	t.Helper()
	parent, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil && slices.Contains(strings.Fields(string(b)), "memory") {
		parent, file = "/sys/fs/cgroup", "memory.max"
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp(parent, "tcptrace-test-")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no cgroup limits memory here")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, file), []byte(limit), 0); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "cgroup.procs")
}

// In a cgroup with less memory than its buffer takes a recorder says so; a
// smaller buffer helps.
func TestRecordMemoryLimit(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := newStage(t)
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	const enter = `echo $$ >"$0" && exec "$@"`
	out, err := exec.Command("/bin/sh", append([]string{"-c", enter, memoryCgroup(t, "40M"), path}, s.args(file)...)...).CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 ||
		!strings.Contains(string(out), "smaller --buffer") || bytes.Count(out, []byte{'\n'}) != 1 {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	p := launchAt(t, "/bin/sh", nil, nil,
		append([]string{"-c", enter, memoryCgroup(t, "100M"), path}, s.args(file, "--buffer", "1MiB")...)...)
	s.recordsAll(p, file)
}

// recordsAll makes a small storm, ends the recorder, and wants all of the storm
// in its file.
func (s *stage) recordsAll(p *tool, file string) {
	s.t.Helper()
	s.storm(1_000)
	misses := p.misses()
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		s.t.Errorf("exit code %d: %s", code, p.said.String())
	}
	r := reviewed(s.t, file)
	r.whole(s.t)
	s.account(&r, misses)
}

// Nothing needs the BPF file system.
func TestRecordNoBPFFS(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := newStage(t)
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	const script = `while grep -q ' /sys/fs/bpf ' /proc/self/mounts; do umount /sys/fs/bpf || exit 9; done; exec "$0" "$@"`
	p := launchAt(t, "/bin/sh", nil, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS},
		append([]string{"-c", script, path}, s.args(file)...)...)
	s.recordsAll(p, file)
}

// When the clock is set, events before and after have the time that it showed
// then.
func TestRecordClockSteps(t *testing.T) {
	var steps []func(*testing.T)
	for _, by := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
		steps = append(steps, func(t *testing.T) {
			ts := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
			if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
				t.Fatal(err)
			}
		})
	}
	recordAcross(t, steps)
}

// The same when the machine was suspended in between, which CLOCK_MONOTONIC
// knows nothing of. The clock of its hardware has it wake up.
func TestRecordSuspend(t *testing.T) {
	suspend := func(t *testing.T) {
		before := slept(t)
		for _, to := range [][2]string{{"/sys/class/rtc/rtc0/wakealarm", "+3"}, {"/sys/power/mem_sleep", "deep"}, {"/sys/power/state", "mem"}} {
			if err := os.WriteFile(to[0], []byte(to[1]), 0); err != nil {
				t.Fatal(err)
			}
		}
		if d := slept(t) - before; d < time.Second {
			t.Fatalf("it slept for %v", d)
		}
	}
	recordAcross(t, []func(*testing.T){suspend})
}

// slept is how long this machine was suspended.
func slept(t *testing.T) time.Duration {
	t.Helper()
	var now [2]unix.Timespec
	for i, clock := range []int32{unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME} {
		if err := unix.ClockGettime(clock, &now[i]); err != nil {
			t.Fatal(err)
		}
	}
	return time.Duration(now[1].Nano() - now[0].Nano())
}

// recordAcross records a little before, between and after steps of the clock.
func recordAcross(t *testing.T, steps []func(*testing.T)) {
	t.Helper()
	if os.Getenv(labtest.NoBlindSpot) == "" {
		t.Skipf("it changes the machine's clock: only in VMs, by make test-kernels PACKAGES=./cmd/tcptrace RUN=%s", t.Name())
	}
	self, err := os.Executable() // there is no compiler in a VM
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TCPTRACE_TEST_MAIN", "1")
	s := newStage(t)
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	p := launchAt(t, self, nil, nil, s.args(file, "--flush", "100ms")...)
	var spans [][2]time.Time
	connect := func() {
		begin := time.Now()
		s.storm(1)
		spans = append(spans, [2]time.Time{begin, time.Now()})
		// An event has the time of the clock when it is read, a moment later.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := lab.Until(ctx, func() (bool, error) {
			r := reviewedBy(t, self, file)
			return r.shown == uint64(4*len(spans)), nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	connect()
	for _, step := range steps {
		step(t)
		connect()
	}
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.said.String())
	}
	r := reviewedBy(t, self, file)
	r.whole(t)
	if r.shown != uint64(4*len(spans)) {
		t.Fatalf("%d events: %s", r.shown, r.events)
	}
	for i, line := range r.events {
		var e struct{ Time time.Time }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		// The two clocks are not read at the very same time.
		const slack = 10 * time.Millisecond
		if span := spans[i/4]; e.Time.Before(span[0].Add(-slack)) || e.Time.After(span[1].Add(slack)) {
			t.Errorf("event %d is of %v, the clock showed %v to %v", i, e.Time, span[0], span[1])
		}
	}
}
