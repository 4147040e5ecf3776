// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// How often a follower looks for more, and what it reads at a time.
const (
	pollTime  = 100 * time.Millisecond
	chunkLen  = 256
	maxChunks = 2
)

// follower reads recordings that may have no end yet, and streams, which may be
// silent for long. Each has a goroutine, which waits where its input ends for now. The next is begun when the one before
// has come there, so that what is old comes in order.
type follower struct {
	s       *Source
	feed    chan *portion
	settled chan *input // has come to where it ends for now
	done    chan struct{}
	running map[*input]*tail
	young   *input // has not come there yet
	ticker  *time.Ticker
	waits   sync.WaitGroup // goroutines that end when done is closed
	rest    []events.Event // of part
	part    *portion

	settings map[uint32]*events.Settings // at the last event, by namespace
}

// tail is an input that is followed.
type tail struct {
	free     chan *portion
	settings map[uint32]*events.Settings // sent already
}

// portion is events of an input, or its end.
type portion struct {
	in    *input
	list  []events.Event
	found []recording.Problem // before or among them
	err   error

	settings []*events.Settings // new ones of their namespaces
}

func newFollower(s *Source) *follower {
	return &follower{
		s: s, feed: make(chan *portion), settled: make(chan *input), done: make(chan struct{}), running: map[*input]*tail{},
		ticker: time.NewTicker(pollTime), settings: map[uint32]*events.Settings{},
	}
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
		if len(f.running) == 0 && len(f.s.inputs) == 0 && len(f.s.folders) == 0 {
			return batch, f.s.over()
		}
		select {
		case p := <-f.feed:
			p.in.held = append(p.in.held, p.found...)
			for _, set := range p.settings {
				keep(f.settings, set)
			}
			if p.err == nil {
				f.part, f.rest = p, p.list
				f.s.note(p.in, p.list)
				continue
			}
			delete(f.running, p.in)
			if f.young == p.in {
				f.young = nil
			}
			if err := f.ended(p); err != nil {
				return batch, err
			}
		case in := <-f.settled:
			if f.young == in {
				f.young = nil
			}
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
	t := &tail{free: make(chan *portion, maxChunks), settings: map[uint32]*events.Settings{}}
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

// ended takes the end of an input.
func (f *follower) ended(p *portion) error {
	switch {
	case errors.Is(p.err, io.EOF):
		f.s.close(p.in)
		return nil
	case errors.Is(p.err, os.ErrNotExist) && p.in.inside:
		return nil
	case p.in.inside:
		f.s.damage(p.in.name, p.err.Error())
		return nil
	}
	return p.err
}

// look finds new files.
func (f *follower) look() error {
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
		found := in.found
		in.found = nil
		p.found = found
		p.settings = t.news(in, p.list)
		if len(p.list) > 0 && !send(p) {
			return
		}
		if err != nil {
			if len(p.list) > 0 {
				found = nil // they were sent
			}
			send(&portion{in: in, found: found, err: err})
			return
		}
		if len(p.list) == 0 {
			t.free <- p
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
		if set := in.r.Settings(inum); set != nil && set != t.settings[inum] {
			keep(t.settings, set)
			news = append(news, set)
		}
	}
	return news
}

// keep keeps the settings of some namespaces.
func keep(in map[uint32]*events.Settings, set *events.Settings) {
	if len(in) >= maxNets {
		clear(in)
	}
	in[set.NetNS] = set
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
		return f.s.header(in, file)
	}
	return f.s.header(in, &growing{f: f, in: in, file: file})
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
	for in := range f.running {
		if in.stream { // its goroutine may still read
			f.s.account(in, nil)
		} else if in.r != nil {
			f.s.account(in, in.r.Summary())
			in.end()
		}
	}
}

// growing is a file that has no end as long as someone may write it.
type growing struct {
	f       *follower
	in      *input
	file    *os.File
	settled bool
}

func (g *growing) Read(b []byte) (int, error) {
	for {
		// A file of a folder is over when its recorder is gone, which locks it
		// before it writes; any other one when the user says so.
		over := false
		if g.in.inside {
			fi, err := g.file.Stat()
			over = err == nil && fi.Size() > 0 && !written(g.file)
		}
		n, err := g.file.Read(b)
		if n > 0 || !errors.Is(err, io.EOF) || over {
			return n, err
		}
		if !g.settled {
			g.settled = true
			select {
			case g.f.settled <- g.in:
			case <-g.f.done:
			}
		}
		select {
		case <-g.f.done:
			return 0, io.EOF
		case <-time.After(pollTime):
		}
	}
}
