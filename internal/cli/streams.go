// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/internal/pipeline"
	"github.com/tcptrace/tcptrace/internal/record"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/format"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// stream is a command that shows events.
type stream struct {
	name, short, long string
	example           string
	types             []events.Type
	choice            bool   // has --event
	args              string // what follows the name in the usage
	records, replays  bool   // is for a recording alone
	explains          bool   // tells what events mean, instead of showing them
}

var streams = []stream{
	{
		name:  "retrans",
		short: "retransmissions, live",
		long: `Shows each TCP segment that this host sends again: why, how often already, how
long until the next attempt, and the process that owns the connection.`,
		example: `tcptrace retrans --rport 443                    # to HTTPS servers
tcptrace retrans --kind rto,syn -o wide         # time-outs, with all details
tcptrace retrans --where 'attempt >= 3'         # connections that hang
tcptrace retrans --addr 10.0.0.0/8 -d 1m -o csv > retrans.csv`,
		types: []events.Type{events.Retransmit},
	},
	{
		name:  "resets",
		short: "resets sent and received, live",
		long: `Shows each TCP reset that this host sends or receives: what made it, in which
state it hit the connection, and the process that owns it.`,
		example: `tcptrace resets --direction received            # who resets us
tcptrace resets --kind refused --lport 0-1023   # connections to closed ports
tcptrace resets --comm nginx -o json | jq .kind
tcptrace resets --where 'state == "ESTABLISHED"'`,
		types: []events.Type{events.Reset},
	},
	{
		name:  "states",
		short: "TCP state changes, live",
		long:  `Shows each change of a TCP socket's state, and the error that ended a connection.`,
		example: `tcptrace states --state ESTABLISHED             # connections that come and go
tcptrace states --state SYN_SENT --rport 5432   # attempts to reach PostgreSQL
tcptrace states --where 'has(error)'            # connections that failed`,
		types: []events.Type{events.StateChange},
	},
	{
		name:  "events",
		short: "retransmissions, resets and state changes, live; --event chooses",
		long:  `Shows retransmissions, resets and state changes together, in the order in which they happened.`,
		example: `tcptrace events --port 8443                     # all that happens at one port
tcptrace events --event retransmit,reset        # trouble only
tcptrace events --pid 4711 -o json > trace.json`,
		types:  filter.Types(),
		choice: true,
	},
	{
		name:  "record",
		args:  "FILE|DIR",
		short: "records to a file, or as a flight recorder to a folder that stays small",
		long: `Records what it traces, and prints no event. What happened is on disk a second
later at most, and stays readable whatever happens to tcptrace or the machine.

It keeps retransmissions, resets, and failed closes, so that a recording is
small: of the state changes those to CLOSE with an error or from SYN_SENT, and
closes while a byte that was sent again is not acknowledged, or one is not for
long (twice the SRTT, at least 50 ms). The rest counts as filtered; --event
chooses otherwise. FILE must not be there yet; - is standard output.

With --max-size or --max-age, or if there is such a folder, DIR gets one file
after the other, and the oldest are deleted: a flight recorder. A file ends at a
16th of --max-size (64KiB to 64MiB) or a 24th of --max-age (a minute at least).
Only what is named as tcptrace names its files, and is not being written, is
deleted.`,
		example: `tcptrace record trouble.tcptrace                # until Ctrl-C
tcptrace record /var/lib/tcptrace --max-size 1GiB --max-age 7d
ssh web1 tcptrace record - | tcptrace replay -`,
		types:   filter.Types(),
		choice:  true,
		records: true,
	},
	{
		name:  "replay",
		args:  "FILE|DIR...",
		short: "shows recordings as if live: same filters, formats and order",
		long: `Shows what was recorded as the live command showed it, or would have with these
flags. It needs neither rights nor Linux. Names of --uid and --netns are those
of where it was recorded. - is standard input.

Of a DIR it reads the files that tcptrace record DIR made, the oldest first. The
summary and the audit are those of the recording; with --since or --until there
is no audit, since it is of the whole. What is damaged is warned of, with its
place, and left out.`,
		example: `tcptrace replay trouble.tcptrace --rport 443
tcptrace replay /var/lib/tcptrace --since 10m   # the last ten minutes
tcptrace replay /var/lib/tcptrace --since 14:00 --until 14:05 -o wide
tcptrace replay /var/lib/tcptrace --since 0s --follow`,
		types:   filter.Types(),
		choice:  true,
		replays: true,
	},
	{
		name:  "explain",
		args:  "[FILE|DIR...]",
		short: "what broke each connection, why, and what to do: live, or from recordings",
		long: `Tells at the end, or on Ctrl-C, what was wrong with which connections: findings
across connections, the gravest first, each with its peers and owners, its cause,
its evidence, the settings that decided, how sure it is, and what to do next. It
prints no event.

Live it watches retransmissions, resets and all state changes. Of recordings (-
is standard input) it says what they tell: one made with --event
retransmit,reset,state tells more than the default one. A connection of which
nothing more was heard, although it would have been, has recovered; one that
might still be heard of is pending.

--conn and --connection tell one connection's story, with all that happened.`,
		example: `tcptrace explain -d 1m                          # what goes wrong here, for a minute
tcptrace explain trouble.tcptrace               # of a recording
tcptrace explain /var/lib/tcptrace --since 10m -o markdown > ticket.md
tcptrace explain trouble.tcptrace --conn 40000016c0288
tcptrace explain -d 30s -q --fail-on connect-timeout,stalled`,
		types:    filter.Types(),
		choice:   true,
		explains: true,
	},
}

func (a *app) streamCommand(s stream) *cobra.Command {
	f := streamFlags{filter: filter.Spec{Types: s.types}}
	cmd := &cobra.Command{
		Use:     strings.TrimSpace(s.name + " " + s.args),
		GroupID: groupTrace,
		Short:   s.short,
		Long:    s.long,
		Example: s.example,
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := f.arguments(cmd, s, words); err != nil {
				return err
			}
			return a.trace(cmd, &f, nil)
		},
	}
	if s.explains {
		f.addExplain(cmd)
	}
	f.addFilter(cmd, s)
	if s.explains {
		f.addReport(cmd)
	} else {
		f.addOutput(cmd, s)
	}
	f.addStop(cmd)
	if s.replays {
		f.addReplayed(cmd)
	} else {
		f.addLive(cmd)
	}
	f.addWrite(cmd, s)
	if !s.records {
		f.addRead(cmd, s)
	}
	return cmd
}

// arguments takes what follows the name of a command, and checks it all.
func (f *streamFlags) arguments(cmd *cobra.Command, s stream, words []string) error {
	switch {
	case s.records && len(words) != 1:
		return usagef("record needs one FILE or DIR to write to, or - for standard output")
	case s.records && words[0] == "" || (s.replays || s.explains) && slices.Contains(words, ""):
		return usagef("the name of a file is empty")
	case s.replays && len(words) == 0:
		return usagef("replay needs a FILE or DIR to read, or - for standard input")
	case s.records:
		f.write, f.silent = words[0], true
	case s.replays:
		f.read = words
	case s.explains:
		f.read = append(f.read, words...)
	default:
		if err := noArgs(cmd, words); err != nil {
			return err
		}
	}
	if err := f.together(cmd); err != nil {
		return err
	}
	f.failed = s.records && f.chosen == nil
	f.asRecorded = (s.replays || s.explains && f.read != nil) && f.chosen == nil
	if f.chosen != nil {
		f.filter.Types = f.chosen
	}
	return f.resolve()
}

// Demo is trouble on this host, for the demo command to trace.
type Demo interface {
	// NetNS is the inode number of the namespace where it happens.
	NetNS() uint32
	// Run makes it happen. It calls say with a line about what it does next,
	// and settle to wait until the events of what it did are shown.
	Run(ctx context.Context, say func(string), settle func(context.Context) error) error
	// Rights are the capabilities that Run needs.
	Rights() []string
	// Close removes all that is left of it.
	Close() error
}

func (a *app) demoCommand() *cobra.Command {
	f := streamFlags{filter: filter.Spec{Types: []events.Type{events.Retransmit, events.Reset}}}
	cmd := &cobra.Command{
		Use:     "demo",
		GroupID: groupTrace,
		Short:   "makes real trouble in a throwaway network namespace and traces it",
		Long: `Makes real trouble - lost segments, refused and reset connections - in a network
namespace of its own, traces it, and removes the namespace. The host's own
connections are neither touched nor shown.`,
		Example: `tcptrace demo
tcptrace demo -o json | jq .kind`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			demo, err := a.env.Demo(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, demo.Close()) }()
			f.filter.NetNS = []uint32{demo.NetNS()}
			return a.trace(cmd, &f, demo)
		},
	}
	f.addOutput(cmd, stream{})
	f.addLive(cmd)
	return cmd
}

// trace shows or records events until the user, a flag, or the end of the
// recording or of the demo, which may be nil, ends it.
func (a *app) trace(cmd *cobra.Command, f *streamFlags, demo Demo) (err error) {
	keep, err := f.filter.Match()
	if err != nil {
		return usagef("--where: %w", err)
	}
	if f.failed {
		keep = failures(keep)
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()

	var src pipeline.Source
	var replayed *record.Source
	types := f.filter.Types
	if f.read != nil {
		if replayed, err = a.openRecordings(ctx, f); replayed == nil {
			return err
		}
		defer func() { err = errors.Join(err, replayed.Close()) }()
		if recorded := replayed.Info().Types; f.asRecorded && len(recorded) > 0 {
			types = recorded // a table has the columns that it had
		}
	}
	var printer *format.Printer
	if f.explain == nil {
		if printer, err = format.New(f.format(a, types)); err != nil {
			return usagef("--columns: %w", err)
		}
		if f.silent && !f.data() {
			printer = nil // not even headings
		}
	}
	for _, w := range f.warnings() {
		a.say("warning: %s", w)
	}
	var rec *record.Recorder
	if f.write != "" {
		if rec, err = a.openRecorder(f); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rec.Close()) }()
	}
	var tell record.Teller
	var info recording.Info
	var traced live.Source
	if replayed == nil {
		var rights []string
		if demo != nil {
			rights = demo.Rights()
		}
		if rec != nil {
			rights = append(rights, rec.Rights()...)
		}
		if traced, err = a.openLive(ctx, cmd, f, rights, demo != nil); err != nil {
			if ctx.Err() != nil {
				return nil // interrupted before anything was traced
			}
			return err
		}
		defer func() { err = errors.Join(err, traced.Close()) }()
		src, info = traced, a.describe(cmd, f, traced)
		tell = record.Teller{Audit: traced.Audit, Settings: traced.Settings, Again: record.SettingsAge}
	} else {
		src, tell, info = a.watch(replayed, f), record.Teller{Settings: replayed.Settings}, a.copied(cmd, f, replayed)
		if !f.quiet {
			a.say("%s", f.replayBanner(cmd, info))
		}
	}

	if f.duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	po := pipeline.Options{
		Keep:    keep,
		Printer: printer,
		Silent:  f.silent,
		Out:     a.out,
		Count:   f.count,
	}
	aside := f.silent && f.write != "-" // what is printed
	if aside {
		po.Out = deaf{a.out}
	} else {
		po.Idle = func() error { return checkOpen(a.env.Stdout) }
	}
	if rec != nil {
		if err := rec.Start(info, tell); err != nil {
			return err
		}
		po.Sink = rec
	}
	var explained *explainer
	if f.explain != nil {
		explained = a.newExplainer(cmd, f, tell.Settings, replayed)
		po.Sink = explained
		if rec != nil {
			po.Sink = both{explained, rec}
		}
	}
	var play *performance
	if demo != nil {
		play = &performance{moments: make(chan struct{})}
		begin := sync.OnceFunc(func() { a.perform(ctx, play, demo, f, cancel) })
		po.Idle = func() error { // the first idle moment is behind the headings
			begin()
			play.idle()
			return checkOpen(a.env.Stdout)
		}
	}
	if f.output != format.JSON && (printer == nil || !printer.ShowsLost()) {
		po.Warn = func(e *events.Event) { a.say("%s", format.LostText(e)) }
	}
	sum, err := pipeline.Run(ctx, src, po)
	if play != nil {
		cancel()
		err = errors.Join(err, play.wait())
	}
	a.out.bar.clear()
	if traced != nil && !f.quiet {
		if what := traced.Overlooked(); what != "" {
			a.say("not seen: %s", what)
		}
	}
	var found error
	if explained != nil {
		var perr error
		if found, perr = a.printReport(f, explained, &sum, replayed); err == nil {
			err = perr
		}
	}
	if !f.quiet && (a.out.err == nil || aside) && !errors.Is(err, errClosed) {
		a.conclude(f, &sum, rec)
	}
	if replayed != nil && err == nil {
		err = replayed.Err()
	}
	if found != nil && a.onlyClosed(err) {
		return found // losses make no difference to it
	}
	if f.strict && sum.Lost > 0 && a.onlyClosed(err) {
		return lostError(sum.Lost)
	}
	return err
}

// conclude tells what a stream came to.
func (a *app) conclude(f *streamFlags, sum *events.Summary, rec *record.Recorder) {
	if f.output != format.JSON || a.out.err != nil {
		a.say("%s", format.SummaryText(sum))
		if text := format.AuditText(sum); text != "" {
			a.say("%s", text)
		} else if n := sum.Skipped; n > 0 {
			a.say("the kernel skipped %d runs of programs that were in the middle of another event: up to %d events are missing", n, n)
		}
	}
	if rec == nil {
		return
	}
	switch bytes, files := rec.Written(); {
	case rec.Folder():
		a.say("recorded %d bytes in %s in %s", bytes, plural(files, "file"), printable(f.write))
	case f.write == "-":
		a.say("recorded %d bytes", bytes)
	default:
		a.say("recorded %d bytes in %s", bytes, printable(f.write))
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// openLive begins to trace, and says so.
func (a *app) openLive(ctx context.Context, cmd *cobra.Command, f *streamFlags, rights []string, demo bool) (live.Source, error) {
	var limits []live.Limit
	if a.env.Limits != nil {
		limits = a.env.Limits()
	}
	for _, w := range limited(cmd, limits) {
		a.say("warning: %s", w)
	}
	var unseen string
	src, err := a.env.Open(ctx, live.Options{
		Types: f.filter.Types, Kernel: f.filter.Kernel(), NetNS: f.filter.NetNS, Buffer: f.buffer, BTF: f.btf, KeepRights: rights,
		Settings: f.write != "" || f.explain != nil,
		Hooks:    func(hooks []live.Hook) { unseen = live.Unseen(hooks) },
	})
	if err != nil || f.quiet {
		return src, err
	}
	a.say("%s", f.banner(cmd, demo))
	if unseen != "" {
		a.say("not seen on this kernel: %s", unseen)
	}
	if len(limits) > 0 {
		a.say("%s", limitsText(limits))
	}
	return src, nil
}

// performance is a demo under way.
type performance struct {
	moments chan struct{} // an idle moment, if settle waits for one
	running sync.WaitGroup
	err     error
}

// perform starts the demo, and calls done when it has ended.
func (a *app) perform(ctx context.Context, p *performance, demo Demo, f *streamFlags, done func()) {
	say := func(line string) {
		switch {
		case f.quiet:
		case f.output == format.Table || f.output == format.Wide:
			fmt.Fprintf(a.out, "\n# %s\n", line) // what fails here, the events' output finds out
		default:
			a.say("%s", line)
		}
	}
	p.running.Go(func() {
		defer done()
		defer func() {
			if v := recover(); v != nil {
				a.reportPanic(v)
				p.err = errors.New("the demo failed")
			}
		}()
		if err := demo.Run(ctx, say, p.settle); err != nil && ctx.Err() == nil {
			p.err = err
		}
	})
}

// idle is called when all events so far have been shown.
func (p *performance) idle() {
	select {
	case p.moments <- struct{}{}:
	default:
	}
}

// settle waits for the second idle moment from now: the first may belong to a
// look for events that began before.
func (p *performance) settle(ctx context.Context) error {
	for range 2 {
		select {
		case <-p.moments:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// wait returns the demo's error, which is nil if it was interrupted.
func (p *performance) wait() error {
	p.running.Wait()
	return p.err
}

var nouns = map[events.Type]string{
	events.Retransmit: "retransmissions", events.Reset: "resets", events.StateChange: "state changes",
}

// traced says which events are traced, and where.
func (f *streamFlags) traced(cmd *cobra.Command, demo bool) string {
	var what []string
	for _, t := range f.filter.Types {
		if noun := nouns[t]; f.failed && t == events.StateChange {
			what = append(what, "failed closes")
		} else {
			what = append(what, noun)
		}
	}
	text := enumerate(what)
	switch {
	case demo:
		text += " in a network namespace made for it"
	case len(f.filter.NetNS) == 0:
		text += " in all network namespaces"
	}
	if flags := filterFlags(cmd); flags != "" {
		text += " with " + flags
	}
	return text
}

// banner says what is traced, and how to stop.
func (f *streamFlags) banner(cmd *cobra.Command, demo bool) string {
	text := "tracing " + f.traced(cmd, demo)
	if demo {
		return text + "; Ctrl-C stops before the end"
	}
	var ends []string
	if f.count > 0 {
		ends = append(ends, fmt.Sprintf("after -c %d", f.count))
	}
	if f.duration > 0 {
		ends = append(ends, "after "+shortDuration(f.duration))
	}
	switch f.write {
	case "":
	case "-":
		text += ", recorded on standard output"
	default:
		text += ", recorded in " + printable(f.write)
	}
	text += "; stops " + strings.Join(append(ends, "with Ctrl-C"), " or ")
	if f.explain != nil {
		text += ", and then explains"
	}
	return text
}

// limitsText says what is not shown here.
func limitsText(limits []live.Limit) string {
	var parts []string
	for _, l := range limits {
		parts = append(parts, fmt.Sprintf("%s: %s (%s)", l.Field, l.Reason, l.Remedy))
	}
	return "not shown here: " + strings.Join(parts, "; ")
}

// limited returns warnings of filters on fields that no event has here.
func limited(cmd *cobra.Command, limits []live.Limit) []string {
	var list []string
	for _, l := range limits {
		if f := cmd.Flags().Lookup(l.Field); f != nil && f.Changed {
			list = append(list, fmt.Sprintf("--%s matches nothing here: %s (%s)", l.Field, l.Reason, l.Remedy))
		}
	}
	return list
}

// shortDuration writes 1m where Duration.String has 1m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// enumerate joins words: "a, b and c".
func enumerate(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
