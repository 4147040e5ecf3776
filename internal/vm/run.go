// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tcptrace/tcptrace/internal/vm/wire"
)

// Options say what is run, and how.
type Options struct {
	// Packages are the packages whose tests are run, as paths below the current module: ./internal/live.
	Packages []string
	// Run selects tests by -test.run; empty: those that the kernel is meant to run.
	Run string
	// Skip leaves out tests by -test.skip.
	Skip string
	// Brief are the names of kernels that run, if Run is empty, only what shows how a kernel differs from others.
	Brief []string
	// Parallel is -test.parallel; CPUs and MemoryMB are each machine's, Machines is how many run at a time.
	Parallel, CPUs, MemoryMB, Machines int
	// Again has tests that failed run once more, in another boot: timers of an emulated machine may outrun what they wait
	// for. Those that pass then are in the notes.
	Again bool
	// Timeout bounds the run of one machine.
	Timeout time.Duration
	// Dir gets a folder for each kernel, with the console and what the tests printed. It is made if need be.
	Dir string
	// Cache has the kernels.
	Cache *Cache
}

// A Runner has what the machines share: the test binaries of each architecture.
type Runner struct {
	o     Options
	mu    sync.Mutex
	built map[string]*build
}

// A build is made once for an architecture.
type build struct {
	once  sync.Once
	init  []byte
	files initramfs
	jobs  []wire.Job
	err   error
}

// NewRunner returns a runner with the options.
func NewRunner(o Options) *Runner {
	return &Runner{o: o, built: map[string]*build{}}
}

// Run tests the kernels and reports each as it is done, one report at a time. The results are in the kernels' order. It
// fails if the context ends.
func (r *Runner) Run(ctx context.Context, kernels []Kernel, report func(*Result)) ([]*Result, error) {
	results := make([]*Result, len(kernels))
	slots := make(chan struct{}, r.o.Machines)
	var wg sync.WaitGroup
	var one sync.Mutex
	done := func(i int, res *Result) {
		one.Lock()
		defer one.Unlock()
		if results[i] = res; ctx.Err() == nil {
			report(res)
		}
	}
	for _, i := range r.order(kernels) {
		k := kernels[i]
		tree, err := r.o.Cache.Get(ctx, k)
		if err != nil {
			done(i, &Result{Kernel: k, NotTested: err})
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			done(i, r.test(ctx, k, tree))
		})
	}
	wg.Wait()
	return results, context.Cause(ctx)
}

// order has those first that take the longest: which run all tests, and of them
// the newest.
func (r *Runner) order(kernels []Kernel) (list []int) {
	for _, brief := range []bool{false, true} {
		for i, k := range slices.Backward(kernels) {
			if r.brief(k) == brief {
				list = append(list, i)
			}
		}
	}
	return list
}

// test runs the tests on one kernel.
func (r *Runner) test(ctx context.Context, k Kernel, tree *Tree) *Result {
	res := &Result{Kernel: k, Release: tree.Release}
	if r.brief(k) {
		res.Notes = append(res.Notes, k.Name+" ran only what shows how it differs")
	}
	start := time.Now()
	if err := r.attempt(ctx, k, tree, res, ""); err != nil {
		res.fail("the run", err.Error())
	}
	if again := res.again(); r.o.Again && again != "" {
		second := &Result{Kernel: k, Release: tree.Release}
		if err := r.attempt(ctx, k, tree, second, again); err != nil {
			second.fail("the run", err.Error())
		}
		res.pardon(second)
	}
	res.Seconds = time.Since(start).Seconds()
	if len(res.Failures) == 0 && res.Passed+res.Skipped == 0 {
		res.fail("no test was run", "")
	}
	return res
}

// attempt boots a kernel for the tests that only selects by -test.run; empty: for those that it is meant to run.
func (r *Runner) attempt(ctx context.Context, k Kernel, tree *Tree, res *Result, only string) error {
	b := r.build(ctx, k.Arch)
	if b.err != nil {
		return b.err
	}
	dir := filepath.Join(r.o.Dir, k.Name)
	if only != "" {
		dir += "-again"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	modules, err := modulesOf(ctx, tree.Modules, wantedModules)
	if err != nil {
		return err
	}
	m := Machine{
		Arch: k.Arch, Kernel: tree.Image, Initramfs: filepath.Join(dir, "initramfs"),
		Console: filepath.Join(dir, "console"), Results: filepath.Join(dir, "results"),
		CPUs: r.o.CPUs, MemoryMB: r.o.MemoryMB,
	}
	if err := pack(m.Initramfs, b.init, modules, b.files, r.plan(k, b, only)); err != nil {
		return fmt.Errorf("packing %s: %w", m.Initramfs, err)
	}
	defer os.Remove(m.Initramfs)
	limited, cancel := context.WithTimeoutCause(ctx, r.o.Timeout, fmt.Errorf("not done after %v", r.o.Timeout))
	defer cancel()
	err = m.boot(limited)
	if errors.Is(err, errSilent) {
		res.Notes = append(res.Notes, fmt.Sprintf("%s: the first boot printed nothing in %v and was tried again", k.Name, silence))
		err = m.boot(limited)
	}
	if console, cerr := os.ReadFile(m.Console); cerr == nil && garbledFlags(string(console)) && ctx.Err() == nil {
		res.Notes = append(res.Notes, k.Name+": the emulated processor failed, which brought the kernel down, and it was booted again")
		err = m.boot(limited)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, r.read(ctx, m, res))
}

// brief reports whether only some tests are run on k.
func (r *Runner) brief(k Kernel) bool { return r.o.Run == "" && slices.Contains(r.o.Brief, k.Name) }

// plan is what a machine is to do.
func (r *Runner) plan(k Kernel, b *build, only string) wire.Plan {
	p := wire.Plan{Env: []string{
		"PATH=/bin", "HOME=/root", "TMPDIR=/tmp", "LC_ALL=C",
		"TCPTRACE_TEST_NO_BLIND_SPOT=1", // stock kernels show BPF programs everything
		"TCPTRACE_TEST_SLOW=1",          // timers outrun what they wait for
	}}
	run, skip := r.o.Run, r.o.Skip
	if run == "" {
		// These are about user space, take long here, and run on every host.
		run, skip = k.Run, strings.TrimPrefix(skip+"|^(TestBacklog|TestClose|TestHealthy|TestFindings.*)$", "|")
		if r.brief(k) {
			run = "^(TestShows|TestScenarios|TestSettings|TestRun)$"
		}
	}
	if only != "" {
		run = only
	}
	for _, j := range b.jobs {
		j.Args = append(append([]string{}, j.Args...), "-test.v=test2json", "-test.run="+run, "-test.skip="+skip,
			"-test.parallel="+strconv.Itoa(r.o.Parallel),
			// Before the machine's own time-out, for the sake of the report.
			"-test.timeout="+(r.o.Timeout*9/10).String())
		p.Jobs = append(p.Jobs, j)
	}
	return p
}

// read turns what a machine left behind into a result.
func (r *Runner) read(ctx context.Context, m Machine, res *Result) error {
	text, err := os.ReadFile(m.Results)
	if err != nil {
		return err
	}
	console, err := os.ReadFile(m.Console)
	if err != nil {
		return err
	}
	o := parseOutput(text)
	for i := range o.jobs {
		events, err := test2json(ctx, o.jobs[i].text)
		if err != nil {
			return err
		}
		res.take(&o.jobs[i], events)
	}
	found, emulated := faults(string(console))
	res.Failures = append(res.Failures, found...)
	for _, f := range emulated {
		res.Notes = append(res.Notes, res.Kernel.Name+": the emulated processor failed: "+f.Title)
	}
	switch {
	case o.release == "":
		res.fail("the machine did not come up", tail(string(console), 40))
	case o.release != res.Release:
		res.fail(fmt.Sprintf("%s was booted, and %s meant", o.release, res.Release), "")
	case !o.done:
		res.fail("the machine ended before the tests", tail(string(console), 40))
	}
	return nil
}

// build makes what an architecture needs, once.
func (r *Runner) build(ctx context.Context, arch string) *build {
	r.mu.Lock()
	b := r.built[arch]
	if b == nil {
		b = &build{files: initramfs{}}
		r.built[arch] = b
	}
	r.mu.Unlock()
	b.once.Do(func() { b.err = b.make(ctx, arch, r.o.Packages) })
	return b
}

func (b *build) make(ctx context.Context, arch string, packages []string) error {
	tmp, err := os.MkdirTemp("", "tcptrace-vm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	goTool := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	const module = "github.com/tcptrace/tcptrace/"
	small := "-ldflags=-s -w"
	if err := goTool("build", small, "-o", filepath.Join(tmp, "init"), module+"internal/vm/guest"); err != nil {
		return err
	}
	if b.init, err = os.ReadFile(filepath.Join(tmp, "init")); err != nil {
		return err
	}
	if err := goTool("build", small, "-o", filepath.Join(tmp, "tcptrace"), module+"cmd/tcptrace"); err != nil {
		return err
	}
	if err := b.files.addFile("/bin/tcptrace", filepath.Join(tmp, "tcptrace")); err != nil {
		return err
	}
	for _, p := range packages {
		name := strings.ReplaceAll(strings.TrimPrefix(filepath.ToSlash(filepath.Clean(p)), "./"), "/", "-")
		dir, binary := "/test/"+name, name+".test"
		if err := goTool("test", "-c", small, "-o", filepath.Join(tmp, binary), p); err != nil {
			return err
		}
		if err := b.files.addFile(dir+"/"+binary, filepath.Join(tmp, binary)); err != nil {
			return err
		}
		if err := b.files.addTree(dir+"/testdata", filepath.Join(p, "testdata")); err != nil {
			return err
		}
		b.jobs = append(b.jobs, wire.Job{Name: p, Dir: dir, Args: []string{dir + "/" + binary}})
	}
	if arch != runtime.GOARCH {
		return nil // the tools are this machine's
	}
	for _, t := range []string{"ss", "tc"} {
		if err := b.files.addTool(ctx, t); err != nil {
			return fmt.Errorf("a tool of the tests: %w", err)
		}
	}
	return nil
}

func jsonText(v any) ([]byte, error) { return json.MarshalIndent(v, "", "  ") }
