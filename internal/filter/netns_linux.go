// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// netns returns the inode number of the network namespace with this name or
// path.
func netns(name string) (uint32, error) {
	paths := []string{name}
	if !strings.Contains(name, "/") {
		paths = []string{filepath.Join("/run/netns", name), filepath.Join("/var/run/netns", name)}
	}
	for _, p := range paths {
		inum, err := netnsAt(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return inum, err
	}
	if paths[0] == name {
		return 0, errors.New("there is no such file")
	}
	return 0, errors.New(`there is no such namespace; "ip netns" and "lsns -t net" list them`)
}

func netnsAt(path string) (uint32, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrPermission) && strings.HasPrefix(path, "/proc/") {
		return 0, fmt.Errorf("open %s: %w: for processes of other users it takes root or CAP_SYS_PTRACE", path, err)
	}
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return 0, fmt.Errorf("%s is not a network namespace", path)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return uint32(st.Ino), nil // the kernel makes them of 32 bits
}
