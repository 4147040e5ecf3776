// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"unsafe"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// index finds rows of a table by a hash of what they hold. It has room for a
// fixed number of rows, and costs no allocation.
type index struct {
	slots []int32 // row+1; 0: free. Twice as many as rows, a power of two
	used  []int32 // the slots taken, so that few are quickly freed
}

func newIndex(rows int) index {
	return index{slots: make([]int32, 2*rows)}
}

func (x *index) clear() {
	for _, i := range x.used {
		x.slots[i] = 0
	}
	x.used = x.used[:0]
}

// at returns the i-th row that may be the one with that hash, and where to put
// it if it is none of them: row is negative then.
func (x *index) at(hash uint64, i uint64) (row int32, slot int32) {
	slot = int32((hash + i) & uint64(len(x.slots)-1))
	return x.slots[slot] - 1, slot
}

func (x *index) put(slot int32, row int) {
	x.slots[slot] = int32(row) + 1
	x.used = append(x.used, slot)
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

func newTexts() texts {
	return texts{seed: maphash.MakeSeed(), index: newIndex(maxTexts)}
}

func (t *texts) clear() {
	t.index.clear()
	t.ends, t.data = t.ends[:0], t.data[:0]
}

func (t *texts) len() int { return len(t.ends) }

func (t *texts) get(i int32) []byte {
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
	for i := uint64(0); ; i++ {
		row, slot := t.index.at(hash, i)
		if row < 0 {
			t.index.put(slot, len(t.ends))
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
