// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// event is the i-th of a stream, a second after the one before.
func event(i int) events.Event {
	return events.Event{
		Time: 1_700_000_000_000_000_000 + int64(i)*1e9, Boot: uint64(i+1) * 1e9, Type: events.Retransmit, Kind: events.KindRTO,
		Family: 4, LAddr: netip.MustParseAddr("10.0.0.1"), RAddr: netip.MustParseAddr("10.0.0.2"), LPort: uint16(i), RPort: 443,
		NetNS: 7, Conn: uint64(i)*0x9e3779b97f4a7c15 + 1,
	}
}

// began starts a recorder.
func began(t *testing.T, path string, o Options, tell Teller) *Recorder {
	t.Helper()
	r, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(recording.Info{Start: 1}, tell); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *Recorder) mustAppend(t *testing.T, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := r.Append([]events.Event{event(i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// readAll returns the numbers of the events in recordings, what was warned of,
// and the summary's number of events, which is 0 if there is none.
func readAll(t *testing.T, o SourceOptions, paths ...string) (numbers []int, warnings []string, s *Source) {
	t.Helper()
	o.Warn = func(text string) { warnings = append(warnings, text) }
	s, err := OpenSource(paths, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	batch := make([]events.Event, 0, 100)
	for {
		batch, err = s.Read(t.Context(), batch[:0])
		for i := range batch {
			numbers = append(numbers, int((batch[i].Time-1_700_000_000_000_000_000)/1e9))
		}
		if errors.Is(err, io.EOF) {
			return numbers, warnings, s
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	r := began(t, path, Options{}, Teller{})
	r.mustAppend(t, 0, 1000)
	if err := r.Finish(&events.Summary{Events: 1000, Filtered: 3, Elapsed: 5e9}); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if n, files := r.Written(); err != nil || fi.Mode() != 0o600 || fi.Size() != n || files != 1 {
		t.Errorf("%v, mode %v, %d bytes of %d, %d files", err, fi.Mode(), fi.Size(), n, files)
	}
	got, warnings, s := readAll(t, SourceOptions{}, path)
	if c := s.Counts(); !slices.Equal(got, upTo(1000)) || warnings != nil || c.Filtered != 3 || c.Elapsed != 5e9 || s.Err() != nil {
		t.Errorf("%d events, %q, %+v, %v", len(got), warnings, c, s.Err())
	}
}

// A recording that was finished tells until when nothing more happened.
func TestEnd(t *testing.T) {
	const begun = 1_700_000_000
	at := func(i int) time.Time { return time.Unix(begun+int64(i), 0) }
	path := filepath.Join(t.TempDir(), "a")
	r, err := Open(path, Options{File: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(recording.Info{Start: at(-3).UnixNano()}, Teller{}); err != nil {
		t.Fatal(err)
	}
	r.mustAppend(t, 0, 10)
	if err := errors.Join(r.Finish(&events.Summary{Events: 10, Elapsed: 60 * time.Second}), r.Close()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "b")
	if err := os.WriteFile(cut, content[:len(content)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path   string
		since, until time.Time
		begin, end   time.Time
	}{
		{"whole", path, time.Time{}, time.Time{}, at(-3), at(57)},
		{"a part", path, at(2), at(20), at(2), at(20)},
		{"more", path, at(-10), at(100), at(-3), at(57)},
		{"cut", cut, time.Time{}, time.Time{}, at(-3), at(9)},
	} {
		_, _, s := readAll(t, SourceOptions{Since: tt.since, Until: tt.until}, tt.path)
		if begin, end := s.Begin(), s.End(); !begin.Equal(tt.begin) || !end.Equal(tt.end) {
			t.Errorf("%s: from %v to %v, want %v to %v", tt.name, begin.UTC(), end.UTC(), tt.begin.UTC(), tt.end.UTC())
		}
	}
}

// What happened is on disk in time, whether or not more happens, and the
// stream does not wait for that.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a")
		var mu sync.Mutex
		var safe []int // that a sync made safe
		synced := func() []int {
			mu.Lock()
			defer mu.Unlock()
			return safe
		}
		release := make(chan struct{})
		r := began(t, path, Options{Flush: time.Second, sync: func(f *os.File) error {
			<-release
			got, _, _ := readAll(t, SourceOptions{}, path)
			mu.Lock()
			defer mu.Unlock()
			safe = got
			return datasync(f)
		}}, Teller{})
		start := time.Now()
		r.mustAppend(t, 0, 1)
		time.Sleep(time.Second / 2)
		r.mustAppend(t, 1, 2)
		time.Sleep(time.Second / 4) // now the disk begins, and stalls
		synctest.Wait()
		r.mustAppend(t, 2, 50_000) // more than a block
		close(release)
		synctest.Wait()
		if since := time.Since(start); since >= time.Second || len(synced()) < 2 {
			t.Errorf("%d events are safe after %v", len(synced()), since)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !slices.Equal(synced(), upTo(50_000)) {
			t.Errorf("%d events are safe", len(synced()))
		}
		if err := r.Finish(&events.Summary{}); err != nil {
			t.Error(err)
		}
	})
}

// An error of the disk ends the stream.
func TestSyncFails(t *testing.T) {
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a")
		r := began(t, path, Options{sync: func(*os.File) error { return broken }}, Teller{})
		r.mustAppend(t, 0, 1)
		time.Sleep(time.Second)
		synctest.Wait()
		if err := r.Tick(nil); !errors.Is(err, broken) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v", err)
		}
		e := event(1)
		if err := r.Append([]events.Event{e}); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		if err := r.Finish(&events.Summary{}); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// So does a limit on the size of files.
func TestLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 300_000, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	r := began(t, path, Options{}, Teller{})
	made, err := fill(r)
	if lerr := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); lerr != nil {
		t.Fatal(lerr)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("%d events: %v", made, err)
	}
	checkWhole(t, path, made)
}

// fill appends events until that fails.
func fill(r *Recorder) (made int, err error) {
	for made < 10_000_000 && err == nil {
		e := event(made)
		e.Conn *= 0x9e3779b97f4a7c15 // what does not compress
		e.Seq = uint32(e.Conn >> 32)
		e.Known |= events.HasSeq
		if err = r.Append([]events.Event{e}); err == nil {
			made++
		}
	}
	return made, err
}

// checkWhole checks that a file has the first events in whole blocks, and
// nothing else. It returns how many.
func checkWhole(t *testing.T, path string, made int) int {
	t.Helper()
	got, warnings, s := readAll(t, SourceOptions{}, path)
	if len(got) == 0 || len(got) > made || !slices.Equal(got, upTo(len(got))) || s.Err() != nil {
		t.Errorf("%d events of %d, %v, %q", len(got), made, s.Err(), warnings)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "not finished") {
		t.Errorf("warned %q", warnings)
	}
	return len(got)
}

// However much is wrong with a file, what is kept of that has a bound.
func TestManyProblems(t *testing.T) {
	bad := []byte("\\*M\x18\x0d\x00\x00\x00tcpH\x01\x00\x00\x00....?") // a header that is no JSON
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.LittleEndian.PutUint32(bad[16:], crc32.Update(crc32.Checksum(bad[:16], table), table, bad[20:]))
	path := filepath.Join(t.TempDir(), "bad")
	const n = 10_000
	if err := os.WriteFile(path, bytes.Repeat(bad, n), 0o600); err != nil {
		t.Fatal(err)
	}
	in := &input{path: path, name: path}
	if err := new(Source).begin(in); err != nil {
		t.Fatal(err)
	}
	if _, err := in.r.Read(make([]events.Event, 0, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if all := len(in.found.list) + in.found.more; len(in.found.list) != maxWarnings || all != n+1 || !in.found.damaged {
		t.Errorf("%d of %d kept, %v", len(in.found.list), all, in.found.damaged)
	}
	in.end()
	got, warnings, s := readAll(t, SourceOptions{}, path)
	if len(got) > 0 || s.Err() == nil || len(warnings) != maxWarnings+1 || warnings[maxWarnings] != fmt.Sprintf("%d more like that", n+1-maxWarnings) {
		t.Errorf("%v, %v, %q", got, s.Err(), warnings)
	}
}

// Nothing is written through what another user may have planted, nor over a
// file, and it is said why.
func TestPlanted(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	const secret = "do not touch"
	for _, name := range []string{"victim", "there", "linked", "others", "busy"} {
		if err := os.WriteFile(at(name), []byte(secret), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.Symlink("victim", at("symlink")), os.Symlink("new", at("dangling")),
		os.Link(at("linked"), at("hardlink")), unix.Mkfifo(at("fifo"), 0o600), os.Mkdir(at("dir"), 0o700),
		os.Chown(at("others"), 65534, 65534))
	if err != nil {
		t.Fatal(err)
	}
	busy, err := os.OpenFile(at("busy"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if err := lock(busy, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path  string
		force bool
		want  string
	}{
		{at("symlink"), false, at("symlink") + " is a symbolic link: give the file itself"},
		{at("symlink"), true, at("symlink") + " is a symbolic link: give the file itself"},
		{at("dangling"), true, at("dangling") + " is a symbolic link: give the file itself"},
		{at("there"), false, at("there") + " exists: give another name, or --force to replace it"},
		{at("hardlink"), true, at("hardlink") + " has another name, too (a hard link): remove it first, or give another name"},
		{at("others"), true, at("others") + " belongs to another user: remove it first, or give another name"},
		{at("busy"), true, at("busy") + " is being written by another tcptrace"},
		{at("fifo"), true, at("fifo") + " is not a regular file: give another name, or - for standard output"},
		{"/dev/full", true, "/dev/full is not a regular file: give another name, or - for standard output"},
		{at("dir"), true, at("dir") + " is a folder: give a file"},
		{at("none/file"), true, "open " + at("none/file") + ": no such file or directory"},
		{at("there/file"), true, "open " + at("there/file") + ": not a directory"},
		{"/proc/x", false, "open /proc/x: no such file or directory"},
	} {
		r, err := Open(tt.path, Options{Force: tt.force, File: true})
		if err == nil {
			r.Close()
		}
		if fmt.Sprint(err) != tt.want {
			t.Errorf("%s, force %v:\n got %v\nwant %s", tt.path, tt.force, err, tt.want)
		}
	}
	for _, name := range []string{"victim", "there", "linked", "others", "busy"} {
		if b, err := os.ReadFile(at(name)); err != nil || string(b) != secret {
			t.Errorf("%s: %v, %q", name, err, b)
		}
	}
	if _, err := os.Lstat(at("new")); !os.IsNotExist(err) {
		t.Errorf("made through a link: %v", err)
	}

	// A file of ours is replaced, from the start of the recording on.
	r, err := Open(at("there"), Options{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(at("there")); err != nil || string(b) != secret {
		t.Errorf("before the start: %v, %q", err, b)
	}
	if err := r.Close(); err != nil { // not started: it stays
		t.Error(err)
	}
	r = began(t, at("there"), Options{Force: true}, Teller{})
	r.mustAppend(t, 0, 1)
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Error(err)
	}
	if got, warnings, _ := readAll(t, SourceOptions{}, at("there")); len(got) != 1 || warnings != nil {
		t.Errorf("%v, %q", got, warnings)
	}
	if fi, err := os.Stat(at("there")); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	// What was made and not begun is gone.
	if r, err = Open(at("fresh"), Options{}); err == nil {
		err = r.Close()
	}
	if _, serr := os.Lstat(at("fresh")); err != nil || !os.IsNotExist(serr) {
		t.Errorf("%v, %v", err, serr)
	}
}

// clock is a clock that is set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func folderSize(t *testing.T, dir string) (size int64, files []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ours := nameTime(e.Name()); !ours {
			continue
		}
		fi, err := e.Info()
		if os.IsNotExist(err) {
			continue // deleted meanwhile
		}
		if err != nil {
			t.Fatal(err)
		}
		size += fi.Size()
		files = append(files, filepath.Join(dir, e.Name()))
	}
	return size, files
}

// A folder stays below its size: the oldest files go, each whole, and nothing
// that is not ours.
func TestRotateBySize(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	audits := 0
	r, err := Open(dir, Options{Folder: true, MaxSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi, err)
	}
	for _, name := range []string{"notes.txt", "2026-11-22.tcptrace", "2020-01-01T00-00-00.000Z.tcptrace.bak"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// One that looks like ours and is a link is none.
	if err := os.Symlink("notes.txt", filepath.Join(dir, "2020-01-01T00-00-00.000Z.tcptrace")); err != nil {
		t.Fatal(err)
	}
	tell := Teller{Audit: func(s *events.Summary) error {
		audits++
		s.Audit, s.Checked = []events.Audit{{NetNS: 7, Counter: "RetransSegs", Kernel: 1, Traced: 1, Verdict: events.Exact}}, 1
		s.Counters = []events.Counter{{NetNS: 7, Counter: "ListenOverflows", Rise: 2}}
		return nil
	}}
	if err := r.Start(recording.Info{}, tell); err != nil {
		t.Fatal(err)
	}
	made := 0
	var sum events.Summary
	soFar := func() events.Summary {
		return events.Summary{Events: uint64(made), Filtered: uint64(2 * made), ByKind: []events.KindCount{{Name: "rto", Count: uint64(made)}}}
	}
	var largest int64
	for range 100 {
		for range 2000 {
			e := event(made)
			e.Seq = uint32(e.Conn >> 32)
			e.Known |= events.HasSeq
			if err := r.Append([]events.Event{e}); err != nil {
				t.Fatal(err)
			}
			made++
		}
		if err := r.Tick(soFar); err != nil {
			t.Fatal(err)
		}
		size, _ := folderSize(t, dir)
		largest = max(largest, size)
	}
	sum = soFar()
	sum.Audit, sum.Checked = []events.Audit{{NetNS: 7, Counter: "RetransSegs", Kernel: 1, Traced: 1, Verdict: events.Exact}}, 1
	if err := r.Finish(&sum); err != nil {
		t.Fatal(err)
	}
	if largest > 1<<20 || largest < 1<<19 {
		t.Errorf("it grew to %d bytes", largest)
	}
	_, rotated := r.Written()
	if rotated < 5 || audits != rotated-1 || sum.Audit[0].Kernel != uint64(rotated) || sum.Counters[0].Rise != 2*uint64(audits) {
		t.Errorf("%d files, %d audits, %+v", rotated, audits, sum)
	}
	_, files := folderSize(t, dir)
	total := 0
	for _, f := range files[1:] { // the first is the link
		got, warnings, s := readAll(t, SourceOptions{}, f)
		total += len(got)
		if c := s.Counts(); warnings != nil || c.Filtered != uint64(2*len(got)) || len(c.Audit) != 1 || c.Audit[0].Kernel != 1 {
			t.Errorf("%s: %d events, %q, %+v", f, len(got), warnings, c)
		}
	}
	got, _, _ := readAll(t, SourceOptions{}, dir)
	if len(got) != total || got[len(got)-1] != made-1 || !slices.IsSorted(got) || got[0] == 0 {
		t.Errorf("%d events from %d to %d, %d in the files", len(got), got[0], got[len(got)-1], total)
	}
	for _, name := range []string{"notes.txt", "2026-11-22.tcptrace", "2020-01-01T00-00-00.000Z.tcptrace.bak", "2020-01-01T00-00-00.000Z.tcptrace"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Size() != 1<<20 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Files go when they are too old, also if nothing happens, and one that has no
// event yet is not rotated. What is left of a crash counts like any other.
func TestRotateByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := &clock{now: time.Now()}
		crashed := began(t, dir, Options{MaxAge: 24 * time.Hour, now: c.Now}, Teller{})
		crashed.mustAppend(t, 0, 10)
		time.Sleep(time.Second)
		synctest.Wait()
		// What a kill leaves: blocks, no trailer, no lock.
		leave(t, crashed)

		r := began(t, dir, Options{MaxAge: 24 * time.Hour, now: c.Now}, Teller{})
		soFar := func() events.Summary { return events.Summary{} }
		tick := func(want int) {
			t.Helper()
			if err := r.Tick(soFar); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if _, files := folderSize(t, dir); len(files) != want {
				t.Errorf("%d files, want %d", len(files), want)
			}
		}
		tick(2)
		c.advance(2 * time.Hour)
		tick(2) // nothing to rotate
		r.mustAppend(t, 10, 20)
		tick(3) // the one under way is older than an hour
		got, warnings, s := readAll(t, SourceOptions{}, dir)
		if !slices.Equal(got, upTo(20)) || s.Err() != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "not finished") {
			t.Errorf("%v, %v, %q", got, s.Err(), warnings)
		}
		// The times of files are real ones.
		_, files := folderSize(t, dir)
		for _, f := range files {
			if err := os.Chtimes(f, time.Time{}, c.Now()); err != nil {
				t.Fatal(err)
			}
		}
		c.advance(23 * time.Hour)
		tick(3)
		c.advance(2 * time.Hour)
		tick(1) // what is under way stays
		if err := r.Finish(&events.Summary{}); err != nil {
			t.Fatal(err)
		}
	})
}

// leave ends a recorder as a kill would.
func leave(t *testing.T, r *Recorder) {
	t.Helper()
	r.timer.Stop()
	r.mu.Lock()
	p := r.pieces[0]
	r.err = errors.New("killed")
	p.whole = true
	r.changed.Broadcast()
	r.mu.Unlock()
	<-r.done
}

// Two recorders share a folder: neither has the other's name, nor deletes what
// the other writes.
func TestTwoRecorders(t *testing.T) {
	dir := t.TempDir()
	at := time.Now()
	now := func() time.Time { return at }
	warned := make(chan string, 10)
	o := Options{MaxSize: 1, Folder: true, now: now, Warn: func(text string) { warned <- text }}
	a := began(t, dir, o, Teller{})
	b := began(t, dir, o, Teller{})
	a.mustAppend(t, 0, 100)
	b.mustAppend(t, 100, 200)
	if err := errors.Join(a.Finish(&events.Summary{Events: 100}), b.Finish(&events.Summary{Events: 100})); err != nil {
		t.Fatal(err)
	}
	got, _, _ := readAll(t, SourceOptions{}, dir)
	// When the first had finished, the second's last write may delete its file.
	if slices.Sort(got); len(got) == 0 || got[len(got)-1] != 199 || len(got) != 100 && len(got) != 200 {
		t.Errorf("%d events", len(got))
	}
	if len(warned) == 0 || !strings.Contains(<-warned, "may grow beyond --max-size") {
		t.Error("no warning")
	}
}

// The clock may be set back: files sort as they were made.
func TestNames(t *testing.T) {
	d, err := openFolder(t.TempDir(), &Options{MaxSize: 1, now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	at := time.Date(2026, 11, 22, 12, 0, 0, 123_456_789, time.FixedZone("CET", 3600))
	var names []string
	for _, at := range []time.Time{at, at, at.Add(-time.Hour), at.Add(time.Hour)} {
		f, err := d.create(at)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, filepath.Base(f.Name()))
		f.Close()
	}
	want := []string{
		"2026-11-22T11-00-00.123Z.tcptrace", "2026-11-22T11-00-00.124Z.tcptrace",
		"2026-11-22T11-00-00.125Z.tcptrace", "2026-11-22T12-00-00.123Z.tcptrace",
	}
	if !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	for _, name := range []string{"2026-11-22T11-00-00.123Z.tcptrace.x", "2026-11-22T11-00-00Z.tcptrace", "x.tcptrace", "2026-11-22T11-00-00.1234Z.tcptrace", "2026-13-22T11-00-00.123Z.tcptrace"} {
		if _, ours := nameTime(name); ours {
			t.Errorf("%s is none of ours", name)
		}
	}
}

// Settings of a namespace are recorded when it has its first event, and again
// when they have changed.
func TestSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	c := &clock{now: time.Now()}
	value := "15"
	var asked [][]uint32
	r := began(t, path, Options{now: c.Now}, Teller{Settings: func(list []uint32) ([]events.Settings, error) {
		asked = append(asked, list)
		return []events.Settings{{NetNS: 7, Time: 1, Values: []events.Setting{{Name: "tcp_retries2", Value: value}}}}, nil
	}, Again: SettingsAge})
	step := func(from, to int, d time.Duration) {
		t.Helper()
		r.mustAppend(t, from, to)
		if err := r.Tick(nil); err != nil {
			t.Fatal(err)
		}
		c.advance(d)
	}
	step(0, 1, 0)
	step(1, 2, time.Hour)
	value = "8"
	step(2, 3, time.Second)
	step(3, 4, time.Hour)
	step(4, 4, time.Hour) // had an event since
	step(4, 4, time.Hour) // had none
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	if len(asked) != 3 {
		t.Errorf("asked %v", asked)
	}
	s, err := OpenSource([]string{path}, SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Read(t.Context(), make([]events.Event, 0, 10)); err != nil {
		t.Fatal(err)
	}
	list, err := s.Settings([]uint32{7, 8})
	if err != nil || len(list) != 1 || list[0].Values[0].Value != "8" {
		t.Errorf("%v, %v", list, err)
	}
}

// Nothing is allocated for an event.
func TestAllocs(t *testing.T) {
	r := began(t, filepath.Join(t.TempDir(), "a"), Options{}, Teller{})
	batch := []events.Event{event(1)}
	if n := testing.AllocsPerRun(10_000, func() {
		if err := r.Append(batch); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
}

// A folder needs a right that is given up only if its bits do not let us in.
func TestRights(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		uid, gid int
		mode     os.FileMode
		want     []string
	}{
		{os.Geteuid(), os.Getegid(), 0o700, nil},
		{os.Geteuid(), os.Getegid(), 0o500, []string{"CAP_DAC_OVERRIDE"}},
		{65534, 65534, 0o700, []string{"CAP_DAC_OVERRIDE"}},
		{65534, os.Getegid(), 0o770, nil},
		{65534, 65534, 0o777, nil},
	} {
		if err := errors.Join(os.Chown(dir, tt.uid, tt.gid), os.Chmod(dir, tt.mode)); err != nil {
			t.Fatal(err)
		}
		r, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Rights(); !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v", tt, got)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSpan(t *testing.T) {
	dir := t.TempDir()
	c := &clock{now: time.Unix(1_700_000_000, 0)}
	r := began(t, dir, Options{MaxAge: time.Hour, now: c.Now}, Teller{})
	for i := range 30 { // a file for each ten
		e := event(i * 1000)
		if err := r.Append([]events.Event{e}); err != nil {
			t.Fatal(err)
		}
		c.advance(1000 * time.Second)
		if i%10 == 9 {
			if err := r.Tick(func() events.Summary { return events.Summary{} }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	_, files := folderSize(t, dir)
	if len(files) == 0 {
		t.Fatal("no files")
	}
	all, _, _ := readAll(t, SourceOptions{}, dir)
	since, until := all[len(all)/3], all[len(all)*2/3]
	at := func(i int) time.Time { return time.Unix(1_700_000_000+int64(i), 0) }
	got, _, s := readAll(t, SourceOptions{Since: at(since), Until: at(until)}, dir)
	if len(got) == 0 || got[0] != since || got[len(got)-1] != until || s.Counts().Audit != nil {
		t.Errorf("%v from %d to %d of %v", got, since, until, all)
	}
}

// Several recordings come in the order in which they are named; those of a
// folder in order of time. Standard input is one of them.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for i := range 3 {
		path := filepath.Join(dir, fmt.Sprint(2-i))
		r := began(t, path, Options{}, Teller{})
		r.mustAppend(t, i*10, i*10+10)
		if err := r.Finish(&events.Summary{Filtered: 1, Elapsed: time.Second}); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	b, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	got, warnings, s := readAll(t, SourceOptions{Stdin: bytes.NewReader(b)}, files[0], "-", files[2])
	if c := s.Counts(); !slices.Equal(got, upTo(30)) || warnings != nil || c.Filtered != 3 || c.Elapsed != 3*time.Second {
		t.Errorf("%v, %q, %+v", got, warnings, c)
	}
	got, _, _ = readAll(t, SourceOptions{}, files[2], files[0])
	if len(got) != 20 || got[0] != 20 || got[10] != 0 {
		t.Errorf("%v", got)
	}
	// A folder beside it has an end, too.
	folder := t.TempDir()
	r := began(t, folder, Options{}, Teller{})
	r.mustAppend(t, 0, 10)
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	if got, warnings, _ := readAll(t, SourceOptions{Stdin: bytes.NewReader(b)}, folder, "-"); !slices.Equal(got, upTo(20)) || warnings != nil {
		t.Errorf("%v, %q", got, warnings)
	}
	if _, err := OpenSource([]string{"-", "-"}, SourceOptions{Stdin: bytes.NewReader(b)}); err == nil {
		t.Error("standard input is there once")
	}
}

// follow reads until it has seen an event.
type reader struct {
	t *testing.T
	s *Source
}

func (r *reader) until(ctx context.Context, n int) (got []int) {
	r.t.Helper()
	batch := make([]events.Event, 0, 64)
	for ctx.Err() == nil {
		var err error
		batch, err = r.s.Read(ctx, batch[:0])
		for i := range batch {
			got = append(got, int((batch[i].Time-1_700_000_000_000_000_000)/1e9))
		}
		if err != nil {
			r.t.Fatalf("%v after %v", err, got)
		}
		if len(got) > 0 && got[len(got)-1] == n {
			return got
		}
	}
	r.t.Fatalf("no event %d in %v", n, got)
	return nil
}

// A follower sees what comes later, in the file under way and in new ones, of
// two recorders that write side by side, too.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	c := &clock{now: time.Now()}
	o := Options{Flush: 4 * time.Millisecond, MaxAge: 24 * time.Hour, Folder: true, now: c.Now}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	soFar := func() events.Summary { return events.Summary{} }
	var warned []string
	s, err := OpenSource([]string{dir}, SourceOptions{Follow: true, Warn: func(text string) { warned = append(warned, text) }})
	if err != nil {
		t.Fatal(err)
	}
	read := &reader{t, s}

	a := began(t, dir, o, Teller{})
	a.mustAppend(t, 0, 1)
	if got := read.until(ctx, 0); !slices.Equal(got, upTo(1)) {
		t.Errorf("%v", got)
	}
	a.mustAppend(t, 1, 1000)
	if got := read.until(ctx, 999); len(got) != 999 {
		t.Errorf("%d events", len(got))
	}
	c.advance(2 * time.Hour)
	if err := a.Tick(soFar); err != nil { // rotates
		t.Fatal(err)
	}
	a.mustAppend(t, 1000, 1001)
	read.until(ctx, 1000)
	b := began(t, dir, o, Teller{})
	for i := 1001; i < 1011; i += 2 {
		a.mustAppend(t, i, i+1)
		read.until(ctx, i)
		b.mustAppend(t, i+1, i+2)
		read.until(ctx, i+1)
	}
	leave(t, a) // its file is over, without an end
	b.mustAppend(t, 1011, 1012)
	read.until(ctx, 1011)
	if err := b.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	third := began(t, dir, o, Teller{})
	third.mustAppend(t, 1012, 1013)
	read.until(ctx, 1012)
	stopped, stop := context.WithCancel(ctx)
	stop()
	if _, err := s.Read(stopped, make([]events.Event, 0, 10)); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if err := errors.Join(s.Close(), third.Finish(&events.Summary{})); err != nil {
		t.Error(err)
	}
	if s.Err() != nil || slices.ContainsFunc(warned, func(w string) bool { return !strings.Contains(w, "not finished") }) {
		t.Errorf("%v, %q", s.Err(), warned)
	}
	if s.Events() != 1013 {
		t.Errorf("%d events", s.Events())
	}
}

// A recorder that had nothing to write for long has something, now.
func TestFollowIdle(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := &clock{now: time.Unix(1_700_000_000, 0)}
	r := began(t, dir, Options{Flush: 4 * time.Millisecond, now: c.Now}, Teller{})
	r.mustAppend(t, 0, 1)
	r.mu.Lock()
	for r.w.Pending() > 0 || r.bytes < r.w.Written() {
		r.changed.Wait()
	}
	r.mu.Unlock()
	_, files := folderSize(t, dir)
	if err := os.Chtimes(files[0], c.Now(), c.Now()); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSource([]string{dir}, SourceOptions{Follow: true, Since: c.Now().Add(30 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(ctx, make([]events.Event, 0, 10)); err != nil || len(got) > 0 { // a look later
		t.Errorf("%d events, %v", len(got), err)
	}
	r.mustAppend(t, 3600, 3601)
	read := &reader{t, s}
	if got := read.until(ctx, 3600); len(got) != 1 {
		t.Errorf("%v", got)
	}
	if err := errors.Join(s.Close(), r.Finish(&events.Summary{})); err != nil {
		t.Error(err)
	}
}

// After the clock was set back, what an earlier recorder wrote by the wrong time
// makes room for what is new, though its names are greater.
func TestClockSetBack(t *testing.T) {
	dir := t.TempDir()
	ahead := time.Now().Add(1000 * time.Hour)
	const old, size = 1 << 10, 1 << 10
	for i := range old {
		at := ahead.Add(time.Duration(i) * time.Hour).UTC()
		name := filepath.Join(dir, at.Format(nameLayout))
		if err := errors.Join(os.WriteFile(name, make([]byte, size), 0o600), os.Chtimes(name, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	r := began(t, dir, Options{MaxSize: old * size}, Teller{})
	r.mustAppend(t, 0, 100)
	if err := r.rotate(time.Now(), events.Summary{}); err != nil {
		t.Fatal(err)
	}
	r.mustAppend(t, 100, 200)
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	_, files := folderSize(t, dir)
	if n := len(files); n < old/2 || n >= old {
		t.Fatalf("%d files", n)
	}
	if got, _, _ := readAll(t, SourceOptions{}, files[:2]...); !slices.Equal(got, upTo(200)) {
		t.Errorf("%v", got)
	}
}

// After the clock was set back a file's name is ahead of its events: --until
// finds them.
func TestSpanSetBack(t *testing.T) {
	dir := t.TempDir()
	at := time.Unix(0, event(0).Time)
	c := &clock{now: at.Add(2 * time.Hour)}
	r := began(t, dir, Options{now: c.Now}, Teller{})
	r.mustAppend(t, 0, 10)
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	_, files := folderSize(t, dir)
	if err := os.Chtimes(files[0], at, at.Add(10*time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, o := range []SourceOptions{{Until: at.Add(time.Hour)}, {Since: at}} {
		if got, _, _ := readAll(t, o, dir); !slices.Equal(got, upTo(10)) {
			t.Errorf("%+v: %v", o, got)
		}
	}
}

// A follower goes on behind what is no recording, and leaves it.
func TestFollowGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "1999-01-01T00-00-00.000Z.tcptrace"), []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := began(t, dir, Options{}, Teller{})
		r.mustAppend(t, 0, 10)
		var warned []string
		s, err := OpenSource([]string{dir}, SourceOptions{Follow: true, Warn: func(text string) { warned = append(warned, text) }})
		if err != nil {
			t.Fatal(err)
		}
		garbage := s.inputs[0]
		(&reader{t, s}).until(t.Context(), 9)
		if len(warned) != 1 || warned[0] != garbage.path+": not a recording: it is text" || garbage.file != nil {
			t.Errorf("%q, %v is open", warned, garbage.file)
		}
		if err := errors.Join(r.Finish(&events.Summary{}), s.Close()); err != nil {
			t.Error(err)
		}
	})
}

// What is new comes in the order in which it was written, whichever file is
// looked at first.
func TestFollowOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		soFar := func() events.Summary { return events.Summary{} }
		r := began(t, dir, Options{Flush: time.Millisecond}, Teller{})
		r.mustAppend(t, 0, 10)
		s, err := OpenSource([]string{dir}, SourceOptions{Follow: true}) // looks for files from now on
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(pollTime / 2)
		all := make(chan []int)
		go func() { all <- (&reader{t, s}).until(t.Context(), 29) }() // looks for the end of one from now on
		time.Sleep(pollTime + pollTime/4)
		r.mustAppend(t, 10, 20)
		if err := r.rotate(time.Now(), soFar()); err != nil {
			t.Fatal(err)
		}
		r.mustAppend(t, 20, 30)
		if err := r.Finish(&events.Summary{}); err != nil {
			t.Fatal(err)
		}
		if got := <-all; !slices.Equal(got, upTo(30)) {
			t.Errorf("%v", got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A stream that is silent keeps nobody waiting, and what has come is there.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		recorder := make(chan *Recorder, 1)
		go func() {
			r, err := Open("-", Options{Stdout: out})
			if err == nil {
				err = r.Start(recording.Info{Start: 1}, Teller{Settings: func([]uint32) ([]events.Settings, error) {
					return []events.Settings{{NetNS: 7, Values: []events.Setting{{Name: "tcp_sack", Value: "1"}}}}, nil
				}})
			}
			if err != nil {
				t.Error(err)
				return
			}
			e := event(0)
			if err := errors.Join(r.Append([]events.Event{e}), r.Tick(nil)); err != nil {
				t.Error(err)
			}
			recorder <- r
		}()
		s, err := OpenSource([]string{"-"}, SourceOptions{Stdin: in})
		if err != nil {
			t.Fatal(err)
		}
		read := &reader{t, s}
		if got := read.until(t.Context(), 0); !slices.Equal(got, upTo(1)) {
			t.Errorf("%v", got)
		}
		if list, err := s.Settings([]uint32{7, 8}); err != nil || len(list) != 1 || list[0].Values[0].Value != "1" {
			t.Errorf("%v, %v", list, err)
		}
		batch := make([]events.Event, 0, 10)
		if batch, err = s.Read(t.Context(), batch); len(batch) > 0 || err != nil { // an idle moment
			t.Errorf("%v, %v", batch, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Read(ctx, batch); !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
		if err := errors.Join(s.Close(), in.Close()); err != nil {
			t.Error(err)
		}
		if err := (<-recorder).Close(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	})
}

// A disk that stands still takes a bounded amount of memory, and nothing gets
// lost.
func TestBackpressure(t *testing.T) {
	in, out := io.Pipe()
	r := began(t, "-", Options{Stdout: out, queue: 1 << 20}, Teller{})
	const n = 150_000
	done := make(chan error, 1)
	var made atomic.Int64
	go func() {
		for i := range n {
			e := event(i)
			e.Seq, e.EndSeq, e.Conn, e.Cookie = rand.Uint32(), rand.Uint32(), rand.Uint64(), rand.Uint64()
			e.Known |= events.HasSeq
			if err := r.Append([]events.Event{e}); err != nil {
				done <- err
				return
			}
			made.Add(1)
		}
		done <- errors.Join(r.Finish(&events.Summary{}), out.Close())
	}()
	r.mu.Lock()
	for len(r.pieces[0].buf) <= r.o.queue {
		r.changed.Wait()
	}
	r.mu.Unlock()
	if made.Load() == n {
		t.Error("the queue never filled")
	}
	s, err := OpenSource([]string{"-"}, SourceOptions{Stdin: in})
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for batch := make([]events.Event, 0, 256); err == nil; got += len(batch) {
		batch, err = s.Read(t.Context(), batch[:0])
	}
	if !errors.Is(err, io.EOF) || got != n {
		t.Errorf("%d events: %v", got, err)
	}
	if err := errors.Join(<-done, s.Close()); err != nil {
		t.Error(err)
	}
}

// So it is where files are finished, and the next begun, faster than the disk
// takes them.
func TestBackpressureOfFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const queue, block, n = 2 << 20, 1 << 20, 200_000
		stand := make(chan struct{})
		dir := t.TempDir()
		r := began(t, dir, Options{MaxSize: 1 << 30, queue: queue, sync: func(*os.File) error {
			<-stand
			return nil
		}}, Teller{})
		r.folder.pieceSize = minPiece
		done := make(chan error, 1)
		go func() {
			for i := range n {
				e := event(i)
				e.Seq, e.EndSeq, e.Conn, e.Cookie = rand.Uint32(), rand.Uint32(), rand.Uint64(), rand.Uint64()
				e.Known |= events.HasSeq
				err := r.Append([]events.Event{e})
				if err == nil && i%1000 == 0 {
					err = r.Tick(func() events.Summary { return events.Summary{} })
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- r.Finish(&events.Summary{})
		}()
		synctest.Wait()
		r.mu.Lock()
		waiting, files := r.queued(), r.files
		r.mu.Unlock()
		if waiting < queue || waiting > queue+block || files < 3 {
			t.Errorf("%d bytes wait, of %d files", waiting, files)
		}
		close(stand)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got, warnings, _ := readAll(t, SourceOptions{}, dir); !slices.Equal(got, upTo(n)) {
			t.Errorf("%d events, %q", len(got), warnings)
		}
	})
}

// What a folder's recorder deletes before a slow reader gets there is told of.
func TestDeletedUnread(t *testing.T) {
	for _, follow := range []bool{false, true} {
		dir := t.TempDir()
		var files []string
		for i := range 4 {
			files = append(files, filepath.Join(dir, fmt.Sprintf("2026-01-31T12-00-0%d.000Z.tcptrace", i)))
			r := began(t, files[i], Options{}, Teller{})
			r.mustAppend(t, 10*i, 10*i+10)
			if err := r.Finish(&events.Summary{Events: 10}); err != nil {
				t.Fatal(err)
			}
		}
		var warnings []string
		s, err := OpenSource([]string{dir}, SourceOptions{Follow: follow, Warn: func(text string) { warnings = append(warnings, text) }})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files[1:3] {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		for batch := make([]events.Event, 0, 100); !errors.Is(err, io.EOF); n += len(batch) {
			if batch, err = s.Read(ctx, batch[:0]); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if n+len(batch) == 20 {
				cancel()
			}
		}
		cancel()
		if n != 20 || s.Err() != ErrDeleted || !s.Counts().Partial || !s.Counts().Damaged || len(warnings) != 2 || !strings.HasPrefix(warnings[0], files[1]+": deleted before it was read") {
			t.Errorf("%d events, %v, %+v, %q", n, s.Err(), s.Counts(), warnings)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A file is not read twice, which would double all that it holds.
func TestNamedTwice(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "2026-01-31T12-00-00.000Z.tcptrace"), filepath.Join(t.TempDir(), "b")
	if err := began(t, a, Options{}, Teller{}).Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(a, b); err != nil {
		t.Fatal(err)
	}
	for _, paths := range [][]string{{a, a}, {a, b}, {dir, a}, {b, dir}} {
		want := "are the same file: name it once"
		if _, err := OpenSource(paths, SourceOptions{}); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", paths, err, want)
		}
	}
}

// A file that someone else empties is not written on behind a hole.
func TestShortened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a")
		r := began(t, path, Options{Flush: time.Second}, Teller{})
		r.mustAppend(t, 0, 10)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		if err, want := r.Finish(&events.Summary{Events: 10}), path+" was made shorter while it was written: what it held is gone"; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	})
}

// The audit of what was traced is told also when the disk fails.
func TestAuditBesideError(t *testing.T) {
	broken := errors.New("broken")
	fails := atomic.Bool{}
	c := &clock{now: time.Now()}
	audited := func(n uint64) []events.Audit {
		return []events.Audit{{NetNS: 7, Counter: "OutRsts", Kernel: n, Traced: n, Verdict: events.Exact}}
	}
	r := began(t, t.TempDir(), Options{MaxAge: 24 * time.Hour, now: c.Now, sync: func(*os.File) error {
		if fails.Load() {
			return broken
		}
		return nil
	}}, Teller{Audit: func(s *events.Summary) error { s.Audit, s.Checked = audited(3), 5; return nil }})
	r.mustAppend(t, 0, 1)
	c.advance(2 * time.Hour)
	if err := r.Tick(func() events.Summary { return events.Summary{Events: 1} }); err != nil {
		t.Fatal(err)
	}
	fails.Store(true)
	sum := events.Summary{Events: 1, Audit: audited(4), Checked: 2}
	if err := r.Finish(&sum); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if want := audited(7); !slices.Equal(sum.Audit, want) || sum.Checked != 5 {
		t.Errorf("%+v of %d", sum.Audit, sum.Checked)
	}
}

// A stretch of a file in which there is nothing to show ends when the user says
// so, and is no damage.
func TestInterrupted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	r := began(t, path, Options{}, Teller{})
	r.mustAppend(t, 0, 10)
	if err := r.Finish(&events.Summary{Events: 10}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4<<30); err != nil { // with zeros, but nothing on disk
		t.Fatal(err)
	}
	s, err := OpenSource([]string{path}, SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := &interrupted{Context: t.Context(), after: 1 << 40}
	batch, err := s.Read(ctx, make([]events.Event, 0, 100))
	if len(batch) != 10 || err != nil {
		t.Fatalf("%d events, %v", len(batch), err)
	}
	ctx.after = ctx.asked + 4
	if batch, err = s.Read(ctx, batch[:0]); len(batch) > 0 || err != io.EOF {
		t.Errorf("%d events, %v", len(batch), err)
	}
	if s.Err() != nil || !s.Counts().Partial {
		t.Errorf("%v, %+v", s.Err(), s.Counts())
	}
}

// interrupted is a context that is done after it was asked some times.
type interrupted struct {
	context.Context
	asked, after int
}

func (c *interrupted) Err() error {
	if c.asked++; c.asked > c.after {
		return context.Canceled
	}
	return nil
}

// What ended a recording is what is told, also when the next file is due.
func TestErrorAtRotation(t *testing.T) {
	c := &clock{now: time.Now()}
	broken := errors.New("the disk is broken")
	r := began(t, t.TempDir(), Options{Flush: time.Millisecond, MaxAge: time.Hour, now: c.Now, sync: func(*os.File) error { return broken }}, Teller{})
	r.mustAppend(t, 0, 1)
	<-r.done
	if err := r.rotate(c.Now(), events.Summary{}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// The names of a new folder and of each file in it are on disk.
func TestNamesOnDisk(t *testing.T) {
	dir := t.TempDir()
	var synced []string
	o := Options{Folder: true, syncDir: func(path string) error {
		synced = append(synced, path)
		return syncDir(path)
	}}
	r := began(t, filepath.Join(dir, "new")+"/", o, Teller{})
	r.mustAppend(t, 0, 1)
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	if want := []string{dir, filepath.Join(dir, "new")}; !slices.Equal(synced, want) {
		t.Errorf("%q", synced)
	}
}

// A file that is deleted while it is written is noticed within a minute, and
// another one begun.
func TestFileDeleted(t *testing.T) {
	dir := t.TempDir()
	c := &clock{now: time.Now()}
	var warned []string
	r := began(t, dir, Options{now: c.Now, Warn: func(text string) { warned = append(warned, text) }}, Teller{})
	soFar := func() events.Summary { return events.Summary{} }
	r.mustAppend(t, 0, 10)
	_, files := folderSize(t, dir)
	if err := errors.Join(r.Tick(soFar), os.Remove(files[0])); err != nil {
		t.Fatal(err)
	}
	c.advance(sweepTime)
	for range 2 { // it is told once
		if err := r.Tick(soFar); err != nil {
			t.Fatal(err)
		}
	}
	r.mustAppend(t, 10, 20)
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Fatal(err)
	}
	if len(warned) != 1 || !strings.HasPrefix(warned[0], files[0]+" was deleted") {
		t.Errorf("%q", warned)
	}
	if got, _, s := readAll(t, SourceOptions{}, dir); !slices.Equal(got, upTo(20)[10:]) || s.Err() != nil {
		t.Errorf("%v, %v", got, s.Err())
	}
}

// TestDeletedAtEnd: a file that is gone when the recording ends is told of.
func TestDeletedAtEnd(t *testing.T) {
	for _, folder := range []bool{false, true} {
		dir := t.TempDir()
		path, o := filepath.Join(dir, "file"), Options{File: true}
		if folder {
			path, o = dir, Options{}
		}
		r := began(t, path, o, Teller{})
		r.mustAppend(t, 0, 10)
		_, files := folderSize(t, dir)
		name := path
		if folder {
			name = files[0]
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := r.Finish(&events.Summary{}); err == nil || !strings.Contains(err.Error(), "was deleted while it was written") {
			t.Errorf("folder %v: %v", folder, err)
		}
	}
}

// Files before one that is deleted get what they wait for a slow disk with.
func TestDeletedBehindOthers(t *testing.T) {
	dir := t.TempDir()
	gate := make(chan struct{})
	c := &clock{now: time.Now()}
	r := began(t, dir, Options{MaxAge: 24 * time.Hour, now: c.Now, sync: func(*os.File) error { <-gate; return nil }}, Teller{})
	for i := range 2 {
		r.mustAppend(t, i, i+1)
		c.advance(2 * time.Hour)
		if err := r.Tick(func() events.Summary { return events.Summary{Events: uint64(i + 1)} }); err != nil { // rotates
			t.Fatal(err)
		}
	}
	_, files := folderSize(t, dir)
	if len(files) != 3 {
		t.Fatalf("%q", files)
	}
	if err := os.Remove(files[2]); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	last := r.pieces[len(r.pieces)-1]
	r.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- r.Finish(&events.Summary{Events: 2}) }()
	r.mu.Lock()
	for !last.whole {
		r.changed.Wait()
	}
	r.mu.Unlock()
	close(gate)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "was deleted while it was written") {
		t.Errorf("%v", err)
	}
	if got, warnings, s := readAll(t, SourceOptions{}, files[:2]...); !slices.Equal(got, upTo(2)) || warnings != nil || s.Err() != nil {
		t.Errorf("%v, %q, %v", got, warnings, s.Err())
	}
}

// TestLostInParts: each file's summary counts the losses that its events tell
// of, whenever the kernel side counted them.
func TestLostInParts(t *testing.T) {
	dir := t.TempDir()
	c := &clock{now: time.Now()}
	r := began(t, dir, Options{MaxAge: 24 * time.Hour, now: c.Now}, Teller{})
	total := events.Summary{Lost: 100}
	for i, n := range []uint64{0, 30, 70} {
		e := event(i)
		if err := r.Append([]events.Event{e}); err != nil {
			t.Fatal(err)
		}
		if err := r.Append([]events.Event{{Type: events.Lost, Of: events.Reset, Count: n, Time: e.Time, Boot: e.Boot}}); err != nil {
			t.Fatal(err)
		}
		if total.Events++; i < 2 {
			c.advance(2 * time.Hour)
			if err := r.Tick(func() events.Summary { return total }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Finish(&total); err != nil {
		t.Fatal(err)
	}
	_, files := folderSize(t, dir)
	for i, want := range []uint64{0, 30, 70} {
		if _, _, s := readAll(t, SourceOptions{}, files[i]); s.Counts().Lost != want {
			t.Errorf("file %d lost %d, want %d", i, s.Counts().Lost, want)
		}
	}
}

// A folder that goes away ends the recording; its file has what was taken.
func TestFolderGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "folder")
	c := &clock{now: time.Now()}
	r := began(t, dir, Options{Folder: true, now: c.Now}, Teller{})
	r.mustAppend(t, 0, 10)
	if err := r.Tick(func() events.Summary { return events.Summary{} }); err != nil {
		t.Fatal(err)
	}
	_, files := folderSize(t, dir)
	kept := filepath.Join(dir, "..", "kept")
	if err := errors.Join(os.Link(files[0], kept), os.RemoveAll(dir)); err != nil {
		t.Fatal(err)
	}
	c.advance(sweepTime)
	if err := r.Tick(func() events.Summary { return events.Summary{} }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := r.Close(); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if got, _, s := readAll(t, SourceOptions{}, kept); !slices.Equal(got, upTo(10)) || s.Err() != nil {
		t.Errorf("%v, %v", got, s.Err())
	}
}

// A folder may be named by a link of ours or of root's, as systemd makes one,
// and by no other user's.
func TestLinkedFolder(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "folder"), 0o700), os.Symlink("folder", link)); err != nil {
		t.Fatal(err)
	}
	r := began(t, link, Options{}, Teller{})
	r.mustAppend(t, 0, 1)
	if err := r.Finish(&events.Summary{}); err != nil {
		t.Error(err)
	}
	if got, warnings, _ := readAll(t, SourceOptions{}, link); len(got) != 1 || warnings != nil {
		t.Errorf("%v, %q", got, warnings)
	}
	if err := os.Lchown(link, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, link + "/"} { // lstat(2) follows the latter
		if _, err := Open(path, Options{}); fmt.Sprint(err) != link+" is a symbolic link of another user: give the folder itself" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A name that is meant to be a folder's does not make a file.
func TestNoFolderYet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new") + "/"
	for file, want := range map[bool]string{false: path + " is no folder yet: --max-size or --max-age makes one", true: path + " is the name of a folder: give a file"} {
		if _, err := Open(path, Options{File: file}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
