// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestNetNSByPath(t *testing.T) {
	const path = "/proc/self/ns/net"
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	want := uint32(st.Sys().(*syscall.Stat_t).Ino)
	got, err := ParseNetNS(path)
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("got %v, %v, want %d", got, err, want)
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"no-such-namespace": `there is no such namespace; "ip netns" and "lsns -t net" list them`,
		"/no/such/file":     "there is no such file",
		file:                file + " is not a network namespace",
		"/proc/self/ns/uts": "/proc/self/ns/uts is not a network namespace",
	} {
		if _, err := ParseNetNS(text); errText(err) != want {
			t.Errorf("%s:\n got %s\nwant %s", text, errText(err), want)
		}
	}
}
