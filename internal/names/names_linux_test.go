// SPDX-License-Identifier: Apache-2.0

package names

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/pkg/events"
)

func TestUser(t *testing.T) {
	c := NewCache(nil)
	e := events.Event{Known: events.HasUID}
	if c.Fill(&e); e.User != "root" {
		t.Errorf("uid 0 is %q", e.User)
	}
	e = events.Event{Known: events.HasUID, UID: 3_999_999_999}
	if c.Fill(&e); e.User != "" {
		t.Errorf("a uid that nobody has is %q", e.User)
	}
	e = events.Event{}
	if c.Fill(&e); e.User != "" {
		t.Errorf("an unknown uid is %q", e.User)
	}
}

// TestElsewhere: numbers that mean something else here are taken away.
func TestElsewhere(t *testing.T) {
	c := NewCache(nil)
	c.place.PIDs, c.place.UIDs = false, false
	e := events.Event{Known: events.HasUID | events.HasOrphan, UID: 1, PID: 812, Sharers: []uint32{812, 813}}
	c.Fill(&e)
	if e.PID != 0 || e.Sharers != nil || e.UID != 0 || e.Known != events.HasOrphan || e.User != "" {
		t.Errorf("left: %+v", e)
	}
}

// named gives this thread's network namespace a name, as "ip netns attach" does.
func named(t *testing.T, name string) (inum uint32) {
	t.Helper()
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("/run/netns", name)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unname(t, name) })
	ino, ok := inode(path)
	if !ok {
		t.Fatalf("no inode of %s", path)
	}
	return uint32(ino)
}

// unname takes the name away, if it is still there.
func unname(t *testing.T, name string) {
	t.Helper()
	path := filepath.Join("/run/netns", name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Error(err)
	}
}

func TestNetNS(t *testing.T) {
	c := NewCache(nil)
	now := time.Now().UnixNano()
	nameOf := func(inum uint32) string {
		now += int64(rescan)
		e := events.Event{NetNS: inum, Time: now}
		c.Fill(&e)
		return e.NetNSName
	}
	if got := nameOf(1); got != "" {
		t.Errorf("a namespace without a name is %q", got)
	}
	first := fmt.Sprintf("tcptrace-test-%d-a", os.Getpid())
	inum := named(t, first)
	if got := nameOf(inum); got != first {
		t.Errorf("namespace %d is %q, want %q", inum, got, first)
	}
	// The number gets another name, as that of a new namespace would.
	second := fmt.Sprintf("tcptrace-test-%d-b", os.Getpid())
	unname(t, first)
	named(t, second)
	if got := nameOf(inum); got != second {
		t.Errorf("namespace %d is %q, want %q", inum, got, second)
	}
}

// What is remembered of a cgroup holds for its id only, is asked for once, and
// not remembered for ever.
func TestCgroup(t *testing.T) {
	paths := map[uint64]string{7: "/docker/" + id1, 8: "/system.slice/nginx.service", 9: "/kubepods.slice/kubepods-pod" + uid1_ + ".slice"}
	asked := 0
	c := NewCache(func(id uint64) string { asked++; return paths[id] })
	now := time.Now().UnixNano()
	of := func(id uint64) events.Event {
		e := events.Event{CgroupID: id, Time: now}
		c.Fill(&e)
		return e
	}
	for range 2 {
		if e := of(7); e.Cgroup != "/docker/"+id1 || e.Container != id1 || e.Unit != "" {
			t.Errorf("%+v", e)
		}
		if e := of(8); e.Cgroup != "/system.slice/nginx.service" || e.Container != "" || e.Unit != "nginx.service" {
			t.Errorf("%+v", e)
		}
		if e := of(0); e.Cgroup != "" || e.Unit != "" {
			t.Errorf("an unknown cgroup has names: %+v", e)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times for 2 cgroups", asked)
	}
	for range 2 {
		if e := of(10); e.Cgroup != "" {
			t.Errorf("%+v", e)
		}
	}
	paths[10], now = "/late.scope", now+int64(rescan)
	if e := of(10); e.Cgroup != "/late.scope" || asked != 4 {
		t.Errorf("asked %d times for %+v", asked, e)
	}
	e := events.Event{CgroupID: 9, Time: now}
	c.Fill(&e)
	if n := testing.AllocsPerRun(100, func() { c.Fill(&e) }); n != 0 || e.Pod != uid1 {
		t.Errorf("%v allocations for a known cgroup of pod %s", n, e.Pod)
	}
	for id := range uint64(3 * maxEntries) {
		of(id)
		if len(c.owners) > maxEntries {
			t.Fatalf("%d entries", len(c.owners))
		}
	}
}
