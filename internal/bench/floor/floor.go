// SPDX-License-Identifier: Apache-2.0

//go:build linux

package floor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/tcptrace/tcptrace/bpf"
)

// tick is how often the reader looks, as tcptrace's does.
const tick = 80 * time.Millisecond

// Run attaches to the tracepoints, says so by a line on w, takes records out
// of the ring buffer until ctx ends, and says how many it took and how many
// found no room.
func Run(ctx context.Context, w io.Writer) (err error) {
	spec, err := LoadFloor()
	if err != nil {
		return err
	}
	for name, size := range map[string]uintptr{
		// Only that of a connection which stops sending is longer.
		"state_size":      unsafe.Offsetof(bpf.TcptraceStateChange{}.Srtt),
		"retransmit_size": unsafe.Sizeof(bpf.TcptraceRetransmit{}),
		"sent_size":       unsafe.Sizeof(bpf.TcptraceReset{}),
		// Without a packet, the record of a received reset ends there.
		"received_size": unsafe.Offsetof(bpf.TcptraceReset{}.Reason),
	} {
		if err := spec.Variables[name].Set(uint32(size)); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("load the floor: %w", err)
	}
	defer coll.Close()
	reader, err := ringbuf.NewReader(coll.Maps["records"])
	if err != nil {
		return fmt.Errorf("open ring buffer: %w", err)
	}
	defer func() { err = errors.Join(err, reader.Close()) }()

	var links []link.Link
	for _, p := range programs {
		l, err := p.attach(coll.Programs[p.name])
		if err != nil {
			return fmt.Errorf("attach to %s: %w", p.tracepoint, err)
		}
		defer l.Close()
		links = append(links, l)
	}
	fmt.Fprintf(w, "attached to %d tracepoints\n", len(links))
	n, err := read(ctx, reader)
	if err != nil {
		return err
	}
	var lost uint64
	if err := coll.Variables["lost"].Get(&lost); err != nil {
		return err
	}
	fmt.Fprintf(w, "%d records, %d lost\n", n, lost)
	return nil
}

type program struct {
	name, tracepoint string
	raw              bool // for NULL arguments, as tcptrace has it
}

var programs = []program{
	{"set_state", "inet_sock_set_state", false},
	{"retransmit_skb", "tcp_retransmit_skb", false},
	{"retransmit_synack", "tcp_retransmit_synack", false},
	{"send_reset", "tcp_send_reset", true},
	{"receive_reset", "tcp_receive_reset", false},
}

func (p program) attach(prog *ebpf.Program) (link.Link, error) {
	if p.raw {
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: p.tracepoint, Program: prog})
	}
	return link.AttachTracing(link.TracingOptions{Program: prog, AttachType: ebpf.AttachTraceRawTp})
}

// read counts records until ctx ends and none is left.
func read(ctx context.Context, reader *ringbuf.Reader) (n int, err error) {
	var rec ringbuf.Record
	for {
		last := ctx.Err() != nil
		reader.SetDeadline(time.Unix(1, 0)) // long past: look, don't wait
		for err = nil; err == nil; {
			if err = reader.ReadInto(&rec); err == nil {
				n++
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, fmt.Errorf("read ring buffer: %w", err)
		}
		if last {
			return n, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
}
