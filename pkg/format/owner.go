// SPDX-License-Identifier: Apache-2.0

package format

import (
	"slices"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// A good part of each line says who owns the socket, and few processes own
// the sockets of most events. So where columns that say it stand side by side,
// a run of them, their text is kept for the next event of the same owner.

// ownerMemo has the texts of some of the owners seen last.
type ownerMemo struct {
	runs    int // in a line
	entries [64]ownerEntry
}

// ownerEntry is one owner: all that columns with the mark "owner" show.
type ownerEntry struct {
	netNS, uid, pid         uint32
	hasUID                  bool
	comm                    events.Comm
	netNSName, user, cgroup string
	unit, container, pod    string
	sharers                 []uint32

	texts []ownerText // one for each run; nil before the first event
}

type ownerText struct {
	known bool
	text  []byte
	pad   int // of tables: spaces that follow if another cell does
}

func (o *ownerEntry) is(e *events.Event) bool {
	return o.pid == e.PID && o.uid == e.UID && o.netNS == e.NetNS && o.hasUID == e.Has(events.HasUID) &&
		o.comm == e.Comm && o.cgroup == e.Cgroup && o.user == e.User && o.netNSName == e.NetNSName &&
		o.unit == e.Unit && o.container == e.Container && o.pod == e.Pod && slices.Equal(o.sharers, e.Sharers)
}

// of returns the entry of e's owner, of which no text may be known.
func (m *ownerMemo) of(e *events.Event) *ownerEntry {
	o := &m.entries[(e.PID^uint32(e.CgroupID)<<3^e.NetNS<<6^e.UID)%uint32(len(m.entries))]
	if o.texts != nil && o.is(e) {
		return o
	}
	o.netNS, o.uid, o.pid, o.hasUID = e.NetNS, e.UID, e.PID, e.Has(events.HasUID)
	o.comm, o.cgroup, o.user, o.netNSName = e.Comm, e.Cgroup, e.User, e.NetNSName
	o.unit, o.container, o.pod, o.sharers = e.Unit, e.Container, e.Pod, e.Sharers
	if o.texts == nil {
		o.texts = make([]ownerText, m.runs)
	}
	for i := range o.texts {
		o.texts[i].known = false
	}
	return o
}

// forget makes all texts unknown.
func (m *ownerMemo) forget() {
	for i := range m.entries {
		for j := range m.entries[i].texts {
			m.entries[i].texts[j].known = false
		}
	}
}

// keep makes a copy of text that of the run.
func (t *ownerText) keep(text []byte, pad int) {
	t.text, t.pad, t.known = append(t.text[:0], text...), pad, true
}

// ownerRun returns how many columns from the first on say who the owner is: 0
// if they are too few to keep their text.
func ownerRun(columns []Column) int {
	n := slices.IndexFunc(columns, func(c Column) bool { return !c.owner })
	if n < 0 {
		n = len(columns)
	}
	if n < 2 {
		return 0
	}
	return n
}
