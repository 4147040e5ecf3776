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
	"strings"
	"syscall"
	"time"

	"github.com/tcptrace/tcptrace/internal/bench"
	"github.com/tcptrace/tcptrace/internal/bench/floor"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted; no document was written")
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
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
	only := fs.String("only", "", "measure these `parts` alone, and write no document: "+strings.Join(bench.Parts, ","))
	goBench := fs.String("gobench", "", "the `file` with what \"go test -bench -benchmem\" printed")
	readme := fs.String("readme", "README.md", "the `file` with the small table")
	docs := fs.String("docs", "docs/performance.md", "the `file` with all tables")
	dry := fs.Bool("n", false, "write no document")
	fs.StringVar(&o.Tcptrace, "tcptrace", "./tcptrace", "the `binary` to measure")
	fs.IntVar(&o.Rounds, "rounds", 5, "how often each tool meets each load")
	fs.IntVar(&o.Connections, "connections", 200_000, "refused connections of a storm")
	fs.IntVar(&o.Retransmissions, "retransmissions", 100_000, "of a lossy transfer, at least")
	fs.IntVar(&o.Crowd, "crowd", 5000, "connections of the lossy crowd that is recorded")
	fs.IntVar(&o.Starts, "starts", 20, "starts, and lone events")
	fs.IntVar(&o.HealthyRounds, "healthy-rounds", 30, "of the healthy load, without, with, with, without")
	fs.DurationVar(&o.Block, "block", 500*time.Millisecond, "each of these takes so long")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	if *goBench != "" {
		text, err := os.ReadFile(*goBench)
		if err != nil {
			return err
		}
		o.GoBench = string(text)
	}
	o.Logf = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	report, err := bench.Run(ctx, o)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s", report.Markdown())
	if *dry || !o.Complete() {
		return nil
	}
	return report.Write(*readme, *docs)
}
