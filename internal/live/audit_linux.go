// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/tcptrace/tcptrace/bpf"
	"github.com/tcptrace/tcptrace/internal/netstat"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// How long the reading of counters may take, at the start and at the end. One
// namespace takes less than a millisecond.
const (
	firstReading = 250 * time.Millisecond
	lastReading  = time.Second
)

// The kernel's counters that are set beside ours.
const (
	retransSegs    = "RetransSegs"
	tcpSynRetrans  = "TCPSynRetrans"
	tcpRetransFail = "TCPRetransFail"
	outRsts        = "OutRsts"
	tcpAbortFailed = "TCPAbortFailed" // which OutRsts counts too
)

// told are those of what has no event: SYNs and last ACKs of handshakes that met
// a full accept queue, SYNs that met a full SYN queue, and segments for a
// connection in TIME_WAIT whose timestamps are old. Not every kernel has all.
var told = [...]string{"ListenOverflows", "TCPReqQFullDrop", "PAWSTimewait"}

// auditor sets beside each other what the kernel counted in each network
// namespace and what the kernel side counted there before any filter. Between
// two readings both counted the same events, but for those that came while one
// was made: ours are read before the kernel's and after them. In between it
// waits until no event is counted by one of the two alone, for which an event's
// lines in the kernel run inside one RCU read section, or nearly always do.
//
// What the kernel counts and shows to nobody, or the other way round: -EBUSY
// from a device, in RetransSegs; resets over IPv6 that find no route.
type auditor struct {
	nets   *ebpf.Map // which of ours are a namespace's, by net_key()
	ours   *ebpf.Map
	slots  *ebpf.Map  // which of ours are given away
	totals *ebpf.Map  // whose caches name some of them
	iter   *link.Iter // over the namespaces of all threads; nil: only the own namespace is read
	own    uint32     // inode number of the own namespace; 0 unknown
	wanted []uint32   // inode numbers; nil: all

	retransmits, resets bool   // what is traced
	outcomes            bool   // the kernel shows retransmissions that failed
	hiddenResets        string // why OutRsts also counts what no program sees; "" if it doesn't
	othersNote          string // why other namespaces can't be read

	first *reading
	limbo []uint32 // of ours: they were a namespace's that is gone
}

// The keys of the map of counts are those of net_key(). These are of none.
const (
	noRoom = 0              // counts of namespaces that found no room
	ownKey = math.MaxUint64 // of the own namespace, where its key is unknown
)

// reading is what both sides have counted at one moment, by namespace.
type reading struct {
	before, after map[uint64]counts // ours, read before the kernel's and after
	kernel        map[uint64]counters
	alive         map[uint64]bool // all namespaces with a thread, wanted or not
}

// counts are ours in one namespace.
type counts = bpf.TcptraceAudit

// counters are the kernel's in one namespace. What is in netstat may be read
// twice, before the others and after.
type counters struct {
	netns                uint32
	retransSegs, outRsts uint64
	early, late          ext
	told                 [len(told)]uint64
	note                 string // why they are not known; "" if they are
}

// ext is of netstat.
type ext struct{ synRetrans, retransFail, abortFailed uint64 }

// start makes the first reading.
func (a *auditor) start() (err error) {
	a.first, err = a.read(firstReading)
	return err
}

// finish makes the last reading, and sets in sum what it says of the time since
// the first. It is the first of the next audit.
func (a *auditor) finish(sum *events.Summary) error {
	last, err := a.read(lastReading)
	if err != nil {
		return err
	}
	a.sum(last, sum)
	err = a.forget(last)
	a.first = last
	return err
}

func (a *auditor) sum(last *reading, s *events.Summary) {
	s.Audit, s.Checked = a.judge(a.first, last)
	s.Counters = a.rises(a.first, last)
}

// forget makes room for other namespaces: it takes back the counts of those that
// had no thread at both readings, and no event since the first. A CPU may still
// take the last one it had for one of these; so they are given away again only
// when none does any more.
func (a *auditor) forget(last *reading) error {
	if a.iter == nil || a.first == nil {
		return nil
	}
	var perCPU []bpf.TcptraceTotals
	if err := a.totals.Lookup(uint32(0), &perCPU); err != nil {
		return fmt.Errorf("read which namespaces came last: %w", err)
	}
	var errs []error
	a.limbo = slices.DeleteFunc(a.limbo, func(slot uint32) bool {
		if slices.ContainsFunc(perCPU, func(t bpf.TcptraceTotals) bool { return uint32(t.Net&0xffff) == slot }) {
			return false
		}
		errs = append(errs, a.ours.Put(slot, make([]counts, len(perCPU))), a.slots.Delete(slot))
		return true
	})
	for key, c := range last.after {
		old, known := a.first.before[key]
		if key == noRoom || last.alive[key] || a.first.alive[key] || !known || old != c {
			continue
		}
		var slot uint32
		if err := a.nets.Lookup(key, &slot); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := a.nets.Delete(key); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(last.before, key)
		delete(last.after, key)
		a.limbo = append(a.limbo, slot)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("forget a namespace that is gone: %w", err)
	}
	return nil
}

// read makes a reading. What takes longer than limit is not in it.
func (a *auditor) read(limit time.Duration) (*reading, error) {
	r := &reading{alive: map[uint64]bool{}}
	var err error
	if r.before, err = a.readOurs(); err != nil {
		return nil, err
	}
	settle()
	if r.kernel, err = a.readKernels(r, time.Now().Add(limit)); err != nil {
		return nil, err
	}
	settle()
	r.after, err = a.readOurs()
	return r, err
}

// readOurs reads the counts of all namespaces.
func (a *auditor) readOurs() (map[uint64]counts, error) {
	n := int(a.nets.MaxEntries())
	keys, slots := make([]uint64, n), make([]uint32, n)
	var cursor ebpf.MapBatchCursor
	n, err := a.nets.BatchLookup(&cursor, keys, slots, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // which says that this is all
		return nil, fmt.Errorf("read which namespaces were counted: %w", err)
	}
	keys, slots = append(keys[:n], noRoom), append(slots[:n], 0)
	out := make(map[uint64]counts, n+1)
	var perCPU []counts
	for i, key := range keys {
		if err := a.ours.Lookup(slots[i], &perCPU); err != nil {
			return nil, fmt.Errorf("read counts of a namespace: %w", err)
		}
		var sum counts
		for _, c := range perCPU {
			sum.Segments += c.Segments
			sum.Synacks += c.Synacks
			sum.Syns += c.Syns
			sum.Failed += c.Failed
			sum.Resets += c.Resets
			sum.Netns = max(sum.Netns, c.Netns) // where one was counted on that CPU
		}
		if a.iter == nil && key != noRoom && sum.Netns == a.own {
			key = ownKey
		}
		out[key] = sum
	}
	return out, nil
}

// maxRounds bounds how often it looks for another thread in a namespace, whose
// thread has ended while the counters were read.
const maxRounds = 4

// readKernels reads the counters of all namespaces that are wanted and have a
// thread, until the deadline. Those come first that have counts of ours.
func (a *auditor) readKernels(r *reading, deadline time.Time) (map[uint64]counters, error) {
	done := map[uint64]counters{}
	if a.iter == nil {
		if a.wants(a.own) {
			done[ownKey] = a.readCounters("self", a.own)
		}
		return done, nil
	}
	type read struct {
		by dweller
		counters
	}
	unsure := map[uint64]read{} // until that thread is seen there again
	urgent := func(d dweller) int {
		if _, ok := r.before[d.net]; ok || d.netns == a.own {
			return 0
		}
		return 1
	}
	late := false
	for round := 1; ; round++ {
		// The thread with the lowest number of each namespace: often the oldest.
		next := map[uint64]dweller{}
		err := eachRecord(a.iter, new(bufio.Reader), dwellerLen, func(b []byte) bool {
			d := dwellerOf(b)
			r.alive[d.net] = true
			if _, ok := next[d.net]; !ok && a.wants(d.netns) {
				next[d.net] = d
			}
			if r, ok := unsure[d.net]; ok && r.by == d {
				done[d.net] = r.counters
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("look for network namespaces: %w", err)
		}
		maps.DeleteFunc(next, func(key uint64, _ dweller) bool { _, ok := done[key]; return ok })
		if len(next) == 0 {
			return done, nil
		}
		if late || round == maxRounds {
			note := noteUnreadable
			if late {
				note = noteLate
			}
			for key, d := range next {
				done[key] = counters{netns: d.netns, note: note}
			}
			return done, nil
		}
		clear(unsure)
		for _, d := range slices.SortedFunc(maps.Values(next), func(x, y dweller) int {
			return cmp.Or(cmp.Compare(urgent(x), urgent(y)), cmp.Compare(x.tid, y.tid))
		}) {
			if late = time.Now().After(deadline); late {
				break
			}
			if d.netns == a.own { // also where the processes of others are hidden
				done[d.net] = a.readCounters("self", d.netns)
				continue
			}
			unsure[d.net] = read{d, a.readCounters(strconv.FormatUint(uint64(d.tid), 10), d.netns)}
		}
	}
}

func (a *auditor) wants(netns uint32) bool {
	return a.wanted == nil || slices.Contains(a.wanted, netns)
}

// dweller is a thread and its network namespace.
type dweller struct {
	net        uint64
	netns, tid uint32
}

const dwellerLen = 16 // struct dweller of bpf/record.h

func dwellerOf(b []byte) dweller {
	le := binary.LittleEndian
	return dweller{net: le.Uint64(b), netns: le.Uint32(b[8:]), tid: le.Uint32(b[12:])}
}

// readCounters reads what the kernel counted in a task's namespace. It needs no
// right.
func (a *auditor) readCounters(task string, netns uint32) counters {
	c := counters{netns: netns}
	err := a.readExt(task, &c.early, &c.told)
	if err == nil {
		err = a.readFile(task, "snmp", 2, func(name string) (*uint64, bool) {
			switch name {
			case retransSegs:
				return &c.retransSegs, true
			case outRsts:
				return &c.outRsts, true
			}
			return nil, false
		})
	}
	if c.late = c.early; err == nil && (a.resets || !a.outcomes) {
		err = a.readExt(task, &c.late, nil)
	}
	if err != nil {
		return counters{netns: netns, note: noteUnreadable}
	}
	return c
}

// readExt reads what is in netstat, and told if it is not nil.
func (a *auditor) readExt(task string, x *ext, also *[len(told)]uint64) error {
	return a.readFile(task, "netstat", 3, func(name string) (*uint64, bool) {
		switch name {
		case tcpSynRetrans:
			return &x.synRetrans, true
		case tcpRetransFail:
			return &x.retransFail, true
		case tcpAbortFailed:
			return &x.abortFailed, true
		}
		if i := slices.Index(told[:], name); i >= 0 && also != nil {
			return &also[i], false
		}
		return nil, false
	})
}

// readFile sets those counters of TCP in a file of /proc for which find knows a
// place, n of which must be there.
func (a *auditor) readFile(task, file string, n int, find func(name string) (at *uint64, must bool)) error {
	text, err := os.ReadFile("/proc/" + task + "/net/" + file)
	if err != nil {
		return err
	}
	err = netstat.Each(string(text), func(group, name string, value uint64) {
		if group != "Tcp" && group != "TcpExt" {
			return
		}
		at, must := find(name)
		if at != nil {
			*at = value
		}
		if must {
			n--
		}
	})
	if err == nil && n != 0 {
		err = fmt.Errorf("%s lacks counters", file)
	}
	return err
}

// The notes on what is unchecked.
const (
	noteGone       = "gone, or without a process"
	noteUnreadable = "unreadable"
	noteLate       = "not read in time"
	noteBegin      = "no reading from its start"
	noteFell       = "its counters fell"
	noteNoRoom     = "more namespaces than can be counted"
)

// span is what both sides counted in one namespace from one reading to another.
type span struct {
	netns               uint32
	b0, b1, e0, e1      counts // ours: before and after the first reading, before and after the last
	k0, k1              counters
	since               bool   // k0 is a reading; else the namespace is newer, if all goes well
	counted             bool   // there are counts of ours
	note                string // why k1 is not known; "" if it is
	failLeast, failMost uint64 // of TCPRetransFail
	abortMost           uint64 // of TCPAbortFailed
}

// rises are those of the counters that tell of what has no event.
func (a *auditor) rises(first, last *reading) (list []events.Counter) {
	for key, now := range last.kernel {
		then, known := first.kernel[key]
		if now.note != "" || then.note != "" || !known && first.alive[key] {
			continue
		}
		for i, name := range told { // a new namespace began with 0
			if n := less(now.told[i], then.told[i]); n > 0 {
				list = append(list, events.Counter{NetNS: now.netns, Counter: name, Rise: n})
			}
		}
	}
	slices.SortFunc(list, func(x, y events.Counter) int {
		return cmp.Or(cmp.Compare(x.NetNS, y.NetNS), cmp.Compare(x.Counter, y.Counter))
	})
	return list
}

// judge compares two readings. It leaves out namespaces in which nothing
// happened, but for the own and those that were asked for; checked counts all
// of which at least one counter could be compared.
func (a *auditor) judge(first, last *reading) (rows []events.Audit, checked int) {
	for _, s := range a.spans(first, last) {
		list := a.compare(&s, last.after[noRoom])
		if slices.ContainsFunc(list, func(r events.Audit) bool { return r.Verdict != events.Unchecked }) {
			checked++
		}
		for i, r := range list {
			switch {
			case r.Verdict == events.Exact && r.Kernel == 0:
				if a.wanted == nil && r.NetNS != a.own {
					continue
				}
			case r.Verdict == events.Unchecked && r.Traced+r.Bracket == 0:
				if r.Note == s.note && i > 0 { // nothing of it is known: once
					continue
				}
				if r.Note == noteGone && !s.since && a.wanted == nil { // it was gone before
					continue
				}
			}
			rows = append(rows, r)
		}
	}
	if over := last.after[noRoom]; a.wanted == nil {
		s := span{e0: over, e1: over, note: noteNoRoom}
		for _, r := range a.compare(&s, counts{}) {
			if r.Traced > 0 {
				rows = append(rows, r)
			}
		}
	}
	return rows, checked
}

// spans are those of all namespaces that are of interest.
func (a *auditor) spans(first, last *reading) (list []span) {
	netns := map[uint64]uint32{}
	add := func(key uint64, n uint32) {
		if key != noRoom && a.wants(n) {
			netns[key] = n
		}
	}
	for key, c := range last.after {
		add(key, c.Netns)
	}
	for _, r := range []*reading{first, last} {
		for key, c := range r.kernel {
			add(key, c.netns)
		}
	}
	missing := slices.Clone(a.wanted)
	for _, key := range slices.SortedFunc(maps.Keys(netns), func(x, y uint64) int {
		return cmp.Or(cmp.Compare(netns[x], netns[y]), cmp.Compare(x, y))
	}) {
		s := span{netns: netns[key], b0: first.before[key], b1: first.after[key], e0: last.before[key]}
		s.e1, s.counted = last.after[key]
		k1, there := last.kernel[key]
		switch {
		case a.iter == nil && key != ownKey:
			s.note = a.othersNote
		case !there:
			s.note = noteGone
		default:
			s.k1, s.note = k1, k1.note
		}
		if k0, ok := first.kernel[key]; ok && k0.note == "" {
			s.since, s.k0 = true, k0
		}
		list = append(list, s)
		missing = slices.DeleteFunc(missing, func(n uint32) bool { return n == s.netns })
	}
	for _, n := range missing {
		note := noteGone
		if a.iter == nil {
			note = a.othersNote
		}
		list = append(list, span{netns: n, note: note})
	}
	return list
}

// compare makes the rows of one namespace. over are the counts that found no
// room, which may be this one's.
func (a *auditor) compare(s *span, over counts) (rows []events.Audit) {
	if s.note == "" {
		s.failLeast = less(s.k1.early.retransFail, s.k0.late.retransFail)
		s.failMost = less(s.k1.late.retransFail, s.k0.early.retransFail)
		s.abortMost = less(s.k1.late.abortFailed, s.k0.early.abortFailed)
	}
	// least and most are what is to be added to ours.
	row := func(counter string, ours func(*counts) uint64, k0, k1, least, most uint64, note string) {
		r := events.Audit{NetNS: s.netns, Counter: counter, Note: cmp.Or(s.note, note)}
		r.Traced = less(ours(&s.e0), ours(&s.b1)) + least
		r.Bracket = less(less(ours(&s.e1), ours(&s.b0))+most, r.Traced)
		if r.Note == "" && k1 < k0 {
			r.Note = noteFell
		}
		if r.Note == "" {
			r.Kernel = k1 - k0
			r.Verdict = events.Judge(r.Kernel, r.Traced, r.Bracket)
			switch {
			case r.Verdict != events.Missing:
			case !s.since:
				r.Note = noteBegin
			case !s.counted && ours(&over) > 0:
				r.Note = noteNoRoom
			}
		}
		if r.Note != "" {
			r.Kernel, r.Verdict = 0, events.Unchecked
		}
		rows = append(rows, r)
	}
	if a.retransmits && a.outcomes {
		row(retransSegs, func(c *counts) uint64 { return c.Segments + c.Synacks + c.Failed }, s.k0.retransSegs, s.k1.retransSegs, 0, 0, "")
		row(tcpRetransFail, func(c *counts) uint64 { return c.Failed }, s.k0.early.retransFail, s.k1.early.retransFail, 0, 0, "")
		row(tcpSynRetrans, func(c *counts) uint64 { return c.Syns + c.Synacks }, s.k0.early.synRetrans, s.k1.early.synRetrans, 0, 0, "")
	}
	if a.retransmits && !a.outcomes { // what failed is in the kernel's counts, without an event
		row(retransSegs, func(c *counts) uint64 { return c.Segments + c.Synacks }, s.k0.retransSegs, s.k1.retransSegs, s.failLeast, s.failMost, "")
		row(tcpSynRetrans, func(c *counts) uint64 { return c.Syns + c.Synacks }, s.k0.late.synRetrans, s.k1.early.synRetrans, 0, s.failMost, "")
	}
	if a.resets { // one that could not be made may have been counted
		row(outRsts, func(c *counts) uint64 { return c.Resets }, s.k0.outRsts, s.k1.outRsts, 0, s.abortMost, a.hiddenResets)
	}
	return rows
}

// less is a - b, and never below 0.
func less(a, b uint64) uint64 { return a - min(a, b) }
