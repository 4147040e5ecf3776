// SPDX-License-Identifier: Apache-2.0

// Package floor is the tracer that does least: its cost is what any tracer of
// the same tracepoints and record sizes has to pay. The object is committed, as
// that of package bpf.
package floor

//go:generate go tool bpf2go -target bpfel -go-package floor Floor floor.bpf.c -- -I../../../bpf -Wall -Werror -mcpu=v3
