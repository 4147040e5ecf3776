// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// errCorrupt is that of content that no writer made, though its checksums are
// right.
var errCorrupt = errors.New("its content makes no sense")

const maxListed = 1 << 22 // numbers in the lists of a block: as many as there can be processes

// content is a block's content, as it is read.
type content struct {
	header blockHeader
	texts  textReader
	forms  []formRead
	owners []owner
	conns  []conn
	known  int // connections that an event had so far
	next   uint32
	sets   []events.Settings

	state    []uint64 // as in block
	previous int
	events   tableReader
	table    tableReader // of the others, one after the other
	note     func(string)
}

type formRead struct {
	form
	columns []*column
}

// open reads all of raw but the events. It keeps raw.
func (c *content) open(h *blockHeader, raw []byte) error {
	c.header, c.known, c.next = *h, 0, 0
	c.forms, c.owners, c.conns, c.sets = c.forms[:0], c.owners[:0], c.conns[:0], nil
	var sections [settingsSection + 1][]byte
	in := cursor{b: raw}
	for len(in.b) > 0 {
		id, b := in.b[0], in.b[1:]
		in.b = b
		b, ok := in.bytes()
		switch {
		case !ok:
			return errCorrupt
		case id == 0 || int(id) >= len(sections):
			c.note(fmt.Sprintf("section %d of blocks", id))
		case sections[id] != nil:
			return errCorrupt
		default:
			sections[id] = b
		}
	}
	if !c.texts.open(sections[textSection]) {
		return errCorrupt
	}
	t := &c.table
	if !t.open(sections[formSection], formColumns, int(h.events), "forms", c.note) {
		return errCorrupt
	}
	for range t.n {
		c.forms = extend(c.forms)
		f := &c.forms[len(c.forms)-1]
		if !t.getAll(formColumns, unsafe.Pointer(&f.form), &c.texts) {
			return errCorrupt
		}
		if f.Type.String() == "" {
			c.note(fmt.Sprintf("event number %d", f.Type))
		}
		f.columns = f.columns[:0]
		for i := range eventColumns {
			if col := &eventColumns[i]; f.Columns>>col.id&1 != 0 {
				f.columns = append(f.columns, col)
			}
		}
	}
	if !t.done() || !t.open(sections[ownerSection], ownerColumns, int(h.events), "owners", c.note) {
		return errCorrupt
	}
	for range t.n {
		c.owners = append(c.owners, owner{}) // a new list: events keep the old one
		if !t.getAll(ownerColumns, unsafe.Pointer(&c.owners[len(c.owners)-1]), &c.texts) {
			return errCorrupt
		}
	}
	if !t.done() || !t.open(sections[connSection], connColumns, int(h.events), "connections", c.note) {
		return errCorrupt
	}
	c.conns = room(c.conns, t.n, maxEvents)
	for range t.n {
		c.conns = append(c.conns, conn{})
		if !t.getAll(connColumns, unsafe.Pointer(&c.conns[len(c.conns)-1]), &c.texts) {
			return errCorrupt
		}
	}
	if !t.done() || !c.settings(sections[settingsSection]) {
		return errCorrupt
	}
	if !c.events.open(sections[eventSection], eventColumns, int(h.events), "events", c.note) || c.events.n != int(h.events) {
		return errCorrupt
	}
	c.events.cursors[timeColumn].last = uint64(h.clock)
	c.state, c.previous = room(c.state[:0], slots*len(c.conns), slots*maxEvents), 0
	return nil
}

// room returns an empty list with room for n, and for as many as there can be
// if it had not: what is not used takes no memory, growing again does.
func room[T any](s []T, n, most int) []T {
	if cap(s) >= n {
		return s
	}
	return make([]T, 0, most)
}

func extend[T any](s []T) []T {
	if len(s) < cap(s) {
		return s[:len(s)+1]
	}
	var zero T
	return append(s, zero)
}

// left is how many events were not read yet.
func (c *content) left() int { return int(c.header.events - c.next) }

// read reads the next event into e, which is zero.
func (c *content) read(e *events.Event) error {
	c.next++
	t := &c.events
	f, ok1 := t.cursors[formID].next()
	back, ok2 := t.cursors[connID].next()
	downer, ok3 := t.cursors[ownerID].next()
	if !ok1 || !ok2 || !ok3 || f >= uint64(len(c.forms)) || back > uint64(c.known) {
		return errCorrupt
	}
	row := c.known - int(back)
	if back == 0 {
		if c.known++; c.known > len(c.conns) {
			return errCorrupt
		}
		c.state = newState(c.state, c.previous)
	}
	c.previous = row
	state := c.state[row*slots : (row+1)*slots]
	o := state[0] + unzigzag(downer)
	if o >= uint64(len(c.owners)) {
		return errCorrupt
	}
	state[0] = o
	c.conns[row].to(e)
	c.owners[o].to(e)
	form := &c.forms[f]
	e.Type, e.Known = form.Type, form.Known
	for _, col := range form.columns {
		if !t.get(col, unsafe.Pointer(e), &c.texts, state) {
			return errCorrupt
		}
	}
	if c.left() == 0 && !t.done() {
		return errCorrupt
	}
	return nil
}

func (c *content) settings(b []byte) bool {
	if b == nil {
		return true
	}
	in := cursor{b: b}
	n, ok := in.uvarint()
	if n > maxSettings {
		return false
	}
	all := uint64(0)
	for range n {
		ok1, ok2, ok3, ok4 := true, true, true, true
		var netns, at, boot, values uint64
		netns, ok1 = in.uvarint()
		at, ok2 = in.uvarint()
		boot, ok3 = in.uvarint()
		values, ok4 = in.uvarint()
		if !ok || !ok1 || !ok2 || !ok3 || !ok4 || values > maxValues {
			return false
		}
		if all += values; all > maxAllValues {
			return false
		}
		s := events.Settings{NetNS: uint32(netns), Time: int64(at), Boot: boot}
		length := 0
		for range values {
			name, ok1 := in.uvarint()
			value, ok2 := in.uvarint()
			if !ok1 || !ok2 {
				return false
			}
			k, ok1 := c.texts.string(name)
			v, ok2 := c.texts.string(value)
			if !ok1 || !ok2 {
				return false
			}
			if length += len(k) + len(v); length > maxText {
				return false
			}
			s.Values = append(s.Values, events.Setting{Name: k, Value: v})
		}
		c.sets = append(c.sets, s)
	}
	return ok && len(in.b) == 0
}

// tableReader reads a table's columns side by side.
type tableReader struct {
	n       int
	cursors [64]cursor // by the columns' numbers
}

// open begins with a table of at most most rows. what names it in notes.
func (t *tableReader) open(b []byte, columns []column, most int, what string, note func(string)) bool {
	*t = tableReader{}
	if b == nil {
		return true
	}
	in := cursor{b: b}
	n, ok := in.uvarint()
	if !ok || n > uint64(most) {
		return false
	}
	t.n = int(n)
	var known, seen uint64
	if what == "events" {
		known = 1<<formID | 1<<connID | 1<<ownerID
	}
	for i := range columns {
		known |= 1 << columns[i].id
	}
	for len(in.b) > 0 {
		tag, ok := in.uvarint()
		if !ok {
			return false
		}
		var c cursor
		if c.list = tag&1 != 0; c.list {
			c.b, ok = in.bytes()
		} else {
			c.fixed, ok = in.uvarint()
		}
		id := tag >> 1
		switch {
		case !ok:
			return false
		case id >= 64 || known>>id&1 == 0:
			note(fmt.Sprintf("column %d of %s", id, what))
		case seen>>id&1 != 0:
			return false
		default:
			seen |= 1 << id
			t.cursors[id] = c
		}
	}
	return true
}

// done reports whether all columns were read to their ends.
func (t *tableReader) done() bool {
	for i := range t.cursors {
		if len(t.cursors[i].b) > 0 {
			return false
		}
	}
	return true
}

// getAll reads a row with all columns.
func (t *tableReader) getAll(columns []column, row unsafe.Pointer, texts *textReader) bool {
	for i := range columns {
		if !t.get(&columns[i], row, texts, nil) {
			return false
		}
	}
	return true
}

// get reads the column of row. It runs some 20 times for each event.
func (t *tableReader) get(c *column, row unsafe.Pointer, texts *textReader, state []uint64) bool {
	s := &t.cursors[c.id%64]
	v := s.fixed
	if s.list {
		if len(s.b) > 0 && s.b[0] < 0x80 {
			v, s.b = uint64(s.b[0]), s.b[1:]
		} else {
			var ok bool
			if v, ok = s.uvarint(); !ok {
				return false
			}
		}
	}
	if c.signed {
		v = unzigzag(v)
		switch c.by {
		case perConn:
			v += state[c.slot]
			state[c.slot] = v
		case delta:
			v += s.last
			s.last = v
		}
		for i := range c.lessAt {
			v += c.lessAt[i].load(row)
		}
	}
	if c.at.class < text {
		c.at.store(row, v)
		return true
	}
	return texts.store(&c.at, row, uint64(uint32(v)))
}

// cursor is a column's numbers, as they are read: fixed each time, if it is not
// a list.
type cursor struct {
	list  bool
	fixed uint64
	b     []byte
	last  uint64 // as in stream
}

func (c *cursor) next() (uint64, bool) {
	if !c.list {
		return c.fixed, true
	}
	if len(c.b) > 0 && c.b[0] < 0x80 {
		v := c.b[0]
		c.b = c.b[1:]
		return uint64(v), true
	}
	return c.uvarint()
}

func (c *cursor) uvarint() (uint64, bool) {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		return 0, false
	}
	c.b = c.b[n:]
	return v, true
}

// bytes reads a length and as many bytes.
func (c *cursor) bytes() ([]byte, bool) {
	n, ok := c.uvarint()
	if !ok || n > uint64(len(c.b)) {
		return nil, false
	}
	b := c.b[:n:n]
	c.b = c.b[n:]
	return b, true
}

// textReader gives out a block's texts by number.
type textReader struct {
	starts  []uint32 // of each, and the end of the last
	data    []byte
	strings []string // those that were asked for
	lists   map[uint64][]uint32
	listed  int // numbers in lists
	intern  interned
}

// open reads the section of the texts. Number 0 is the empty one.
func (t *textReader) open(b []byte) bool {
	clear(t.strings)
	t.starts, t.strings, t.data = append(t.starts[:0], 0, 0), append(t.strings[:0], ""), nil
	clear(t.lists)
	t.listed = 0
	if b == nil {
		return true
	}
	in := cursor{b: b}
	n, ok := in.uvarint()
	if !ok || n > maxTexts {
		return false
	}
	end := uint64(0)
	for range n {
		length, ok := in.uvarint()
		if !ok || length > maxRaw {
			return false
		}
		end += length
		t.starts = append(t.starts, uint32(end))
		t.strings = append(t.strings, "")
	}
	t.data = in.b
	return end == uint64(len(in.b))
}

func (t *textReader) bytes(i uint64) ([]byte, bool) {
	if i+1 >= uint64(len(t.starts)) {
		return nil, false
	}
	return t.data[t.starts[i]:t.starts[i+1]], true
}

func (t *textReader) string(i uint64) (string, bool) {
	if i < uint64(len(t.strings)) {
		if s := t.strings[i]; s != "" {
			return s, true
		}
	}
	b, ok := t.bytes(i)
	if ok && len(b) > 0 {
		t.strings[i] = t.intern.string(b)
		return t.strings[i], true
	}
	return "", ok
}

// store sets what is at p's place in row to text i.
func (t *textReader) store(p *place, row unsafe.Pointer, i uint64) (ok bool) {
	at := unsafe.Add(row, p.offset)
	if p.class == text {
		*(*string)(at), ok = t.string(i)
		return ok
	}
	b, ok := t.bytes(i)
	if !ok {
		return false
	}
	switch p.class {
	case address:
		return (*netip.Addr)(at).UnmarshalBinary(b) == nil
	case comm:
		c := (*events.Comm)(at)
		*c = events.Comm{}
		return copy(c[:], b) == len(b)
	case list:
		*(*[]uint32)(at), ok = t.list(i, b)
	}
	return ok
}

// list returns the numbers in text i, which is b.
func (t *textReader) list(i uint64, b []byte) ([]uint32, bool) {
	if l, known := t.lists[i]; known || len(b) == 0 {
		return l, true
	}
	in := cursor{b: b}
	var l []uint32
	for last := uint32(0); len(in.b) > 0; {
		v, ok := in.uvarint()
		if t.listed++; !ok || t.listed > maxListed {
			return nil, false
		}
		last += uint32(unzigzag(v))
		l = append(l, last)
	}
	if t.lists == nil {
		t.lists = map[uint64][]uint32{}
	}
	t.lists[i] = l
	return l, true
}

// interned keeps texts that come in block after block once. It forgets them
// all when they are many.
type interned struct {
	known map[string]string
	size  int
}

const maxInterned = 4 << 20 // bytes, with what a map costs

func (n *interned) string(b []byte) string {
	if s, ok := n.known[string(b)]; ok {
		return s
	}
	s := string(b)
	if n.size += len(s) + 64; n.known == nil || n.size > maxInterned {
		n.known, n.size = map[string]string{}, len(s)+64
	}
	n.known[s] = s
	return s
}
