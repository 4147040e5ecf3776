// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// spec makes a Spec of flags, as the command line would.
func spec(t testing.TB, flags ...string) *Spec {
	t.Helper()
	s := new(Spec)
	for i := 0; i < len(flags); i += 2 {
		var err error
		switch text := flags[i+1]; flags[i] {
		case "event":
			s.Types, err = ParseTypes(text)
		case "port":
			s.Port, err = ParsePorts(text)
		case "lport":
			s.LPort, err = ParsePorts(text)
		case "rport":
			s.RPort, err = ParsePorts(text)
		case "addr":
			s.Addr, err = ParseAddrs(text)
		case "laddr":
			s.LAddr, err = ParseAddrs(text)
		case "raddr":
			s.RAddr, err = ParseAddrs(text)
		case "ip":
			s.IPv4, s.IPv6 = text == "4" || text == "46", text == "6" || text == "46"
		case "state":
			s.States, err = ParseStates(text)
		case "kind":
			s.Kinds, err = ParseKinds(text)
		case "direction":
			s.Directions, err = ParseDirections(text)
		case "pid":
			s.PIDs, err = ParsePIDs(text)
		case "comm":
			s.Comms, err = ParseComms(text)
		case "uid":
			s.UIDs, err = ParseUIDs(text)
		case "cgroup":
			s.Cgroups, err = ParseCgroups(text)
		case "netns":
			s.NetNS, err = ParseNetNS(text)
		case "recorded-uid":
			s.UIDs, s.Users, err = ParseRecordedUIDs(text)
		case "recorded-netns":
			s.NetNS, s.NetNSNames, err = ParseRecordedNetNS(text)
		case "where":
			s.Where = text
		default:
			t.Fatalf("no flag %s", flags[i])
		}
		if err != nil {
			t.Fatalf("--%s %s: %v", flags[i], flags[i+1], err)
		}
	}
	return s
}

func comm(name string) (c events.Comm) {
	copy(c[:], name)
	return c
}

func TestMatch(t *testing.T) {
	ip := netip.MustParseAddr
	var (
		retrans = events.Event{
			Type: events.Retransmit, Kind: events.KindRTO, Family: 4, State: events.Established,
			LAddr: ip("10.0.0.1"), RAddr: ip("192.0.2.7"), LPort: 443, RPort: 50000,
			PID: 7, Comm: comm("nginx"), UID: 0, Known: events.HasUID, User: "web", NetNS: 4026531840, NetNSName: "blue", Cgroup: "/a/b", Sharers: []uint32{7, 70, 700},
			Unit: "b.service", Container: "c0ffee", Pod: "5be2cfa7",
		}
		state = events.Event{
			Type: events.StateChange, Family: 6, OldState: events.SynSent, NewState: events.Close, State: events.Close,
			LAddr: ip("2001:db8::1"), RAddr: ip("2001:db8::2"), RPort: 80,
		}
		reset  = events.Event{Type: events.Reset, Kind: events.KindPeer, Direction: events.Received, State: events.TimeWait}
		mapped = events.Event{Type: events.Reset, Family: 4, LAddr: ip("::ffff:10.0.0.1"), RAddr: ip("::ffff:10.0.0.2")}
		lost   = events.Event{Type: events.Lost, Count: 3}
	)
	tests := []struct {
		flags []string
		want  string // of r(etrans) s(tate) x(reset) m(apped)
	}{
		{nil, "rsxm"},
		{[]string{"event", "retransmit"}, "r"},
		{[]string{"event", "reset,state"}, "sxm"},
		{[]string{"port", "443"}, "r"},
		{[]string{"port", "50000"}, "r"},
		{[]string{"port", "80,443"}, "rs"},
		{[]string{"port", "0-65535"}, "rs"},
		{[]string{"port", "0"}, ""},
		{[]string{"lport", "443"}, "r"},
		{[]string{"lport", "50000"}, ""},
		{[]string{"rport", "443"}, ""},
		{[]string{"rport", "1-79,81-100,50000"}, "r"},
		{[]string{"lport", "0-100"}, ""},
		{[]string{"lport", "443", "rport", "50000"}, "r"},
		{[]string{"lport", "443", "rport", "50001"}, ""},
		{[]string{"recorded-uid", "0"}, "r"},
		{[]string{"recorded-uid", "no-such-user-here, web"}, "r"},
		{[]string{"recorded-uid", "1, root"}, ""}, // whoever root is here
		{[]string{"recorded-netns", "4026531840"}, "r"},
		{[]string{"recorded-netns", "1,blue"}, "r"},
		{[]string{"recorded-netns", "/run/netns/blue"}, "r"},
		{[]string{"recorded-netns", "green"}, ""},
		{[]string{"addr", "10.0.0.1"}, "rm"},
		{[]string{"addr", "192.0.2.0/24"}, "r"},
		{[]string{"addr", "10.0.0.0/8,2001:db8::/32"}, "rsm"},
		{[]string{"addr", "::ffff:10.0.0.1"}, "rm"},
		{[]string{"addr", "::ffff:10.0.0.0/104"}, "rm"},
		{[]string{"addr", "::/0"}, "s"},
		{[]string{"addr", "0.0.0.0/0"}, "rm"},
		{[]string{"laddr", "192.0.2.7"}, ""},
		{[]string{"raddr", "192.0.2.7"}, "r"},
		{[]string{"laddr", "10.0.0.1", "raddr", "10.0.0.2"}, "m"},
		{[]string{"ip", "4"}, "rm"},
		{[]string{"ip", "6"}, "s"},
		{[]string{"ip", "46"}, "rsm"},
		{[]string{"state", "established"}, "r"},
		{[]string{"state", "SYN_SENT"}, "s"},
		{[]string{"state", "CLOSE"}, "s"},
		{[]string{"state", "TIME-WAIT,ESTABLISHED"}, "rx"},
		{[]string{"kind", "rto,peer"}, "rx"},
		{[]string{"kind", "tlp"}, ""},
		{[]string{"direction", "received"}, "x"},
		{[]string{"direction", "sent"}, ""},
		{[]string{"pid", "7,8"}, "r"},
		{[]string{"pid", "8"}, ""},
		{[]string{"pid", "70"}, "r"},
		{[]string{"pid", "8,700"}, "r"},
		{[]string{"pid", "700", "comm", "nginx"}, "r"},
		{[]string{"pid", "70", "comm", "worker"}, ""},
		{[]string{"comm", "nginx"}, "r"},
		{[]string{"comm", "ngin"}, ""},
		{[]string{"uid", "0"}, "r"},
		{[]string{"uid", "1"}, ""},
		{[]string{"cgroup", "/"}, "r"},
		{[]string{"cgroup", "/a"}, "r"},
		{[]string{"cgroup", "/a/b"}, "r"},
		{[]string{"cgroup", "/a/b/c"}, ""},
		{[]string{"cgroup", "/a/"}, "r"},
		{[]string{"cgroup", "a"}, "r"},
		{[]string{"cgroup", "/sys/fs/cgroup/a"}, "r"},
		{[]string{"cgroup", "/x,/a"}, "r"},
		{[]string{"netns", "4026531840"}, "r"},
		{[]string{"netns", "1"}, ""},
		{[]string{"where", "lport == 443"}, "r"},
		{[]string{"where", "rport > 1", "kind", "rto"}, "r"},
		{[]string{"where", `unit == "b.service" && container startsWith "c0ff" && pod in ["5be2cfa7"]`}, "r"},
		{[]string{"where", `unit != "b.service" || has(container) && pod != "5be2cfa7"`}, ""},
		{[]string{"where", "!has(unit)"}, "sxm"},
		{[]string{"where", "70 in sharers"}, "r"},
		{[]string{"kind", "rto", "state", "TIME_WAIT"}, ""},
	}
	all := map[byte]*events.Event{'r': &retrans, 's': &state, 'x': &reset, 'm': &mapped}
	for _, tt := range tests {
		match, err := spec(t, tt.flags...).Match()
		if err != nil {
			t.Errorf("%q: %v", tt.flags, err)
			continue
		}
		got := ""
		for _, name := range []byte("rsxm") {
			if match(all[name]) {
				got += string(name)
			}
		}
		if got != tt.want {
			t.Errorf("%q: matched %q, want %q", tt.flags, got, tt.want)
		}
		if !match(&lost) {
			t.Errorf("%q: rejected a lost event", tt.flags)
		}
	}
}

// /a covers /a and /a/b, not /ab.
func TestCgroupComponents(t *testing.T) {
	match, err := spec(t, "cgroup", "/a").Match()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/a": true, "/a/b": true, "/ab": false, "/": false, "": false, "/b/a": false} {
		if got := match(&events.Event{Type: events.Reset, Cgroup: path}); got != want {
			t.Errorf("%q: got %v", path, got)
		}
	}
}

// A name is known by the 15 bytes that the kernel keeps.
func TestLongComm(t *testing.T) {
	match, err := spec(t, "comm", "a-very-long-process-name").Match()
	if err != nil {
		t.Fatal(err)
	}
	if !match(&events.Event{Type: events.Reset, Comm: comm("a-very-long-pro")}) {
		t.Error("a name longer than the kernel keeps did not match")
	}
	if match(&events.Event{Type: events.Reset, Comm: comm("a-very-long-pr")}) {
		t.Error("a shorter name matched")
	}
}

func TestKernel(t *testing.T) {
	if diff := cmp.Diff(Kernel{}, new(Spec).Kernel()); diff != "" {
		t.Errorf("nothing asked for (-want +got):\n%s", diff)
	}

	ports := func(list ...uint16) *PortSet {
		s := new(PortSet)
		for _, p := range list {
			s.add(p)
		}
		return s
	}
	got := spec(t, "ip", "4", "port", "64-66", "rport", "65535", "laddr", "10.1.2.3/8", "raddr", "2001:db8::1,192.0.2.1",
		"state", "ESTABLISHED,BOUND_INACTIVE", "netns", "4026531840", "uid", "0,4294967295",
		"kind", "rto", "comm", "x", "pid", "1", "where", "true").Kernel()
	want := Kernel{
		IPv4:  true,
		Port:  ports(0, 64, 65, 66),
		RPort: ports(0, 65535),
		LAddr: []Prefix{{
			Addr: [16]byte{10: 0xff, 11: 0xff, 12: 10},
			Mask: [16]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255},
		}},
		RAddr: []Prefix{
			{Addr: netip.MustParseAddr("2001:db8::1").As16(), Mask: netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").As16()},
			{Addr: netip.MustParseAddr("::ffff:192.0.2.1").As16(), Mask: netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").As16()},
		},
		States: 1<<events.Established | 1<<events.BoundInactive,
		NetNS:  []uint32{4026531840},
		UIDs:   []uint32{0, 4294967295},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	many := spec(t, "uid", "1,2,3,4,5,6,7,8,9", "netns", "1,2,3,4,5,6,7,8,9", "addr", "::1,::2,::3,::4,::5,::6,::7,::8,::9",
		"laddr", "::1,::2,::3,::4,::5,::6,::7,::8").Kernel()
	if many.UIDs != nil || many.NetNS != nil || many.Addr != nil {
		t.Errorf("the kernel was given more than it holds: %+v", many)
	}
	if len(many.LAddr) != MaxKernel {
		t.Errorf("the kernel was given %d addresses, want %d", len(many.LAddr), MaxKernel)
	}
}

// The kernel may only reject what Match rejects.
func TestKernelAcceptsPrefixes(t *testing.T) {
	addrs := []string{"10.0.0.1", "10.255.0.1", "11.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "2001:db8::1", "2001:db9::1", "fe80::1"}
	for _, text := range []string{"10.0.0.0/8", "0.0.0.0/0", "10.0.0.1", "::/0", "2001:db8::/32", "fe80::/10", "::1"} {
		s := spec(t, "laddr", text)
		match, err := s.Match()
		if err != nil {
			t.Fatal(err)
		}
		p := s.Kernel().LAddr[0]
		for _, a := range addrs {
			addr := netip.MustParseAddr(a)
			kernel := true
			for i, b := range addr.As16() {
				kernel = kernel && b&p.Mask[i] == p.Addr[i]
			}
			if match(&events.Event{Type: events.Reset, LAddr: addr}) && !kernel {
				t.Errorf("%s: the kernel rejects %s", text, a)
			}
			if kernel && addr.Is4() && !match(&events.Event{Type: events.Reset, LAddr: addr}) && text != "::/0" {
				t.Errorf("%s: the kernel accepts %s", text, a)
			}
		}
	}
}

func everything(t testing.TB) (*Spec, *events.Event) {
	s := spec(t, "event", "retransmit", "port", "443", "lport", "1-1000", "rport", "1000-65535", "addr", "10.0.0.0/8",
		"laddr", "10.0.0.1,10.0.0.9", "raddr", "192.0.2.0/24", "ip", "46", "state", "ESTABLISHED", "kind", "rto",
		"pid", "1,7", "comm", "sshd,nginx", "uid", "0", "cgroup", "/x,/a", "netns", "4026531840")
	return s, &events.Event{
		Type: events.Retransmit, Kind: events.KindRTO, Family: 4, State: events.Established,
		LAddr: netip.MustParseAddr("10.0.0.1"), RAddr: netip.MustParseAddr("192.0.2.7"), LPort: 443, RPort: 50000,
		PID: 2, Sharers: []uint32{2, 7}, Comm: comm("nginx"), Known: events.HasUID, NetNS: 4026531840, Cgroup: "/a/b",
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	s, e := everything(t)
	match, err := s.Match()
	if err != nil {
		t.Fatal(err)
	}
	if !match(e) {
		t.Fatal("the event does not match, so that only some filters were asked")
	}
	if n := testing.AllocsPerRun(100, func() { match(e) }); n != 0 {
		t.Errorf("%v allocations per event", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	s, e := everything(b)
	match, err := s.Match()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		match(e)
	}
}

func BenchmarkWhere(b *testing.B) {
	match, err := spec(b, "where", "rto_ms > 1000 && attempt >= 3 || rport == 50000").Match()
	if err != nil {
		b.Fatal(err)
	}
	_, e := everything(b)
	b.ReportAllocs()
	for b.Loop() {
		match(e)
	}
}
