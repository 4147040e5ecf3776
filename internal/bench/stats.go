// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"
	"slices"
)

// median of a list; NaN of an empty one.
func median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(list))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

// interval is an estimate with its 95% confidence interval.
type interval struct{ Mean, Low, High float64 }

// halfWidth is how far the interval reaches from its estimate, as a share of it.
func (i interval) halfWidth() float64 {
	return max(i.High-i.Mean, i.Mean-i.Low) / i.Mean
}

// ratioInterval is the geometric mean of ratios and its 95% confidence
// interval, by Student's t on their logarithms. Of fewer than two it is NaN.
func ratioInterval(ratios []float64) interval {
	n := float64(len(ratios))
	if n < 2 {
		return interval{math.NaN(), math.NaN(), math.NaN()}
	}
	var mean, squares float64
	for _, r := range ratios {
		mean += math.Log(r) / n
	}
	for _, r := range ratios {
		d := math.Log(r) - mean
		squares += d * d
	}
	half := student95(len(ratios)-1) * math.Sqrt(squares/(n-1)/n)
	return interval{math.Exp(mean), math.Exp(mean - half), math.Exp(mean + half)}
}

// student95 is the two-sided 95% quantile of Student's t with n degrees of
// freedom, n at least 1.
func student95(n int) float64 {
	table := []float64{
		12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
		2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
		2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
	}
	if n <= len(table) {
		return table[n-1]
	}
	return 1.960 + 2.5/float64(n) // a little wide
}
