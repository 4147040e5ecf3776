// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcptrace/tcptrace/internal/filter"
	"github.com/tcptrace/tcptrace/internal/pipeline"
	"github.com/tcptrace/tcptrace/internal/record"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/explain"
	"github.com/tcptrace/tcptrace/pkg/format"
)

// explainFlags are those that explain has beside the others.
type explainFlags struct {
	conns  []uint64
	ends   []ends
	failOn []string
}

// ends are those of a connection, in either order.
type ends [2]netip.AddrPort

func (e ends) of(c *explain.Connection) bool {
	local, remote := unmapped(c.Local), unmapped(c.Remote)
	return e == ends{local, remote} || e == ends{remote, local}
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

const markdown = "markdown"

// reports are the formats of a report.
func reports() []string { return []string{format.Table, format.JSON, markdown} }

// reportValue is a format of a report.
type reportValue struct{ choiceValue }

func (v *reportValue) Set(text string) error {
	if slices.Contains(format.Formats(), text) && !slices.Contains(reports(), text) {
		return fmt.Errorf("a report is one of %s; %s is for events, which replay prints from a recording", strings.Join(reports(), ", "), text)
	}
	return v.choiceValue.Set(text)
}

// addReport declares the flags that say how to print a report.
func (f *streamFlags) addReport(cmd *cobra.Command) {
	fs, done := group(cmd, groupOutput)
	f.output, f.color = format.Table, "auto"
	fs.VarP(&reportValue{choiceValue{&f.output, "FORMAT", reports()}}, "output", "o", "table, json or markdown")
	f.addLooks(fs, "times in UTC; JSON always is", "no headline", "no banner and no summary on standard error")
	done()

	completeChoice(cmd, "output", reports())
	completeChoice(cmd, "color", colors())
}

// addExplain declares the flags of explain alone.
func (f *streamFlags) addExplain(cmd *cobra.Command) {
	f.explain = &explainFlags{}
	fs, done := group(cmd, groupExplain)
	list(fs, &f.explain.conns, parseConns, "conn", "ID,...", "one connection's story, with all that happened: its conn, as in JSON and in a report")
	list(fs, &f.explain.ends, parseEnds, "connection", "ENDS,...", "the same by ADDR:PORT-ADDR:PORT, in either order, as in [::1]:40000-[::1]:80")
	list(fs, &f.explain.failOn, parseFindings, "fail-on", "FINDING,...", "exit with 4 if one of these is found")
	done()

	completeNothing(cmd, "conn")
	completeNothing(cmd, "connection")
	completeList(cmd, "fail-on", func() []string {
		var words []string
		for _, id := range explain.Findings() {
			words = append(words, id+"\t"+explain.Title(id))
		}
		return words
	})
}

func parseConns(text string) ([]uint64, error) {
	words, err := filter.Split(text)
	var ids []uint64
	for _, w := range words {
		id, perr := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(w), "0x"), 16, 64)
		if perr != nil || id == 0 {
			return nil, errors.New("it is not the id of a connection: a hexadecimal number such as 40000016c0288, as conn in JSON")
		}
		ids = append(ids, id)
	}
	return ids, err
}

func parseEnds(text string) ([]ends, error) {
	words, err := filter.Split(text)
	var list []ends
	for _, w := range words {
		one, other, _ := strings.Cut(strings.TrimSpace(w), "-")
		a, aerr := netip.ParseAddrPort(one)
		b, berr := netip.ParseAddrPort(other)
		if aerr != nil || berr != nil {
			return nil, errors.New("it is not both ends of a connection, as in 10.0.0.1:40000-10.0.0.2:443 or [::1]:40000-[::1]:80")
		}
		list = append(list, ends{unmapped(a), unmapped(b)})
	}
	return list, err
}

func parseFindings(text string) ([]string, error) {
	words, err := filter.Split(text)
	for i, w := range words {
		words[i] = strings.TrimSpace(w)
		if !slices.Contains(explain.Findings(), words[i]) {
			return nil, fmt.Errorf("there is no finding %s: they are %s", quoted(words[i]), strings.Join(explain.Findings(), ", "))
		}
	}
	return words, err
}

// chosen reports whether some connections were asked for.
func (x *explainFlags) chosen() bool { return len(x.conns)+len(x.ends) > 0 }

func (x *explainFlags) want(c *explain.Connection) bool {
	return (len(x.conns) == 0 || slices.Contains(x.conns, c.Conn)) &&
		(len(x.ends) == 0 || slices.ContainsFunc(x.ends, func(e ends) bool { return e.of(c) }))
}

// may reports whether an event may be of a connection that is wanted.
func (x *explainFlags) may(e *events.Event) bool {
	return x.want(&explain.Connection{
		Conn: e.Conn, Local: netip.AddrPortFrom(e.LAddr, e.LPort), Remote: netip.AddrPortFrom(e.RAddr, e.RPort),
	})
}

// foundError is what --fail-on makes of findings.
type foundError []*explain.Finding

func (list foundError) Error() string {
	var parts []string
	for _, f := range list {
		parts = append(parts, fmt.Sprintf("%s (%s)", f.ID, plural(f.Count, "connection")))
	}
	return "found " + strings.Join(parts, ", ") + ", which --fail-on makes a failure"
}

// explainer is a sink that explains what it gets.
type explainer struct {
	engine  *explain.Engine
	begun   time.Time // of what is watched; zero: unknown
	watched string
}

// newExplainer explains events of this host, or if it is not nil of src.
func (a *app) newExplainer(cmd *cobra.Command, f *streamFlags, settings func([]uint32) ([]events.Settings, error), src *record.Source) *explainer {
	o := explain.Options{Settings: func(netns uint32) *events.Settings {
		if settings == nil {
			return nil
		}
		list, err := settings([]uint32{netns})
		if err != nil {
			settings = nil // once is enough
			a.say("warning: settings of network namespaces are not known: %v", err)
		}
		if len(list) == 0 {
			return nil
		}
		return &list[0]
	}}
	if f.explain.chosen() {
		o.Only, o.May = f.explain.want, f.explain.may
	}
	x := &explainer{engine: explain.New(o), begun: time.Now(), watched: f.traced(cmd, false)}
	if src != nil {
		x.begun, x.watched = src.Begin(), f.recorded(cmd, src)
	}
	return x
}

// Append implements [pipeline.Sink].
func (x *explainer) Append(batch []events.Event) error {
	for i := range batch {
		x.engine.Add(&batch[i])
	}
	return nil
}

// Tick implements [pipeline.Sink].
func (*explainer) Tick(func() events.Summary) error { return nil }

// Finish implements [pipeline.Sink].
func (*explainer) Finish(*events.Summary) error { return nil }

// both are sinks that get the same, the second after the first.
type both [2]pipeline.Sink

func (b both) Append(batch []events.Event) error {
	if err := b[0].Append(batch); err != nil {
		return err
	}
	return b[1].Append(batch)
}

func (b both) Tick(soFar func() events.Summary) error {
	if err := b[0].Tick(soFar); err != nil {
		return err
	}
	return b[1].Tick(soFar)
}

func (b both) Finish(s *events.Summary) error { return errors.Join(b[0].Finish(s), b[1].Finish(s)) }

// report ends the explainer, whose events end at end; zero: with the last.
func (x *explainer) report(end time.Time) *explain.Report {
	r := x.engine.Report(end)
	if r.End.IsZero() {
		r.End = end // there was no event
	}
	if r.Start.IsZero() || !x.begun.IsZero() && x.begun.Before(r.Start) {
		r.Start = x.begun
	}
	if r.Start.IsZero() || r.End.Before(r.Start) {
		r.Start, r.End = time.Time{}, time.Time{}
	}
	return r
}

// printReport prints what was explained of this host's events, or of src's. It
// returns what --fail-on finds, and an error of stdout.
func (a *app) printReport(f *streamFlags, x *explainer, sum *events.Summary, src *record.Source) (found, err error) {
	end := time.Now()
	if src != nil {
		end = src.End()
	}
	if f.count > 0 && sum.Events == f.count {
		end = time.Time{} // what came after the last one was not looked at
	}
	r := x.report(end)
	r.Count(sum.Counters)
	if sum.Damaged {
		r.Notes = append(r.Notes, "not all of the recording could be read: what is damaged or gone is left out")
	}
	v := explain.View{Color: f.colored(a), NoHeader: f.noHeader, Watched: x.watched, Whole: f.explain.chosen()}
	if a.env.Width != nil {
		v.Width = a.env.Width(a.env.Stdout)
	}
	if f.utc {
		v.Location = time.UTC
	}
	if f.read != nil && !slices.Contains(f.read, "-") {
		v.More = a.name + " explain"
		for _, path := range f.read {
			v.More += " " + quoted(path)
		}
		v.More += " --conn ID"
	}
	switch f.output {
	case format.JSON:
		err = r.WriteJSON(a.out, sum)
	case markdown:
		err = r.WriteMarkdown(a.out, v)
	default:
		err = r.WriteTable(a.out, v)
	}
	if err != nil {
		err = fmt.Errorf("write output: %w", err)
	}
	var list foundError
	for _, finding := range r.Findings {
		if slices.Contains(f.explain.failOn, finding.ID) {
			list = append(list, finding)
		}
	}
	if list != nil {
		found = list
	}
	return found, err
}

// recorded says which recorded events are explained.
func (f *streamFlags) recorded(cmd *cobra.Command, src *record.Source) string {
	info := src.Info()
	text := f.named()
	if info.Host != "" {
		text += " of " + printable(info.Host)
	}
	if info.Kernel != "" {
		text += " (Linux " + printable(info.Kernel) + ")"
	}
	for _, flags := range []string{printable(info.Filters), filterFlags(cmd)} {
		if flags != "" {
			text += " with " + flags
		}
	}
	return text
}
