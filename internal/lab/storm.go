// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Storm makes n connections to a port of addr where nobody listens, one after the other in each of some threads, as
// fast as they can. Each gives two state changes, a reset sent and a reset received.
func (n *Namespace) Storm(ctx context.Context, addr netip.Addr, connections, threads int) error {
	errs := make(chan error, threads)
	for i := range threads {
		share := connections / threads
		if i < connections%threads {
			share++
		}
		go func() {
			errs <- n.OnThread(func() error { return refuse(ctx, addr, share) })
		}()
	}
	var err error
	for range threads {
		err = errors.Join(err, <-errs)
	}
	return err
}

// OnThread runs f on a thread of its own in the namespace, beside others that do so, unlike Do.
func (n *Namespace) OnThread(f func() error) error {
	result := make(chan error, 1)
	go n.thread(f, result)
	return <-result
}

// thread is OnThread's. As in run the thread ends with the goroutine, and must not be the main one.
func (n *Namespace) thread(f func() error, result chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		other := make(chan error, 1)
		go n.thread(f, other)
		result <- <-other
		runtime.UnlockOSThread()
		return
	}
	if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
		result <- fmt.Errorf("entering the namespace: %w", err)
		return
	}
	result <- f()
}

// refuse connects n times from the calling thread's namespace, and is refused.
func refuse(ctx context.Context, addr netip.Addr, n int) error {
	to := &unix.SockaddrInet4{Port: 9, Addr: addr.As4()}
	for i := range n {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("making a socket: %w", err)
		}
		err = unix.Connect(fd, to)
		for errors.Is(err, unix.EINTR) { // the runtime's preemption
			err = unix.Connect(fd, to)
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("%w in place of a refusal", err)
		}
	}
	return nil
}
