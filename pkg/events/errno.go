// SPDX-License-Identifier: Apache-2.0

package events

import "strconv"

// Errno is a Linux error number, positive; 0 is none. The table is Linux's
// own (asm-generic/errno.h), so that a recording shows the same names on
// every system.
type Errno uint16

const (
	eagain       Errno = 11
	enomem       Errno = 12
	ebusy        Errno = 16
	econnaborted Errno = 103
	enobufs      Errno = 105
	ehostunreach Errno = 113
)

var errnoNames = [...]string{
	1: "EPERM", 2: "ENOENT", 4: "EINTR", 5: "EIO", 6: "ENXIO", 11: "EAGAIN",
	12: "ENOMEM", 13: "EACCES", 14: "EFAULT", 16: "EBUSY", 19: "ENODEV",
	22: "EINVAL", 28: "ENOSPC", 32: "EPIPE", 71: "EPROTO", 75: "EOVERFLOW",
	86: "ESTRPIPE", 90: "EMSGSIZE", 92: "ENOPROTOOPT", 93: "EPROTONOSUPPORT",
	95: "EOPNOTSUPP", 97: "EAFNOSUPPORT", 98: "EADDRINUSE",
	99: "EADDRNOTAVAIL", 100: "ENETDOWN", 101: "ENETUNREACH", 102: "ENETRESET",
	103: "ECONNABORTED", 104: "ECONNRESET", 105: "ENOBUFS", 106: "EISCONN",
	107: "ENOTCONN", 108: "ESHUTDOWN", 110: "ETIMEDOUT", 111: "ECONNREFUSED",
	112: "EHOSTDOWN", 113: "EHOSTUNREACH", 114: "EALREADY", 115: "EINPROGRESS",
	125: "ECANCELED",
}

// String returns the name, or "errno N" for a number that has none here; ""
// for 0.
func (e Errno) String() string {
	if e == 0 {
		return ""
	}
	if int(e) < len(errnoNames) && errnoNames[e] != "" {
		return errnoNames[e]
	}
	return "errno " + strconv.Itoa(int(e))
}

// MarshalText returns what String returns.
func (e Errno) MarshalText() ([]byte, error) { return []byte(e.String()), nil }
