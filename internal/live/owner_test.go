// SPDX-License-Identifier: Apache-2.0

//go:build linux

package live_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// TestOwner has processes of their own make each situation in which it is hard
// to tell whose a socket is. A process that has nothing to do with any of it
// spins on every processor meanwhile, so that timers and packets interrupt it;
// and nobody but the processes of the situation may be named (scene.check).
// What they say of themselves, and ss, are the witnesses.
func TestOwner(t *testing.T) {
	spinners := spinEverywhere(t)
	for name, test := range map[string]func(*scene){
		"interrupted":          interrupted,
		"orphan":               orphan,
		"closed before":        closedBefore,
		"accepted before":      acceptedBefore,
		"accepted":             accepted,
		"thread":               thread,
		"pid namespace":        pidNamespace,
		"cgroup gone":          cgroupGone,
		"SYN-ACK":              func(s *scene) { synack(s, false) },
		"SYN-ACK, before":      func(s *scene) { synack(s, true) },
		"passed on":            func(s *scene) { passedOn(s, false) },
		"passed on and gone":   func(s *scene) { passedOn(s, true) },
		"passed on and closed": passedOnAndClosed,
		"shared":               func(s *scene) { shared(s, false) },
		"shared by a parent":   func(s *scene) { shared(s, true) },
		"reset and closed":     resetAndClosed,
		"closed at once":       closedAtOnce,
		"not accepted":         notAccepted,
		"no socket":            noSocket,
		"socket reused":        socketReused,
		"pid reused":           pidReused,
		"exec":                 execAfterwards,
		"killed":               killed,
		"killed, accepted":     killedAccepted,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := everything.open(); err != nil {
				t.Fatalf("%+v", err)
			}
			for range 10 {
				s := newScene(t, spinners)
				skipped, lost := everything.skipped(t), everything.lost()
				test(s)
				missed := everything.skipped(t) - skipped + everything.lost() - lost
				if t.Failed() || len(s.missing) == 0 {
					return
				}
				// On an emulated machine a look at who has a socket may come too late.
				if missed == 0 && !s.hidden && os.Getenv(slow) == "" {
					t.Error(strings.Join(s.missing, "\n"))
					return
				}
				t.Logf("%d events or runs of programs missed: again\n%s", missed, strings.Join(s.missing, "\n"))
			}
			t.Error("this machine hides events from BPF or skips programs again and again")
		})
	}
}

// spinEverywhere has a process of its own keep each processor busy.
func spinEverywhere(t *testing.T) (pids []int) {
	t.Helper()
	ns := labtest.Namespace(t)
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for cpu := range runtime.NumCPU() * 64 {
		if set.IsSet(cpu) {
			a := hire(t, ns, "spinner")
			a.do(order{Do: "spin", N: cpu})
			pids = append(pids, a.pid)
		}
	}
	return pids
}

// A scene is one try at a situation, in a namespace of its own.
type scene struct {
	*testing.T
	ctx      context.Context
	ns       *lab.Namespace
	place    lab.Place
	spinners []int
	cast     map[uint32][]string // who may be named, and the names they have
	own      map[uint16]bool     // local ports of this process, but for accepted connections
	missing  []string            // names and events that should have been there
	unseen   func() ([]labtest.TraceEvent, error)
	hidden   bool // the machine hid an event from BPF
}

func newScene(t *testing.T, spinners []int) *scene {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	place := loopback(t, lab.V4)
	own := uint32(os.Getpid())
	unseen, err := everything.blind.Watch(func(e labtest.TraceEvent) bool { return e.Involves(place.Addr) })
	if err != nil {
		t.Fatal(err)
	}
	return &scene{
		T: t, ctx: ctx, ns: place.Client, place: place, spinners: spinners, unseen: unseen,
		cast: map[uint32][]string{own: {commOf(t, os.Getpid())}}, own: map[uint16]bool{},
	}
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// hire starts an actor of this scene.
func (s *scene) hire(comm string, prepare ...func(*exec.Cmd)) *actor {
	s.Helper()
	a := hire(s.T, s.ns, comm, prepare...)
	s.joins(a)
	return a
}

func (s *scene) joins(a *actor) {
	s.cast[uint32(a.pid)] = append(s.cast[uint32(a.pid)], a.comm)
}

// addr is the server's address with a port.
func (s *scene) addr(port uint16) netip.AddrPort { return netip.AddrPortFrom(s.place.Addr, port) }

// listen makes a listener of this process.
func (s *scene) listen() *lab.Socket {
	s.Helper()
	l, err := s.ns.Listen(s.addr(0), 128)
	s.must(err)
	s.own[l.Local().Port()] = true
	s.Cleanup(func() { _ = l.Close() })
	return l
}

// accept takes a connection to a listener of this process.
func (s *scene) accept(l *lab.Socket) *lab.Socket {
	s.Helper()
	c, err := l.Accept(s.ctx)
	s.must(err)
	s.Cleanup(func() { _ = c.Close() })
	return c
}

// dial connects a socket of this process.
func (s *scene) dial(port uint16) *lab.Socket {
	s.Helper()
	c, err := s.ns.Socket(s.place.Addr, 0)
	s.must(err)
	s.Cleanup(func() { _ = c.Close() })
	s.must(c.Connect(s.ctx, s.addr(port)))
	s.own[c.Local().Port()] = true
	return c
}

// more waits until the socket refused n more segments.
func (s *scene) more(c *lab.Socket, n int) {
	s.Helper()
	drops, err := c.Drops()
	s.must(err)
	s.must(c.WaitDrops(s.ctx, int(drops)+n))
}

// follow returns the events of the scene from now on, of a stream that began
// before all of it.
func (s *scene) follow() func() []events.Event {
	s.Helper()
	stop := everything.start(s.T, s.ns.Inum())
	return func() []events.Event { return s.check(stop()) }
}

// fresh is follow with a stream that begins now.
func (s *scene) fresh() func() []events.Event {
	s.Helper()
	tr := startFiltered(s.T, allTypes, filter.Kernel{NetNS: []uint32{s.ns.Inum()}})
	return func() []events.Event { return s.check(tr.finish(s.T)) }
}

// check wants every name to be that of somebody who is in the scene.
func (s *scene) check(evs []events.Event) []events.Event {
	s.Helper()
	evs = slices.DeleteFunc(slices.Clone(evs), func(e events.Event) bool { return e.NetNS != s.ns.Inum() })
	for i := range evs {
		e := &evs[i]
		names, known := s.cast[e.PID]
		// The tests beside this one have this process fork. Until the child's
		// exec it has every socket, too, and may be the last to have one.
		if s.own[e.LPort] && !slices.Contains(s.spinners, int(e.PID)) {
			continue
		}
		switch {
		case e.PID == 0 && len(e.Comm.Bytes()) > 0, e.PID != 0 && !slices.Contains(names, e.Comm.String()):
			s.Errorf("pid %d, comm %q; those here are %v: %s", e.PID, e.Comm, s.cast, line(e))
		case e.PID != 0 && !known, slices.Contains(s.spinners, int(e.PID)):
			s.Errorf("pid %d, comm %q has nothing to do with it: %s", e.PID, e.Comm, line(e))
		}
		for _, pid := range e.Sharers {
			if _, known := s.cast[pid]; !known && int(e.PID) != os.Getpid() {
				s.Errorf("sharer %d has nothing to do with it: %s", pid, line(e))
			}
		}
	}
	return evs
}

// least wants at least n of the events to match, and returns those that do.
func (s *scene) least(n int, evs []events.Event, match func(*events.Event) bool) (got []events.Event) {
	s.Helper()
	for i := range evs {
		if match(&evs[i]) {
			got = append(got, evs[i])
		}
	}
	if len(got) >= n {
		return got
	}
	blind, err := s.unseen()
	s.must(err)
	s.hidden = s.hidden || len(blind) > 0
	s.miss("%d events, want at least %d, of:\n%s", len(got), n, dump(evs[:min(len(evs), 50)]))
	return got
}

// belong wants all of the events to be the actor's alone.
func (s *scene) belong(a *actor, evs []events.Event) {
	s.Helper()
	s.belongTo(uint32(a.pid), a.comm, nil, evs)
}

func (s *scene) belongTo(pid uint32, comm string, sharers []uint32, evs []events.Event) {
	s.Helper()
	wrong := slices.DeleteFunc(slices.Clone(evs), func(e events.Event) bool {
		return e.PID == pid && e.Comm.String() == comm && slices.Equal(e.Sharers, sharers)
	})
	for i := range wrong[:min(len(wrong), 5)] {
		e := &wrong[i]
		// Who had the socket before is shown where the kernel skipped the
		// program at the change of hands.
		s.miss("pid %d, comm %q, sharers %v; want %d, %q, %v (inode %d, orphan %v): %s", e.PID, e.Comm, e.Sharers, pid, comm, sharers, e.HolderInode, e.Orphan, line(e))
	}
	if len(wrong) > 5 {
		s.miss("and %d more of %d", len(wrong)-5, len(evs))
	}
}

// miss reports what the kernel may not have shown to any BPF program.
func (s *scene) miss(format string, args ...any) {
	s.missing = append(s.missing, fmt.Sprintf(format, args...))
}

// local chooses the events of the ends that have a local port.
func local(port uint16) func(*events.Event) bool {
	return func(e *events.Event) bool { return e.LPort == port }
}

// life chooses the events of connections by their local ports, and among them
// the first, which comes before the port is chosen.
func life(evs []events.Event, ports ...uint16) func(*events.Event) bool {
	conns := map[uint64]bool{}
	for i := range evs {
		if e := &evs[i]; e.Conn != 0 && slices.Contains(ports, e.LPort) {
			conns[e.Conn] = true
		}
	}
	return func(e *events.Event) bool { return conns[e.Conn] }
}

func retransmitted(port uint16, after uint64) func(*events.Event) bool {
	return func(e *events.Event) bool {
		return e.Type == events.Retransmit && e.LPort == port && e.Boot >= after
	}
}

// owned are the events of a socket that some process held: not those before it
// was accepted, and not those after it was let go of.
func owned(port uint16) func(*events.Event) bool {
	return func(e *events.Event) bool { return e.LPort == port && e.HolderInode != 0 }
}

var ssPID = regexp.MustCompile(`pid=(\d+)`)

// holdersBySS is who has the socket with a local port, as ss says.
func (s *scene) holdersBySS(port uint16) (pids []int) {
	s.Helper()
	var out []byte
	s.must(s.ns.Do(func() (err error) {
		out, err = exec.CommandContext(s.ctx, "ss", "-Htnap", "sport", "=", strconv.Itoa(int(port))).Output()
		return err
	}))
	for _, m := range ssPID.FindAllSubmatch(out, -1) {
		pid, err := strconv.Atoi(string(m[1]))
		s.must(err)
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func (s *scene) wantSS(port uint16, want ...int) {
	s.Helper()
	slices.Sort(want)
	if got := s.holdersBySS(port); !slices.Equal(got, want) {
		s.Errorf("ss says that %v have the socket, the test that %v", got, want)
	}
}

// stalled has an actor connect to this process, which then hears nothing more
// of what the actor sends.
func (s *scene) stalled(a *actor) (conn answer, peer *lab.Socket) {
	s.Helper()
	l := s.listen()
	conn = a.do(order{Do: "connect", Addr: s.addr(l.Local().Port())})
	peer = s.accept(l)
	s.must(peer.Blackhole(true))
	return conn, peer
}

// interrupted repeats retransmissions by timer until one has interrupted a
// spinner, as tracefs witnesses: the name is the owner's all the same.
func interrupted(s *scene) {
	trace := labtest.Witness(s, s.place.Addr)
	a := s.hire("owner")
	stop := s.follow()
	hit := false
	for range 100 {
		conn, peer := s.stalled(a)
		a.do(order{Do: "send", FD: conn.FD, N: 100})
		s.more(peer, 2)
		a.do(order{Do: "close", FD: conn.FD})
		s.must(peer.Vanish())
		seen, err := trace.Events()
		if s.hidden = errors.Is(err, labtest.ErrLost); s.hidden {
			s.miss("%v", err)
			return
		}
		s.must(err)
		hit = slices.ContainsFunc(seen, func(e labtest.TraceEvent) bool {
			return e.Name == lab.Retransmit && e.Src.Port() == conn.Port && slices.Contains(s.spinners, e.TGID)
		})
		if hit {
			s.belong(a, s.least(1, stop(), retransmitted(conn.Port, 0)))
			return
		}
	}
	s.Error("no timer ran out while a spinner was running")
}

func orphan(s *scene) {
	a := s.hire("orphaned")
	stop := s.follow()
	conn, peer := s.stalled(a)
	a.do(order{Do: "send", FD: conn.FD, N: 100})
	a.end()
	gone := bootTime()
	s.more(peer, 2)
	s.wantSS(conn.Port)
	s.must(peer.Blackhole(false))
	evs := stop()
	s.belong(a, s.least(1, evs, local(conn.Port)))
	for _, e := range s.least(1, evs, retransmitted(conn.Port, gone)) {
		if !e.Orphan || !e.Has(events.HasOrphan) {
			s.Errorf("not marked as an orphan: %s", line(&e))
		}
	}
}

// closedBefore: whose an orphan was that had been closed before the start is
// not known.
func closedBefore(s *scene) {
	s.must(s.ns.Sysctl("net.ipv4.tcp_orphan_retries", "100")) // it has to outlive a slow start
	a := s.hire("gone")
	conn, peer := s.stalled(a)
	a.do(order{Do: "send", FD: conn.FD, N: 100})
	a.end()
	stop := s.fresh()
	s.must(errors.Join(peer.SetLinger0(), peer.Close()))
	s.must(s.ns.Settled(s.ctx))
	s.belongTo(0, "", nil, s.least(2, stop(), local(conn.Port)))
}

func acceptedBefore(s *scene) {
	b := s.hire("server")
	l := b.do(order{Do: "listen", Addr: s.addr(0)})
	// One that will send to nobody, one that will be reset, one that will be closed.
	peers, conns := make([]*lab.Socket, 3), make([]answer, 3)
	for i := range peers {
		peers[i] = s.dial(l.Port)
		conns[i] = b.do(order{Do: "accept", FD: l.FD})
	}
	s.wantSS(l.Port, b.pid)
	stop := s.fresh()
	s.must(peers[0].Blackhole(true))
	b.do(order{Do: "send", FD: conns[0].FD, N: 100})
	b.do(order{Do: "retransmitted", FD: conns[0].FD, N: 1})
	s.must(errors.Join(peers[1].SetLinger0(), peers[1].Close()))
	b.do(order{Do: "await", FD: conns[1].FD})
	s.must(peers[2].Shutdown(unix.SHUT_WR))
	b.do(order{Do: "await", FD: conns[2].FD})
	evs := stop()
	s.belong(b, s.least(4, evs, local(l.Port)))
	for i, match := range []func(*events.Event) bool{
		func(e *events.Event) bool { return e.Type == events.Retransmit },
		func(e *events.Event) bool { return e.Type == events.Reset && e.Direction == events.Received },
		func(e *events.Event) bool { return e.NewState == events.CloseWait },
	} {
		s.least(1, evs, func(e *events.Event) bool {
			return e.LPort == l.Port && e.RPort == conns[i].Port && match(e)
		})
	}
	s.must(peers[0].Blackhole(false))
}

// accepted: what was accepted after the start, is used for a while and closed.
func accepted(s *scene) {
	b := s.hire("server")
	l := b.do(order{Do: "listen", Addr: s.addr(0)})
	stop := s.follow()
	peer := s.dial(l.Port)
	conn := b.do(order{Do: "accept", FD: l.FD})
	s.must(peer.Blackhole(true))
	b.do(order{Do: "send", FD: conn.FD, N: 100})
	b.do(order{Do: "retransmitted", FD: conn.FD, N: 1})
	b.end() // its orphan goes on
	gone := bootTime()
	s.more(peer, 1)
	s.must(peer.Blackhole(false))
	evs := stop()
	s.belong(b, s.least(2, evs, owned(l.Port)))
	s.belong(b, s.least(1, evs, retransmitted(l.Port, gone)))
	before := func(e *events.Event) bool {
		return e.LPort == l.Port && (e.OldState == events.Listen && e.NewState == events.SynRecv || e.NewState == events.Established)
	}
	s.belongTo(0, "", nil, s.least(2, evs, before))
}

func thread(s *scene) {
	a := s.hire("process")
	stop := s.follow()
	l := s.listen()
	conn := a.do(order{Do: "connect", Addr: s.addr(l.Local().Port()), Name: "thread"})
	peer := s.accept(l)
	s.must(peer.Blackhole(true))
	a.do(order{Do: "send", FD: conn.FD, N: 100})
	a.do(order{Do: "retransmitted", FD: conn.FD, N: 1})
	evs := stop()
	s.belong(a, s.least(3, evs, life(evs, conn.Port)))
	s.must(peer.Blackhole(false))
}

func pidNamespace(s *scene) {
	own := func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID} }
	a, b := s.hire("inner client", own), s.hire("inner server", own)
	if pid := a.do(order{Do: "hello"}).PID; pid != 1 || a.pid == 1 {
		s.Fatalf("in its own namespace its pid is %d, in this one %d", pid, a.pid)
	}
	l := b.do(order{Do: "listen", Addr: s.addr(0)})
	peer := s.dial(l.Port)
	before := b.do(order{Do: "accept", FD: l.FD})
	stop := s.fresh()
	s.must(peer.Blackhole(true))
	b.do(order{Do: "send", FD: before.FD, N: 100})
	b.do(order{Do: "retransmitted", FD: before.FD, N: 1})
	conn, deaf := s.stalled(a)
	a.do(order{Do: "send", FD: conn.FD, N: 100})
	a.do(order{Do: "retransmitted", FD: conn.FD, N: 1})
	evs := stop()
	s.belong(b, s.least(1, evs, retransmitted(l.Port, 0)))
	s.belong(a, s.least(3, evs, life(evs, conn.Port)))
	s.must(errors.Join(peer.Blackhole(false), deaf.Blackhole(false)))
}

// cgroupRoot is where the unified hierarchy is mounted.
func cgroupRoot(s *scene) string {
	s.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	s.Fatal("no unified cgroup hierarchy is mounted")
	panic("unreachable")
}

// cgroupGone has the only process of a cgroup leave it, and removes it.
func cgroupGone(s *scene) {
	root := cgroupRoot(s)
	path := fmt.Sprintf("/tcptrace-test-%d-%d/inner", os.Getpid(), s.ns.Inum())
	outer := filepath.Join(root, filepath.Dir(path))
	s.must(os.MkdirAll(filepath.Join(root, path), 0o755))
	remove := func() error {
		return errors.Join(os.Remove(filepath.Join(root, path)), os.Remove(outer))
	}
	s.Cleanup(func() {
		if _, err := os.Stat(outer); err == nil {
			s.must(remove())
		}
	})
	a := s.hire("container")
	move := func(to string) {
		s.Helper()
		s.must(os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(a.pid)), 0))
	}
	move(filepath.Join(root, path))
	conn, peer := s.stalled(a) // a socket's cgroup is the one that it was made in
	move(root)
	s.must(remove())
	stop := s.fresh()
	a.do(order{Do: "send", FD: conn.FD, N: 100})
	a.do(order{Do: "retransmitted", FD: conn.FD, N: 1})
	evs := s.least(1, stop(), local(conn.Port))
	s.belong(a, evs)
	for _, e := range evs {
		if e.Cgroup != path {
			s.Errorf("cgroup %q, want %q: %s", e.Cgroup, path, line(&e))
		}
	}
	s.must(peer.Blackhole(false))
}

func synack(s *scene, before bool) {
	b := s.hire("listener")
	var stop func() []events.Event
	if !before {
		stop = s.follow()
	}
	l := b.do(order{Do: "listen", Addr: s.addr(0)})
	if before {
		stop = s.fresh()
	}
	c, err := s.ns.Socket(s.place.Addr, 0)
	s.must(err)
	defer c.Close()
	s.must(c.Attach(lab.DropSYNACK()))
	s.must(c.Start(s.addr(l.Port)))
	s.must(c.WaitDrops(s.ctx, 3))
	s.must(c.Close())
	synack := func(e *events.Event) bool { return e.Kind == events.KindSYNACK && e.LPort == l.Port }
	s.belong(b, s.least(2, stop(), synack))
}

// couple gives two actors a socket to hand descriptors over.
func couple(s *scene) (one, other func(*exec.Cmd)) {
	s.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	s.must(err)
	f := [2]*os.File{os.NewFile(uintptr(fds[0]), "one"), os.NewFile(uintptr(fds[1]), "other")}
	s.Cleanup(func() { _ = errors.Join(f[0].Close(), f[1].Close()) })
	return files(f[0]), files(f[1])
}

// passedOn has a process hand its socket to another and keep nothing of it, or
// exit. Retransmissions come before, while both have it, and after.
func passedOn(s *scene, exit bool) {
	one, other := couple(s)
	a, b := s.hire("giver", one), s.hire("taker", other)
	stop := s.follow()
	conn, peer := s.stalled(a)
	a.do(order{Do: "send", FD: conn.FD, N: 100})
	a.do(order{Do: "retransmitted", FD: conn.FD, N: 1})
	a.do(order{Do: "pass", FD: conn.FD})
	b.do(order{Do: "take"})
	if exit {
		a.end()
	} else {
		a.do(order{Do: "close", FD: conn.FD})
	}
	s.wantSS(conn.Port, b.pid)
	passed := bootTime()
	s.more(peer, 2)
	s.must(peer.Blackhole(false))
	evs := stop()
	s.belong(b, s.least(2, evs, retransmitted(conn.Port, passed)))
	mine := life(evs, conn.Port)
	opened := func(e *events.Event) bool { return mine(e) && e.NewState == events.SynSent }
	for _, e := range s.least(1, evs, opened) { // who shared it when it was read depends on when that was
		s.belongTo(uint32(a.pid), a.comm, e.Sharers, []events.Event{e})
	}
}

// passedOnAndClosed hands a socket over at once, and the other closes it at
// once: who did what is still known.
func passedOnAndClosed(s *scene) {
	one, other := couple(s)
	a, b := s.hire("giver", one), s.hire("taker", other)
	stop := s.follow()
	l := s.listen()
	var ports []uint16
	n := 50
	if os.Getenv(slow) != "" { // there programs get into each other's way
		n = 8
	}
	for range n {
		conn := a.do(order{Do: "connect", Addr: s.addr(l.Local().Port())})
		peer := s.accept(l)
		a.do(order{Do: "pass", FD: conn.FD})
		a.do(order{Do: "close", FD: conn.FD})
		fd := b.do(order{Do: "take"}).FD
		b.do(order{Do: "close", FD: fd})
		s.must(peer.WaitEOF(s.ctx))
		s.must(peer.Close())
		ports = append(ports, conn.Port)
	}
	s.must(s.ns.Settled(s.ctx))
	evs := stop()
	mine := life(evs, ports...)
	opened := s.least(n, evs, func(e *events.Event) bool { return mine(e) && e.NewState == events.SynSent })
	s.belong(a, opened)
	closed := s.least(3*n, evs, func(e *events.Event) bool {
		return mine(e) && (e.NewState == events.FinWait1 || e.NewState == events.FinWait2 || e.NewState == events.Close)
	})
	s.belong(b, closed)
}

// shared: a fork, which both have the socket of, until one of them closes it.
func shared(s *scene, parentCloses bool) {
	a := s.hire("parent")
	stop := s.follow()
	conn, peer := s.stalled(a)
	child := a.spawn("child", conn.FD)
	s.joins(child)
	s.wantSS(conn.Port, a.pid, child.pid)
	both := bootTime()
	a.do(order{Do: "send", FD: conn.FD, N: 100})
	a.do(order{Do: "retransmitted", FD: conn.FD, N: 2})
	closing := bootTime()
	// What happened while both had it must be read before that changes.
	early := stop()
	stop = s.follow()
	left := child
	if parentCloses {
		a.do(order{Do: "close", FD: conn.FD})
	} else {
		left = a
		child.end()
	}
	s.wantSS(conn.Port, left.pid)
	closed := bootTime()
	s.more(peer, 2)
	s.must(peer.Blackhole(false))
	late := stop()
	sharers := []uint32{uint32(a.pid), uint32(child.pid)}
	slices.Sort(sharers)
	while := func(e *events.Event) bool { return retransmitted(conn.Port, both)(e) && e.Boot < closing }
	s.belongTo(uint32(a.pid), a.comm, sharers, s.least(1, early, while))
	s.belong(left, s.least(1, late, retransmitted(conn.Port, closed)))
}

// both has two actors do something at the same time.
func both(s *scene, a, b *actor, ofA, ofB order) (answer, answer) {
	s.Helper()
	var other answer
	c := make(chan error)
	go func() {
		var err error
		if other, err = b.ask(ofB); err == nil && other.Error != "" {
			err = fmt.Errorf("%s: %s: %s", b.comm, ofB.Do, other.Error)
		}
		c <- err
	}()
	r := a.do(ofA)
	s.must(<-c)
	return r, other
}

// resetAndClosed has a server close each connection as soon as it is reset: the
// socket is gone before the event is read.
func resetAndClosed(s *scene) { servedQuickly(s, "dial") }

// closedAtOnce is the same with connections that are closed as they should be.
func closedAtOnce(s *scene) { servedQuickly(s, "call") }

func servedQuickly(s *scene, how string) {
	a, b := s.hire("client"), s.hire("server")
	stop := s.follow()
	l := b.do(order{Do: "listen", Addr: s.addr(0)})
	n := 300
	if os.Getenv(slow) != "" { // there it takes long, and programs get into each other's way
		n = 10
	}
	served, called := both(s, b, a, order{Do: "serve", FD: l.FD, N: n}, order{Do: how, Addr: s.addr(l.Port), N: n})
	s.must(s.ns.Settled(s.ctx))
	if !slices.Equal(slices.Sorted(slices.Values(served.Ports)), slices.Sorted(slices.Values(called.Ports))) {
		s.Fatalf("the server had %v\nthe client %v", served.Ports, called.Ports)
	}
	evs := stop()
	// In each connection: the loss of it, or the other's FIN, which a packet brought.
	s.belong(b, s.least(n, evs, owned(l.Port)))
	s.belong(b, s.least(n, evs, func(e *events.Event) bool {
		return e.LPort == l.Port && e.NewState == events.Close && e.OldState != events.Listen
	}))
	s.belong(a, s.least(3*n, evs, life(evs, called.Ports...)))
}

func notAccepted(s *scene) {
	a, b := s.hire("client"), s.hire("server")
	stop := s.follow()
	l := b.do(order{Do: "listen", Addr: s.addr(0)})
	first := a.do(order{Do: "connect", Addr: s.addr(l.Port)})
	second := a.do(order{Do: "connect", Addr: s.addr(l.Port)})
	b.do(order{Do: "await", FD: l.FD})
	a.do(order{Do: "linger0", FD: first.FD})
	a.do(order{Do: "close", FD: first.FD})
	b.do(order{Do: "close", FD: l.FD}) // resets the second
	a.do(order{Do: "await", FD: second.FD})
	evs := stop()
	s.belongTo(0, "", nil, s.least(4, evs, func(e *events.Event) bool { return e.LPort == l.Port && e.RPort != 0 }))
	s.belong(b, s.least(2, evs, func(e *events.Event) bool { return e.LPort == l.Port && e.RPort == 0 }))
	s.belong(a, s.least(3, evs, local(first.Port)))
}

func noSocket(s *scene) {
	a := s.hire("client")
	stop := s.follow()
	const discard = 9 // nobody listens here
	if r, err := a.ask(order{Do: "connect", Addr: s.addr(discard)}); err != nil || r.Error != "ECONNREFUSED" {
		s.Fatalf("%v %q in place of a refusal", err, r.Error)
	}
	evs := stop()
	if strings.Contains(everything.unseen, "resets sent without a socket") {
		return
	}
	s.belong(a, s.least(3, evs, func(e *events.Event) bool { return e.RPort == discard }))
	if labtest.HasField(lab.SendReset, "reason") {
		s.least(1, evs, local(discard))
	}
	for _, e := range evs {
		if e.LPort == discard && (e.PID != 0 || e.Inode != 0 || e.Has(events.HasUID)) {
			s.Errorf("pid %d of no socket: %s", e.PID, line(&e))
		}
	}
}

// socketReused has two processes make and close many sockets side by side, so
// that their addresses in the kernel are used again all the time.
func socketReused(s *scene) {
	b := s.hire("server")
	l := b.do(order{Do: "listen", Addr: s.addr(0)})
	clients := []*actor{s.hire("client 1"), s.hire("client 2"), s.hire("client 3")}
	stop := s.follow()
	rounds, n := 20, 10
	if os.Getenv(slow) != "" { // there programs get into each other's way
		rounds = 3
	}
	owner, ports := map[uint16]*actor{}, map[*actor][]uint16{}
	for i := range rounds * len(clients) {
		a := clients[i%len(clients)]
		how := []string{"call", "dial"}[i%2]
		_, r := both(s, b, a, order{Do: "serve", FD: l.FD, N: n}, order{Do: how, Addr: s.addr(l.Port), N: n})
		for _, p := range r.Ports {
			if owner[p] == nil {
				owner[p] = a
				ports[a] = append(ports[a], p)
			} else { // a slow machine uses a port again
				ports[owner[p]] = slices.DeleteFunc(ports[owner[p]], func(q uint16) bool { return q == p })
			}
		}
	}
	s.must(s.ns.Settled(s.ctx))
	evs := stop()
	for _, a := range clients {
		s.belong(a, s.least(3*len(ports[a]), evs, life(evs, ports[a]...)))
	}
	s.belong(b, s.least(rounds*n*len(clients), evs, owned(l.Port)))
}

// respawn hires an actor that has a given pid. Others may take it first.
func (s *scene) respawn(comm string, pid int) *actor {
	s.Helper()
	before := func() error {
		return os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0)
	}
	for range 100 {
		a := hireAfter(s.T, s.ns, comm, before)
		if a.pid == pid {
			s.joins(a)
			return a
		}
		a.end()
	}
	s.Fatalf("pid %d can't be had again", pid)
	panic("unreachable")
}

// pidReused gives the pid of a process that is gone to another, while what the
// first opened goes on: as an orphan, and in the hands of a third.
func pidReused(s *scene) {
	one, other := couple(s)
	a, b := s.hire("first", one), s.hire("taker", other)
	stop := s.follow()
	orphan, deaf := s.stalled(a)
	passed, deaf2 := s.stalled(a)
	a.do(order{Do: "pass", FD: passed.FD})
	fd := b.do(order{Do: "take"}).FD
	a.do(order{Do: "send", FD: orphan.FD, N: 100})
	a.end()
	again := s.respawn("second", a.pid)
	reborn := bootTime()
	b.do(order{Do: "send", FD: fd, N: 100})
	conn, deaf3 := s.stalled(again)
	again.do(order{Do: "send", FD: conn.FD, N: 100})
	s.more(deaf, 1)
	s.more(deaf2, 1)
	s.more(deaf3, 2)
	s.must(errors.Join(deaf.Blackhole(false), deaf2.Blackhole(false), deaf3.Blackhole(false)))
	evs := stop()
	s.belong(a, s.least(1, evs, retransmitted(orphan.Port, reborn)))
	s.belong(b, s.least(1, evs, retransmitted(passed.Port, reborn)))
	s.belong(again, s.least(1, evs, retransmitted(conn.Port, reborn)))
}

// execAfterwards: a process takes another name, by exec, and keeps its socket.
func execAfterwards(s *scene) {
	a := s.hire("before")
	stop := s.follow()
	conn, peer := s.stalled(a)
	if pid := a.do(order{Do: "exec", Name: "afterwards", FD: conn.FD}).PID; pid != a.pid {
		s.Fatalf("exec made %d of %d", pid, a.pid)
	}
	if got := commOf(s.T, a.pid); got != "afterwards" {
		s.Fatalf("/proc says %q", got)
	}
	a.comm = "exe" // between the exec and its own word
	s.joins(a)
	a.comm = "afterwards"
	s.joins(a)
	a.do(order{Do: "send", FD: conn.FD, N: 100})
	s.more(peer, 2)
	s.must(peer.Blackhole(false))
	s.belong(a, s.least(1, stop(), retransmitted(conn.Port, 0)))
}

// kill has ss end connections, by filter.
func (s *scene) kill(filter ...string) {
	s.Helper()
	s.must(s.ns.Do(exec.CommandContext(s.ctx, "ss", append([]string{"-K", "-t"}, filter...)...).Run))
}

func killed(s *scene) {
	a := s.hire("victim")
	stop := s.follow()
	l := s.listen()
	conn := a.do(order{Do: "connect", Addr: s.addr(l.Local().Port())})
	peer := s.accept(l)
	s.kill("sport", "=", strconv.Itoa(int(conn.Port)))
	a.do(order{Do: "await", FD: conn.FD})
	s.must(peer.WaitFailure(s.ctx, unix.ECONNRESET))
	evs := stop()
	s.belong(a, s.least(4, evs, life(evs, conn.Port)))
}

func killedAccepted(s *scene) {
	b := s.hire("victim")
	stop := s.follow()
	l := b.do(order{Do: "listen", Addr: s.addr(0)})
	peer := s.dial(l.Port)
	conn := b.do(order{Do: "accept", FD: l.FD})
	s.kill("sport", "=", strconv.Itoa(int(l.Port)), "and", "dport", "=", strconv.Itoa(int(conn.Port)))
	b.do(order{Do: "await", FD: conn.FD})
	b.do(order{Do: "close", FD: conn.FD})
	s.must(peer.WaitFailure(s.ctx, unix.ECONNRESET))
	s.belong(b, s.least(2, stop(), owned(l.Port)))
}
