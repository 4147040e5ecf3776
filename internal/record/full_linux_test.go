// SPDX-License-Identifier: Apache-2.0

package record

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A full disk ends the stream, and leaves whole blocks.
func TestFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "a")
	r := began(t, path, Options{}, Teller{})
	made, err := fill(r)
	if !errors.Is(err, syscall.ENOSPC) || !strings.HasSuffix(err.Error(), path+": no space left on device") {
		t.Fatalf("%d events: %v", made, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	checkWhole(t, path, made)
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for path, folder := range map[string]bool{filepath.Join(dir, "a"): false, dir: true, filepath.Join(dir, "new"): true} {
		if _, err := Open(path, Options{Folder: folder}); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
