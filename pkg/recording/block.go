// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
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
	maxText      = 1 << 20 // bytes in an event, or in settings
	maxValues    = 1024    // in settings
	maxSettings  = 4096    // in a block
	maxAllValues = 1 << 17 // in all settings of a block

	// Events are added a chunk at a time, whose texts have at most maxText bytes.
	chunkLen  = 256                               // no more: indices are bytes
	maxShapes = 64                                // in a chunk; no more: they are bits
	mostTexts = max(2*maxValues, 16*chunkLen)     // that settings or a chunk can add
	muchRaw   = maxRaw - 2*maxText - chunkLen*600 // bytes: there is room for settings or a chunk
)

// block is the one under way. Its columns are written as events come: of a chunk
// row by row what depends on the rows before, such as the connection, and then
// column by column the rest, which takes less time so.
type block struct {
	seed   uint64 // of hashes: a peer may choose what is in them
	n      int    // events
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
	listed   int // numbers in the owners' lists
	scratch  []byte

	chunk chunk
}

// chunk is what is known of the events that are being added.
type chunk struct {
	forms, backs, owners [chunkLen]uint64 // what is written of them
	shapes               []*shape         // that they have, each once
	shapeOf              [chunkLen]uint8  // index in shapes
	at                   [chunkLen]uint8  // the events that have a column
}

// shape is a form with what follows from it.
type shape struct {
	form
	row    int       // in the block; -1: not in it yet
	index  int       // in the chunk's, if it is there
	conn   []*column // of coding perConn
	others words     // that are zero in its events: or else the form is another
}

func newBlock() block {
	return block{
		seed: rand.Uint64(), texts: texts{seed: maphash.MakeSeed()}, shapes: map[form]*shape{},
	}
}

func (b *block) empty() bool { return b.n == 0 && b.nsets == 0 }

func (b *block) clear() {
	b.n, b.nsets, b.values, b.listed = 0, 0, 0, 0
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

// full reports whether settings or a chunk have no room.
func (b *block) full() bool {
	size := b.forms.size() + b.owners.size() + b.conns.size() + b.events.size() +
		len(b.texts.data) + 4*b.texts.len() + len(b.settings)
	return b.n >= maxEvents || b.nsets >= maxSettings || b.values > maxAllValues-maxValues || b.listed > maxListed-maxText ||
		b.texts.len() > maxTexts-mostTexts || size > muchRaw
}

// fit returns how many of the first events of list make a chunk, unless the
// block is full: 0 if the first has too many bytes of text.
func (b *block) fit(list []events.Event) (n int) {
	text := 0
	for n < min(len(list), chunkLen, maxEvents-b.n) {
		if text += textLen(&list[n]); text > maxText {
			break
		}
		n++
	}
	return n
}

// textLen is how many bytes those of e's texts have that may be long, at most.
func textLen(e *events.Event) int {
	return 5*len(e.Sharers) + len(e.NetNSName) + len(e.User) + len(e.Cgroup) +
		len(e.Unit) + len(e.Container) + len(e.Pod) + len(e.Reason) + len(e.Why) +
		len(e.LAddr.Zone()) + len(e.RAddr.Zone())
}

// add adds the first of some events that fit, and returns how many.
func (b *block) add(list []events.Event) int {
	if b.n == 0 {
		h, e := &b.header, &list[0]
		h.first, h.from, h.to = e.Boot, e.Time, e.Time
		h.clock = e.Time - int64(e.Boot)
		b.events.streams[timeColumn].last = uint64(h.clock)
	}
	k, conns, n := &b.chunk, len(b.connOf), 0
	for k.shapes = k.shapes[:0]; n < len(list) && len(k.shapes) < maxShapes; n++ {
		b.addRow(n, &list[n])
	}
	b.n += n
	b.events.n += n
	b.events.streams[formID].putAll(k.forms[:n])
	b.events.streams[connID].putAll(k.backs[:n])
	b.events.streams[ownerID].putAll(k.owners[:n])
	b.addColumns(list[:n])
	if added := len(b.connOf) - conns; added > 0 {
		b.conns.addAll(connColumns, rowsOf(b.connOf[conns:]), added, &b.texts)
	}
	return n
}

// addRow adds what depends on the rows before of the event that is number i of
// the chunk.
func (b *block) addRow(i int, e *events.Event) {
	h, k := &b.header, &b.chunk
	h.last, h.from, h.to = e.Boot, min(h.from, e.Time), max(h.to, e.Time)
	if e.Type == events.Lost {
		h.lost += e.Count
	}
	s := b.shape(e)
	if s.index >= len(k.shapes) || k.shapes[s.index] != s {
		s.index = len(k.shapes)
		k.shapes = append(k.shapes, s)
	}
	k.shapeOf[i] = uint8(s.index)
	k.forms[i] = uint64(s.row)
	row, back := b.conn(e)
	k.backs[i] = uint64(back)
	state := b.state[row*slots : (row+1)*slots]
	o := int(state[0])
	if o >= len(b.ownerOf) || !b.ownerOf[o].is(e) {
		o = b.owner(e)
	}
	k.owners[i] = zigzag(uint64(o)-state[0], 64)
	state[0] = uint64(o)
	for _, c := range s.conn {
		b.events.streams[c.id%64].put(c.difference(unsafe.Pointer(e), &state[c.slot]))
	}
}

// addColumns adds the rest of the chunk, whose events list has.
func (b *block) addColumns(list []events.Event) {
	k, rows := &b.chunk, rowsOf(list)
	var at []uint8
	of := uint64(0) // the shapes that at is of, as bits
	for i := range eventColumns {
		c := &eventColumns[i]
		have := uint64(0)
		for j, s := range k.shapes {
			have |= s.Columns >> c.id & 1 << j
		}
		if have == 0 || c.by == perConn {
			continue
		}
		if have == 1<<len(k.shapes)-1 {
			b.events.add(c, rows, each[:len(list)], &b.texts)
			continue
		}
		if have != of {
			n := 0
			for i := range list {
				k.at[n] = uint8(i)
				n += int(have >> (k.shapeOf[i] % maxShapes) & 1)
			}
			at, of = k.at[:n], have
		}
		b.events.add(c, rows, at, &b.texts)
	}
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
	if s.others.any(unsafe.Pointer(e)) {
		s = b.irregular(s.form, e)
	}
	if s.row < 0 {
		s.row = b.forms.n
		b.forms.addAll(formColumns, rowsOf(unsafe.Slice(&s.form, 1)), 1, &b.texts)
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
			s.others.add(&c.at)
		case c.by == perConn:
			s.conn = append(s.conn, c)
		}
	}
	return s
}

// mix is a step of a hash.
func mix(h, v uint64) uint64 {
	hi, lo := bits.Mul64(h^v^0x9e3779b97f4a7c15, 0xd6e8feb86659fd93)
	return hi ^ lo
}

// connHash is a hash of e's connection. Those that are made one after the other
// have numbers and ports near each other, and so are their places in the index:
// the memory of the next one's is at hand.
func (b *block) connHash(e *events.Event) uint64 {
	h := mix(b.seed, e.Conn)
	near := mix(b.seed, e.Conn>>3)
	if e.Conn == 0 { // only the addresses tell it from others
		for _, a := range [2][16]byte{e.LAddr.As16(), e.RAddr.As16()} {
			h = mix(mix(h, le.Uint64(a[:])), le.Uint64(a[8:]))
		}
		near = h
	}
	h = mix(h, uint64(e.LPort)<<16|uint64(e.RPort))
	near = mix(near, uint64(e.LPort>>4)<<16|uint64(e.RPort>>4))
	const last = 15
	return h&^rowMask | near&(rowMask&^last) | (e.Conn+uint64(e.LPort>>1)+uint64(e.RPort>>1))&last
}

// conn returns the row of e's connection, and how many before the next new one
// it stands: 0 if it is that.
func (b *block) conn(e *events.Event) (row, back int) {
	h := b.connHash(e)
	for i := uint32(0); ; {
		row := b.connIdx.find(h, &i)
		switch {
		case row < 0:
			row = len(b.connOf)
			b.connIdx.add(h)
			b.connOf = append(b.connOf, conn{})
			b.connOf[row].from(e)
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
	h := mix(mix(mix(b.seed, uint64(e.PID)<<32|uint64(e.NetNS)), e.CgroupID), uint64(e.UID))
	h = mix(mix(h, le.Uint64(e.Comm[:])), le.Uint64(e.Comm[8:]))
	for i := uint32(0); ; {
		row := b.ownerIdx.find(h, &i)
		if row < 0 {
			row = len(b.ownerOf)
			b.ownerIdx.add(h)
			b.ownerOf = extend(b.ownerOf) // with the memory of its list
			b.ownerOf[row].from(e)
			b.owners.addAll(ownerColumns, rowsOf(b.ownerOf[row:]), 1, &b.texts)
			b.listed += len(e.Sharers)
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
	numbers [chunkLen]uint64
}

func (t *tableWriter) clear() {
	t.n = 0
	for i := range t.streams {
		t.streams[i].clear()
	}
}

// rows are those of a table, in memory.
type rows struct {
	first  unsafe.Pointer
	stride uintptr
}

func rowsOf[T any](list []T) rows {
	return rows{unsafe.Pointer(unsafe.SliceData(list)), unsafe.Sizeof(list[0])}
}

func (r rows) row(i uint8) unsafe.Pointer { return unsafe.Add(r.first, uintptr(i)*r.stride) }

// each are the numbers of all rows.
var each = func() (list [chunkLen]uint8) {
	for i := range list {
		list[i] = uint8(i)
	}
	return list
}()

// addAll adds n rows of a table all rows of which have all columns.
func (t *tableWriter) addAll(columns []column, of rows, n int, texts *texts) {
	t.n += n
	for i := range columns {
		t.add(&columns[i], of, each[:n], texts)
	}
}

// add adds the numbers that some rows have in a column: those at.
func (t *tableWriter) add(c *column, of rows, at []uint8, texts *texts) {
	s := &t.streams[c.id%64]
	list := t.numbers[:len(at)]
	if c.at.class < text {
		c.at.loadAll(list, of, at)
	} else {
		for j, i := range at {
			list[j] = s.text(&c.at, of.row(i), texts)
		}
	}
	for k := range c.lessAt {
		for j, i := range at {
			list[j] -= c.lessAt[k].load(of.row(i))
		}
	}
	switch {
	case c.by == delta:
		last := s.last
		for j, v := range list {
			list[j], last = zigzag(v-last, c.bits), v
		}
		s.last = last
	case c.signed:
		for j, v := range list {
			list[j] = zigzag(v, c.bits)
		}
	}
	s.putAll(list)
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

	// The last two of a text column, or of one of addresses: those of one
	// connection's two ends often take turns. latest is the last one's index.
	recent [2]recent
	latest uint8
}

// recent is a text, or an address, and its number.
type recent struct {
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

// putAll adds numbers.
func (s *stream) putAll(list []uint64) {
	if s.small == 0 {
		if s.n == 0 && len(list) > 0 {
			s.first = list[0]
		}
		for len(list) > 0 && list[0] == s.first {
			s.n++
			list = list[1:]
		}
		if len(list) == 0 {
			return
		}
		s.putOther(list[0])
		list = list[1:]
	}
	n := len(s.buf)
	buf := slices.Grow(s.buf, binary.MaxVarintLen64*len(list))
	buf = buf[:cap(buf)]
	for _, v := range list {
		if v < 0x80 {
			buf[n] = uint8(v)
			n++
		} else {
			n += binary.PutUvarint(buf[n:], v)
		}
	}
	s.buf = buf[:n]
}

// text returns the number of the text that is at p's place in row. Often it is
// the same again, or that before.
func (s *stream) text(p *place, row unsafe.Pointer, texts *texts) uint64 {
	at := unsafe.Add(row, p.offset)
	r := &s.recent[s.latest&1]
	switch p.class {
	case text:
		str := *(*string)(at)
		if r.str == str {
			break
		}
		if r = s.other(); r.str != str {
			r.str, r.number = str, texts.ofString(str)
		}
	case address:
		addr := *(*netip.Addr)(at)
		if r.addr == addr {
			break
		}
		if r = s.other(); r.addr != addr {
			r.addr, r.number = addr, texts.load(p, row)
		}
	default:
		return texts.load(p, row)
	}
	return r.number
}

// other makes the recent text that is not the latest that.
func (s *stream) other() *recent {
	s.latest ^= 1
	return &s.recent[s.latest&1]
}

// size is how many bytes it has, or would have if the next number is another.
func (s *stream) size() int {
	if s.small > 0 {
		return len(s.buf)
	}
	return s.n * (bits.Len64(s.first|1) + 6) / 7
}
