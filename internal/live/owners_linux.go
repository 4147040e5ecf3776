// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/tcptrace/tcptrace/bpf"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// maxHolders bounds how many open sockets one look keeps. Those beyond have no
// owner but the one that connected or listened.
const maxHolders = 1 << 20

// A look at all open files may take this part of the time, as 1/n: for
// processes that are known already, and for a socket whose process is not.
const (
	recheckShare = 50
	searchShare  = 10
)

// owners finds the process that has a socket. The kernel side tells who
// connected, listened or closed; that is not who accepted a connection, was
// handed one, or had one before the start. So it looks who has which socket
// when an event has come, and when that fails because the socket is gone, who
// closed it.
type owners struct {
	iter         *link.Iter // over open files; nil if the kernel refuses it
	closers      *ebpf.Map
	closersTotal *ebpf.Variable

	taken   uint64 // CLOCK_BOOTTIME when the last look began, ns
	ended   uint64 // and when it ended
	holders []holder
	sharers map[uint64][]uint32 // by inode, of the sockets that several processes have
	closed  uint32              // closersTotal
	lines   bufio.Reader        // of the iterator
}

// holder is a process that has a socket.
type holder struct {
	inode  uint64
	cookie uint64 // 0 unknown
	pid    uint32
	comm   events.Comm
}

// fill sets the owners of a batch of new events.
func (o *owners) fill(batch []events.Event) error {
	newer, unknown := false, false
	for i := range batch {
		e := &batch[i]
		if e.HolderInode == 0 || e.Boot < o.taken {
			continue
		}
		newer = true
		if e.PID == 0 && len(o.of(e)) == 0 {
			unknown = true
			break
		}
	}
	if newer && o.iter != nil && o.due(unknown) {
		if err := o.look(); err != nil {
			return err
		}
	}
	if newer {
		if err := o.closersTotal.Get(&o.closed); err != nil {
			return fmt.Errorf("count closed sockets: %w", err)
		}
	}
	for i := range batch {
		if err := o.name(&batch[i]); err != nil {
			return err
		}
	}
	return nil
}

// due reports whether a look is worth its time.
func (o *owners) due(unknown bool) bool {
	share := uint64(recheckShare)
	if unknown {
		share = searchShare
	}
	return bootTime()-o.ended >= (o.ended-o.taken)*(share-1)
}

// name sets the owner of one event.
func (o *owners) name(e *events.Event) error {
	if e.HolderInode == 0 {
		return nil // no process has it: what the kernel side remembers is all
	}
	if list := o.of(e); len(list) > 0 {
		h := &list[0]
		for i := range list {
			if list[i].pid == e.PID { // of several, the one that connected or listened
				h = &list[i]
			}
		}
		e.PID, e.Comm = h.pid, h.comm
		if len(list) > 1 {
			e.Sharers = o.sharers[h.inode]
		}
		return nil
	}
	if o.closed == 0 || e.Conn == 0 {
		return nil
	}
	var c bpf.TcptraceCloser
	err := o.closers.Lookup(e.Conn, &c)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look who closed a socket: %w", err)
	}
	e.PID = c.Pid
	for i, b := range c.Comm {
		e.Comm[i] = byte(b)
	}
	return nil
}

// of returns the processes that had the event's socket at the last look.
func (o *owners) of(e *events.Event) []holder {
	at, ok := slices.BinarySearchFunc(o.holders, e.HolderInode, func(h holder, inode uint64) int { return cmp.Compare(h.inode, inode) })
	if !ok {
		return nil
	}
	end := at
	for end < len(o.holders) && o.holders[end].inode == e.HolderInode {
		end++
	}
	// The inode number is the socket's own; a request's cookie isn't.
	if c := o.holders[at].cookie; c != 0 && e.Cookie != 0 && e.Inode != 0 && c != e.Cookie {
		return nil // another socket had the number before
	}
	return o.holders[at:end]
}

// look finds out which process has which socket now.
func (o *owners) look() error {
	o.taken = bootTime()
	o.holders = o.holders[:0]
	err := eachRecord(o.iter, &o.lines, holderLen, func(b []byte) bool {
		o.holders = append(o.holders, holderOf(b))
		return len(o.holders) < maxHolders
	})
	if err != nil {
		return fmt.Errorf("look who has which socket: %w", err)
	}
	slices.SortFunc(o.holders, func(a, b holder) int {
		return cmp.Or(cmp.Compare(a.inode, b.inode), cmp.Compare(a.pid, b.pid))
	})
	// A process may have a socket more than once.
	o.holders = slices.CompactFunc(o.holders, func(a, b holder) bool { return a.inode == b.inode && a.pid == b.pid })
	o.sharers = map[uint64][]uint32{} // events keep the slices
	for i := 1; i < len(o.holders); i++ {
		h := &o.holders[i]
		if before := &o.holders[i-1]; before.inode == h.inode {
			if o.sharers[h.inode] == nil {
				o.sharers[h.inode] = []uint32{before.pid}
			}
			o.sharers[h.inode] = append(o.sharers[h.inode], h.pid)
		}
	}
	o.ended = bootTime()
	return nil
}

const holderLen = 40 // struct holder of bpf/record.h

func holderOf(b []byte) holder {
	le := binary.LittleEndian
	return holder{inode: le.Uint64(b), cookie: le.Uint64(b[8:]), pid: le.Uint32(b[16:]), comm: events.Comm(b[24:40])}
}

// eachRecord calls f with every record that an iterator prints, each of n
// bytes, until f returns false.
func eachRecord(iter *link.Iter, r *bufio.Reader, n int, f func([]byte) bool) error {
	file, err := iter.Open()
	if err != nil {
		return fmt.Errorf("open iterator: %w", err)
	}
	r.Reset(file)
	b := make([]byte, n)
	for err == nil {
		if _, err = io.ReadFull(r, b); err == nil && !f(b) {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, file.Close())
}
