// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

// tracefsDir is where the tools look for tracefs.
const tracefsDir = "/sys/kernel/tracing"

// mountTracefs mounts tracefs there unless it is, as a host's init does: a
// machine that has just started may be without.
func mountTracefs() error {
	_, err := os.Stat(tracefsDir + "/events")
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Mount("tracefs", tracefsDir, "tracefs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount tracefs: %w", err)
	}
	return nil
}

// The tools below run as they come, with the buffers that they choose
// themselves, and print the time, both ends and the state.

// bpftrace prints a line for each event to a file.
type bpftrace struct{}

func (bpftrace) name() string { return toolBpftrace }

func (bpftrace) start(ctx context.Context, dir string) (session, error) {
	script, err := bpftraceScript(os.ReadFile)
	if err != nil {
		return nil, err
	}
	return startWriting(ctx, filepath.Join(dir, "bpftrace.out"), "bpftrace", "-e", script)
}

// bpftraceScript prints each tracepoint's event, of IPv4. Before 6.10
// tcp_send_reset had ports and addresses as the others have them.
func bpftraceScript(read func(string) ([]byte, error)) (string, error) {
	var b strings.Builder
	for _, tp := range labtest.Tracepoints {
		format, err := read(tracefsDir + "/events/" + tp + "/format")
		if err != nil {
			return "", err
		}
		group, name, _ := strings.Cut(tp, "/")
		fmt.Fprintf(&b, "tracepoint:%s:%s { ", group, name)
		what, extra, args := name, "", ""
		switch name {
		case "inet_sock_set_state":
			extra, args = " %d %d", ", args->oldstate, args->newstate"
		case "tcp_retransmit_skb":
			extra, args = " %d", ", args->state"
			if bytes.Contains(format, []byte(" err;")) {
				extra, args = " %d err=%d", ", args->state, args->err"
			}
		}
		if bytes.Contains(format, []byte(" sport;")) {
			fmt.Fprintf(&b, `printf("%%llu %s %%s:%%d %%s:%%d%s\n", nsecs, ntop(args->family, args->saddr), args->sport, ntop(args->family, args->daddr), args->dport%s);`,
				what, extra, args)
		} else {
			b.WriteString(`$s = (struct sockaddr_in *)args->saddr; $d = (struct sockaddr_in *)args->daddr; `)
			fmt.Fprintf(&b, `printf("%%llu %s %%s:%%d %%s:%%d %%d %%d\n", nsecs, ntop($s->sin_family, $s->sin_addr.s_addr), $s->sin_port, ntop($d->sin_family, $d->sin_addr.s_addr), $d->sin_port, args->state, args->reason);`, what)
		}
		b.WriteString(" }\n")
	}
	return b.String(), nil
}

// perfTrace is perf trace, which prints each event.
type perfTrace struct{}

func (perfTrace) name() string { return "perf trace" }

func (perfTrace) start(ctx context.Context, dir string) (session, error) {
	out := filepath.Join(dir, "perf-trace.out")
	args := []string{"trace", "-a", "--no-syscalls", "--libtraceevent_print", "-o", out}
	return startWriting(ctx, out, "perf", append(args, perfEvents()...)...)
}

func perfEvents() (args []string) {
	for _, tp := range labtest.Tracepoints {
		args = append(args, "-e", strings.Replace(tp, "/", ":", 1))
	}
	return args
}

// writing is a tool that writes lines to a file.
type writing struct {
	*process
	file string
}

// startWriting starts a tool that writes to file and waits until it does, for
// which it makes events again and again.
func startWriting(ctx context.Context, file, name string, args ...string) (_ session, err error) {
	if name, err = exec.LookPath(name); err != nil {
		return nil, err
	}
	out, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, out, nil, name, args...)
	if err = errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	if err := untilSeen(ctx, p, file); err != nil {
		p.kill()
		return nil, err
	}
	return &writing{p, file}, nil
}

// untilSeen refuses connections in a namespace of its own until the file says
// so.
func untilSeen(ctx context.Context, p *process, file string) (err error) {
	ns, err := lab.NewNamespace(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = lab.Until(ctx, func() (bool, error) {
		if p.ended() {
			return false, errors.New("it ended")
		}
		if err := ns.Storm(ctx, place.Addr, 20, 1); err != nil {
			return false, err
		}
		time.Sleep(20 * time.Millisecond) // between attempts
		lines, err := countLines(file, match{addr: place.Addr.String()})
		return lines.events > 0, err
	})
	if err != nil {
		return fmt.Errorf("%s did not show an event: %w: %s", p.cmd.Path, err, p.text())
	}
	return nil
}

func (s *writing) output() string { return s.file }

func (s *writing) stop(_ context.Context, m match) (delivery, error) {
	if err := s.end(); err != nil {
		return delivery{}, err
	}
	lines, err := countLines(s.file, m)
	return delivery{Delivered: lines.events, Handled: unknown, Lost: unknown}, err
}

// perfRecord is perf record, whose file is read when it has ended.
type perfRecord struct{}

func (perfRecord) name() string { return "perf record" }

type perfRecordSession struct {
	*process
	file    string
	control []*os.File // which it wants open to the end
}

func (perfRecord) start(ctx context.Context, dir string) (_ session, err error) {
	name, err := exec.LookPath("perf")
	if err != nil {
		return nil, err
	}
	// It waits for a command, and acknowledges it.
	commands, toPerf, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	fromPerf, acks, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, commands.Close(), toPerf.Close())
	}
	file := filepath.Join(dir, "perf.data")
	args := []string{"record", "-a", "-q", "-o", file, "-D", "-1", "--control", "fd:3,4"}
	p, err := start(ctx, nil, []*os.File{commands, acks}, name, append(args, perfEvents()...)...)
	err = errors.Join(err, commands.Close(), acks.Close())
	control := []*os.File{toPerf, fromPerf}
	if err != nil {
		return nil, errors.Join(err, closeAll(control))
	}
	if _, err = toPerf.WriteString("enable\n"); err == nil {
		if err = fromPerf.SetReadDeadline(time.Now().Add(patience)); err == nil {
			_, err = io.ReadFull(fromPerf, make([]byte, len("ack\n")))
		}
	}
	if err != nil {
		p.kill()
		return nil, errors.Join(fmt.Errorf("perf record does not begin: %w: %s", err, p.text()), closeAll(control))
	}
	return &perfRecordSession{p, file, control}, nil
}

func closeAll(files []*os.File) (err error) {
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	return err
}

func (s *perfRecordSession) kill() {
	s.process.kill()
	_ = closeAll(s.control)
}

func (s *perfRecordSession) output() string { return s.file }

func (s *perfRecordSession) stop(ctx context.Context, m match) (delivery, error) {
	if err := errors.Join(s.end(), closeAll(s.control)); err != nil {
		return delivery{}, err
	}
	d := delivery{Handled: unknown, Lost: unknown}
	cmd := exec.CommandContext(ctx, s.cmd.Path, "script", "-i", s.file, "-F", "event,trace")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return d, err
	}
	if err := cmd.Start(); err != nil {
		return d, err
	}
	lines, err := count(out, m)
	if err != nil {
		_, _ = io.Copy(io.Discard, out)
	}
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return d, fmt.Errorf("perf script: %w", err)
	}
	d.Delivered = lines.events
	return d, nil
}

// tracefs is a tracefs instance of its own, whose pipe goes to a file.
type tracefs struct{}

func (tracefs) name() string { return "tracefs" }

type tracefsSession struct {
	*process
	dir, file string
}

// tracefsName is that of the instance.
func tracefsName() string { return fmt.Sprintf("tcptrace-bench-%d", os.Getpid()) }

func (tracefs) start(ctx context.Context, dir string) (_ session, err error) {
	in := tracefsDir + "/instances/" + tracefsName()
	if err := os.Mkdir(in, 0o700); err != nil {
		return nil, err
	}
	s := &tracefsSession{dir: in, file: filepath.Join(dir, "trace")}
	defer func() {
		if err != nil {
			s.kill()
		}
	}()
	out, err := os.Create(s.file)
	if err != nil {
		return nil, err
	}
	s.process, err = start(ctx, out, nil, "cat", filepath.Join(in, "trace_pipe"))
	if err = errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	for _, tp := range labtest.Tracepoints {
		if err := s.write("events/"+tp+"/enable", "1"); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// write writes to a file of the instance, which must be there.
func (s *tracefsSession) write(name, value string) error {
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func (s *tracefsSession) output() string { return s.file }

func (s *tracefsSession) kill() {
	if s.process != nil {
		s.process.kill()
	}
	_ = s.remove()
}

// remove removes the instance, which its reader may hold a moment longer.
func (s *tracefsSession) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := lab.Until(ctx, func() (bool, error) { return os.Remove(s.dir) == nil, nil })
	if err != nil {
		return fmt.Errorf("removing %s: %w", s.dir, os.Remove(s.dir))
	}
	return nil
}

func (s *tracefsSession) stop(_ context.Context, m match) (delivery, error) {
	d := delivery{Handled: unknown}
	for _, tp := range labtest.Tracepoints {
		if err := s.write("events/"+tp+"/enable", "0"); err != nil {
			s.kill()
			return d, err
		}
	}
	lost, err := tracefsLost(s.dir)
	s.kill() // its file is written already
	if err != nil {
		return d, err
	}
	d.Lost = lost
	lines, err := countLines(s.file, m)
	d.Delivered = lines.events
	return d, err
}

var tracefsLosses = regexp.MustCompile(`(?m)^(?:overrun|commit overrun|dropped events): (\d+)$`)

// tracefsLost adds what the statistics of an instance's buffers say.
func tracefsLost(dir string) (sum int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "per_cpu/cpu*/stats"))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return 0, err
		}
		for _, m := range tracefsLosses.FindAllSubmatch(b, -1) {
			n, err := strconv.Atoi(string(m[1]))
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}
