// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSelect(t *testing.T) {
	all, err := Select(nil)
	if err != nil || len(all) != len(Kernels()) {
		t.Errorf("%d kernels: %v", len(all), err)
	}
	two, err := Select([]string{"7.3", "5.10"})
	if err != nil || len(two) != 2 || two[0].Name != "5.10" {
		t.Errorf("%v: %v", two, err)
	}
	if _, err := Select([]string{"4.19"}); err == nil || !strings.Contains(err.Error(), "5.10, 6.1") {
		t.Errorf("an unknown kernel: %v", err)
	}
}

func TestChoose(t *testing.T) {
	names := []string{
		"linux-image-6.1-cloud-amd64", // depends on the newest, and is empty
		"linux-image-6.1.0-9-cloud-amd64",
		"linux-image-6.1.0-56-cloud-amd64",
		"linux-image-6.1.0-57-cloud-amd64-dbg",
		"linux-image-6.1.0-58-cloud-amd64-unsigned",
		"linux-image-6.1.0-59-amd64",
		"linux-image-6.1.0-60-cloud-arm64",
		"linux-image-6.12.99+deb13-cloud-amd64",
		"linux-image-6.12.115+deb13.1-cloud-amd64",
		"linux-image-6.12.115+deb13-cloud-amd64",
		"linux-image-7.3.4+deb13-cloud-amd64",
		"linux-binary-7.3.4+deb13-cloud-amd64",
		"linux-modules-7.3.4+deb13-cloud-amd64",
	}
	for _, tt := range []struct {
		series, arch string
		want         []string
	}{
		{"6.1", "amd64", []string{"linux-image-6.1.0-56-cloud-amd64"}},
		{"6.1", "arm64", []string{"linux-image-6.1.0-60-cloud-arm64"}},
		{"6.12", "amd64", []string{"linux-image-6.12.115+deb13.1-cloud-amd64"}},
		{"7.3", "amd64", []string{"linux-binary-7.3.4+deb13-cloud-amd64", "linux-modules-7.3.4+deb13-cloud-amd64"}},
		{"7.2", "amd64", nil},
	} {
		release, got := choose(names, tt.series, tt.arch)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s %s: %q", tt.series, tt.arch, got)
		}
		if len(got) > 0 && !strings.HasSuffix(got[0], "-"+release) {
			t.Errorf("%s %s: release %q of %q", tt.series, tt.arch, release, got)
		}
	}
}

func TestPickSites(t *testing.T) {
	targets := `Packages main bookworm http://one.example/debian
Packages main bookworm-updates http://one.example/updates
DEP-11 main bookworm http://three.example/debian
Packages contrib bookworm http://four.example/debian
Packages main bookworm-security http://two.example/security
Packages main other http://five.example/else
`
	want := sites{"http://one.example/debian", "http://two.example/security"}
	if got := pickSites(targets, "bookworm"); got != want {
		t.Errorf("%+v", got)
	}
	if got := pickSites(targets, "noble"); got != (sites{}) {
		t.Errorf("another distribution: %+v", got)
	}
	s := sites{main: "http://m.example", security: "http://s.example"}
	if got := s.source("bullseye-security", "amd64"); !strings.Contains(got, "check-valid-until=no") || !strings.Contains(got, "http://s.example bullseye-security main") {
		t.Error(got)
	}
	if got := s.source("sid", "arm64"); strings.Contains(got, "valid") || !strings.Contains(got, "arch=arm64") || !strings.Contains(got, "http://m.example sid main") {
		t.Error(got)
	}
}

func TestParseDepends(t *testing.T) {
	info := []byte("license=GPL\x00depends=nf_tables,nft-reject\x00name=nft_reject_ipv4\x00")
	if got := parseDepends(info); !slices.Equal(got, []string{"nf_tables", "nft_reject"}) {
		t.Errorf("%q", got)
	}
	if got := parseDepends([]byte("depends=\x00")); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestLibraries(t *testing.T) {
	text := `	linux-vdso.so.1 (0x00007ffd)
	libmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f68)
	/lib64/ld-linux-x86-64.so.2 (0x00007f69)
`
	if got := libraries(text); !slices.Equal(got, []string{"/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"}) {
		t.Errorf("%q", got)
	}
}

// The kernel's format is also cpio's, which is no part of every system.
func TestInitramfs(t *testing.T) {
	fsys := initramfs{}
	fsys.add("/etc/deep/file", []byte("12345"), 0o644)
	fsys.add("init", []byte("#!"), 0o755)
	fsys.add("link", []byte("init"), fs.ModeSymlink|0o777)
	fsys.mkdir("proc")
	var b bytes.Buffer
	if err := fsys.write(&b); err != nil {
		t.Fatal(err)
	}
	type entry struct{ name, mode, data string }
	want := []entry{
		{"etc", "000041ED", ""}, {"etc/deep", "000041ED", ""}, {"etc/deep/file", "000081A4", "12345"},
		{"init", "000081ED", "#!"}, {"link", "0000A1FF", "init"}, {"proc", "000041ED", ""}, {"TRAILER!!!", "00000000", ""},
	}
	var got []entry
	hex := func(s string) (n int) {
		for _, c := range s {
			n = n<<4 + strings.IndexRune("0123456789ABCDEF", c)
		}
		return n
	}
	for rest := b.String(); rest != ""; {
		const header = 110
		if len(rest) < header || rest[:6] != "070701" {
			t.Fatalf("no header: %q", rest)
		}
		field := func(i int) string { return rest[6+8*i:][:8] }
		size, nameSize := hex(field(6)), hex(field(11))
		name := strings.TrimRight(rest[header:header+nameSize], "\x00")
		start := (header + nameSize + 3) &^ 3
		got = append(got, entry{name, field(1), rest[start : start+size]})
		rest = rest[(start+size+3)&^3:]
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(entry{})); diff != "" {
		t.Error(diff)
	}
}

func TestParseOutput(t *testing.T) {
	o := parseOutput([]byte(`
##vm {"Boot":"5.10.0-1"}
##vm {"Begin":"one"}
text of one
##vm is not ours
##vm {"End":"one","Exit":1,"Error":"exit status 1"}
between
##vm {"Begin":"two"}
cut sh`))
	if o.release != "5.10.0-1" || o.done || len(o.jobs) != 2 {
		t.Fatalf("%+v", o)
	}
	one, two := o.jobs[0], o.jobs[1]
	if string(one.text) != "text of one\n##vm is not ours\n" || !one.ended || one.exit != 1 || one.err != "exit status 1" {
		t.Errorf("%+v", one)
	}
	if string(two.text) != "cut sh" || two.ended {
		t.Errorf("%+v", two)
	}
	if o := parseOutput([]byte("##vm {\"Done\":true}\n")); !o.done {
		t.Errorf("%+v", o)
	}
}

// take reads what a real test binary prints.
func TestTake(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module x\n\ngo 1.26\n",
		"x_test.go": `package x
import ("fmt"; "os"; "testing")
func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv("LEAVE") != "" { fmt.Println("left behind: a file"); code = 1 }
	os.Exit(code)
}
func TestGood(t *testing.T) { fmt.Print("shows\ta row\ta value\n"); t.Log("shows\tanother\tvalue of it") }
func TestSkipped(t *testing.T) { t.Skip("no") }
func TestSubs(t *testing.T) {
	for _, n := range []string{"a", "b"} {
		t.Run(n, func(t *testing.T) { t.Parallel(); if n == "b" { t.Error("wrong") } })
	}
}
func TestWaits(t *testing.T) {
	for _, n := range []string{"a", "b"} {
		t.Run(n, func(t *testing.T) { t.Parallel(); if n == "b" { t.Log("is here") }; select {} })
	}
}
func TestPanics(t *testing.T) { panic("at the disco") }
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "test", "-c", "-o", "x.test", ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	result := func(job jobOutput, env string, args ...string) *Result {
		t.Helper()
		cmd := exec.Command(filepath.Join(dir, "x.test"), append(args, "-test.v=test2json")...)
		cmd.Env = append(cmd.Environ(), env)
		job.text, _ = cmd.CombinedOutput() // that it fails is the point
		events, err := test2json(t.Context(), job.text)
		if err != nil {
			t.Fatal(err)
		}
		r := new(Result)
		r.take(&job, events)
		return r
	}
	titles := func(r *Result) (all []string) {
		for _, f := range r.Failures {
			all = append(all, f.Title)
		}
		return all
	}

	r := result(jobOutput{name: "x", ended: true, exit: 1}, "", "-test.run=Good|Skipped|Subs")
	if r.Passed != 2 || r.Failed != 1 || r.Skipped != 1 || !slices.Equal(titles(r), []string{"TestSubs/b"}) ||
		!strings.Contains(r.Failures[0].Output, "wrong") {
		t.Errorf("%v: %q", r, r.Failures)
	}
	if diff := cmp.Diff([]Row{{"a row", "a value"}, {"another", "value of it"}}, r.Shows); diff != "" {
		t.Error(diff)
	}
	r = result(jobOutput{name: "x", ended: true, exit: 2}, "", "-test.run=Panics")
	if r.Failed != 1 || len(r.Failures) != 1 || !strings.Contains(r.Failures[0].Output, "at the disco") {
		t.Errorf("%+v", r)
	}
	r = result(jobOutput{name: "x", ended: true, exit: 2}, "", "-test.run=Waits", "-test.timeout=1s")
	if all := strings.Join(titles(r), "; "); r.Failed < 2 || !strings.Contains(fmt.Sprint(r.Failures), "test timed out") ||
		!strings.Contains(all, "did not finish") && !strings.Contains(all, "(not finished)") {
		t.Errorf("%v: %q", r, r.Failures)
	}
	r = result(jobOutput{name: "x", ended: true, exit: 1, err: "exit status 1"}, "LEAVE=1", "-test.run=Good")
	if r.Passed != 1 || r.OK() || !strings.Contains(r.Failures[0].Output, "left behind") {
		t.Errorf("%+v", r)
	}
	r = result(jobOutput{name: "x"}, "", "-test.run=Good")
	if r.OK() || titles(r)[0] != "x did not end" {
		t.Errorf("%+v", r)
	}
	r = result(jobOutput{name: "x", ended: true}, "", "-test.run=Good")
	if !r.OK() || r.Passed != 1 {
		t.Errorf("%+v", r)
	}
}

func TestFaults(t *testing.T) {
	quiet := `[    0.1] Linux version 7.3.4
[    0.2] MDS CPU bug present and SMT on, data leak possible.
[    0.3] Run /init as init process
`
	if got, emulated := faults(quiet); len(got)+len(emulated) != 0 {
		t.Errorf("%q", got)
	}
	for _, line := range []string{
		"[   40.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [live.test:70]",
		"[   40.0] WARNING: CPU: 0 PID: 70 at kernel/bpf/verifier.c:1 f+0x1/0x2",
		"[   40.0] BUG: kernel NULL pointer dereference, address: 0000000000000000",
		"[   40.0] Oops: 0000 [#1] SMP",
		"[   40.0] rcu: INFO: rcu_sched self-detected stall on CPU",
		"[   40.0] INFO: task x:1 blocked for more than 120 seconds.",
		"[   40.0] Out of memory: Killed process 70",
	} {
		if got, emulated := faults(quiet + line + "\nmore\n"); len(got) != 1 || len(emulated) != 0 || !strings.Contains(got[0].Output, "more") {
			t.Errorf("%s: %q", line, got)
		}
	}
	step := "[  215.0] WARNING: CPU: 0 PID: 124 at arch/x86/kernel/traps.c:1120 exc_debug_kernel+0xca/0x160\n"
	if got, emulated := faults(quiet + step); len(got) != 0 || len(emulated) != 1 {
		t.Errorf("%q, %q", got, emulated)
	}
}

func TestOrder(t *testing.T) {
	kernels, err := Select([]string{"5.10", "6.1", "6.12", "7.3"})
	if err != nil {
		t.Fatal(err)
	}
	if got := NewRunner(Options{Brief: []string{"6.1", "6.12"}}).order(kernels); !slices.Equal(got, []int{3, 0, 2, 1}) {
		t.Errorf("%v", got)
	}
}

func TestAgain(t *testing.T) {
	flaky := func() *Result {
		r := &Result{Passed: 10, Failed: 2}
		r.take(&jobOutput{ended: true, exit: 1}, []testEvent{
			{"run", "TestA", ""}, {"run", "TestA/x.y,_z/IPv4", ""}, {"output", "TestA/x.y,_z/IPv4", "    a_test.go:1: no\n"},
			{"fail", "TestA/x.y,_z/IPv4", ""}, {"fail", "TestA", ""}, {"run", "TestB", ""}, {"fail", "TestB", ""},
		})
		r.Failed = 2
		return r
	}
	if got, want := flaky().again(), `^TestA$/^x\.y,_z$/^IPv4$|^TestB$`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, tt := range []struct {
		again Result
		ok    bool
	}{
		{Result{Passed: 2}, true},
		{Result{Passed: 1}, false}, // one was not run
		{Result{Passed: 2, Failures: []Failure{{Title: "TestB"}}}, false},
	} {
		r := flaky()
		r.pardon(&tt.again)
		if r.OK() != tt.ok || tt.ok && (r.Passed != 12 || r.Failed != 0 || len(r.Notes) != 2) {
			t.Errorf("%+v: %+v", tt.again, r)
		}
	}
	for _, title := range []string{"kernel: BUG", "the run"} {
		r := flaky()
		r.fail(title, "")
		if got := r.again(); got != "" {
			t.Errorf("after %s it runs %s again", title, got)
		}
	}
	r := flaky()
	r.Failures = append(r.Failures, r.Failures...)
	r.Failures = append(r.Failures, r.Failures...)
	if got := r.again(); got != "" {
		t.Errorf("it runs too much again: %s", got)
	}
}

func TestGarbledFlags(t *testing.T) {
	const panicked = "[ 31.3] Kernel panic - not syncing: Fatal exception in interrupt\n"
	for console, want := range map[string]bool{
		"[ 31.3] RSP: 002b:00003305a5f04e00 EFLAGS: 00000212 ORIG_RAX: 0000000000000101\n" + panicked: false,
		"[ 31.3] RSP: 0018:ffffd150433cbb80 EFLAGS: 81370202\n" + panicked:                            true,
		"[ 31.3] RSP: 0018:ffffd150433cbb80 EFLAGS: 81370202\n":                                       false, // it went on
		panicked: false,
	} {
		if got := garbledFlags(console); got != want {
			t.Errorf("%q: %v", console, got)
		}
	}
}

func TestTable(t *testing.T) {
	kernels, err := Select([]string{"5.10", "6.1", "6.12"})
	if err != nil {
		t.Fatal(err)
	}
	s := &Shown{Expected: map[string]map[string]string{"6.8": {"second": "yes"}}}
	s.Update([]*Result{
		{Kernel: kernels[0], Release: "5.10.0-46-cloud-amd64", Shows: []Row{{"first", "no"}, {"second", "no"}, {"third", "1"}}},
		{Kernel: kernels[2], Release: "6.12.1+deb13-cloud-amd64", Shows: []Row{{"first", "yes"}, {"second", "yes"}, {"third", "1"}}},
	})
	s.Update([]*Result{
		{Kernel: kernels[1], Release: "6.1.0-1-cloud-amd64", Shows: []Row{{"first", "no"}, {"second", "a|b"}, {"third", "1"}}},
		{Kernel: kernels[0]}, // did not run this time
	})
	want := `|  | 5.10 | 5.14 | 5.15 | 6.1 | 6.6 | 6.8 | 6.12 |
| --- | --- | --- | --- | --- | --- | --- | --- |
| tested | 5.10.0-46 | expected, not tested | expected, not tested | 6.1.0-1 | expected, not tested | expected, not tested | 6.12.1+deb13 |
| first | no | no | no | no | no, or yes | no, or yes | yes |
| second | no | no, or a\|b | no, or a\|b | a\|b | a\|b, or yes | yes | yes |
| third | 1 | 1 | 1 | 1 | 1 | 1 | 1 |
`
	if diff := cmp.Diff(want, s.Table()); diff != "" {
		t.Error(diff)
	}
	s.Measured = true
	if table := s.Table(); strings.Contains(table, "expected") || !strings.HasPrefix(table, "|  | 5.10 | 6.1 | 6.12 |\n") {
		t.Error(table)
	}
	s.Measured = false
	again := []*Result{{Kernel: kernels[0], Release: "5.10.0-47-cloud-amd64", Shows: []Row{{"first", "no"}}}}
	if d := s.Differences(again); len(d) != 0 {
		t.Errorf("a newer release alone: %q", d)
	}
	again[0].Shows[0].Value = "yes"
	if d := s.Differences(again); len(d) != 1 {
		t.Errorf("%q", d)
	}

	file := filepath.Join(t.TempDir(), "shows.json")
	if err := s.Write(file); err != nil {
		t.Fatal(err)
	}
	read, err := ReadShown(file)
	if err != nil || read.Table() != want {
		t.Errorf("%v: %+v", err, read)
	}
}
