// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
)

// How often a follower looks for more, and what it reads at a time.
const (
	pollTime  = 100 * time.Millisecond
	chunkLen  = 256
	maxChunks = 2
)

// follower reads recordings that may have no end yet, and streams, which may be
// silent for long. Each has a goroutine, which waits where its input ends for now. The next is begun when the one before
// has come there, so that what is old comes in order. A file of a folder gives its first byte when the others have come
// to where they end after that: a recorder begins a file only when the one before is whole, so what is new comes in order,
// too.
type follower struct {
	s       *Source
	feed    chan *portion
	settled chan settled
	entered chan *growing // has its first bytes
	done    chan struct{}
	round   atomic.Pointer[round]
	running map[*input]*tail
	behind  map[*growing]map[*input]bool // that entered, and those that have to settle first
	young   *input                       // has not come there yet
	ticker  *time.Ticker
	waits   sync.WaitGroup // goroutines that end when done is closed
	rest    []events.Event // of part
	part    *portion

	settings kept // at the last event
}

// round is a look of all files for where they end.
type round struct {
	number uint64
	over   chan struct{} // closed when there is a new one
}

// settled says that an input has come to where it ends for now, in a round.
type settled struct {
	in    *input
	round uint64
}

// tail is an input that is followed.
type tail struct {
	free     chan *portion
	settings kept // sent already
}

// kept is the latest settings of some namespaces.
type kept struct {
	of    map[uint32]*events.Settings
	bytes int
}

// maxKept bounds what kept holds, in bytes of names and values.
const maxKept = 16 << 20

// put forgets all others when there are too many.
func (k *kept) put(set *events.Settings) {
	old := k.of[set.NetNS]
	if old != nil {
		k.bytes -= textLen(old)
	}
	k.bytes += textLen(set)
	if k.of == nil || old == nil && len(k.of) >= maxNets || k.bytes > maxKept {
		k.of, k.bytes = map[uint32]*events.Settings{}, textLen(set)
	}
	k.of[set.NetNS] = set
}

func textLen(set *events.Settings) (n int) {
	for i := range set.Values {
		n += len(set.Values[i].Name) + len(set.Values[i].Value)
	}
	return n
}

// portion is events of an input, or its end.
type portion struct {
	in    *input
	list  []events.Event
	found problems // before or among them
	err   error

	settings []*events.Settings // new ones of their namespaces
}

func newFollower(s *Source) *follower {
	f := &follower{
		s: s, feed: make(chan *portion), settled: make(chan settled), entered: make(chan *growing), done: make(chan struct{}), running: map[*input]*tail{},
		behind: map[*growing]map[*input]bool{},
		ticker: time.NewTicker(pollTime),
	}
	f.round.Store(&round{over: make(chan struct{})})
	return f
}

// read is [Source.Read].
func (f *follower) read(ctx context.Context, batch []events.Event) ([]events.Event, error) {
	if ctx.Err() != nil {
		f.stop()
		return batch, f.s.over()
	}
	for len(f.rest) == 0 {
		if f.young == nil && len(f.s.inputs) > 0 {
			f.begin()
		}
		if len(f.running) == 0 && len(f.s.inputs) == 0 && (len(f.s.folders) == 0 || !f.s.o.Follow) {
			return batch, f.s.over()
		}
		select {
		case p := <-f.feed:
			p.in.held.take(&p.found)
			for _, set := range p.settings {
				f.settings.put(set)
			}
			if p.err == nil {
				f.part, f.rest = p, p.list
				f.s.note(p.in, p.list)
				continue
			}
			delete(f.running, p.in)
			f.pass(settled{p.in, f.round.Load().number})
			if err := f.ended(p); err != nil {
				return batch, err
			}
		case at := <-f.settled:
			f.pass(at)
		case g := <-f.entered:
			f.enter(g)
		case <-f.ticker.C:
			if err := f.look(); err != nil {
				return batch, err
			}
			return batch, nil
		case <-ctx.Done():
			return batch, nil
		}
	}
	n := min(len(f.rest), cap(batch)-len(batch))
	batch = append(batch, f.rest[:n]...)
	if f.rest = f.rest[n:]; len(f.rest) == 0 {
		f.running[f.part.in].free <- f.part
	}
	return batch, nil
}

// begin starts the next input.
func (f *follower) begin() {
	in := f.s.inputs[0]
	f.s.inputs = f.s.inputs[1:]
	t := &tail{free: make(chan *portion, maxChunks)}
	for range maxChunks {
		t.free <- &portion{in: in, list: make([]events.Event, 0, chunkLen)}
	}
	f.running[in], f.young = t, in
	if in.stream {
		go f.run(in, t) // nothing ends its waiting
	} else {
		f.waits.Go(func() { f.run(in, t) })
	}
}

// enter has a file wait for the others, but for those that wait themselves.
func (f *follower) enter(g *growing) {
	others := map[*input]bool{}
	for in := range f.running {
		others[in] = in != g.in && !in.stream
	}
	for other := range f.behind {
		others[other.in] = false
	}
	maps.DeleteFunc(others, func(_ *input, wait bool) bool { return !wait })
	last := f.round.Load()
	g.round = last.number + 1
	f.round.Store(&round{g.round, make(chan struct{})})
	close(last.over)
	f.behind[g] = others
	f.release(g)
}

// pass takes note of an input that has settled or ended.
func (f *follower) pass(at settled) {
	if f.young == at.in {
		f.young = nil
	}
	for g, others := range f.behind {
		if at.round >= g.round {
			delete(others, at.in)
			f.release(g)
		}
	}
}

func (f *follower) release(g *growing) {
	if len(f.behind[g]) == 0 {
		delete(f.behind, g)
		close(g.turn)
	}
}

// ended takes the end of an input.
func (f *follower) ended(p *portion) error {
	switch {
	case errors.Is(p.err, io.EOF):
		f.s.close(p.in)
		return nil
	case errors.Is(p.err, os.ErrNotExist) && p.in.inside:
		f.s.leaveOut(p.in, p.err)
		return nil
	}
	return f.s.fail(p.in, p.err)
}

// look finds new files, if they are followed.
func (f *follower) look() error {
	if !f.s.o.Follow {
		return nil
	}
	for _, d := range f.s.folders {
		inputs, err := f.s.news(d)
		if err != nil {
			return err
		}
		f.s.inputs = append(f.s.inputs, inputs...)
	}
	return nil
}

// run reads one input.
func (f *follower) run(in *input, t *tail) {
	send := func(p *portion) bool {
		select {
		case f.feed <- p:
			return true
		case <-f.done:
			return false
		}
	}
	if err := f.open(in); err != nil {
		send(&portion{in: in, err: err})
		return
	}
	for {
		var p *portion
		select {
		case p = <-t.free:
		case <-f.done:
			return
		}
		var err error
		p.list, err = in.r.Read(p.list[:0])
		p.found, in.found = in.found, problems{}
		p.settings = t.news(in, p.list)
		switch {
		case len(p.list) == 0 && err == nil:
			in.found = p.found
			t.free <- p
			continue
		case len(p.list) > 0 && !send(p):
			return
		case err != nil:
			if !errors.Is(err, io.EOF) {
				err = fmt.Errorf("%s: %w", in.name, err)
			}
			end := &portion{in: in, err: err}
			if len(p.list) == 0 { // else they were sent
				end.found = p.found
			}
			send(end)
			return
		}
	}
}

// news are the settings that came with events.
func (t *tail) news(in *input, list []events.Event) (news []*events.Settings) {
	last := uint32(0)
	for i := range list {
		inum := list[i].NetNS
		if inum == last {
			continue
		}
		last = inum
		if set := in.r.Settings(inum); set != nil && set != t.settings.of[inum] {
			t.settings.put(set)
			news = append(news, set)
		}
	}
	return news
}

func (f *follower) open(in *input) error {
	if in.stream {
		return nil // it is
	}
	file, err := os.Open(in.path)
	if err != nil {
		return err
	}
	in.file = file
	if !f.s.o.Follow {
		return f.s.header(in, interruptible{file, f.over})
	}
	return f.s.header(in, &growing{f: f, in: in, file: file, turn: make(chan struct{})})
}

// over reports whether the follower has ended.
func (f *follower) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// stop ends what runs, and takes account of it.
func (f *follower) stop() {
	if f.ticker == nil {
		return
	}
	f.ticker.Stop()
	f.ticker = nil
	close(f.done)
	f.waits.Wait()
	f.s.sum.Partial = f.s.sum.Partial || len(f.s.inputs) > 0
	for in := range f.running {
		if in.stream { // its goroutine may still read
			f.s.account(in, nil)
		} else if in.r != nil {
			f.s.account(in, in.r.Summary())
			in.end()
		}
	}
	clear(f.running)
}

// growing is a file that has no end as long as someone may write it.
type growing struct {
	f       *follower
	in      *input
	file    *os.File
	entered bool
	settled bool
	at      uint64        // the last round in which it settled
	round   uint64        // in which the others have to, before its turn; the follower's
	turn    chan struct{} // closed when it is
}

func (g *growing) Read(b []byte) (int, error) {
	for {
		// A file of a folder is over when its recorder is gone, which locks it
		// before it writes; any other one when the user says so.
		over := false
		round := g.f.round.Load()
		if g.in.inside {
			fi, err := g.file.Stat()
			over = err == nil && fi.Size() > 0 && !written(g.file)
		}
		n, err := g.file.Read(b)
		if n > 0 && g.f.over() {
			return 0, errInterrupted
		}
		if n > 0 && g.in.inside && !g.entered {
			g.entered = true
			if !g.enter() {
				return 0, io.EOF
			}
		}
		if n > 0 || !errors.Is(err, io.EOF) || over {
			return n, err
		}
		if !g.settled || g.at != round.number {
			g.settled, g.at = true, round.number
			select {
			case g.f.settled <- settled{g.in, round.number}:
			case <-g.f.done:
			}
		}
		select {
		case <-g.f.done:
			return 0, io.EOF
		case <-round.over:
		case <-time.After(pollTime):
		}
	}
}

// enter waits for the file's turn; false if it comes no more.
func (g *growing) enter() bool {
	select {
	case g.f.entered <- g:
	case <-g.f.done:
		return false
	}
	select {
	case <-g.turn:
		return true
	case <-g.f.done:
		return false
	}
}
