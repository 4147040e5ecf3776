// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
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
func InstancePrefix() string { return fmt.Sprintf("tcptrace-lab-%d-", os.Getpid()) }

var instances atomic.Int64

// A Trace is a private tracefs instance with the five tracepoints: a witness that has nothing to do with BPF.
type Trace struct {
	dir     string
	present map[string]bool
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

// StartTrace starts to record the tracepoints of the whole machine.
func StartTrace() (*Trace, error) { return startTrace(nil) }

func startTrace(prepare func(*Trace) error) (*Trace, error) {
	root, err := tracefs()
	if err != nil {
		return nil, err
	}
	t := &Trace{
		dir:     filepath.Join(root, "instances", InstancePrefix()+strconv.FormatInt(instances.Add(1), 10)),
		present: map[string]bool{},
	}
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a tracing instance: %w", err)
	}
	err = t.setUp(prepare)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Trace) setUp(prepare func(*Trace) error) error {
	settings := [][2]string{
		{"buffer_size_kb", "8192"},
		{"trace_clock", "boot"},
		{"options/record-tgid", "1"},
	}
	for _, s := range settings {
		if err := t.write(s[0], s[1]); err != nil {
			return err
		}
	}
	_ = t.write("options/hash-ptr", "0") // real addresses, since 5.12
	if prepare != nil {
		if err := prepare(t); err != nil {
			return err
		}
	}
	for _, tp := range Tracepoints {
		err := t.write("events/"+tp+"/enable", "1")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		t.present[filepath.Base(tp)] = err == nil
	}
	return nil
}

func (t *Trace) write(name, value string) error {
	// Not os.WriteFile: these files must not be created, and O_TRUNC empties some of them.
	f, err := os.OpenFile(filepath.Join(t.dir, name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("tracefs: %w", err)
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("tracefs: %s: %w", name, err)
	}
	return nil
}

// Events returns everything seen so far, oldest first. It fails if the buffer overflowed.
func (t *Trace) Events() ([]TraceEvent, error) {
	if t == nil {
		return nil, nil
	}
	if err := t.lost(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(t.dir, "trace"))
	if err != nil {
		return nil, err
	}
	var events []TraceEvent
	scan := bufio.NewScanner(bytes.NewReader(text))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		line := scan.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		e, err := parseTrace(line)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, scan.Err()
}

// Involves tells whether the event's source or destination is addr.
func (e TraceEvent) Involves(addr netip.Addr) bool {
	addr = addr.Unmap()
	return e.Src.Addr() == addr || e.Dst.Addr() == addr
}

// lost fails if the ring buffer dropped or overwrote events.
func (t *Trace) lost() error {
	files, err := filepath.Glob(filepath.Join(t.dir, "per_cpu/cpu*/stats"))
	if err != nil {
		return err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if (k == "overrun" || k == "commit overrun" || k == "dropped events") && v != "0" {
				return fmt.Errorf("tracefs lost events: %s %s in %s", k, v, file)
			}
		}
	}
	return nil
}

// Close ends the trace and removes the instance.
func (t *Trace) Close() error {
	if t == nil {
		return nil
	}
	if err := t.write("tracing_on", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := os.Remove(t.dir)
	for deadline := time.Now().Add(5 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // a reader of the instance is just going away; there is nothing to wait for
		err = os.Remove(t.dir)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

var traceLine = regexp.MustCompile(
	`^\s*(.+)-(\d+)\s+(?:\(\s*([0-9-]+)\)\s+)?\[(\d+)\]\s+\S+\s+(\d+)\.(\d+): (\w+): (.*)$`)

func parseTrace(line string) (TraceEvent, error) {
	m := traceLine.FindStringSubmatch(line)
	if m == nil {
		return TraceEvent{}, fmt.Errorf("tracefs line not understood: %q", line)
	}
	e := TraceEvent{Comm: strings.TrimSpace(m[1]), Name: m[7]}
	e.TID, _ = strconv.Atoi(m[2])
	e.TGID, _ = strconv.Atoi(m[3]) // dashes if unknown
	e.CPU, _ = strconv.Atoi(m[4])
	frac := (m[6] + "000000000")[:9]
	sec, _ := strconv.ParseInt(m[5], 10, 64)
	nsec, _ := strconv.ParseInt(frac, 10, 64)
	e.Time = time.Duration(sec*1e9 + nsec)
	kv := map[string]string{}
	for _, f := range strings.Fields(m[8]) {
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
