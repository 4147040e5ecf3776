// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Testkernels runs tests on the kernels of the matrix: see internal/vm, and "make test-kernels".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tcptrace/tcptrace/internal/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "testkernels:", err)
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	base = filepath.Join(base, "tcptrace")
	var o vm.Options
	o.Cache = &vm.Cache{Logf: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }}
	fs := flag.NewFlagSet("testkernels", flag.ContinueOnError)
	kernels := fs.String("kernels", "", "the kernels, as in \"5.10 arm64\"; all if empty")
	packages := fs.String("packages", "./internal/live ./internal/doctor", "the packages whose tests are run")
	fs.StringVar(&o.Run, "run", "", "run only the tests that match, as \"go test -run\" does")
	fs.StringVar(&o.Skip, "skip", "", "leave out the tests that match, as \"go test -skip\" does")
	few := fs.String("brief", "", "of these `kernels`, run only what shows how they differ from others")
	fs.BoolVar(&o.Again, "again", false, "run tests that failed once more, and note those that pass then")
	strict := fs.Bool("strict", false, "fail if a kernel could not be fetched")
	summary := fs.String("summary", "", "also write the last lines to this `file`")
	shows := fs.String("shows", "internal/vm/shows.json", "the `file` of what the kernels show")
	write := fs.Bool("write", false, "write what was shown to that file, and the table made of it to -readme")
	table := fs.Bool("table", false, "run nothing: write the table of that file to -readme")
	readme := fs.String("readme", "README.md", "the `file` with the table")
	fs.IntVar(&o.Machines, "machines", 3, "how many VMs run at a time")
	fs.IntVar(&o.CPUs, "smp", 1, "processors of each VM")
	fs.IntVar(&o.MemoryMB, "memory", 1024, "memory of each VM, in `MiB`")
	fs.IntVar(&o.Parallel, "parallel", 6, "tests at a time in each VM")
	fs.DurationVar(&o.Timeout, "timeout", 15*time.Minute, "bound for each VM")
	fs.StringVar(&o.Dir, "out", filepath.Join(base, "vm"), "where consoles and outputs are kept")
	fs.StringVar(&o.Cache.Dir, "cache", filepath.Join(base, "kernels"), "where kernels are kept")
	fs.DurationVar(&o.Cache.MaxAge, "max-age", 24*time.Hour, "look for newer kernels if they are older than this")
	if err := fs.Parse(args); err != nil {
		return 2, err
	}
	shown, err := vm.ReadShown(*shows)
	if err != nil {
		return 1, err
	}
	if *table {
		if err := vm.TableSection.Write(*readme, shown.Table()); err != nil {
			return 1, err
		}
		return 0, nil
	}
	chosen, err := vm.Select(strings.Fields(*kernels))
	if err != nil {
		return 2, err
	}
	o.Packages, o.Brief = strings.Fields(*packages), strings.Fields(*few)
	results, err := vm.NewRunner(o).Run(ctx, chosen, func(r *vm.Result) {
		for _, f := range r.Failures {
			fmt.Printf("\n--- %s: %s\n%s\n", r.Kernel.Name, f.Title, brief(f.Output))
		}
		fmt.Println(r)
	})
	if err != nil {
		return 1, err
	}
	var last strings.Builder
	code := 0
	if o.Skip != "" {
		fmt.Fprintln(&last, "note: left out on all kernels:", o.Skip)
	}
	for _, r := range results {
		for _, n := range r.Notes {
			fmt.Fprintln(&last, "note:", n)
		}
	}
	for _, d := range shown.Differences(results) {
		fmt.Fprintln(&last, "note: README's table is out of date (make kernels-table):", d)
	}
	var missing []string
	for _, r := range results {
		fmt.Fprintln(&last, "kernel", r)
		if r.NotTested != nil {
			missing = append(missing, r.Kernel.Name)
		}
		if r.NotTested != nil && !*strict {
			continue
		}
		if !r.OK() {
			code = 1
		}
	}
	if len(missing) > 0 {
		fmt.Fprintln(&last, "kernels NOT TESTED:", strings.Join(missing, ", "))
	}
	fmt.Printf("\n%s", last.String())
	if *summary != "" {
		if err := os.WriteFile(*summary, []byte(last.String()), 0o644); err != nil {
			return 1, err
		}
	}
	if *write {
		shown.Update(results)
		if err := errors.Join(shown.Write(*shows), vm.TableSection.Write(*readme, shown.Table())); err != nil {
			return 1, err
		}
	}
	return code, nil
}

// brief is as much of a failure as a reader of all results wants: -out has it in full.
func brief(output string) string {
	const lines, columns = 25, 300
	var b strings.Builder
	all := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
	for i, line := range all {
		if i == lines {
			fmt.Fprintf(&b, "... and %d lines", len(all)-lines)
			break
		}
		if len(line) > columns {
			line = line[:columns] + "..."
		}
		fmt.Fprintln(&b, line)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
