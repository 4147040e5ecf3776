// SPDX-License-Identifier: Apache-2.0

package live

import "github.com/tcptrace/tcptrace/internal/names"

// Limits lists what events lack where this process runs: nothing on a host,
// some in a container. Ask before [Open] gives rights up.
func Limits() []Limit {
	p := names.Look()
	var list []Limit
	if !p.PIDs {
		list = append(list, Limit{"pid", "this is not the host's pid namespace", "--pid=host"})
	}
	switch {
	case !p.UIDs:
		list = append(list, Limit{"uid", "this is not the host's user namespace", "--userns=host"})
		fallthrough
	case !p.Users:
		list = append(list, Limit{"user", "the names of users here are not the host's", "uid is shown"})
	}
	return list
}
