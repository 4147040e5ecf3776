// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line of tcptrace.
//
// [Run] is the whole program but for what [Env] gives it, so that tests run it
// in their own process.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tcptrace/tcptrace/internal/doctor"
	"github.com/tcptrace/tcptrace/internal/live"
)

// Env is what the program needs of the world around it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	IsTerminal     func(any) bool // of one of these
	Width          func(any) int  // of a terminal, in columns, 0 of anything else; nil: unknown
	Getenv         func(string) string
	Version        Version

	// Name is what the program is called by, in messages, help and completion:
	// "tcptrace" if it is empty.
	Name string

	// Open starts live tracing. Its errors tell the user what to do.
	Open func(context.Context, live.Options) (live.Source, error)

	// Limits lists what no event has where this runs; nil is nothing.
	Limits func() []live.Limit

	// Doctor looks at what works here.
	Doctor func(context.Context, doctor.Options) []doctor.Check

	// Demo prepares the trouble that the demo command traces.
	Demo func(context.Context) (Demo, error)
}

// Version says which program this is. Empty parts are unknown.
type Version struct {
	Version string // such as "1.2.0"
	Commit  string
	Date    string // of the commit, RFC 3339
}

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitLost   = 3 // --strict
	exitFound  = 4 // --fail-on
)

// Run runs the program with these arguments, without its name, and returns its
// exit code. When ctx is done it finishes what it does and returns.
func Run(ctx context.Context, env Env, args []string) (code int) {
	a := &app{env: env, name: cmp.Or(env.Name, "tcptrace"), args: args, out: &output{w: env.Stdout, terminal: env.IsTerminal(env.Stdout)}}
	defer func() {
		if p := recover(); p != nil {
			code = exitFailed
			a.reportPanic(p)
		}
	}()
	root := a.root()
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return a.finish(cmd, err)
}

// app is one run of the program.
type app struct {
	env  Env
	name string
	args []string
	out  *output

	saying sync.Mutex // the demo speaks too
}

// say prints a line on stderr.
func (a *app) say(format string, args ...any) {
	a.saying.Lock()
	defer a.saying.Unlock()
	a.out.bar.clear()
	fmt.Fprintf(a.env.Stderr, a.name+": "+format+"\n", args...)
}

func (a *app) reportPanic(p any) {
	a.say("internal error, please report it: %v", p)
	if a.env.Getenv("TCPTRACE_DEBUG") != "" {
		a.env.Stderr.Write(debug.Stack())
	}
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// lostError is what --strict makes of lost events.
type lostError uint64

func (n lostError) Error() string {
	return fmt.Sprintf("lost events (%d), which --strict makes a failure: try a larger --buffer", uint64(n))
}

// finish tells of an error, and returns the exit code.
func (a *app) finish(cmd *cobra.Command, err error) int {
	if err == nil {
		err = a.out.err
	}
	var usage usageError
	var lost lostError
	var found foundError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &found):
		a.say("%v", err)
		return exitFound
	case errors.As(err, &lost):
		a.say("%v", err)
		return exitLost
	case a.onlyClosed(err):
		return exitDone
	case errors.As(err, &usage):
		a.say("%v\nsee %s --help", err, cmd.CommandPath())
		return exitUsage
	}
	a.say("%s", errorText(err))
	return exitFailed
}

// errorText is err in one line. It may hold names of files, and others choose
// some of these.
func errorText(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && strings.Contains(err.Error(), "\n") {
		var parts []string
		for _, err := range joined.Unwrap() {
			parts = append(parts, errorText(err))
		}
		return strings.Join(parts, "; ")
	}
	var b strings.Builder
	for _, r := range err.Error() {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// errClosed says that nobody reads stdout any more.
var errClosed = errors.New("standard output is closed")

// output is stdout. It remembers its first error. The demo writes to it beside
// the events.
type output struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	err      error
	bar      *bar // nil: none
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bar.clear()
	n, err := o.w.Write(b)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// onlyClosed reports whether nothing worse happened than that nobody reads
// stdout any more.
func (a *app) onlyClosed(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(joined.Unwrap(), func(err error) bool { return !a.onlyClosed(err) })
	}
	return err == nil || errors.Is(err, errClosed) ||
		a.out.closed() && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EIO))
}

// deaf is an output whose errors end nothing: what is recorded is worth more
// than what is printed beside. Who wrapped it remembers them.
type deaf struct{ io.Writer }

func (d deaf) Write(b []byte) (int, error) {
	_, _ = d.Writer.Write(b)
	return len(b), nil
}

// closed reports whether a write failed because nobody reads any more: the
// other end of the pipe was closed, or the terminal is gone.
func (o *output) closed() bool {
	return errors.Is(o.err, syscall.EPIPE) || o.terminal && errors.Is(o.err, syscall.EIO)
}

// root returns the command that the others are below.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   a.name,
		Short: "shows TCP retransmissions, resets and state changes, live or from a recording",
		Long: `tcptrace shows the TCP retransmissions, resets and state changes of this host
as they happen: what kind each is, what made it, and which process it hit.`,
		Example: `tcptrace retrans                       # every retransmission
tcptrace resets --port 5432            # resets of connections with PostgreSQL
tcptrace events -o json | jq .         # everything, for programs`,
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:                       a.noCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Version = a.versionText()
	root.Flags().BoolP("version", "v", false, "print the version")
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { io.WriteString(a.out, helpText(cmd)) })
	root.SetFlagErrorFunc(a.flagError)
	root.AddGroup(&cobra.Group{ID: groupTrace, Title: "Trace"}, &cobra.Group{ID: groupOther, Title: "More"})

	for _, s := range streams {
		root.AddCommand(a.streamCommand(s))
	}
	help := a.helpCommand()
	root.SetHelpCommand(help)
	root.AddCommand(a.demoCommand(), a.doctorCommand(), a.versionCommand(), a.completionCommand(), a.manCommand(), help)

	var finish func(*cobra.Command)
	finish = func(cmd *cobra.Command) {
		cmd.Flags().BoolP("help", "h", false, "show this help")
		cmd.Long, cmd.Example = a.called(cmd.Long), a.called(cmd.Example)
		for _, c := range cmd.Commands() {
			finish(c)
		}
	}
	finish(root)
	return root
}

// asCommand finds our name where it stands for the command.
var asCommand = regexp.MustCompile(`(?m)(^|[ (])tcptrace `)

// called is text with the name that the program is called by.
func (a *app) called(text string) string { return asCommand.ReplaceAllString(text, "${1}"+a.name+" ") }

// The groups of commands.
const (
	groupTrace = "trace"
	groupOther = "other"
)

// noCommand is what the root makes of words that are no command.
func (a *app) noCommand(cmd *cobra.Command, words []string) error {
	if len(words) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q", words[0])
	if near := cmd.SuggestionsFor(words[0]); len(near) > 0 {
		text += ": did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageError{errors.New(text)}
}

// noArgs refuses arguments that are not flags.
func noArgs(cmd *cobra.Command, words []string) error {
	if len(words) == 0 {
		return nil
	}
	return usagef("unexpected argument %q: %s takes flags only", words[0], cmd.CommandPath())
}
