// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"net/netip"
	"unsafe"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// Sections of a block's content.
const (
	textSection = iota + 1
	formSection
	ownerSection
	connSection
	eventSection
	settingsSection
)

const (
	maxText      = 1 << 20           // bytes in an event, or in settings
	maxValues    = 1024              // in settings
	maxSettings  = 4096              // in a block
	maxAllValues = 1 << 17           // in all settings of a block
	mostTexts    = 2*maxValues + 16  // that an event or settings can add
	measureEach  = 64                // events between two measurements of the columns
	mostAdded    = measureEach * 600 // bytes of columns that these add, at most
	almostFull   = maxRaw - 2*maxText
)

// block is the one under way. Its columns are written as events come.
type block struct {
	n      int // events
	header blockHeader
	texts  texts

	forms  tableWriter
	shapes map[form]*shape // of this block and earlier ones
	latest [64]*shape      // by a hash of type and known

	owners   tableWriter
	ownerOf  []owner
	ownerIdx index

	conns   tableWriter
	connOf  []conn
	connIdx index
	// state has what perConn columns are differences to, slots numbers for each
	// connection. A new connection begins with that of the event before, whose
	// row is previous.
	state    []uint64
	previous int

	events   tableWriter
	settings []byte
	nsets    int // settings
	values   int // in them
	size     int // of all columns, when it was measured last
	scratch  []byte
}

// shape is a form with what follows from it.
type shape struct {
	form
	row     int       // in the block; -1: not in it yet
	plain   []*column // numbers that are written as they are
	conn    []*column // numbers of coding perConn, less nothing
	columns []*column // the rest
	others  []word    // that are zero in its events: or else the form is another
}

func newBlock() block {
	return block{
		texts: texts{seed: maphash.MakeSeed()}, shapes: map[form]*shape{},
	}
}

func (b *block) empty() bool { return b.n == 0 && b.nsets == 0 }

func (b *block) clear() {
	b.n, b.nsets, b.values, b.size = 0, 0, 0, 0
	b.header = blockHeader{}
	b.texts.clear()
	for _, t := range []*tableWriter{&b.forms, &b.owners, &b.conns, &b.events} {
		t.clear()
	}
	b.ownerIdx.clear()
	b.connIdx.clear()
	b.ownerOf, b.connOf, b.state, b.settings = b.ownerOf[:0], b.connOf[:0], b.state[:0], b.settings[:0]
	if len(b.shapes) > 1024 {
		clear(b.shapes)
		clear(b.latest[:])
	}
	for _, s := range b.shapes {
		s.row = -1
	}
}

// full reports whether an event or settings with that many bytes of text have
// no room.
func (b *block) full(text int) bool {
	if b.n%measureEach == 0 {
		b.size = b.forms.size() + b.owners.size() + b.conns.size() + b.events.size()
	}
	return b.n >= maxEvents || b.nsets >= maxSettings || b.values > maxAllValues-maxValues ||
		b.texts.len() > maxTexts-mostTexts ||
		b.size+mostAdded+len(b.texts.data)+4*b.texts.len()+len(b.settings)+text > almostFull
}

// add adds e.
func (b *block) add(e *events.Event) {
	h := &b.header
	if b.n == 0 {
		h.first, h.from, h.to = e.Boot, e.Time, e.Time
		h.clock = e.Time - int64(e.Boot)
		b.events.streams[timeColumn].last = uint64(h.clock)
	}
	h.last, h.from, h.to = e.Boot, min(h.from, e.Time), max(h.to, e.Time)
	if e.Type == events.Lost {
		h.lost += e.Count
	}
	b.n++

	s := b.shape(e)
	b.events.streams[formID].put(uint64(s.row))
	c, back := b.conn(e)
	b.events.streams[connID].put(uint64(back))
	state := b.state[c*slots : (c+1)*slots]
	o := int(state[0])
	if o >= len(b.ownerOf) || !b.ownerOf[o].is(e) {
		o = b.owner(e)
	}
	b.events.streams[ownerID].put(zigzag(uint64(o)-state[0], 64))
	state[0] = uint64(o)
	b.events.add(s, unsafe.Pointer(e), &b.texts, state)
}

// shape returns that of e.
func (b *block) shape(e *events.Event) *shape {
	latest := &b.latest[mix(uint64(e.Known), uint64(e.Type))%64]
	s := *latest
	if s == nil || s.Type != e.Type || s.Known != e.Known {
		usual := form{Type: e.Type, Known: e.Known} // stands for that with the regular columns
		if s = b.shapes[usual]; s == nil {
			s = newShape(form{e.Type, e.Known, regular(e.Type, e.Known)})
			b.shapes[usual] = s
		}
		*latest = s
	}
	strange := uint64(0)
	for i := range s.others {
		strange |= s.others[i].load(unsafe.Pointer(e))
	}
	if strange != 0 {
		s = b.irregular(s.form, e)
	}
	if s.row < 0 {
		s.row = b.forms.n
		b.forms.addAll(formColumns, unsafe.Pointer(&s.form), &b.texts)
	}
	return s
}

// irregular returns the shape of e, which has a value where f has no column.
func (b *block) irregular(f form, e *events.Event) *shape {
	for i := range eventColumns {
		if c := &eventColumns[i]; !c.at.zero(unsafe.Pointer(e)) {
			f.Columns |= 1 << c.id
		}
	}
	s := b.shapes[f]
	if s == nil {
		s = newShape(f)
		b.shapes[f] = s
	}
	return s
}

func newShape(f form) *shape {
	s := &shape{form: f, row: -1}
	for i := range eventColumns {
		switch c := &eventColumns[i]; {
		case f.Columns>>c.id&1 == 0:
			s.others = addWord(s.others, &c.at)
		case !c.signed && c.at.class < text:
			s.plain = append(s.plain, c)
		case c.by == perConn && c.less == nil:
			s.conn = append(s.conn, c)
		default:
			s.columns = append(s.columns, c)
		}
	}
	return s
}

// mix is a step of a hash.
func mix(h, v uint64) uint64 {
	hi, lo := bits.Mul64(h^v^0x9e3779b97f4a7c15, 0xd6e8feb86659fd93)
	return hi ^ lo
}

// conn returns the row of e's connection, and how many before the next new one
// it stands: 0 if it is that.
func (b *block) conn(e *events.Event) (row, back int) {
	h := mix(e.Conn, uint64(e.LPort)<<16|uint64(e.RPort))
	if e.Conn == 0 { // only the addresses tell it from others
		a := e.RAddr.As16()
		h = mix(mix(h, le.Uint64(a[:])), le.Uint64(a[8:]))
	}
	for i := uint32(0); ; {
		row := b.connIdx.find(h, &i)
		switch {
		case row < 0:
			row = len(b.connOf)
			b.connIdx.add(h)
			b.connOf = append(b.connOf, conn{})
			b.connOf[row].from(e)
			b.conns.addAll(connColumns, unsafe.Pointer(&b.connOf[row]), &b.texts)
			b.state = newState(b.state, b.previous)
		case b.connOf[row].is(e):
			back = len(b.connOf) - row
		default:
			continue
		}
		b.previous = row
		return row, back
	}
}

// newState appends a connection's state to all: that of row previous.
func newState(all []uint64, previous int) []uint64 {
	if len(all) == 0 {
		return append(all, make([]uint64, slots)...)
	}
	return append(all, all[previous*slots:(previous+1)*slots]...)
}

// owner returns the row of e's owner.
func (b *block) owner(e *events.Event) int {
	h := mix(mix(uint64(e.PID)<<32|uint64(e.NetNS), e.CgroupID), uint64(e.UID))
	h = mix(mix(h, le.Uint64(e.Comm[:])), le.Uint64(e.Comm[8:]))
	for i := uint32(0); ; {
		row := b.ownerIdx.find(h, &i)
		if row < 0 {
			row = len(b.ownerOf)
			b.ownerIdx.add(h)
			b.ownerOf = extend(b.ownerOf) // with the memory of its list
			b.ownerOf[row].from(e)
			b.owners.addAll(ownerColumns, unsafe.Pointer(&b.ownerOf[row]), &b.texts)
			return row
		}
		if b.ownerOf[row].is(e) {
			return row
		}
	}
}

func (b *block) addSettings(s *events.Settings) {
	if b.empty() {
		b.header.from, b.header.to = s.Time, s.Time
		b.header.first, b.header.last = s.Boot, s.Boot
	}
	b.header.flags |= hasSettings
	b.nsets++
	b.values += len(s.Values)
	t := binary.AppendUvarint(b.settings, uint64(s.NetNS))
	t = binary.AppendUvarint(t, uint64(s.Time))
	t = binary.AppendUvarint(t, s.Boot)
	t = binary.AppendUvarint(t, uint64(len(s.Values)))
	for _, v := range s.Values {
		t = binary.AppendUvarint(t, b.texts.ofString(v.Name))
		t = binary.AppendUvarint(t, b.texts.ofString(v.Value))
	}
	b.settings = t
}

// appendTo appends the block's content.
func (b *block) appendTo(out []byte) []byte {
	out = b.section(out, textSection, b.texts.appendTo(b.scratch[:0]))
	out = b.section(out, formSection, b.forms.appendTo(b.scratch[:0]))
	out = b.section(out, ownerSection, b.owners.appendTo(b.scratch[:0]))
	out = b.section(out, connSection, b.conns.appendTo(b.scratch[:0]))
	out = b.section(out, eventSection, b.events.appendTo(b.scratch[:0]))
	if b.nsets > 0 {
		out = b.section(out, settingsSection, append(binary.AppendUvarint(b.scratch[:0], uint64(b.nsets)), b.settings...))
	}
	return out
}

// section appends a section, and keeps its memory for the next.
func (b *block) section(out []byte, id uint8, content []byte) []byte {
	b.scratch = content
	out = append(out, id)
	out = binary.AppendUvarint(out, uint64(len(content)))
	return append(out, content...)
}

// tableWriter collects the rows of one table, in columns.
type tableWriter struct {
	n       int
	streams [64]stream // by the columns' numbers
}

func (t *tableWriter) clear() {
	t.n = 0
	for i := range t.streams {
		t.streams[i].clear()
	}
}

// addAll adds a row of a table all rows of which have all columns.
func (t *tableWriter) addAll(columns []column, row unsafe.Pointer, texts *texts) {
	t.n++
	for i := range columns {
		t.put(&columns[i], row, texts, nil)
	}
}

// add adds an event's row, whose columns are those of its shape.
func (t *tableWriter) add(shape *shape, row unsafe.Pointer, texts *texts, state []uint64) {
	t.n++
	for _, c := range shape.plain {
		t.streams[c.id%64].put(c.at.load(row))
	}
	for _, c := range shape.conn {
		v := c.at.load(row)
		t.streams[c.id%64].put(zigzag(v-state[c.slot], c.bits))
		state[c.slot] = v
	}
	for _, c := range shape.columns {
		t.put(c, row, texts, state)
	}
}

// put adds the number that row has in the column. It runs some 10 times for
// each event.
func (t *tableWriter) put(c *column, row unsafe.Pointer, texts *texts, state []uint64) {
	s := &t.streams[c.id%64]
	var v uint64
	if c.at.class < text {
		v = c.at.load(row)
	} else {
		v = s.text(&c.at, row, texts)
	}
	if c.signed {
		for i := range c.lessAt {
			v -= c.lessAt[i].load(row)
		}
		switch c.by {
		case perConn:
			v, state[c.slot] = v-state[c.slot], v
		case delta:
			v, s.last = v-s.last, v
		}
		v = zigzag(v, c.bits)
	}
	s.put(v)
}

func (t *tableWriter) size() (n int) {
	for i := range t.streams {
		n += t.streams[i].size()
	}
	return n
}

// appendTo appends the table: the number of rows, and the columns that have
// more than zeros.
func (t *tableWriter) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(t.n))
	for id := range t.streams {
		s := &t.streams[id]
		switch {
		case s.small > 0:
			b = append(b, uint8(id)<<1|1)
			b = binary.AppendUvarint(b, uint64(len(s.buf)))
			b = append(b, s.buf...)
		case s.first != 0:
			b = append(b, uint8(id)<<1)
			b = binary.AppendUvarint(b, s.first)
		}
	}
	return b
}

// stream is a column's numbers, as they are written.
type stream struct {
	// As long as all are alike, first is what they are, n how many, and small is
	// 0. Then they are in buf, first is 0, and those below small have one byte.
	small, first uint64
	n            int
	buf          []byte
	last         uint64 // what the next of a delta column is a difference to

	// The last of a text column, or of one of addresses, and its number.
	str    string
	addr   netip.Addr
	number uint64
}

func (s *stream) clear() { *s = stream{buf: s.buf[:0]} }

// put adds a number. It is so small that it is inlined.
func (s *stream) put(v uint64) {
	if v < s.small {
		s.buf = append(s.buf, uint8(v))
		return
	}
	s.putOther(v)
}

// putOther adds a number that is large, or of a stream that does not vary yet.
func (s *stream) putOther(v uint64) {
	if s.small == 0 {
		if s.n == 0 {
			s.first = v
		}
		if v == s.first {
			s.n++
			return
		}
		for range s.n {
			s.buf = binary.AppendUvarint(s.buf, s.first)
		}
		s.small, s.first = 0x80, 0
	}
	s.buf = binary.AppendUvarint(s.buf, v)
}

// text returns the number of the text that is at p's place in row. Often it is
// the same again.
func (s *stream) text(p *place, row unsafe.Pointer, texts *texts) uint64 {
	at := unsafe.Add(row, p.offset)
	switch p.class {
	case text:
		if str := *(*string)(at); str != s.str {
			s.str, s.number = str, texts.ofString(str)
		}
	case address:
		if addr := *(*netip.Addr)(at); addr != s.addr {
			s.addr, s.number = addr, texts.load(p, row)
		}
	default:
		return texts.load(p, row)
	}
	return s.number
}

// size is how many bytes it has, or would have if the next number is another.
func (s *stream) size() int {
	if s.small > 0 {
		return len(s.buf)
	}
	return s.n * (bits.Len64(s.first|1) + 6) / 7
}
