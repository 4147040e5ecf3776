// SPDX-License-Identifier: Apache-2.0

package netstat

import (
	"maps"
	"testing"
)

func TestEach(t *testing.T) {
	const text = "Tcp: RtoMin MaxConn RetransSegs\nTcp: 200 -1 18446744073709551615\nTcpExt: SyncookiesSent  TCPSynRetrans \nTcpExt: 0 7\n"
	got := map[string]uint64{}
	if err := Each(text, func(group, name string, n uint64) { got[group+"."+name] = n }); err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"Tcp.RtoMin": 200, "Tcp.RetransSegs": 1<<64 - 1, "TcpExt.SyncookiesSent": 0, "TcpExt.TCPSynRetrans": 7}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestBroken(t *testing.T) {
	for _, text := range []string{
		"Tcp: A B\nTcp: 1\n", "Tcp: A\nTcp: 1 2\n", "Tcp: A\nUdp: 1\n", "Tcp: A\n", "Tcp: A\nTcp: x\n", "nothing\nnothing\n",
	} {
		if err := Each(text, func(string, string, uint64) {}); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

// FuzzEach: whatever the text is, it comes to an end.
func FuzzEach(f *testing.F) {
	f.Add("Tcp: A B\nTcp: 1 -2\n")
	f.Fuzz(func(t *testing.T, text string) {
		n := 0
		_ = Each(text, func(_, name string, _ uint64) {
			if n++; name == "" || n > len(text) {
				t.Errorf("%d counters, the last %q", n, name)
			}
		})
	})
}
