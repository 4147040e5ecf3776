// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tcptrace/tcptrace/internal/names"
)

// rights are all that tcptrace has a use for.
var rights = []struct {
	right Right
	cap   cap.Value
}{
	{Right{Name: "CAP_BPF", Needed: true, Gives: "loading BPF programs"}, cap.BPF},
	{Right{Name: "CAP_PERFMON", Needed: true, Gives: "programs on tracepoints that read kernel memory"}, cap.PERFMON},
	{Right{Name: "CAP_SYS_RESOURCE", Gives: "BPF memory beyond the limit on locked memory (ulimit -l), before Linux 5.11"}, cap.SYS_RESOURCE},
	{Right{Name: "CAP_SYS_PTRACE", Gives: "--netns /proc/PID/ns/net of other users' processes"}, cap.SYS_PTRACE},
	{Right{Name: "CAP_SYS_ADMIN", Gives: "a private network namespace for demo and doctor; resets that a firewall in a module sends; the kernel's types where /sys/kernel/btf is hidden"}, cap.SYS_ADMIN},
	{Right{Name: "CAP_NET_ADMIN", Gives: "the demo's settings of its network namespace"}, cap.NET_ADMIN},
}

// Rights lists what tcptrace may need, the necessary first, as this process has
// it now: ask before [Open] gives rights up. The error is of asking.
func Rights() ([]Right, error) {
	own, err := effective()
	if err != nil {
		return nil, err
	}
	limited := false
	if t, err := kernelTypes("", nil); err == nil {
		limited = countsMemory(t.spec)
	}
	var list []Right
	for _, r := range rights {
		if r.cap == cap.SYS_RESOURCE && !limited {
			continue
		}
		r.right.Present = own(r.cap)
		if !r.right.Present {
			r.right.Remedy = remedy(r.right.Name)
		}
		list = append(list, r.right)
	}
	return list, nil
}

// effective returns a function that says which capabilities this process can
// use. It asks the kernel, not /proc, which may not be there.
func effective() (func(cap.Value) bool, error) {
	set, err := cap.GetPID(0)
	if err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	return func(v cap.Value) bool {
		has := func(v cap.Value) bool { on, err := set.GetFlag(cap.Effective, v); return err == nil && on }
		// CAP_SYS_ADMIN has been both since before they were split off.
		return has(v) || (v == cap.BPF || v == cap.PERFMON) && has(cap.SYS_ADMIN)
	}, nil
}

// checkRights looks before the kernel is asked, whose own errors mislead: it
// speaks of memory limits and unsupported maps.
func checkRights() error {
	own, err := effective()
	if err != nil {
		return err
	}
	if missing := missingCaps(own); len(missing) > 0 {
		return fmt.Errorf("missing %s: %s", strings.Join(missing, " and "), remedy(missing...))
	}
	if Lockdown() == "confidentiality" {
		return errors.New("kernel lockdown is in mode confidentiality, which forbids BPF to read kernel memory: boot with lockdown=integrity or without it")
	}
	return nil
}

// missingCaps names what a process lacks without which nothing can be traced.
func missingCaps(own func(cap.Value) bool) (missing []string) {
	for _, r := range rights {
		if r.right.Needed && !own(r.cap) {
			missing = append(missing, r.right.Name)
		}
	}
	return missing
}

const otherUsers = "BPF needs rights over the host, and this process is in a user namespace of its own: run it outside, or in a container that is not rootless (--userns=host)"

// remedy says how to get capabilities.
func remedy(missing ...string) string {
	if !names.Look().UIDs {
		return otherUsers
	}
	var container []string
	wanted := []string{"cap_bpf", "cap_perfmon"}
	for _, name := range missing {
		container = append(container, "--cap-add "+strings.TrimPrefix(name, "CAP_"))
		if low := strings.ToLower(name); !slices.Contains(wanted, low) {
			wanted = append(wanted, low)
		}
	}
	text := fmt.Sprintf("run it as root (sudo), give the binary the right (sudo setcap %s+ep FILE), or the container (%s)",
		strings.Join(wanted, ","), strings.Join(container, " "))
	// The kernel passes over a file's capabilities in silence.
	if self, err := os.Executable(); err == nil {
		if n, err := unix.Getxattr(self, "security.capability", nil); err == nil && n > 0 {
			text += "; the binary has file capabilities, but they are not enough, or a nosuid mount or no_new_privs forbids them"
		}
	}
	return text
}

// Lockdown is the kernel's lockdown mode; "" if it has none or does not tell: a
// kernel without lockdown has no such file, and an unreadable one is no reason
// not to try.
func Lockdown() string {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return ""
	}
	return lockdown(string(b))
}

// lockdown is the mode in force in the text of the kernel's file, such as
// "none [integrity] confidentiality".
func lockdown(text string) string {
	_, after, _ := strings.Cut(text, "[")
	mode, _, _ := strings.Cut(after, "]")
	return mode
}

// countsMemory reports whether this kernel counts BPF memory against the limit
// on locked memory: what it counts with went away in 5.11.
func countsMemory(kernel *btf.Spec) bool {
	_, err := kernel.AnyTypeByName("bpf_map_memory")
	return err == nil
}

// loadError puts the kernel's refusal in one line. limited says that the limit
// on locked memory counts, and could not be lifted.
func loadError(err error, limited bool) error {
	var ve *ebpf.VerifierError
	switch {
	case errors.As(err, &ve):
		return fmt.Errorf("the kernel's verifier rejects a BPF program; please report this with the kernel's version: %w", err)
	case errors.Is(err, unix.EPERM) && !names.Look().UIDs:
		return errors.New(otherUsers)
	case errors.Is(err, unix.EPERM) && limited:
		return fmt.Errorf("the limit on locked memory (%s) is too low for BPF, whose memory kernels before 5.11 count against it: raise the limit (ulimit -l unlimited, or LimitMEMLOCK=infinity in a systemd unit), or give tcptrace CAP_SYS_RESOURCE too", memlockLimit())
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the kernel refuses BPF: it lacks a right that is not a capability of this process; a container's seccomp profile or an LSM may forbid it: %w", unix.EPERM)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("no memory for the ring buffer or the maps: try a smaller --buffer: %w", err)
	}
	return fmt.Errorf("load BPF programs: %w", err)
}

func memlockLimit() string {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%d KiB", l.Cur>>10)
}

// dropRights gives up, in all threads and for good, every capability but those
// that have names in keep, and what the kernel asks for at the map lookups that
// follow. Nobody can trace this process for its BPF maps, and what it might
// execute gets no rights.
func (k *kernelSide) dropRights(keep []string) error {
	before, err := cap.GetPID(0)
	if err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	kept := slices.Clone(keep)
	if needed, err := k.lookupNeedsRight(); err != nil {
		return err
	} else if on, _ := before.GetFlag(cap.Permitted, cap.BPF); needed && on {
		kept = append(kept, "CAP_BPF")
	} else if needed {
		kept = append(kept, "CAP_SYS_ADMIN")
	}
	after := cap.NewSet()
	for _, name := range kept {
		v, err := cap.FromName(strings.ToLower(name))
		if err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
		if on, _ := before.GetFlag(cap.Permitted, v); !on {
			continue
		}
		for _, f := range []cap.Flag{cap.Permitted, cap.Effective} {
			if err := after.SetFlag(f, true, v); err != nil {
				return fmt.Errorf("keep %s: %w", name, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("give up rights: become undumpable: %w", err)
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up rights: set no_new_privs: %w", err)
	}
	if err := cap.ResetAmbient(); err != nil {
		return fmt.Errorf("give up rights: ambient capabilities: %w", err)
	}
	if err := after.SetProc(); err != nil {
		return fmt.Errorf("give up rights: %w", err)
	}
	return nil
}

// lookupNeedsRight reports whether a lookup in a map that is open asks for a
// capability, as it did before 5.19 where kernel.unprivileged_bpf_disabled is
// set. It tries it in a thread that has put its capabilities aside.
func (k *kernelSide) lookupNeedsRight() (needed bool, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var own [2]unix.CapUserData
	if err := unix.Capget(&header, &own[0]); err != nil {
		return false, fmt.Errorf("read own capabilities: %w", err)
	}
	aside := own
	aside[0].Effective, aside[1].Effective = 0, 0
	if err := unix.Capset(&header, &aside[0]); err != nil {
		return false, fmt.Errorf("put capabilities aside: %w", err)
	}
	_, lerr := k.totals()
	if err := unix.Capset(&header, &own[0]); err != nil {
		return false, fmt.Errorf("take capabilities up again: %w", err)
	}
	if errors.Is(lerr, unix.EPERM) {
		return true, nil
	}
	return false, lerr
}
