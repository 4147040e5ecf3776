// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// mixed has an event of each type, and a loss.
func mixed() []events.Event {
	base := events.Event{
		Time: 1_700_000_000_000_000_000, Boot: 5_000_000_000, Family: 4, State: events.Established,
		LAddr: netip.MustParseAddr("10.0.0.1"), RAddr: netip.MustParseAddr("192.0.2.200"), LPort: 40000, RPort: 443,
		Conn: 7, Cookie: 7, NetNS: 4026531840, NetNSName: "blue", Known: events.HasUID, UID: 12345, User: "web-elsewhere",
	}
	var list []events.Event
	add := func(change func(*events.Event)) {
		e := base
		e.Time += int64(len(list)) * 1_000_000
		e.Boot += uint64(len(list)) * 1_000_000
		change(&e)
		list = append(list, e)
	}
	add(func(e *events.Event) {
		e.Type, e.Kind, e.RTO, e.Known = events.Retransmit, events.KindRTO, 204e6, e.Known|events.HasRTO
	})
	add(func(e *events.Event) { e.Type, e.Kind, e.Direction = events.Reset, events.KindPeer, events.Received })
	add(func(e *events.Event) {
		e.Type, e.OldState, e.NewState = events.StateChange, events.SynSent, events.Established
	})
	list = append(list, events.Event{Time: base.Time + 2_500_000, Boot: base.Boot + 2_500_000, Type: events.Lost, Of: events.Reset, Count: 3})
	add(func(e *events.Event) {
		e.Type, e.OldState, e.NewState, e.State, e.Error = events.StateChange, events.SynSent, events.Close, events.Close, 110
		e.User, e.UID = "other", 0
	})
	add(func(e *events.Event) {
		e.Type, e.OldState, e.NewState, e.State = events.StateChange, events.LastAck, events.Close, events.Close
	})
	return list
}

func mixedSource() *source {
	return &source{events: mixed(), lost: 3, skipped: 2, audit: []events.Audit{
		{NetNS: 4026531840, Counter: "OutRsts", Kernel: 3, Traced: 2, Verdict: events.Missing},
		{NetNS: 1, Counter: "RetransSegs", Traced: 2, Verdict: events.Unchecked, Note: "gone"},
	}}
}

// A replay prints what the live command printed, whatever it was.
func TestReplayIsLive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	again := filepath.Join(t.TempDir(), "b.tcptrace")
	for _, flags := range [][]string{
		nil, {"-c", "2"}, {"-c", "3"}, {"--rport", "443"}, {"--event", "reset"}, {"--where", "has(error)"}, {"--columns", "time,kind,lport"}, {"--utc"},
	} {
		for _, output := range []string{"table", "wide", "json", "csv"} {
			args := append([]string{"-o", output}, flags...)
			live := run{src: mixedSource()}
			if code := live.run(append([]string{"events", "-f", "-w", file}, args...)...); code != 0 {
				t.Fatalf("%v: exit code %d: %s", args, code, &live.err)
			}
			if output == "json" && !strings.Contains(live.out.String(), `"audit":[`) {
				t.Fatalf("no audit: %s", &live.out)
			}
			for _, command := range [][]string{{"replay", file, "-f", "-w", again}, {"replay", again}, {"events", "-r", file}, {"events", "--read", again}} {
				var r run
				code := r.run(append(command, args...)...)
				if code != 0 || r.out.String() != live.out.String() {
					t.Errorf("%v %v: exit code %d: %s\n got %s\nwant %s", command, args, code, &r.err, &r.out, &live.out)
				}
				if r.opened.Types != nil {
					t.Errorf("%v traced", command)
				}
			}
			// The same flags are only needed for the looks.
			var r run
			if code := r.run("replay", file, "-o", output); code != 0 || len(flags) > 0 && flags[0] == "--rport" && r.out.String() != live.out.String() {
				t.Errorf("%v: exit code %d\n got %s\nwant %s", args, code, &r.out, &live.out)
			}
		}
	}
}

// A command that shows one type has the same columns on replay.
func TestReplayColumns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	live := run{src: &source{events: sample()}}
	live.run("retrans", "-w", file)
	for _, command := range [][]string{{"replay", file}, {"retrans", "-r", file}, {"replay", file, "--event", "retransmit"}} {
		var r run
		if code := r.run(command...); code != 0 || r.out.String() != live.out.String() {
			t.Errorf("%v: exit code %d\n got %s\nwant %s", command, code, &r.out, &live.out)
		}
	}
}

// A filter of the replay adds to what was filtered.
func TestReplayFilters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	live := run{src: mixedSource()}
	live.run("events", "-w", file, "-o", "json", "--where", "!has(error)")
	for args, want := range map[string]string{
		"":                                 `"events":4,"filtered":1,`,
		"--event state":                    `"events":2,"filtered":3,`,
		"--uid web-elsewhere":              `"events":4,"filtered":1,`,
		"--uid 12345":                      `"events":4,"filtered":1,`,
		"--uid root":                       `"events":0,"filtered":5,`,
		"--netns blue":                     `"events":4,"filtered":1,`,
		"--netns /run/netns/blue":          `"events":4,"filtered":1,`,
		"--netns green":                    `"events":0,"filtered":5,`,
		"--netns 4026531840 --event reset": `"events":1,"filtered":4,`,
		"-c 1":                             `"events":1,"filtered":4,`,
	} {
		var r run
		code := r.run(append([]string{"replay", file, "-o", "json"}, strings.Fields(args)...)...)
		lines := strings.Split(strings.TrimSpace(r.out.String()), "\n")
		if last := lines[len(lines)-1]; code != 0 || !strings.Contains(last, want+`"merged":0,"lost":3,`) {
			t.Errorf("%s: exit code %d, %s\n%s", args, code, last, &r.err)
		}
	}
}

func TestReplaySpan(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.tcptrace")
	live := run{src: mixedSource()}
	live.run("events", "-w", file)
	for args, want := range map[string]int{
		"--since 2023-11-14T22:13:20.001Z":                                  5,
		"--since 2023-11-14T22:13:20.002Z":                                  4,
		"--until 2023-11-14T22:13:20.001Z":                                  2,
		"--since 2023-11-14T22:13:20.001Z --until 2023-11-14T22:13:20.002Z": 2,
		"--since 10m": 0,
	} {
		var r run
		if code := r.run(append([]string{"replay", file, "-o", "csv", "--no-header"}, strings.Fields(args)...)...); code != 0 || strings.Count(r.out.String(), "\n") != want {
			t.Errorf("%s: exit code %d, want %d lines:\n%s", args, code, want, &r.out)
		}
		if strings.Contains(r.err.String(), "audit") {
			t.Errorf("an audit of a part: %s", &r.err)
		}
	}
}

// By default the flight recorder keeps what is trouble, and counts the rest.
func TestRecordDefault(t *testing.T) {
	for args, want := range map[string]string{
		"":                               "4 events (state 2, rto 1, peer 1) in",
		"--event state":                  "4 events (state 4) in",
		"--event retransmit,reset,state": "6 events (state 4, rto 1, peer 1) in",
		"--event reset":                  "1 event (peer 1) in",
	} {
		file := filepath.Join(t.TempDir(), "a.tcptrace")
		r := run{src: mixedSource()}
		closed := r.src.events[len(r.src.events)-1] // while it waited for an answer
		closed.OldState, closed.NewState, closed.Unacked = events.Established, events.FinWait1, 60e6
		closed.Known |= events.HasUnacked
		r.src.events = append(r.src.events, closed)
		if code := r.run(append([]string{"record", file}, strings.Fields(args)...)...); code != 0 || r.out.Len() > 0 || !strings.Contains(r.err.String(), "tcptrace: "+want) {
			t.Errorf("%s: exit code %d, stdout %q\n%s", args, code, &r.out, &r.err)
		}
		if args == "" && !strings.Contains(r.err.String(), "; 2 filtered, 0 merged, 3 lost\n") {
			t.Errorf("%s", &r.err)
		}
		var back run
		if code := back.run("replay", file); code != 0 || !strings.Contains(back.err.String(), "tcptrace: "+want) {
			t.Errorf("%s: exit code %d\n%s", args, code, &back.err)
		}
	}
}

// A program that records for another is asked for the losses and the summary;
// the looks of events that are not printed are taken as anywhere.
func TestRecordOutput(t *testing.T) {
	looks := []string{"--utc", "--color", "always"}
	for _, tt := range []struct {
		args []string
		want string // a line for each word, which is in it
	}{
		{nil, ""},
		{[]string{"-o", "wide", "--no-header", "--columns", "time,local"}, ""},
		{[]string{"-o", "json"}, `"event":"lost" "OutRsts"`},
		{[]string{"-o", "json", "--columns", "time"}, `"event":"lost" "OutRsts"`},
		{[]string{"-o", "csv"}, "time,event, ,lost,"},
		{[]string{"-o", "csv", "--no-header"}, ",lost,"},
	} {
		for _, folder := range []bool{false, true} {
			name := filepath.Join(t.TempDir(), "a.tcptrace")
			args := append(append([]string{"record", name}, looks...), tt.args...)
			if folder {
				args = append(args, "--max-size", "1MiB")
			}
			r := run{src: mixedSource()}
			code := r.run(args...)
			words, lines := strings.Fields(tt.want), strings.Split(strings.TrimSuffix(r.out.String(), "\n"), "\n")
			if tt.want == "" {
				lines = lines[1:]
			}
			if code != 0 || len(words) != len(lines) || tt.want == "" && r.out.Len() > 0 {
				t.Fatalf("%v: exit code %d, stdout\n%s\n%s", args, code, &r.out, &r.err)
			}
			for i, w := range words {
				if !strings.Contains(lines[i], w) {
					t.Errorf("%v: no %s in %s", args, w, lines[i])
				}
			}
			if inText := strings.Contains(r.err.String(), "3 events (state 1, "); inText == strings.Contains(tt.want, "OutRsts") {
				t.Errorf("%v: %s", args, &r.err)
			}
			var back run
			if code := back.run("replay", name, "-o", "csv", "--no-header", "--buffer", "1MiB"); code != 0 || strings.Count(back.out.String(), "\n") != 4 {
				t.Errorf("%v: exit code %d: %s\n%s", args, code, &back.err, &back.out)
			}
		}
	}
}

// What became of other events is not known of a recording without an end, nor
// of a part of one.
func TestPartial(t *testing.T) {
	dir := t.TempDir()
	whole, cut := filepath.Join(dir, "whole"), filepath.Join(dir, "cut")
	r := run{src: mixedSource()}
	r.run("record", whole)
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndex(b, []byte("tcpE")) - 8
	if err := os.WriteFile(cut, b[:end], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, text string }{
		{whole, "; 2 filtered, 0 merged, 3 lost\n"},
		{whole + " --kind rto", "; 4 filtered, 0 merged, 3 lost\n"},
		{cut, " s; 3 lost\n"},
		{cut + " --kind rto", "; at least 2 filtered, 3 lost\n"},
		{whole + " " + cut, "; at least 2 filtered, 6 lost\n"},
		{whole + " --since 2023-11-14T22:13:20Z", " s; 3 lost\n"},
	} {
		for _, output := range []string{"table", "json"} {
			var r run
			code := r.run(append([]string{"replay", "-o", output}, strings.Fields(tt.args)...)...)
			if code != 0 || output == "table" && !strings.Contains(r.err.String(), tt.text) {
				t.Errorf("%s: exit code %d: %s", tt.args, code, &r.err)
			}
			known := strings.Contains(tt.text, "merged")
			if output == "json" && (strings.Contains(r.out.String(), `"filtered":`) != known || strings.Contains(r.out.String(), `"merged":`) != known) {
				t.Errorf("%s: %s", tt.args, &r.out)
			}
		}
	}
	// A copy knows no more.
	copied := filepath.Join(dir, "copy")
	r, back := run{}, run{}
	r.run("replay", cut, "-w", copied, "--kind", "rto")
	if code := back.run("replay", copied); code != 0 || !strings.Contains(back.err.String(), "; at least 2 filtered, 3 lost\n") || strings.Contains(back.err.String(), "not finished") {
		t.Errorf("exit code %d: %s", code, &back.err)
	}
}

// newerHeader is that of a recording of the next format.
func newerHeader() []byte {
	b := []byte("\x5c\x2a\x4d\x18\x0e\x00\x00\x00tcpH\x02\x00\x00\x00....{}")
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.LittleEndian.PutUint32(b[16:], crc32.Update(crc32.Checksum(b[:16], table), table, b[20:]))
	return b
}

// Whatever ends a replay: what was lost until then is counted, and what is not
// known is not made up, in a copy neither.
func TestReplayEndsEarly(t *testing.T) {
	dir := t.TempDir()
	whole, bad, copied, folder := filepath.Join(dir, "whole"), filepath.Join(dir, "bad"), filepath.Join(dir, "copy"), filepath.Join(dir, "folder")
	src := mixedSource()
	src.events = append(src.events, slices.Repeat(src.events[:1], 2000)...)
	r := run{src: src}
	r.run("record", whole)
	b, err := os.ReadFile(whole)
	last := mixedSource()
	for i := range last.events {
		last.events[i].RPort = 444
	}
	r = run{src: last}
	err = errors.Join(err, os.Mkdir(folder, 0o700))
	r.run("record", filepath.Join(folder, "2026-01-31T12-00-02.000Z.tcptrace"))
	for name, content := range map[string][]byte{
		bad: append(bytes.Clone(b), newerHeader()...),
		filepath.Join(folder, "2026-01-31T12-00-00.000Z.tcptrace"): append(bytes.Clone(b), newerHeader()...),
		filepath.Join(folder, "2026-01-31T12-00-01.000Z.tcptrace"): newerHeader(),
	} {
		err = errors.Join(err, os.WriteFile(name, content, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	newer := "a recording of format 2, written by a newer tcptrace"
	for name, tt := range map[string]struct {
		args  string
		room  int // of stdout
		lost  int
		texts []string // on stderr, of the replay itself
	}{
		"output":           {whole, 100_000, 3, []string{"write output: no room"}},
		"input":            {bad, 1 << 30, 3, []string{"tcptrace: " + bad + ": " + newer, " s; 3 lost\n"}},
		"input, followed":  {bad + " --follow", 1 << 30, 3, []string{"tcptrace: " + bad + ": " + newer, " s; 3 lost\n"}},
		"folder":           {folder, 1 << 30, 6, []string{"00.000Z.tcptrace: " + newer, "01.000Z.tcptrace: " + newer, " s; at least 2 filtered, 6 lost; not all of the recording could be read\n", "audit of what was finished: "}},
		"folder, followed": {folder + " --follow", 1 << 30, 6, []string{"00.000Z.tcptrace: " + newer, "01.000Z.tcptrace: " + newer, ", 6 lost; not all"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := run{stdout: &full{room: tt.room}, ctx: ctx}
			if name == "folder, followed" { // which has no end
				r.stdout = &waiting{until: ":444 ", then: cancel}
			}
			code := r.run(append(strings.Fields("replay -f -w "+copied), strings.Fields(tt.args)...)...)
			for _, text := range tt.texts {
				if !strings.Contains(r.err.String(), text) {
					t.Errorf("no %q", text)
				}
			}
			if code != 1 || t.Failed() {
				t.Errorf("exit code %d: %s", code, &r.err)
			}
			var back run
			code = back.run("replay", copied, "-o", "json", "--strict")
			lines := strings.Split(strings.TrimSpace(back.out.String()), "\n")
			sum := lines[len(lines)-1]
			if code != 3 || !strings.Contains(sum, fmt.Sprintf(`,"lost":%d,`, tt.lost)) || strings.Contains(sum, "filtered") {
				t.Errorf("of the copy: exit code %d, %s", code, sum)
			}
		})
	}
}

// Who waits for the first bytes of a recording can be told to stop.
func TestReplayNothing(t *testing.T) {
	in, out := io.Pipe() // which nobody writes to
	defer out.Close()
	ctx, cancel := context.WithCancel(t.Context())
	r := run{ctx: ctx, stdin: readerFunc(func(b []byte) (int, error) {
		cancel()
		return in.Read(b)
	})}
	if code := r.run("replay", "-"); code != 0 || r.err.Len() > 0 {
		t.Errorf("exit code %d: %s", code, &r.err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// full is an output that has no more room.
type full struct {
	room int
	err  error // if not that
}

func (f *full) Write(b []byte) (int, error) {
	if f.room -= len(b); f.room < 0 {
		return 0, cmp.Or(f.err, errors.New("no room"))
	}
	return len(b), nil
}

// A recorder goes on when nobody reads what it prints any more.
func TestRecordUnheard(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
	}{{syscall.EPIPE, 0}, {syscall.ENOSPC, 1}} {
		file := filepath.Join(t.TempDir(), "a")
		src := mixedSource() // whose loss is told before the rest comes
		src.events = append(src.events, slices.Repeat(src.events[:1], 2000)...)
		r := run{src: src, stdout: &full{err: tt.err}}
		code := r.run("record", file, "-o", "json", "--event", "retransmit,reset,state")
		if code != tt.code || !strings.Contains(r.err.String(), "tcptrace: 2005 events (") || !strings.Contains(r.err.String(), "tcptrace: audit: ") {
			t.Errorf("%v: exit code %d: %s", tt.err, code, &r.err)
		}
		var back run
		if code := back.run("replay", file, "-o", "json"); code != 0 || !strings.Contains(back.out.String(), `{"event":"summary","events":2005,"filtered":0,"merged":0,"lost":3,`) {
			t.Errorf("%v: exit code %d: %s", tt.err, code, &back.out)
		}
	}
}

// What a header says is bounded; a namespace that is not known is left out.
func TestReplayHostile(t *testing.T) {
	var b bytes.Buffer
	long := strings.Repeat("x", 1<<20)
	w, err := recording.NewWriter(&b, recording.Info{Start: 1, Tool: long, Host: long, Kernel: long, Filters: long})
	if err == nil {
		err = w.Finish(&events.Summary{Counters: []events.Counter{{Counter: "ListenDrops", Rise: 2}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	r := run{stdin: &b}
	if code := r.run("replay", "-", "-o", "json"); code != 0 || r.err.Len() > 8<<10 || !strings.Contains(r.out.String(), `"counters":[{"counter":"ListenDrops","rise":2}]`) {
		t.Errorf("exit code %d, %d bytes on stderr: %s", code, r.err.Len(), &r.out)
	}
}

func TestRecordPipe(t *testing.T) {
	r := run{src: mixedSource()}
	if code := r.run("record", "-"); code != 0 || r.out.Len() == 0 {
		t.Fatalf("exit code %d: %s", code, &r.err)
	}
	back := run{stdin: &r.out}
	if code := back.run("replay", "-", "-o", "csv", "--no-header"); code != 0 || strings.Count(back.out.String(), "\n") != 4 {
		t.Errorf("exit code %d: %s\n%s", code, &back.err, &back.out)
	}
}

func TestTerminals(t *testing.T) {
	r := run{terminal: true}
	if code := r.run("record", "-"); code != 1 || r.err.String() != "tcptrace: standard output is a terminal, which can't show a recording: give a FILE, or pipe it somewhere\n" {
		t.Errorf("exit code %d: %s", code, &r.err)
	}
	r = run{terminal: true}
	if code := r.run("replay", "-"); code != 1 || r.err.String() != "tcptrace: standard input is a terminal: give a FILE, or pipe a recording in\n" {
		t.Errorf("exit code %d: %s", code, &r.err)
	}
}

// What is wrong with a file is said in one line.
func TestWrongFile(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("not a recording, but long enough to be one of some sort"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"replay", filepath.Join(dir, "none")}, "no such file or directory\n"},
		{[]string{"replay", text}, "not a recording"},
		{[]string{"replay", dir}, "holds no recordings"},
		{[]string{"record", text}, text + " exists: give another name, or --force to replace it\n"},
		{[]string{"retrans", "-w", text}, text + " exists: give another name, or --force to replace it\n"},
		{[]string{"retrans", "-w", dir}, dir + " is a folder: give a file\n"},
		{[]string{"record", text, "--max-size", "1G"}, text + " is not a folder, which --max-size and --max-age are for\n"},
		{[]string{"replay", filepath.Join(dir, "a\x1b[31m\nb")}, `a\x1b[31m\nb: no such file or directory` + "\n"},
		{[]string{"record", "/dev/null"}, "/dev/null is not a regular file: give another name, or - for standard output\n"},
	} {
		var r run
		if code := r.run(tt.args...); code != 1 || !strings.Contains(r.err.String(), tt.want) || strings.Count(r.err.String(), "\n") != 1 {
			t.Errorf("%v: exit code %d: %s", tt.args, code, &r.err)
		}
	}
	// Nothing is left of what was not begun.
	file := filepath.Join(dir, "file")
	r := run{openErr: fmt.Errorf("no rights")}
	r.run("record", file)
	if _, err := os.Lstat(file); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
	// A recording is not written over itself.
	r = run{src: mixedSource()}
	r.run("record", file)
	r = run{}
	if code := r.run("replay", file, "-f", "-w", file); code != 2 || !strings.Contains(r.err.String(), "is read: give -w another name") {
		t.Errorf("exit code %d: %s", code, &r.err)
	}
	// Nor is one of a folder.
	r = run{src: mixedSource()}
	r.run("record", dir)
	files, err := filepath.Glob(filepath.Join(dir, "*Z.tcptrace"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	r = run{}
	if code := r.run("replay", dir, "-f", "-w", files[0]); code != 2 || !strings.Contains(r.err.String(), "is read: give -w another name") {
		t.Errorf("exit code %d: %s", code, &r.err)
	}
	r = run{}
	if code := r.run("replay", dir, "-w", filepath.Join(dir, "copy.tcptrace")); code != 0 {
		t.Errorf("exit code %d: %s", code, &r.err)
	}
}

// Of a damaged recording all that can be read is shown, and the exit code tells.
func TestDamaged(t *testing.T) {
	var r run
	r.src = mixedSource()
	r.run("record", "-", "--event", "retransmit,reset,state")
	whole := bytes.Clone(r.out.Bytes())
	file := filepath.Join(t.TempDir(), "a\x1b[31m")
	for name, tt := range map[string]struct {
		content []byte
		code    int
		events  int
	}{
		"cut":    {whole[:len(whole)/2], 1, 0},
		"zeros":  {append(bytes.Clone(whole), make([]byte, 4096)...), 1, 5},
		"joined": {append(bytes.Clone(whole), whole...), 0, 10},
	} {
		if err := os.WriteFile(file, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		var r run
		code := r.run("replay", file, "-o", "csv", "--no-header", "--where", `event != "lost"`)
		if got := strings.Count(r.out.String(), "\n") - strings.Count(r.out.String(), ",lost,"); code != tt.code || got != tt.events {
			t.Errorf("%s: exit code %d, %d events\n%s", name, code, got, &r.err)
		}
		if tt.code == 1 && !strings.Contains(r.err.String(), "at byte ") || strings.Contains(r.err.String(), "\x1b") {
			t.Errorf("%s: %q", name, &r.err)
		}
	}
}

// A source that breaks leaves a recording that is whole.
func TestRecordBroken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a")
	r := run{src: mixedSource()}
	r.src.err = fmt.Errorf("ring buffer is broken")
	if code := r.run("events", "-w", file, "-q"); code != 1 {
		t.Errorf("exit code %d", code)
	}
	var back run
	if code := back.run("replay", file); code != 0 || !strings.Contains(back.err.String(), "tcptrace: 5 events") {
		t.Errorf("exit code %d: %s", code, &back.err)
	}
	// So does a reader of the output that goes away.
	r = run{src: mixedSource(), stdout: brokenPipe(t)}
	if code := r.run("events", "-f", "-w", file, "-q"); code != 0 {
		t.Errorf("exit code %d: %s", code, &r.err)
	}
	back = run{}
	if code := back.run("replay", file); code != 0 {
		t.Errorf("exit code %d: %s", code, &back.err)
	}
}

func TestFollow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a")
	r := run{src: mixedSource()}
	r.run("record", file, "--event", "state")
	ctx, cancel := context.WithCancel(t.Context())
	out := &waiting{until: "ETIMEDOUT", then: cancel}
	back := run{ctx: ctx, stdout: out}
	if code := back.run("replay", "--follow", file, "-o", "csv"); code != 0 || !strings.Contains(out.String(), "ETIMEDOUT") {
		t.Errorf("exit code %d: %s", code, &back.err)
	}
}

// waiting calls then when a text was written.
type waiting struct {
	bytes.Buffer
	until string
	then  func()
}

func (w *waiting) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if strings.Contains(w.String(), w.until) {
		w.then()
	}
	return n, err
}

// The bar comes after a second without output, and goes before the next.
func TestBar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w bytes.Buffer
		b := &bar{w: &w, printed: time.Now()}
		text := func() string { return "42%" }
		for range 9 {
			time.Sleep(100 * time.Millisecond)
			b.show(text)
		}
		if w.Len() > 0 {
			t.Errorf("too early: %q", &w)
		}
		time.Sleep(100 * time.Millisecond)
		b.show(text)
		b.show(text)
		b.clear()
		b.clear()
		b.show(text)
		if got, want := w.String(), "\r\x1b[K42%\r\x1b[K"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func TestMoment(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, zone)
	for text, want := range map[string]string{
		"10m":                       "2026-01-31T11:50:00+01:00",
		"0s":                        "2026-01-31T12:00:00+01:00",
		"2d":                        "2026-01-29T12:00:00+01:00",
		"12:00":                     "2026-01-31T12:00:00+01:00",
		"09:00:05":                  "2026-01-31T09:00:05+01:00",
		"14:00":                     "2026-01-30T14:00:00+01:00", // the last one
		"14:00:05":                  "2026-01-30T14:00:05+01:00",
		"2026-01-30":                "2026-01-30T00:00:00+01:00",
		"2026-01-30 14:00":          "2026-01-30T14:00:00+01:00",
		"2026-01-30T14:00:05":       "2026-01-30T14:00:05+01:00",
		"2026-01-30T14:00:05Z":      "2026-01-30T14:00:05Z",
		"2026-01-30T14:00:05+05:00": "2026-01-30T14:00:05+05:00",
	} {
		v := momentValue(text)
		if got, err := v.at(now, time.Time{}); err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v, want %s", text, got, err, want)
		}
	}
	// The end is behind the beginning.
	for since, want := range map[string]string{
		"13:00": "2026-01-30T14:00:00+01:00", "11:00": "2026-01-31T14:00:00+01:00", "23:00": "2026-01-31T14:00:00+01:00",
		"5m": "2026-01-31T14:00:00+01:00", "2026-01-29": "2026-01-30T14:00:00+01:00",
	} {
		from, until := momentValue(since), momentValue("14:00")
		begin, err := from.at(now, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := until.at(now, begin); err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("--since %s: %v, %v, want %s", since, got, err, want)
		}
	}
	for _, text := range []string{"", "-10m", "25:00", "yesterday", "2026-13-01", "10"} {
		if err := new(momentValue).Set(text); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}
