// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// Of picks the events of a scenario: those with the place's address, which no other namespace has, and those of a
// listener on [::], by its port.
func Of(p lab.Place, f *lab.Facts, events []TraceEvent) []TraceEvent {
	if f == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(events), func(e TraceEvent) bool {
		anyAddr := e.Src.Addr().IsUnspecified() && e.Src.Port() == f.Listener.Port()
		return !e.Involves(p.Addr) && !anyAddr
	})
}

// Check compares what a scenario says it did with what tracefs saw of it and with the kernel's counters. Events that
// are not the scenario's do not matter.
func Check(p lab.Place, f *lab.Facts, events []TraceEvent) error {
	events = Of(p, f, events)
	return errors.Join(checkStates(f, events), checkEvents(p, f, events), checkCounters(p, f, events))
}

// A life is the way of one socket through its states.
type life struct {
	src, dst netip.AddrPort
	path     string
}

// lives puts the state changes of TCP sockets together, by their addresses: not every kernel prints the socket's. A
// client has no port yet when it begins to connect.
func lives(events []TraceEvent) ([]*life, error) {
	var all []*life
	for _, e := range events {
		if e.Name != lab.SetState || e.Protocol != "TCP" {
			continue
		}
		if e.OldState == "CLOSE" || e.OldState == "LISTEN" && e.NewState == "SYN_RECV" {
			all = append(all, &life{src: e.Src, dst: e.Dst, path: e.OldState + " " + e.NewState})
			continue
		}
		find := func(same func(*life) bool) int {
			return slices.IndexFunc(all, func(l *life) bool {
				return same(l) && l.dst == e.Dst && strings.HasSuffix(l.path, " "+e.OldState)
			})
		}
		i := find(func(l *life) bool { return l.src == e.Src })
		if i < 0 && e.OldState == "SYN_SENT" {
			i = find(func(l *life) bool { return l.src.Port() == 0 })
		}
		if i < 0 {
			return nil, fmt.Errorf("%v does not follow from what was before", e)
		}
		all[i].path += " " + e.NewState
		all[i].src = e.Src
	}
	return all, nil
}

func checkStates(f *lab.Facts, events []TraceEvent) error {
	left, err := lives(events)
	if err != nil {
		return err
	}
	var errs []error
	take := func(src, dst netip.AddrPort, path string, repeats bool) {
		i := slices.IndexFunc(left, func(l *life) bool {
			got := l.path
			if repeats {
				got = strings.Join(slices.Compact(strings.Fields(got)), " ")
			}
			return l.src.Port() == src.Port() && l.dst == dst && got == path
		})
		if i < 0 {
			errs = append(errs, fmt.Errorf("no socket %v > %v went %s", src, dst, path))
			return
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, c := range f.Conns {
		if c.Client.States != "" {
			take(c.Client.Addr, c.Server.Addr, c.Client.States, c.Repeats)
		}
		if c.Server.States != "" {
			take(c.Server.Addr, c.Client.Addr, c.Server.States, c.Repeats)
		}
	}
	for _, l := range left {
		if l.path != "CLOSE LISTEN CLOSE" {
			errs = append(errs, fmt.Errorf("socket %v > %v went %s", l.src, l.dst, l.path))
		}
	}
	return errors.Join(errs...)
}

// HasField tells whether a tracepoint of this kernel has a field.
func HasField(tracepoint, field string) bool {
	root, err := tracefs()
	if err != nil {
		return false
	}
	b, err := os.ReadFile(filepath.Join(root, "events/tcp", tracepoint, "format"))
	return err == nil && strings.Contains(string(b), " "+field+";")
}

func checkEvents(p lab.Place, f *lab.Facts, events []TraceEvent) error {
	var errs []error
	// Older kernels report neither a reset without a socket nor a retransmission that failed.
	reason, failures := HasField(lab.SendReset, "reason"), HasField(lab.Retransmit, "err")
	// Where processors are busy, what is to be sent again may still be in a queue of this host (skb_still_in_host_queue()).
	queued := f.Client["TCPSpuriousRtxHostQueues"]
	if p.Client != p.Server {
		queued += f.Server["TCPSpuriousRtxHostQueues"]
	}
	for _, name := range []string{lab.Retransmit, lab.RetransSYNACK, lab.SendReset, lab.ReceiveReset} {
		for _, side := range []lab.Side{lab.Client, lab.Server} {
			got := slices.DeleteFunc(slices.Clone(events), func(e TraceEvent) bool {
				return e.Name != name || (e.Src.Port() == f.Listener.Port()) != (side == lab.Server)
			})
			least, most := 0, 0
			var reasons, errnos []string
			for _, e := range f.Events {
				if e.Name == name && e.Side == side && (reason || !e.NoSocket) && (failures || e.Err == "") {
					least, most = least+e.Min, most+e.Max
					reasons, errnos = append(reasons, e.Reason), append(errnos, e.Err)
				}
			}
			if name == lab.Retransmit && !slices.Contains(errnos, "EBUSY") {
				got = slices.DeleteFunc(got, func(e TraceEvent) bool {
					waits := e.Err == -int(unix.EBUSY) && queued > 0
					if waits {
						queued--
					}
					return waits
				})
			}
			if len(got) < least || len(got) > most {
				errs = append(errs, fmt.Errorf("%d %s at the %s, want %d..%d", len(got), name, side, least, most))
			}
			for _, e := range got {
				if e.Err != 0 && !slices.Contains(errnos, unix.ErrnoName(unix.Errno(-e.Err))) {
					errs = append(errs, fmt.Errorf("%v: want %v", e, errnos))
				}
				if e.Reason != "" && !slices.Contains(reasons, e.Reason) {
					errs = append(errs, fmt.Errorf("%v: want %v", e, reasons))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// checkCounters holds the kernel's counters against the facts and the state changes.
func checkCounters(p lab.Place, f *lab.Facts, events []TraceEvent) error {
	counted := func(name string) (n int) {
		if n = int(f.Client[name]); p.Client != p.Server {
			n += int(f.Server[name])
		}
		return n
	}
	var segs, syn, failed int
	for _, e := range f.Events {
		switch {
		case e.Err == "EPERM": // counted, though nothing was sent
			segs, syn, failed = segs+e.Min, syn+e.Min, failed+e.Min
		case e.Err != "": // not counted
		case e.Name == lab.RetransSYNACK:
			segs, syn = segs+e.Min, syn+e.Min
		case e.Name == lab.Retransmit && e.Segs > 0:
			segs += e.Segs
		case e.Name == lab.Retransmit:
			segs += e.Min
			if slices.Contains(e.Kinds, "syn") {
				syn += e.Min
			}
		}
	}
	resets, _ := f.Count(lab.SendReset)
	cut := 0
	for _, e := range events {
		if e.Name == lab.SetState && e.Protocol == "TCP" && e.NewState == "CLOSE" &&
			(e.OldState == "ESTABLISHED" || e.OldState == "CLOSE_WAIT") {
			cut++
		}
	}
	var errs []error
	for _, c := range []struct {
		name string
		want int
	}{
		{"RetransSegs", segs}, {"TCPSynRetrans", syn}, {"OutRsts", resets}, {"EstabResets", cut}, {"TCPRetransFail", failed},
	} {
		if got := counted(c.name); got != c.want {
			errs = append(errs, fmt.Errorf("the kernel counted %d %s, want %d", got, c.name, c.want))
		}
	}
	return errors.Join(errs...)
}
