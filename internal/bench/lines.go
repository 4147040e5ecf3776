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
	events int    // lines about the place
	last   string // line, of any kind
}

// countLines counts the lines of a file that are about addr: see count.
func countLines(file, addr string) (tally, error) {
	f, err := os.Open(file)
	if err != nil {
		return tally{}, err
	}
	defer f.Close()
	t, err := count(f, addr)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return t, err
}

// count counts the lines that have addr in them, but for retransmissions that
// the host could not send: the kernel does not count them either.
func count(r io.Reader, addr string) (t tally, err error) {
	want := []byte(addr)
	unsent := [][]byte{[]byte("err=-"), []byte(" unsent ")} // as the kernel's formats have it, and as tcptrace's
	b := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := b.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return t, err
		}
		if bytes.Contains(line, want) && !bytes.Contains(line, unsent[0]) && !bytes.Contains(line, unsent[1]) {
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
