// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A reader that goes away is noticed although there is nothing to write.
func TestBrokenPipeWhileIdle(t *testing.T) {
	idles := 0
	r := run{stdout: brokenPipe(t)}
	r.src = &source{wait: true, idle: func() {
		if idles++; idles > 3 {
			panic("not noticed")
		}
	}}
	if code := r.run("retrans", "-o", "json", "-q"); code != 0 || r.err.Len() > 0 {
		t.Errorf("exit code %d, stderr %q", code, &r.err)
	}
}

// What only records goes on without one.
func TestBrokenPipeBesideRecord(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	idles := 0
	r := run{ctx: ctx, stdout: brokenPipe(t)}
	r.src = &source{wait: true, idle: func() {
		if idles++; idles == 4 {
			cancel()
		}
	}}
	if code := r.run("record", filepath.Join(t.TempDir(), "a"), "-o", "json"); code != 0 || idles < 4 || !strings.Contains(r.err.String(), "tcptrace: recorded ") {
		t.Errorf("exit code %d after %d idle moments, stderr %q", code, idles, &r.err)
	}
}

func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"retrans"}, {"retrans", "-o", "json"}, {"--help"}, {"version"}, {"man"}} {
		r := run{src: &source{events: sample(), wait: true}, stdout: full}
		if code := r.run(args...); code != 1 {
			t.Errorf("%v: exit code %d", args, code)
		}
		lines := strings.Split(strings.TrimSpace(r.err.String()), "\n")
		if last := lines[len(lines)-1]; !strings.HasSuffix(last, "no space left on device") || strings.Contains(r.err.String(), "filtered") {
			t.Errorf("%v: stderr:\n%s", args, &r.err)
		}
	}
}
