// SPDX-License-Identifier: Apache-2.0

package events

import (
	"math"
	"testing"
)

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		kernel, traced, bracket uint64
		want                    Verdict
	}{
		{0, 0, 0, Exact},
		{7, 7, 0, Exact},
		{8, 7, 0, Missing},
		{6, 7, 0, Extra},
		{7, 7, 3, Within},
		{10, 7, 3, Within},
		{11, 7, 3, Missing},
		{6, 7, 3, Extra},
		{math.MaxUint64, math.MaxUint64 - 1, math.MaxUint64, Within},
	} {
		if got := Judge(tt.kernel, tt.traced, tt.bracket); got != tt.want {
			t.Errorf("the kernel's %d in [%d, +%d]: %s, want %s", tt.kernel, tt.traced, tt.bracket, got, tt.want)
		}
	}
}

func TestVerdictNames(t *testing.T) {
	for v := Exact; v <= Unchecked; v++ {
		text, err := v.MarshalText()
		if err != nil || len(text) == 0 {
			t.Fatalf("verdict %d: %q, %v", v, text, err)
		}
		var back Verdict
		if err := back.UnmarshalText(text); err != nil || back != v {
			t.Errorf("%s came back as %s: %v", v, back, err)
		}
	}
	var v Verdict
	if v.String() != "" || v.UnmarshalText(nil) == nil || v.UnmarshalText([]byte("fine")) == nil {
		t.Error("a verdict that is none has a name")
	}
}
