// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// types are the kernel's types.
type types struct {
	spec  *btf.Spec
	cache *btf.Cache // holds spec
	file  string     // what they were read from; "" if the kernel gave them
	raw   []byte     // what the file held
}

const (
	ownTypes = "/sys/kernel/btf/vmlinux"
	maxRaw   = 64 << 20 // bytes: ten times those of a kernel
)

// kernelTypes returns the types of the running kernel: its own if it gives
// them, else those in the file. A cache may be nil, or hold them.
func kernelTypes(file string, cache *btf.Cache) (*types, error) {
	t := &types{file: file}
	var err error
	if file != "" { // what is wrong with it shows on every kernel
		if t.spec, t.raw, err = readTypes(file); err != nil {
			return nil, fmt.Errorf("--btf %q: %w", file, err)
		}
	}
	if _, err := os.Stat(ownTypes); err == nil {
		if cache == nil {
			cache = btf.NewCache()
		}
		spec, err := cache.Kernel()
		if err != nil {
			return nil, fmt.Errorf("read the kernel's types: %w", err)
		}
		return &types{spec: spec, cache: cache}, nil
	}
	if spec := loadedTypes(); spec != nil {
		t = &types{spec: spec}
	}
	switch {
	case t.spec != nil:
		if t.cache, err = cacheOf(t.spec); err != nil {
			return nil, err
		}
		return t, nil
	case hasNoTypes():
		return nil, errNoTypes
	}
	return nil, fmt.Errorf("the kernel's types can't be read: there is no %s here: mount it (docker run -v /sys/kernel/btf:/sys/kernel/btf:ro), or copy it from the host and name the copy with --btf FILE", ownTypes)
}

// TypesFrom says where the kernel's types come from: a file, or the kernel.
func TypesFrom(file string) (string, error) {
	t, err := kernelTypes(file, nil)
	switch {
	case err != nil:
		return "", err
	case t.file != "":
		return t.file, nil
	}
	if _, err := os.Stat(ownTypes); err != nil {
		return "the kernel's memory", nil
	}
	return ownTypes, nil
}

var errNoTypes = errors.New("this kernel was built without CONFIG_DEBUG_INFO_BTF, and tcptrace can't trace it, also not with --btf: the kernel itself needs these types to check BPF programs; the kernels of most distributions have them from 5.10 on")

// hasNoTypes reports whether the kernel has surely no types of its own, rather
// than that they are hidden.
func hasNoTypes() bool {
	var st unix.Statfs_t
	if unix.Statfs("/sys/kernel", &st) != nil || st.Type != unix.SYSFS_MAGIC {
		return false
	}
	_, err := os.Stat("/sys/kernel/btf")
	return errors.Is(err, os.ErrNotExist)
}

// loadedTypes asks the kernel for its types without the help of a file system,
// which takes CAP_SYS_ADMIN and Linux 5.11. nil if it doesn't give them.
func loadedTypes() *btf.Spec {
	// The kernel unpacks its types when it checks the first program.
	first, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.RawTracepoint,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		return nil
	}
	defer first.Close()
	it := new(btf.HandleIterator)
	defer func() { it.Handle.Close() }()
	for it.Next() {
		info, err := it.Handle.Info()
		if err != nil {
			return nil
		}
		if info.IsVmlinux() {
			spec, err := it.Handle.Spec(nil)
			if err != nil {
				return nil
			}
			return spec
		}
	}
	return nil
}

// readTypes reads a file of raw BTF, or the vmlinux that holds it.
func readTypes(file string) (*btf.Spec, []byte, error) {
	// A pipe or a device would not end, or not begin.
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, nil, errors.New("it is not a regular file")
	}
	// Types say where in kernel memory to read. Who has no rights of their own
	// must not choose that.
	if secure, err := privilegedBinary(); err != nil {
		return nil, nil, err
	} else if secure && (st.Uid != 0 || st.Mode&0o022 != 0) {
		return nil, nil, errors.New("a tcptrace that has its rights from file capabilities takes only a file that belongs to root and that nobody else may write")
	}
	return parseTypes(f, st.Size)
}

// privilegedBinary reports whether this program's file gives it rights that
// the one who started it lacks.
func privilegedBinary() (bool, error) {
	const atSecure = 23
	auxv, err := unix.Auxv()
	if err != nil {
		return false, fmt.Errorf("read the auxiliary vector: %w", err)
	}
	for _, entry := range auxv {
		if entry[0] == atSecure {
			return entry[1] != 0, nil
		}
	}
	return false, nil
}

// parseTypes reads what is in a file of so many bytes.
func parseTypes(r io.ReaderAt, size int64) (spec *btf.Spec, b []byte, err error) {
	// The parsers know of hostile files; should one get the better of them,
	// that is not worth a crash.
	defer func() {
		if p := recover(); p != nil {
			spec, b, err = nil, nil, fmt.Errorf("it is damaged: %v", p)
		}
	}()
	const wanted = "give a copy of the host's " + ownTypes + ", or the vmlinux that the kernel was made with"
	start := make([]byte, 6)
	if _, err := r.ReadAt(start, 0); err != nil {
		return nil, nil, errors.New("it is too short to hold a kernel's types")
	}
	is := func(magic string) bool { return bytes.HasPrefix(start, []byte(magic)) }
	raw := io.NewSectionReader(r, 0, size)
	switch {
	case is("\xfd7zXZ"), is("\x1f\x8b"), is("\x28\xb5\x2f\xfd"):
		return nil, nil, errors.New("it is compressed: unpack it first")
	case is("\x7fELF"):
		ef, err := elf.NewFile(r)
		if err != nil {
			return nil, nil, fmt.Errorf("it is damaged: %w", err)
		}
		section := ef.Section(".BTF")
		if section == nil || section.Type == elf.SHT_NOBITS {
			return nil, nil, errors.New("this ELF file has no section .BTF: " + wanted)
		}
		raw = io.NewSectionReader(section, 0, int64(min(section.Size, 1<<62)))
	case !is("\x9f\xeb") && !is("\xeb\x9f"):
		return nil, nil, errors.New("it holds no types of a kernel: " + wanted)
	}
	if raw.Size() > maxRaw {
		return nil, nil, errors.New("it is too large to hold a kernel's types")
	}
	if b, err = io.ReadAll(raw); err != nil {
		return nil, nil, err
	}
	if spec, err = btf.LoadSpecFromReader(bytes.NewReader(b)); err != nil {
		return nil, nil, fmt.Errorf("it is damaged, or not a kernel's: %w", err)
	}
	return spec, b, nil
}

// cacheOf returns a cache that holds spec. The library takes the types for
// relocations as an option, but the ids of what programs attach to from its
// cache alone, and fills that from /sys/kernel/btf alone.
func cacheOf(spec *btf.Spec) (*btf.Cache, error) {
	cache := btf.NewCache()
	f := reflect.ValueOf(cache).Elem().FieldByName("kernelTypes")
	if !f.IsValid() || f.Type() != reflect.TypeOf(spec) {
		return nil, errors.New("this build of tcptrace can't use --btf; please report this")
	}
	reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Set(reflect.ValueOf(spec))
	return cache, nil
}

// options are those to load programs with.
func (t *types) options() ebpf.CollectionOptions {
	return ebpf.CollectionOptions{Cache: t.cache, Programs: ebpf.ProgramOptions{KernelTypes: t.spec}}
}

// explain adds to an error that the file may be the cause.
func (t *types) explain(err error) error {
	switch {
	case t.file == "":
		return err
	case hasNoTypes():
		return errNoTypes
	}
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, btf.ErrNotFound) || errors.Is(err, ebpf.ErrNotSupported) {
		return t.wrong()
	}
	return err
}

func (t *types) wrong() error {
	return fmt.Errorf("--btf %q: these are not the types of the running kernel: it has to be a copy of the host's %s, made since this kernel was installed", t.file, ownTypes)
}

// confirm checks that a program is on the tracepoint that was meant: the kernel
// looks the ids that the file gave up in its own types.
func (t *types) confirm(l link.Link, h *hook) error {
	if t.file == "" {
		return nil
	}
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("ask what %s is attached to: %w", h.program, err)
	}
	if tp := info.RawTracepoint(); tp == nil || tp.Name != h.point {
		return t.wrong()
	}
	return nil
}

// compare checks that the types of a file are the kernel's own. loaded is a
// program on a typed tracepoint.
func (t *types) compare(loaded *ebpf.Program) error {
	if t.file == "" {
		return nil
	}
	same, err := t.inKernel(loaded)
	if err != nil {
		return fmt.Errorf("compare %q with the kernel's types: %w", t.file, err)
	}
	if !same {
		return t.wrong()
	}
	return nil
}

// inKernel reports whether the kernel's own types are those of the file, by
// reading them in its memory. The way there begins at a typed program that this
// process holds, and the file itself tells it: a wrong one leads astray. On a
// kernel before 5.11 the way ends early, and the names of tracepoints must do.
func (t *types) inKernel(loaded *ebpf.Program) (bool, error) {
	const chunk = 64 << 10
	var path []int32
	for _, step := range [][2]string{
		{"task_struct", "files"}, {"files_struct", "fdt"}, {"fdtable", "fd"}, {"", ""}, {"file", "private_data"},
		{"bpf_prog", "aux"}, {"bpf_prog_aux", "attach_btf"}, {"btf", "data"},
	} {
		if step[0] == "" {
			path = append(path, int32(loaded.FD()*8))
			continue
		}
		var s *btf.Struct
		if err := t.spec.TypeByName(step[0], &s); err != nil {
			return false, nil
		}
		at, ok := member(s.Members, step[1], 0)
		if !ok {
			return step[1] == "attach_btf", nil
		}
		path = append(path, int32(at))
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8 + chunk, MaxEntries: 1})
	if err != nil {
		return false, err
	}
	defer m.Close()
	insns := asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Reg(asm.R6, asm.R0),
		asm.FnGetCurrentTask.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),
	}
	read := func(offset int32) {
		insns = append(insns,
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, -16),
			asm.Mov.Imm(asm.R2, 8),
			asm.Mov.Reg(asm.R3, asm.R7),
			asm.Add.Imm(asm.R3, offset),
			asm.FnProbeReadKernel.Call(),
			asm.JNE.Imm(asm.R0, 0, "end"),
			asm.LoadMem(asm.R7, asm.RFP, -16, asm.DWord))
	}
	for _, offset := range path {
		read(offset)
	}
	insns = append(insns, // value: where to read, and what is there
		asm.LoadMem(asm.R3, asm.R6, 0, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R7),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Add.Imm(asm.R1, 8),
		asm.Mov.Imm(asm.R2, chunk),
		asm.FnProbeReadKernel.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.RawTracepoint, Instructions: insns, License: "GPL"})
	if err != nil {
		return false, err
	}
	defer prog.Close()
	if len(t.raw) < chunk {
		return false, nil
	}
	value := make([]byte, 8+chunk)
	for from := 0; from < len(t.raw); from += chunk {
		from = min(from, len(t.raw)-chunk)
		binary.NativeEndian.PutUint64(value, uint64(from))
		clear(value[8:])
		if err := m.Put(uint32(0), value); err != nil {
			return false, err
		}
		if _, err := prog.Run(&ebpf.RunOptions{Context: []uint64{0, 0}}); err != nil {
			return false, err
		}
		if err := m.Lookup(uint32(0), &value); err != nil {
			return false, err
		}
		if !bytes.Equal(value[8:], t.raw[from:from+chunk]) {
			return false, nil
		}
	}
	return true, nil
}

// member finds where a member is in a struct, also inside nameless ones.
func member(list []btf.Member, name string, depth int) (offset uint32, ok bool) {
	for _, m := range list {
		if m.Name == name {
			return m.Offset.Bytes(), true
		}
		var inner []btf.Member
		switch typ := m.Type.(type) {
		case *btf.Struct:
			inner = typ.Members
		case *btf.Union:
			inner = typ.Members
		}
		if m.Name == "" && depth < 8 {
			if at, ok := member(inner, name, depth+1); ok {
				return m.Offset.Bytes() + at, true
			}
		}
	}
	return 0, false
}
