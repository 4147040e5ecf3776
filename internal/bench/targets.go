// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// The targets.
const (
	floorLimit    = 1.5
	bpftraceLimit = 0.5
	loneLimit     = 200 * time.Millisecond
	userLimit     = 1000 // ns
	memoryLimit   = 64   // MiB
	startLimit    = 300 * time.Millisecond
	healthyWidth  = 0.02
	recordLimit   = 500        // ns
	bytesLimit    = 24         // an event
	bytesShare    = 0.3        // of retransmissions, at least
	bytesOf       = 2 * 1000   // ends of connections: both are here
	replayLimit   = 2e6        // events a second, at least
	explainLimit  = 10e6 / 30. // events a second, at least
	lengthLimit   = 1.25       // memory for ten times the length
)

// target is what was aimed at, and what came of it.
type target struct {
	what, limit, measured string
	state                 state
}

type state uint8

const (
	notMeasured state = iota
	missed
	reached
)

func (t target) verdict() string {
	return [...]string{"not measured", "**not reached**", "reached"}[t.state]
}

// within is reached if the value is at most the limit; it is not measured if
// the value is not a number.
func within(what, limit, format string, value, most float64) target {
	t := target{what: what, limit: limit, measured: "-"}
	if math.IsNaN(value) {
		return t
	}
	t.measured, t.state = fmt.Sprintf(format, value), missed
	if value <= most {
		t.state = reached
	}
	return t
}

func (r *Report) targets() (all []target) {
	cost, half := math.NaN(), math.NaN()
	if r.storm != nil {
		cost = r.storm.ratio(toolTcptrace, toolFloor, (*trial).kernelCost)
		half = r.storm.ratio(toolTcptrace, toolBpftrace, (*trial).kernelCost)
	}
	all = append(all,
		within("kernel time an event in the storm, to the floor's", "at most 1.5", "%.2f", cost, floorLimit),
		within("kernel time an event in the storm, to bpftrace's", "at most 0.5", "%.2f", half, bpftraceLimit),
		within("a lone event is shown after, the longest", "at most 200 ms", "%.0f ms", highest(list(r.lone, millis)), millis(loneLimit)),
		r.lossTarget())
	for _, format := range []string{"table", "json"} {
		var user []float64
		for _, t := range r.formats {
			if t.Format == format {
				user = append(user, t.userCost())
			}
		}
		all = append(all, within("user CPU an event, "+format, "at most 1,000 ns", "%.0f ns", median(user), userLimit))
	}
	allocs := math.NaN()
	for _, g := range r.userSpace {
		if g.perEvent() {
			allocs = math.Max(float64(g.Allocs), zeroIfNaN(allocs))
		}
	}
	all = append(all, within("allocations an event in decoding and formatting", "0", "%.0f", allocs, 0))
	idle := list(r.starts, func(t startTrial) float64 { return mib(t.Memory.Peak + t.Memory.Maps) })
	busy := list(r.formats, func(t formatTrial) float64 { return mib(t.Memory.Peak + t.Memory.Maps) })
	all = append(all,
		within("memory beside the ring buffer, idle, the highest", "at most 64 MiB", "%.0f MiB", highest(idle), memoryLimit),
		within("memory beside the ring buffer, in the storm, the highest", "at most 64 MiB", "%.0f MiB", highest(busy), memoryLimit),
		within("everything is attached after, the median", "at most 300 ms", "%.0f ms",
			median(list(r.starts, func(t startTrial) float64 { return millis(t.Attached) })), millis(startLimit)))
	recorded := r.recordings
	if recorded == nil {
		recorded = &recordings{}
	}
	all = append(all, recorded.targets()...)
	for _, h := range r.healthy {
		for _, of := range []struct {
			what   string
			ratios []float64
		}{{"rate", h.Rates}, {"CPU", h.CPUs}} {
			width := ratioInterval(of.ratios).halfWidth()
			all = append(all, within(h.Load+", healthy: 95% interval of the ratio of "+of.what,
				"narrower than ±2%", "±%.2f%%", 100*width, 100*healthyWidth))
		}
	}
	return all
}

func (r *recordings) targets() []target {
	loss := target{what: "events lost in the storm while recording", limit: "0", measured: "-"}
	if r.Records != nil {
		lost, unexplained := r.lost()
		loss.measured, loss.state = lossCell(lost, unexplained)
	}
	record, _ := r.userCost(loadStorm, howRecord)
	beside, _ := r.userCost(loadStorm, howBeside)
	return []target{
		within("bytes an event on disk, of a lossy crowd, the highest", "at most 24", "%.1f",
			r.bytesEach(loadCrowd, bytesShare, bytesOf), bytesLimit),
		within("user CPU an event in the storm, `record`", "at most 500 ns", "%.0f ns", record, recordLimit),
		within("user CPU an event in the storm, `-w` beside a table", "at most 500 ns", "%.0f ns", beside, recordLimit),
		loss,
		beyond("events replayed a second, the storm", "at least 2 million", "%.1f million", r.replayRate(loadStorm), replayLimit, 1e6),
		beyond("events replayed a second, a lossy crowd", "at least 2 million", "%.1f million", r.replayRate(loadCrowds), replayLimit, 1e6),
		beyond("events explained a second, the storm", "at least 0.33 million", "%.2f million", r.explainRate(loadStorm), explainLimit, 1e6),
		beyond("events explained a second, a lossy crowd", "at least 0.33 million", "%.2f million", r.explainRate(loadCrowds), explainLimit, 1e6),
		within("memory to record ten times as much, as a ratio", "at most 1.25", "%.2f",
			r.recordPeak(loadStorm)/r.recordPeak(loadShortStorm), lengthLimit),
		within("memory to replay ten times as much, storm, as a ratio", "at most 1.25", "%.2f",
			r.replayPeak(loadStorm)/r.replayPeak(loadShortStorm), lengthLimit),
		within("memory to replay ten times as much, crowd, as a ratio", "at most 1.25", "%.2f",
			r.replayPeak(loadCrowds)/r.replayPeak(loadCrowd), lengthLimit),
	}
}

// beyond is the opposite of within: reached if the value, which is shown in
// a unit, is at least the limit.
func beyond(what, limit, format string, value, least, unit float64) target {
	t := within(what, limit, format, -value, -least)
	if t.state != notMeasured {
		t.measured = fmt.Sprintf(format, value/unit)
	}
	return t
}

// lossTarget is reached if no format lost an event in any round.
func (r *Report) lossTarget() target {
	t := target{what: "events lost in the storm, every format, file and pipe", limit: "0", measured: "-"}
	if r.formats == nil {
		return t
	}
	lost, unexplained := 0, 0
	for i := range r.formats {
		lost += r.formats[i].Lost
		unexplained += r.formats[i].unexplained()
	}
	t.measured, t.state = lossCell(lost, unexplained)
	return t
}

func lossCell(lost, unexplained int) (measured string, s state) {
	measured = fmt.Sprint(lost)
	if unexplained != 0 {
		measured += fmt.Sprintf(", and %d unexplained", unexplained)
	}
	if lost != 0 || unexplained != 0 {
		return measured, missed
	}
	return measured, reached
}

func highest(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	return slices.Max(list)
}

func lowest(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	return slices.Min(list)
}

func zeroIfNaN(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return v
}
