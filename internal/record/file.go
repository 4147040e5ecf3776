// SPDX-License-Identifier: Apache-2.0

package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// create makes a file for this user alone, and locks it. With force it may be
// one that is there; fresh says that it was not. It follows no link in the last
// part of path, which another user may have planted.
func create(path string, force bool) (f *os.File, fresh bool, err error) {
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err == nil {
		_ = lock(f, unix.LOCK_EX|unix.LOCK_NB) // some file systems have none
		return f, true, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return nil, false, err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, false, err
	}
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		return nil, false, fmt.Errorf("%s is a symbolic link: give the file itself", path)
	case fi.IsDir():
		return nil, false, fmt.Errorf("%s is a folder: give a file", path)
	case !fi.Mode().IsRegular():
		return nil, false, fmt.Errorf("%s is not a regular file: give another name, or - for standard output", path)
	case !force:
		return nil, false, fmt.Errorf("%s exists: give another name, or --force to replace it", path)
	}
	if f, err = os.OpenFile(path, os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0); err != nil {
		return nil, false, err
	}
	if err := replaceable(f); err != nil {
		return nil, false, errors.Join(fmt.Errorf("%s %w", path, err), f.Close())
	}
	return f, false, nil
}

// replaceable looks at what was opened, which another user may have put there
// after the look at its name.
func replaceable(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !fi.Mode().IsRegular():
		return errors.New("is not a regular file")
	case int(st.Uid) != os.Geteuid():
		return errors.New("belongs to another user: remove it first, or give another name")
	case st.Nlink > 1:
		return errors.New("has another name, too (a hard link): remove it first, or give another name")
	case busy(lock(f, unix.LOCK_EX|unix.LOCK_NB)):
		return errors.New("is being written by another tcptrace")
	}
	return f.Chmod(0o600)
}

// lock is flock(2). A recorder holds the lock of its file until it ends, however
// it ends.
func lock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// busy reports whether a lock was refused because another process has it.
func busy(err error) bool { return errors.Is(err, unix.EWOULDBLOCK) }

// written reports whether a recorder has f open.
func written(f *os.File) bool {
	err := lock(f, unix.LOCK_SH|unix.LOCK_NB)
	if err == nil {
		_ = lock(f, unix.LOCK_UN)
	}
	return busy(err)
}

// syncDir has the names of a directory on disk.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil // who may not read it can't
	}
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, unix.EINVAL) { // not of this file system
		err = nil
	}
	return errors.Join(err, dir.Close())
}
