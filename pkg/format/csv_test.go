// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/csv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tcptrace/tcptrace/pkg/events"
)

func readCSV(t *testing.T, text string) [][]string {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll() // all rows must have as many fields
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return rows
}

// TestCSV compares what encoding/csv reads with the values that filters see.
func TestCSV(t *testing.T) {
	list := append(all(), aLoss())
	rows := readCSV(t, lines(t, Options{Format: CSV}, list...))
	if len(rows) != 1+len(list) {
		t.Fatalf("%d rows", len(rows))
	}
	for i, e := range list {
		for j, c := range Columns() {
			want := ""
			if v := c.Value(e); v.Present() {
				var ok bool
				if want, ok = v.Text(); !ok {
					want = string(v.appendPlain(nil))
				}
			}
			if got := rows[i+1][j]; got != want {
				t.Errorf("%s of %s = %q, want %q", rows[0][j], e.Type, got, want)
			}
		}
	}
}

func TestCSVQuoting(t *testing.T) {
	e := aReset()
	for s, want := range map[string][2]string{ // the bytes, and what a reader gets
		`plain`:       {`plain`, `plain`},
		`in between`:  {`in between`, `in between`},
		`a,b`:         {`"a,b"`, `a,b`},
		`"`:           {`""""`, `"`},
		`"a","b"`:     {`"""a"",""b"""`, `"a","b"`},
		"a\r\nb":      {`a\r\nb`, `a\r\nb`},
		`back\slash`:  {`back\\slash`, `back\\slash`},
		`=1+1`:        {`\x3d1+1`, `\x3d1+1`},
		`+1`:          {`\x2b1`, `\x2b1`},
		`-bash`:       {`\x2dbash`, `\x2dbash`},
		`-`:           {`\x2d`, `\x2d`},
		`@SUM(A1,B1)`: {`"\x40SUM(A1,B1)"`, `\x40SUM(A1,B1)`},
		` =1`:         {`\x20=1`, `\x20=1`},
		"\t=1":        {`\t=1`, `\t=1`},
		`a=-b`:        {`a=-b`, `a=-b`},
	} {
		e.Why = s
		got := lines(t, Options{Format: CSV, Columns: []string{"event", "why", "of"}, NoHeader: true}, e)
		if got != "reset,"+want[0]+",\n" {
			t.Errorf("%q: %swant reset,%s,", s, got, want[0])
		}
		if diff := cmp.Diff([][]string{{"reset", want[1], ""}}, readCSV(t, got)); diff != "" {
			t.Errorf("%q (-want +read):\n%s", s, diff)
		}
	}
}

// TestCSVOneAbsent: an empty line would be no row.
func TestCSVOneAbsent(t *testing.T) {
	got := lines(t, Options{Format: CSV, Columns: []string{"comm"}}, &events.Event{Type: events.Reset}, aReset())
	if got != "comm\n\"\"\nnginx\n" {
		t.Errorf("%q", got)
	}
	if rows := readCSV(t, got); len(rows) != 3 {
		t.Errorf("%q", rows)
	}
}
