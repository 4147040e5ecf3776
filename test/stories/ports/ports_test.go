// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ports_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/internal/lab/labtest/nft"
	"github.com/tcptrace/tcptrace/test/stories/story"
)

func TestMain(m *testing.M) { story.Main(m, "ports") }

// TestNAT: two containers of a pod talk to one server, behind a router that has one port for both. The one that comes
// second meets silence.
func TestNAT(t *testing.T) {
	for _, tt := range []struct {
		name, found string
		ports       uint16 // of the router
	}{
		{"nat", "nat-reuse failed possible 1", 1},
		{"more-nat-ports", "", 1000},
	} {
		for _, family := range []lab.Family{lab.V4, lab.V6} {
			t.Run(tt.name+"/"+family.String(), func(t *testing.T) {
				t.Parallel()
				r := story.Told(t, func() *story.Report { return behindNAT(t, family, tt.ports, tt.found) })
				if family == lab.V4 {
					r.Keep(t, tt.name)
				}
			})
		}
	}
}

func behindNAT(t *testing.T, family lab.Family, ports uint16, found string) *story.Report {
	pair := labtest.NewPair(t, labtest.PairOptions{Router: true})
	p := pair.Place(family)
	_, err := nft.Translate(pair.Router, nft.Translation{
		Dev: labtest.RouterDev, Own: labtest.RouterAddr(family), First: 5000, Last: 5000 + ports - 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := labtest.Echo(t, p.Server, netip.AddrPortFrom(p.Addr, 0))
	pod := labtest.NewPod(t, p.Client, "billing", "mailer")
	capture, err := labtest.StartCapture(p.Server, labtest.Dev)
	if err != nil {
		t.Fatal(err)
	}
	w := story.Start(t, p.Addr, p.Client)
	before, err := labtest.ReadCounters(p.Client)
	if err != nil {
		t.Fatal(err)
	}
	failure := talk(pod, server)
	after, err := labtest.ReadCounters(p.Client)
	packets, cerr := capture.Stop()
	if err = errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	r := w.End()
	again := int(after.Delta(before)["TCPSynRetrans"])
	arrived := syns(packets)
	if found == "" {
		if failure != nil || again != 0 || arrived != 2 {
			t.Errorf("%v; %d SYNs arrived, %d were sent again", failure, arrived, again)
		}
	} else if !errors.Is(failure, os.ErrDeadlineExceeded) || again < 3 || arrived != 1 {
		t.Errorf("%v; %d SYNs arrived, %d were sent again", failure, arrived, again)
	}
	r.Want(found)
	if found != "" {
		r.WantCause(
			fmt.Sprintf("%v did not answer %d SYNs of mailer (%d) in container %.12s", server, again+1, pod[1].PID, pod[1].ID),
			fmt.Sprintf("and had answered billing (%d) in container %.12s ", pod[0].PID, pod[0].ID))
		wantOwner(r, pod[1])
	}
	return r
}

// talk has the first container talk to the server, and then the second, whose patience ends after five seconds.
func talk(pod []*labtest.Container, server netip.AddrPort) error {
	var conns []*labtest.ContainerConn
	for _, c := range pod {
		conn, err := c.Connect(server, 5*time.Second)
		if err == nil {
			err = conn.Talk()
		}
		if err != nil {
			return err
		}
		conns = append(conns, conn)
	}
	for _, c := range conns {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// syns counts the SYNs that arrived.
func syns(packets []labtest.Packet) (n int) {
	for _, p := range packets {
		if !p.Outgoing && p.Flags&(labtest.SYN|labtest.ACK) == labtest.SYN {
			n++
		}
	}
	return n
}

// wantOwner wants the only finding to be of a container.
func wantOwner(r *story.Report, c *labtest.Container) {
	if len(r.Findings) != 1 || len(r.Findings[0].Owners) != 1 {
		return // that is said already
	}
	if o := r.Findings[0].Owners[0]; o.PID != c.PID || o.Comm != c.Name || o.Container != c.ID || o.Pod != c.PodUID || o.Cgroup != c.Cgroup {
		r.Errorf("the owner is %+v, want %+v", o, c)
	}
}

// TestPort: a program has one port to connect from, and used it two seconds ago.
func TestPort(t *testing.T) {
	for _, tt := range []struct {
		name, found, reuse, ports string
	}{
		// Go's net.Dial tries three times.
		{"one-port", "ports-exhausted failed certain 3", "2", "40000 40000"},
		{"reuse", "", "1", "40000 40000"},
		{"more-ports", "", "2", "40000 40001"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := story.Told(t, func() *story.Report {
				p := labtest.NewPair(t, labtest.PairOptions{}).Place(lab.V4)
				if _, err := p.Client.With("net.ipv4.tcp_tw_reuse", tt.reuse, "net.ipv4.ip_local_port_range", tt.ports); err != nil {
					t.Fatal(err)
				}
				server := labtest.Echo(t, p.Server, netip.AddrPortFrom(p.Addr, 0))
				pod := labtest.NewPod(t, p.Client, "billing")
				w := story.Start(t, p.Addr, p.Client)
				before, err := labtest.ReadCounters(p.Client)
				if err != nil {
					t.Fatal(err)
				}
				if err := talk(pod, server); err != nil {
					t.Fatal(err)
				}
				if err := waited(t.Context(), p.Client, 2*time.Second); err != nil {
					t.Fatal(err)
				}
				failure := talk(pod, server)
				after, err := labtest.ReadCounters(p.Client)
				if err != nil {
					t.Fatal(err)
				}
				d := after.Delta(before)
				recycled := uint64(0)
				if tt.reuse == "1" {
					recycled = 1
				}
				sent := uint64(2)
				if tt.found != "" {
					sent = 1
				}
				if (failure != nil) != (tt.found != "") || failure != nil && !errors.Is(failure, unix.EADDRNOTAVAIL) || d["TWRecycled"] != recycled || d["ActiveOpens"] != sent {
					t.Errorf("%v: %v", failure, d.TCP())
				}
				r := w.End()
				r.Want(tt.found)
				if tt.found != "" {
					r.WantCause("each port it may use is taken for "+server.String(), "1 port", "1 in TIME_WAIT")
					wantOwner(r, pod[0])
				}
				return r
			})
			r.Keep(t, tt.name)
		})
	}
}

// waited waits until the namespace's connection in TIME_WAIT has been there for so long, by the kernel's own timer.
func waited(ctx context.Context, ns *lab.Namespace, age time.Duration) error {
	const (
		timeWait = "06"
		second   = 100 // in the unit of the timer
		whole    = 60 * second
	)
	return lab.Until(ctx, func() (bool, error) {
		text, err := ns.ReadNet("tcp")
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(text)) { // sl local_address rem_address st tx_queue:rx_queue tr:tm->when ...
			f := strings.Fields(line)
			if len(f) < 6 || f[3] != timeWait {
				continue
			}
			_, left, _ := strings.Cut(f[5], ":")
			n, err := strconv.ParseInt(left, 16, 64)
			if err != nil {
				return false, fmt.Errorf("the timer in %q: %w", line, err)
			}
			return n <= whole-int64(age.Seconds()*second), nil
		}
		return false, nil
	})
}
