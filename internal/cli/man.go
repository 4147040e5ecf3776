// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tcptrace/tcptrace/pkg/format"
)

// manCommand is "tcptrace man [COMMAND] [--dir DIR]".
func (a *app) manCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "man [COMMAND]",
		GroupID: groupOther,
		Short:   "prints a manual page, or writes all of them to a directory",
		Example: `tcptrace man retrans | man -l -
tcptrace man --dir /usr/local/share/man/man1`,
		RunE: func(cmd *cobra.Command, words []string) error {
			pages := manPages(cmd.Root())
			if dir != "" {
				if len(words) > 0 {
					return usagef("--dir writes all pages: leave out %q", words[0])
				}
				return a.writeManPages(dir, pages)
			}
			page := pages[0]
			if len(words) > 0 {
				i := slices.IndexFunc(pages, func(c *cobra.Command) bool { return c.Name() == words[0] })
				if i < 0 || len(words) > 1 {
					return usagef("there is a page for each of %s", strings.Join(commandWords(pages), ", "))
				}
				page = pages[i]
			}
			_, err := io.WriteString(a.out, a.manPage(page, pages))
			return err
		},
		ValidArgsFunction: func(cmd *cobra.Command, words []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return commandNames(cmd.Root(), words), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "write all pages to this `DIR`")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

// manPages returns the commands that have a page: the root, then those that
// trace.
func manPages(root *cobra.Command) []*cobra.Command {
	pages := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if c.GroupID == groupTrace {
			pages = append(pages, c)
		}
	}
	return pages
}

func commandWords(cmds []*cobra.Command) []string {
	var list []string
	for _, c := range cmds {
		list = append(list, c.Name())
	}
	return list
}

func (a *app) writeManPages(dir string, pages []*cobra.Command) error {
	if st, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no directory %s", dir)
	} else if err == nil && !st.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	for _, c := range pages {
		if err := os.WriteFile(filepath.Join(dir, manName(c)+".1"), []byte(a.manPage(c, pages)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// manName is the name of a page, such as tcptrace-retrans.
func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage returns the page of a command, see man(7).
func (a *app) manPage(cmd *cobra.Command, pages []*cobra.Command) string {
	var r roff
	date, _, _ := strings.Cut(a.env.Version.Date, "T")
	r.macro("TH", strings.ToUpper(manName(cmd)), "1", date, strings.TrimSpace("tcptrace "+a.env.Version.Version), "")

	r.macro("SH", "NAME")
	r.line(escape(manName(cmd)) + ` \- ` + escape(cmd.Short))
	r.macro("SH", "SYNOPSIS")
	r.macro("B", usageLine(cmd))
	r.macro("SH", "DESCRIPTION")
	r.text(cmd.Long)

	root := !cmd.HasParent()
	if root {
		r.macro("SH", "COMMANDS")
		for _, c := range cmd.Commands() {
			if c.GroupID != "" {
				r.item(c.Name(), c.Short)
			}
		}
	} else {
		r.macro("SH", "OPTIONS")
		for _, g := range groupedFlags(cmd) {
			r.macro("SS", g.title)
			g.flags.VisitAll(func(f *pflag.Flag) { r.flag(f) })
		}
	}
	for _, v := range valuesOf(cmd, false) {
		r.macro("SH", strings.ToUpper(v.title))
		r.values(v)
	}
	if cmd.Flags().Lookup("where") != nil {
		r.macro("SH", "EXPRESSIONS")
		for _, p := range whereDoc {
			r.macro("PP")
			r.text(p)
		}
	}
	if cmd.Flags().Lookup("columns") != nil {
		r.macro("SH", "COLUMNS")
		r.text("These are also the fields of expressions and of JSON. A field that is absent is unknown.")
		for _, c := range format.Columns() {
			r.item(fmt.Sprintf("%s (%s)", c.Name, c.Type), c.Doc)
		}
		r.macro("PP")
		r.text("Tables have some that put several together:")
		for _, c := range format.Composites() {
			r.item(c.Name, c.Doc)
		}
	}
	r.macro("SH", "EXIT STATUS")
	for _, e := range exitDoc {
		r.item(e[0], e[1])
	}
	r.macro("SH", "ENVIRONMENT")
	r.item("NO_COLOR", "if set to anything, colours are off unless --color=always asks for them")
	if cmd.Example != "" {
		r.macro("SH", "EXAMPLES")
		r.macro("EX")
		for line := range strings.Lines(cmd.Example) {
			r.line(escape(strings.TrimSuffix(line, "\n")))
		}
		r.macro("EE")
	}
	r.macro("SH", "SEE ALSO")
	var others []string
	for _, c := range pages {
		if c != cmd {
			others = append(others, `\fB`+escape(manName(c))+`\fR(1)`)
		}
	}
	r.line(strings.Join(append(others, `\fBss\fR(8)`, `\fBtcp\fR(7)`), ", "))
	return r.String()
}

// whereDoc explains expressions, a paragraph each.
var whereDoc = []string{
	`An expression of --where decides on each event after the other filters did. It compares fields with ` +
		`==, !=, <, <=, >, >=; looks into texts with contains, startsWith, endsWith and matches (a regular expression); ` +
		`and into lists and ranges with in and not in, as in lport in [80, 443], rto_ms in 200..400 or 4711 in sharers. ` +
		`The functions lower and upper change the case of a text, and len(sharers) is the length of a list. ` +
		`Comparisons are joined with &&, || and !, or and, or and not, and numbers may be computed with + - * / % **.`,
	`A comparison with an absent field is false, so that !(rto_ms > 1000) holds for an event without rto_ms, while ` +
		`rto_ms <= 1000 does not. has(rto_ms) tells whether an event has the field.`,
	`Times are texts in RFC 3339, such as "2026-01-31T12:00:00.000000000Z", which order as times do.`,
}

// exitDoc explains the exit codes.
var exitDoc = [][2]string{
	{"0", "it ended because of --duration, --count, Ctrl-C, SIGTERM, SIGHUP or SIGQUIT, because a recording ended, or because nobody read its output any more"},
	{"1", "it failed, or a recording is damaged, or a file of it was deleted before it was read: what could be read was shown"},
	{"2", "the command line is wrong"},
	{"3", "events were lost, with --strict"},
	{"4", "explain found what --fail-on names, whether or not events were lost"},
}

// roff builds a manual page.
type roff struct{ strings.Builder }

func (r *roff) line(s string) {
	// A line that begins like this would be a request.
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	r.WriteString(s)
	r.WriteByte('\n')
}

func (r *roff) text(s string) {
	for line := range strings.Lines(strings.TrimSpace(s)) {
		r.line(escape(strings.TrimSpace(line)))
	}
}

func (r *roff) macro(name string, args ...string) {
	r.WriteString("." + name)
	for _, a := range args {
		r.WriteString(` "` + strings.ReplaceAll(escape(a), `"`, `\(dq`) + `"`)
	}
	r.WriteByte('\n')
}

func (r *roff) item(term, doc string) {
	r.macro("TP")
	r.macro("B", term)
	r.text(doc)
}

func (r *roff) values(v values) {
	if v.docs == nil {
		r.text(strings.Join(v.names, " "))
		return
	}
	for i, n := range v.names {
		r.item(n, v.docs[i])
	}
}

func (r *roff) flag(f *pflag.Flag) {
	kind, usage := pflag.UnquoteUsage(f)
	term := "--" + f.Name
	if f.Shorthand != "" {
		term = "-" + f.Shorthand + ", " + term
	}
	r.macro("TP")
	if kind == "" {
		r.macro("B", term)
	} else {
		r.macro("BI", term+" ", kind)
	}
	if d := f.DefValue; d != "" && d != "0" && d != "false" {
		usage += " (default " + d + ")"
	}
	r.text(usage)
}

// escape makes roff print text as it is: a minus is one, not a hyphen.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
}
