// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tcptrace/tcptrace/internal/marked"
)

// Where the tables stand.
var (
	readmeSection = marked.Section{Name: "cost", By: "make bench"}
	docsSection   = marked.Section{Name: "performance", By: "make bench"}
)

// Report is what was measured. What was not is nil.
type Report struct {
	host         host
	rounds       int
	storm, lossy *comparison
	formats      []formatTrial
	recordings   *recordings
	starts       []startTrial
	lone         []time.Duration
	healthy      []healthyResult
	userSpace    []goBenchmark
}

// Write puts the tables into the documents.
func (r *Report) Write(readme, docs string) error {
	if err := readmeSection.Write(readme, r.Headline()); err != nil {
		return err
	}
	return docsSection.Write(docs, r.Markdown())
}

// Headline is the small table.
func (r *Report) Headline() string {
	var b strings.Builder
	if r.storm != nil {
		var rows [][]string
		for _, s := range r.storm.Series {
			if s.Tool == toolUntraced {
				continue
			}
			rows = append(rows, []string{s.Tool, r.storm.kernelCell(s), r.storm.cpuCell(s), s.lostCell()})
		}
		writeTable(&b, []string{"tool", "kernel time an event", "CPU an event, all in all", "events lost"}, rows)
		writeDisturbed(&b, r.storm.most((*trial).foreign))
	}
	return b.String()
}

// Markdown is all of it.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s; %d rounds.\n", r.host, r.rounds)
	section := func(title string) { fmt.Fprintf(&b, "\n### %s\n\n", title) }
	section("Targets")
	var rows [][]string
	for _, t := range r.targets() {
		rows = append(rows, []string{t.what, t.limit, t.measured, t.verdict()})
	}
	writeTable(&b, []string{"", "target", "measured", ""}, rows)
	if r.storm != nil {
		section("Storm of refused connections")
		fmt.Fprintf(&b, "%s events: for each connection two state changes, a reset sent and a reset received.\n\n", thousands(r.storm.events()))
		r.storm.write(&b, true)
	}
	if r.lossy != nil {
		section("Lossy bulk transfer")
		fmt.Fprintf(&b, "%s retransmissions.\n\n", thousands(r.lossy.events()))
		r.lossy.write(&b, false)
	}
	if r.storm != nil || r.lossy != nil {
		section("Each program")
		rows = nil
		for _, c := range []*comparison{r.storm, r.lossy} {
			rows = append(rows, c.programRows()...)
		}
		writeTable(&b, []string{"load", "tool", "program", "runs", "time a run"}, rows)
	}
	if r.formats != nil {
		section("Formats in the storm")
		writeTable(&b, []string{"format", "to a", "user CPU an event", "peak memory", "events", "printed", "lost", "skipped by the kernel", "unexplained"}, r.formatRows())
		foreign := 0.0
		for _, t := range r.formats {
			foreign = max(foreign, float64(t.Foreign)/float64(t.Events))
		}
		writeDisturbed(&b, foreign)
	}
	if r.recordings != nil {
		section("Recordings")
		records, replays, explains := r.recordings.rows()
		writeTable(&b, []string{"load", "recorded by", "events", "ends of connections", "retransmissions", "bytes an event", "user CPU an event", "at its least", "peak memory", "lost"}, records)
		b.WriteString("\nReplayed on one processor, with a filter that shows nothing:\n\n")
		writeTable(&b, []string{"load", "events", "a second of CPU", "peak memory"}, replays)
		b.WriteString("\nExplained on one processor. In the storm every fourth event is a connection in trouble; a report lists 20,000:\n\n")
		writeTable(&b, []string{"load", "events", "a second of CPU", "peak memory"}, explains)
		if day := r.recordings.blockADay(); day > 0 {
			fmt.Fprintf(&b, "\nA flight recorder that has one refused connection to write in every second, the least that can fill a block, "+
				"writes %.0f bytes each time: %.0f MiB a day. Where nothing happens it writes nothing.\n", median(r.recordings.Blocks), day)
		}
	}
	if r.starts != nil || r.lone != nil {
		section("Start, memory, delay")
		writeTable(&b, []string{"", "median", "highest"}, r.startRows())
	}
	if r.healthy != nil {
		section("Healthy load")
		rows = nil
		for _, h := range r.healthy {
			rate := median(list(h.Without, func(p pace) float64 { return p.Rate }))
			cpu := median(list(h.Without, func(p pace) float64 { return p.CPU }))
			rows = append(rows, []string{h.Load, thousands(rate), intervalCell(h.Rates), fmt.Sprintf("%.1f µs", cpu/1e3), intervalCell(h.CPUs)})
		}
		writeTable(&b, []string{"", "a second without", "with `tcptrace retrans`, as a ratio", "CPU of one without", "with, as a ratio"}, rows)
	}
	if r.userSpace != nil {
		section("User space, piece by piece")
		rows = nil
		for _, g := range r.userSpace {
			rows = append(rows, []string{g.Name, fmt.Sprintf("%.0f ns", g.Nanos), fmt.Sprint(g.Allocs)})
		}
		writeTable(&b, []string{"benchmark", "time", "allocations"}, rows)
	}
	return b.String()
}

// notShown is said of an interval that is too wide.
const notShown = "not shown"

// intervalCell shows a ratio with its 95% interval.
func intervalCell(ratios []float64) string {
	i := ratioInterval(ratios)
	text := fmt.Sprintf("%.3f (%.3f to %.3f)", i.Mean, i.Low, i.High)
	if !(i.halfWidth() < healthyWidth) { // also if it is not a number
		return fmt.Sprintf("%s: %s is wider than ±%.0f%%", notShown, text, 100*healthyWidth)
	}
	return text
}

// events is the median of the rounds.
func (c *comparison) events() float64 {
	s := c.Series[0]
	for _, other := range c.Series {
		if len(other.Trials) > 0 {
			s = other
		}
	}
	return median(s.values(func(t *trial) float64 { return float64(t.Events) }))
}

func (c *comparison) write(b *strings.Builder, cpu bool) {
	head := []string{"tool", "kernel time an event", "to the floor's", "CPU an event, all in all", "events a second", "events lost"}
	var rows [][]string
	for _, s := range c.Series {
		rate := median(s.values(func(t *trial) float64 { return float64(t.Events) / t.Took.Seconds() }))
		row := []string{s.Tool, c.kernelCell(s), c.ratioCell(s), c.cpuCell(s), thousands(rate), s.lostCell()}
		if s.Absent != nil {
			row = []string{s.Tool, "not measured: " + oneLine(s.Absent.Error()), "", "", "", ""}
		}
		rows = append(rows, row)
	}
	if !cpu { // lost in what the load itself takes
		head = slices.Delete(head, 3, 4)
		for i := range rows {
			rows[i] = slices.Delete(rows[i], 3, 4)
		}
	}
	writeTable(b, head, rows)
	writeDisturbed(b, c.most((*trial).foreign))
	hidden := int(c.most(func(t *trial) float64 { return float64(t.hidden()) }))
	if hidden > 0 {
		fmt.Fprintf(b, "\nThis kernel hid up to %d events a round from BPF programs. They count as lost by nobody.\n", hidden)
	}
}

// most is the highest value of all trials.
func (c *comparison) most(f func(*trial) float64) (v float64) {
	for _, s := range c.Series {
		for i := range s.Trials {
			v = max(v, f(&s.Trials[i]))
		}
	}
	return v
}

// writeDisturbed says that others made events too, the given share at most.
func writeDisturbed(b *strings.Builder, share float64) {
	if share > 0.01 {
		fmt.Fprintf(b, "\n**The machine was not quiet**: others made up to %.0f%% as many events meanwhile.\n", 100*share)
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (c *comparison) kernelCell(s *series) string {
	if s.Absent != nil {
		return "not measured"
	}
	if v := median(s.values((*trial).kernelCost)); v > 0 {
		return fmt.Sprintf("%.0f ns", v)
	}
	return "-"
}

func (c *comparison) ratioCell(s *series) string {
	if v := c.ratio(s.Tool, toolFloor, (*trial).kernelCost); v > 0 {
		return fmt.Sprintf("%.2f", v)
	}
	return "-"
}

// cpuCost is the CPU of load and tool together for an event, beyond what the
// load takes untraced: the median of the rounds, in nanoseconds.
func (c *comparison) cpuCost(tool string) float64 {
	s, untraced := c.find(tool), c.find(toolUntraced)
	if s == nil || untraced == nil || tool == toolUntraced {
		return math.NaN()
	}
	var costs []float64
	for i := range min(len(s.Trials), len(untraced.Trials)) {
		t, u := &s.Trials[i], &untraced.Trials[i]
		costs = append(costs, float64(t.CPU)/float64(t.Events)-float64(u.CPU)/float64(u.Events))
	}
	return median(costs)
}

func (c *comparison) cpuCell(s *series) string {
	if v := c.cpuCost(s.Tool); !math.IsNaN(v) {
		return fmt.Sprintf("%.0f ns", v)
	}
	return "-"
}

// lostCell is the median share, and the number where it is small.
func (s *series) lostCell() string {
	if len(s.Trials) == 0 || s.Tool == toolUntraced {
		return "-"
	}
	most := 0
	for i := range s.Trials {
		most = max(most, s.Trials[i].lost())
	}
	share := median(s.values(func(t *trial) float64 { return float64(t.lost()) / float64(t.Events) }))
	switch {
	case most == 0:
		return "0"
	case share < 0.001:
		return fmt.Sprintf("up to %d a round", most)
	}
	return fmt.Sprintf("%.1f%%", 100*share)
}

// programRows are those of the tools that are measured by their programs.
func (c *comparison) programRows() (rows [][]string) {
	if c == nil {
		return nil
	}
	for _, s := range c.Series {
		names := map[string]bool{}
		for _, t := range s.Trials {
			for name := range t.Programs {
				names[name] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			runs := median(s.values(func(t *trial) float64 { return float64(t.Programs[name].Runs) }))
			if runs == 0 { // others' events, in some rounds
				continue
			}
			cost := median(s.values(func(t *trial) float64 {
				return float64(t.Programs[name].Time) / float64(max(1, t.Programs[name].Runs))
			}))
			rows = append(rows, []string{c.Load, s.Tool, "`" + name + "`", thousands(runs), fmt.Sprintf("%.0f ns", cost)})
		}
	}
	return rows
}

func (r *Report) formatRows() (rows [][]string) {
	for _, format := range formats {
		for _, sink := range sinks {
			var user, memory []float64
			var sum formatTrial
			for _, t := range r.formats {
				if t.Format != format || t.Sink != sink {
					continue
				}
				user = append(user, t.userCost())
				memory = append(memory, mib(t.Memory.Peak+t.Memory.Maps))
				sum.Events += t.Events
				sum.Printed += t.Printed
				sum.Lost += t.Lost
				sum.Misses += t.Misses
				sum.Hidden += t.unexplained()
			}
			if user == nil {
				continue
			}
			rows = append(rows, []string{
				format, sink, fmt.Sprintf("%.0f ns", median(user)), fmt.Sprintf("%.0f MiB", slices.Max(memory)),
				thousands(float64(sum.Events)), thousands(float64(sum.Printed)), fmt.Sprint(sum.Lost),
				fmt.Sprint(sum.Events - sum.Printed - sum.Lost - sum.Hidden), fmt.Sprint(sum.Hidden),
			})
		}
	}
	return rows
}

func (r *Report) startRows() (rows [][]string) {
	row := func(name, format string, values []float64) {
		rows = append(rows, []string{name, fmt.Sprintf(format, median(values)), fmt.Sprintf(format, slices.Max(values))})
	}
	if r.starts != nil {
		row("from exec until everything is attached", "%.0f ms", list(r.starts, func(t startTrial) float64 { return millis(t.Attached) }))
		row("CPU for a start and an end", "%.0f ms", list(r.starts, func(t startTrial) float64 { return millis(t.CPU) }))
		row("memory of the process, idle, without the ring buffer", "%.1f MiB", list(r.starts, func(t startTrial) float64 { return mib(t.Memory.Peak) }))
		row("memory of BPF maps, without the ring buffer", "%.1f MiB", list(r.starts, func(t startTrial) float64 { return mib(t.Memory.Maps) }))
	}
	if r.lone != nil {
		row("a lone event, until its line is read from a pipe", "%.0f ms", list(r.lone, millis))
	}
	return rows
}

func millis(d time.Duration) float64 { return d.Seconds() * 1e3 }

func list[T any](all []T, f func(T) float64) (values []float64) {
	for _, v := range all {
		values = append(values, f(v))
	}
	return values
}

// thousands writes 1234567 as 1,234,567.
func thousands(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// writeTable writes a table in Markdown.
func writeTable(b *strings.Builder, head []string, rows [][]string) {
	line := func(cells []string) {
		for _, c := range cells {
			fmt.Fprintf(b, "| %s ", strings.ReplaceAll(c, "|", `\|`))
		}
		b.WriteString("|\n")
	}
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, r := range rows {
		line(r)
	}
}
