// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"math"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		list []float64
		want float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		before := append([]float64(nil), tt.list...)
		if got := median(tt.list); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.list, got, tt.want)
		}
		for i := range before {
			if tt.list[i] != before[i] {
				t.Errorf("the list became %v", tt.list)
			}
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
}

func TestRatioInterval(t *testing.T) {
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-4 }
	// ln: -0.02, 0, 0.02: mean 0, deviation 0.02, t(2) 4.303.
	i := ratioInterval([]float64{math.Exp(-0.02), 1, math.Exp(0.02)})
	half := 4.303 * 0.02 / math.Sqrt(3)
	if !near(i.Mean, 1) || !near(i.Low, math.Exp(-half)) || !near(i.High, math.Exp(half)) {
		t.Errorf("%+v", i)
	}
	if w := i.halfWidth(); !near(w, math.Exp(half)-1) {
		t.Errorf("reaches %v", w)
	}
	if i := ratioInterval([]float64{2, 2, 2, 2}); !near(i.Low, 2) || !near(i.High, 2) {
		t.Errorf("without scatter: %+v", i)
	}
	// The order of what is compared makes no difference.
	a, b := ratioInterval([]float64{2, 4}), ratioInterval([]float64{0.5, 0.25})
	if !near(a.Mean*b.Mean, 1) || !near(a.Low*b.High, 1) {
		t.Errorf("%+v and %+v", a, b)
	}
	for _, few := range [][]float64{nil, {1}} {
		if i := ratioInterval(few); !math.IsNaN(i.Mean) || i.halfWidth() < healthyWidth {
			t.Errorf("%v: %+v", few, i)
		}
	}
}

func TestStudent95(t *testing.T) {
	for n, want := range map[int]float64{1: 12.706, 10: 2.228, 30: 2.042} {
		if got := student95(n); got != want {
			t.Errorf("%d degrees: %v, want %v", n, got, want)
		}
	}
	for n, least := range map[int]float64{31: 2.0395, 60: 2.0003, 120: 1.9799} {
		if got := student95(n); got < least || got > least+0.01 {
			t.Errorf("%d degrees: %v, want %v or a little more", n, got, least)
		}
	}
}
