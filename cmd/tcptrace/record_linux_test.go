// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

// replay runs the program without rights.
func replay(t *testing.T, args ...string) (code int, stdout []byte, stderr string) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.Bytes(), said.String()
}

// What live prints is what its recording shows, byte by byte, also when it was
// recorded again, or in another order of formats.
func TestRecording(t *testing.T) {
	for command, trouble := range map[string]func(*testing.T, *lab.Namespace){
		"retrans": lose, "resets": refuse, "events": refuse,
	} {
		for _, format := range []string{"table", "wide", "json", "csv"} {
			t.Run(command+"/"+format, func(t *testing.T) {
				t.Parallel()
				ns := labtest.Namespace(t)
				dir := t.TempDir()
				file, again := filepath.Join(dir, "a.tcptrace"), filepath.Join(dir, "b.tcptrace")
				out := tempFile(t)
				p := trace(t, out, command, "-o", format, "--netns", fmt.Sprint(ns.Inum()), "-w", file)
				trouble(t, ns)
				p.signal(syscall.SIGINT)
				if code := p.end(); code != 0 {
					t.Fatalf("exit code %d: %s", code, p.said.String())
				}
				live, err := os.ReadFile(out.Name())
				if err != nil || bytes.Count(live, []byte{'\n'}) < 2 {
					t.Fatalf("%v, printed %q", err, live)
				}
				for _, args := range [][]string{
					{"replay", file, "-w", again}, {"replay", again}, {command, "-r", file},
				} {
					code, got, said := replay(t, append(args, "-o", format)...)
					if code != 0 || !bytes.Equal(got, live) {
						t.Errorf("%v: exit code %d: %s\n got %s\nwant %s", args, code, said, got, live)
					}
				}
			})
		}
	}
}

// A recording goes through a pipe, and has what the one command printed.
func TestRecordPipe(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ns := labtest.Namespace(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := trace(t, w, "record", "-", "--netns", fmt.Sprint(ns.Inum()))
	w.Close()
	cmd := exec.Command(path, "replay", "-", "-o", "json")
	cmd.Stdin = r
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	r.Close()
	refuse(t, ns)
	lines := bufio.NewScanner(out)
	if !lines.Scan() { // while the recorder is still there
		t.Fatalf("nothing comes through: %v", lines.Err())
	}
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.said.String())
	}
	n, last := 1, ""
	for ; lines.Scan(); n++ {
		last = lines.Text()
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if sum := parseSummary(t, last); sum.Events != uint64(n-1) || sum.Events < 2 || len(sum.Audit) == 0 {
		t.Errorf("%d lines, %+v", n, sum)
	}

	// The pipe's reader goes away.
	r, w, err = os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p = trace(t, w, "record", "-", "--netns", fmt.Sprint(ns.Inum()))
	w.Close()
	r.Close()
	if code := p.end(); code != 0 || strings.Contains(p.said.String(), "pipe") {
		t.Errorf("exit code %d: %s", code, p.said.String())
	}
}

// awaitEvents waits until a recording that is being written, which is no damage
// and needs no word, has n events that can be read, and returns their lines.
func awaitEvents(t *testing.T, path string, n int) (lines []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := lab.Until(ctx, func() (bool, error) {
		code, out, said := replay(t, "replay", path, "-q", "-o", "json", "--count", fmt.Sprint(n))
		if code != 0 {
			return false, fmt.Errorf("exit code %d: %s", code, said)
		}
		lines = out[:bytes.LastIndexByte(bytes.TrimSuffix(out, []byte{'\n'}), '\n')+1] // without the summary
		return bytes.Count(lines, []byte{'\n'}) == n, nil
	}); err != nil {
		t.Fatal(err)
	}
	return lines
}

// A kill in a storm costs the last block at most: what was there before is
// readable, and the reader says what is missing.
func TestRecordKilled(t *testing.T) {
	ns := labtest.Namespace(t)
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	p := trace(t, nil, "record", file, "--event", "retransmit,reset,state", "--netns", fmt.Sprint(ns.Inum()))
	ctx, cancel := context.WithCancel(t.Context())
	storm := make(chan error, 1)
	go func() { storm <- ns.Storm(ctx, place.Addr, 10_000_000, 2) }()
	// What can be read is on disk. The file's size does not tell: a kill may cut a
	// write.
	before := awaitEvents(t, file, 1000)
	p.signal(syscall.SIGKILL)
	p.end()
	cancel()
	if err := <-storm; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	code, out, said := replay(t, "replay", file, "-o", "json")
	lines := bytes.Split(bytes.TrimSuffix(out, []byte{'\n'}), []byte{'\n'})
	sum := parseSummary(t, string(lines[len(lines)-1]))
	if !bytes.HasPrefix(out, before) || sum.Events != uint64(len(lines)-1) {
		t.Errorf("%d lines of %d events, begin with what was there: %v", len(lines), sum.Events, bytes.HasPrefix(out, before))
	}
	incomplete := strings.Contains(said, "incomplete")
	if !strings.Contains(said, "not finished") && !incomplete || (code == 1) != incomplete {
		t.Errorf("exit code %d: %s", code, said)
	}
	if len(sum.Audit) > 0 {
		t.Errorf("an audit that nobody made: %+v", sum.Audit)
	}
}

// A follower sees an event that is made after it started, through a rotation,
// too.
func TestFollow(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ns := labtest.Namespace(t)
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "recordings")
	args := []string{"record", dir, "--max-size", "4MiB", "--flush", "100ms", "--event", "reset", "--netns", fmt.Sprint(ns.Inum())}
	p := trace(t, nil, args...)
	follow := func() (*exec.Cmd, *bufio.Scanner) {
		cmd := exec.Command(path, "replay", "--follow", dir, "-o", "json", "--columns", "time")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd, bufio.NewScanner(out)
	}
	cmd, lines := follow()
	refuse(t, ns)
	if !lines.Scan() {
		t.Fatal("nothing to see")
	}
	first := lines.Text()
	if err := ns.Storm(t.Context(), place.Addr, 60_000, 2); err != nil { // more than one file
		t.Fatal(err)
	}
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 || !strings.Contains(p.said.String(), "; all were traced") && !strings.Contains(p.said.String(), "not traced") {
		t.Fatalf("exit code %d: %s", code, p.said.String())
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %d files", err, len(files))
	}
	code, out, said := replay(t, "replay", dir, "-o", "json", "--columns", "time")
	if code != 0 || !bytes.HasPrefix(out, []byte(first)) {
		t.Fatalf("exit code %d: %s", code, said)
	}
	// It sees all of them, and then of another recorder.
	p = trace(t, nil, args...)
	refuse(t, ns)
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.said.String())
	}
	_, out, _ = replay(t, "replay", dir, "-q", "-o", "json", "--columns", "time")
	all := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	want := all[len(all)-2] // the last is the summary
	for lines.Scan() && lines.Text() != want {
	}
	if lines.Text() != want {
		t.Errorf("the last is %s, not %s", lines.Text(), want)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	last := ""
	for lines.Scan() {
		last = lines.Text()
	}
	parseSummary(t, last)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// While it records, no thread has a right left, but the one to make files in
// another user's folder, if only that lets it.
func TestRecordRights(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	shared, err := os.MkdirTemp("", "tcptrace-record-") // nobody can't see t.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(shared) })
	if err := os.Chmod(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		attr  *syscall.SysProcAttr
		owner int
		kept  uint64
	}{
		{"root", nil, 0, 0},
		{"user", unprivileged(cap.BPF, cap.PERFMON), nobody, 0},
		{"root in the folder of a user", nil, nobody, 1 << cap.DAC_OVERRIDE},
	} {
		for _, folder := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/folder %v", tt.name, folder), func(t *testing.T) {
				ns := labtest.Namespace(t)
				place, err := ns.Loopback(lab.V4)
				if err != nil {
					t.Fatal(err)
				}
				dir, err := os.MkdirTemp(shared, "")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(dir, tt.owner, tt.owner); err != nil {
					t.Fatal(err)
				}
				target, kept := filepath.Join(dir, "file"), uint64(0)
				args := []string{"record", target}
				if folder {
					target, kept = dir, tt.kept
					args = []string{"record", dir, "--max-size", "2MiB"}
				}
				p := launchAt(t, own, nil, tt.attr, append(args, "--event", "reset", "--netns", fmt.Sprint(ns.Inum()))...)
				checkDropped(t, p.cmd.Process.Pid, neededLater(t)|kept)
				refuse(t, ns)
				if folder {
					if err := ns.Storm(t.Context(), place.Addr, 40_000, 2); err != nil {
						t.Fatal(err)
					}
				}
				p.signal(syscall.SIGINT)
				if code := p.end(); code != 0 {
					t.Fatalf("exit code %d: %s", code, p.said.String())
				}
				files := []string{target}
				if folder {
					if files, err = filepath.Glob(filepath.Join(dir, "*.tcptrace")); err != nil || len(files) < 2 {
						t.Fatalf("%v, %d files", err, len(files))
					}
				}
				for _, f := range files {
					if fi, err := os.Stat(f); err != nil || fi.Mode() != 0o600 {
						t.Errorf("%v, %v", fi, err)
					}
				}
				// Each file has an audit of its own. Their sum is what the kernel
				// counted, and what the recorder said.
				counters, err := ns.Counters()
				if err != nil {
					t.Fatal(err)
				}
				var counted, all uint64
				for _, f := range append(slices.Clone(files), target) {
					code, out, said := replay(t, "replay", f, "-o", "json")
					sum := parseSummary(t, lastLine(out))
					if code != 0 || sum.Events == 0 {
						t.Errorf("%s: exit code %d: %s", f, code, said)
					}
					a := sum.row(t, "OutRsts")
					if a.Verdict == "unchecked" {
						t.Errorf("%s: %+v", f, a)
					}
					counted, all = counted+all, a.Kernel
				}
				if want := counters["OutRsts"]; counted != want || all != want || !strings.Contains(p.said.String(), fmt.Sprintf("%d resets in 1 namespace", want)) {
					t.Errorf("%d resets by file, %d in all; the kernel counted %d; said %s", counted, all, want, p.said.String())
				}
			})
		}
	}
}

// A disk that is full ends it, and what is there can be read.
func TestRecordFullDisk(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ns := labtest.Namespace(t)
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	const script = `mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"`
	file := filepath.Join(dir, "a.tcptrace")
	p := launchAt(t, "/bin/sh", nil, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, "-c", script, "sh", dir,
		own, "record", file, "--event", "reset", "--netns", fmt.Sprint(ns.Inum()))
	mounted, err := os.Open(fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, file))
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	ctx, cancel := context.WithCancel(t.Context())
	storm := make(chan error, 1)
	go func() { storm <- ns.Storm(ctx, place.Addr, 10_000_000, 2) }()
	code := p.end()
	cancel()
	<-storm
	told := regexp.MustCompile(`(?s)tcptrace: (\d+) events \(.*` + regexp.QuoteMeta(file) + `: no space left on device: (\d+) events are not in the recording\n$`).
		FindStringSubmatch(p.said.String())
	if code != 1 || told == nil {
		t.Fatalf("exit code %d: %s", code, p.said.String())
	}
	copied := filepath.Join(t.TempDir(), "copy")
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", mounted.Fd()))
	if err == nil {
		err = os.WriteFile(copied, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	code, out, said := replay(t, "replay", copied, "-o", "json")
	sum := parseSummary(t, lastLine(out))
	if code != 0 || sum.Events == 0 || !strings.Contains(said, "not finished") {
		t.Errorf("exit code %d, %d bytes, %+v: %s", code, len(b), sum, said)
	}
	all, err1 := strconv.ParseUint(told[1], 10, 64)
	missing, err2 := strconv.ParseUint(told[2], 10, 64)
	if err1 != nil || err2 != nil || all != sum.Events+missing {
		t.Errorf("%s events, %s not recorded, %d in the file", told[1], told[2], sum.Events)
	}
}

// The header of a recording says where it comes from.
func TestRecordHeader(t *testing.T) {
	ns := labtest.Namespace(t)
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	p := trace(t, nil, "record", file, "--netns", fmt.Sprint(ns.Inum()))
	refuse(t, ns)
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.said.String())
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	_, out, said := replay(t, "replay", file, "-o", "json")
	if !strings.Contains(said, " on "+host+" (Linux ") || !strings.Contains(said, fmt.Sprintf(" with --netns %d\n", ns.Inum())) {
		t.Errorf("said %s", said)
	}
	var first struct{ Event string }
	if line, _, _ := bytes.Cut(out, []byte{'\n'}); json.Unmarshal(line, &first) != nil || first.Event != "reset" && first.Event != "state" {
		t.Errorf("printed %s", out)
	}
}
