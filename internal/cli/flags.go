// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/record"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/format"
)

// streamFlags are the flags of the commands that show events.
type streamFlags struct {
	filter filter.Spec
	chosen []events.Type // --event
	uids   []string      // --uid and --netns: what a name is depends on where the events come from
	netns  []string
	failed bool // of state changes, only those that ended a connection without success

	silent     bool // no event is printed
	asRecorded bool // the events of a recording decide on a table's columns

	output   string
	columns  []string
	color    string
	utc      bool
	noHeader bool
	quiet    bool

	duration time.Duration
	count    uint64

	buffer int
	btf    string
	strict bool

	write   string // "" is none
	force   bool
	flush   time.Duration
	maxSize int64
	maxAge  time.Duration

	read         []string // recordings, instead of the kernel
	since, until momentValue
	follow       bool

	explain *explainFlags // nil: events are shown, not explained
}

// The groups of flags, in the order of the help.
const (
	groupExplain = "Explaining"
	groupFilter  = "Filters (values of one flag are alternatives, different flags must all hold)"
	groupOutput  = "Output"
	groupStop    = "Stopping"
	groupLive    = "Tracing"
	groupWrite   = "Recording"
	groupRead    = "Reading a recording"
)

var flagGroups = []string{groupExplain, groupFilter, groupOutput, groupStop, groupLive, groupWrite, groupRead}

// groupKey is the annotation of a flag that holds its group.
const groupKey = "group"

// group returns the flag set to declare flags in, and a function to call
// afterwards, which puts them in the group.
func group(cmd *cobra.Command, name string) (*pflag.FlagSet, func()) {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	return fs, func() {
		fs.VisitAll(func(f *pflag.Flag) { f.Annotations = map[string][]string{groupKey: {name}} })
		cmd.Flags().SortFlags = false
		cmd.Flags().AddFlagSet(fs)
	}
}

// addFilter declares the flags that choose events.
func (f *streamFlags) addFilter(cmd *cobra.Command, s stream) {
	fs, done := group(cmd, groupFilter)
	spec := &f.filter
	if s.choice {
		usage := "retransmit, reset or state"
		if s.records {
			usage += "; if not given, the first two, and changes to CLOSE with an error"
		}
		list(fs, &f.chosen, filter.ParseTypes, "event", "EVENT,...", usage)
	}
	list(fs, &spec.Port, filter.ParsePorts, "port", "PORT,...", "port at either end, as in 80,443,8000-8100")
	list(fs, &spec.LPort, filter.ParsePorts, "lport", "PORT,...", "local port")
	list(fs, &spec.RPort, filter.ParsePorts, "rport", "PORT,...", "remote port")
	list(fs, &spec.Addr, filter.ParseAddrs, "addr", "ADDR,...", "address or network at either end, as in 10.0.0.0/8,::1")
	list(fs, &spec.LAddr, filter.ParseAddrs, "laddr", "ADDR,...", "local address")
	list(fs, &spec.RAddr, filter.ParseAddrs, "raddr", "ADDR,...", "remote address")
	fs.BoolVarP(&spec.IPv4, "ipv4", "4", false, "IPv4 on the wire")
	fs.BoolVarP(&spec.IPv6, "ipv6", "6", false, "IPv6 on the wire")
	list(fs, &spec.States, filter.ParseStates, "state", "STATE,...", "socket state; of a change the old or the new one")
	list(fs, &spec.Kinds, filter.ParseKinds, "kind", "KIND,...", "kind of retransmission or reset")
	list(fs, &spec.Directions, filter.ParseDirections, "direction", "DIR,...", "of a reset: sent or received")
	list(fs, &spec.PIDs, filter.ParsePIDs, "pid", "PID,...", "process that owns the socket, alone or with others")
	list(fs, &spec.Comms, filter.ParseComms, "comm", "NAME,...", `name of the process that owns the socket; \, is a comma`)
	list(fs, &f.uids, whole, "uid", "USER,...", "number or name of the user who owns the socket")
	list(fs, &spec.Cgroups, filter.ParseCgroups, "cgroup", "PATH,...", "cgroup of the socket, or one above it")
	list(fs, &f.netns, whole, "netns", "NETNS,...", "network namespace: inode number, name, or path except for recordings")
	fs.StringVar(&spec.Where, "where", "", "`EXPR` over the JSON fields, as in 'rto_ms > 1000 && attempt >= 3'")
	done()

	completeList(cmd, "event", func() []string { return names(filter.Types()) })
	completeList(cmd, "state", func() []string { return names(filter.States()) })
	completeList(cmd, "kind", func() []string { return describeKinds(s.types) })
	completeList(cmd, "direction", func() []string { return names(filter.Directions()) })
	for _, name := range []string{"port", "lport", "rport", "addr", "laddr", "raddr", "pid", "comm", "uid", "netns", "where"} {
		completeNothing(cmd, name)
	}
}

// whole is a list that is parsed later.
func whole(text string) ([]string, error) { return []string{text}, nil }

// resolve parses what names mean something else in a recording than here.
func (f *streamFlags) resolve() error {
	spec := &f.filter
	for _, text := range f.uids {
		var uids []uint32
		var users []string
		var err error
		if f.read == nil {
			uids, err = filter.ParseUIDs(text)
		} else {
			uids, users, err = filter.ParseRecordedUIDs(text)
		}
		if err != nil {
			return usagef("--uid %s: %w", quoted(text), err)
		}
		spec.UIDs, spec.Users = append(spec.UIDs, uids...), append(spec.Users, users...)
	}
	for _, text := range f.netns {
		var inums []uint32
		var names []string
		var err error
		if f.read == nil {
			inums, err = filter.ParseNetNS(text)
		} else {
			inums, names, err = filter.ParseRecordedNetNS(text)
		}
		if err != nil {
			return usagef("--netns %s: %w", quoted(text), err)
		}
		spec.NetNS, spec.NetNSNames = append(spec.NetNS, inums...), append(spec.NetNSNames, names...)
	}
	return nil
}

// addOutput declares the flags that say how to print.
func (f *streamFlags) addOutput(cmd *cobra.Command, s stream) {
	fs, done := group(cmd, groupOutput)
	f.output, f.color = format.Table, "auto"
	usage := "table, wide, json or csv"
	if s.records {
		usage += ": no event is printed, but json prints losses and the summary, csv losses"
	}
	fs.VarP(&choiceValue{&f.output, "FORMAT", format.Formats()}, "output", "o", usage)
	list(fs, &f.columns, filter.Split, "columns", "NAME,...", "columns to show, by their names in JSON")
	f.addLooks(fs, "times of tables in UTC; JSON and CSV always are", "no headings", "no banner and no summary on standard error")
	if s.records {
		hide(fs, "columns", "utc", "color", "no-header")
	}
	done()

	completeChoice(cmd, "output", format.Formats())
	completeChoice(cmd, "color", colors())
	completeList(cmd, "columns", func() []string { return describeColumns(f.output) })
}

// hide leaves flags out of the help that are taken because all streams have
// them, but matter little to this one.
func hide(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		fs.Lookup(name).Hidden = true
	}
}

// data reports whether programs read what is printed.
func (f *streamFlags) data() bool { return f.output == format.JSON || f.output == format.CSV }

// addLooks declares the flags of every output.
func (f *streamFlags) addLooks(fs *pflag.FlagSet, utc, noHeader, quiet string) {
	fs.BoolVar(&f.utc, "utc", false, utc)
	fs.Var(&choiceValue{&f.color, "WHEN", colors()}, "color", "auto, always or never; NO_COLOR in the environment is never")
	fs.BoolVar(&f.noHeader, "no-header", false, noHeader)
	fs.BoolVarP(&f.quiet, "quiet", "q", false, quiet)
}

func colors() []string { return []string{"auto", "always", "never"} }

// addStop declares the flags that end a stream.
func (f *streamFlags) addStop(cmd *cobra.Command) {
	fs, done := group(cmd, groupStop)
	fs.VarP((*durationValue)(&f.duration), "duration", "d", "stop after this time, as in 30s, 5m or 1h30m")
	fs.VarP((*countValue)(&f.count), "count", "c", "stop after so many events")
	done()

	completeNothing(cmd, "duration")
	completeNothing(cmd, "count")
}

// defaultBuffer is the size of the ring buffer, in bytes.
const defaultBuffer = 64 << 20

// addLive declares the flags of tracing this kernel.
func (f *streamFlags) addLive(cmd *cobra.Command) {
	fs, done := group(cmd, groupLive)
	f.bufferFlag(fs, "ring buffer, from 4KiB to 1GiB, rounded up to a power of two; as much again waits in user space while the output is slow")
	fs.StringVar(&f.btf, "btf", "", "`FILE` with the kernel's types, a copy of the host's /sys/kernel/btf/vmlinux, for where that is not there")
	f.strictFlag(fs)
	done()

	completeNothing(cmd, "buffer")
}

func (f *streamFlags) bufferFlag(fs *pflag.FlagSet, usage string) {
	f.buffer = defaultBuffer
	fs.Var((*sizeValue)(&f.buffer), "buffer", usage)
}

func (f *streamFlags) strictFlag(fs *pflag.FlagSet) {
	fs.BoolVar(&f.strict, "strict", false, "exit with 3 if an event was lost")
}

// addReplayed declares what of addLive is for a recording, too.
func (f *streamFlags) addReplayed(cmd *cobra.Command) {
	fs, done := group(cmd, groupStop)
	f.strictFlag(fs)
	f.bufferFlag(fs, "ring buffer of the kernel, which is not read")
	hide(fs, "buffer")
	done()
}

// addWrite declares the flags of writing a recording.
func (f *streamFlags) addWrite(cmd *cobra.Command, s stream) {
	fs, done := group(cmd, groupWrite)
	f.flush = record.DefaultFlush
	force, flush := "replace FILE if it is there", "what happened is on disk after this time at most"
	if !s.records {
		fs.StringVarP(&f.write, "write", "w", "", "also record what is shown, in this `FILE`")
		force, flush = "with -w: "+force, "with -w: "+flush
	}
	fs.BoolVarP(&f.force, "force", "f", false, force)
	fs.Var((*durationValue)(&f.flush), "flush", flush)
	if s.records {
		fs.Var((*diskValue)(&f.maxSize), "max-size", "of DIR: delete the oldest files to keep all below this size, as in 500MiB or 10GiB (default 1GiB)")
		fs.Var((*durationValue)(&f.maxAge), "max-age", "of DIR: delete files whose events are all older, as in 24h or 7d")
	}
	done()

	if !s.records {
		_ = cmd.MarkFlagFilename("write")
	}
	for _, name := range []string{"flush", "max-size", "max-age"} {
		completeNothing(cmd, name)
	}
}

// addRead declares the flags of reading a recording.
func (f *streamFlags) addRead(cmd *cobra.Command, s stream) {
	fs, done := group(cmd, groupRead)
	if !s.replays {
		fs.VarP(&listValue[string]{dst: &f.read, parse: filter.Split, kind: "FILE,..."}, "read", "r", "read recordings, or folders of them, instead of tracing; - is standard input")
	}
	fs.Var(&f.since, "since", `leave out what was before: 14:00 (the last one), "2026-01-31 14:00:05", or 10m for ten minutes ago`)
	fs.Var(&f.until, "until", "leave out what was after")
	fs.BoolVarP(&f.follow, "follow", "F", false, "go on with what is being written, until Ctrl-C")
	done()

	if !s.replays {
		_ = cmd.MarkFlagFilename("read")
	}
	completeNothing(cmd, "since")
	completeNothing(cmd, "until")
}

// together refuses flags that don't go together.
func (f *streamFlags) together(cmd *cobra.Command) error {
	given := func(names ...string) string {
		for _, name := range names {
			if flag := cmd.Flags().Lookup(name); flag != nil && flag.Changed {
				return name
			}
		}
		return ""
	}
	if f.read == nil {
		if name := given("since", "until", "follow"); name != "" {
			return usagef("--%s is for recordings: name one with -r FILE", name)
		}
	} else if name := given("btf"); name != "" {
		return usagef("--%s is for tracing: leave it out with -r", name)
	}
	switch {
	case f.filter.Where == "" && given("where") != "":
		return usagef("--where '': it needs a value")
	case f.write == "" && given("write") != "":
		return usagef("--write '': it needs a value")
	case f.write == "" && given("force", "flush") != "":
		return usagef("--%s is for recording: add -w FILE", given("force", "flush"))
	case f.maxAge > 0 && f.maxAge < time.Second:
		return usagef("--max-age %s: it must be 1s or more", shortDuration(f.maxAge))
	case f.write == "-" && given("max-size", "max-age") != "":
		return usagef("--%s is for a folder, not for standard output", given("max-size", "max-age"))
	case f.write == "-" && f.silent && f.data():
		return usagef("--output %s: the recording is printed there already: give a FILE", f.output)
	case f.write == "-" && f.explain != nil:
		return usagef("-w -: the report is printed there already: give a FILE")
	case f.write == "-" && given("write") != "":
		return usagef("-w -: events are printed there already: give a FILE, or use %s record -", cmd.Root().Name())
	}
	return nil
}

// format returns how to print events of these types.
func (f *streamFlags) format(a *app, types []events.Type) format.Options {
	o := format.Options{Format: f.output, Columns: f.columns, Types: types, NoHeader: f.noHeader, Color: f.colored(a)}
	if f.utc {
		o.Location = time.UTC
	}
	return o
}

// colored reports whether tables have colours.
func (f *streamFlags) colored(a *app) bool {
	switch f.color {
	case "always":
		return true
	case "auto":
		return a.out.terminal && a.env.Getenv("NO_COLOR") == "" && a.env.Getenv("TERM") != "dumb"
	}
	return false
}

// warnings tells of filters that nothing can match.
func (f *streamFlags) warnings() []string {
	var list []string
	traced := func(t events.Type) bool { return slices.Contains(f.filter.Types, t) }
	if want := f.filter.Kinds; len(want) > 0 && !slices.ContainsFunc(kinds, func(k kind) bool {
		return slices.Contains(want, k.kind) && traced(k.of)
	}) {
		list = append(list, fmt.Sprintf("--kind %s matches nothing here: --help shows the kinds", strings.Join(names(want), ",")))
	}
	if len(f.filter.Directions) > 0 && !traced(events.Reset) {
		list = append(list, "--direction matches nothing here: only resets have one")
	}
	return list
}

// filterFlags returns the filters of the command line as they were given.
func filterFlags(cmd *cobra.Command) string {
	var words []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if !slices.Contains(f.Annotations[groupKey], groupFilter) || f.Name == "event" {
			return
		}
		word := "--" + f.Name
		if f.Value.Type() != "bool" {
			word += " " + quoted(f.Value.String())
		}
		words = append(words, word)
	})
	return strings.Join(words, " ")
}

// flagError makes one clear line of pflag's errors.
func (a *app) flagError(cmd *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		return a.unknownFlag(cmd, unknown)
	case errors.As(err, &missing):
		f := missing.GetFlag()
		name, usage := pflag.UnquoteUsage(f)
		return usagef("--%s needs a value: %s (%s)", f.Name, name, usage)
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		cause := invalid.Unwrap()
		if f.Value.Type() == "bool" {
			cause = errors.New("it is true or false")
		}
		return usagef("--%s %s: %w", f.Name, quoted(invalid.GetValue()), cause)
	}
	return usageError{err}
}

func (a *app) unknownFlag(cmd *cobra.Command, err *pflag.NotExistError) error {
	name := err.GetSpecifiedName()
	if err.GetSpecifiedShortnames() != "" {
		name = "-" + name
	} else {
		name = "--" + name
	}
	if !cmd.HasParent() {
		// What is wrong may be the command before the flag.
		if !strings.HasPrefix(a.args[0], "-") {
			return a.noCommand(cmd, a.args)
		}
		return usagef("unknown flag %s: flags of a command follow it, as in %s retrans --port 443", quoted(name), a.name)
	}
	text := "unknown flag " + quoted(name)
	near := ""
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if near == "" && resembles("--"+f.Name, name) {
			near = f.Name
		}
	})
	if near != "" {
		text += ": did you mean --" + near + "?"
	}
	return usageError{errors.New(text)}
}

// resembles reports whether a and b differ by one character that was typed
// wrongly, left out, or added.
func resembles(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch len(b) - len(a) {
	case 0:
		return i < len(a) && a[i+1:] == b[i+1:]
	case 1:
		return a[i:] == b[i+1:]
	}
	return false
}
