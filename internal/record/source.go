// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tcptrace/tcptrace/internal/pipeline"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// SourceOptions of [OpenSource].
type SourceOptions struct {
	Stdin        io.Reader    // what the path - is
	Since, Until time.Time    // what is outside is left out; zero: no bound
	Follow       bool         // go on while recordings are being written
	Warn         func(string) // told in one line what is damaged or unknown
}

// Source reads recordings, one after the other. It implements pipeline.Source.
type Source struct {
	o       SourceOptions
	folders []*source // to look for new files in
	inputs  []*input  // to come
	cur     *input
	follow  *follower // nil: all inputs are files that have an end

	info    recording.Info
	total   int64      // bytes of all inputs; 0: unknown
	past    int64      // bytes of the inputs that are done
	sum     events.Sum // of what is read
	ends    int64      // wall clock of the end of what was read, ns; 0: unknown
	read    uint64     // events given
	enough  bool
	damaged bool
	deleted bool
	warned  int
	ctx     context.Context // of the Read under way, unless there is a follower
}

// source is a folder that is read.
type source struct {
	root *os.Root
	path string
	seen map[string]bool // names of the files that are known
}

// input is a recording, or several in one stream.
type input struct {
	path   string
	inside bool // of a folder: it may be gone when it is its turn
	stream bool // is no file: it can't be opened twice, and reading may wait for long
	name   string
	info   fs.FileInfo // of what was found at the start; nil for standard input
	file   *os.File    // nil until it is open, and for standard input
	size   int64

	r     *recording.Reader
	start int64    // wall clock, as the header says, ns
	first int64    // wall clock of the first event, ns
	last  int64    // and of the last
	lost  uint64   // sum of the losses read
	found problems // by the reader
	held  problems // of those it is not known yet whether they are the end's
}

// problems are the first of some, and how many more there are.
type problems struct {
	list    []recording.Problem
	more    int
	damaged bool // one of those more is
}

func (p *problems) add(x recording.Problem) {
	if len(p.list) < maxWarnings {
		p.list = append(p.list, x)
		return
	}
	p.more++
	p.damaged = p.damaged || !x.Note
}

// take moves those of from behind those of p.
func (p *problems) take(from *problems) {
	for _, x := range from.list {
		p.add(x)
	}
	p.more += from.more
	p.damaged = p.damaged || from.damaged
	*from = problems{list: from.list[:0]}
}

// maxWarnings bounds what is said of damaged input.
const maxWarnings = 20

// What [Source.Err] returns.
var (
	ErrDamaged = errors.New("damaged: what could not be read is left out")
	ErrDeleted = errors.New("files were deleted before they were read: what they held is left out")
)

// OpenSource opens recordings: files, folders of them, or - for o.Stdin. It
// reads the headers of what it finds.
func OpenSource(paths []string, o SourceOptions) (*Source, error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	s := &Source{o: o}
	if err := s.open(paths); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if o.Follow || slices.ContainsFunc(s.inputs, func(in *input) bool { return in.stream }) {
		s.follow = newFollower(s)
	}
	return s, nil
}

func (s *Source) open(paths []string) error {
	known := true // all sizes
	for _, path := range paths {
		if path == "-" {
			if slices.ContainsFunc(s.inputs, func(in *input) bool { return in.path == "-" }) {
				return errors.New("standard input is named twice")
			}
			s.inputs = append(s.inputs, &input{path: path, name: "standard input", stream: true})
			known = false
			continue
		}
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		if fi.IsDir() {
			if err := s.openFolder(path); err != nil {
				return err
			}
			continue
		}
		known = known && fi.Mode().IsRegular()
		s.inputs = append(s.inputs, &input{path: path, name: path, info: fi, size: fi.Size(), stream: !fi.Mode().IsRegular()})
	}
	if err := s.once(); err != nil {
		return err
	}
	first := true
	for i, in := range s.inputs {
		err := s.begin(in)
		switch {
		case err != nil && !in.inside:
			return err
		case err != nil && s.o.Follow && !errors.Is(err, fs.ErrNotExist):
			continue // it may have just been begun
		case err != nil:
			s.inputs[i] = nil
			if in.size > 0 && !errors.Is(err, fs.ErrNotExist) { // else it is gone, or was about to begin
				s.damage(in.name, err.Error())
			}
			continue
		}
		merge(&s.info, in.r.Info(), first)
		first = false
		s.total += in.size
		if !in.stream {
			in.end()
		}
	}
	s.inputs = slices.DeleteFunc(s.inputs, func(in *input) bool { return in == nil })
	if !known {
		s.total = 0
	}
	return nil
}

// once refuses a file that is named twice, or beside its folder.
func (s *Source) once() error {
	for i, in := range s.inputs {
		for _, other := range s.inputs[:i] {
			if (!in.inside || !other.inside) && in.info != nil && other.info != nil && os.SameFile(in.info, other.info) {
				return fmt.Errorf("%s and %s are the same file: name it once", other.name, in.name)
			}
		}
	}
	return nil
}

// openFolder adds what a folder has.
func (s *Source) openFolder(path string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	d := &source{root: root, path: path}
	s.folders = append(s.folders, d)
	inputs, err := s.news(d)
	if err != nil {
		return err
	}
	if len(d.seen) == 0 && !s.o.Follow {
		return fmt.Errorf("%s holds no recordings with names such as 2026-01-31T12-00-00.000Z.tcptrace: name other files one by one", path)
	}
	s.inputs = append(s.inputs, inputs...)
	return nil
}

// news returns the files of a folder that are not known yet.
func (s *Source) news(d *source) ([]*input, error) {
	files, err := list(d.root)
	if err != nil {
		return nil, err
	}
	var inputs []*input
	before := d.seen
	d.seen = map[string]bool{}
	for _, f := range files {
		d.seen[f.name] = true
		if before[f.name] {
			continue
		}
		begun, _ := nameTime(f.name)
		// Of one that ends before it was begun the clock was set back: who knows.
		ordered := !begun.After(f.info.ModTime().Add(clockSlack))
		if ordered && (!s.o.Until.IsZero() && begun.After(s.o.Until.Add(clockSlack)) || !s.o.Since.IsZero() && f.info.ModTime().Before(s.o.Since.Add(-clockSlack))) {
			d.seen[f.name] = !s.o.Follow // its recorder may have had nothing to write for long
			continue
		}
		path := filepath.Join(d.path, f.name)
		inputs = append(inputs, &input{path: path, name: path, inside: true, info: f.info, size: f.info.Size()})
	}
	return inputs, nil
}

// merge makes of into what is true of all recordings so far.
func merge(into, info *recording.Info, first bool) {
	if first {
		*into = *info
		return
	}
	for _, v := range []struct{ into, of *string }{
		{&into.Kernel, &info.Kernel}, {&into.Machine, &info.Machine}, {&into.Host, &info.Host},
		{&into.BootID, &info.BootID}, {&into.Filters, &info.Filters}, {&into.Tool, &info.Tool},
	} {
		if *v.into != *v.of {
			*v.into = ""
		}
	}
	into.Start = min(into.Start, info.Start)
	if !slices.Equal(into.Reasons, info.Reasons) {
		into.Reasons = nil
	}
	if len(info.Types) == 0 {
		into.Types = nil
	}
	if len(into.Types) > 0 {
		into.Types = slices.Compact(slices.Sorted(slices.Values(slices.Concat(into.Types, info.Types))))
	}
}

// begin opens an input and reads its header.
func (s *Source) begin(in *input) error {
	if in.r != nil {
		return nil
	}
	from := s.o.Stdin
	if in.path != "-" {
		f, err := os.Open(in.path)
		if err != nil {
			return err
		}
		in.file, from = f, interruptible{f, s.interrupted}
	}
	if err := s.header(in, from); err != nil {
		if in.file != nil {
			err = errors.Join(err, in.file.Close())
			in.file = nil
		}
		return err
	}
	return nil
}

func (s *Source) header(in *input, from io.Reader) error {
	o := recording.ReaderOptions{Problem: in.found.add}
	if !s.o.Since.IsZero() {
		o.Since = s.o.Since.UnixNano()
	}
	if !s.o.Until.IsZero() {
		o.Until = s.o.Until.UnixNano()
	}
	r, err := recording.NewReader(from, o)
	if err != nil {
		return fmt.Errorf("%s: %w", in.name, err)
	}
	in.r, in.start = r, r.Info().Start
	return nil
}

// interruptible is an input, of which much may be skipped at a time, that ends
// when the user says so.
type interruptible struct {
	io.Reader
	over func() bool // the user has said so
}

// errInterrupted says that the user ended the reading.
var errInterrupted = errors.New("interrupted")

func (r interruptible) Read(b []byte) (int, error) {
	if r.over() {
		return 0, errInterrupted
	}
	return r.Reader.Read(b)
}

// interrupted reports whether the user ended the Read under way, if there is no
// follower.
func (s *Source) interrupted() bool {
	return s.ctx != nil && s.ctx.Err() != nil && !errors.Is(context.Cause(s.ctx), pipeline.ErrEnough)
}

func (in *input) end() {
	if in.file != nil {
		_ = in.file.Close() // it was read only
	}
	in.file, in.r, in.found, in.held = nil, nil, problems{}, problems{}
}

// Info is what is true of all recordings that are known at the start.
func (s *Source) Info() recording.Info { return s.info }

// Offset says how much of the input was read, in bytes; of is 0 if it is not
// known how much there is.
func (s *Source) Offset() (read, of int64) {
	read = s.past
	if s.cur != nil && s.cur.r != nil && s.follow == nil {
		read += s.cur.r.Offset()
	}
	return read, s.total
}

// Events is how many events were read.
func (s *Source) Events() uint64 { return s.read }

// Read implements [pipeline.Source].
func (s *Source) Read(ctx context.Context, batch []events.Event) ([]events.Event, error) {
	if s.follow != nil {
		return s.follow.read(ctx, batch)
	}
	s.ctx = ctx
	if s.interrupted() || ctx.Err() != nil && s.enough {
		return batch, s.stop()
	}
	old := len(batch)
	for {
		if s.cur == nil && len(s.inputs) == 0 {
			return batch, s.over()
		}
		if s.cur == nil {
			s.cur, s.inputs = s.inputs[0], s.inputs[1:]
			if err := s.begin(s.cur); err != nil {
				s.leaveOut(s.cur, err)
				s.cur = nil
				continue
			}
		}
		var err error
		batch, err = s.cur.r.Read(batch)
		s.cur.held.take(&s.cur.found)
		if fresh := batch[old:]; len(fresh) > 0 {
			// After enough of them only the end matters: is it right here?
			if ctx.Err() != nil && !allLost(fresh) {
				s.enough = true
				return batch[:old], s.stop()
			}
			s.note(s.cur, fresh)
			return batch, nil
		}
		if errors.Is(err, io.EOF) {
			s.close(s.cur)
			s.cur = nil
			continue
		}
		if errors.Is(err, errInterrupted) {
			return batch, s.stop()
		}
		if err != nil {
			in := s.cur
			s.cur = nil
			if err = s.fail(in, fmt.Errorf("%s: %w", in.name, err)); err != nil {
				return batch, err
			}
		}
	}
}

func allLost(list []events.Event) bool {
	return !slices.ContainsFunc(list, func(e events.Event) bool { return e.Type != events.Lost })
}

// note counts events, before which whatever problem there was is past.
func (s *Source) note(in *input, list []events.Event) {
	s.tell(in)
	if in.first == 0 {
		in.first = list[0].Time
	}
	in.last = list[len(list)-1].Time
	for i := range list {
		if list[i].Type == events.Lost {
			in.lost += list[i].Count
		} else {
			s.read++
		}
	}
}

// close ends an input that was read to its end.
func (s *Source) close(in *input) {
	// What is being written ends anywhere.
	if in.file == nil || !written(in.file) {
		s.tell(in)
	}
	s.past += in.size
	s.account(in, in.r.Summary())
	in.end()
}

// leaveOut tells of an input that can't be opened any more.
func (s *Source) leaveOut(in *input, err error) {
	if !in.inside || !errors.Is(err, fs.ErrNotExist) {
		s.damage(in.name, err.Error())
		return
	}
	s.deleted, s.sum.Damaged, s.sum.Partial = true, true, true
	s.warn(in.name, "deleted before it was read, by its recorder to make room or by someone else")
}

// fail ends an input that can't be read any further. Of a folder the others can.
func (s *Source) fail(in *input, err error) error {
	s.tell(in)
	s.past += in.size
	s.account(in, nil)
	in.end()
	if !in.inside {
		return err
	}
	s.damage(in.name, err.Error())
	return nil
}

// account adds what an input says of itself, or else what is known.
func (s *Source) account(in *input, sum *events.Summary) {
	s.ends = max(s.ends, in.last)
	if sum != nil {
		end := in.start + int64(sum.Elapsed)
		if !s.o.Until.IsZero() {
			end = min(end, s.o.Until.UnixNano())
		}
		s.ends = max(s.ends, end)
	}
	if sum != nil && s.o.Since.IsZero() && s.o.Until.IsZero() {
		s.sum.Add(sum)
		return
	}
	s.addPart(&s.sum.Summary, in)
}

// addPart adds what is known of an input that says nothing of itself, or not yet.
func (s *Source) addPart(sum *events.Summary, in *input) {
	sum.Lost += in.lost
	sum.Partial = true
	if in.last == 0 {
		return
	}
	from := in.first
	if s.o.Since.IsZero() && in.start > 0 && in.start < from {
		from = in.start
	}
	sum.Elapsed += time.Duration(max(0, in.last-from))
}

// begun gives the inputs that are being read.
func (s *Source) begun() iter.Seq[*input] {
	if s.follow != nil {
		return maps.Keys(s.follow.running)
	}
	return func(yield func(*input) bool) {
		if s.cur != nil && s.cur.r != nil {
			yield(s.cur)
		}
	}
}

// stop ends the source before its end.
func (s *Source) stop() error {
	if s.cur != nil && s.cur.r != nil {
		s.account(s.cur, nil)
		s.cur.end()
	}
	s.sum.Partial = s.sum.Partial || len(s.inputs) > 0
	s.cur, s.inputs = nil, nil
	return s.over()
}

// over is the end.
func (s *Source) over() error {
	if s.warned > maxWarnings {
		s.o.Warn(fmt.Sprintf("%d more like that", s.warned-maxWarnings))
		s.warned = 0
	}
	return io.EOF
}

// tell tells of what was held back.
func (s *Source) tell(in *input) {
	for _, p := range in.held.list {
		if !p.Note {
			s.hurt()
		}
		s.warn(in.name, p.String())
	}
	s.warned += in.held.more
	if in.held.damaged {
		s.hurt()
	}
	in.held = problems{list: in.held.list[:0]}
}

// damage tells of an input that is left out, at least from here on.
func (s *Source) damage(name, text string) {
	s.hurt()
	s.sum.Partial = true
	s.warn(name, strings.TrimPrefix(text, name+": "))
}

func (s *Source) hurt() { s.damaged, s.sum.Damaged = true, true }

func (s *Source) warn(name, text string) {
	if s.warned++; s.warned <= maxWarnings {
		s.o.Warn(name + ": " + text)
	}
}

// Begin is when the recordings begin, or o.Since if that is later; zero if it is
// not known.
func (s *Source) Begin() time.Time {
	if s.info.Start <= 0 || time.Unix(0, s.info.Start).Before(s.o.Since) {
		return s.o.Since
	}
	return time.Unix(0, s.info.Start)
}

// End is until when the recordings that were read to their end tell what
// happened, and of the others the time of the last event; zero if that is not
// known. It is right after the end.
func (s *Source) End() time.Time {
	end := s.ends
	for in := range s.begun() {
		end = max(end, in.last)
	}
	if end == 0 {
		return time.Time{}
	}
	return time.Unix(0, end)
}

// Err is [ErrDamaged] if something could not be read, or else [ErrDeleted] if a
// file of a folder was gone when it was its turn.
func (s *Source) Err() error {
	switch {
	case s.damaged:
		return ErrDamaged
	case s.deleted:
		return ErrDeleted
	}
	return nil
}

// Settings are those of namespaces at the event that was read last, as
// [Teller] gives them.
func (s *Source) Settings(netns []uint32) ([]events.Settings, error) {
	var list []events.Settings
	for _, inum := range netns {
		var set *events.Settings
		switch {
		case s.follow != nil:
			set = s.follow.settings.of[inum]
		case s.cur != nil && s.cur.r != nil:
			set = s.cur.r.Settings(inum)
		}
		if set != nil {
			list = append(list, *set)
		}
	}
	return list, nil
}

// Counts implements [pipeline.Source]: what the recordings say, and of those
// that say nothing what is known.
func (s *Source) Counts() pipeline.Counts {
	sum := s.sum.Summary
	for in := range s.begun() {
		s.addPart(&sum, in)
	}
	c := pipeline.Counts{
		Filtered: sum.Filtered, Merged: sum.Merged, Lost: sum.Lost,
		Skipped: sum.Skipped, SkippedCounting: sum.SkippedCounting, Audit: sum.Audit, Checked: sum.Checked, Counters: sum.Counters,
		Recorded: true, Partial: sum.Partial || len(s.inputs) > 0, Damaged: sum.Damaged, Elapsed: sum.Elapsed,
	}
	c.Produced = s.read + c.Filtered + c.Merged + c.Lost
	return c
}

// Close implements [pipeline.Source].
func (s *Source) Close() error {
	if s.follow != nil {
		s.follow.stop()
	}
	for _, in := range s.inputs {
		in.end()
	}
	if s.cur != nil {
		s.cur.end()
	}
	var err error
	for _, d := range s.folders {
		err = errors.Join(err, d.root.Close())
	}
	return err
}
