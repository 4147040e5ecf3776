// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Measure is "make bench": see package bench.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tcptrace/tcptrace/internal/bench"
	"github.com/tcptrace/tcptrace/internal/bench/floor"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == bench.FloorCommand {
		return floor.Run(ctx, os.Stderr)
	}
	var o bench.Options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.Tcptrace, "tcptrace", "./tcptrace", "the `binary` to measure")
	fs.IntVar(&o.Rounds, "rounds", 3, "how often each tool meets each load")
	fs.IntVar(&o.Connections, "connections", 200_000, "refused connections of the storm")
	fs.IntVar(&o.Retransmissions, "retransmissions", 100_000, "of the lossy transfer")
	if err := fs.Parse(args); err != nil {
		return err
	}
	o.Logf = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	return bench.Run(ctx, o)
}
