// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Tree is an unpacked kernel.
type Tree struct {
	// Release is what uname -r says in it.
	Release string
	// Image is the kernel, Modules the folder /lib/modules/RELEASE.
	Image, Modules string
}

// A Cache keeps unpacked kernels and apt's lists.
type Cache struct {
	// Dir is made if need be.
	Dir string
	// MaxAge is how long a kernel is used before the archive is asked for a newer one of its series.
	MaxAge time.Duration
	// Logf tells what takes long.
	Logf func(format string, args ...any)
}

// Get returns the newest kernel of a series, fetching it if the cache has none or only an old one. A kernel that is old
// is better than none: if no newer one can be had it is used, and Logf told so.
func (c *Cache) Get(ctx context.Context, k Kernel) (*Tree, error) {
	dir := filepath.Join(c.Dir, k.Series+"-"+k.Arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("kernel cache: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(c.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("kernel cache: %w", err)
	}
	defer unlock()
	checked := filepath.Join(dir, "checked")
	old, err := cached(dir)
	if err != nil {
		return nil, fmt.Errorf("kernel cache: %w", err)
	}
	if st, err := os.Stat(checked); err == nil && old != nil && time.Since(st.ModTime()) < c.MaxAge {
		return old, nil
	}
	tree, err := c.fetch(ctx, k, dir)
	if err != nil {
		if old != nil && ctx.Err() == nil {
			c.Logf("%s: using %s as nothing newer can be fetched: %v", k.Name, old.Release, err)
			return old, nil
		}
		return nil, err
	}
	return tree, os.WriteFile(checked, nil, 0o644)
}

// cached finds the kernel in a folder of the cache, nil if there is none.
func cached(dir string) (*Tree, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var releases []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), tmpPrefix) {
			releases = append(releases, e.Name())
		}
	}
	if len(releases) == 0 {
		return nil, nil
	}
	return openTree(filepath.Join(dir, slices.MaxFunc(releases, compareReleases)))
}

const tmpPrefix = "tmp-"

// openTree looks for the kernel and its modules in what packages unpacked. Which folder has them differs.
func openTree(dir string) (*Tree, error) {
	t := &Tree{Release: filepath.Base(dir)}
	for _, m := range []string{"lib/modules", "usr/lib/modules"} {
		if m = filepath.Join(dir, m, t.Release); isDir(filepath.Join(m, "kernel")) {
			t.Modules = m
		}
	}
	for _, i := range []string{"boot/vmlinuz-" + t.Release, "usr/lib/modules/" + t.Release + "/vmlinuz"} {
		if _, err := os.Stat(filepath.Join(dir, i)); err == nil {
			t.Image = filepath.Join(dir, i)
		}
	}
	if t.Image == "" || t.Modules == "" {
		return nil, fmt.Errorf("%s has no kernel or no modules", dir)
	}
	return t, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// fetch gets the newest kernel into dir/RELEASE, and removes others from dir.
func (c *Cache) fetch(ctx context.Context, k Kernel, dir string) (*Tree, error) {
	sites, err := archive(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, suite := range k.Suites {
		tree, err := c.fetchFrom(ctx, sites, suite, k, dir)
		if err == nil {
			return tree, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", suite, err))
	}
	return nil, errors.Join(errs...)
}

func (c *Cache) fetchFrom(ctx context.Context, s sites, suite string, k Kernel, dir string) (*Tree, error) {
	a := apt{root: filepath.Join(c.Dir, "apt", suite+"-"+k.Arch), arch: k.Arch}
	if err := a.setUp(s.source(suite, k.Arch)); err != nil {
		return nil, err
	}
	// Kernels of one suite share its lists.
	updated := filepath.Join(a.root, "updated")
	if st, err := os.Stat(updated); err != nil || time.Since(st.ModTime()) > min(c.MaxAge, time.Hour) {
		c.Logf("%s: reading the list of %s (%s)", k.Name, suite, k.Arch)
		if _, err := a.run(ctx, "", "apt-get", "update", "-q"); err != nil {
			return nil, err
		}
		if err := os.WriteFile(updated, nil, 0o644); err != nil {
			return nil, err
		}
	}
	out, err := a.run(ctx, "", "apt-cache", "pkgnames", "linux-")
	if err != nil {
		return nil, err
	}
	release, packages := choose(strings.Fields(out), k.Series, k.Arch)
	if release == "" {
		return nil, fmt.Errorf("no kernel %s for %s", k.Series, k.Arch)
	}
	final := filepath.Join(dir, release)
	if tree, err := openTree(final); err == nil {
		return tree, nil
	}
	c.Logf("%s: fetching %s from %s", k.Name, strings.Join(packages, " "), suite)
	tmp, err := os.MkdirTemp(dir, tmpPrefix)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	// apt checks the packages against the signed list.
	if _, err := a.run(ctx, tmp, "apt-get", append([]string{"download", "-q"}, packages...)...); err != nil {
		return nil, err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != len(packages) {
		return nil, fmt.Errorf("%d files of %d packages were downloaded: %w", len(debs), len(packages), err)
	}
	root := filepath.Join(tmp, release)
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w: %s", filepath.Base(deb), err, out)
		}
	}
	if _, err := openTree(root); err != nil {
		return nil, err
	}
	if err := keepOnly(root, "boot/vmlinuz-", "lib/modules/", "usr/lib/modules/"); err != nil {
		return nil, err
	}
	others, err := filepath.Glob(filepath.Join(dir, k.Series+"*"))
	if err != nil {
		return nil, err
	}
	if err := os.Rename(root, final); err != nil {
		return nil, err
	}
	for _, o := range others {
		if err := os.RemoveAll(o); err != nil {
			return nil, err
		}
	}
	return openTree(final)
}

// keepOnly removes the files of a tree whose path has none of the prefixes.
func keepOnly(root string, prefixes ...string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(rel, p) }) {
			return err
		}
		return os.Remove(path)
	})
}

// choose picks the newest release of a series among the names of packages, and the packages that hold its image and
// its modules: one through 6.18 or so, two since. The release is empty if there is none.
func choose(names []string, series, arch string) (release string, packages []string) {
	has := map[string]bool{}
	for _, n := range names {
		has[n] = true
	}
	re := regexp.MustCompile(`^linux-(image|binary)-(` + regexp.QuoteMeta(series) + `\.[0-9][^~]*-cloud-` + regexp.QuoteMeta(arch) + `)$`)
	for n := range has {
		if m := re.FindStringSubmatch(n); m != nil && (release == "" || compareReleases(m[2], release) > 0) {
			release = m[2]
		}
	}
	switch {
	case release == "":
		return "", nil
	case has["linux-binary-"+release]:
		return release, []string{"linux-binary-" + release, "linux-modules-" + release}
	}
	return release, []string{"linux-image-" + release}
}

// compareReleases orders releases of one series by their numbers: 6.12.115+deb13.1 is before 6.12.117+deb13.
func compareReleases(a, b string) int {
	a, _, _ = strings.Cut(a, "-cloud-")
	b, _, _ = strings.Cut(b, "-cloud-")
	x, y := numbers.FindAllString(a, -1), numbers.FindAllString(b, -1)
	return slices.CompareFunc(x, y, func(s, t string) int {
		s, t = strings.TrimLeft(s, "0"), strings.TrimLeft(t, "0")
		return cmp.Or(cmp.Compare(len(s), len(t)), cmp.Compare(s, t))
	})
}

var numbers = regexp.MustCompile(`[0-9]+`)

// sites are where this machine has Debian from.
type sites struct{ main, security string }

// archive asks apt where it gets Debian's packages and their security updates from.
func archive(ctx context.Context) (sites, error) {
	// Without --no-release-info nothing is listed before the first update.
	out, err := run(ctx, "", "apt-get", "indextargets", "--no-release-info",
		"--format", "$(CREATED_BY) $(COMPONENT) $(RELEASE) $(SITE)")
	if err != nil {
		return sites{}, err
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return sites{}, fmt.Errorf("which distribution this is: %w", err)
	}
	codename := ""
	for line := range strings.Lines(string(release)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			codename = strings.Trim(v, `"`)
		}
	}
	s := pickSites(out, codename)
	if s.main == "" || s.security == "" || !bytes.Contains(release, []byte("ID=debian")) {
		return s, errors.New("apt is not set up with Debian's archive and its security updates here")
	}
	return s, nil
}

// pickSites reads lines of: created-by component release site.
func pickSites(targets, codename string) (s sites) {
	names := []string{codename, "stable", "oldstable", "testing", "unstable", "sid"}
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != "Packages" || f[1] != "main" {
			continue
		}
		suite, security := strings.CutSuffix(f[2], "-security")
		switch {
		case !slices.Contains(names, suite):
		case security:
			s.security = f[3]
		default:
			s.main = f[3]
		}
	}
	return s
}

// source is a line of sources.list.
func (s sites) source(suite, arch string) string {
	site, options := s.main, "arch="+arch
	if strings.HasSuffix(suite, "-security") {
		site = s.security
	}
	if _, err := os.Stat(keyring); err == nil {
		options += " signed-by=" + keyring
	}
	if strings.HasPrefix(suite, "bullseye") {
		options += " check-valid-until=no" // it gets no more updates, so its signature is old; it is checked all the same
	}
	return fmt.Sprintf("deb [%s] %s %s main\n", options, site, suite)
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt is apt with a set of folders of its own: nothing of the machine's is changed.
type apt struct{ root, arch string }

func (a apt) setUp(source string) error {
	for _, d := range []string{"lists/partial", "cache/archives/partial", "state"} {
		if err := os.MkdirAll(filepath.Join(a.root, d), 0o755); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(a.root, "status"), nil, 0o644),
		os.WriteFile(filepath.Join(a.root, "sources.list"), []byte(source), 0o644))
}

func (a apt) run(ctx context.Context, dir, command string, args ...string) (string, error) {
	var all []string
	for _, o := range []string{
		"Dir::State=" + a.root + "/state", "Dir::State::Lists=" + a.root + "/lists", "Dir::State::status=" + a.root + "/status",
		"Dir::Cache=" + a.root + "/cache", "Dir::Etc::SourceList=" + a.root + "/sources.list", "Dir::Etc::SourceParts=/dev/null",
		"Dir::Etc::Preferences=/dev/null", "Dir::Etc::PreferencesParts=/dev/null",
		"APT::Architecture=" + a.arch, "APT::Architectures=" + a.arch,
		// Its unprivileged user may not be let into these folders.
		"APT::Sandbox::User=",
		"APT::Update::Error-Mode=any", "Acquire::Retries=2", "Acquire::http::Timeout=60",
		"Acquire::Languages=none", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	} {
		all = append(all, "-o", o)
	}
	return run(ctx, dir, command, append(all, args...)...)
}

// run runs a command and returns its output, or an error with what it said.
func run(ctx context.Context, dir, command string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// lock takes the lock of a file, for other processes use the cache too.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond): // flock knows no deadline
		}
	}
}
