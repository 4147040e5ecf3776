// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/pkg/events"
)

func TestSplit(t *testing.T) {
	tests := []struct {
		text string
		want []string
		err  string
	}{
		{"a", []string{"a"}, ""},
		{"a,b", []string{"a", "b"}, ""},
		{" a , b", []string{" a ", " b"}, ""},
		{`a\,b,c`, []string{"a,b", "c"}, ""},
		{`\,`, []string{","}, ""},
		{`a\b`, []string{`a\b`}, ""},
		{`a\`, []string{`a\`}, ""},
		{`a\\,b`, []string{`a\,b`}, ""},
		{"", nil, "it needs a value"},
		{",", nil, "value 1 is empty"},
		{"a,", nil, "value 2 is empty"},
		{"a,,b", nil, "value 2 is empty"},
		{"a, ,b", nil, "value 2 is empty"},
	}
	for _, tt := range tests {
		got, err := Split(tt.text)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.text, diff)
		}
		if errText(err) != tt.err {
			t.Errorf("%q: error %q, want %q", tt.text, errText(err), tt.err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestParse(t *testing.T) {
	equal := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	tests := []struct {
		text string
		got  func(string) (any, error)
		want any
	}{
		{"80, 443 ,8000-8100,0-0", anyOf(ParsePorts), []PortRange{{80, 80}, {443, 443}, {8000, 8100}, {0, 0}}},
		{"65535", anyOf(ParsePorts), []PortRange{{65535, 65535}}},
		{"10.0.0.1,10.1.2.3/8", anyOf(ParseAddrs), []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/8")}},
		{"::ffff:10.0.0.1", anyOf(ParseAddrs), []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}},
		{"::ffff:10.0.0.1/120, ::/0", anyOf(ParseAddrs), []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("::/0")}},
		{"retransmit,state", anyOf(ParseTypes), []events.Type{events.Retransmit, events.StateChange}},
		{"ESTABLISHED,fin-wait-1,syn_sent", anyOf(ParseStates), []events.State{events.Established, events.FinWait1, events.SynSent}},
		{"rto,unread-data", anyOf(ParseKinds), []events.Kind{events.KindRTO, events.KindUnreadData}},
		{"sent, Received", anyOf(ParseDirections), []events.Direction{events.Sent, events.Received}},
		{"1, 4194304", anyOf(ParsePIDs), []uint32{1, 4194304}},
		{`a b,c\,d`, anyOf(ParseComms), []string{"a b", "c,d"}},
		{"root, 4294967295", anyOf(ParseUIDs), []uint32{0, 4294967295}},
		{"/,a,/a//b/../c/,/sys/fs/cgroup/x,/sys/fs/cgroup,/sys/fs/cgroupx", anyOf(ParseCgroups), []string{"/", "/a", "/a/c", "/x", "/", "/sys/fs/cgroupx"}},
		{"4026531840", anyOf(ParseNetNS), []uint32{4026531840}},
	}
	for _, tt := range tests {
		got, err := tt.got(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
		} else if diff := cmp.Diff(tt.want, got, equal); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.text, diff)
		}
	}
}

func anyOf[T any](parse func(string) (T, error)) func(string) (any, error) {
	return func(s string) (any, error) { return parse(s) }
}

func recorded(parse func(string) ([]uint32, []string, error)) func(string) (any, error) {
	return func(s string) (any, error) { _, _, err := parse(s); return nil, err }
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		parse func(string) (any, error)
		text  string
		want  string
	}{
		{anyOf(ParsePorts), "70000", "ports go from 0 to 65535"},
		{anyOf(ParsePorts), "80,70000", `value 2, "70000": ports go from 0 to 65535`},
		{anyOf(ParsePorts), "99999999999999999999", "ports go from 0 to 65535"},
		{anyOf(ParsePorts), "https", "it is not a port such as 443, or a range such as 8000-8100"},
		{anyOf(ParsePorts), "-1", "it is not a port such as 443, or a range such as 8000-8100"},
		{anyOf(ParsePorts), "1-2-3", "it is not a port such as 443, or a range such as 8000-8100"},
		{anyOf(ParsePorts), "80-", "it is not a port such as 443, or a range such as 8000-8100"},
		{anyOf(ParsePorts), "1-70000", "ports go from 0 to 65535"},
		{anyOf(ParsePorts), "100-80", "the range is backwards: 80-100"},
		{anyOf(ParseAddrs), "localhost", "it is not an IP address, or a network such as 10.0.0.0/8 or 2001:db8::/32"},
		{anyOf(ParseAddrs), "10.0.0.1:80", "it is not an IP address, or a network such as 10.0.0.0/8 or 2001:db8::/32"},
		{anyOf(ParseAddrs), "10.0.0.0/33", "the number after / goes from 0 to 32"},
		{anyOf(ParseAddrs), "::1,::/x", `value 2, "::/x": the number after / goes from 0 to 128`},
		{anyOf(ParseAddrs), "fe80::1%eth0", "leave out the zone, the part from % on: events don't have it"},
		{anyOf(ParseTypes), "lost", "the events are retransmit, reset, state"},
		{anyOf(ParseStates), "OPEN", "the states are ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING, NEW_SYN_RECV, BOUND_INACTIVE"},
		{anyOf(ParseDirections), "sent,in", `value 2, "in": the directions are sent, received`},
		{anyOf(ParsePIDs), "nginx", "it is not a process id; --comm takes names"},
		{anyOf(ParsePIDs), "0", "it is not a process id; --comm takes names"},
		{anyOf(ParsePIDs), "-5", "it is not a process id; --comm takes names"},
		{anyOf(ParseUIDs), "4294967296", "user ids go from 0 to 4294967295"},
		{anyOf(ParseUIDs), "no-such-user-here", "there is no such user here; a number works for any"},
		{anyOf(ParseNetNS), "0", "inode numbers of namespaces go from 1 to 4294967295"},
		{anyOf(ParseNetNS), "4294967296", "inode numbers of namespaces go from 1 to 4294967295"},
		{recorded(ParseRecordedUIDs), "root,4294967296", `value 2, "4294967296": user ids go from 0 to 4294967295`},
		{recorded(ParseRecordedNetNS), "0", "inode numbers of namespaces go from 1 to 4294967295"},
		{recorded(ParseRecordedNetNS), "/proc/1/ns/net", "a recording knows no paths: give the inode number, or the name"},
	}
	for _, tt := range tests {
		_, err := tt.parse(tt.text)
		if errText(err) != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.text, errText(err), tt.want)
		}
	}
}

// All values of an enumeration can be named.
func TestNames(t *testing.T) {
	if got := States(); len(got) != int(events.BoundInactive) {
		t.Errorf("states: %v", got)
	}
	if got := Kinds(); len(got) != int(events.KindOther) {
		t.Errorf("kinds: %v", got)
	}
	for _, k := range Kinds() {
		if got, err := ParseKinds(strings.ToUpper(k.String())); err != nil || got[0] != k {
			t.Errorf("kind %s: %v, %v", k, got, err)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{"a,b", `a\,b`, `\`, ",", "", `a\\,b`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := Split(text)
		if err != nil {
			return
		}
		// Escaping the commas of the values again gives the text.
		for i, v := range list {
			list[i] = strings.ReplaceAll(v, ",", `\,`)
		}
		if got := strings.Join(list, ","); got != text {
			t.Errorf("%q became %q", text, got)
		}
	})
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"80", "80,443,8000-8100", "0-65535", "70000", "1-", "-", " 1 , 2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ranges, err := ParsePorts(text)
		if err != nil {
			if strings.Contains(err.Error(), "strconv") {
				t.Errorf("%q: an error for programmers: %v", text, err)
			}
			return
		}
		var words []string
		for _, r := range ranges {
			if r.First > r.Last {
				t.Fatalf("%q: backwards: %v", text, r)
			}
			words = append(words, strconv.Itoa(int(r.First))+"-"+strconv.Itoa(int(r.Last)))
			if s := portSet(ranges); !s.Has(r.First) || !s.Has(r.Last) {
				t.Errorf("%q: %v is not in its set", text, r)
			}
		}
		again, err := ParsePorts(strings.Join(words, ","))
		if err != nil || !slices.Equal(again, ranges) {
			t.Errorf("%q: %v became %v, %v", text, ranges, again, err)
		}
	})
}
