// SPDX-License-Identifier: Apache-2.0

package names

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Place says which of the host's numbers mean here what they mean on the host.
// In a container some don't: the same number is another process, or nobody.
type Place struct {
	PIDs  bool // process ids
	UIDs  bool // user ids
	Users bool // names of users
}

// The initial namespaces have these inode numbers, include/linux/proc_ns.h.
var initial = map[string]uint64{"user": 0xeffffffd, "pid": 0xeffffffc, "cgroup": 0xeffffffb}

// Look finds out where this process is. It sees most while the process has all
// its rights.
func Look() Place {
	pids, uids := inInitial("pid"), inInitial("user")
	return Place{
		PIDs:  pids,
		UIDs:  uids,
		Users: uids && pids && inInitial("cgroup") && hostRoot(),
	}
}

// inInitial reports whether this process is in the host's namespace of a kind.
func inInitial(kind string) bool {
	const dir = "/proc/self/ns"
	ino, ok := inode(filepath.Join(dir, kind))
	if ok {
		return ino == initial[kind]
	}
	if _, err := os.Stat(dir); err != nil {
		return false // without /proc nobody knows
	}
	return true // a kernel without namespaces of this kind
}

// hostRoot reports whether / is that of the host's first process, as far as
// this process may look: then /etc/passwd is the host's.
func hostRoot() bool {
	host, err := os.Stat("/proc/1/root/.")
	if errors.Is(err, fs.ErrPermission) {
		return true // no other sign of a container was found
	}
	own, rerr := os.Stat("/")
	return err == nil && rerr == nil && os.SameFile(host, own)
}
