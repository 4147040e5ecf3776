// SPDX-License-Identifier: Apache-2.0

package events

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A recording has the numbers of amd64 and arm64, which are the same.
func TestErrno(t *testing.T) {
	aliases := map[string]string{"ENOTSUP": "EOPNOTSUPP", "EFSCORRUPTED": "EUCLEAN"}
	for e := range Errno(134) {
		want := unix.ErrnoName(unix.Errno(e))
		if name, ok := aliases[want]; ok {
			want = name
		}
		if got := e.String(); want != "" && got != want {
			t.Errorf("%d: %s, want %s", e, got, want)
		}
	}
	for e, want := range map[Errno]string{0: "", 41: "errno 41", 134: "errno 134", 4000: "errno 4000"} {
		if got := e.String(); got != want {
			t.Errorf("%d: %s, want %s", e, got, want)
		}
	}
}
