// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tcptrace/tcptrace/internal/filter"
)

// The flags that scripts rely on.
func TestFlags(t *testing.T) {
	all := []string{
		"--port", "--lport", "--rport", "--addr", "--laddr", "--raddr", "-4, --ipv4", "-6, --ipv6",
		"--state", "--kind", "--direction", "--pid", "--comm", "--uid", "--cgroup", "--netns", "--where",
		"-d, --duration", "-c, --count", "-q, --quiet", "--strict", "-f, --force", "--flush",
	}
	output := []string{"-o, --output", "--columns", "--utc", "--color", "--no-header", "-w, --write", "--since", "--until", "-F, --follow"}
	others := map[string][]string{
		"retrans": append(output, "-r, --read", "--buffer"),
		"events":  append(output, "-r, --read", "--buffer", "--event"),
		"record":  {"-o, --output", "--event", "--buffer", "--max-size", "--max-age"},
		"replay":  append(output, "--event"),
		"explain": {
			"-o, --output", "--utc", "--color", "--no-header", "-w, --write", "-r, --read", "--since", "--until", "-F, --follow", "--buffer", "--event",
			"--conn", "--connection", "--fail-on",
		},
	}
	others["resets"], others["states"] = others["retrans"], others["retrans"]
	every := slices.Concat(all, others["events"], others["record"], others["explain"])
	for _, name := range streamNames {
		var r run
		if code := r.run(name, "--help"); code != 0 {
			t.Errorf("%s: exit code %d", name, code)
		}
		for _, flag := range every {
			want := slices.Contains(all, flag) || slices.Contains(others[name], flag)
			if got := strings.Contains(r.out.String(), " "+flag+" "); got != want {
				t.Errorf("%s: %s: %v", name, flag, got)
			}
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{
		nil, {"--help"}, {"-h"}, {"help"}, {"help", "retrans"}, {"retrans", "-h"}, {"resets", "--help"}, {"states", "--help"},
		{"events", "--help"}, {"explain", "--help"}, {"demo", "--help"}, {"version", "--help"}, {"completion", "--help"}, {"man", "--help"}, {"help", "--help"},
	} {
		var r run
		if code := r.run(args...); code != 0 || r.err.Len() > 0 || !strings.Contains(r.out.String(), "\nUsage:\n  tcptrace") {
			t.Errorf("%v: exit code %d, stderr %q, stdout:\n%s", args, code, &r.err, &r.out)
		}
		for line := range strings.Lines(r.out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("%v: %d columns: %s", args, n, line)
			}
		}
	}
}

// Called by another name, the program tells of itself by that one.
func TestName(t *testing.T) {
	old := regexp.MustCompile(`(?m)(^|[ (])tcptrace( |$)`)
	texts := [][]string{{"man"}, {"completion", "bash"}, {"completion", "zsh"}, {"completion", "fish"}}
	for _, c := range []string{"", "events", "resets", "retrans", "states", "explain", "demo", "doctor", "version", "completion", "man", "help"} {
		texts = append(texts, strings.Fields(c+" --help"))
	}
	for _, args := range append(texts, []string{"man", "retrans"}, []string{"man", "explain"}) {
		r := run{name: "other-name"}
		if code := r.run(args...); code != 0 || !strings.Contains(r.out.String(), "other-name") && !strings.Contains(r.out.String(), `other\-name`) {
			t.Errorf("%v: exit code %d, stderr %q, stdout:\n%s", args, code, &r.err, &r.out)
		}
		if found := old.FindString(r.out.String()); found != "" {
			t.Errorf("%v: %q in\n%s", args, found, &r.out)
		}
		for line := range strings.Lines(r.out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width && args[len(args)-1] == "--help" {
				t.Errorf("%v: %d columns: %s", args, n, line)
			}
		}
	}
	r := run{name: "other-name"}
	if code := r.run("retrans", "--prot", "80"); code != 2 || !strings.HasPrefix(r.err.String(), "other-name: ") || !strings.Contains(r.err.String(), "see other-name retrans --help") {
		t.Errorf("exit code %d, stderr %s", code, &r.err)
	}
}

// Every example of the help is a command line that works.
func TestExamples(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, s := range streams {
		for line := range strings.Lines(s.example) {
			line = strings.ReplaceAll(line, "/var/lib/tcptrace", "folder")
			line, _, _ := strings.Cut(line, "#")
			line, _, _ = strings.Cut(line, "|")
			line, _, _ = strings.Cut(line, "> ")
			if strings.Contains(line, "'") {
				before, quoted, _ := strings.Cut(line, "'")
				quoted, _, _ = strings.Cut(quoted, "'")
				line = before + strings.ReplaceAll(quoted, " ", "")
			}
			words := strings.Fields(line)
			var r run
			if slices.Contains(words, "--follow") { // ends with Ctrl-C
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				r.ctx = ctx
			}
			if code := r.run(words[slices.Index(words, "tcptrace")+1:]...); code != 0 || strings.Contains(r.err.String(), "warning") {
				t.Errorf("%s: exit code %d: %s", line, code, &r.err)
			}
		}
	}
}

func TestKinds(t *testing.T) {
	var described []string
	for _, k := range kinds {
		described = append(described, k.kind.String())
		if k.doc == "" {
			t.Errorf("%s has no description", k.kind)
		}
	}
	all := names(filter.Kinds())
	slices.Sort(described)
	slices.Sort(all)
	if !slices.Equal(described, all) {
		t.Errorf("described:\n%v\nthere are:\n%v", described, all)
	}
}

func TestMan(t *testing.T) {
	dir := t.TempDir()
	var r run
	if code := r.run("man", "--dir", dir); code != 0 {
		t.Fatalf("exit code %d: %s", code, &r.err)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "tcptrace*.1"))
	if err != nil || len(pages) != 2+len(streamNames) {
		t.Fatalf("pages %v, %v", pages, err)
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{".TH ", `.SH "NAME"`, `.SH "EXIT STATUS"`, `.SH "EXAMPLES"`} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s lacks %s", page, want)
			}
		}
		word := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(page), "tcptrace-"), ".1")
		r = run{}
		if code := r.run("man", word); code != 0 || r.out.String() != string(b) {
			t.Errorf("man %s: exit code %d, and another page than the file", word, code)
		}
	}

	r = run{}
	if code := r.run("man", "--dir", filepath.Join(dir, "none")); code != 1 || !strings.Contains(r.err.String(), "there is no directory") {
		t.Errorf("exit code %d, stderr %s", code, &r.err)
	}
}

func TestRoff(t *testing.T) {
	var r roff
	r.line(".not a request")
	r.text("'nor this\n a-b \\,")
	r.macro("B", `say "x-y"`)
	want := `\&.not a request` + "\n" + `\&'nor this` + "\n" + `a\-b \e,` + "\n" + `.B "say \(dqx\-y\(dq"` + "\n"
	if got := r.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		var r run
		if code := r.run("completion", shell); code != 0 || !strings.Contains(r.out.String(), "tcptrace") {
			t.Errorf("%s: exit code %d: %s", shell, code, &r.err)
		}
	}
}

func TestCompletion(t *testing.T) {
	tests := []struct {
		args     string // the last word is being typed; _ is an empty one
		has, not []string
	}{
		{"retrans --kind _", []string{"rto\t", "tlp\t"}, []string{"refused\t"}},
		{"resets --kind refused,p", []string{"refused,peer\t"}, []string{"rto"}},
		{"events --kind _", []string{"rto\t", "refused\t"}, nil},
		{"states --state SYN", []string{"SYN_SENT"}, nil},
		{"resets --direction _", []string{"sent", "received"}, nil},
		{"events --event retransmit,_", nil, nil},
		{"events --event r", []string{"retransmit", "reset"}, nil},
		{"retrans -o _", []string{"table", "json"}, nil},
		{"retrans --color _", []string{"auto", "never"}, nil},
		{"retrans --columns l", []string{"lport\t", "local\t"}, nil},
		{"retrans -o json --columns l", []string{"lport\t"}, []string{"local\t"}},
		{"retrans --port _", nil, []string{"\t"}},
		{"explain --fail-on refused,s", []string{"refused,stalled\testablished", "refused,send-failed\t"}, nil},
		{"explain -o _", []string{"table", "json", "markdown"}, []string{"csv"}},
		{"explain --conn _", nil, []string{"\t"}},
		{"completion _", []string{"bash", "powershell"}, nil},
		{"man re", []string{"retrans\t", "resets\t"}, nil},
		{"help v", []string{"version\t"}, nil},
		{"re", []string{"retrans\t", "resets\t"}, nil},
	}
	for _, tt := range tests {
		words := strings.Fields(tt.args)
		if last := &words[len(words)-1]; *last == "_" {
			*last = ""
		}
		var r run
		if code := r.run(append([]string{"__complete"}, words...)...); code != 0 {
			t.Errorf("%s: exit code %d", tt.args, code)
		}
		out := "\n" + r.out.String()
		for _, want := range tt.has {
			if !strings.Contains(out, "\n"+want) {
				t.Errorf("%s: no %q in:\n%s", tt.args, want, out)
			}
		}
		for _, not := range tt.not {
			if strings.Contains(out, not) {
				t.Errorf("%s: %q in:\n%s", tt.args, not, out)
			}
		}
	}
}
