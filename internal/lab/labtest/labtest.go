// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"testing"

	"github.com/tcptrace/tcptrace/internal/lab"
)

// Namespace makes a network namespace for the time of a test.
func Namespace(t testing.TB) *lab.Namespace {
	t.Helper()
	ns, err := lab.NewNamespace(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// Witness starts a trace for the time of a test.
func Witness(t testing.TB) *Trace {
	t.Helper()
	trace, err := StartTrace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := trace.Close(); err != nil {
			t.Error(err)
		}
	})
	return trace
}
