// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	output := "text"
	formats := []string{"text", "json"}
	cmd := &cobra.Command{
		Use:     "version",
		GroupID: groupOther,
		Short:   "prints the version",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if output == "json" {
				return json.NewEncoder(a.out).Encode(a.versionFields())
			}
			_, err := fmt.Fprintln(a.out, a.versionText())
			return err
		},
	}
	cmd.Flags().VarP(&choiceValue{&output, "FORMAT", formats}, "output", "o", "text or json")
	completeChoice(cmd, "output", formats)
	return cmd
}

// versionFields is the JSON of the version.
func (a *app) versionFields() any {
	v := a.env.Version
	return struct {
		Version string `json:"version,omitempty"`
		Commit  string `json:"commit,omitempty"`
		Date    string `json:"date,omitempty"`
		Go      string `json:"go"`
		OS      string `json:"os"`
		Arch    string `json:"arch"`
	}{v.Version, v.Commit, v.Date, runtime.Version(), runtime.GOOS, runtime.GOARCH}
}

func (a *app) versionText() string {
	v := a.env.Version
	text := "tcptrace " + v.Version
	if v.Version == "" {
		text += "devel"
	}
	if v.Commit != "" {
		text += " (" + strings.TrimSpace(v.Commit+" "+v.Date) + ")"
	}
	return fmt.Sprintf("%s %s %s/%s", text, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
