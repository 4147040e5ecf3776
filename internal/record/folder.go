// SPDX-License-Identifier: Apache-2.0

package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nameLayout makes names that sort by time, in UTC.
const nameLayout = "2006-01-02T15-04-05.000Z" + suffix

const suffix = ".tcptrace"

// nameTime is when the file with this name was begun; false if the name is not
// one of ours.
func nameTime(name string) (time.Time, bool) {
	t, err := time.Parse(nameLayout, name)
	return t, err == nil && t.Format(nameLayout) == name
}

// FolderOf is the folder that path would be a recording of, by its name; "" for
// none.
func FolderOf(path string) string {
	if _, ours := nameTime(filepath.Base(path)); !ours {
		return ""
	}
	return filepath.Dir(path)
}

// folder is a directory of recordings.
type folder struct {
	root     *os.Root
	path     string
	override bool // only CAP_DAC_OVERRIDE lets this process write there

	maxSize   int64
	maxAge    time.Duration
	pieceSize int64
	pieceAge  time.Duration // 0: any
	now       func() time.Time
	warn      func(string)

	last   time.Time // name of the last file
	warned bool
}

// A folder has about so many files: the oldest goes as a whole.
const (
	piecesBySize = 16
	piecesByAge  = 24
	minPiece     = 64 << 10
	maxPiece     = 64 << 20
	minPieceAge  = time.Minute
)

// clockSlack is how much clocks are set right now and then.
const clockSlack = time.Minute

func openFolder(path string, o *Options) (*folder, error) {
	path = filepath.Clean(path) // with a slash at its end, a link would be what it leads to
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, err
		}
		// Else a power cut takes it, with all that is in it.
		if err := o.syncDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
		fi, err = os.Lstat(path)
	}
	if err != nil {
		return nil, err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); fi.Mode()&fs.ModeSymlink != 0 && (!ok || st.Uid != 0 && int(st.Uid) != os.Geteuid()) {
		return nil, fmt.Errorf("%s is a symbolic link of another user: give the folder itself", path)
	}
	seen, link := fi, fi.Mode()&fs.ModeSymlink != 0
	if fi, err = os.Stat(path); err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("%s is not a folder, which --max-size and --max-age are for", path)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return nil, &fs.PathError{Op: "write in", Path: path, Err: err}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	if opened, err := root.Stat("."); err != nil || !link && !os.SameFile(opened, seen) {
		return nil, errors.Join(err, root.Close(), fmt.Errorf("%s became another folder meanwhile", path))
	}
	return &folder{
		root: root, path: path, override: !mayWrite(fi), warn: o.Warn, now: o.now,
		maxSize: o.MaxSize, pieceSize: min(max(o.MaxSize/piecesBySize, minPiece), maxPiece),
		maxAge: o.MaxAge, pieceAge: pieceAge(o.MaxAge),
	}, nil
}

func pieceAge(maxAge time.Duration) time.Duration {
	if maxAge == 0 {
		return 0
	}
	return max(maxAge/piecesByAge, min(minPieceAge, maxAge))
}

// mayWrite reports whether the bits of a directory alone let this process make
// files there.
func mayWrite(dir fs.FileInfo) bool {
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	groups, _ := os.Getgroups()
	mode := dir.Mode().Perm()
	switch {
	case int(st.Uid) == os.Geteuid():
		mode >>= 6
	case int(st.Gid) == os.Getegid() || slices.Contains(groups, int(st.Gid)):
		mode >>= 3
	}
	return mode&7 == 7
}

// create makes the file of a recording that begins at a time, or right after.
func (d *folder) create(at time.Time) (*os.File, error) {
	if !at.After(d.last) { // the clock was set back: the order of names stays
		at = d.last.Add(time.Millisecond)
	}
	at = at.UTC().Truncate(time.Millisecond)
	for range 1000 { // others may use this folder
		f, err := d.root.OpenFile(at.Format(nameLayout), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			at = at.Add(time.Millisecond)
			continue
		}
		if err != nil {
			return nil, err
		}
		d.last = at
		// It waits for a reader at most, which looks whether it is locked.
		_ = lock(f, unix.LOCK_EX)
		return f, nil
	}
	return nil, fmt.Errorf("%s: no name is free for a new file", d.path)
}

// gone reports whether the last file that was made is no longer there.
func (d *folder) gone() (name string, gone bool) {
	name = d.last.Format(nameLayout)
	_, err := d.root.Lstat(name)
	return filepath.Join(d.path, name), errors.Is(err, fs.ErrNotExist)
}

// entry is a file of ours.
type entry struct {
	name string
	info fs.FileInfo
}

// list returns the recordings of a directory, oldest first.
func list(root *os.Root) ([]entry, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return nil, err
	}
	slices.Sort(names)
	var out []entry
	for _, name := range names {
		if _, ours := nameTime(name); !ours {
			continue
		}
		fi, err := root.Lstat(name)
		if err == nil && fi.Mode().IsRegular() { // else it is gone, or not ours
			out = append(out, entry{name, fi})
		}
	}
	return out, nil
}

// makeRoom deletes what is too old, and the oldest until there is room for more
// bytes. What is being written stays.
func (d *folder) makeRoom(more int64) {
	files, err := list(d.root)
	if err != nil {
		d.complain(err)
		return
	}
	total := more
	for _, f := range files {
		total += f.info.Size()
	}
	// What was written later than now is from before the clock was set back. Its
	// name says that it is the newest: it would stay, and what is recorded go.
	now := d.now()
	ahead := func(f entry) int {
		if f.info.ModTime().After(now.Add(clockSlack)) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(files, func(a, b entry) int { return ahead(a) - ahead(b) })
	for _, f := range files {
		old := d.maxAge > 0 && now.Sub(f.info.ModTime()) > d.maxAge
		// An empty file may be one that another recorder has not locked yet.
		if !old && (total <= d.maxSize || f.info.Size() == 0) {
			continue
		}
		switch gone, err := d.remove(f.name); {
		case err != nil:
			d.complain(err)
		case gone:
			total -= f.info.Size()
		}
	}
	if total > d.maxSize {
		d.complain(errors.New("what may be deleted is not enough"))
	}
}

// complain tells once that the folder grows too large.
func (d *folder) complain(err error) {
	if !d.warned {
		d.warned = true
		d.warn(fmt.Sprintf("%s may grow beyond --max-size or --max-age: %v", strings.TrimSuffix(d.path, "/"), err))
	}
}

// remove deletes a file that nobody writes.
func (d *folder) remove(name string) (gone bool, err error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := lock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if busy(err) {
			return false, nil
		}
		return false, fmt.Errorf("lock %s: %w", name, err)
	}
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}

func (d *folder) close() error { return d.root.Close() }
