// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// wantedModules are those that the tests and their tools use, and the way out for the results. One that a kernel has built
// in, or has as a part of another, has no file there.
var wantedModules = []string{
	"virtio_pci", "virtio_console",
	"veth", "dummy", "tun",
	"nf_tables", "nft_chain_nat", "nft_nat", "nft_counter", "nft_numgen", "nft_reject", "nft_reject_inet", "nft_reject_ipv4", "nft_reject_ipv6",
	"tcp_diag", "mptcp_diag", "tcp_bbr",
	"sch_netem", "sch_ingress", "cls_bpf", "act_bpf",
}

// A module is a kernel module, not compressed.
type module struct {
	name string
	data []byte
}

// modulesOf returns the wanted modules of a kernel and what they depend on, in the order in which they can be loaded.
// Debian's packages have no modules.dep: that is made at installation. So the modules are asked.
func modulesOf(ctx context.Context, dir string, wanted []string) ([]module, error) {
	files := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(d.Name(), ".ko"); ok && err == nil {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var modules []module
	done := map[string]bool{}
	var load func(name string) error
	load = func(name string) error {
		path, ok := files[name]
		if done[name] || !ok {
			return nil
		}
		done[name] = true
		data, err := readModule(ctx, path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		depends, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, d := range depends {
			if err := load(d); err != nil {
				return err
			}
		}
		modules = append(modules, module{name, data})
		return nil
	}
	for _, name := range wanted {
		if err := load(name); err != nil {
			return nil, err
		}
	}
	return modules, nil
}

func readModule(ctx context.Context, path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	return exec.CommandContext(ctx, "xz", "-dc", path).Output()
}

// dependencies reads the line depends=a,b of a module's own description.
func dependencies(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no module: it has no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	return parseDepends(info), nil
}

// parseDepends takes key=value texts, each with a NUL at its end.
func parseDepends(info []byte) []string {
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if v, ok := bytes.CutPrefix(field, []byte("depends=")); ok {
			names := strings.ReplaceAll(string(v), "-", "_")
			return strings.FieldsFunc(names, func(r rune) bool { return r == ',' })
		}
	}
	return nil
}
