// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/explain"
)

// kind describes a kind of events of one type.
type kind struct {
	kind events.Kind
	of   events.Type
	doc  string
}

// kinds says in a few words what each kind means, in the order of the help.
var kinds = []kind{
	{events.KindSYN, events.Retransmit, "the SYN of a connection attempt again"},
	{events.KindSYNACK, events.Retransmit, "the answer to a SYN again"},
	{events.KindRTO, events.Retransmit, "retransmission time-out: no ACK came in time"},
	{events.KindFast, events.Retransmit, "fast retransmit: the peer's ACKs tell of a hole"},
	{events.KindLoss, events.Retransmit, "repair after a time-out, paced by ACKs"},
	{events.KindTLP, events.Retransmit, "tail loss probe: the last segments went unanswered"},
	{events.KindRACK, events.Retransmit, "what was sent later has arrived: the rest is overdue"},
	{events.KindProbe, events.Retransmit, "probe of a window that the peer closed"},
	{events.KindPMTU, events.Retransmit, "the path takes smaller packets only"},
	{events.KindTFO, events.Retransmit, "data of a Fast Open SYN that was not accepted"},
	{events.KindUnknown, events.Retransmit, "the kernel doesn't tell"},
	{events.KindRefused, events.Reset, "nobody listens at that port"},
	{events.KindUnreadData, events.Reset, "closed although received data was not read"},
	{events.KindLinger, events.Reset, "closed with SO_LINGER 0, or TCP_LINGER2 below 0"},
	{events.KindTimeWait, events.Reset, "packet for a connection in TIME_WAIT"},
	{events.KindBadAck, events.Reset, "the answer to a SYN acknowledges something else"},
	{events.KindDataAfterClose, events.Reset, "data came after the socket was closed"},
	{events.KindKeepalive, events.Reset, "keepalive probes went unanswered"},
	{events.KindOverflow, events.Reset, "accept queue full, with tcp_abort_on_overflow"},
	{events.KindAbort, events.Reset, "aborted by the application or an administrator"},
	{events.KindFirewall, events.Reset, "made by a firewall rule of this host"},
	{events.KindPeer, events.Reset, "received from the peer"},
	{events.KindOther, events.Reset, "anything else"},
}

func names[T fmt.Stringer](values []T) []string {
	var list []string
	for _, v := range values {
		list = append(list, v.String())
	}
	return list
}

// width is what lines of help keep to, if an example allows.
const width = 100

// helpText returns what --help shows.
func helpText(cmd *cobra.Command) string {
	var b strings.Builder
	section := func(title, body string) {
		fmt.Fprintf(&b, "\n%s:\n%s\n", title, indent(body))
	}
	long := cmd.Long
	if long == "" {
		long = sentence(cmd.Short)
	}
	fmt.Fprintln(&b, strings.TrimSpace(long))
	section("Usage", usageLine(cmd))
	for _, g := range cmd.Groups() {
		var lines []string
		for _, c := range cmd.Commands() {
			if c.GroupID == g.ID && !c.Hidden {
				lines = append(lines, fmt.Sprintf("%-12s %s", c.Name(), c.Short))
			}
		}
		section(g.Title, strings.Join(lines, "\n"))
	}
	if cmd.Example != "" {
		section("Examples", cmd.Example)
	}
	for _, g := range groupedFlags(cmd) {
		fmt.Fprintf(&b, "\n%s:\n%s", g.title, g.flags.FlagUsagesWrapped(width))
	}
	for _, v := range valuesOf(cmd, true) {
		section(v.title, v.lines())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n\"%s COMMAND --help\" tells more about a command, \"%s man\" everything.\n", cmd.Name(), cmd.Name())
	}
	return b.String()
}

func usageLine(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return cmd.Name() + " COMMAND [flags]"
	}
	return cmd.Parent().CommandPath() + " " + cmd.Use + " [flags]"
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

// flagGroup is flags that are shown together.
type flagGroup struct {
	title string
	flags *pflag.FlagSet
}

// groupedFlags returns the flags of a command, those without a group last.
func groupedFlags(cmd *cobra.Command) []flagGroup {
	var groups []flagGroup
	for _, title := range append(slices.Clone(flagGroups), "") {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		fs.SortFlags = false
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && strings.Join(f.Annotations[groupKey], "") == title {
				fs.AddFlag(f)
			}
		})
		if fs.HasFlags() {
			switch {
			case title == "" && len(groups) == 0:
				title = "Flags"
			case title == "":
				title = "Other flags"
			}
			groups = append(groups, flagGroup{title, fs})
		}
	}
	return groups
}

// values are the words that a flag takes.
type values struct {
	title string
	names []string
	docs  []string // nil: the names say it all
}

// valuesOf returns the words that flags of a command take; in brief, a command
// that has very many of them leaves out what they mean.
func valuesOf(cmd *cobra.Command, brief bool) []values {
	i := slices.IndexFunc(streams, func(s stream) bool { return s.name == cmd.Name() })
	if i < 0 {
		return nil
	}
	var list []values
	for _, t := range streams[i].types {
		v := values{title: "Kinds of " + nouns[t]}
		for _, k := range kinds {
			if k.of != t {
				continue
			}
			v.names = append(v.names, k.kind.String())
			if !brief || !streams[i].choice {
				v.docs = append(v.docs, k.doc)
			}
		}
		if len(v.names) > 0 {
			list = append(list, v)
		}
	}
	list = append(list, values{title: "States", names: names(filter.States())})
	if streams[i].explains {
		v := values{title: "Findings", names: explain.Findings()}
		for _, id := range v.names {
			if !brief {
				v.docs = append(v.docs, explain.Title(id))
			}
		}
		list = append(list, v)
	}
	return list
}

func (v values) lines() string {
	if v.docs == nil {
		return wrap(strings.Join(v.names, " "), width-2)
	}
	var lines []string
	for i, n := range v.names {
		lines = append(lines, fmt.Sprintf("%-17s %s", n, v.docs[i]))
	}
	return strings.Join(lines, "\n")
}

// wrap breaks text at spaces into lines of at most so many bytes.
func wrap(text string, width int) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return strings.Join(append(lines, line), "\n")
}

// helpCommand is "tcptrace help COMMAND".
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		GroupID: groupOther,
		Short:   "help about a command",
		RunE: func(cmd *cobra.Command, words []string) error {
			root := cmd.Root()
			if len(words) == 0 {
				return root.Help()
			}
			for _, c := range root.Commands() {
				if c.Name() == words[0] && len(words) == 1 {
					return c.Help()
				}
			}
			return a.noCommand(root, words)
		},
		ValidArgsFunction: func(cmd *cobra.Command, words []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return commandNames(cmd.Root(), words), cobra.ShellCompDirectiveNoFileComp
		},
	}
}
