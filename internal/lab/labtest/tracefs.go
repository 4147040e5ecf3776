// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Tracepoints are the five that tcptrace attaches to, with their groups.
var Tracepoints = []string{
	"tcp/tcp_retransmit_skb", "tcp/tcp_retransmit_synack", "tcp/tcp_send_reset", "tcp/tcp_receive_reset",
	"sock/inet_sock_set_state",
}

// ErrLost is returned by a witness that was overrun: so much happened on this machine that the kernel dropped events. It
// knows nothing then, so do what was to be witnessed again: see Play.
var ErrLost = errors.New("labtest: tracefs lost events")

// ErrNoTracefs is returned where the kernel has no tracefs.
var ErrNoTracefs = errors.New("labtest: no tracefs")

// tracefs finds the tracing file system. If it is nowhere to be seen it is mounted where only this process can reach it:
// on a descriptor, at no path.
var tracefs = sync.OnceValues(func() (string, error) {
	for _, d := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if _, err := os.Stat(filepath.Join(d, "instances")); err == nil {
			return d, nil
		}
	}
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoTracefs, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoTracefs, err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoTracefs, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", mnt), nil
})

// InstancePrefix begins the name of every tracing instance of this process.
func InstancePrefix() string { return fmt.Sprintf("%s%d-", instancePrefix, os.Getpid()) }

const instancePrefix = "tcptrace-lab-"

var instances atomic.Int64

// sweep removes the instances of processes that died before they could.
func sweep(root string) {
	old, _ := filepath.Glob(filepath.Join(root, "instances", instancePrefix+"*"))
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), instancePrefix), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(dir) // another may be doing the same
		}
	}
}

// An instance is a private tracefs instance with the five tracepoints, read line by line as they come.
type instance struct {
	dir  string
	line func(string)
	done chan struct{}
	stop atomic.Bool
	err  error // of the reader, to be looked at after done

	mu    sync.Mutex
	marks map[string]chan struct{} // those that sync waits for
}

// startInstance starts to record, with a buffer of so many KiB for each processor. prepare is called before the
// tracepoints are enabled, line for every line, by one goroutine.
func startInstance(kib int, line func(string), prepare func(*instance) error) (*instance, error) {
	root, err := tracefs()
	if err != nil {
		return nil, err
	}
	in := &instance{
		dir:  filepath.Join(root, "instances", InstancePrefix()+strconv.FormatInt(instances.Add(1), 10)),
		line: line, done: make(chan struct{}), marks: map[string]chan struct{}{},
	}
	if err := os.Mkdir(in.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a tracing instance: %w", err)
	}
	pipe := -1
	err = in.setUp(kib, prepare)
	if err == nil {
		pipe, err = unix.Open(filepath.Join(in.dir, "trace_pipe"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		close(in.done)
		return nil, errors.Join(err, in.close())
	}
	go in.read(pipe)
	return in, nil
}

func (in *instance) setUp(kib int, prepare func(*instance) error) error {
	settings := [][2]string{
		{"buffer_size_kb", strconv.Itoa(kib)},
		{"trace_clock", "boot"},
		{"options/record-tgid", "1"},
	}
	for _, s := range settings {
		if err := in.write(s[0], s[1]); err != nil {
			return err
		}
	}
	_ = in.write("buffer_percent", "0")   // tell the reader of every event, since 5.0
	_ = in.write("options/hash-ptr", "0") // real addresses, since 5.12
	if err := prepare(in); err != nil {
		return err
	}
	for _, tp := range Tracepoints {
		if err := in.write("events/"+tp+"/enable", "1"); err != nil {
			return err
		}
	}
	return nil
}

func (in *instance) write(name, value string) error {
	// Not os.WriteFile: these files must not be created, and O_TRUNC empties some of them.
	f, err := os.OpenFile(filepath.Join(in.dir, name), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("tracefs: %w", err)
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("tracefs: %s: %w", name, err)
	}
	return nil
}

// read reads the pipe until the instance is stopped. It cannot be an os.File: not every kernel lets epoll wait for it.
func (in *instance) read(pipe int) {
	defer close(in.done)
	defer unix.Close(pipe)
	// A thread of its own, never given back, that a busy machine does not keep waiting.
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -19)
	buf := make([]byte, 1<<16)
	rest := 0
	for !in.stop.Load() {
		n, err := unix.Read(pipe, buf[rest:])
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			// In slices of time, for the sake of stop.
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(pipe), Events: unix.POLLIN}}, 20)
			if err != nil && !errors.Is(err, unix.EINTR) {
				in.err = err
				return
			}
			continue
		}
		if err != nil {
			in.err = fmt.Errorf("reading the trace: %w", err)
			return
		}
		text := string(buf[:rest+n])
		end := strings.LastIndexByte(text, '\n') + 1
		for line := range strings.Lines(text[:end]) {
			if _, mark, ok := strings.Cut(line, "tracing_mark_write: "); ok {
				in.passed(strings.TrimSpace(mark))
			} else if !strings.HasSuffix(line, " EVENTS]\n") { // LOST: sync tells
				in.line(line)
			}
		}
		rest = copy(buf, text[end:])
	}
}

// passed tells sync that a mark has been read.
func (in *instance) passed(mark string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if c := in.marks[mark]; c != nil {
		close(c)
		delete(in.marks, mark)
	}
}

// sync waits until everything that happened before has been read. It fails with ErrLost if the kernel has lost more
// events than before.
func (in *instance) sync(before int) error {
	mark := "sync-" + strconv.FormatInt(instances.Add(1), 10)
	c := make(chan struct{})
	in.mu.Lock()
	in.marks[mark] = c
	in.mu.Unlock()
	if err := in.write("trace_marker", mark); err != nil {
		return err
	}
	deadline := time.After(30 * time.Second)
	check := time.NewTicker(50 * time.Millisecond) // the mark can get lost too
	defer check.Stop()
	for done := false; ; {
		select {
		case <-c:
			done = true
		case <-in.done:
			return errors.Join(errors.New("the trace was ended"), in.err)
		case <-deadline:
			return errors.New("the trace does not come to an end")
		case <-check.C:
		}
		lost, err := in.lost()
		if err != nil {
			return err
		}
		if lost > before {
			return fmt.Errorf("%w: %d", ErrLost, lost-before)
		}
		if done {
			return nil
		}
	}
}

// lost counts the events that the ring buffer has dropped or overwritten.
func (in *instance) lost() (n int, err error) {
	files, err := filepath.Glob(filepath.Join(in.dir, "per_cpu/cpu*/stats"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if k == "overrun" || k == "commit overrun" || k == "dropped events" {
				i, err := strconv.Atoi(v)
				if err != nil {
					return 0, fmt.Errorf("%s: %w", file, err)
				}
				n += i
			}
		}
	}
	return n, nil
}

// close ends the recording and removes the instance.
func (in *instance) close() error {
	in.stop.Store(true)
	<-in.done
	if err := in.write("tracing_on", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := os.Remove(in.dir)
	for deadline := time.Now().Add(5 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // a user of the instance is just going away; there is nothing to wait for
		err = os.Remove(in.dir)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// witness is the one instance that all traces of the process share: it sees the whole machine, and a second one would
// see the same again. It exists while there is a trace.
var witness = struct {
	mu sync.Mutex
	in *instance

	lines  sync.RWMutex // guards traces
	traces map[*Trace]bool
}{traces: map[*Trace]bool{}}

// A Trace records the five tracepoints by tracefs: a witness that has nothing to do with BPF.
type Trace struct {
	in     *instance
	wanted []string
	lost   int // by the instance, before this trace
	mu     sync.Mutex
	events []TraceEvent
	err    error
}

// StartTrace starts to record the tracepoints. Given addresses, as a lab.Place has one of its own, it keeps only the
// events that concern them, and those of listeners on all addresses: others on this machine may be making a storm.
func StartTrace(addrs ...netip.Addr) (*Trace, error) {
	w := &witness
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.in == nil {
		const kib = 32 << 10
		in, err := startInstance(kib, dispatch, func(*instance) error { return nil })
		if err != nil {
			return nil, err
		}
		w.in = in
	}
	t := &Trace{in: w.in}
	var err error
	if t.lost, err = w.in.lost(); err != nil {
		return nil, err
	}
	for _, a := range addrs {
		t.wanted = append(t.wanted, a.Unmap().String())
	}
	if len(addrs) > 0 {
		t.wanted = append(t.wanted, " saddrv6=:: ", "src=[::]:")
	}
	w.lines.Lock()
	defer w.lines.Unlock()
	w.traces[t] = true
	return t, nil
}

// dispatch gives a line to those who want it.
func dispatch(line string) {
	witness.lines.RLock()
	defer witness.lines.RUnlock()
	for t := range witness.traces {
		t.take(line)
	}
}

// Close ends the trace.
func (t *Trace) Close() error {
	w := &witness
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines.Lock()
	delete(w.traces, t)
	last := len(w.traces) == 0
	w.lines.Unlock()
	if !last || w.in == nil {
		return nil
	}
	in := w.in
	w.in = nil
	return in.close()
}

// take keeps a line if it has one of the wanted texts, nil wanting all.
func (t *Trace) take(line string) {
	ok := t.wanted == nil
	for _, w := range t.wanted {
		ok = ok || strings.Contains(line, w)
	}
	if !ok {
		return
	}
	e, err := parseTrace(line)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.err = errors.Join(t.err, err)
		return
	}
	t.events = append(t.events, e)
}

// Events returns everything that happened so far, oldest first. It fails with ErrLost if some of it was lost.
func (t *Trace) Events() ([]TraceEvent, error) {
	if err := t.in.sync(t.lost); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return nil, t.err
	}
	return append([]TraceEvent(nil), t.events...), nil
}

// A TraceEvent is one event as tracefs printed it.
type TraceEvent struct {
	// Time is CLOCK_BOOTTIME, in microseconds' precision.
	Time time.Duration
	// Name is the tracepoint's.
	Name string
	// TID and Comm are those of the thread that was interrupted. TGID is its process, 0 if tracefs did not know.
	TID, TGID int
	Comm      string
	CPU       int
	// Skaddr and Skbaddr are kernel addresses, empty if the event has none, "0000000000000000" or "(null)" for NULL.
	Skaddr, Skbaddr string
	// Src and Dst are the local and the remote address, IPv4-mapped ones as IPv4.
	Src, Dst netip.AddrPort
	// State is the socket's; OldState and NewState are those of inet_sock_set_state. Without TCP_.
	State, OldState, NewState string
	// Reason is that of tcp_send_reset, empty on kernels without.
	Reason string
	// Protocol is that of inet_sock_set_state, without IPPROTO_.
	Protocol string
	// Err is that of tcp_retransmit_skb; HasErr says whether this kernel has it.
	Err    int
	HasErr bool
}

// Involves tells whether the event's source or destination is addr.
func (e TraceEvent) Involves(addr netip.Addr) bool {
	addr = addr.Unmap()
	return e.Src.Addr() == addr || e.Dst.Addr() == addr
}

// parseTrace reads a line: comm-tid (tgid) [cpu] flags time: name: key=value ...
func parseTrace(line string) (e TraceEvent, err error) {
	bad := fmt.Errorf("tracefs line not understood: %q", line)
	task, rest, ok := strings.Cut(line, " [0") // no machine has a thousand processors
	if !ok {
		return e, bad
	}
	task = strings.TrimSpace(task)
	if open := strings.LastIndexByte(task, '('); open >= 0 && strings.HasSuffix(task, ")") {
		e.TGID, _ = strconv.Atoi(strings.TrimSpace(task[open+1 : len(task)-1])) // dashes if unknown
		task = strings.TrimSpace(task[:open])
	}
	dash := strings.LastIndexByte(task, '-')
	if dash < 0 {
		return e, bad
	}
	e.Comm = task[:dash]
	if e.TID, err = strconv.Atoi(task[dash+1:]); err != nil {
		return e, bad
	}
	cpu, rest, _ := strings.Cut(rest, "] ")
	if e.CPU, err = strconv.Atoi(cpu); err != nil {
		return e, bad
	}
	_, rest, _ = strings.Cut(strings.TrimSpace(rest), " ") // flags
	stamp, rest, _ := strings.Cut(strings.TrimSpace(rest), ": ")
	sec, usec, ok := strings.Cut(stamp, ".")
	s, err1 := strconv.ParseInt(sec, 10, 64)
	us, err2 := strconv.ParseInt(usec, 10, 64)
	if !ok || err1 != nil || err2 != nil || len(usec) != 6 {
		return e, bad
	}
	e.Time = time.Duration(s)*time.Second + time.Duration(us)*time.Microsecond
	if e.Name, rest, ok = strings.Cut(rest, ": "); !ok {
		return e, bad
	}
	kv := map[string]string{}
	for _, f := range strings.Fields(rest) {
		if k, v, ok := strings.Cut(f, "="); ok {
			kv[k] = v
		}
	}
	e.Skaddr, e.Skbaddr = kv["skaddr"], kv["skbaddr"]
	e.Reason = kv["reason"]
	e.State = strings.TrimPrefix(kv["state"], "TCP_")
	e.OldState = strings.TrimPrefix(kv["oldstate"], "TCP_")
	e.NewState = strings.TrimPrefix(kv["newstate"], "TCP_")
	e.Protocol = strings.TrimPrefix(kv["protocol"], "IPPROTO_")
	if v, ok := kv["err"]; ok {
		e.HasErr = true
		e.Err, _ = strconv.Atoi(v)
	}
	e.Src = traceAddr(kv, "src", "sport", "saddr")
	e.Dst = traceAddr(kv, "dest", "dport", "daddr")
	return e, nil
}

// traceAddr takes an address from the form src=1.2.3.4:5, or from sport=, saddr=, saddrv6= and family=.
func traceAddr(kv map[string]string, whole, port, addr string) netip.AddrPort {
	if v, ok := kv[whole]; ok {
		ap, _ := netip.ParseAddrPort(v)
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	p, _ := strconv.ParseUint(kv[port], 10, 16)
	text := kv[addr]
	if kv["family"] == "AF_INET6" {
		text = kv[addr+"v6"]
	}
	a, _ := netip.ParseAddr(text)
	return netip.AddrPortFrom(a.Unmap(), uint16(p))
}

// String prints the event in a line, without time and place.
func (e TraceEvent) String() string {
	s := fmt.Sprintf("%s %v > %v", e.Name, e.Src, e.Dst)
	if e.OldState != "" {
		return fmt.Sprintf("%s %s %s > %s", s, e.Protocol, e.OldState, e.NewState)
	}
	if e.State != "" {
		s += " " + e.State
	}
	if e.Reason != "" {
		s += " " + e.Reason
	}
	if e.Err != 0 {
		s += fmt.Sprintf(" err %d", e.Err)
	}
	return s
}
