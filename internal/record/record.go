// SPDX-License-Identifier: Apache-2.0

// Package record owns the files of recordings: it makes, syncs, rotates and
// deletes them, and reads them back as a source of events.
package record

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// Options of [Open].
type Options struct {
	Stdout io.Writer     // what the path - is
	Force  bool          // replace a file
	Flush  time.Duration // events are on disk at most so long after they came; 0: DefaultFlush

	File    bool          // the path is no folder
	Folder  bool          // the path is a folder even if it is not there yet
	MaxSize int64         // of all recordings in a folder, bytes; 0: DefaultMaxSize
	MaxAge  time.Duration // of recordings in a folder; 0: any

	Warn func(string) // told what does not end the recording, by any goroutine; may be nil

	// Tests'.
	now     func() time.Time
	sync    func(*os.File) error
	syncDir func(path string) error
	queue   int // bytes that wait for a slow disk before Append does
}

// The defaults of [Options].
const (
	DefaultFlush   = time.Second
	DefaultMaxSize = 1 << 30
)

// Teller is what a source may tell beside its events. Either may be nil.
type Teller struct {
	// Audit ends the audit under way, and begins the next: it sets what a
	// summary says of the kernel's counters.
	Audit func(*events.Summary) error
	// Settings are those of some namespaces, as far as they are known.
	Settings func(netns []uint32) ([]events.Settings, error)
	// Again is after how long those of a namespace are asked for again, if it
	// had events since; 0: at each Tick.
	Again time.Duration
}

// SettingsAge is what Teller.Again is to be where settings are the kernel's.
const SettingsAge = time.Minute

const (
	maxQueue = 16 << 20
	// sweepTime is how often a folder is looked at in which nothing is written.
	sweepTime = time.Minute
	// maxNets is how many namespaces of a file have their settings in it.
	maxNets = 4096
)

// Recorder writes events to a file, or to files of a folder. What is written
// goes through memory to a goroutine of its own, so that a slow disk does not
// stall the stream. It implements pipeline.Sink; its methods are for one
// goroutine.
type Recorder struct {
	o      Options
	path   string
	folder *folder // nil: one file
	info   recording.Info
	tell   Teller

	// Of the file under way.
	began  time.Time
	empty  int64          // bytes without an event
	before events.Summary // of the files before it
	lost   uint64         // events, as told by those that were taken; of all files
	nets   map[uint32]*netns
	asked  time.Time // for all settings
	last   uint32    // namespace of the last event
	unseen bool      // a namespace was not asked for yet

	swept time.Time // the folder
	files int
	audit events.Sum // of the finished files' audits

	mu      sync.Mutex
	changed sync.Cond // of all below
	w       *recording.Writer
	pieces  []*piece // to be written, in order; the last is under way
	timer   *time.Timer
	armed   bool // the timer runs: something is not on disk
	due     bool // it has run out
	sweep   bool // files may have become too old
	bytes   int64
	taken   uint64 // events given
	stored  uint64 // and written
	err     error
	done    chan struct{} // closed when all is written
}

// netns is a namespace that has events in the file under way.
type netns struct {
	seen   bool // since its settings were asked for
	values []events.Setting
}

// piece is a file, and what it lacks yet. It is the writer below
// recording.Writer, which the Recorder's lock is held for.
type piece struct {
	out   io.Writer
	w     *recording.Writer // what writes to it; nil while it writes its header
	file  *os.File          // nil: out is a pipe or so
	fresh bool              // its name may not be on disk yet
	chunk                   // not written yet
	size  int64             // taken, in bytes
	good  int64             // written, in whole blocks
	kept  int               // events in these
	sync  bool
	whole bool // nothing comes any more
}

// chunk is whole blocks.
type chunk struct {
	buf  []byte
	ends []blockEnd
}

// blockEnd is where a block ends, and how many events it has.
type blockEnd struct{ at, events int }

// events is how many are in the first n bytes, and where the last block of
// these ends.
func (c *chunk) events(n int) (events, end int) {
	for _, e := range c.ends {
		if e.at <= n {
			events += e.events
			end = e.at
		}
	}
	return events, end
}

func (p *piece) Write(block []byte) (int, error) {
	p.buf = append(p.buf, block...)
	n := 0
	if p.w != nil {
		n = p.w.Pending()
	}
	p.ends = append(p.ends, blockEnd{len(p.buf), n})
	p.size += int64(len(block))
	return len(block), nil
}

// Open prepares to write to path: a file, - for o.Stdout, or a folder. It
// needs the rights that this process has now; what it needs later is told by
// [Recorder.Rights]. Its errors say what is wrong with the path.
func Open(path string, o Options) (*Recorder, error) {
	if o.Flush == 0 {
		o.Flush = DefaultFlush
	}
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.queue == 0 {
		o.queue = maxQueue
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.sync == nil {
		o.sync = datasync
	}
	if o.syncDir == nil {
		o.syncDir = syncDir
	}
	r := &Recorder{o: o, path: path, done: make(chan struct{})}
	r.changed.L = &r.mu
	if path == "-" && !o.Folder {
		r.pieces = []*piece{{out: o.Stdout}}
		return r, nil
	}
	if fi, err := os.Stat(path); o.Folder || err == nil && fi.IsDir() && !o.File {
		r.folder, err = openFolder(path, &r.o)
		return r, err
	}
	switch {
	case strings.HasSuffix(path, "/") && o.File:
		return nil, fmt.Errorf("%s is the name of a folder: give a file", path)
	case strings.HasSuffix(path, "/"):
		return nil, fmt.Errorf("%s is no folder yet: --max-size or --max-age makes one", path)
	}
	f, fresh, err := create(path, o.Force)
	if err != nil {
		return nil, err
	}
	r.pieces = []*piece{{out: f, file: f, fresh: fresh}}
	return r, nil
}

// Folder reports whether it is a folder that is written to.
func (r *Recorder) Folder() bool { return r.folder != nil }

// Rights are the capabilities that are needed to go on.
func (r *Recorder) Rights() []string {
	if r.folder != nil && r.folder.override {
		return []string{"CAP_DAC_OVERRIDE"}
	}
	return nil
}

// Start begins the recording. info is that of a recording that begins now.
func (r *Recorder) Start(info recording.Info, tell Teller) error {
	r.info, r.tell = info, tell
	r.began, r.files = r.o.now(), 1
	r.nets = map[uint32]*netns{}
	if r.folder != nil {
		f, err := r.folder.create(r.began)
		if err != nil {
			return err
		}
		r.pieces = []*piece{{out: f, file: f, fresh: true}}
	} else if p := r.pieces[0]; p.file != nil && !p.fresh {
		if err := p.file.Truncate(0); err != nil {
			return err
		}
	}
	w, err := recording.NewWriter(r.pieces[0], info)
	if err != nil {
		return err
	}
	r.w, r.pieces[0].w, r.empty = w, w, w.Written()
	r.timer = time.AfterFunc(time.Hour, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.due = true
		r.changed.Broadcast()
	})
	r.timer.Stop()
	go r.run()
	return nil
}

// Append takes events. It waits only if a lot of them wait for the disk.
func (r *Recorder) Append(batch []events.Event) error {
	for i := range batch {
		e := &batch[i]
		if e.NetNS != r.last && e.NetNS != 0 {
			r.see(e.NetNS)
		}
		if e.Type == events.Lost {
			r.lost += e.Count
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken += uint64(len(batch))
	if r.err != nil {
		return r.failure()
	}
	r.fail(r.w.Append(batch))
	if !r.armed {
		r.armed = true
		// The rest of the time is for the disk.
		r.timer.Reset(r.o.Flush - r.o.Flush/4)
	}
	p := r.pieces[len(r.pieces)-1]
	if len(p.buf) > 0 {
		r.changed.Broadcast()
	}
	for r.queued() > r.o.queue && r.err == nil {
		r.changed.Wait()
	}
	return r.failure()
}

// queued is how many bytes wait for the disk: files may be finished faster than
// they are written.
func (r *Recorder) queued() (n int) {
	for _, p := range r.pieces {
		n += len(p.buf)
	}
	return n
}

// fail keeps the first error.
func (r *Recorder) fail(err error) {
	if err != nil && r.err == nil {
		r.err = err
	}
}

// failure is the first error, with what it costs.
func (r *Recorder) failure() error {
	switch n := r.taken - r.stored; {
	case r.err == nil:
		return nil
	case n == 0:
		return r.err
	case n == 1:
		return fmt.Errorf("%w: 1 event is not in the recording", r.err)
	default:
		return fmt.Errorf("%w: %d events are not in the recording", r.err, n)
	}
}

// see has the settings of a namespace asked for at the next Tick.
func (r *Recorder) see(inum uint32) {
	r.last = inum
	n := r.nets[inum]
	if n == nil && len(r.nets) < maxNets {
		n = &netns{}
		r.nets[inum] = n
		r.unseen = true
	}
	if n != nil {
		n.seen = true
	}
}

// Tick is to be called ten times a second. It tells of what went wrong, and
// begins another file when it is time to.
func (r *Recorder) Tick(soFar func() events.Summary) error {
	now := r.o.now()
	r.settings(now)
	r.mu.Lock()
	err, size, pending := r.failure(), r.w.Written(), r.w.Pending()
	r.mu.Unlock()
	if err != nil || r.folder == nil {
		return err
	}
	if now.Sub(r.swept) >= sweepTime {
		r.swept = now
		r.mu.Lock()
		r.sweep = true
		r.changed.Broadcast()
		r.mu.Unlock()
		if name, gone := r.folder.gone(); gone {
			r.o.Warn(name + " was deleted while it was written: another file is begun")
			return r.rotate(now, soFar())
		}
	}
	if size == r.empty && pending == 0 {
		return nil // nothing to rotate
	}
	if size >= r.folder.pieceSize || r.folder.pieceAge > 0 && now.Sub(r.began) >= r.folder.pieceAge {
		return r.rotate(now, soFar())
	}
	return nil
}

// settings records those that are new.
func (r *Recorder) settings(now time.Time) {
	again := now.Sub(r.asked) >= r.tell.Again
	if r.tell.Settings == nil || !r.unseen && !again {
		return
	}
	var ask []uint32
	for inum, n := range r.nets {
		if n.seen && (again || n.values == nil) {
			ask = append(ask, inum)
		}
		if again {
			n.seen = false
		}
	}
	r.unseen = false
	if again {
		r.asked, r.last = now, 0
	}
	if ask == nil {
		return
	}
	slices.Sort(ask)
	list, err := r.tell.Settings(ask)
	if err != nil {
		r.o.Warn(fmt.Sprintf("settings of network namespaces are not recorded: %v", err))
		r.tell.Settings = nil
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range list {
		s := &list[i]
		if n := r.nets[s.NetNS]; n != nil && !slices.Equal(n.values, s.Values) {
			n.values = slices.Clone(s.Values)
			r.w.Settings(s)
		}
	}
}

// rotate finishes the file under way, and begins the next.
func (r *Recorder) rotate(now time.Time, soFar events.Summary) error {
	f, err := r.folder.create(now)
	if err != nil {
		// After an error of the disk the folder is closed.
		r.mu.Lock()
		defer r.mu.Unlock()
		return cmp.Or(r.failure(), err)
	}
	// What was lost is told by an event that may be of the next file.
	soFar.Lost = r.lost
	own := since(&soFar, &r.before)
	own.Elapsed = now.Sub(r.began)
	if r.tell.Audit != nil {
		if err := r.tell.Audit(&own); err != nil {
			r.o.Warn(fmt.Sprintf("a file has no audit: %v", err))
		}
	}
	info := r.info
	info.Start = now.UnixNano()
	next := &piece{out: f, file: f, fresh: true}
	w, err := recording.NewWriter(next, info)
	if err != nil {
		return errors.Join(err, f.Close())
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return errors.Join(r.failure(), f.Close())
	}
	next.w = w
	r.fail(r.w.Finish(&own))
	r.pieces[len(r.pieces)-1].whole = true
	r.pieces, r.w = append(r.pieces, next), w
	r.empty = w.Written()
	r.changed.Broadcast()
	r.before, r.began = soFar, now
	r.files++
	r.audit.AddProof(&own)
	clear(r.nets)
	r.last, r.unseen = 0, false
	return r.failure()
}

// Finish writes what is left, with the summary of the whole stream, and
// returns when it is on disk. For a folder it makes the audit of sum, which is
// of the last file, that of all.
func (r *Recorder) Finish(sum *events.Summary) error {
	own := *sum
	if r.files > 1 {
		own = since(sum, &r.before)
		own.Elapsed = r.o.now().Sub(r.began)
		own.TakeProof(sum)
	}
	r.audit.AddProof(&own)
	if r.folder != nil {
		sum.TakeProof(&r.audit.Summary)
	}
	var gone error
	r.mu.Lock()
	if r.err == nil {
		last := r.pieces[len(r.pieces)-1]
		r.fail(r.w.Finish(&own))
		gone = last.deleted() // told after the end: files before it may still wait for the disk
		last.whole = true
	}
	r.mu.Unlock()
	return cmp.Or(r.end(), gone)
}

// deleted is an error if nobody can open the file any more.
func (p *piece) deleted() error {
	if p.file == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(p.file.Fd()), &st); err != nil || st.Nlink > 0 {
		return nil // what can't be told here, the writing tells
	}
	return fmt.Errorf("%s was deleted while it was written: what it held is gone", p.file.Name())
}

// shortened is an error if someone else has emptied the file, or cut it: what is
// written behind would stand after a hole.
func (p *piece) shortened() error {
	if p.file == nil {
		return nil
	}
	if fi, err := p.file.Stat(); err != nil || fi.Size() >= p.good {
		return nil // what can't be told here, the writing tells
	}
	return fmt.Errorf("%s was made shorter while it was written: what it held is gone", p.file.Name())
}

// end has what was taken written, and closes all.
func (r *Recorder) end() error {
	r.timer.Stop()
	r.mu.Lock()
	if n := len(r.pieces); n > 0 {
		r.pieces[n-1].whole = true
	}
	r.changed.Broadcast()
	r.mu.Unlock()
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure()
}

// Close ends a recording that was not finished. What it has so far stays, but
// for the file of one that was not started. It does nothing after Finish.
func (r *Recorder) Close() error {
	switch {
	case r.w != nil:
		select {
		case <-r.done:
			return nil // the error was told
		default:
		}
		r.mu.Lock()
		if r.err == nil {
			r.fail(r.w.Flush())
		}
		r.mu.Unlock()
		return r.end()
	case r.folder != nil:
		return r.folder.close()
	case len(r.pieces) > 0 && r.pieces[0].file != nil:
		p := r.pieces[0]
		var err error
		if own, serr := p.file.Stat(); p.fresh && serr == nil {
			if there, lerr := os.Lstat(r.path); lerr == nil && os.SameFile(own, there) {
				err = os.Remove(r.path)
			}
		}
		return errors.Join(err, p.file.Close())
	}
	return nil
}

// Written tells how many bytes were written, and to how many files.
func (r *Recorder) Written() (bytes int64, files int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes, r.files
}

// run writes what the pieces got.
func (r *Recorder) run() {
	defer close(r.done)
	var spare chunk
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.pieces) > 0 {
		p := r.pieces[0]
		for len(p.buf) == 0 && !p.whole && !r.due && !r.sweep {
			r.changed.Wait()
		}
		if r.sweep {
			r.sweep = false
			r.mu.Unlock()
			r.folder.makeRoom(0)
			r.mu.Lock()
		}
		if r.due {
			r.due, r.armed = false, false
			if last := r.pieces[len(r.pieces)-1]; !last.whole { // or else its writer is finished
				r.fail(r.w.Flush())
				last.sync = true
			}
		}
		c, sync, whole := p.chunk, p.sync || p.whole, p.whole
		p.chunk, p.sync = chunk{spare.buf[:0], spare.ends[:0]}, false
		if r.err == nil {
			r.mu.Unlock()
			n, err := r.put(p, c, sync)
			r.mu.Lock()
			events, _ := c.events(int(n))
			p.kept += events
			r.bytes, r.stored = r.bytes+n, r.stored+uint64(events)
			r.fail(err)
		}
		spare = c
		if whole || r.err != nil {
			r.pieces = r.pieces[1:]
			if p.file != nil {
				r.fail(p.file.Close())
			}
			if r.err != nil && r.folder != nil && p.kept == 0 {
				_ = r.folder.root.Remove(filepath.Base(p.file.Name())) // a disk that stays full would get one at each start
			}
		}
		r.changed.Broadcast()
	}
	if r.folder != nil {
		r.fail(r.folder.close())
	}
}

// put writes to a file, and returns how many bytes of whole blocks it wrote.
func (r *Recorder) put(p *piece, c chunk, sync bool) (int64, error) {
	if err := p.shortened(); err != nil {
		return 0, err
	}
	if len(c.buf) > 0 {
		if r.folder != nil {
			r.folder.makeRoom(int64(len(c.buf)))
		}
		n, err := p.out.Write(c.buf)
		if err != nil && p.file == nil {
			return 0, fmt.Errorf("write standard output: %w", err)
		}
		if err != nil { // a disk that is full: the last block ends where there is room
			_, whole := c.events(n)
			_ = p.file.Truncate(p.good + int64(whole)) // else a partial block is left, which readers can tell
			return int64(whole), err
		}
		p.good += int64(n)
	}
	if p.file == nil || !sync {
		return int64(len(c.buf)), nil
	}
	if err := r.o.sync(p.file); err != nil {
		return int64(len(c.buf)), &fs.PathError{Op: "sync", Path: p.file.Name(), Err: err}
	}
	if p.fresh {
		p.fresh = false
		return int64(len(c.buf)), r.o.syncDir(filepath.Dir(p.file.Name()))
	}
	return int64(len(c.buf)), nil
}

// since is what s counts that was not in before. It has no audit.
func since(s, before *events.Summary) events.Summary {
	d := events.Summary{
		Events: s.Events - before.Events, Filtered: s.Filtered - before.Filtered,
		Merged: s.Merged - before.Merged, Lost: s.Lost - before.Lost,
		Skipped: s.Skipped - before.Skipped, SkippedCounting: s.SkippedCounting - before.SkippedCounting,
	}
	for _, k := range s.ByKind {
		if i := slices.IndexFunc(before.ByKind, func(b events.KindCount) bool { return b.Name == k.Name }); i >= 0 {
			k.Count -= before.ByKind[i].Count
		}
		if k.Count > 0 {
			d.ByKind = append(d.ByKind, k)
		}
	}
	return d
}
