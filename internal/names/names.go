// SPDX-License-Identifier: Apache-2.0

// Package names finds the names that belong to the numbers of an event: of
// users, network namespaces and cgroups.
package names

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

const (
	maxEntries = 4096        // of each table; past that it starts anew
	rescan     = time.Second // of events: at most one look at the file system in it
)

// Cache looks each number up once. It is for one goroutine.
type Cache struct {
	users   map[uint32]string
	netns   table[uint32]
	cgroups table[uint64]
}

// NewCache returns an empty cache.
func NewCache() *Cache {
	return &Cache{
		users:   map[uint32]string{},
		netns:   table[uint32]{scan: scanNetNS},
		cgroups: table[uint64]{scan: scanCgroups},
	}
}

// Fill sets the names of e. One that can't be found stays empty.
func (c *Cache) Fill(e *events.Event) {
	if e.Has(events.HasUID) {
		e.User = c.user(e.UID)
	}
	if e.NetNS != 0 {
		e.NetNSName = c.netns.name(e.NetNS, e.Time)
	}
	if e.CgroupID != 0 {
		e.Cgroup = c.cgroups.name(e.CgroupID, e.Time)
	}
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
	scan  func(map[K]string)
	names map[K]string
	last  int64 // time of the event that asked for the last scan, ns
}

func (t *table[K]) name(k K, now int64) string {
	name, ok := t.names[k]
	if !ok && now-t.last >= int64(rescan) {
		// What was not there may have come since.
		t.last = now
		t.names = map[K]string{}
		t.scan(t.names)
		name = t.names[k]
	}
	return name
}

// scanNetNS finds the namespaces that "ip netns" has named, by inode number.
func scanNetNS(out map[uint32]string) {
	const dir = "/run/netns"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // nobody has named one
	}
	for _, e := range entries {
		if ino, ok := inode(filepath.Join(dir, e.Name())); ok && len(out) < maxEntries {
			out[uint32(ino)] = e.Name()
		}
	}
}

// scanCgroups finds the paths of the unified hierarchy's cgroups. A cgroup's id
// is the inode number of its directory (kernfs).
func scanCgroups(out map[uint64]string) {
	root := cgroupRoot()
	if root == "" {
		return
	}
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || len(out) >= maxEntries {
			return fs.SkipDir // gone meanwhile
		}
		if !d.IsDir() {
			return nil
		}
		if ino, ok := inode(path); ok {
			rel, err := filepath.Rel(root, path)
			if err == nil {
				out[ino] = filepath.Join("/", rel)
			}
		}
		return nil
	})
}

// cgroupRoot is where the unified hierarchy is mounted.
func cgroupRoot() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir
		}
	}
	return ""
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
