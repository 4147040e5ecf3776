// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// An initramfs is the file system that the kernel starts from: files by path, without the leading slash. Folders on the
// way to a file need no entry.
type initramfs map[string]file

// A file is a regular file, a folder, or a symbolic link.
type file struct {
	mode fs.FileMode
	data []byte // of a link: where it leads
}

func (fsys initramfs) add(name string, data []byte, mode fs.FileMode) {
	fsys[strings.TrimPrefix(path.Clean(name), "/")] = file{mode, data}
}

// addFile adds a file of this machine, following links.
func (fsys initramfs) addFile(name, source string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	fsys.add(name, data, st.Mode().Perm())
	return nil
}

// addTree adds the files below a folder, if there is one.
func (fsys initramfs) addTree(name, source string) error {
	if !isDir(source) {
		return nil
	}
	return filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		return fsys.addFile(path.Join(name, filepath.ToSlash(rel)), p)
	})
}

func (fsys initramfs) mkdir(names ...string) {
	for _, n := range names {
		fsys.add(n, nil, fs.ModeDir|0o755)
	}
}

// write writes a cpio archive of the "new ASCII" sort (070701), the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
func (fsys initramfs) write(w io.Writer) error {
	all := maps.Clone(fsys)
	for name := range fsys {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = file{mode: fs.ModeDir | 0o755}
			}
		}
	}
	b := bufio.NewWriter(w)
	for i, name := range slices.Sorted(maps.Keys(all)) { // a folder sorts before what is in it
		f := all[name]
		mode := uint32(f.mode.Perm())
		switch f.mode.Type() {
		case fs.ModeDir:
			mode |= 0o040000
		case fs.ModeSymlink:
			mode |= 0o120000
		default:
			mode |= 0o100000
		}
		writeEntry(b, uint32(i+1), mode, name, f.data)
	}
	writeEntry(b, 0, 0, "TRAILER!!!", nil)
	return b.Flush()
}

// writeEntry writes a header, the name with a NUL, and the data, the last two padded to four bytes.
func writeEntry(b *bufio.Writer, inode, mode uint32, name string, data []byte) {
	const zero, nlink = 0, 1
	b.WriteString("070701")
	for _, v := range []uint32{
		inode, mode, zero /* uid */, zero /* gid */, nlink, zero /* mtime */, uint32(len(data)),
		zero, zero, zero, zero /* devices */, uint32(len(name) + 1), zero, /* checksum */
	} {
		fmt.Fprintf(b, "%08X", v)
	}
	const header = 6 + 13*8
	b.WriteString(name)
	b.WriteString("\x00\x00\x00\x00"[:1+pad(header+len(name)+1)])
	b.Write(data)
	b.WriteString("\x00\x00\x00"[:pad(len(data))])
}

func pad(n int) int { return (4 - n%4) % 4 }
