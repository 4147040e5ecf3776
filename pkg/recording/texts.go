// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"unsafe"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// index finds rows of a table by a hash of what they hold. It is small: most
// of what a new row costs is to wait for the memory of its slot.
type index struct {
	slots  []slot   // a power of two of them, at least half of them free
	hashes []uint32 // of the rows
}

// slot is a row's number, from 1 on, in the low rowBits; above it the high bits
// of its hash. 0: free.
type slot uint32

const (
	rowBits = 17 // for maxTexts, too
	rowMask = 1<<rowBits - 1
)

func (x *index) clear() {
	if len(x.hashes) > 0 {
		clear(x.slots)
	}
	x.hashes = x.hashes[:0]
}

// find returns a row with that hash, or one that is as good as the same; each
// call with i one higher another one, and -1 when there is none left.
func (x *index) find(hash uint64, i *uint32) int {
	if len(x.slots) == 0 {
		return -1
	}
	for {
		s := x.slots[(uint32(hash)+*i)&uint32(len(x.slots)-1)]
		*i++
		if s == 0 || (uint32(s)^uint32(hash))>>rowBits == 0 {
			return int(s&rowMask) - 1
		}
	}
}

// add adds the next row.
func (x *index) add(hash uint64) {
	if 2*len(x.hashes) >= len(x.slots) {
		x.slots = make([]slot, max(2*len(x.slots), 256))
		for row, hash := range x.hashes {
			x.place(hash, row)
		}
	}
	x.place(uint32(hash), len(x.hashes))
	x.hashes = append(x.hashes, uint32(hash))
}

func (x *index) place(hash uint32, row int) {
	i := hash
	for ; x.slots[i&uint32(len(x.slots)-1)] != 0; i++ {
	}
	x.slots[i&uint32(len(x.slots)-1)] = slot(hash&^rowMask | uint32(row+1))
}

// texts are the bytes that rows of a block refer to by number: strings,
// addresses, names of processes, lists. Number 0 is the empty one.
type texts struct {
	seed  maphash.Seed
	index index
	ends  []uint32 // of each in data
	data  []byte
	buf   []byte
}

const maxTexts = 1 << 16 // in a block

func (t *texts) clear() {
	t.index.clear()
	t.ends, t.data = t.ends[:0], t.data[:0]
}

func (t *texts) len() int { return len(t.ends) }

func (t *texts) get(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = t.ends[i-1]
	}
	return t.data[start:t.ends[i]]
}

// number returns the number of the text b.
func (t *texts) number(b []byte) uint64 {
	if len(b) == 0 {
		return 0
	}
	hash := maphash.Bytes(t.seed, b)
	for i := uint32(0); ; {
		row := t.index.find(hash, &i)
		if row < 0 {
			t.index.add(hash)
			t.data = append(t.data, b...)
			t.ends = append(t.ends, uint32(len(t.data)))
			return uint64(len(t.ends))
		}
		if string(t.get(row)) == string(b) {
			return uint64(row) + 1
		}
	}
}

// ofString returns the number of the text s.
func (t *texts) ofString(s string) uint64 {
	return t.number(unsafe.Slice(unsafe.StringData(s), len(s)))
}

// load returns the number of the text that is at p's place in row.
func (t *texts) load(p *place, row unsafe.Pointer) uint64 {
	at := unsafe.Add(row, p.offset)
	switch p.class {
	case address:
		t.buf, _ = (*netip.Addr)(at).AppendBinary(t.buf[:0]) // it never fails
	case comm:
		c := (*events.Comm)(at)
		n := len(c)
		for n > 0 && c[n-1] == 0 {
			n--
		}
		t.buf = append(t.buf[:0], c[:n]...)
	case list:
		t.buf = t.buf[:0]
		last := uint32(0)
		for _, v := range *(*[]uint32)(at) {
			t.buf = binary.AppendUvarint(t.buf, zigzag(uint64(v-last), 32))
			last = v
		}
	}
	return t.number(t.buf)
}

// appendTo appends the section of the texts: how many, their lengths, and
// all of them.
func (t *texts) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.ends)))
	start := uint32(0)
	for _, end := range t.ends {
		b = binary.AppendUvarint(b, uint64(end-start))
		start = end
	}
	return append(b, t.data...)
}
