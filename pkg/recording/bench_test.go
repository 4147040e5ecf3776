// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"bytes"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// benchEvents is a few blocks of a mix with at least 30% retransmissions over
// at least 1,000 connections.
func benchEvents(b *testing.B) []events.Event {
	b.Helper()
	list := mixed(1, 4*maxEvents)
	retransmissions, conns := 0, map[uint64]bool{}
	for i := range list {
		if list[i].Type == events.Retransmit {
			retransmissions++
			conns[list[i].Conn] = true
		}
	}
	if 10*retransmissions < 3*len(list) || len(conns) < 1000 {
		b.Fatalf("%d retransmissions of %d events, %d connections", retransmissions, len(list), len(conns))
	}
	return list
}

// cpu is the time that this process has run. Other than the clock's, it says
// what an event costs on a busy machine, too.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkAppend(b *testing.B) {
	list := benchEvents(b)
	w, err := NewWriter(io.Discard, someInfo)
	if err != nil {
		b.Fatal(err)
	}
	// Events come in batches that were decoded just before, and are in the cache.
	batch := make([]events.Event, 256)
	n := 0
	next := func() {
		if n%len(batch) == 0 {
			copy(batch, list[n%len(list):])
		}
		if n++; n%len(batch) == 0 {
			if err := w.Append(batch); err != nil {
				b.Fatal(err)
			}
		}
	}
	for n < len(list) { // until all buffers have their size
		next()
	}
	b.ReportAllocs()
	start := cpu(b)
	for b.Loop() {
		next()
	}
	b.ReportMetric(float64(cpu(b)-start)/float64(b.N), "cpu-ns/op")
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(w.Written())/float64(n), "bytes/event")
}

func BenchmarkRead(b *testing.B) {
	list := benchEvents(b)
	file := record(b, someInfo, &events.Summary{}, list)
	batch := make([]events.Event, 0, 256)
	left := 0
	var r *Reader
	next := func() {
		for ; left == 0; left = len(batch) {
			err := io.EOF
			if r != nil {
				batch, err = r.Read(batch[:0])
			}
			if err == io.EOF {
				r, err = NewReader(bytes.NewReader(file), ReaderOptions{})
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		left--
	}
	b.ReportAllocs()
	start := cpu(b)
	for b.Loop() {
		next()
	}
	b.ReportMetric(float64(cpu(b)-start)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(len(file))/float64(len(list)), "bytes/event")
}
