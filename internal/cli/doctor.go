// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tcptrace/tcptrace/internal/doctor"
)

// errUnfit says that live tracing can't work; the checks have said why.
var errUnfit = errors.New("live tracing does not work here: see what failed")

func (a *app) doctorCommand() *cobra.Command {
	output := "text"
	formats := []string{"text", "json"}
	o := doctor.Options{Buffer: defaultBuffer}
	cmd := &cobra.Command{
		Use:     "doctor",
		GroupID: groupOther,
		Short:   "says what this kernel and these rights allow, and what is missing",
		Long: `doctor looks at the kernel, at the rights of this process, and at what a
container hides, attaches every program, and makes a refused connection in a
private network namespace, which it has to see. What is missing is named, with
the remedy.`,
		Example: `sudo tcptrace doctor
tcptrace doctor -o json | jq '.checks[] | select(.status != "ok")'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := a.env.Doctor(cmd.Context(), o)
			works := !slices.ContainsFunc(checks, func(c doctor.Check) bool { return c.Status == doctor.Failed })
			if err := a.printChecks(output, works, checks); err != nil {
				return err
			}
			if err := cmd.Context().Err(); err != nil {
				return nil // interrupted: nothing is known
			}
			if !works {
				return errUnfit
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.VarP(&choiceValue{&output, "FORMAT", formats}, "output", "o", "text or json")
	fs.Var((*sizeValue)(&o.Buffer), "buffer", "ring buffer to try, from 4KiB to 1GiB")
	fs.StringVar(&o.BTF, "btf", "", "`FILE` with the kernel's types, as live commands take it")
	completeChoice(cmd, "output", formats)
	completeNothing(cmd, "buffer")
	return cmd
}

func (a *app) printChecks(output string, works bool, checks []doctor.Check) error {
	if output == "json" {
		return json.NewEncoder(a.out).Encode(struct {
			Works  bool           `json:"works"`
			Checks []doctor.Check `json:"checks"`
		}{works, checks})
	}
	name, of := 0, 0 // widths
	for _, c := range checks {
		name, of = max(name, len(c.Name)), max(of, len(printable(c.Of)))
	}
	for _, c := range checks {
		text := printable(c.Detail)
		if c.Unseen != "" {
			text += "; not seen: " + printable(c.Unseen)
		}
		line := fmt.Sprintf("%-7s  %-*s  %-*s  %s", c.Status, name, c.Name, of, printable(c.Of), text)
		fmt.Fprintln(a.out, strings.TrimRight(line, " "))
		if c.Remedy != "" {
			fmt.Fprintf(a.out, "%*s-> %s\n", 7+2+name+2+of+2, "", printable(c.Remedy))
		}
	}
	return a.out.err
}

// printable is s, quoted if it holds what could do something to a terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}
