// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// What waits for a slow output is given as it came, and takes little memory.
func TestSpoolPacks(t *testing.T) {
	const pieces = 3 * maxPlain
	s := newSpool(nil, nil, pieces*pieceLen)
	content := func(i int) []byte {
		return bytes.Repeat(fmt.Appendf(nil, "record %3d of a piece, like others ", i), pieceLen)[:pieceLen-i]
	}
	for i := range pieces {
		p := piece{records: append(make([]byte, 0, pieceLen), content(i)...)}
		if i == pieces-1 {
			p.err = io.EOF
		}
		buf, more := s.put(p, pieceLen)
		if len(buf) > 0 && &buf[0] == &p.records[0] && !s.pieces[i].packed {
			t.Fatalf("the buffer of piece %d is used again while it waits", i)
		}
		if more == (p.err != nil) {
			t.Fatalf("more is %v", more)
		}
	}
	held := 0
	for _, p := range s.pieces {
		held += len(p.records)
	}
	if most := (maxPlain + 1) * pieceLen; held > most {
		t.Errorf("%d pieces take %d bytes, want at most %d", pieces, held, most)
	}
	if s.size <= held {
		t.Errorf("%d bytes of records count as %d", held, s.size)
	}
	var p piece
	for i := range pieces {
		p = s.next(p)
		if !bytes.Equal(p.records, content(i)) {
			t.Fatalf("piece %d has other records", i)
		}
	}
	if p.err != io.EOF || s.size != 0 {
		t.Errorf("the last piece says %v, %d bytes are left", p.err, s.size)
	}
}
