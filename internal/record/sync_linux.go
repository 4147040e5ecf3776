// SPDX-License-Identifier: Apache-2.0

package record

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// datasync has what was written to f on disk.
func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
