// SPDX-License-Identifier: Apache-2.0

// Command tcptrace shows TCP retransmissions, resets and state changes as the
// kernel makes them.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"golang.org/x/sys/unix"

	"github.com/tcptrace/tcptrace/internal/cli"
	"github.com/tcptrace/tcptrace/internal/demo"
	"github.com/tcptrace/tcptrace/internal/doctor"
	"github.com/tcptrace/tcptrace/internal/live"
)

func main() { os.Exit(run()) }

func run() int {
	signal.Ignore(syscall.SIGPIPE) // a write to a closed pipe returns EPIPE

	// It ends as Ctrl-C does, and never prints a stack.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGQUIT)
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	// A later signal kills; one right behind the first is what timeout(1) sends.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })

	return cli.Run(ctx, cli.Env{
		Stdin:      os.Stdin,
		Stdout:     os.Stdout,
		Stderr:     os.Stderr,
		IsTerminal: isTerminal,
		Width:      width,
		Getenv:     os.Getenv,
		Version:    versionOf(),
		Name:       nameOf(os.Args[0]),
		Open: func(ctx context.Context, o live.Options) (live.Source, error) {
			o.DropRights = true
			return live.Open(ctx, o)
		},
		Limits: live.Limits,
		Doctor: doctor.Run,
		Demo:   func(ctx context.Context) (cli.Demo, error) { return demo.New(ctx) },
	}, os.Args[1:])
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// width is that of a terminal, in columns; 0 of anything else.
func width(stream any) int {
	f, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// debianName is what the Debian package calls the program: Debian has another
// one of the name tcptrace.
const debianName = "tcptrace-bpf"

// nameOf is what the program calls itself, by the path that it was started as.
func nameOf(path string) string {
	if filepath.Base(path) == debianName {
		return debianName
	}
	return "tcptrace"
}

// What "make build" sets: the go command would record the state of the
// checkout, and two builds of one source would differ.
var version, commit, date string

// versionOf is what the build set, or what the go command recorded in the
// binary.
func versionOf() cli.Version {
	v := cli.Version{Version: version, Commit: commit, Date: date}
	info, ok := debug.ReadBuildInfo()
	if !ok || v != (cli.Version{}) {
		return v
	}
	if info.Main.Version != "(devel)" {
		v.Version = strings.TrimPrefix(info.Main.Version, "v")
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.time":
			v.Date = s.Value
		}
	}
	return v
}
