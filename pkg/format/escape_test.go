// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func TestEscape(t *testing.T) {
	for s, want := range map[string]string{
		"":                        "",
		"nginx":                   "nginx",
		"kworker/0:1 x":           "kworker/0:1 x",
		"\x1b]0;pwned\x07\"a,b\n": `\x1b]0;pwned\x07"a,b\n`,
		"a\r\t\\\x00\x7f":         `a\r\t\\\x00\x7f`,
		"\u0085\u009b31m":         `\u0085\u009b31m`,
		"\x9b31m\xff\xe2\x82":     `\x9b31m\xff\xe2\x82`,
		"\u200e\u200f\u061c":      `\u200e\u200f\u061c`,
		"\u202a\u202e\u2066":      `\u202a\u202e\u2066`,
		"\u2069\u2028\u2029":      `\u2069\u2028\u2029`,
		"\u200b\u200d\u2060":      `\u200b\u200d\u2060`,
		"\ufeff\u00ad\u034f":      `\ufeff\u00ad\u034f`,
		"\u00a0\u3000\u3164":      `\u00a0\u3000\u3164`,
		"a\ufe0f\U000e0041":       `a\ufe0f\U000e0041`,
		"caf\u00e9 \u4e16\u754c":  "caf\u00e9 \u4e16\u754c",
		"\U0001f600\ufffd":        "\U0001f600\ufffd",
		" ":                       `\x20`,
		" a b ":                   `\x20a b\x20`,
		"-":                       `\x2d`,
		"--":                      "--",
		"-bash":                   "-bash",
		"=1":                      "=1",
	} {
		if got := string(appendEscaped([]byte("b"), s, false)); got != "b"+want {
			t.Errorf("%q = %s, want %s", s, got[1:], want)
		}
		if got := string(appendEscaped(nil, []byte(s), false)); got != want {
			t.Errorf("%q as bytes = %s, want %s", s, got, want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range hostile {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, sheet bool) {
		got := string(appendEscaped(nil, s, sheet))
		for _, r := range got {
			if !shown(r) {
				t.Errorf("%q is in %s", r, got)
			}
		}
		if got != strings.TrimSpace(got) || got == "-" {
			t.Errorf("%q = %q", s, got)
		}
		if sheet && got != "" && strings.ContainsRune("=+-@", rune(got[0])) {
			t.Errorf("%q = %q is a formula", s, got)
		}
		back, err := strconv.Unquote(`"` + strings.ReplaceAll(got, `"`, `\"`) + `"`)
		if err != nil || back != s {
			t.Errorf("%q = %s, which means %q (%v)", s, got, back, err)
		}
		if w := textWidth([]byte(got)); w < 0 || w > 2*len(got) {
			t.Errorf("%q is %d wide", got, w)
		}
	})
}

// JSON of any kind becomes JSON of the same meaning that a terminal may show.
func FuzzAppendJSON(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text, err := json.Marshal(map[string]any{s: []string{s, "x"}})
		if err != nil {
			t.Fatal(err)
		}
		got := AppendJSON([]byte("b"), text)[1:]
		for _, r := range string(got) {
			if !shown(r) {
				t.Errorf("%q is in %s", r, got)
			}
		}
		var want, back any
		if err := errors.Join(json.Unmarshal(text, &want), json.Unmarshal(got, &back)); err != nil || !reflect.DeepEqual(want, back) {
			t.Errorf("%q became %q: %v", text, got, err)
		}
	})
}

func TestTextWidth(t *testing.T) {
	for s, want := range map[string]int{
		"":                   0,
		"nginx":              5,
		"caf\u00e9":          4,
		"cafe\u0301":         4,
		"\u4e16\u754c":       4,
		"\ud55c\u3042\uff21": 6,
		"\U0001f600!":        3,
		"\u2192":             1,
	} {
		if got := textWidth([]byte(s)); got != want {
			t.Errorf("%q is %d wide, want %d", s, got, want)
		}
	}
}
