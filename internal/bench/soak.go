// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/tcptrace/tcptrace/internal/lab"
	"github.com/tcptrace/tcptrace/internal/lab/labtest"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// SoakOptions are what Soak does, and how long.
type SoakOptions struct {
	Tcptrace string // the binary
	Duration time.Duration
	MaxSize  int64         // of the flight recorder's folder, in bytes
	Stop     time.Duration // stop the recorder (SIGSTOP) for so long once, half-way; 0: don't
	Logf     func(format string, args ...any)
}

// SoakReport is what came of it.
type SoakReport struct {
	host   host
	rows   [][]string
	failed bool
}

// Failed reports whether something did not hold.
func (r *SoakReport) Failed() bool { return r.failed }

// Markdown is a table.
func (r *SoakReport) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s.\n\n", r.host)
	writeTable(&b, []string{"", "seen", ""}, r.rows)
	return b.String()
}

func (r *SoakReport) say(what, format string, args ...any) {
	r.rows = append(r.rows, []string{what, fmt.Sprintf(format, args...), ""})
}

func (r *SoakReport) check(holds bool, what, format string, args ...any) {
	verdict := "holds"
	if !holds {
		verdict, r.failed = "**does not hold**", true
	}
	r.rows = append(r.rows, []string{what, fmt.Sprintf(format, args...), verdict})
}

// A soak goes in phases. Between them nothing happens, so that the witness can
// be asked and begun anew: it keeps what it saw in memory.
const soakPhase = 20 * time.Second

// soak is a flight recorder, the trouble that it records, and what is known
// about both.
type soak struct {
	o     SoakOptions
	dir   string
	p     *process
	storm lab.Place // in namespaces that stay
	crowd lab.Place

	connections, churned int
	hidden               map[string]int // events that the kernel showed to no BPF program, by tracepoint
	hiddenOf             map[netip.Addr]map[string]int
	unwitnessed          int // phases in which the witness was overrun

	samples []soakSample
	ids     map[string]map[uint32]bool // of all BPF objects that were seen, by kind
	books   *books
}

type soakSample struct {
	memory      memory
	descriptors int
	objects     int   // of BPF
	size        int64 // of the folder
}

// Soak has a flight recorder record trouble of all kinds, as fast as it can be
// made, and checks at the end that all of it is accounted for and that nothing
// has grown. It needs root.
func Soak(ctx context.Context, o SoakOptions) (r *SoakReport, err error) {
	if o.Duration < time.Second || o.MaxSize < 1<<20 {
		return nil, errors.New("a soak takes a second at least, and a mebibyte")
	}
	r = &SoakReport{}
	if r.host, err = readHost(); err != nil {
		return nil, err
	}
	r.host.Versions = nil
	dir, err := os.MkdirTemp("", "tcptrace-soak-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := soak{
		o: o, dir: filepath.Join(dir, "flight"), hidden: map[string]int{}, hiddenOf: map[netip.Addr]map[string]int{},
		ids: map[string]map[uint32]bool{},
	}
	for _, place := range []*lab.Place{&s.storm, &s.crowd} {
		ns, err := lab.NewNamespace(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, ns.Close()) }()
		if *place, err = ns.Loopback(lab.V4); err != nil {
			return nil, err
		}
		s.hiddenOf[place.Addr] = map[string]int{}
	}
	s.books = newBooks(s.dir, s.storm.Client.Inum(), s.crowd.Client.Inum())
	defer s.books.close()
	s.p, err = tcptrace{o.Tcptrace, "record", ""}.trace(ctx, nil, s.dir, "--max-size", fmt.Sprint(o.MaxSize))
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := s.run(ctx); err != nil {
		s.p.kill()
		return nil, fmt.Errorf("%w; tcptrace said: %s", err, s.p.text())
	}
	took := time.Since(begin)
	ended := s.p.end()
	r.say("took", "%v", took.Round(time.Second))
	if err := s.judge(ctx, r, ended); err != nil {
		return nil, err
	}
	return r, nil
}

// run makes trouble, and looks at the recorder meanwhile.
func (s *soak) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching := make(chan error, 1)
	go func() {
		err := s.watch(ctx)
		if ctx.Err() != nil {
			err = nil
		}
		cancel() // there is nothing left to watch
		watching <- err
	}()
	end := time.Now().Add(s.o.Duration)
	stop := s.o.Stop
	var err error
	for err == nil && time.Until(end) > 0 {
		halfway := time.Until(end) <= s.o.Duration/2
		paused := time.Duration(0)
		if halfway {
			paused, stop = stop, 0
		}
		err = s.phase(ctx, min(soakPhase, time.Until(end)), paused)
		s.o.Logf("soak: %v left, %d files read, %d events, %d lost; %d connections, %d namespaces come and gone",
			time.Until(end).Round(time.Second), s.books.files(), s.books.events(), s.books.lost(), s.connections, s.churned)
	}
	cancel()
	return errors.Join(<-watching, err)
}

// phase makes trouble for a while, and asks the witness what BPF was not shown.
func (s *soak) phase(ctx context.Context, length, paused time.Duration) (err error) {
	blind, err := labtest.StartBlindSpot()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blind.Close()) }()
	over := time.Now().Add(length)
	ended := make(chan error, 3)
	var mu sync.Mutex
	count := func(connections, namespaces int) {
		mu.Lock()
		defer mu.Unlock()
		s.connections += connections
		s.churned += namespaces
	}
	again := func(f func() error) {
		go func() {
			var err error
			for err == nil && time.Now().Before(over) {
				err = f()
			}
			ended <- err
		}()
	}
	const refused, lossy = 10_000, 200
	again(func() error {
		count(refused, 0)
		return s.storm.Client.Storm(ctx, s.storm.Addr, refused, 1)
	})
	again(func() error {
		count(lossy, 0)
		_, err := crowd{lossy}.run(ctx, s.crowd)
		return err
	})
	again(func() error {
		n, err := churn(ctx)
		count(n, 1)
		return err
	})
	if paused > 0 {
		err = s.pause(ctx, paused)
	}
	for range cap(ended) {
		err = errors.Join(err, <-ended)
	}
	if err == nil { // what is still to be sent again is, before the witness is asked
		err = errors.Join(s.storm.Client.Settled(ctx), s.crowd.Client.Settled(ctx))
	}
	if err != nil {
		return err
	}
	seen, err := blind.Events(nil)
	if errors.Is(err, labtest.ErrLost) {
		s.unwitnessed++
		return nil
	}
	for _, e := range seen {
		s.hidden[e.Name]++
		for addr, of := range s.hiddenOf {
			if e.Involves(addr) {
				of[e.Name]++
			}
		}
	}
	return err
}

// pause stops the recorder for a while.
func (s *soak) pause(ctx context.Context, length time.Duration) error {
	if err := s.p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	select {
	case <-time.After(length):
	case <-ctx.Done():
	}
	return s.p.cmd.Process.Signal(syscall.SIGCONT)
}

// churn makes a namespace, has trouble in it, and leaves it.
func churn(ctx context.Context) (connections int, err error) {
	ns, err := lab.NewNamespace(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	place, err := ns.Loopback(lab.V4)
	if err != nil {
		return 0, err
	}
	const refused = 20
	return refused, ns.Storm(ctx, place.Addr, refused, 1)
}

// watch looks at the recorder and its files until ctx ends.
func (s *soak) watch(ctx context.Context) error {
	const (
		often  = 50 * time.Millisecond // for the files, before they are deleted
		seldom = time.Second
	)
	tick := time.NewTicker(often)
	defer tick.Stop()
	// Reading takes longer than a file may live.
	read, reading := make(chan error, 1), false
	defer func() {
		if reading {
			<-read
		}
	}()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-read:
			reading = false
			if err != nil {
				return err
			}
			continue
		case <-tick.C:
		}
		if s.p.ended() {
			return errors.New("the recorder ended")
		}
		if err := s.books.find(); err != nil {
			return err
		}
		if !reading {
			reading = true
			go func() { read <- s.books.readFinished(false) }()
		}
		if time.Since(last) < seldom {
			continue
		}
		last = time.Now()
		sample, err := s.sample()
		if err != nil {
			return err
		}
		s.samples = append(s.samples, sample)
	}
}

func (s *soak) sample() (m soakSample, err error) {
	if m.memory, err = readMemory(s.p.pid()); err != nil {
		return m, err
	}
	if m.size, err = sizeOf(s.dir); err != nil {
		return m, err
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", s.p.pid()))
	m.descriptors = len(files)
	seen := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // closed meanwhile
		}
		info := parseInfo(b)
		for _, kind := range []string{"link_id", "prog_id", "map_id"} {
			var id uint32
			if n, _ := fmt.Sscan(info[kind], &id); n == 0 {
				continue
			}
			if s.ids[kind] == nil {
				s.ids[kind] = map[uint32]bool{}
			}
			s.ids[kind][id] = true
			seen[kind+info[kind]] = true
		}
	}
	m.objects = len(seen)
	return m, err
}

// left counts the BPF objects of the recorder that are still in the kernel. It
// frees them when their last reader is done, a moment after the end.
func (s *soak) left(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err = lab.Until(ctx, func() (bool, error) {
		n = 0
		for kind, ids := range s.ids {
			for id := range ids {
				there, err := loaded(kind, id)
				if err != nil {
					return false, fmt.Errorf("BPF %s %d: %w", kind, id, err)
				}
				if there {
					n++
				}
			}
		}
		return n == 0, nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return n, err
}

// loaded reports whether the kernel has a BPF object.
func loaded(kind string, id uint32) (bool, error) {
	var object io.Closer
	var err error
	switch kind {
	case "link_id":
		object, err = link.NewFromID(link.ID(id))
	case "prog_id":
		object, err = ebpf.NewProgramFromID(ebpf.ProgramID(id))
	default:
		object, err = ebpf.NewMapFromID(ebpf.MapID(id))
	}
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, object.Close()
}

// thirds are the medians of the first and the last third of the samples, after
// a fifth of them to warm up.
func (s *soak) thirds(f func(*soakSample) float64) (first, last float64) {
	all := s.samples[len(s.samples)/5:]
	third := max(1, len(all)/3)
	of := func(list []soakSample) float64 {
		return median(pick(list, func(m *soakSample) (float64, bool) { return f(m), true }))
	}
	return of(all[:third]), of(all[len(all)-third:])
}

// course is the memory of the process at a dozen moments.
func (s *soak) course() string {
	const moments = 12
	var list []string
	for i := range min(moments, len(s.samples)) {
		list = append(list, fmt.Sprintf("%.0f", mib(s.samples[i*(len(s.samples)-1)/max(1, moments-1)].memory.Now)))
	}
	return strings.Join(list, " ")
}

// judge checks everything.
func (s *soak) judge(ctx context.Context, r *SoakReport, ended error) error {
	if len(s.samples) < 3 {
		return errors.New("too short: less than three samples")
	}
	if err := errors.Join(s.books.find(), s.books.readFinished(true)); err != nil {
		return err
	}
	b := s.books
	said, err := numbers(summaryLine, s.p.text()) // events, filtered, merged, lost
	if err != nil {
		return err
	}
	r.say("made", "%s connections; %s network namespaces, come and gone", thousands(float64(s.connections)), thousands(float64(s.churned)))
	r.check(ended == nil, "the recorder ended well", "%v", orNone(ended))
	r.say("recorded", "%s events in %s files, %s filtered, %s merged", thousands(float64(b.sum.Events)),
		thousands(float64(b.read)), thousands(float64(b.sum.Filtered)), thousands(float64(b.sum.Merged)))
	r.check(len(b.problems) == 0, "each file is whole, and holds as many events, shown and lost, as its summary says", "%s", orNone(strings.Join(b.problems, "; ")))
	r.check(said[0] == int(b.sum.Events) && said[3] == int(b.sum.Lost), "and all together what the recorder says at its end", "%s events, %d lost",
		thousands(float64(said[0])), said[3])
	r.check(b.sum.Lost == 0 || s.o.Stop > 0, "lost", "%s", thousands(float64(b.sum.Lost)))
	r.say("memory of the process, in MiB, over time", "%s", s.course())
	s.judgeAudit(r)
	if err := s.judgePlaces(r); err != nil {
		return err
	}

	for _, g := range []struct {
		what  string
		slack float64
		of    func(*soakSample) float64
	}{
		{"memory of the process, first third and last", 0.2, func(m *soakSample) float64 { return mib(m.memory.Now) }},
		{"memory of its BPF maps, without the ring buffer", 0, func(m *soakSample) float64 { return mib(m.memory.Maps) }},
	} {
		first, last := s.thirds(g.of)
		r.check(last <= first*(1+g.slack), g.what, "%.1f MiB, %.1f MiB", first, last)
	}
	first, last := s.thirds(func(m *soakSample) float64 { return float64(m.descriptors) })
	r.check(last <= first, "descriptors", "%.0f, %.0f", first, last)
	first, last = s.thirds(func(m *soakSample) float64 { return float64(m.objects) })
	r.check(last <= first, "BPF links, programs and maps", "%.0f, %.0f", first, last)
	left, err := s.left(ctx)
	if err != nil {
		return err
	}
	r.check(left == 0, "of these still in the kernel after the end", "%d", left)
	size := slices.MaxFunc(s.samples, func(a, b soakSample) int { return int(a.size - b.size) }).size
	r.check(size <= s.o.MaxSize, "the folder's size, at most", "%.1f MiB of %.0f MiB", mib(uint64(size)), mib(uint64(s.o.MaxSize)))
	return s.judgeReplay(ctx, r)
}

// judgeAudit sets what the audits found missing beside what the witness saw.
func (s *soak) judgeAudit(r *SoakReport) {
	b := s.books
	var verdicts []string
	for _, v := range slices.Sorted(maps.Keys(b.verdicts)) {
		verdicts = append(verdicts, fmt.Sprintf("%s %v", thousands(float64(b.verdicts[v])), v))
	}
	r.say("audits of namespaces, by counter", "%s", orNone(strings.Join(verdicts, ", ")))
	hidden := s.hidden[lab.SendReset] + s.hidden[lab.Retransmit] + s.hidden[lab.RetransSYNACK]
	explained := b.missing <= hidden+int(b.sum.SkippedCounting)
	r.check(b.extra == 0 && explained && s.unwitnessed == 0, "not traced, and why",
		"%d; %d were shown to no BPF program, %d skipped by the kernel%s%s", b.missing, hidden, b.sum.SkippedCounting,
		some(b.extra, "; %d more than the kernel counted"), some(s.unwitnessed, "; the witness was overrun %d times"))
}

// judgePlaces compares the events in the files, about the namespaces that
// stayed, with what the kernel counted there.
func (s *soak) judgePlaces(r *SoakReport) error {
	for _, of := range []struct {
		what  string
		place lab.Place
	}{{"storm", s.storm}, {"lossy crowd", s.crowd}} {
		c, err := of.place.Client.Counters()
		if err != nil {
			return err
		}
		b := s.books.of[of.place.Client.Inum()]
		hidden := s.hiddenOf[of.place.Addr]
		for _, x := range []struct {
			what             string
			counted, audited uint64
			recorded, hidden int
		}{
			{"resets sent", c["OutRsts"], b.kernel["OutRsts"], b.resets, hidden[lab.SendReset]},
			{"segments sent again", c["RetransSegs"] - c["TCPRetransFail"], b.kernel["RetransSegs"] - b.kernel["TCPRetransFail"],
				b.segments, hidden[lab.Retransmit] + hidden[lab.RetransSYNACK]},
		} {
			if x.counted == 0 && x.recorded == 0 {
				continue
			}
			missing := int(x.counted) - x.recorded
			// Which namespace was skipped is not known.
			holds := missing >= 0 && missing <= x.hidden+int(s.books.sum.SkippedCounting)+int(s.books.sum.Lost)
			r.check(holds && x.audited == x.counted, of.what+": "+x.what,
				"the kernel counted %s, the audits of all files together %s; recorded %s; shown to no BPF program %d",
				thousands(float64(x.counted)), thousands(float64(x.audited)), thousands(float64(x.recorded)), x.hidden)
		}
	}
	return nil
}

// judgeReplay has tcptrace read what is left of the folder.
func (s *soak) judgeReplay(ctx context.Context, r *SoakReport) error {
	var want int
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		want += s.books.total[e.Name()]
	}
	p, err := start(ctx, nil, nil, s.o.Tcptrace, "replay", s.dir, "--port", "1")
	if err != nil {
		return err
	}
	err = p.wait()
	got := -1
	if n, e := numbers(summaryLine, p.text()); e == nil {
		got = n[0] + n[1]
	}
	r.check(err == nil && got == want && !strings.Contains(p.text(), "warning"), "replay reads what is left", "%d files, %s events, filtered ones included: %v",
		len(entries), thousands(float64(got)), orNone(err))
	return nil
}

func some(n int, format string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(format, n)
}

func orNone[T any](v T) string {
	if s := fmt.Sprint(v); s != "" && s != "<nil>" {
		return s
	}
	return "nothing to say"
}

// books are the accounts of all files of a folder, of those that were deleted too.
type books struct {
	dir string

	found sync.Mutex          // guards the following
	open  map[string]*os.File // those that were not read yet: deleting them does not harm
	seen  map[string]bool

	mu       sync.Mutex // guards the following
	read     int        // files
	sum      events.Summary
	total    map[string]int // events, filtered ones included, by file
	problems []string
	verdicts map[events.Verdict]int
	missing  int // in all audits
	extra    int
	of       map[uint32]*account // namespaces
}

// account is what the files say of a namespace.
type account struct {
	resets, segments int               // sent, in events
	kernel           map[string]uint64 // the kernel's counters, in audits
}

func newBooks(dir string, namespaces ...uint32) *books {
	b := &books{
		dir: dir, open: map[string]*os.File{}, seen: map[string]bool{}, total: map[string]int{},
		verdicts: map[events.Verdict]int{}, of: map[uint32]*account{},
	}
	for _, n := range namespaces {
		b.of[n] = &account{kernel: map[string]uint64{}}
	}
	return b
}

func (b *books) files() int     { b.mu.Lock(); defer b.mu.Unlock(); return b.read }
func (b *books) events() uint64 { b.mu.Lock(); defer b.mu.Unlock(); return b.sum.Events }
func (b *books) lost() uint64   { b.mu.Lock(); defer b.mu.Unlock(); return b.sum.Lost }

func (b *books) close() {
	for _, f := range b.open {
		_ = f.Close() // only read
	}
}

// find opens new files.
func (b *books) find() error {
	b.found.Lock()
	defer b.found.Unlock()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if b.seen[e.Name()] {
			continue
		}
		f, err := os.Open(filepath.Join(b.dir, e.Name()))
		if err != nil {
			return fmt.Errorf("deleted before it could be opened: %w", err)
		}
		b.seen[e.Name()] = true
		b.open[e.Name()] = f
	}
	return nil
}

// readFinished reads the files that are finished: all but the last two, of which
// the older may still have something to be written; at the end, all.
func (b *books) readFinished(all bool) error {
	b.found.Lock()
	names := slices.Sorted(maps.Keys(b.open)) // by age
	if !all {
		names = names[:max(0, len(names)-2)]
	}
	finished := make([]*os.File, len(names))
	for i, name := range names {
		finished[i] = b.open[name]
		delete(b.open, name)
	}
	b.found.Unlock()
	var errs []error
	for i, f := range finished {
		if err := errors.Join(b.take(names[i], f), f.Close()); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", names[i], err))
		}
	}
	return errors.Join(errs...)
}

// take reads a file.
func (b *books) take(name string, f *os.File) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	problem := func(format string, args ...any) {
		if len(b.problems) < 10 {
			b.problems = append(b.problems, name+": "+fmt.Sprintf(format, args...))
		}
	}
	r, err := recording.NewReader(f, recording.ReaderOptions{Problem: func(p recording.Problem) { problem("%v", p) }})
	if err != nil {
		return err
	}
	var shown, lost uint64
	batch := make([]events.Event, 0, 256)
	for err == nil {
		batch, err = r.Read(batch[:0])
		for i := range batch {
			if e := &batch[i]; e.Type == events.Lost {
				lost += e.Count
			} else {
				shown++
				b.event(e)
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	b.read++
	sum := r.Summary()
	if sum == nil {
		problem("no summary")
		return nil
	}
	if sum.Events != shown || sum.Lost != lost {
		problem("the summary says %d events and %d lost, the file holds %d and %d", sum.Events, sum.Lost, shown, lost)
	}
	b.total[name] = int(sum.Events + sum.Filtered)
	b.sum.Events += sum.Events
	b.sum.Filtered += sum.Filtered
	b.sum.Merged += sum.Merged
	b.sum.Lost += sum.Lost
	b.sum.Skipped += sum.Skipped
	b.sum.SkippedCounting += sum.SkippedCounting
	if len(sum.Audit) == 0 {
		problem("no audit")
	}
	for _, a := range sum.Audit {
		b.verdicts[a.Verdict]++
		switch a.Verdict {
		case events.Missing:
			b.missing += int(a.Kernel - a.Traced - a.Bracket)
		case events.Extra:
			b.extra += int(a.Traced - a.Kernel)
		}
		if of := b.of[a.NetNS]; of != nil {
			if a.Verdict == events.Unchecked {
				problem("%s in namespace %d was not checked: %s", a.Counter, a.NetNS, a.Note)
			}
			of.kernel[a.Counter] += a.Kernel
		}
	}
	return nil
}

// event counts what the kernel counts, too.
func (b *books) event(e *events.Event) {
	of := b.of[e.NetNS]
	switch {
	case of == nil:
	case e.Type == events.Reset && e.Direction == events.Sent:
		of.resets++
	case e.Type == events.Retransmit && e.Error == 0:
		of.segments += int(max(1, e.Segs))
	}
}
