// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tcptrace/tcptrace/internal/vm/wire"
)

// A Machine is a VM to be booted.
type Machine struct {
	Arch, Kernel, Initramfs string
	// Console and Results are files for what the kernel and what the jobs print.
	Console, Results string
	CPUs, MemoryMB   int
}

// emulators are how each architecture is emulated. Hardware virtualisation is not used even where there is some: it is
// not everywhere, and a result should not depend on it.
var emulators = map[string]struct {
	command []string
	append  string
}{
	"amd64": {
		[]string{"qemu-system-x86_64", "-machine", "q35", "-cpu", "max,la57=off,erms=off,fsrm=off"},
		"console=ttyS0 earlyprintk=ttyS0",
	},
	"arm64": {
		[]string{"qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on"},
		"console=ttyAMA0 earlycon=pl011,0x9000000",
	},
}

func (m Machine) command() []string {
	e := emulators[m.Arch]
	return append(append([]string{}, e.command...),
		"-accel", "tcg,thread=multi", "-smp", strconv.Itoa(m.CPUs), "-m", strconv.Itoa(m.MemoryMB),
		"-nodefaults", "-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot",
		"-serial", "file:"+m.Console,
		"-device", "virtio-serial-pci", "-chardev", "file,id=results,path="+m.Results,
		"-device", "virtserialport,chardev=results,name=results",
		"-kernel", m.Kernel, "-initrd", m.Initramfs,
		// An oops ends the machine, and a panic does so at once. The rest spares work that is no part of the tests.
		"-append", e.append+" panic=-1 oops=panic random.trust_cpu=on mitigations=off init_on_alloc=0 cryptomgr.notests")
}

// errSilent says that a machine printed nothing at all.
var errSilent = errors.New("the machine printed nothing")

// silence is how long a machine may take to print something.
const silence = 60 * time.Second

// boot runs the machine until it ends itself. It is killed when the context ends, when it prints nothing for long
// from the start (errSilent), and when this process dies.
func (m Machine) boot(ctx context.Context) error {
	for _, f := range []string{m.Console, m.Results} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	args := m.command()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done := make(chan error)
	go func() {
		// The signal comes when the thread that started the process ends, so keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	quiet := time.AfterFunc(silence, func() {
		if st, err := os.Stat(m.Console); err == nil && st.Size() == 0 {
			cancel(errSilent)
		}
	})
	defer quiet.Stop()
	err := <-done
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// pack writes the initramfs of a machine: init, the modules, the files, and the plan.
func pack(path string, init []byte, modules []module, files initramfs, plan wire.Plan) (err error) {
	fsys := initramfs{}
	for name, f := range files {
		fsys[name] = f
	}
	fsys.mkdir("proc", "sys", "dev", "tmp", "run", "root", "etc", "var/tmp", "var/run")
	fsys.add("init", init, 0o755)
	fsys.add("etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"), 0o644)
	fsys.add("etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"), 0o644)
	for _, m := range modules {
		name := "/lib/modules/" + m.name + ".ko"
		fsys.add(name, m.data, 0o644)
		plan.Modules = append(plan.Modules, name)
	}
	text, err := jsonText(plan)
	if err != nil {
		return err
	}
	fsys.add("vm.json", text, 0o644)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return fsys.write(f)
}

// addTool adds a program of this machine and the libraries that it loads.
func (fsys initramfs) addTool(ctx context.Context, name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	if err := fsys.addFile("/bin/"+filepath.Base(path), path); err != nil {
		return err
	}
	out, err := run(ctx, "", "ldd", path)
	if err != nil {
		if strings.Contains(err.Error(), "not a dynamic executable") {
			return nil
		}
		return err
	}
	for _, lib := range libraries(out) {
		if err := fsys.addFile(lib, lib); err != nil {
			return err
		}
	}
	return nil
}

// libraries takes the files from what ldd prints.
func libraries(ldd string) (paths []string) {
	for _, m := range libraryPath.FindAllStringSubmatch(ldd, -1) {
		paths = append(paths, m[1])
	}
	return paths
}

var libraryPath = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x`)
