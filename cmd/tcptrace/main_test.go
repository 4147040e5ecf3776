// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"
)

// TestMain makes the test's binary the program, if asked to.
func TestMain(m *testing.M) {
	if os.Getenv("TCPTRACE_TEST_MAIN") != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

func program(t *testing.T, stdout *os.File, args ...string) (code int, stderr string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "TCPTRACE_TEST_MAIN=1")
	cmd.Stdout = stdout
	cmd.Stderr = &b
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), b.String()
}

// "tcptrace ... | true" ends quietly, rather than by SIGPIPE.
func TestClosedPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	if code, stderr := program(t, w, "version"); code != 0 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestExitCode(t *testing.T) {
	if code, stderr := program(t, nil, "retrans", "--port", "x"); code != 2 || stderr == "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestNameOf(t *testing.T) {
	for path, want := range map[string]string{
		"tcptrace": "tcptrace", "/usr/bin/tcptrace-bpf": "tcptrace-bpf", "tcptrace-bpf": "tcptrace-bpf",
		"": "tcptrace", "./x\x1b[1m": "tcptrace", "tcptrace-bpf/main": "tcptrace",
	} {
		if got := nameOf(path); got != want {
			t.Errorf("%q is called %q, want %q", path, got, want)
		}
	}
}
