// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"strings"
	"testing"

	"github.com/tcptrace/tcptrace/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// With all rights nothing fails, every tracepoint is there, and the refused
// connection is seen.
func TestRun(t *testing.T) {
	count := map[string]int{}
	for _, c := range Run(t.Context(), Options{Buffer: 1 << 20}) {
		if count[c.Name]++; c.Name == "self-test" && c.Status == OK && strings.Contains(c.Detail, "in a private network namespace: ") && strings.Contains(c.Detail, "a reset received") {
			count["seen"]++
		}
		if c.Status != OK && (c.Status != Limited || c.Detail == "" || c.Unseen == "" && c.Remedy == "") {
			t.Errorf("%+v", c)
		}
		if (c.Name == "tracepoint" || c.Name == "iterator" || c.Name == "right" || c.Name == "memory") && c.Status != OK {
			t.Errorf("%+v", c)
		}
		t.Logf("%-8s %-10s %s: %s", c.Status, c.Name, c.Of, c.Detail)
	}
	for name, n := range map[string]int{"kernel": 1, "types": 1, "lockdown": 1, "tracepoint": 6, "function": 5, "iterator": 2, "memory": 1, "self-test": 1, "tracefs": 1, "seen": 1} {
		if count[name] != n {
			t.Errorf("%d checks of %s, want %d", count[name], name, n)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range Run(ctx, Options{Buffer: 4096}) {
		if c.Status == Failed && !strings.Contains(c.Detail, "canceled") {
			t.Errorf("%+v", c)
		}
	}
}

func TestWrongTypes(t *testing.T) {
	failed := false
	for _, c := range Run(t.Context(), Options{Buffer: 4096, BTF: "/nowhere"}) {
		failed = failed || c.Name == "types" && c.Status == Failed && strings.Contains(c.Detail, "/nowhere")
		if c.Name == "tracepoint" {
			t.Errorf("went on: %+v", c)
		}
	}
	if !failed {
		t.Error("a file that is not there is no failure")
	}
}
