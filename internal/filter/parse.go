// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"fmt"
	"net/netip"
	"os/user"
	"path"
	"strconv"
	"strings"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Types returns the types that a filter may name.
func Types() []events.Type { return []events.Type{events.Retransmit, events.Reset, events.StateChange} }

// States returns all states.
func States() []events.State { return named(events.Established) }

// Kinds returns the kinds of retransmissions, then those of resets.
func Kinds() []events.Kind { return named(events.KindUnknown) }

// Directions returns both directions.
func Directions() []events.Direction { return named(events.Sent) }

// named lists the values from first on that have a name.
func named[T interface {
	~uint8
	String() string
}](first T) []T {
	var list []T
	for v := first; v.String() != ""; v++ {
		list = append(list, v)
	}
	return list
}

// Split splits a list at its commas; `\,` is a comma within a value. There
// are no empty values.
func Split(text string) ([]string, error) {
	var list []string
	var b strings.Builder
	flush := func() error {
		if strings.TrimSpace(b.String()) == "" {
			if text == "" {
				return errors.New("it needs a value")
			}
			return fmt.Errorf("value %d is empty", len(list)+1)
		}
		list = append(list, b.String())
		b.Reset()
		return nil
	}
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text) && text[i+1] == ',':
			i++
			b.WriteByte(',')
		case text[i] == ',':
			if err := flush(); err != nil {
				return nil, err
			}
		default:
			b.WriteByte(text[i])
		}
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return list, nil
}

// list parses each value of a list, and says which one is wrong if there are
// several.
func list[T any](text string, parse func(string) (T, error)) ([]T, error) {
	words, err := Split(text)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(words))
	for i, w := range words {
		if out[i], err = parse(w); err != nil {
			if len(words) > 1 {
				err = fmt.Errorf("value %d, %q: %w", i+1, w, err)
			}
			return nil, err
		}
	}
	return out, nil
}

// ParsePorts parses a list of ports and of ranges such as 8000-8100.
func ParsePorts(text string) ([]PortRange, error) {
	return list(text, func(w string) (PortRange, error) {
		first, last, isRange := strings.Cut(strings.TrimSpace(w), "-")
		if !isRange {
			last = first
		}
		a, err := port(first)
		if err != nil {
			return PortRange{}, err
		}
		b, err := port(last)
		if err != nil {
			return PortRange{}, err
		}
		if a > b {
			return PortRange{}, fmt.Errorf("the range is backwards: %d-%d", b, a)
		}
		return PortRange{a, b}, nil
	})
}

func port(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, errors.New("ports go from 0 to 65535")
	case err != nil:
		return 0, errors.New("it is not a port such as 443, or a range such as 8000-8100")
	}
	return uint16(n), nil
}

// ParseAddrs parses a list of IP addresses and of networks such as 10.0.0.0/8.
func ParseAddrs(text string) ([]netip.Prefix, error) {
	return list(text, addr)
}

func addr(w string) (netip.Prefix, error) {
	w = strings.TrimSpace(w)
	if strings.Contains(w, "%") {
		return netip.Prefix{}, errors.New("leave out the zone, the part from % on: events don't have it")
	}
	if a, err := netip.ParseAddr(w); err == nil {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(w)
	if err != nil {
		if host, _, ok := strings.Cut(w, "/"); ok {
			if a, aerr := netip.ParseAddr(host); aerr == nil {
				return netip.Prefix{}, fmt.Errorf("the number after / goes from 0 to %d", a.BitLen())
			}
		}
		return netip.Prefix{}, errors.New("it is not an IP address, or a network such as 10.0.0.0/8 or 2001:db8::/32")
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// fold makes different spellings of a name equal: TIME-WAIT is time_wait.
func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(strings.TrimSpace(s)))
}

// name parses the name of one of the values.
func name[T fmt.Stringer](what string, values []T) func(string) (T, error) {
	return func(w string) (T, error) {
		for _, v := range values {
			if fold(w) == fold(v.String()) {
				return v, nil
			}
		}
		var none T
		return none, fmt.Errorf("the %s are %s", what, strings.Join(texts(values), ", "))
	}
}

// ParseTypes parses a list of event types.
func ParseTypes(text string) ([]events.Type, error) {
	return list(text, name("events", Types()))
}

// ParseStates parses a list of socket states.
func ParseStates(text string) ([]events.State, error) {
	return list(text, name("states", States()))
}

// ParseKinds parses a list of kinds.
func ParseKinds(text string) ([]events.Kind, error) {
	return list(text, name("kinds", Kinds()))
}

// ParseDirections parses a list of directions.
func ParseDirections(text string) ([]events.Direction, error) {
	return list(text, name("directions", Directions()))
}

// ParsePIDs parses a list of process ids.
func ParsePIDs(text string) ([]uint32, error) {
	return list(text, func(w string) (uint32, error) {
		// The kernel's PID_MAX_LIMIT on 64 bits is 4194304, but only Linux'.
		n, err := strconv.ParseInt(strings.TrimSpace(w), 10, 32)
		if err != nil || n < 1 {
			return 0, errors.New("it is not a process id; --comm takes names")
		}
		return uint32(n), nil
	})
}

// ParseComms parses a list of process names. The kernel keeps the first 15
// bytes of a name, so only those count.
func ParseComms(text string) ([]string, error) {
	return list(text, func(w string) (string, error) {
		return w[:min(len(w), len(events.Comm{})-1)], nil
	})
}

// ParseUIDs parses a list of user ids and of names of this system's users.
func ParseUIDs(text string) ([]uint32, error) {
	return list(text, func(w string) (uint32, error) {
		if n, name, err := uid(w); err != nil || name == "" {
			return n, err
		}
		u, err := user.Lookup(strings.TrimSpace(w))
		if err != nil {
			var unknown user.UnknownUserError
			if errors.As(err, &unknown) {
				return 0, errors.New("there is no such user here; a number works for any")
			}
			return 0, err
		}
		n, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return 0, errors.New("this user has no numeric id")
		}
		return uint32(n), nil
	})
}

// ParseRecordedUIDs parses what ParseUIDs does, for a recording: its names are
// those of the system where it was made.
func ParseRecordedUIDs(text string) (uids []uint32, users []string, err error) {
	return either(text, uid)
}

// uid parses a user id, or returns a name.
func uid(w string) (n uint32, name string, err error) {
	w = strings.TrimSpace(w)
	v, err := strconv.ParseUint(w, 10, 32)
	switch {
	case err == nil:
		return uint32(v), "", nil
	case errors.Is(err, strconv.ErrRange):
		return 0, "", errors.New("user ids go from 0 to 4294967295")
	}
	return 0, w, nil
}

// either parses a list whose values are numbers or names.
func either(text string, parse func(string) (uint32, string, error)) (numbers []uint32, names []string, err error) {
	_, err = list(text, func(w string) (struct{}, error) {
		n, name, err := parse(w)
		switch {
		case err != nil:
		case name == "":
			numbers = append(numbers, n)
		default:
			names = append(names, name)
		}
		return struct{}{}, err
	})
	return numbers, names, err
}

// ParseCgroups parses a list of cgroup paths, with /sys/fs/cgroup before them
// or without.
func ParseCgroups(text string) ([]string, error) {
	return list(text, func(w string) (string, error) {
		p := path.Clean("/" + w)
		for _, mount := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
			if rest, ok := strings.CutPrefix(p, mount); ok && (rest == "" || rest[0] == '/') {
				return path.Clean("/" + rest), nil
			}
		}
		return p, nil
	})
}

// ParseNetNS parses a list of network namespaces: inode numbers, names as
// "ip netns" knows them, and paths such as /proc/1/ns/net.
func ParseNetNS(text string) ([]uint32, error) {
	return list(text, func(w string) (uint32, error) {
		n, name, err := inum(w)
		if err != nil || name == "" {
			return n, err
		}
		return netns(name)
	})
}

// ParseRecordedNetNS parses a list of network namespaces of a recording: inode
// numbers, and names as "ip netns" knew them.
func ParseRecordedNetNS(text string) (inums []uint32, names []string, err error) {
	return either(text, func(w string) (uint32, string, error) {
		n, name, err := inum(w)
		if strings.Contains(name, "/") {
			if dir, base := path.Split(path.Clean(name)); dir == "/run/netns/" || dir == "/var/run/netns/" {
				return n, base, err
			}
			return 0, "", errors.New("a recording knows no paths: give the inode number, or the name")
		}
		return n, name, err
	})
}

// inum parses the inode number of a namespace, or returns a name.
func inum(w string) (n uint32, name string, err error) {
	w = strings.TrimSpace(w)
	v, err := strconv.ParseUint(w, 10, 32)
	switch {
	case err == nil && v > 0:
		return uint32(v), "", nil
	case err == nil || errors.Is(err, strconv.ErrRange):
		return 0, "", errors.New("inode numbers of namespaces go from 1 to 4294967295")
	}
	return 0, w, nil
}
