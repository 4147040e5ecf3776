// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const (
	bpftraceOutput = `Attaching 5 probes...
23432319172975 inet_sock_set_state 127.0.0.1:0 127.64.1.7:9 7 2
23432319235241 tcp_send_reset 127.64.1.7:2304 127.0.0.1:45774 0 1
23432319235242 tcp_retransmit_skb 127.0.0.1:5 127.64.1.7:45774 1 err=0
23432319235243 tcp_retransmit_skb 127.0.0.1:5 127.64.1.7:45774 1 err=-16
23432319235244 tcp_retransmit_skb 127.0.0.1:5 127.64.1.8:45774 1 err=0
Lost 64 events
`
	perfOutput = `     tcp:tcp_retransmit_skb: skbaddr=0xf skaddr=0xf family=AF_INET sport=1 dport=2 saddr=127.0.0.1 daddr=127.64.1.7 saddrv6=::ffff:127.0.0.1 daddrv6=::ffff:127.64.1.7 state=TCP_ESTABLISHED err=0
     tcp:tcp_retransmit_skb: skbaddr=0xf skaddr=0xf family=AF_INET sport=1 dport=2 saddr=127.0.0.1 daddr=127.64.1.7 saddrv6=::ffff:127.0.0.1 daddrv6=::ffff:127.64.1.7 state=TCP_ESTABLISHED err=-113
     sock:inet_sock_set_state: family=AF_INET protocol=IPPROTO_TCP sport=0 dport=9 saddr=127.0.0.1 daddr=127.64.1.7 oldstate=TCP_CLOSE newstate=TCP_SYN_SENT
`
	tcptraceOutput = `TIME         LOCAL                 REMOTE                DETAIL
08:09:53.367 127.0.0.1:59466       127.64.1.7:38673      rto 1 RTO 204ms ESTABLISHED
08:09:53.807 127.0.0.1:59466       127.64.1.7:38673      rto 2 unsent EBUSY RTO 408ms ESTABLISHED
08:09:53.367 127.0.0.1:59466       127.64.1.77:38673     SYN_SENT->CLOSE ECONNREFUSED`
)

func TestCount(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		m          match
		want       int
	}{
		{"bpftrace", bpftraceOutput, match{"127.64.1.7", ""}, 3},
		{"bpftrace's retransmissions", bpftraceOutput, match{"127.64.1.7", "retransmit"}, 1},
		{"perf", perfOutput, match{"127.64.1.7", ""}, 2},
		{"perf's retransmissions", perfOutput, match{"127.64.1.7", "retransmit"}, 1},
		{"tcptrace, last line unfinished", tcptraceOutput, match{"127.64.1.77", ""}, 1},
		{"tcptrace", tcptraceOutput, match{"38673", ""}, 2},
		{"nothing", "", match{"127.64.1.7", ""}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := count(iotest.HalfReader(strings.NewReader(tt.text)), tt.m)
			if err != nil || got.events != tt.want {
				t.Errorf("%d events, %v; want %d", got.events, err, tt.want)
			}
			if !strings.HasSuffix(tt.text, got.last) || tt.text != "" && strings.Count(got.last, "\n") > 1 {
				t.Errorf("last line %q", got.last)
			}
		})
	}
	broken := errors.New("broken")
	if _, err := count(iotest.ErrReader(broken), match{}); !errors.Is(err, broken) {
		t.Errorf("%v in place of the reader's error", err)
	}
	if _, err := countLines(filepath.Join(t.TempDir(), "none"), match{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestLostOf(t *testing.T) {
	const (
		table = "tcptrace: tracing resets; stops with Ctrl-C\ntcptrace: 29 events (syn 3, peer 3) in 9.3 s; 1 filtered, 2 merged, 7 lost\n"
		json  = `{"event":"summary","events":0,"filtered":1,"merged":2,"lost":9,"by_kind":{},"seconds":0.391}` + "\n"
	)
	for _, tt := range []struct {
		stderr, last string
		want         int
	}{
		{table, "08:09:53.367 127.0.0.1:59466\n", 7},
		{"tcptrace: 0 events in 0.4 s; 0 filtered, 0 merged, 0 lost\n", "", 0},
		{"tcptrace: tracing resets\n", json, 9},
	} {
		if n, err := lostOf(tt.stderr, tt.last); err != nil || n != tt.want {
			t.Errorf("%d, %v; want %d of %q", n, err, tt.want, tt.stderr+tt.last)
		}
	}
	if n, err := lostOf("tcptrace: tracing resets\n", ""); err == nil {
		t.Errorf("%d without a summary", n)
	}
}

// Older kernels give tcp_send_reset the fields that the others have.
func TestBpftraceScript(t *testing.T) {
	const ports = "\tfield:__u16 sport;\toffset:28;\n"
	for _, tt := range []struct {
		name, reset string
		casts       int
	}{
		{"ports", ports, 0},
		{"sockets' addresses", "\tfield:__u8 saddr[28];\toffset:32;\n", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			script, err := bpftraceScript(func(file string) ([]byte, error) {
				if strings.Contains(file, "tcp_send_reset") {
					return []byte(tt.reset), nil
				}
				return []byte(ports), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(script, "tracepoint:"); n != 5 {
				t.Errorf("%d tracepoints", n)
			}
			if n := strings.Count(script, "sockaddr_in *"); n != tt.casts {
				t.Errorf("%d casts in %s", n, script)
			}
			if strings.Contains(script, "%!") || strings.Contains(script, "args->err") {
				t.Errorf("script %s", script)
			}
		})
	}
	if _, err := bpftraceScript(func(string) ([]byte, error) { return nil, os.ErrPermission }); !errors.Is(err, os.ErrPermission) {
		t.Errorf("unreadable: %v", err)
	}
}

func TestParseProc(t *testing.T) {
	user, err := parseUserTime("4711 (a b) c) S 1 2 3 4 5 6 7 8 9 10 42 13 14 15\n")
	if err != nil || user != 420*time.Millisecond {
		t.Errorf("user %v, %v", user, err)
	}
	if _, err := parseUserTime("4711 (a) S 1"); err == nil {
		t.Error("a line that is too short, no error")
	}
	mapped, err := mappedMaps(`7fc59ffff000-7fc5a8000000 r--s 00001000 00:10 21                         anon_inode:bpf-map
Size:             131076 kB
KernelPageSize:        4 kB
Rss:              131076 kB
Pss:               65540 kB
7fc60e213000-7fc60e21a000 r--s 00000000 00:10 21                         anon_inode:[perf_event]
Size:                 28 kB
Rss:                  28 kB
7fc60e6b4000-7fc60e6b5000 rw-s 00000000 00:10 21                         anon_inode:bpf-map
Size:                  4 kB
Rss:                   4 kB
`)
	if err != nil || mapped != 131080<<10 {
		t.Errorf("mapped %d, %v", mapped, err)
	}
	model, virtual := parseCPU("processor\t: 0\nmodel name\t: Some(R)  Processor\nflags\t\t: fpu hypervisor lahf_lm\n")
	if model != "Some(R) Processor" || !virtual {
		t.Errorf("%q, %v", model, virtual)
	}
	if model, virtual = parseCPU("processor\t: 0\nFeatures\t: fp\n"); !strings.Contains(model, "unknown") || virtual {
		t.Errorf("%q, %v", model, virtual)
	}
	if v := kernelVersion("6.12.117+deb13-cloud-amd64"); v != "6.12.117" {
		t.Errorf("kernel %q", v)
	}
	if v := toolVersion("perf", "perf version 6.1.192\n"); v != "perf 6.1.192" {
		t.Errorf("version %q", v)
	}
	if n := len(tracefsLosses.FindAllString("entries: 0\noverrun: 5\ncommit overrun: 6\nbytes: 1\ndropped events: 7\n", -1)); n != 3 {
		t.Errorf("%d counts of losses", n)
	}
}

func TestParseGoBench(t *testing.T) {
	got, err := parseGoBench(`goos: linux
BenchmarkDecode-2   	 4107471	       312.9 ns/op	       0 B/op	       0 allocs/op
BenchmarkAppendEvent/table/state-2         	 2020648	       553.3 ns/op	 164.47 MB/s	       16 B/op	       1 allocs/op
BenchmarkOther 	 20	       5 ns/op
PASS
`)
	want := []goBenchmark{{"Decode", 312.9, 0}, {"AppendEvent/table/state", 553.3, 1}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func TestNumbers(t *testing.T) {
	n, err := numbers(floorCounts, "attached\n1 records, 2 lost\n30 records, 4 lost\n")
	if err != nil || !reflect.DeepEqual(n, []int{30, 4}) {
		t.Errorf("%v, %v", n, err)
	}
	if n, err := numbers(floorCounts, "99999999999999999999 records, 4 lost\n"); err == nil {
		t.Errorf("%v, and no error", n)
	}
}
