// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

// binary builds the program as users get it, once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tcptrace-e2e-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for a user without rights
		return "", err
	}
	path := filepath.Join(dir, "tcptrace")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// tool is a running tcptrace.
type tool struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr *bufio.Reader
	said   strings.Builder // stderr so far
	progs  []ebpf.ProgramID
}

// trace starts the program and waits until it traces.
func trace(t *testing.T, stdout *os.File, args ...string) *tool {
	t.Helper()
	return launch(t, stdout, nil, args...)
}

func launch(t *testing.T, stdout *os.File, attr *syscall.SysProcAttr, args ...string) *tool {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return launchAt(t, path, stdout, attr, args...)
}

// launchAt starts the program at path, or what starts it.
func launchAt(t *testing.T, path string, stdout *os.File, attr *syscall.SysProcAttr, args ...string) *tool {
	t.Helper()
	p := &tool{t: t, cmd: exec.Command(path, args...)}
	p.cmd.Stdout = stdout
	p.cmd.SysProcAttr = attr
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stderr = bufio.NewReader(pipe)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // no effect once it has ended
	line, err := p.stderr.ReadString('\n')
	p.said.WriteString(line)
	if err != nil || !strings.Contains(line, "tracing ") {
		t.Fatalf("%v in place of the banner: %q", err, line)
	}
	p.progs = programs(t, p.cmd.Process.Pid)
	return p
}

// end waits for the end and returns the exit code. Nothing of the program's may
// be left in the kernel.
func (p *tool) end() int {
	p.t.Helper()
	rest, err := io.ReadAll(p.stderr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.said.Write(rest)
	if err := p.cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	for _, id := range p.progs {
		// The kernel frees a program when the last reader of it is done.
		err := lab.Until(ctx, func() (bool, error) {
			prog, err := ebpf.NewProgramFromID(id)
			if errors.Is(err, os.ErrNotExist) {
				return true, nil
			}
			if err == nil {
				err = prog.Close()
			}
			return false, err
		})
		if err != nil {
			p.t.Errorf("BPF program %d is still there: %v", id, err)
		}
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *tool) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

var progID = regexp.MustCompile(`(?m)^prog_id:\s*(\d+)`)

// programs are the ids of the BPF programs that a process holds.
func programs(t *testing.T, pid int) (ids []ebpf.ProgramID) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // closed meanwhile
		}
		if m := progID.FindSubmatch(b); m != nil {
			n, _ := strconv.ParseUint(string(m[1]), 10, 32)
			ids = append(ids, ebpf.ProgramID(n))
		}
	}
	if len(ids) == 0 {
		t.Fatal("the program holds no BPF program")
	}
	return ids
}

// misses is how often each program was not run because another ran on its CPU.
func (p *tool) misses() map[string]uint64 {
	p.t.Helper()
	out := map[string]uint64{}
	seen := map[ebpf.ProgramID]bool{}
	for _, id := range p.progs {
		if seen[id] {
			continue
		}
		seen[id] = true
		prog, err := ebpf.NewProgramFromID(id)
		if err != nil {
			p.t.Fatal(err)
		}
		info, err := prog.Info()
		if err != nil {
			p.t.Fatal(err)
		}
		stats, err := prog.Stats()
		if err != nil {
			p.t.Fatal(err)
		}
		out[info.Name] += stats.RecursionMisses
		if err := prog.Close(); err != nil {
			p.t.Fatal(err)
		}
	}
	return out
}

func tempFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

const stormSize = 200_000

var kindCount = regexp.MustCompile(`(refused|peer|state) (\d+)`)

// TestStorm traces connections to a closed port as fast as they can be made:
// nothing is lost, and what was traced, what the machine hides from BPF and
// what the kernel's recursion guard kept from it is what the kernel counted.
func TestStorm(t *testing.T) {
	for _, command := range []string{"resets", "events"} {
		for _, format := range []string{"table", "wide", "json", "csv"} {
			for _, sink := range []string{"file", "pipe", "late"} {
				t.Run(command+"/"+format+"/"+sink, func(t *testing.T) { testStorm(t, command, format, sink) })
			}
		}
	}
}

func testStorm(t *testing.T, command, format, sink string) {
	ns := labtest.Namespace(t)
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	blind, err := labtest.StartBlindSpot()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blind.Close(); err != nil {
			t.Error(err)
		}
	})
	out := tempFile(t)
	var stdout *os.File
	type output struct {
		lines int
		last  string
	}
	read := make(chan output, 1)
	begin := make(chan struct{}) // to read from the pipe
	if sink == "file" {
		stdout = out
	} else {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout = w
		go func() {
			<-begin
			var o output
			for scan := bufio.NewScanner(r); scan.Scan(); o.lines++ {
				o.last = scan.Text()
			}
			r.Close()
			read <- o
		}()
	}
	if sink == "pipe" {
		close(begin)
	}
	before, err := ns.Counters()
	if err != nil {
		t.Fatal(err)
	}
	p := trace(t, stdout, command, "-o", format, "--netns", fmt.Sprint(ns.Inum()))
	const threads = 2
	if err := ns.Storm(t.Context(), place.Addr, stormSize, threads); err != nil {
		t.Fatal(err)
	}
	if sink == "late" { // all of the storm is waiting
		close(begin)
	}
	misses := p.misses()
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.said.String())
	}
	t.Logf("user %v, system %v", p.cmd.ProcessState.UserTime(), p.cmd.ProcessState.SystemTime())
	if sink != "file" {
		stdout.Close()
	} else {
		b, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		read <- output{bytes.Count(b, []byte{'\n'}), lastLine(b)}
	}
	after, err := ns.Counters()
	if err != nil {
		t.Fatal(err)
	}
	hidden, err := blind.Count(func(e labtest.TraceEvent) bool { return e.Involves(place.Addr) })
	if err != nil {
		t.Fatal(err)
	}

	printed := <-read
	if format == "json" {
		p.said.WriteString(printed.last) // the summary
	}
	said := strings.NewReplacer(`"`, "", ":", " ", ",", " ").Replace(p.said.String())
	if !strings.Contains(said, "0 lost") && !strings.Contains(said, "lost 0") {
		t.Errorf("events were lost: %s", p.said.String())
	}
	got := map[string]uint64{}
	for _, m := range kindCount.FindAllStringSubmatch(said, -1) {
		got[m[1]], _ = strconv.ParseUint(m[2], 10, 64)
	}
	counter := lab.Delta(before, after)["OutRsts"]
	if counter != stormSize {
		t.Errorf("OutRsts says %d of %d", counter, stormSize)
	}
	for _, c := range []struct {
		kind, point, program string
		want                 uint64
	}{
		{"refused", lab.SendReset, "send_reset", counter},
		{"peer", lab.ReceiveReset, "receive_reset", stormSize},
		{"state", lab.SetState, "set_state", 2 * stormSize},
	} {
		if c.kind == "state" && command == "resets" {
			continue
		}
		if got[c.kind]+uint64(hidden[c.point])+misses[c.program] != c.want {
			t.Errorf("%s: %d traced and %d hidden from BPF, %d recursion misses; the kernel made %d",
				c.point, got[c.kind], hidden[c.point], misses[c.program], c.want)
		}
	}
	checkStormAudit(t, p.said.String(), format, counter, uint64(hidden[lab.SendReset])+misses["send_reset"])
	header := map[string]int{"table": 1, "wide": 1, "csv": 1, "json": 1}[format] // json: the summary
	if want := int(got["refused"] + got["peer"] + got["state"]); printed.lines != want+header {
		t.Errorf("%d lines for %d events", printed.lines, want)
	}
}

// checkStormAudit looks at what the program says of the resets of a storm: what
// the kernel counted, and that it was all traced, or what of it was hidden.
func checkStormAudit(t *testing.T, said, format string, counter, hidden uint64) {
	t.Helper()
	if format == "json" {
		a := parseSummary(t, said[strings.LastIndex(said, "\n")+1:]).row(t, "OutRsts")
		want := "exact"
		if hidden > 0 {
			want = "missing"
		}
		if a.Kernel != counter || a.Traced != counter-hidden || a.Bracket != 0 || a.Verdict != want {
			t.Errorf("%d resets, %d of them hidden: the audit says %+v", counter, hidden, a)
		}
		return
	}
	want := "all were traced\n"
	if hidden > 0 {
		want = fmt.Sprintf("not traced: %d reset", hidden)
	}
	if !strings.Contains(said, fmt.Sprintf("%d resets in 1 namespace; ", counter)) || !strings.Contains(said, "; "+want) {
		t.Errorf("%d resets, %d of them hidden: said %s", counter, hidden, said)
	}
}

// summary is the last line in JSON.
type summary struct {
	Event                          string
	Events, Filtered, Merged, Lost uint64
	Audit                          []auditRow
}

type auditRow struct {
	NetNS                   uint32
	Counter                 string
	Kernel, Traced, Bracket uint64
	Verdict, Note           string
}

func parseSummary(t *testing.T, line string) (s summary) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), &s); err != nil || s.Event != "summary" {
		t.Fatalf("%v: no summary: %q", err, line)
	}
	return s
}

// row is the only one of a counter.
func (s summary) row(t *testing.T, counter string) (row auditRow) {
	t.Helper()
	n := 0
	for _, a := range s.Audit {
		if a.Counter == counter {
			row, n = a, n+1
		}
	}
	if n != 1 {
		t.Fatalf("%d rows of %s: %+v", n, counter, s.Audit)
	}
	return row
}

// stormPort is where [lab.Namespace.Storm] connects to.
const stormPort = 9

// TestForcedLoss loses events on purpose, by a buffer that is far too small and
// by a program that is stopped for the whole of a storm: all that the kernel
// made is printed or counted as lost, where the gap is, and the audit says that
// nothing was missed before that.
func TestForcedLoss(t *testing.T) {
	for _, tt := range []struct {
		name, buffer string
		stopped      bool
	}{
		{"small buffer", "4KiB", false},
		{"stopped", "1MiB", true},
	} {
		t.Run(tt.name, func(t *testing.T) { testForcedLoss(t, tt.buffer, tt.stopped) })
	}
}

func testForcedLoss(t *testing.T, buffer string, stopped bool) {
	ns := labtest.Namespace(t)
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	blind, err := labtest.StartBlindSpot()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blind.Close(); err != nil {
			t.Error(err)
		}
	})
	out := tempFile(t)
	p := trace(t, out, "events", "-o", "json", "--strict", "--buffer", buffer, "--netns", fmt.Sprint(ns.Inum()))
	// wait has what was printed satisfy a condition.
	wait := func(cond func(text []byte) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := lab.Until(ctx, func() (bool, error) {
			b, err := os.ReadFile(out.Name())
			return cond(b), err
		}); err != nil {
			t.Fatal(err)
		}
	}
	var length int
	more := func(b []byte) bool { return len(b) > length }
	refuse(t, ns)
	wait(more)
	if stopped {
		p.signal(syscall.SIGSTOP)
		p.await('T')
	}
	const connections = 20_000 // 80,000 events of more than 100 bytes
	if err := ns.Storm(t.Context(), place.Addr, connections, 2); err != nil {
		t.Fatal(err)
	}
	if stopped {
		p.signal(syscall.SIGCONT)
	}
	wait(func(b []byte) bool {
		length = len(b)
		return bytes.Contains(b, []byte(`"event":"lost"`))
	})
	refuse(t, ns) // behind the gap
	wait(more)
	misses := p.misses()
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 3 {
		t.Errorf("exit code %d: %s", code, p.said.String())
	}
	hidden, err := blind.Count(func(e labtest.TraceEvent) bool { return e.Involves(place.Addr) })
	if err != nil {
		t.Fatal(err)
	}
	counters, err := ns.Counters()
	if err != nil {
		t.Fatal(err)
	}

	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	sum := parseSummary(t, lines[len(lines)-1])
	var shown, lost uint64
	gaps := 0
	firstLost, lastLost, firstStorm, lastStorm := -1, -1, -1, -1
	for i, line := range lines[:len(lines)-1] {
		var e struct {
			Event        string
			Count        uint64
			LPort, RPort uint16
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		mark := func(first, last *int) {
			if *last = i; *first < 0 {
				*first = i
			}
		}
		switch {
		case e.Event == "lost":
			lost += e.Count
			gaps++
			mark(&firstLost, &lastLost)
			continue
		case e.LPort == stormPort || e.RPort == stormPort:
			mark(&firstStorm, &lastStorm)
		}
		shown++
	}
	if shown != sum.Events || lost != sum.Lost || lost == 0 {
		t.Errorf("%d lines and %d lost; the summary says %d and %d", shown, lost, sum.Events, sum.Lost)
	}
	// A refused connection is a reset sent, one received, and two changes.
	made, unseen := 4*counters["OutRsts"], uint64(0)
	for point, program := range map[string]string{lab.SendReset: "send_reset", lab.ReceiveReset: "receive_reset", lab.SetState: "set_state"} {
		unseen += uint64(hidden[point]) + misses[program]
	}
	if shown+lost+unseen != made {
		t.Errorf("%d printed, %d lost, %d hidden from BPF; the kernel made %d", shown, lost, unseen, made)
	}
	if firstStorm < 0 || firstLost < firstStorm {
		t.Errorf("lost lines %d to %d, the storm's are %d to %d of %d", firstLost, lastLost, firstStorm, lastStorm, len(lines))
	}
	if stopped && (firstLost < lastStorm || lastLost-firstLost+1 != gaps) { // one gap, behind all that there was room for
		t.Errorf("lost lines %d to %d, the storm's are %d to %d", firstLost, lastLost, firstStorm, lastStorm)
	}
	checkStormAudit(t, lines[len(lines)-1], "json", counters["OutRsts"], uint64(hidden[lab.SendReset])+misses["send_reset"])
}

// await waits until the program is in a state, as in proc_pid_stat(5).
func (p *tool) await(state byte) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	if err := lab.Until(ctx, func() (bool, error) {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return false, nil // the thread has ended
			}
			if _, rest, ok := bytes.Cut(b, []byte(") ")); !ok || rest[0] != state {
				return false, nil
			}
		}
		return true, err
	}); err != nil {
		p.t.Fatal(err)
	}
}

func lastLine(b []byte) string {
	b = bytes.TrimRight(b, "\n")
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// refuse makes two refused connections: four events, of which the machine may
// hide one from BPF.
func refuse(t *testing.T, ns *lab.Namespace) {
	t.Helper()
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := lab.Refused(t.Context(), place); err != nil {
			t.Fatal(err)
		}
	}
}

var eventCount = regexp.MustCompile(`(\d+) events`)

func TestSignals(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			ns := labtest.Namespace(t)
			out := tempFile(t)
			p := trace(t, out, "resets", "--netns", fmt.Sprint(ns.Inum()))
			refuse(t, ns)
			p.signal(s)
			p.signal(s) // timeout(1) sends two, one of them to its whole group
			code := p.end()
			m := eventCount.FindStringSubmatch(p.said.String())
			if code != 0 || m == nil {
				t.Fatalf("exit code %d, said %q", code, p.said.String())
			}
			n, _ := strconv.Atoi(m[1])
			b, err := os.ReadFile(out.Name())
			if err != nil || n < 2 || bytes.Count(b, []byte{'\n'}) != n+1 {
				t.Errorf("%v, %d events, printed %q", err, n, b)
			}
		})
	}
}

// The reader of a pipe goes away after the first line, and no event follows.
func TestHead(t *testing.T) {
	ns := labtest.Namespace(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := trace(t, w, "resets", "--no-header", "-o", "json", "--netns", fmt.Sprint(ns.Inum()))
	w.Close()
	refuse(t, ns)
	if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if code := p.end(); code != 0 || strings.Contains(p.said.String(), "pipe") || strings.Contains(p.said.String(), "filtered") {
		t.Errorf("exit code %d, said %q", code, p.said.String())
	}
}

func TestFullDisk(t *testing.T) {
	ns := labtest.Namespace(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	p := trace(t, full, "resets", "--no-header", "--netns", fmt.Sprint(ns.Inum()))
	refuse(t, ns)
	if code := p.end(); code != 1 || !strings.Contains(p.said.String(), "no space left") {
		t.Errorf("exit code %d, said %q", code, p.said.String())
	}
}

// Each command loads what it needs, and no more.
func TestLoaded(t *testing.T) {
	for command, want := range map[string]string{
		"retrans": "destroy_sock dwellers holders retransmit_skb retransmit_synack set_state",
		"resets":  "destroy_sock dwellers holders receive_reset send_reset set_state",
		"states":  "destroy_sock holders set_state",
		"events":  "destroy_sock dwellers holders receive_reset retransmit_skb retransmit_synack send_reset set_state",
	} {
		t.Run(command, func(t *testing.T) {
			p := trace(t, tempFile(t), command)
			got := strings.Join(slices.Sorted(maps.Keys(p.misses())), " ")
			p.signal(syscall.SIGINT)
			if code := p.end(); code != 0 || got != want {
				t.Errorf("exit code %d, programs %s, want %s", code, got, want)
			}
		})
	}
}

// What is missing is said in one line, with the remedy.
func TestMissing(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, script string
		attr         syscall.SysProcAttr
		want         string
	}{
		{"rights", `exec "$0" retrans`, syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
			"missing CAP_BPF and CAP_PERFMON: run it as root"},
		{"rights of the demo", `exec "$0" demo`, syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
			"missing CAP_NET_ADMIN and CAP_SYS_ADMIN: run it as root"},
		{"rights over the host", `exec "$0" retrans`,
			syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
			},
			"user namespace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command("/bin/sh", "-c", tt.script, path)
			cmd.SysProcAttr = &tt.attr
			out, err := cmd.CombinedOutput()
			if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("%v in place of exit code 1", err)
			}
			if s := string(out); !strings.Contains(s, tt.want) || strings.Count(s, "\n") != 1 {
				t.Errorf("said %q", s)
			}
		})
	}
}

// The demo shows what it promises, by itself.
func TestDemo(t *testing.T) {
	out := tempFile(t)
	p := trace(t, out, "demo")
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.said.String())
	}
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{"sent refused", "syn 1 ", "synack 1 ", "rto 1 ", "rto 2 ", "rto 3 ", " tlp ", " fast ", "sent linger", "sent unread_data"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if n := strings.Count(text, "\n# "); n != 8 {
		t.Errorf("%d troubles announced", n)
	}
	if t.Failed() {
		t.Log(text)
	}
}

// Interrupted, the demo leaves nothing behind either.
func TestDemoInterrupted(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := trace(t, w, "demo")
	w.Close()
	lines := bufio.NewScanner(r)
	for lines.Scan() && !strings.Contains(lines.Text(), "syn 1 ") {
	}
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.said.String())
	}
	for lines.Scan() {
	}
}

// terminal opens a pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestClosedTerminal(t *testing.T) {
	ns := labtest.Namespace(t)
	master, slave := terminal(t)
	p := launch(t, slave, &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}, "resets", "--netns", fmt.Sprint(ns.Inum()))
	slave.Close()
	refuse(t, ns)
	if _, err := bufio.NewReader(master).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	master.Close()
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d, said %q", code, p.said.String())
	}
}

// hostile is a name that would change a terminal's title, and break a line, a
// quoted string and a row.
const hostile = "\x1b]0;pwned\x07\"a,b\n"

// A process may call itself what it likes: its name prints harmlessly, and what
// is for programs parses.
func TestHostileName(t *testing.T) {
	for _, format := range []string{"table", "wide", "json", "csv"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			ns := labtest.Namespace(t)
			out := tempFile(t)
			args := []string{"resets", "--direction", "received", "-o", format, "--netns", fmt.Sprint(ns.Inum()), "-c", "1"}
			lines := 2 // json: the event and the summary; csv: the headings and the event
			if format == "table" || format == "wide" {
				args, lines = append(args, "--no-header"), 1
			}
			if format == "table" {
				args = append(args, "--columns", "time,kind,pid,comm")
			}
			p := trace(t, out, args...)
			pid := connectAs(t, ns, hostile)
			if code := p.end(); code != 0 {
				t.Fatalf("exit code %d, said %q", code, p.said.String())
			}
			b, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			if i := bytes.IndexFunc(b, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }); i >= 0 {
				t.Errorf("control character at %d of %q", i, b)
			}
			if n := bytes.Count(b, []byte{'\n'}); n != lines {
				t.Errorf("%d lines: %q", n, b)
			}
			first, _, _ := bytes.Cut(b, []byte{'\n'})
			switch format {
			case "json":
				var e struct {
					Comm string
					PID  int
				}
				if err := json.Unmarshal(first, &e); err != nil || e.Comm != hostile || e.PID != pid {
					t.Errorf("%v: %q of %d, want %q of %d", err, e.Comm, e.PID, hostile, pid)
				}
			case "csv":
				rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
				if err != nil || len(rows) != 2 {
					t.Fatalf("%v: %d rows", err, len(rows))
				}
				for i, h := range rows[0] {
					if h == "comm" && rows[1][i] != `\x1b]0;pwned\x07"a,b\n` {
						t.Errorf("comm is %q", rows[1][i])
					}
				}
			default:
				if !strings.Contains(string(b), `\x1b]0;pwned\x07"a,b\n`) {
					t.Errorf("the name is not in %q", b)
				}
			}
		})
	}
}

// connectAs has a process with that name be refused connections. The process
// is this test's binary.
func connectAs(t *testing.T, ns *lab.Namespace, name string) (pid int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestConnectAs$")
	cmd.Env = append(os.Environ(), "TCPTRACE_TEST_CONNECT_AS="+name)
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(dup(t, ns.FD())), "netns")}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return cmd.Process.Pid
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestConnectAs is the process of connectAs.
func TestConnectAs(t *testing.T) {
	name, ok := os.LookupEnv("TCPTRACE_TEST_CONNECT_AS")
	if !ok {
		return // not a test of its own
	}
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	if err := unix.Setns(3, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the machine may hide one from BPF
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("%v in place of a refusal", err)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
	}
}
