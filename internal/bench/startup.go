// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// startTrial is one start of tcptrace, with nothing to trace.
type startTrial struct {
	Attached time.Duration // from exec until it says that it traces
	CPU      time.Duration // user and system, start and end
	Memory   memory
}

// measureStart starts tcptrace and ends it again.
func measureStart(ctx context.Context, o *Options) (all []startTrial, err error) {
	for i := range o.Starts {
		var t startTrial
		begin := time.Now()
		p, err := tcptrace{o.Tcptrace, "events", "table"}.trace(ctx, nil)
		if err != nil {
			return nil, err
		}
		t.Attached = time.Since(begin)
		if t.Memory, err = readMemory(p.pid()); err != nil {
			p.kill()
			return nil, err
		}
		if err := p.end(); err != nil {
			return nil, err
		}
		t.CPU = p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
		all = append(all, t)
		o.Logf("start %d/%d: attached after %v, %v of CPU, %.1f MiB", i+1, o.Starts,
			t.Attached.Round(time.Millisecond), t.CPU, mib(t.Memory.Peak+t.Memory.Maps))
	}
	return all, nil
}

// measureLone refuses one connection, again and again, and returns how long
// each time the later of its two events took from the connect to the reader of
// a pipe.
func measureLone(ctx context.Context, o *Options) (all []time.Duration, err error) {
	ns, err := lab.NewNamespace(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	// Of this namespace alone: no other event may wake the reader, or hold it up.
	p, err := tcptrace{o.Tcptrace, "resets", "table"}.trace(ctx, w, "--netns", fmt.Sprint(ns.Inum()))
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(r)
	for i := range o.Starts {
		// Not in step with the reader's looks.
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		begin := time.Now()
		if err := ns.Storm(ctx, place.Addr, 1, 1); err != nil {
			p.kill()
			return nil, err
		}
		if err := readAbout(r, lines, place.Addr.String(), 2); err != nil {
			p.kill()
			return nil, fmt.Errorf("a lone event: %w", err)
		}
		all = append(all, time.Since(begin))
		o.Logf("lone event %d/%d: %v", i+1, o.Starts, all[i].Round(time.Millisecond))
	}
	return all, p.end()
}

// readAbout reads until n lines had addr in them.
func readAbout(r *os.File, lines *bufio.Reader, addr string, n int) error {
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for n > 0 {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.Contains(line, addr) {
			n--
		}
	}
	return nil
}
