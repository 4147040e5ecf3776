// SPDX-License-Identifier: Apache-2.0

package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// disk mounts a file system of its own, and returns where.
func disk(t *testing.T, flags uintptr, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", flags, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A full disk ends the stream, and leaves whole blocks.
func TestFull(t *testing.T) {
	dir := disk(t, 0, "size=256k")
	path := filepath.Join(dir, "a")
	r := began(t, path, Options{}, Teller{})
	made, err := fill(r)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%d events: %v", made, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	got := checkWhole(t, path, made)
	want := fmt.Sprintf("%s: no space left on device: %d events are not in the recording", path, made+1-got) // the refused one, too
	if !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// A folder on a full disk does not get a file without events at each start.
func TestFullFolder(t *testing.T) {
	for _, room := range []int{0, 4 << 10} { // or for a header
		dir := disk(t, 0, "size=64k")
		if err := os.WriteFile(filepath.Join(dir, "another"), make([]byte, 64<<10-room), 0o600); err != nil {
			t.Fatal(err)
		}
		r := began(t, dir, Options{}, Teller{})
		var list []events.Event
		for i := range 5000 {
			list = append(list, event(i))
		}
		err := r.Append(list)
		if err = errors.Join(err, r.Finish(&events.Summary{})); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "5000 events are not in the recording") {
			t.Errorf("%d: %v", room, err)
		}
		if _, files := folderSize(t, dir); len(files) > 0 {
			t.Errorf("%d: %q are left", room, files)
		}
	}
}

func TestReadOnly(t *testing.T) {
	dir := disk(t, unix.MS_RDONLY, "")
	for path, folder := range map[string]bool{filepath.Join(dir, "a"): false, dir: true, filepath.Join(dir, "new"): true} {
		if _, err := Open(path, Options{Folder: folder}); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
