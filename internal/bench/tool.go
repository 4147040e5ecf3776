// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// A tool traces the whole host.
type tool interface {
	// name is how the tables call it.
	name() string
	// start attaches it. It writes below dir.
	start(ctx context.Context, dir string) (session, error)
}

// A session is a tool at work.
type session interface {
	// pid is the process whose programs and CPU count, 0 if there is none.
	pid() int
	// output is the file that grows while the tool has something to write,
	// "" if there is none.
	output() string
	// stop ends the tool and returns how many events it delivered that match.
	stop(ctx context.Context, m match) (delivery, error)
	// kill ends it after a failure.
	kill()
}

// delivery is what came of a load at the end of a tool.
type delivery struct {
	// Delivered are the events that it wrote, Handled those that reached its
	// programs, Lost those that it says were lost. Each may be unknown.
	Delivered, Handled, Lost int
}

const unknown = -1

// The names of those that tables and targets compare.
const (
	toolUntraced = "nothing"
	toolFloor    = "floor"
	toolTcptrace = "tcptrace"
	toolBpftrace = "bpftrace"
)

// untraced is no tool at all.
type untraced struct{}

func (untraced) name() string                                   { return toolUntraced }
func (untraced) start(context.Context, string) (session, error) { return untraced{}, nil }
func (untraced) pid() int                                       { return 0 }
func (untraced) output() string                                 { return "" }
func (untraced) kill()                                          {}
func (untraced) stop(context.Context, match) (delivery, error) {
	return delivery{0, unknown, unknown}, nil
}

// floorTool is the program that does least: see package floor. The bench runs
// itself for it.
type floorTool struct{}

// FloorCommand is the argument that makes the bench's program the floor.
const FloorCommand = "floor"

func (floorTool) name() string { return toolFloor }

func (floorTool) start(ctx context.Context, _ string) (session, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, nil, nil, self, FloorCommand)
	if err != nil {
		return nil, err
	}
	if err := p.waitLine("attached"); err != nil {
		p.kill()
		return nil, err
	}
	return &floorSession{p}, nil
}

type floorSession struct{ *process }

func (*floorSession) output() string { return "" }

var floorCounts = regexp.MustCompile(`(\d+) records, (\d+) lost`)

func (s *floorSession) stop(context.Context, match) (delivery, error) {
	if err := s.end(); err != nil {
		return delivery{}, err
	}
	n, err := numbers(floorCounts, s.text())
	if err != nil {
		return delivery{}, err
	}
	return delivery{unknown, unknown, n[1]}, nil
}

// tcptrace is the tool whose cost is in question. A command that prints no
// events has no format.
type tcptrace struct{ binary, command, format string }

func (tcptrace) name() string { return toolTcptrace }

func (t tcptrace) start(ctx context.Context, dir string) (session, error) {
	out, err := os.Create(filepath.Join(dir, "tcptrace"))
	if err != nil {
		return nil, err
	}
	p, err := t.trace(ctx, out)
	if err = errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	return &tcptraceSession{p, out.Name()}, nil
}

// trace starts it, with more arguments, and waits until it traces.
func (t tcptrace) trace(ctx context.Context, out *os.File, more ...string) (*process, error) {
	args := []string{t.command}
	if t.format != "" {
		args = append(args, "-o", t.format)
	}
	p, err := start(ctx, out, nil, t.binary, append(args, more...)...)
	if err != nil {
		return nil, err
	}
	if err := p.waitLine("tracing "); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

type tcptraceSession struct {
	*process
	file string
}

func (s *tcptraceSession) output() string { return s.file }

func (s *tcptraceSession) stop(_ context.Context, m match) (delivery, error) {
	if err := s.end(); err != nil {
		return delivery{}, err
	}
	sum, err := numbers(summaryLine, s.text()) // events, filtered, merged, lost
	if err != nil {
		return delivery{}, err
	}
	// Its command shows nothing else, and its table doesn't say what all have
	// in common.
	lines, err := countLines(s.file, match{addr: m.addr})
	return delivery{lines.events, sum[0] + sum[1] + sum[2] + sum[3], sum[3]}, err
}

var (
	summaryLine = regexp.MustCompile(`(?m)^tcptrace: (\d+) events? .*; (\d+) filtered, (\d+) merged, (\d+) lost`)
	summaryJSON = regexp.MustCompile(`(?m)^{"event":"summary".*?"lost":(\d+)`)
)

// lostOf is how many events tcptrace says were lost: on stderr, or in the last
// line of JSON.
func lostOf(stderr, last string) (int, error) {
	if n, err := numbers(summaryJSON, last); err == nil {
		return n[0], nil
	}
	n, err := numbers(summaryLine, stderr)
	if err != nil {
		return 0, err
	}
	return n[3], nil
}

// numbers are what the groups of the expression's last match hold.
func numbers(re *regexp.Regexp, text string) (n []int, err error) {
	all := re.FindAllStringSubmatch(text, -1)
	if all == nil {
		return nil, fmt.Errorf("no %q in %q", re, text)
	}
	for _, s := range all[len(all)-1][1:] {
		v, err := strconv.Atoi(s)
		if err != nil {
			return nil, err
		}
		n = append(n, v)
	}
	return n, nil
}
