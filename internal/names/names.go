// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package names finds the names that belong to the numbers of an event: of
// users, network namespaces and cgroups, and of the units, containers and pods
// that cgroups belong to.
package names

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

const (
	maxEntries = 4096 // of each table; what is beyond has no name

	// Of events: a table is looked at again at most this often, and read again
	// for a number that it lacks at most that often.
	recheck = 100 * time.Millisecond
	rescan  = time.Second
)

// Cache looks each number up once. It is for one goroutine.
type Cache struct {
	place      Place
	users      map[uint32]string
	netns      table[uint32]
	cgroupPath func(uint64) string
	owners     map[uint64]owner
}

// owner is what the path of a cgroup says.
type owner struct {
	path, unit, container, pod string

	asked int64 // of one without a path: time of the event that asked for it, ns
}

// NewCache returns an empty cache. cgroupPath finds the path of the cgroup with
// an id, which the kernel gives to no other; "" if it can't.
func NewCache(cgroupPath func(id uint64) string) *Cache {
	return &Cache{
		place:      Look(),
		users:      map[uint32]string{},
		netns:      table[uint32]{scan: scanNetNS, dir: netnsDir},
		cgroupPath: cgroupPath,
		owners:     map[uint64]owner{},
	}
}

// Fill sets the names of e. One that can't be found stays empty, and numbers
// that mean something else here than on the host are taken away.
func (c *Cache) Fill(e *events.Event) {
	if !c.place.PIDs {
		e.PID, e.Sharers = 0, nil
	}
	if !c.place.UIDs {
		e.UID, e.Known = 0, e.Known&^events.HasUID
	}
	if e.Has(events.HasUID) && c.place.Users {
		e.User = c.user(e.UID)
	}
	if e.NetNS != 0 {
		e.NetNSName = c.netns.name(e.NetNS, e.Time)
	}
	if e.CgroupID != 0 {
		c.own(e)
	}
}

// own sets the path of e's cgroup, and what it says.
func (c *Cache) own(e *events.Event) {
	o, ok := c.owners[e.CgroupID]
	if !ok || o.path == "" && e.Time-o.asked >= int64(rescan) {
		o = owner{path: c.cgroupPath(e.CgroupID), asked: e.Time}
		o.unit, o.container, o.pod = Owner(o.path)
		if len(c.owners) >= maxEntries {
			clear(c.owners)
		}
		c.owners[e.CgroupID] = o
	}
	e.Cgroup, e.Unit, e.Container, e.Pod = o.path, o.unit, o.container, o.pod
}

func (c *Cache) user(uid uint32) string {
	name, ok := c.users[uid]
	if !ok {
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			name = u.Username
		}
		if len(c.users) >= maxEntries {
			clear(c.users)
		}
		c.users[uid] = name
	}
	return name
}

// table holds the names that one scan of the file system finds.
type table[K comparable] struct {
	scan func(map[K]string)
	// dir changes whenever a name comes or goes. The kernel uses the numbers
	// of namespaces again at once, so that a name that was right may not be.
	// "" where numbers are not used again.
	dir string

	names   map[K]string
	changed time.Time // dir, at the last scan
	checked int64     // time of the event that had dir looked at, ns
	scanned int64     // time of the event that asked for the last scan, ns
}

func (t *table[K]) name(k K, now int64) string {
	stale := false
	if t.dir != "" && now-t.checked >= int64(recheck) {
		t.checked = now
		if fi, err := os.Stat(t.dir); err == nil && !fi.ModTime().Equal(t.changed) {
			t.changed, stale = fi.ModTime(), true
		}
	}
	name, ok := t.names[k]
	// What was not there may have come since.
	if stale || !ok && now-t.scanned >= int64(rescan) {
		t.scanned = now
		t.names = map[K]string{}
		t.scan(t.names)
		name = t.names[k]
	}
	return name
}

const netnsDir = "/run/netns"

// scanNetNS finds the namespaces that "ip netns" has named, by inode number.
func scanNetNS(out map[uint32]string) {
	entries, err := os.ReadDir(netnsDir)
	if err != nil {
		return // nobody has named one
	}
	for _, e := range entries {
		if ino, ok := inode(filepath.Join(netnsDir, e.Name())); ok && len(out) < maxEntries {
			out[uint32(ino)] = e.Name()
		}
	}
}

func inode(path string) (uint64, bool) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Ino, true
}
