// SPDX-License-Identifier: Apache-2.0

// Package packaging holds the tests of the Debian package and of the flight
// recorder's unit.
package packaging

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// maxExposure is what "systemd-analyze security" may give the unit, in tenths:
// what is left is needed, and the unit says for what.
const maxExposure = 12

const (
	command = "/usr/bin/tcptrace-bpf"
	version = "1.2.3"
)

// run runs a command, and returns what it prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute) // cleaning up, too
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// build makes the package, in a time zone and with a umask of its own.
func build(t *testing.T, zone string, umask int) []byte {
	t.Helper()
	defer syscall.Umask(syscall.Umask(umask))
	file := fmt.Sprintf("../dist/tcptrace-bpf_%s_%s.deb", version, runtime.GOARCH)
	run(t, "env", "TZ="+zone, "make", "-C", "..", "deb", "ARCHES="+runtime.GOARCH,
		"VERSION="+version, "COMMIT=0123456789abcdef0123456789abcdef01234567", "DATE=2026-01-31T12:00:00Z")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	return b
}

// What is installed: owner, mode, and the path as a pattern.
var contents = []string{
	"-rw-r--r-- root/root /etc/default/tcptrace",
	"-rwxr-xr-x root/root /usr/bin/tcptrace-bpf",
	"-rw-r--r-- root/root /usr/lib/systemd/system/tcptrace.service",
	"-rw-r--r-- root/root /usr/share/bash-completion/completions/tcptrace-bpf",
	"-rw-r--r-- root/root /usr/share/doc/tcptrace-bpf/README.Debian",
	"-rw-r--r-- root/root /usr/share/doc/tcptrace-bpf/README.md.gz",
	"-rw-r--r-- root/root /usr/share/doc/tcptrace-bpf/SECURITY.md",
	"-rw-r--r-- root/root /usr/share/doc/tcptrace-bpf/changelog.gz",
	"-rw-r--r-- root/root /usr/share/doc/tcptrace-bpf/copyright",
	"-rw-r--r-- root/root /usr/share/doc/tcptrace-bpf/third-party-licenses.gz",
	"-rw-r--r-- root/root /usr/share/fish/vendor_completions.d/tcptrace-bpf.fish",
	"-rw-r--r-- root/root /usr/share/lintian/overrides/tcptrace-bpf",
	"-rw-r--r-- root/root /usr/share/man/man1/tcptrace-bpf*.1.gz",
	"-rw-r--r-- root/root /usr/share/zsh/vendor-completions/_tcptrace-bpf",
}

// The package is built twice, and in a throwaway root that runs systemd
// installed, used, removed and purged.
func TestPackage(t *testing.T) {
	deb := build(t, "UTC", 0o022)
	if !bytes.Equal(deb, build(t, "Asia/Tokyo", 0o077)) {
		t.Error("two builds of the package differ")
	}
	file := filepath.Join(t.TempDir(), "tcptrace-bpf.deb")
	if err := os.WriteFile(file, deb, 0o644); err != nil {
		t.Fatal(err)
	}

	t.Run("contents", func(t *testing.T) {
		left := map[string]bool{}
		for _, c := range contents {
			left[c] = true
		}
		for line := range strings.Lines(run(t, "dpkg-deb", "-c", file)) {
			f := strings.Fields(line)
			if f[0][0] == 'd' {
				if f[0] != "drwxr-xr-x" || f[1] != "root/root" {
					t.Errorf("folder %s", line)
				}
				continue
			}
			entry := f[0] + " " + f[1] + " " + strings.TrimPrefix(f[5], ".")
			i := slices.IndexFunc(contents, func(c string) bool { ok, err := filepath.Match(c, entry); return ok && err == nil })
			if i < 0 {
				t.Errorf("unexpected: %s", entry)
				continue
			}
			delete(left, contents[i])
		}
		for c := range left {
			t.Errorf("missing: %s", c)
		}
	})
	t.Run("lintian", func(t *testing.T) {
		out := run(t, "lintian", "--allow-root", "--fail-on", "error,warning", file)
		if strings.TrimSpace(out) != "" && !strings.HasPrefix(out, "N: ") {
			t.Errorf("lintian says:\n%s", out)
		}
	})

	t.Run("installed", func(t *testing.T) { testInstalled(t, boot(t), file) })
}

func testInstalled(t *testing.T, m *machine, file string) {
	before := m.files(t)
	m.run(t, "dpkg", "-i", m.give(t, file))

	if out := m.run(t, command, "version"); !strings.HasPrefix(out, "tcptrace "+version+" (") {
		t.Errorf("version: %s", out)
	}
	if m.debians && !strings.HasPrefix(m.run(t, "/usr/bin/tcptrace", "-version"), "Version: ") {
		t.Error("/usr/bin/tcptrace is not Debian's any more")
	}

	pages := strings.Fields(m.run(t, "sh", "-c", "dpkg -L tcptrace-bpf | grep '/man1/.'"))
	if len(pages) < 6 {
		t.Errorf("man pages: %q", pages)
	}
	for _, page := range pages {
		if out := m.run(t, "sh", "-c", `zcat "$1" | groff -man -Tutf8 -ww -b -z 2>&1`, "sh", page); out != "" {
			t.Errorf("%s: groff warns:\n%s", page, out)
		}
		name := strings.TrimSuffix(filepath.Base(page), ".1.gz")
		if out := m.run(t, "man", "-P", "cat", name); !strings.Contains(out, "NAME\n") {
			t.Errorf("man %s: %s", name, out)
		}
	}

	// As the shell does it: the words so far, and the completion's function.
	complete := `. /usr/share/bash-completion/bash_completion; . /usr/share/bash-completion/completions/tcptrace-bpf
COMP_WORDS=(tcptrace-bpf retrans --out); COMP_CWORD=2 COMP_LINE="${COMP_WORDS[*]}" COMP_POINT=${#COMP_LINE}
f=$(complete -p tcptrace-bpf | sed 's/.* -F \([^ ]*\).*/\1/'); $f 2>/dev/null; echo "${COMPREPLY[@]}"`
	if out := m.run(t, "bash", "-c", complete); strings.TrimSpace(out) != "--output" {
		t.Errorf("bash completes --out to %q", out)
	}

	if out := m.run(t, "systemd-analyze", "verify", "tcptrace.service"); strings.Contains(out, "tcptrace") {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	out, err := m.try(t, "systemd-analyze", "security", "--offline=true", "--threshold="+strconv.Itoa(maxExposure), "tcptrace.service")
	if _, verdict, ok := strings.Cut(out, "→ "); ok {
		t.Log(strings.TrimSpace(verdict))
	}
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	for question, want := range map[string]string{"is-enabled": "disabled", "is-active": "inactive"} {
		if out, _ := m.try(t, "systemctl", question, "tcptrace"); strings.TrimSpace(out) != want {
			t.Errorf("after its installation %s: %s", question, out)
		}
	}

	testRecorder(t, m)

	m.run(t, "dpkg", "-r", "tcptrace-bpf")
	if out, err := m.try(t, "systemctl", "is-active", "tcptrace"); err == nil {
		t.Errorf("after its removal it is %s", out)
	}
	if _, err := m.try(t, "test", "-d", "/var/lib/private/tcptrace"); err != nil {
		t.Error("removal deletes the recordings")
	}
	m.run(t, "dpkg", "-P", "tcptrace-bpf")
	after := m.files(t)
	maps.DeleteFunc(after, func(name string, _ bool) bool { return before[name] })
	if len(after) > 0 {
		t.Errorf("purged, it leaves %q", slices.Sorted(maps.Keys(after)))
	}
}

// The flight recorder keeps what happens, with no right left, and across a restart.
func testRecorder(t *testing.T, m *machine) {
	m.run(t, "systemctl", "enable", "--now", "tcptrace")
	pid := strings.TrimSpace(m.run(t, "systemctl", "show", "-P", "MainPID", "tcptrace"))
	m.await(t, "tracing", func() bool {
		out := m.run(t, "cat", "/proc/"+pid+"/status")
		return strings.Contains(out, "CapPrm:\t0000000000000000\n")
	})
	status := m.run(t, "cat", "/proc/"+pid+"/status")
	for _, want := range []string{"CapBnd:\t000000c000000000\n", "CapEff:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("the recorder lacks %q:\n%s", want, status)
		}
	}
	if strings.Contains(status, "Uid:\t0\t") {
		t.Errorf("the recorder is root:\n%s", status)
	}

	refused := func() {
		if out, err := m.try(t, "bash", "-c", ": </dev/tcp/127.0.0.1/9"); err == nil {
			t.Fatalf("the connection was not refused: %s", out)
		}
	}
	recorded := func() int {
		out := m.run(t, command, "replay", "/var/lib/tcptrace", "--kind", "refused", "--lport", "9", "-o", "csv", "--no-header", "-q")
		return strings.Count(out, "\n")
	}
	// It gives its rights up before it begins a file.
	m.await(t, "recording", func() bool {
		return m.run(t, "find", "/var/lib/private/tcptrace", "-name", "*.tcptrace") != ""
	})
	// Some kernels hide a few events from BPF, so that one connection may be too few.
	m.await(t, "refused connection in the recording", func() bool { refused(); return recorded() > 0 })
	m.run(t, "systemctl", "stop", "tcptrace")
	if out := m.run(t, "systemctl", "show", "-P", "Result", "tcptrace"); out != "success\n" {
		t.Errorf("stopped with the result %s", out)
	}
	first := recorded()
	m.run(t, "systemctl", "start", "tcptrace")
	pid = strings.TrimSpace(m.run(t, "systemctl", "show", "-P", "MainPID", "tcptrace"))
	m.await(t, "tracing again", func() bool {
		return strings.Contains(m.run(t, "cat", "/proc/"+pid+"/status"), "CapPrm:\t0000000000000000\n")
	})
	m.await(t, "refused connection in the recording after a restart", func() bool { refused(); return recorded() > first })

	if out := m.run(t, "stat", "-L", "-c", "%a", "/var/lib/tcptrace", "/var/lib/private"); out != "700\n700\n" {
		t.Errorf("modes of the state folders: %q", out)
	}
	if out := m.run(t, "find", "/var/lib/private/tcptrace", "-type", "f", "!", "-perm", "600"); out != "" {
		t.Errorf("recordings that others may read: %s", out)
	}
}

// machine is a throwaway root that systemd runs in: this machine's files below
// a layer that is gone afterwards, in namespaces of its own, but for those of
// cgroups and users.
type machine struct {
	pid     string // of its systemd
	debians bool   // Debian's package tcptrace is installed
}

// bootScript gets a folder, the name of a cgroup, and the socket that systemd
// tells when it is up.
const bootScript = `
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"; cd "$1"; mkdir up work root
mount -t overlay -o lowerdir=/,upperdir=up,workdir=work overlay root; cd root
mount -t tmpfs -o mode=755 tmpfs run; mkdir run/up; mount --bind "$1/up" run/up; touch run/notify; mount --bind "$3" run/notify
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup; mkdir "sys/fs/cgroup/$2"; echo $$ >"sys/fs/cgroup/$2/cgroup.procs"
mount -t tmpfs -o mode=755 tmpfs dev; mkdir dev/pts dev/shm
for d in null zero full random urandom tty; do cp -a /dev/$d dev/; done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; ln -s pts/ptmx dev/ptmx
# What is the whole machine's is not for this systemd to set.
mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
rm -rf etc/fstab etc/modules-load.d
# Images of containers say in here that packages may start and stop nothing.
rm -f usr/sbin/policy-rc.d
pivot_root . tmp
exec chroot . /bin/sh -ec 'umount -l /tmp; mount -t tmpfs -o mode=1777 tmpfs /tmp
ip link set lo up
exec env -i container=test NOTIFY_SOCKET=/run/notify PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --system --unit=basic.target'
`

// boot starts a machine, with Debian's tcptrace if that can be had, and waits
// until it is up.
func boot(t *testing.T) *machine {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	others := t.TempDir()
	download := exec.CommandContext(t.Context(), "apt-get", "-q", "download", "tcptrace", "libpcap0.8")
	download.Dir = others
	download.Env = append(os.Environ(), "TMPDIR="+others)
	refusal, err := download.CombinedOutput()

	cgroup := fmt.Sprintf("tcptrace-test-%d", os.Getpid())
	cmd := exec.Command("sh", "-ec", bootScript, "sh", t.TempDir(), cgroup, socket)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	// Pdeathsig is of the thread that starts it.
	runtime.LockOSThread()
	serr := cmd.Start()
	if serr != nil {
		t.Fatal(serr)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended); ready.Close() }()
	m := &machine{pid: strconv.Itoa(cmd.Process.Pid)}
	t.Cleanup(func() {
		cmd.Process.Kill() // and with it all that runs in there
		<-ended
		runtime.UnlockOSThread()
		run(t, "unshare", "-m", "sh", "-ec", `mount -t cgroup2 cgroup2 "$1"; find "$1/$2" -depth -type d -exec rmdir {} +`, "sh", t.TempDir(), cgroup)
	})
	ready.SetReadDeadline(time.Now().Add(time.Minute))
	for up := false; !up; {
		b := make([]byte, 4096)
		n, err := ready.Read(b)
		if err != nil {
			t.Fatalf("systemd is not up: %v\n%s", err, &out)
		}
		up = slices.Contains(strings.Split(string(b[:n]), "\n"), "READY=1")
	}

	if err != nil {
		t.Logf("not tested beside Debian's tcptrace, which can't be had: %v\n%s", err, refusal)
		return m
	}
	debs, _ := filepath.Glob(filepath.Join(others, "*.deb"))
	args := []string{"dpkg", "-i"}
	for _, deb := range debs {
		args = append(args, m.give(t, deb))
	}
	m.run(t, args...)
	m.debians = true
	return m
}

func (m *machine) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return try(t, "nsenter", append([]string{"-t", m.pid, "-m", "-u", "-i", "-n", "-p", "-r", "-w"}, args...)...)
}

// run runs a command in the machine, and returns what it prints.
func (m *machine) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.try(t, args...)
	if err != nil {
		journal, _ := m.try(t, "journalctl", "--no-pager", "-n", "30")
		t.Fatalf("%s: %v\n%s\n%s", strings.Join(args, " "), err, out, journal)
	}
	return out
}

// give puts a file into the machine, and returns its path there.
func (m *machine) give(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	path := "/tmp/" + filepath.Base(file)
	if err := os.WriteFile("/proc/"+m.pid+"/root"+path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// await waits until something holds that nothing tells of.
func (m *machine) await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(end) {
			journal, _ := m.try(t, "journalctl", "--no-pager", "-u", "tcptrace")
			t.Fatalf("no %s within a minute\n%s", what, journal)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// files are those that the machine has beyond what it began with, but for what
// dpkg, apt, man and systemd note of any package or unit.
func (m *machine) files(t *testing.T) map[string]bool {
	t.Helper()
	list := map[string]bool{}
	for name := range strings.Lines(m.run(t, "find", "/run/up", "-mindepth", "1", "-printf", "/%P\n")) {
		name = strings.TrimSuffix(name, "\n")
		noise := func(dir string) bool { return strings.HasPrefix(name+"/", dir+"/") }
		if slices.ContainsFunc([]string{"/var/cache", "/var/log", "/var/lib/private"}, noise) && !strings.Contains(name, "private/tcptrace") {
			continue
		}
		if slices.ContainsFunc([]string{"/var/lib/dpkg", "/var/lib/systemd"}, noise) && !strings.Contains(name, "tcptrace") {
			continue
		}
		if _, err := os.Lstat(name); err == nil {
			continue // a folder of this machine, or a file that it has, too
		}
		list[name] = true
	}
	return list
}
