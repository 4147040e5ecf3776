// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

const nobody = 65534

// unprivileged has a program run as a user without rights but these.
func unprivileged(caps ...cap.Value) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	for _, c := range caps {
		attr.AmbientCaps = append(attr.AmbientCaps, uintptr(c))
	}
	return attr
}

// withFileCaps returns a copy of the program that has its rights from its file.
func withFileCaps(t *testing.T, caps ...cap.Value) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), "caps-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "tcptrace")
	if err := os.WriteFile(file, b, 0o755); err != nil {
		t.Fatal(err)
	}
	set := cap.NewSet()
	for _, f := range []cap.Flag{cap.Permitted, cap.Effective} {
		if err := set.SetFlag(f, true, caps...); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.SetFile(file); err != nil {
		t.Fatal(err)
	}
	return file
}

var capLine = regexp.MustCompile(`(?m)^(Cap(?:Inh|Prm|Eff|Amb)|NoNewPrivs):\s*(\w+)$`)

// checkDropped checks that no thread of a process has a right left but kept.
func checkDropped(t *testing.T, pid int, kept uint64) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %d threads", err, len(files))
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // this thread has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := capLine.FindAllStringSubmatch(string(b), -1)
		if len(lines) != 5 {
			t.Fatalf("%s tells %d of 5 things", f, len(lines))
		}
		for _, m := range lines {
			want := fmt.Sprintf("%016x", 0)
			switch m[1] {
			case "CapPrm", "CapEff":
				want = fmt.Sprintf("%016x", kept)
			case "NoNewPrivs":
				want = "1"
			}
			if m[2] != want {
				t.Errorf("%s: %s is %s, want %s", f, m[1], m[2], want)
			}
		}
	}
}

// neededLater is the capability that this kernel asks for at map lookups, so
// that it can't be given up: from before 5.19, if unprivileged BPF is disabled.
func neededLater(t *testing.T) uint64 {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/sys/kernel/unprivileged_bpf_disabled")
	if errors.Is(err, os.ErrNotExist) || err == nil && string(b) == "0\n" || major > 5 || major == 5 && minor >= 19 {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return 1 << cap.BPF
}

// Root, a user with capabilities, and one whose tcptrace has them see the same
// events, and no thread that traces has any right left.
func TestLeastRights(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	file := withFileCaps(t, cap.BPF, cap.PERFMON)
	for _, who := range []struct {
		name, path string
		attr       *syscall.SysProcAttr
	}{
		{"root", own, nil},
		{"user with capabilities", own, unprivileged(cap.BPF, cap.PERFMON)},
		{"binary with capabilities", file, unprivileged()},
	} {
		for command, trouble := range map[string]func(*testing.T, *lab.Namespace){
			"retrans": lose, "resets": refuse, "states": refuse, "events": refuse,
		} {
			t.Run(who.name+"/"+command, func(t *testing.T) {
				ns := labtest.Namespace(t)
				out := tempFile(t)
				args := []string{command, "-o", "json", "--netns", fmt.Sprint(ns.Inum()), "-c", "1"}
				if command == "resets" {
					args = append(args, "--direction", "received") // those have a socket
				}
				p := launchAt(t, who.path, out, who.attr, args...)
				checkDropped(t, p.cmd.Process.Pid, neededLater(t))
				trouble(t, ns)
				if code := p.end(); code != 0 {
					t.Fatalf("exit code %d: %s", code, p.said.String())
				}
				e := firstEvent(t, out)
				if e["netns"] != float64(ns.Inum()) || e["uid"] != float64(os.Getuid()) || e["comm"] == nil && command != "retrans" {
					t.Errorf("%v", e)
				}
				if command == "states" {
					return
				}
				b, err := os.ReadFile(out.Name())
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range parseSummary(t, lastLine(b)).Audit {
					if a.NetNS != ns.Inum() || a.Verdict == "unchecked" {
						t.Errorf("the counters of a namespace need no right: %+v", a)
					}
				}
			})
		}
	}
}

// Where the processes of others are hidden, their namespaces can't be checked,
// but the own can.
func TestHiddenProcesses(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ns := labtest.Namespace(t)
	out := tempFile(t)
	const script = `mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all,+bpf,+perfmon --ambient-caps -all,+bpf,+perfmon "$@"`
	p := launchAt(t, "/bin/sh", out, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, "-c", script, "sh", own, "resets", "-o", "json")
	refuse(t, ns)
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.said.String())
	}
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		t.Fatal(err)
	}
	seen := map[uint32]auditRow{}
	for _, a := range parseSummary(t, lastLine(b)).Audit {
		seen[a.NetNS] = a
	}
	if a := seen[ns.Inum()]; a.Verdict != "unchecked" || a.Note != "unreadable" || a.Traced == 0 {
		t.Errorf("a hidden process's: %+v", a)
	}
	if a := seen[uint32(st.Ino)]; a.Counter == "" || a.Verdict == "unchecked" {
		t.Errorf("the own: %+v", a)
	}
}

// lose makes retransmissions.
func lose(t *testing.T, ns *lab.Namespace) {
	t.Helper()
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Stalled(t.Context(), place, 2); err != nil {
		t.Fatal(err)
	}
}

// firstEvent is the first line of what was printed in JSON.
func firstEvent(t *testing.T, out *os.File) map[string]any {
	t.Helper()
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	var e map[string]any
	if err := json.Unmarshal(line, &e); err != nil || e["event"] == "summary" {
		t.Fatalf("%v: %q", err, b)
	}
	return e
}

// The demo keeps what it needs, and gives up the rest.
func TestDemoRights(t *testing.T) {
	p := launch(t, tempFile(t), unprivileged(cap.BPF, cap.PERFMON, cap.SYS_ADMIN, cap.NET_ADMIN), "demo")
	checkDropped(t, p.cmd.Process.Pid, 1<<cap.NET_ADMIN|neededLater(t))
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.said.String())
	}
}

// tells runs the program, which is to fail with exactly one line.
func tells(t *testing.T, cmd *exec.Cmd, want string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v in place of exit code 1", err)
	}
	if s := string(out); !strings.Contains(s, want) || strings.Count(s, "\n") != 1 {
		t.Errorf("said %q, want %q", s, want)
	}
}

// What lacks is named exactly, whether the user has it or the file.
func TestMissingRight(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		caps []cap.Value
		want string
	}{
		{nil, "missing CAP_BPF and CAP_PERFMON: "},
		{[]cap.Value{cap.BPF}, "missing CAP_PERFMON: "},
		{[]cap.Value{cap.PERFMON}, "missing CAP_BPF: "},
	} {
		t.Run(tt.want, func(t *testing.T) {
			cmd := exec.Command(own, "events")
			cmd.SysProcAttr = unprivileged(tt.caps...)
			tells(t, cmd, tt.want+"run it as root (sudo), give the binary the right (sudo setcap cap_bpf,cap_perfmon+ep FILE), or the container (--cap-add ")
			if tt.caps == nil {
				return
			}
			cmd = exec.Command(withFileCaps(t, tt.caps...), "events")
			cmd.SysProcAttr = unprivileged()
			tells(t, cmd, tt.want)
		})
	}
	t.Run("no_new_privs", func(t *testing.T) {
		cmd := exec.Command("setpriv", "--no-new-privs", withFileCaps(t, cap.BPF, cap.PERFMON), "events")
		cmd.SysProcAttr = unprivileged()
		tells(t, cmd, "no_new_privs forbids them")
	})
}

// The namespaces of other users' processes take one right more.
func TestNetNSOfOthers(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
	p := launchAt(t, own, tempFile(t), unprivileged(cap.BPF, cap.PERFMON, cap.SYS_PTRACE), "events", "--netns", path)
	checkDropped(t, p.cmd.Process.Pid, neededLater(t))
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.said.String())
	}
	cmd := exec.Command(own, "events", "--netns", path)
	cmd.SysProcAttr = unprivileged(cap.BPF, cap.PERFMON)
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "CAP_SYS_PTRACE") {
		t.Errorf("%v: said %q", err, out)
	}
}

// hiddenTypes runs a shell command, "$@" of which is the program, where the
// kernel's types can't be seen.
const hiddenTypes = `mount -t tmpfs none /sys/kernel/btf && exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all,+bpf,+perfmon --ambient-caps -all,+bpf,+perfmon "$@"`

func hidden(path string, args ...string) (string, []string, *syscall.SysProcAttr) {
	return "/bin/sh", append([]string{"-c", hiddenTypes, "sh", path}, args...), &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
}

// Where the kernel's file of types is hidden, the kernel gives them to who has
// CAP_SYS_ADMIN, and a copy serves all others.
func TestTypes(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	types, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	file := openFile(t, own, types)
	for _, tt := range []struct {
		name, script string
		args         []string
	}{
		{"asked of the kernel", `mount -t tmpfs none /sys/kernel/btf && exec "$@"`, nil},
		{"copy", hiddenTypes, []string{"--btf", file}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := labtest.Namespace(t)
			out := tempFile(t)
			args := append([]string{"-c", tt.script, "sh", own, "resets", "-o", "json", "--netns", fmt.Sprint(ns.Inum()), "-c", "1"}, tt.args...)
			p := launchAt(t, "/bin/sh", out, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, args...)
			refuse(t, ns)
			if code := p.end(); code != 0 {
				t.Fatalf("exit code %d: %s", code, p.said.String())
			}
			if e := firstEvent(t, out); e["netns"] != float64(ns.Inum()) {
				t.Errorf("%v", e)
			}
		})
	}
}

// openFile writes a file that everybody may read, beside the program.
func openFile(t *testing.T, binary string, content []byte) string {
	t.Helper()
	f, err := os.CreateTemp(filepath.Dir(binary), "types-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	_, werr := f.Write(content)
	if err := errors.Join(werr, f.Chmod(0o644), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// A file that is not what --btf asks for is told in one line.
func TestWrongTypes(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	types, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	// Another kernel: it has the tracepoints, by other numbers.
	var others []btf.Type
	for _, name := range []string{"inet_sock_set_state", "tcp_retransmit_skb", "tcp_retransmit_synack", "tcp_send_reset", "tcp_receive_reset"} {
		others = append(others, &btf.Typedef{Name: "btf_trace_" + name, Type: &btf.FuncProto{Return: &btf.Void{}}})
	}
	b, err := btf.NewBuilder(others, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.Marshal(nil, btf.KernelMarshalOptions())
	if err != nil {
		t.Fatal(err)
	}
	near := bytes.Clone(types) // one byte of a name differs
	near[len(near)-100] ^= 1
	elfFile, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		content []byte
		want    string
	}{
		"another kernel's":   {other, "not the types of the running kernel"},
		"a similar kernel's": {near, "not the types of the running kernel"},
		"truncated":          {types[:len(types)/2], "it is damaged"},
		"header alone":       {types[:24], "it is damaged"},
		"empty":              {nil, "too short"},
		"text":               {[]byte("not types at all"), "holds no types"},
		"compressed":         {[]byte("\xfd7zXZ\x00 and so on"), "unpack it first"},
		"ELF without BTF":    {elfFile, "no section .BTF"},
	} {
		t.Run(name, func(t *testing.T) {
			path, args, attr := hidden(own, "events", "--btf", openFile(t, own, tt.content))
			cmd := exec.Command(path, args...)
			cmd.SysProcAttr = attr
			tells(t, cmd, tt.want)
		})
	}
	for name, want := range map[string]string{"/dev/zero": "not a regular file", "/nonexistent": "no such file", "/etc/shadow": "permission denied"} {
		t.Run(name, func(t *testing.T) {
			path, args, attr := hidden(own, "events", "--btf", name)
			cmd := exec.Command(path, args...)
			cmd.SysProcAttr = attr
			tells(t, cmd, want)
		})
	}
	t.Run("none", func(t *testing.T) {
		path, args, attr := hidden(own, "events")
		cmd := exec.Command(path, args...)
		cmd.SysProcAttr = attr
		tells(t, cmd, "with --btf FILE")
	})
	// Types choose what is read of kernel memory: not for whom only the file
	// has rights.
	t.Run("chosen by a user", func(t *testing.T) {
		file := openFile(t, own, types)
		if err := os.Chown(file, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"`,
			"sh", withFileCaps(t, cap.BPF, cap.PERFMON), "events", "--btf", file)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		tells(t, cmd, "belongs to root")
	})
}

// In a container what is shown is right, and what would mislead is absent.
func TestContainer(t *testing.T) {
	own, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	group := cgroup(t)
	for _, tt := range []struct {
		name, script string
		flags        uintptr
		absent       []string
	}{
		{"none", `exec "$@"`, 0, nil},
		{"mounts", `mount -t tmpfs none /mnt; exec "$@"`, syscall.CLONE_NEWNS, nil},
		{"pids", `mount -t proc proc /proc; exec "$@"`, syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, []string{"pid", "user"}},
		{"cgroups", `echo $$ >` + group + `/cgroup.procs && exec unshare -C sh -c 'umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"' sh "$@"`,
			syscall.CLONE_NEWNS, []string{"user"}},
		{"root", `mount --bind / /mnt && mount -t proc proc /mnt/proc && mount -t sysfs -o ro none /mnt/sys && mount --bind ` + filepath.Dir(own) + ` /mnt/tmp && exec chroot /mnt /tmp/tcptrace` + ` "${@:2}"`,
			syscall.CLONE_NEWNS, nil},
		{"all, read-only /sys, no tracefs", `mount -t proc proc /proc; mount -t sysfs -o ro none /sys; exec unshare -C "$@"`,
			syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC, []string{"pid", "user"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := labtest.Namespace(t)
			out := tempFile(t)
			args := []string{"-c", tt.script, "sh", own, "resets", "--direction", "received", "-o", "json", "--netns", fmt.Sprint(ns.Inum()), "-c", "1"}
			p := launchAt(t, "/bin/bash", out, &syscall.SysProcAttr{Cloneflags: tt.flags}, args...)
			pid := connectAs(t, ns, "container-test")
			if code := p.end(); code != 0 {
				t.Fatalf("exit code %d: %s", code, p.said.String())
			}
			e := firstEvent(t, out)
			want := map[string]any{"netns": float64(ns.Inum()), "comm": "container-test", "uid": 0.0, "pid": float64(pid), "user": "root", "cgroup": ownCgroup(t)}
			for field, v := range want {
				_, there := e[field]
				if absent := slices.Contains(tt.absent, field); absent && there || !absent && e[field] != v {
					t.Errorf("%s is %v (%v), want %v, absent %v", field, e[field], there, v, absent)
				}
			}
			b, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			a := parseSummary(t, lastLine(b)).row(t, "OutRsts")
			hidden := slices.Contains(tt.absent, "pid") // so are the threads whose namespaces could be read
			if a.NetNS != ns.Inum() || (a.Verdict == "unchecked") != hidden || strings.Contains(a.Note, "--pid=host") != hidden {
				t.Errorf("the audit says %+v", a)
			}
			for _, field := range []string{"pid", "user", "cgroup"} {
				if said := strings.Contains(p.said.String(), field+": "); said != slices.Contains(tt.absent, field) {
					t.Errorf("%s: said %q", field, p.said.String())
				}
			}
		})
	}
}

// cgroup makes one for the time of a test.
func cgroup(t *testing.T) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(root, "tcptrace-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	t.Fatal("no unified cgroup hierarchy is mounted")
	return ""
}

// ownCgroup is the path of this process's cgroup.
func ownCgroup(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(path)
		}
	}
	t.Fatal("this process is in no cgroup of the unified hierarchy")
	return ""
}

// The binary needs nothing of the system that it runs on.
func TestStatic(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it has a segment %v", p.Type)
		}
	}
}

// The environment decides how things look, and nothing else. A package that
// reads it is one to look at: the binary may have more rights than its user.
func TestEnvironment(t *testing.T) {
	allowed := []string{
		"github.com/fatih/color",                             // NO_COLOR, TERM
		"github.com/spf13/cobra",                             // of completion
		"github.com/tcptrace/tcptrace/cmd/tcptrace",          // hands it to internal/cli: NO_COLOR, TERM, TCPTRACE_DEBUG
		"golang.org/x/sys/unix",                              // declares the functions
		"kernel.org/pub/linux/libs/security/libcap/cap",      // of programs to start, which is not done here
		"github.com/cilium/ebpf/internal/testutils/testmain", // of Windows
	}
	out, err := exec.Command("go", "list", "-deps", "-f", `{{if not .Standard}}{{$p := .}}{{range .GoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}{{"\n"}}{{end}}{{end}}`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	reads := regexp.MustCompile(`\b(os|syscall|unix)\.(Getenv|LookupEnv|Environ|ExpandEnv)\b`)
	files := 0
	for line := range strings.Lines(string(out)) {
		pkg, file, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		files++
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if m := reads.Find(b); m != nil && !slices.Contains(allowed, pkg) {
			t.Errorf("%s uses %s", file, m)
		}
	}
	if files < 100 {
		t.Fatalf("%d files looked at: %s", files, out)
	}
}

// doctor says the same as the commands: with the two rights tracing works, and
// without one it doesn't.
func TestDoctorRights(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		attr *syscall.SysProcAttr
		code int
		want []string
	}{
		{"root", nil, 0, []string{"in a private network namespace"}},
		{"two rights", unprivileged(cap.BPF, cap.PERFMON), 0, []string{"on this network namespace's loopback interface", "CAP_SYS_ADMIN"}},
		{"one right", unprivileged(cap.BPF), 1, []string{"CAP_PERFMON", "setcap"}},
		{"none", unprivileged(), 1, []string{"CAP_BPF", "CAP_PERFMON"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(path, "doctor", "-o", "json")
			cmd.SysProcAttr = tt.attr
			out, err := cmd.Output()
			if code := cmd.ProcessState.ExitCode(); code != tt.code || (err != nil) != (code != 0) {
				t.Errorf("exit code %d, %v:\n%s", code, err, out)
			}
			var report struct {
				Works  bool
				Checks []struct{ Check, Of, Status, Detail, Remedy string }
			}
			if err := json.Unmarshal(out, &report); err != nil || report.Works != (tt.code == 0) {
				t.Fatalf("%v: works: %v", err, report.Works)
			}
			for _, w := range tt.want {
				if !bytes.Contains(out, []byte(w)) {
					t.Errorf("nothing of %q in\n%s", w, out)
				}
			}
			for _, c := range report.Checks {
				if c.Check == "self-test" && c.Status != "ok" {
					t.Errorf("%+v", c)
				}
			}
		})
	}
}
