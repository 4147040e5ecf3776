// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// Run looks at everything, and ends with a test: a refused connection that it
// makes, and has to see. It gives up no rights.
func Run(ctx context.Context, o Options) []Check {
	d := &doctor{options: o}
	d.kernel()
	d.rights()
	d.tracing(ctx)
	d.place()
	return d.checks
}

type doctor struct {
	options Options
	checks  []Check
}

func (d *doctor) add(c Check) { d.checks = append(d.checks, c) }

func (d *doctor) kernel() {
	var u unix.Utsname
	_ = unix.Uname(&u) // can't fail
	d.add(Check{Name: "kernel", Of: unix.ByteSliceToString(u.Release[:]), Status: OK, Detail: unix.ByteSliceToString(u.Machine[:])})
	if from, err := live.TypesFrom(d.options.BTF); err != nil {
		d.add(Check{Name: "types", Status: Failed, Detail: err.Error()})
	} else {
		d.add(Check{Name: "types", Of: from, Status: OK})
	}
	switch mode := live.Lockdown(); mode {
	case "":
		d.add(Check{Name: "lockdown", Status: OK, Detail: "this kernel has none, or does not tell"})
	case "confidentiality":
		d.add(Check{Name: "lockdown", Of: mode, Status: Failed, Detail: "it forbids BPF to read kernel memory", Remedy: "boot with lockdown=integrity or without it"})
	default:
		d.add(Check{Name: "lockdown", Of: mode, Status: OK})
	}
}

func (d *doctor) rights() {
	rights, err := live.Rights()
	if err != nil {
		d.add(Check{Name: "right", Status: Failed, Detail: err.Error()})
	}
	for _, r := range rights {
		c := Check{Name: "right", Of: r.Name, Status: OK, Detail: r.Gives}
		switch {
		case r.Present:
		case r.Needed:
			c.Status, c.Detail, c.Remedy = Failed, "missing, for "+r.Gives, r.Remedy
		default:
			c.Status, c.Detail, c.Remedy = Limited, "missing, for "+r.Gives, r.Remedy
		}
		d.add(c)
	}
}

// tracing attaches everything and makes the test, unless it is known that it
// can't.
func (d *doctor) tracing(ctx context.Context) {
	for _, c := range d.checks {
		if c.Status == Failed {
			return
		}
	}
	place, err := newPlace(ctx)
	if err != nil {
		d.add(Check{Name: "self-test", Status: Failed, Detail: err.Error()})
		return
	}
	defer place.close()

	var hooks []live.Hook
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	src, err := live.Open(ctx, live.Options{
		Types:  []events.Type{events.Retransmit, events.Reset, events.StateChange},
		Kernel: filter.Kernel{NetNS: []uint32{place.inum}},
		Buffer: d.options.Buffer,
		BTF:    d.options.BTF,
		Hooks:  func(all []live.Hook) { hooks = all },
	})
	if err != nil {
		d.add(Check{Name: "programs", Status: Failed, Detail: err.Error()})
		return
	}
	for i := range hooks {
		d.hook(&hooks[i])
	}
	d.memory(src.Memory())
	d.selfTest(ctx, src, place, hooks)
	if err := src.Close(); err != nil {
		d.add(Check{Name: "programs", Status: Failed, Detail: "take them off: " + err.Error()})
	}
}

func (d *doctor) hook(h *live.Hook) {
	c := Check{Name: "tracepoint", Of: h.Point, Status: OK, Detail: h.Variant}
	switch {
	case h.Function:
		c.Name, c.Detail = "function", h.Gives
	case h.Iterator:
		c.Name, c.Detail = "iterator", h.Gives
	}
	switch {
	case errors.Is(h.Err, live.ErrNotNeeded):
		c.Detail = "not needed: " + h.Err.Error()
	case errors.Is(h.Err, live.ErrNotLoaded):
		c.Detail = "not attached: " + h.Err.Error() + "; start tcptrace once a firewall rule has loaded it"
	case h.Err != nil:
		c.Status, c.Detail, c.Unseen = Limited, h.Err.Error(), h.Gives
	}
	d.add(c)
}

func (d *doctor) memory(bytes uint64, err error) {
	c := Check{Name: "memory", Status: OK}
	if err != nil {
		c.Detail = fmt.Sprintf("a ring buffer of %d KiB", d.options.Buffer>>10)
	} else {
		c.Detail = fmt.Sprintf("%d KiB in the kernel, of which %d KiB are the ring buffer", bytes>>10, d.options.Buffer>>10)
	}
	d.add(c)
}

// place is what is special about where this process runs.
func (d *doctor) place() {
	limits := live.Limits()
	for _, l := range limits {
		d.add(Check{Name: "container", Of: l.Field, Status: Limited, Detail: l.Reason, Remedy: l.Remedy, Unseen: l.Field})
	}
	if len(limits) == 0 {
		d.add(Check{Name: "container", Status: OK, Detail: "none, or one that hides nothing"})
	}
	c := Check{Name: "tracefs", Status: OK, Detail: "mounted, and not needed"}
	if _, err := os.Stat("/sys/kernel/tracing/events"); err != nil {
		c.Detail = "not to be seen here, and not needed"
	}
	d.add(c)
}

// testPlace is where the test's connection is made.
type testPlace struct {
	inum uint32
	do   func(func() error) error
	name string

	close func() error
}

// newPlace makes a network namespace, or, where that is not allowed, uses the
// loopback interface of this process's own.
func newPlace(ctx context.Context) (*testPlace, error) {
	ns, err := lab.NewNamespace(ctx)
	if err == nil {
		return &testPlace{ns.Inum(), ns.Do, "in a private network namespace", ns.Close}, nil
	}
	if !errors.Is(err, os.ErrPermission) {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		return nil, fmt.Errorf("look for the own network namespace: %w", err)
	}
	here := func(f func() error) error { return f() }
	return &testPlace{uint32(st.Ino), here, "on this network namespace's loopback interface", func() error { return nil }}, nil
}

// refuse connects to a port that is bound, but not listened on.
func refuse() (port uint16, err error) {
	server, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(server)
	addr := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(server, addr); err != nil {
		return 0, err
	}
	bound, err := unix.Getsockname(server)
	if err != nil {
		return 0, err
	}
	addr.Port = bound.(*unix.SockaddrInet4).Port
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(client)
	if err := unix.Connect(client, addr); !errors.Is(err, unix.ECONNREFUSED) {
		return 0, fmt.Errorf("%w in place of a refused connection", err)
	}
	return uint16(addr.Port), nil
}

// selfTest makes a refused connection until one was seen whole: a kernel may
// keep single events from BPF.
func (d *doctor) selfTest(ctx context.Context, src live.Source, place *testPlace, hooks []live.Hook) {
	c := Check{Name: "self-test", Status: Failed}
	defer func() { d.add(c) }()
	// The reset, and its way to the other end; where the kernel shows no
	// resets without a socket, the latter alone.
	want := 2
	for i := range hooks {
		if hooks[i].Hidden() && strings.Contains(hooks[i].Gives, "without a socket") {
			want = 1
		}
	}
	var seen []string
	const tries = 5
	for range tries {
		var port uint16
		err := place.do(func() (err error) { port, err = refuse(); return err })
		if err != nil {
			c.Detail = "make a refused connection: " + err.Error()
			return
		}
		if seen, err = resetsOf(ctx, src, port, want); err != nil {
			c.Detail = err.Error()
			return
		}
		if len(seen) >= want {
			c.Status, c.Detail = OK, fmt.Sprintf("saw a refused connection %s: %s", place.name, strings.Join(seen, ", "))
			return
		}
	}
	c.Detail = fmt.Sprintf("made %d refused connections %s, and saw of the last %d events of %d", tries, place.name, len(seen), want)
	c.Remedy = "please report this, with the kernel's release"
}

// resetsOf reads the resets at a port until there are so many, or nothing has
// come for a while.
func resetsOf(ctx context.Context, src live.Source, port uint16, want int) (seen []string, err error) {
	batch := make([]events.Event, 0, 64)
	for idle := 0; idle < 10 && len(seen) < want; {
		if batch, err = src.Read(ctx, batch[:0]); err != nil {
			return nil, err
		}
		if len(batch) == 0 {
			idle++
		}
		for i := range batch {
			if e := &batch[i]; e.Type == events.Reset && (e.LPort == port || e.RPort == port) {
				seen = append(seen, fmt.Sprintf("a reset %s", e.Direction))
			}
		}
	}
	return seen, nil
}
