// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/bpf"
	"github.com/tcptrace/tcptrace/pkg/events"
)

// maxHolders bounds how many open sockets one look keeps. Those beyond have no
// owner but the one that connected or listened.
const maxHolders = 1 << 20

// Looks at all open files may take one part in lookShare of the time, and come
// lookPause apart, but for a few at once: so many as have their pauses in
// lookCredit. What waits for a look waits maxPause at most.
const (
	lookShare  = 10
	lookPause  = uint64(20 * time.Millisecond)
	lookCredit = uint64(200 * time.Millisecond)
	maxPause   = uint64(time.Second)
)

// closing is how long a socket may be no open file any more, and not closed yet:
// a process closes its files one by one, and may be interrupted.
const closing = uint64(50 * time.Millisecond)

// owners finds the process that has a socket. The kernel side tells who
// connected, listened or closed; that is not who accepted a connection, was
// handed one, or had one before the start. So it looks who has which socket
// after an event has come, and when that fails because the socket is gone, who
// closed it.
//
// No event is named by a look that was made before it, since the socket may
// have changed hands. In a storm events wait for a look, all that come
// meanwhile for the same.
type owners struct {
	iter         *link.Iter // over open files; nil if the kernel refuses it
	closers      *ebpf.Map
	closersTotal *ebpf.Variable
	handedOver   *ebpf.Variable
	looker       *ebpf.Variable

	taken   uint64 // CLOCK_BOOTTIME when the last look began, ns
	paid    uint64 // until then the pauses of all looks last, ns
	holders []holder
	inodes  []uint64            // of the holders: a search in these alone is faster
	sharers map[uint64][]uint32 // by inode, of the sockets that several processes have
	closed  uint32              // closersTotal
	handed  uint64              // handedOver
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
func (o *owners) fill(ctx context.Context, batch []events.Event) error {
	newest, held := uint64(0), false
	for i := range batch {
		if e := &batch[i]; e.HolderInode != 0 {
			newest, held = max(newest, e.Boot), true
		}
	}
	if !held {
		return nil // no process has them: what the kernel side remembers is all
	}
	if newest >= o.taken {
		if err := o.look(ctx); err != nil {
			return err
		}
	}
	unknown, err := o.nameAll(batch)
	if err != nil || o.iter == nil || unknown == 0 || o.taken >= unknown+closing {
		return err
	}
	// Nobody had it, and nobody had closed it: who does will be known soon.
	if now := bootTime(); now < unknown+closing {
		time.Sleep(time.Duration(unknown + closing - now))
	}
	if err := o.look(ctx); err != nil {
		return err
	}
	_, err = o.nameAll(batch)
	return err
}

// nameAll sets the owners of events as far as they are known now. unknown is the
// time of the newest that should have one and has none, 0 if there is none.
func (o *owners) nameAll(batch []events.Event) (unknown uint64, err error) {
	if err := errors.Join(o.closersTotal.Get(&o.closed), o.handedOver.Get(&o.handed)); err != nil {
		return 0, fmt.Errorf("count closed sockets: %w", err)
	}
	for i := range batch {
		e := &batch[i]
		if e.HolderInode == 0 {
			continue
		}
		if err := o.name(e); err != nil {
			return 0, err
		}
		if e.PID == 0 {
			unknown = max(unknown, e.Boot)
		}
	}
	return unknown, nil
}

// name sets the owner of one event.
func (o *owners) name(e *events.Event) error {
	// These a process does itself, and the kernel side was there: that it was
	// somebody else's a moment later is not to the point.
	done := e.PID != 0 && e.Type == events.StateChange &&
		(e.NewState == events.SynSent || e.NewState == events.Listen || e.NewState == events.FinWait1 || e.NewState == events.LastAck)
	if list := o.of(e); len(list) > 0 {
		h := &list[0]
		for i := range list {
			if list[i].pid == e.PID { // of several, the one that connected or listened
				h = &list[i]
			}
		}
		if done && h.pid != e.PID {
			return nil
		}
		e.PID, e.Comm = h.pid, h.comm
		if len(list) > 1 {
			e.Sharers = o.sharers[h.inode]
		}
		return nil
	}
	if done || o.closed == 0 || e.PID != 0 && e.Boot > o.handed {
		return nil
	}
	for _, key := range []uint64{e.Conn, byInode | e.HolderInode} {
		var c bpf.TcptraceCloser
		err := o.closers.Lookup(key, &c)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
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
	return nil
}

const byInode = 1 << 62 // BY_INODE of bpf/tcptrace.bpf.c

// of returns the processes that had the event's socket at the last look.
func (o *owners) of(e *events.Event) []holder {
	at, ok := slices.BinarySearch(o.inodes, e.HolderInode)
	if !ok {
		return nil
	}
	end := at
	for end < len(o.inodes) && o.inodes[end] == e.HolderInode {
		end++
	}
	// The inode number is the socket's own; a request's cookie isn't.
	if c := o.holders[at].cookie; c != 0 && e.Cookie != 0 && e.Inode != 0 && c != e.Cookie {
		return nil // another socket had the number before
	}
	return o.holders[at:end]
}

// look finds out which process has which socket now, once a look is due.
func (o *owners) look(ctx context.Context) error {
	if o.iter == nil {
		return nil
	}
	if now := bootTime(); o.paid > now+lookCredit {
		select {
		case <-time.After(time.Duration(o.paid - now - lookCredit)):
		case <-ctx.Done(): // this is the end, and the last look
		}
	}
	// The iterator may be the last to let go of a file, and closes it then in
	// this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := o.looker.Set(uint32(unix.Gettid())); err != nil {
		return fmt.Errorf("say who looks: %w", err)
	}
	o.taken = bootTime()
	o.holders, o.inodes = o.holders[:0], o.inodes[:0]
	err := eachRecord(o.iter, &o.lines, holderLen, func(b []byte) bool {
		o.holders = append(o.holders, holderOf(b))
		return len(o.holders) < maxHolders
	})
	if err = errors.Join(err, o.looker.Set(uint32(0))); err != nil {
		return fmt.Errorf("look who has which socket: %w", err)
	}
	slices.SortFunc(o.holders, func(a, b holder) int {
		return cmp.Or(cmp.Compare(a.inode, b.inode), cmp.Compare(a.pid, b.pid))
	})
	// A process may have a socket more than once.
	o.holders = slices.CompactFunc(o.holders, func(a, b holder) bool { return a.inode == b.inode && a.pid == b.pid })
	o.sharers = map[uint64][]uint32{} // events keep the slices
	for i := range o.holders {
		h := &o.holders[i]
		o.inodes = append(o.inodes, h.inode)
		if i == 0 || o.inodes[i-1] != h.inode {
			continue
		}
		if o.sharers[h.inode] == nil {
			o.sharers[h.inode] = []uint32{o.holders[i-1].pid}
		}
		o.sharers[h.inode] = append(o.sharers[h.inode], h.pid)
	}
	ended := bootTime()
	pause := (ended - o.taken) * (lookShare - 1)
	o.paid = max(o.paid, ended) + min(max(pause, lookPause), maxPause)
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
