// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"unsafe"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// The columns of a block's tables: each is declared once, for writer and
// reader. Their numbers and codings are on disk, see
// docs/recording-format.md: add with new numbers, never change one.

// A column holds one field of the rows of a table.
type column struct {
	id    uint8
	name  string // in the document: as in JSON, where JSON has it
	field string // of the struct that is a row
	by    coding
	less  []string // fields of the same row: their sum is subtracted first

	// Of events: which of them have it, usually. One that has a value although
	// it is not among them gets a form of its own.
	on     types
	known  events.Fields
	always types // those of on that have it even if known is not

	at     place
	lessAt []place
	signed bool
	bits   uint // how wide its numbers are
	slot   int  // in a connection's state, if the coding is perConn
}

// coding is what a column's numbers are differences to.
type coding uint8

const (
	plain   coding = iota // no difference
	delta                 // the row before that has the column
	perConn               // the event before of the same connection that has the column
)

// types is a set of event types: bit 1<<type.
type types uint64

const (
	onRetransmit types = 1 << events.Retransmit
	onReset      types = 1 << events.Reset
	onState      types = 1 << events.StateChange
	onLost       types = 1 << events.Lost
	onAll        types = 1<<64 - 1
)

// form is what some of a block's events have in common.
type form struct {
	Type    events.Type
	Known   events.Fields
	Columns uint64 // that its events have: bit 1<<id
}

// conn is what stays the same in a connection's life.
type conn struct {
	Conn, Cookie uint64
	LAddr, RAddr netip.Addr
	LPort, RPort uint16
	Family       uint8
}

func (c *conn) is(e *events.Event) bool {
	return c.Conn == e.Conn && c.Cookie == e.Cookie && c.LPort == e.LPort && c.RPort == e.RPort &&
		c.Family == e.Family && c.LAddr == e.LAddr && c.RAddr == e.RAddr
}

func (c *conn) from(e *events.Event) {
	c.Conn, c.Cookie, c.Family = e.Conn, e.Cookie, e.Family
	c.LAddr, c.RAddr, c.LPort, c.RPort = e.LAddr, e.RAddr, e.LPort, e.RPort
}

func (c *conn) to(e *events.Event) {
	e.Conn, e.Cookie, e.Family = c.Conn, c.Cookie, c.Family
	e.LAddr, e.RAddr, e.LPort, e.RPort = c.LAddr, c.RAddr, c.LPort, c.RPort
}

// owner is who has a socket, and where.
type owner struct {
	NetNS, UID, PID         uint32
	CgroupID                uint64
	Comm                    events.Comm
	NetNSName, User, Cgroup string
	Unit, Container, Pod    string
	Sharers                 []uint32
}

func (o *owner) is(e *events.Event) bool {
	return o.PID == e.PID && o.CgroupID == e.CgroupID && o.NetNS == e.NetNS && o.UID == e.UID && o.Comm == e.Comm &&
		o.NetNSName == e.NetNSName && o.User == e.User && o.Cgroup == e.Cgroup &&
		o.Unit == e.Unit && o.Container == e.Container && o.Pod == e.Pod && slices.Equal(o.Sharers, e.Sharers)
}

func (o *owner) from(e *events.Event) {
	o.NetNS, o.UID, o.PID, o.CgroupID, o.Comm = e.NetNS, e.UID, e.PID, e.CgroupID, e.Comm
	o.NetNSName, o.User, o.Cgroup = e.NetNSName, e.User, e.Cgroup
	o.Unit, o.Container, o.Pod = e.Unit, e.Container, e.Pod
	o.Sharers = append(o.Sharers[:0], e.Sharers...)
}

func (o *owner) to(e *events.Event) {
	e.NetNS, e.UID, e.PID, e.CgroupID, e.Comm = o.NetNS, o.UID, o.PID, o.CgroupID, o.Comm
	e.NetNSName, e.User, e.Cgroup = o.NetNSName, o.User, o.Cgroup
	e.Unit, e.Container, e.Pod, e.Sharers = o.Unit, o.Container, o.Pod, o.Sharers
}

var formColumns = columnsOf[form]([]column{
	{id: 1, name: "event", field: "Type"},
	{id: 2, name: "known", field: "Known"},
	{id: 3, name: "columns", field: "Columns"},
})

var connColumns = columnsOf[conn]([]column{
	{id: 1, name: "cookie", field: "Cookie", by: delta},
	{id: 2, name: "conn", field: "Conn", by: delta, less: []string{"Cookie"}},
	{id: 3, name: "family", field: "Family"},
	{id: 4, name: "laddr", field: "LAddr", by: delta},
	{id: 5, name: "lport", field: "LPort"},
	{id: 6, name: "raddr", field: "RAddr", by: delta},
	{id: 7, name: "rport", field: "RPort"},
})

var ownerColumns = columnsOf[owner]([]column{
	{id: 1, name: "netns", field: "NetNS", by: delta},
	{id: 2, name: "netns_name", field: "NetNSName", by: delta},
	{id: 3, name: "uid", field: "UID"},
	{id: 4, name: "user", field: "User", by: delta},
	{id: 5, name: "cgroup_id", field: "CgroupID", by: delta},
	{id: 6, name: "cgroup", field: "Cgroup", by: delta},
	{id: 7, name: "unit", field: "Unit", by: delta},
	{id: 8, name: "container", field: "Container", by: delta},
	{id: 9, name: "pod", field: "Pod", by: delta},
	{id: 10, name: "pid", field: "PID", by: delta},
	{id: 11, name: "comm", field: "Comm", by: delta},
	{id: 12, name: "sharers", field: "Sharers", by: delta},
})

// Columns of events that are no field. All events have them.
const (
	formID  = 1 // index of a form
	connID  = 2 // how many connections back; 0: the next one of the table
	ownerID = 3 // index of an owner, less the one of the connection before
)

var eventColumns = columnsOf[events.Event]([]column{
	{id: 4, name: "boot", field: "Boot", by: delta, on: onAll},
	{id: 5, name: "time", field: "Time", by: delta, less: []string{"Boot"}, on: onAll},
	{id: 6, name: "state", field: "State", on: onAll},
	{id: 7, name: "inode", field: "Inode", by: perConn, on: onAll},
	{id: 8, name: "holder_inode", field: "HolderInode", by: perConn, less: []string{"Inode"}, on: onAll},
	{id: 9, name: "orphan", field: "Orphan", on: onAll, known: events.HasOrphan},

	{id: 10, name: "kind", field: "Kind", on: onRetransmit | onReset},
	{id: 11, name: "phase", field: "Phase", on: onRetransmit},
	{id: 12, name: "flags", field: "Flags", on: onRetransmit, known: events.HasFlags},
	{id: 13, name: "seq", field: "Seq", by: perConn, on: onRetransmit, known: events.HasSeq},
	{id: 14, name: "len", field: "Len", by: perConn, on: onRetransmit, known: events.HasSeq},
	{id: 15, name: "end_seq", field: "EndSeq", less: []string{"Seq", "Len"}, on: onRetransmit, known: events.HasSeq},
	{id: 16, name: "segs", field: "Segs", on: onRetransmit, known: events.HasSeq},
	{id: 17, name: "attempt", field: "Attempt", on: onRetransmit},
	{id: 18, name: "backoff", field: "Backoff", on: onRetransmit, known: events.HasBackoff},
	{id: 19, name: "rto", field: "RTO", by: perConn, on: onRetransmit | onState, known: events.HasRTO},
	{id: 20, name: "next_rto", field: "NextRTO", less: []string{"RTO", "RTO"}, on: onRetransmit, known: events.HasNextRTO},
	{id: 21, name: "srtt", field: "SRTT", by: perConn, on: onRetransmit | onState, known: events.HasSRTT},
	{id: 22, name: "rttvar", field: "RTTVar", by: perConn, on: onRetransmit | onState, known: events.HasSRTT},
	{id: 23, name: "cwnd", field: "Cwnd", by: perConn, on: onRetransmit, known: events.HasCwnd},
	{id: 24, name: "ssthresh", field: "Ssthresh", by: perConn, on: onRetransmit, known: events.HasSsthresh},
	{id: 25, name: "ca_state", field: "CAState", on: onRetransmit, known: events.HasCAState},
	{id: 26, name: "total_retrans", field: "TotalRetrans", by: perConn, on: onRetransmit | onState, known: events.HasTotals, always: onRetransmit},
	{id: 27, name: "data_segs_out", field: "DataSegsOut", by: perConn, on: onRetransmit | onState, known: events.HasTotals},
	{id: 28, name: "dsack_dups", field: "DSACKDups", by: perConn, on: onRetransmit | onState, known: events.HasTotals},
	{id: 29, name: "gap", field: "Gap", on: onRetransmit},
	{id: 30, name: "gives_up_in", field: "GivesUp", by: perConn, on: onRetransmit, known: events.HasGivesUp},
	{id: 31, name: "error", field: "Error", on: onRetransmit | onState},

	{id: 32, name: "direction", field: "Direction", on: onReset},
	{id: 33, name: "reason", field: "Reason", on: onReset},
	{id: 34, name: "why", field: "Why", on: onReset},
	{id: 35, name: "trigger_flags", field: "TriggerFlags", on: onReset, known: events.HasTrigger},
	{id: 36, name: "trigger_seq", field: "TriggerSeq", by: perConn, on: onReset, known: events.HasTrigger},
	{id: 37, name: "trigger_ack", field: "TriggerAck", by: perConn, on: onReset, known: events.HasTrigger},
	{id: 38, name: "trigger_timestamps", field: "TriggerTimestamps", on: onReset, known: events.HasTrigger},
	{id: 39, name: "trigger_ttl", field: "TriggerTTL", on: onReset, known: events.HasTTL},

	{id: 40, name: "old_state", field: "OldState", on: onState},
	{id: 41, name: "new_state", field: "NewState", on: onState},
	{id: 42, name: "unacked", field: "Unacked", on: onState, known: events.HasUnacked},

	{id: 43, name: "count", field: "Count", on: onLost},
	{id: 44, name: "of", field: "Of", on: onLost},

	{id: 45, name: "user_timeout", field: "UserTimeout", by: perConn, on: onRetransmit},
	{id: 46, name: "accept_queue", field: "AcceptQueue", by: delta, on: onRetransmit, known: events.HasAcceptQueue},
	{id: 47, name: "accept_queue_max", field: "AcceptQueueMax", by: delta, on: onRetransmit, known: events.HasAcceptQueue},
	{id: 48, name: "unacked_retrans", field: "UnackedRetrans", on: onState},
})

// timeColumn is the column whose first difference is to the block's clock.
const timeColumn = 5

// slots is the length of a connection's state: the index of its owner first.
var slots = func() int {
	n := 1
	for i := range eventColumns {
		if c := &eventColumns[i]; c.by == perConn {
			c.slot = n
			n++
		}
	}
	return n
}()

// regular returns the columns that events of that type usually have, as bits.
func regular(t events.Type, known events.Fields) (set uint64) {
	for i := range eventColumns {
		if c := &eventColumns[i]; c.on>>t&1 != 0 && (known&c.known == c.known || c.always>>t&1 != 0) {
			set |= 1 << c.id
		}
	}
	return set
}

// place is where a field lies in a row, and how wide it is. Rows are read and
// written through it rather than through a function for each field: that halves
// what an event costs.
type place struct {
	offset uintptr
	class  class
}

type class uint8

const (
	bits8 class = iota
	bits16
	bits32
	bits64
	boolean
	text // of this and the following, the number is the index of a text
	address
	comm
	list
)

// bits is how wide the numbers of a class are.
func (c class) bits() uint {
	switch c {
	case bits8, boolean:
		return 8
	case bits16:
		return 16
	case bits64:
		return 64
	}
	return 32
}

// columnsOf finds the fields of the columns in T, which is a row.
func columnsOf[T any](cols []column) []column {
	t := reflect.TypeFor[T]()
	for i := range cols {
		c := &cols[i]
		c.at = placeOf(t, c.field)
		for _, name := range c.less {
			c.lessAt = append(c.lessAt, placeOf(t, name))
		}
		c.bits = c.at.class.bits()
		c.signed = c.by != plain || c.less != nil
	}
	return cols
}

func placeOf(t reflect.Type, name string) place {
	f, ok := t.FieldByName(name)
	if !ok {
		panic(fmt.Sprintf("%s has no field %s", t, name))
	}
	return place{f.Offset, classOf(f.Type)}
}

func classOf(t reflect.Type) class {
	switch {
	case t == reflect.TypeFor[netip.Addr]():
		return address
	case t == reflect.TypeFor[events.Comm]():
		return comm
	case t == reflect.TypeFor[[]uint32]():
		return list
	}
	switch t.Kind() {
	case reflect.Uint8:
		return bits8
	case reflect.Uint16:
		return bits16
	case reflect.Uint32:
		return bits32
	case reflect.Uint64, reflect.Int64:
		return bits64
	case reflect.Bool:
		return boolean
	case reflect.String:
		return text
	}
	panic("no column can hold a " + t.String())
}

// load returns the number at p's place in row.
func (p *place) load(row unsafe.Pointer) uint64 {
	at := unsafe.Add(row, p.offset)
	switch p.class {
	case bits8, boolean:
		return uint64(*(*uint8)(at))
	case bits16:
		return uint64(*(*uint16)(at))
	case bits32:
		return uint64(*(*uint32)(at))
	}
	return *(*uint64)(at)
}

// loadAll sets list to the numbers at p's place in some rows: those at.
func (p *place) loadAll(list []uint64, of rows, at []uint8) {
	of.first = unsafe.Add(of.first, p.offset)
	list = list[:len(at)]
	switch p.class {
	case bits8, boolean:
		for j, i := range at {
			list[j] = uint64(*(*uint8)(of.row(i)))
		}
	case bits16:
		for j, i := range at {
			list[j] = uint64(*(*uint16)(of.row(i)))
		}
	case bits32:
		for j, i := range at {
			list[j] = uint64(*(*uint32)(of.row(i)))
		}
	default:
		for j, i := range at {
			list[j] = *(*uint64)(of.row(i))
		}
	}
}

// difference is what the number in row is more than last, which becomes that
// number.
func (c *column) difference(row unsafe.Pointer, last *uint64) uint64 {
	v := c.at.load(row)
	for i := range c.lessAt {
		v -= c.lessAt[i].load(row)
	}
	d := zigzag(v-*last, c.bits)
	*last = v
	return d
}

// store is the reverse of load; what is too wide is cut.
func (p *place) store(row unsafe.Pointer, v uint64) {
	at := unsafe.Add(row, p.offset)
	switch p.class {
	case bits8:
		*(*uint8)(at) = uint8(v)
	case bits16:
		*(*uint16)(at) = uint16(v)
	case bits32:
		*(*uint32)(at) = uint32(v)
	case bits64:
		*(*uint64)(at) = v
	case boolean:
		*(*bool)(at) = v != 0
	}
}

// zero reports whether p's place in row has the zero value.
func (p *place) zero(row unsafe.Pointer) bool {
	at := unsafe.Add(row, p.offset)
	switch p.class {
	case text:
		return *(*string)(at) == ""
	case address:
		return *(*netip.Addr)(at) == netip.Addr{}
	case comm:
		return *(*events.Comm)(at) == events.Comm{}
	case list:
		return len(*(*[]uint32)(at)) == 0
	}
	return p.load(row) == 0
}

// words are bytes of the aligned words of a row that begin at first: those that
// masks have. Whole words are looked at in the time that their fields take one
// by one.
type words struct {
	first uintptr
	masks []uint64
}

// any reports whether one of the bytes is not zero in row.
func (w *words) any(row unsafe.Pointer) bool {
	in := unsafe.Slice((*uint64)(unsafe.Add(row, w.first)), len(w.masks))
	set := uint64(0)
	for i, mask := range w.masks {
		set |= in[i] & mask
	}
	return set != 0
}

// add adds the bytes that are not zero if what is at p isn't: of a string the
// length.
func (w *words) add(p *place) {
	offset, size := p.offset, uintptr(p.class.bits()/8)
	if p.class == text {
		offset, size = offset+unsafe.Sizeof(uintptr(0)), unsafe.Sizeof(int(0))
	}
	var bytes [8]byte
	for i := range size {
		bytes[offset%8+i] = 0xff
	}
	offset -= offset % 8
	if len(w.masks) == 0 {
		w.first = offset
	}
	for ; offset < w.first; w.first -= 8 {
		w.masks = slices.Insert(w.masks, 0, 0)
	}
	i := int(offset-w.first) / 8
	for i >= len(w.masks) {
		w.masks = append(w.masks, 0)
	}
	w.masks[i] |= binary.NativeEndian.Uint64(bytes[:])
}

// zigzag makes a difference of that many bits a number that is small if the
// difference is, whatever its sign.
func zigzag(x uint64, bits uint) uint64 {
	unused := (64 - bits) & 63
	s := int64(x<<unused) >> unused
	return uint64(s<<1) ^ uint64(s>>63)
}

func unzigzag(z uint64) uint64 { return z>>1 ^ -(z & 1) }

// header is the payload of a header: with the names of what has a number in the
// blocks, for readers that know others.
type header struct {
	*Info
	Columns map[string][]string `json:"columns"`
	Numbers map[string][]string `json:"numbers"`
}

// columnNames are the names of the columns of each table, by number; "" of those
// that are no field.
func columnNames() map[string][]string {
	m := map[string][]string{}
	for table, columns := range map[string][]column{
		"forms": formColumns, "owners": ownerColumns, "connections": connColumns, "events": eventColumns,
	} {
		for i := range columns {
			c := &columns[i]
			for len(m[table]) <= int(c.id) {
				m[table] = append(m[table], "")
			}
			m[table][c.id] = c.name
		}
	}
	return m
}

// numberNames are the names of the values of columns, by number.
func numberNames() map[string][]string {
	m := map[string][]string{}
	for column, name := range map[string]func(uint8) string{
		"event":     func(i uint8) string { return events.Type(i).String() },
		"state":     func(i uint8) string { return events.State(i).String() },
		"kind":      func(i uint8) string { return events.Kind(i).String() },
		"phase":     func(i uint8) string { return events.Phase(i).String() },
		"ca_state":  func(i uint8) string { return events.CAState(i).String() },
		"direction": func(i uint8) string { return events.Direction(i).String() },
	} {
		for i := uint8(0); i == 0 || name(i) != ""; i++ {
			m[column] = append(m[column], name(i))
		}
	}
	return m
}
