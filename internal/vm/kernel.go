// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package vm runs test binaries on stock kernels: it fetches Debian's kernels without installing them, packs one with
// the tests and what they need into an initramfs, boots that in an emulator, and reads the results. It needs
// qemu-system-x86_64 (or -aarch64), apt-get, dpkg-deb, xz, ldd and Go, but no rights.
package vm

import (
	"fmt"
	"slices"
	"strings"
)

// A Kernel is one of the matrix.
type Kernel struct {
	// Name is what it is called by: its series, or its architecture if that is not amd64.
	Name string
	// Series is the version without its last part: 6.12.
	Series string
	// Arch is Debian's name of the architecture, which is also Go's.
	Arch string
	// Suites of Debian's archive are searched for it in this order.
	Suites []string
	// Run selects tests where not all are meant to run, as -test.run does.
	Run string
}

// Kernels is the matrix, oldest first.
func Kernels() []Kernel {
	return []Kernel{
		{"5.10", "5.10", "amd64", []string{"bullseye-security"}, ""},
		{"6.1", "6.1", "amd64", []string{"bookworm-security", "bookworm"}, ""},
		{"6.12", "6.12", "amd64", []string{"trixie-security", "trixie"}, ""},
		{"6.18", "6.18", "amd64", []string{"trixie-backports", "sid"}, ""},
		{"7.2", "7.2", "amd64", []string{"sid", "trixie-backports"}, ""},
		{"7.3", "7.3", "amd64", []string{"trixie-backports", "sid"}, ""},
		// Another architecture is slower to emulate, and runs what shows that the programs were made right for it.
		{"arm64", "6.12", "arm64", []string{"trixie-security", "trixie"},
			"^TestScenarios$/^(refused|syn-blackhole|syn-timeout|stalled)$|^TestShows$"},
	}
}

// Select returns the kernels called by the names, in the matrix' order; all if there are none. It fails if one is
// unknown.
func Select(names []string) ([]Kernel, error) {
	all := Kernels()
	if len(names) == 0 {
		return all, nil
	}
	var known []string
	for _, k := range all {
		known = append(known, k.Name)
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("no kernel %q; there are %s", n, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(k Kernel) bool { return !slices.Contains(names, k.Name) }), nil
}
