// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf/asm"

	"github.com/tcptrace/tcptrace/bpf"
)

// Linux 5.10 knows one atomic operation, the addition that tells no result, and
// refuses a program with another. Every kernel after it takes them, so that no
// test on those would tell.
func TestAtomicOperations(t *testing.T) {
	spec, err := bpf.LoadTcptrace()
	if err != nil {
		t.Fatal(err)
	}
	additions := 0
	for name, prog := range spec.Programs {
		for _, ins := range prog.Instructions {
			if ins.OpCode.Class() != asm.StXClass || ins.OpCode.Mode() != asm.AtomicMode {
				continue
			}
			if op := ins.OpCode.AtomicOp(); op != asm.AddAtomic {
				t.Errorf("%s: %v: %v", name, op, ins)
			}
			additions++
		}
	}
	if additions == 0 {
		t.Error("no atomic operation was found: the test looks for the wrong thing")
	}
}
