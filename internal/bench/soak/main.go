// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Soak is "make soak": see bench.Soak, and docs/reliability.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tcptrace/tcptrace/internal/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var o bench.SoakOptions
	fs := flag.NewFlagSet("soak", flag.ContinueOnError)
	fs.StringVar(&o.Tcptrace, "tcptrace", "./tcptrace", "the `binary` to soak")
	fs.DurationVar(&o.Duration, "for", time.Hour, "how long")
	size := fs.Int64("max-size", 32, "of the flight recorder's folder, in `MiB`")
	fs.DurationVar(&o.Stop, "stop", 0, "stop the recorder half-way for so long (SIGSTOP): then events may be lost")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	o.MaxSize = *size << 20
	o.Logf = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	report, err := bench.Soak(ctx, o)
	if err != nil {
		return err
	}
	fmt.Print(report.Markdown())
	if report.Failed() {
		return errors.New("something did not hold: see above")
	}
	return nil
}
