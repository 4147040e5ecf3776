// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const docFile = "../../docs/findings.md"

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// section is what stands below a heading, up to the next one of its level.
func section(doc, heading string) string {
	_, text, _ := strings.Cut(doc, "\n"+heading+"\n")
	level, _, _ := strings.Cut(heading, " ")
	text, _, _ = strings.Cut(text, "\n"+level+" ")
	return text
}

var inCode = regexp.MustCompile("`([^`]+)`")

// names lists what is in backticks.
func names(text string) (list []string) {
	for _, m := range inCode.FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// paragraph is the one that begins with a bold label, without it.
func paragraph(section, label string) string {
	_, text, _ := strings.Cut(section, "\n**"+label+":** ")
	text, _, _ = strings.Cut(text, "\n\n")
	return strings.TrimSpace(text)
}

// sysctl is the full name of one of a rule's settings.
func sysctl(name string) string {
	if strings.HasPrefix(name, "net.") {
		return name
	}
	return "net.ipv4." + name
}

// TestDocument holds docs/findings.md against the rules: each has its page, in
// their order, with what it should say, and no page is without a rule.
func TestDocument(t *testing.T) {
	doc := read(t, docFile)
	general := []string{"What a finding is", "Which finding leaves out which"}
	var pages []string
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(doc, -1) {
		if !slices.Contains(general, m[1]) {
			pages = append(pages, m[1])
		}
	}
	if want := Findings(); !slices.Equal(pages, want) {
		t.Errorf("the document has pages for\n%q\nthe rules are\n%q", pages, want)
	}
	for _, r := range rules {
		page := section(doc, "## "+r.id)
		for _, label := range []string{"On the wire", "The kernel", "To do", "Not to be confused with", "May be missing"} {
			if paragraph(page, label) == "" {
				t.Errorf("%s: nothing is said under %q", r.id, label)
			}
		}
		// "None" may be followed by what decides instead.
		settings := paragraph(page, "Settings")
		var want []string
		for _, name := range r.settings {
			want = append(want, sysctl(name))
		}
		if got := names(settings); !slices.Equal(got, want) || want == nil && !strings.HasPrefix(settings, "none") {
			t.Errorf("%s: the page has settings %q, the rule %q", r.id, settings, want)
		}
		certainty := paragraph(page, "Certainty")
		if !regexp.MustCompile(`^(certain|likely|possible)\b`).MatchString(certainty) {
			t.Errorf("%s: the page does not begin with a certainty: %q", r.id, certainty)
		}
	}
	for _, link := range regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllStringSubmatch(doc, -1) {
		if !slices.Contains(pages, link[1]) {
			t.Errorf("there is no page %s, to which the document refers", link[1])
		}
	}
}

// TestDocumentTables: what leaves out what is what the rules say, and a rule
// leaves out only what is asked after it.
func TestDocumentTables(t *testing.T) {
	part := section(read(t, docFile), "## Which finding leaves out which")
	tables := strings.Split(part, "|---|---|\n")[1:]
	if len(tables) != 2 {
		t.Fatalf("%d tables in place of two", len(tables))
	}
	ids := Findings()
	for i, of := range []func(*rule) []string{func(r *rule) []string { return r.over }, func(r *rule) []string { return r.echoes }} {
		var got, want []string
		table, _, _ := strings.Cut(tables[i], "\n\n")
		for row := range strings.Lines(table) {
			got = append(got, strings.Join(names(row), " "))
		}
		for n, r := range rules {
			list := of(r)
			if list == nil {
				continue
			}
			want = append(want, r.id+" "+strings.Join(list, " "))
			for _, id := range list {
				switch at := slices.Index(ids, id); {
				case at < 0:
					t.Errorf("%s has to do with %s, which is no finding", r.id, id)
				case i == 0 && at <= n:
					t.Errorf("%s leaves out %s, which is asked before it", r.id, id)
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("the document's table has\n%s\nthe rules say\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestDocumentCertainty: what a situation of the lab is found to be, as
// internal/live has it, is at a certainty that the finding's page states.
func TestDocumentCertainty(t *testing.T) {
	doc := read(t, docFile)
	found := regexp.MustCompile(`"([a-z-]+) (?:recovered|failed|pending) (certain|likely|possible) \d+"`).
		FindAllStringSubmatch(read(t, "../../internal/live/findings_test.go"), -1)
	if len(found) < 20 {
		t.Fatalf("only %d situations found in internal/live", len(found))
	}
	for _, f := range found {
		stated := paragraph(section(doc, "## "+f[1]), "Certainty")
		if !regexp.MustCompile(`\b` + f[2] + `\b`).MatchString(stated) {
			t.Errorf("%s is found to be %s; its page says: %s", f[1], f[2], stated)
		}
	}
}

// TestSettingsAreRead: tcptrace reads what the rules show.
func TestSettingsAreRead(t *testing.T) {
	source := read(t, "../../internal/live/settings_linux.go")
	seen := 0
	for _, r := range rules {
		for _, name := range r.settings {
			seen++
			short := strings.TrimPrefix(name, "net.ipv4.")
			if !strings.Contains(source, `{"`+short+`", `) && !strings.Contains(source, `Name: "`+sysctl(name)+`"`) {
				t.Errorf("%s: nothing reads %s", r.id, name)
			}
		}
	}
	if seen == 0 {
		t.Error("no rule has settings")
	}
}
