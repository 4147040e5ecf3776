// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/tcptrace/tcptrace/internal/marked"
)

// Shown is what each kernel shows, as the tests printed it when they last ran there.
type Shown struct {
	// Rows are the names of the rows, in their order.
	Rows []string `json:"rows"`
	// Kernels are in the matrix' order.
	Kernels []ShownBy `json:"kernels"`
	// Expected overrides, by kernel and row, what Table derives for a kernel that is not in the matrix.
	Expected map[string]map[string]string `json:"expected,omitempty"`
	// Measured says that the values are numbers, from which nothing is to be derived for a kernel that is not in the matrix.
	Measured bool `json:"measured,omitempty"`
}

// ShownBy is what one kernel shows.
type ShownBy struct {
	Name    string `json:"name"`
	Release string `json:"release"`
	// Values by row.
	Values map[string]string `json:"values"`
}

// untested are kernels that are widely run but not to be had in Debian's archive, each with its neighbours of the matrix.
var untested = []struct{ name, before, after string }{
	{"5.14", "5.10", "6.1"},
	{"5.15", "5.10", "6.1"},
	{"6.6", "6.1", "6.12"},
	{"6.8", "6.1", "6.12"},
}

// ReadShown reads the file that Write wrote. No file is an empty one.
func ReadShown(file string) (*Shown, error) {
	s := new(Shown)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	if err != nil {
		return nil, fmt.Errorf("what the kernels show: %s: %w", file, err)
	}
	return s, nil
}

// Write writes the file that ReadShown reads.
func (s *Shown) Write(file string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// Update takes over what the tests printed. Kernels that did not run, or that printed nothing, keep what they had. Rows
// that no kernel has any more are dropped.
func (s *Shown) Update(results []*Result) {
	by := map[string]ShownBy{}
	for _, k := range s.Kernels {
		by[k.Name] = k
	}
	for _, r := range results {
		if len(r.Shows) == 0 {
			continue
		}
		k := ShownBy{r.Kernel.Name, r.Release, map[string]string{}}
		for _, row := range r.Shows {
			k.Values[row.Name] = row.Value
			if !slices.Contains(s.Rows, row.Name) {
				s.Rows = append(s.Rows, row.Name)
			}
		}
		by[k.Name] = k
	}
	s.Kernels = nil
	for _, k := range Kernels() {
		if shown, ok := by[k.Name]; ok {
			s.Kernels = append(s.Kernels, shown)
		}
	}
	s.Rows = slices.DeleteFunc(s.Rows, func(row string) bool {
		return !slices.ContainsFunc(s.Kernels, func(k ShownBy) bool { return k.Values[row] != "" })
	})
}

// Differences says where the results are not what is written, a line each. Releases may differ: kernels get updates. So
// may what was measured.
func (s *Shown) Differences(results []*Result) (lines []string) {
	if s.Measured {
		return nil
	}
	for _, r := range results {
		i := slices.IndexFunc(s.Kernels, func(k ShownBy) bool { return k.Name == r.Kernel.Name })
		for _, row := range r.Shows {
			was := ""
			if i >= 0 {
				was = s.Kernels[i].Values[row.Name]
			}
			if was != row.Value {
				lines = append(lines, fmt.Sprintf("%s: %s: is %q, the table says %q", r.Kernel.Name, row.Name, row.Value, was))
			}
		}
	}
	return lines
}

// Table is the table in Markdown: a column for each kernel.
func (s *Shown) Table() string {
	if len(s.Kernels) == 0 {
		return "(not generated yet)\n"
	}
	type column struct {
		name, release string
		value         func(row string) string
	}
	tested := map[string]ShownBy{}
	var columns []column
	expected := func(name, before, after string) column {
		return column{name, "expected, not tested", func(row string) string {
			if v := s.Expected[name][row]; v != "" {
				return v
			}
			a, b := tested[before].Values[row], tested[after].Values[row]
			switch {
			case a == b || b == "":
				return a
			case a == "":
				return b
			}
			return a + ", or " + b
		}}
	}
	for _, k := range s.Kernels {
		tested[k.Name] = k
	}
	for _, k := range s.Kernels {
		// The kernels between this one and its predecessor come before it.
		for _, u := range untested {
			if u.after == k.Name && !s.Measured {
				columns = append(columns, expected(u.name, u.before, u.after))
			}
		}
		columns = append(columns, column{k.Name, k.Release, func(row string) string { return k.Values[row] }})
	}
	var b strings.Builder
	line := func(first string, cell func(column) string) {
		fmt.Fprintf(&b, "| %s |", first)
		for _, c := range columns {
			fmt.Fprintf(&b, " %s |", strings.ReplaceAll(cell(c), "|", `\|`))
		}
		b.WriteByte('\n')
	}
	line("", func(c column) string { return c.name })
	line("---", func(column) string { return "---" })
	line("tested", func(c column) string {
		if v, _, ok := strings.Cut(c.release, "-cloud-"); ok {
			return v
		}
		return c.release
	})
	for _, row := range s.Rows {
		line(strings.ReplaceAll(row, "|", `\|`), func(c column) string {
			if v := c.value(row); v != "" {
				return v
			}
			return "?"
		})
	}
	return b.String()
}

// TableSection is where the table stands.
var TableSection = marked.Section{Name: "kernels", By: "make kernels-table"}
