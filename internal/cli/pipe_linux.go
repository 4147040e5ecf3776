// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// checkOpen returns errClosed if w is a pipe whose reader has gone. Writing
// would tell, but there may be nothing to write for hours.
func checkOpen(w io.Writer) error {
	file, ok := w.(*os.File)
	if !ok {
		return nil
	}
	conn, err := file.SyscallConn()
	if err != nil {
		return nil
	}
	closed := false
	_ = conn.Control(func(fd uintptr) { // else the next write will tell
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLERR comes unasked
		n, err := unix.Poll(p, 0)
		closed = err == nil && n == 1 && p[0].Revents&unix.POLLERR != 0
	})
	if closed {
		return errClosed
	}
	return nil
}
