// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/format"
)

// completionCommand is "tcptrace completion SHELL".
func (a *app) completionCommand() *cobra.Command {
	scripts := map[string]func(root *cobra.Command) error{
		"bash":       func(root *cobra.Command) error { return root.GenBashCompletionV2(a.out, true) },
		"zsh":        func(root *cobra.Command) error { return root.GenZshCompletion(a.out) },
		"fish":       func(root *cobra.Command) error { return root.GenFishCompletion(a.out, true) },
		"powershell": func(root *cobra.Command) error { return root.GenPowerShellCompletionWithDesc(a.out) },
	}
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:     "completion SHELL",
		GroupID: groupOther,
		Short:   "prints a completion script for bash, zsh, fish or powershell",
		Example: strings.ReplaceAll(`source <(tcptrace completion bash)
tcptrace completion zsh > "${fpath[1]}/_tcptrace"
tcptrace completion fish > ~/.config/fish/completions/tcptrace.fish`, "tcptrace", a.name),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, words []string) error {
			if len(words) != 1 || scripts[words[0]] == nil {
				return usagef("completion needs one of %s", strings.Join(shells, ", "))
			}
			return scripts[words[0]](cmd.Root())
		},
	}
}

// completeChoice completes the one word of a flag.
func completeChoice(cmd *cobra.Command, flag string, words []string) {
	complete(cmd, flag, func(string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	})
}

// completeNothing keeps shells from offering files for a flag.
func completeNothing(cmd *cobra.Command, flag string) { completeChoice(cmd, flag, nil) }

// completeList completes the last word of a list. A word may have a
// description behind a tab.
func completeList(cmd *cobra.Command, flag string, words func() []string) {
	complete(cmd, flag, func(typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		before := typed[:strings.LastIndexByte(typed, ',')+1]
		var list []cobra.Completion
		for _, w := range words() {
			list = append(list, before+w)
		}
		return list, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
}

func complete(cmd *cobra.Command, flag string, words func(typed string) ([]cobra.Completion, cobra.ShellCompDirective)) {
	if cmd.Flags().Lookup(flag) == nil {
		return
	}
	// It fails for a flag that does not exist only.
	_ = cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return words(typed)
	})
}

func describeKinds(types []events.Type) []string {
	var list []string
	for _, k := range kinds {
		if slices.Contains(types, k.of) {
			list = append(list, k.kind.String()+"\t"+k.doc)
		}
	}
	return list
}

func describeColumns(output string) []string {
	columns := format.Columns()
	if output == format.Table || output == format.Wide {
		columns = append(columns, format.Composites()...)
	}
	var list []string
	for _, c := range columns {
		list = append(list, c.Name+"\t"+c.Doc)
	}
	return list
}

// commandNames returns the names of commands, if it is the first word that is
// asked for.
func commandNames(root *cobra.Command, words []string) []string {
	if len(words) > 0 {
		return nil
	}
	var list []string
	for _, c := range root.Commands() {
		if !c.Hidden {
			list = append(list, c.Name()+"\t"+c.Short)
		}
	}
	return list
}
