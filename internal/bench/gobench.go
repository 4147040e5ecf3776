// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"regexp"
	"strconv"
	"strings"
)

// goBenchmark is a line of what "go test -bench -benchmem" prints.
type goBenchmark struct {
	Name   string
	Nanos  float64 // an operation
	Allocs int     // an operation
}

var benchmarkLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([0-9.e+]+) ns/op\b.*?\s(\d+) allocs/op`)

// parseGoBench finds the results.
func parseGoBench(text string) (all []goBenchmark, err error) {
	for _, m := range benchmarkLine.FindAllStringSubmatch(text, -1) {
		b := goBenchmark{Name: m[1]}
		if b.Nanos, err = strconv.ParseFloat(m[2], 64); err != nil {
			return nil, err
		}
		if b.Allocs, err = strconv.Atoi(m[3]); err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// perEvent tells whether a benchmark is of decoding or formatting an event.
func (b goBenchmark) perEvent() bool {
	return b.Name == "Decode" || strings.HasPrefix(b.Name, "AppendEvent/") || strings.HasPrefix(b.Name, "Owners/")
}
