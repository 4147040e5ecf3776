// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tcptrace/tcptrace/internal/live"
	"github.com/tcptrace/tcptrace/internal/pipeline"
	"github.com/tcptrace/tcptrace/internal/record"
	"github.com/tcptrace/tcptrace/pkg/events"
	"github.com/tcptrace/tcptrace/pkg/recording"
)

// failures keeps of the state changes those that ended a connection without
// success.
func failures(keep func(*events.Event) bool) func(*events.Event) bool {
	return func(e *events.Event) bool {
		return (e.Type != events.StateChange || e.Failed()) && keep(e)
	}
}

func (a *app) openRecorder(f *streamFlags) (*record.Recorder, error) {
	if f.write == "-" && a.env.IsTerminal(a.env.Stdout) {
		return nil, errors.New("standard output is a terminal, which can't show a recording: give a FILE, or pipe it somewhere")
	}
	// A file, or one that is among those of a folder.
	for _, name := range []string{f.write, record.FolderOf(f.write)} {
		there, err := os.Stat(name)
		if name == "" || err != nil {
			continue
		}
		for _, path := range f.read {
			if fi, err := os.Stat(path); err == nil && os.SameFile(fi, there) {
				return nil, usagef("%s is read: give -w another name", printable(f.write))
			}
		}
	}
	return record.Open(f.write, record.Options{
		Stdout: a.out, Force: f.force, Flush: f.flush, File: !f.silent,
		Folder: f.maxSize > 0 || f.maxAge > 0, MaxSize: f.maxSize, MaxAge: f.maxAge,
		Warn: func(text string) { a.say("warning: %s", printable(text)) },
	})
}

// openRecordings reads the headers, for which a pipe may have it wait until ctx
// is done: the source is nil then.
func (a *app) openRecordings(ctx context.Context, f *streamFlags) (*record.Source, error) {
	now := time.Now()
	if f.utc {
		now = now.UTC()
	}
	since, err := f.since.at(now, time.Time{})
	if err != nil {
		return nil, usagef("--since: %w", err)
	}
	until, err := f.until.at(now, since)
	if err != nil {
		return nil, usagef("--until: %w", err)
	}
	if !until.IsZero() && until.Before(since) {
		return nil, usagef("--until %s is before --since %s", quoted(string(f.until)), quoted(string(f.since)))
	}
	if since.After(now) {
		a.say("warning: --since %s is in the future", quoted(string(f.since)))
	}
	if i := slices.Index(f.read, "-"); i >= 0 && slices.Contains(f.read[i+1:], "-") {
		return nil, usagef("standard input (-) is named twice")
	}
	for _, path := range f.read {
		if path == "-" && a.env.IsTerminal(a.env.Stdin) {
			return nil, errors.New("standard input is a terminal: give a FILE, or pipe a recording in")
		}
	}
	type opened struct {
		src *record.Source
		err error
	}
	done := make(chan opened, 1)
	go func() {
		src, err := record.OpenSource(f.read, record.SourceOptions{
			Stdin: a.env.Stdin, Since: since, Until: until, Follow: f.follow,
			Warn: func(text string) { a.say("warning: %s", printable(text)) },
		})
		done <- opened{src, err}
	}()
	select {
	case o := <-done:
		return o.src, o.err
	case <-ctx.Done():
		return nil, nil
	}
}

// describe is what a recording of this kernel's events says of itself.
func (a *app) describe(cmd *cobra.Command, f *streamFlags, src live.Source) recording.Info {
	info := record.Here()
	info.Tool = a.env.Version.Version
	info.Start = time.Now().UnixNano()
	info.Types = f.filter.Types
	info.Filters = filterFlags(cmd)
	info.Reasons = src.Reasons()
	return info
}

// copied is the same for what comes from other recordings.
func (a *app) copied(cmd *cobra.Command, f *streamFlags, src *record.Source) recording.Info {
	info := src.Info()
	info.Tool = a.env.Version.Version
	if !f.asRecorded {
		info.Types = f.filter.Types
	}
	if flags := filterFlags(cmd); flags != info.Filters {
		info.Filters = strings.TrimSpace(info.Filters + " " + flags)
	}
	return info
}

// named names what is read.
func (f *streamFlags) named() string {
	what := printable(f.read[0])
	if what == "-" {
		what = "standard input"
	}
	if n := len(f.read) - 1; n > 0 {
		what += fmt.Sprintf(" and %d more", n)
	}
	return what
}

// replayBanner says what is read.
func (f *streamFlags) replayBanner(cmd *cobra.Command, info recording.Info) string {
	text := "reading " + f.named()
	if info.Start > 0 {
		begun := time.Unix(0, info.Start)
		if f.utc {
			begun = begun.UTC()
		}
		text += ": begun " + begun.Format("2006-01-02 15:04:05 MST")
		if info.Host != "" {
			text += " on " + printable(info.Host)
		}
		if info.Kernel != "" {
			text += " (Linux " + printable(info.Kernel) + ")"
		}
	}
	if info.Filters != "" {
		text += " with " + printable(info.Filters)
	}
	if f.write != "" {
		text += ", recorded in " + printable(f.write)
	}
	return text
}

// watch has a bar on a terminal show how far a long replay is.
func (a *app) watch(src *record.Source, f *streamFlags) pipeline.Source {
	if f.quiet || f.follow || !a.env.IsTerminal(a.env.Stderr) {
		return src
	}
	a.out.bar = &bar{w: a.env.Stderr, printed: time.Now()}
	return &watched{src, a.out.bar}
}

type watched struct {
	*record.Source
	bar *bar
}

func (w *watched) Read(ctx context.Context, batch []events.Event) ([]events.Event, error) {
	batch, err := w.Source.Read(ctx, batch)
	w.bar.show(func() string {
		n := w.Source.Events()
		if read, of := w.Source.Offset(); of > 0 {
			const cells = 30
			done := int(min(read, of) * cells / of)
			return fmt.Sprintf("[%s%s] %d%%, %d events read", strings.Repeat("#", done), strings.Repeat(".", cells-done), min(read, of)*100/of, n)
		}
		return fmt.Sprintf("%d events read", n)
	})
	return batch, err
}

// bar is a line on a terminal that goes before anything else is printed. A nil
// one shows nothing.
type bar struct {
	mu      sync.Mutex
	w       io.Writer
	printed time.Time // what is to stay
	drawn   time.Time
	shown   bool
}

// show draws it, if nothing was printed for a second.
func (b *bar) show(text func() string) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.printed) < time.Second || now.Sub(b.drawn) < 100*time.Millisecond {
		return
	}
	b.drawn, b.shown = now, true
	io.WriteString(b.w, "\r\x1b[K"+text())
}

// clear takes it away, for something to be printed.
func (b *bar) clear() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.printed = time.Now()
	if b.shown {
		b.shown = false
		io.WriteString(b.w, "\r\x1b[K")
	}
}
