// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience bounds each wait for a tool.
const patience = time.Minute

// process is a tool that runs.
type process struct {
	cmd   *exec.Cmd
	lines chan string   // of stderr, the first of them
	done  chan struct{} // closed at the end of stderr

	mu   sync.Mutex
	said strings.Builder // stderr so far
}

// start runs a command whose output goes to out, nowhere if that is nil. It
// ends with ctx at the latest. The command gets more files from descriptor 3 on.
func start(ctx context.Context, out *os.File, more []*os.File, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, name, args...), lines: make(chan string, 64), done: make(chan struct{})}
	if out != nil {
		p.cmd.Stdout = out
	}
	p.cmd.ExtraFiles = more
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 5 * time.Second
	// Not the terminal's Ctrl-C: tools end when they are told to.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.listen(stderr)
	return p, nil
}

// listen keeps what the tool says. Nobody need take the lines.
func (p *process) listen(r io.Reader) {
	defer close(p.done)
	for scan := bufio.NewScanner(r); scan.Scan(); {
		p.mu.Lock()
		fmt.Fprintln(&p.said, scan.Text())
		p.mu.Unlock()
		select {
		case p.lines <- scan.Text():
		default:
		}
	}
}

// text is what the tool has said on stderr.
func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// waitLine waits until the tool says something with part in it.
func (p *process) waitLine(part string) error {
	deadline := time.After(patience)
	for {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", p.cmd.Path, p.text())
		case line := <-p.lines:
			if strings.Contains(line, part) {
				return nil
			}
		case <-deadline:
			return fmt.Errorf("%s did not start in %v: %s", p.cmd.Path, patience, p.text())
		}
	}
}

// ended tells whether it has.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// pid is the tool's process.
func (p *process) pid() int { return p.cmd.Process.Pid }

// end interrupts the tool, as Ctrl-C does, and waits until it has ended.
func (p *process) end() error {
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.wait()
}

// wait waits until the tool has ended.
func (p *process) wait() error {
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	<-p.done
	err := p.cmd.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signal() == syscall.SIGINT {
			return nil // some tools pass it on to themselves
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", p.cmd.Path, err, p.text())
	}
	return nil
}

// kill ends the tool without ceremony, after a failure.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
	_ = p.cmd.Wait()
}
