// SPDX-License-Identifier: Apache-2.0

package record

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/pkg/recording"
)

// Here is what a recording says of this machine.
func Here() recording.Info {
	var info recording.Info
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		info.Kernel = unix.ByteSliceToString(u.Release[:])
		info.Machine = unix.ByteSliceToString(u.Machine[:])
		info.Host = unix.ByteSliceToString(u.Nodename[:])
	}
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		info.BootID = strings.TrimSpace(string(b))
	}
	return info
}
