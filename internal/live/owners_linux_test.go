// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/tcptrace/tcptrace/bpf"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// The decoder reads what the C structure holds.
func TestHolderLayout(t *testing.T) {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, bpf.TcptraceHolder{Inode: 1, Cookie: 2, Pid: 3, Comm: [16]int8{'a', 'b'}}); err != nil {
		t.Fatal(err)
	}
	if b.Len() != holderLen {
		t.Fatalf("%d bytes, want %d", b.Len(), holderLen)
	}
	want := holder{inode: 1, cookie: 2, pid: 3, comm: events.Comm{'a', 'b'}}
	if got := holderOf(b.Bytes()); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
