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
	closed := false
	onFile(w, func(fd int) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLERR comes unasked
		n, err := unix.Poll(p, 0)
		closed = err == nil && n == 1 && p[0].Revents&unix.POLLERR != 0
	})
	if closed {
		return errClosed
	}
	return nil
}

// pipeSize is what every process may ask for (/proc/sys/fs/pipe-max-size).
const pipeSize = 1 << 20

// widen makes the pipe that w may be as large as it can: in a storm the reader
// and this program then take turns sixteen times less often.
func widen(w io.Writer) {
	onFile(w, func(fd int) {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize) // else it stays as it is
	})
}

// onFile calls f with the descriptor of w, if it has one.
func onFile(w io.Writer, f func(fd int)) {
	file, ok := w.(*os.File)
	if !ok {
		return
	}
	conn, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { f(int(fd)) })
}
