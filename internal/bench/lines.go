// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// tally is what a tool's output holds.
type tally struct {
	lines  int
	events int    // lines that match
	last   string // line, of any kind
}

// match chooses the lines of a tool's output that stand for a load's events:
// they have its address in them, and its word.
type match struct{ addr, word string }

// countLines counts the lines of a file that match: see count.
func countLines(file string, m match) (tally, error) {
	f, err := os.Open(file)
	if err != nil {
		return tally{}, err
	}
	defer f.Close()
	t, err := count(f, m)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return t, err
}

// count counts the lines that match, but for retransmissions that the host
// could not send: the kernel does not count them either.
func count(r io.Reader, m match) (t tally, err error) {
	addr, word := []byte(m.addr), []byte(m.word)
	unsent := [][]byte{[]byte("err=-"), []byte(" unsent ")} // as the kernel's formats have it, and as tcptrace's
	b := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := b.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return t, err
		}
		if len(line) > 0 {
			t.lines++
		}
		if bytes.Contains(line, addr) && bytes.Contains(line, word) &&
			!bytes.Contains(line, unsent[0]) && !bytes.Contains(line, unsent[1]) {
			t.events++
		}
		if _, more := b.Peek(1); more != nil { // it is the last
			if len(line) > 0 {
				t.last = string(line)
			}
			if errors.Is(more, io.EOF) {
				return t, nil
			}
			return t, more
		}
	}
}
