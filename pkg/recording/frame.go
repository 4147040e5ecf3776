// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"encoding/binary"
	"hash/crc32"
)

// The version of the format. A reader of the same major one reads all minor
// ones; see docs/recording-format.md for what may change with which.
const (
	major = 1
	minor = 0
)

// Bounds on both sides.
const (
	maxEvents = 32768    // in a block
	maxRaw    = 8 << 20  // bytes of a block, unpacked
	maxFrame  = 8 << 20  // bytes of a frame of ours, and so of a header's or trailer's JSON
	maxJSON   = 64 << 10 // objects in a trailer, strings in a header
)

// Every frame of ours but the blocks' content is a skippable one of zstd, which
// begins with an envelope.
const (
	skippable   = 0x184d2a50 // to 0x184d2a5f
	ours        = 0x184d2a5c
	zstdMagic   = 0xfd2fb528
	envelopeLen = 20
	zstdPrefix  = 8 // the magic number and the size, which doesn't count them
)

// kind says what a frame of ours is.
type kind [4]byte

var (
	kindHeader  = kind{'t', 'c', 'p', 'H'}
	kindBlock   = kind{'t', 'c', 'p', 'B'}
	kindTrailer = kind{'t', 'c', 'p', 'E'}
)

func (k kind) known() bool { return k == kindHeader || k == kindBlock || k == kindTrailer }

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	oursBytes  = le.AppendUint32(nil, ours)
)

// beginFrame appends an envelope, which endFrame completes when the payload
// stands behind it.
func beginFrame(b []byte, k kind) []byte {
	b = le.AppendUint32(b, ours)
	b = le.AppendUint32(b, 0)
	b = append(b, k[:]...)
	b = append(b, major, minor, 0, 0)
	return le.AppendUint32(b, 0)
}

// endFrame fills in the size and the checksum of the frame b.
func endFrame(b []byte) (sum uint32) {
	le.PutUint32(b[4:], uint32(len(b)-zstdPrefix))
	sum = checksum(b)
	le.PutUint32(b[16:], sum)
	return sum
}

// checksum is that of a whole frame, without the checksum in it.
func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:16], castagnoli), castagnoli, b[envelopeLen:])
}

// frame is one of ours, as read.
type frame struct {
	kind         kind
	major, minor uint8
	sum          uint32
	payload      []byte
	size         int // of it all
}

// blockHeader is the payload of a block's first frame; the second is one of
// zstd with the content.
type blockHeader struct {
	recording   uint32 // the checksum of the header's frame
	flags       uint32
	events      uint32
	raw         uint32 // bytes of the content
	packed      uint32 // bytes of the frame that it is in
	number      uint64 // of the block: the first is 0
	before      uint64 // events in the blocks before
	lost        uint64 // events that the block says were lost
	first, last uint64 // Boot of the first and the last event
	from, to    int64  // least and greatest Time
	clock       int64  // Time-Boot of the first event
}

const (
	blockHeaderLen = 84
	hasSettings    = 1 << 0
)

func (h *blockHeader) appendTo(b []byte) []byte {
	b = le.AppendUint32(b, h.recording)
	b = le.AppendUint32(b, h.flags)
	b = le.AppendUint32(b, h.events)
	b = le.AppendUint32(b, h.raw)
	b = le.AppendUint32(b, h.packed)
	b = le.AppendUint64(b, h.number)
	b = le.AppendUint64(b, h.before)
	b = le.AppendUint64(b, h.lost)
	b = le.AppendUint64(b, h.first)
	b = le.AppendUint64(b, h.last)
	b = le.AppendUint64(b, uint64(h.from))
	b = le.AppendUint64(b, uint64(h.to))
	return le.AppendUint64(b, uint64(h.clock))
}

// parse reads what appendTo wrote. It reports false if that can't be right.
func (h *blockHeader) parse(b []byte) bool {
	if len(b) < blockHeaderLen {
		return false
	}
	*h = blockHeader{
		recording: le.Uint32(b), flags: le.Uint32(b[4:]), events: le.Uint32(b[8:]),
		raw: le.Uint32(b[12:]), packed: le.Uint32(b[16:]),
		number: le.Uint64(b[20:]), before: le.Uint64(b[28:]), lost: le.Uint64(b[36:]),
		first: le.Uint64(b[44:]), last: le.Uint64(b[52:]),
		from: int64(le.Uint64(b[60:])), to: int64(le.Uint64(b[68:])), clock: int64(le.Uint64(b[76:])),
	}
	return h.events <= maxEvents && h.raw <= maxRaw && h.packed <= h.raw+h.raw/64+1024
}
