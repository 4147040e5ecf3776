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
	lines chan string // of stderr, closed at its end

	mu   sync.Mutex
	said strings.Builder // stderr so far
}

// start runs a command whose output goes to out. It ends with ctx at the
// latest.
func start(ctx context.Context, out *os.File, env []string, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, name, args...), lines: make(chan string, 64)}
	p.cmd.Stdout = out
	p.cmd.Env = append(os.Environ(), env...)
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
	defer close(p.lines)
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
		case line, ok := <-p.lines:
			if !ok {
				return fmt.Errorf("%s ended: %s", p.cmd.Path, p.text())
			}
			if strings.Contains(line, part) {
				return nil
			}
		case <-deadline:
			return fmt.Errorf("%s did not start in %v: %s", p.cmd.Path, patience, p.text())
		}
	}
}

// pid is the tool's process.
func (p *process) pid() int { return p.cmd.Process.Pid }

// end interrupts the tool, as Ctrl-C does, and waits until it has ended. Exit
// codes in allowed count as success.
func (p *process) end(allowed ...int) error {
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	for range p.lines {
	}
	err := p.cmd.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		for _, code := range allowed {
			if exit.ExitCode() == code {
				return nil
			}
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
	for range p.lines {
	}
	_ = p.cmd.Wait()
}
