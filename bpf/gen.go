// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the BPF programs and the Go code that bpf2go makes of
// them. The object is committed: building needs no clang. "make generate"
// makes it anew.
package bpf

//go:generate go tool bpf2go -target bpfel -go-package bpf -type retransmit -type reset -type state_change -type holder -type dweller -type netns_settings -type audit -type totals -type closer -type cgroup_names Tcptrace tcptrace.bpf.c -- -Wall -Werror -mcpu=v3
