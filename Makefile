# SPDX-License-Identifier: Apache-2.0
#
# "make help" lists the targets. Building needs Go alone; generate, lint and
# check-generated need clang, clang-format and libbpf's headers ("make deps").

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
GO ?= go
# The compiler is pinned: another one makes other, equally good, bytes.
CLANG ?= clang-14
BPF_DIRS := bpf internal/bench/floor
C_FILES := $(wildcard $(addsuffix /*.c,$(BPF_DIRS)) $(addsuffix /*.h,$(BPF_DIRS)))
# One run of every fuzz target takes this long.
FUZZTIME ?= 10s
# Which kernels test-kernels boots ("5.10 arm64"; all if empty), the tests it
# runs there (as go test -run; all if empty), and of which packages.
KERNELS ?=
RUN ?=
PACKAGES ?= ./internal/live ./internal/doctor

# Which machines "make deb" builds for.
ARCHES ?= amd64 arm64

# What the binary says of itself. A source tree without git can give them.
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null && { git diff --quiet HEAD || echo -dirty; })
DATE ?= $(shell TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
VERSION ?= $(patsubst v%,%,$(shell git describe --tags --exact-match --match 'v*' 2>/dev/null))

# The same source, version and Go make the same bytes anywhere: no paths, no
# stamp of the checkout's state, and no flag or instruction set of whoever builds.
GO_BUILD = CGO_ENABLED=0 GOFLAGS=-trimpath GOAMD64=v1 GOARM64=v8.0 $(GO) build -buildvcs=false \
	-ldflags '-s -w -X "main.version=$(VERSION)" -X "main.commit=$(subst $() ,,$(COMMIT))" -X "main.date=$(DATE)"'

PREFIX ?= /usr/local
# Who may run a tcptrace that has rights of its own: it sees all connections.
GROUP ?= adm

.DEFAULT_GOAL := build
.PHONY: help build deb install install-caps run demo test test-kernels kernels-table release-check check-reproducible deps generate check-generated lint fmt bench bench-deps soak fuzz clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

build: ## the static binary, ./tcptrace
	$(GO_BUILD) -o tcptrace ./cmd/tcptrace

# Not a prerequisite: root need not build, only install.
install: ## the binary to $(DESTDIR)$(PREFIX)/bin, for root to run
	@test -f tcptrace || { echo 'nothing to install: run "make build" first' >&2; exit 1; }
	install -D -m 0755 tcptrace '$(DESTDIR)$(PREFIX)/bin/tcptrace'

install-caps: ## the same, with the rights to trace for members of $(GROUP), no others
	@test -f tcptrace || { echo 'nothing to install: run "make build" first' >&2; exit 1; }
	@command -v setcap >/dev/null || { echo 'setcap is missing: install libcap2-bin (Debian, Ubuntu) or libcap (Fedora, Arch, Alpine: libcap-utils)' >&2; exit 1; }
	install -D -o root -g '$(GROUP)' -m 0750 tcptrace '$(DESTDIR)$(PREFIX)/bin/tcptrace'
	setcap cap_bpf,cap_perfmon+ep '$(DESTDIR)$(PREFIX)/bin/tcptrace'

# The same commit makes the same packages anywhere.
deb: ## dist/tcptrace-bpf_VERSION_ARCH.deb for each of $(ARCHES)
	$(GO_BUILD) -o dist/stage/native/tcptrace-bpf ./cmd/tcptrace
	@set -e; for arch in $(ARCHES); do \
		GOOS=linux GOARCH=$$arch $(GO_BUILD) -o dist/stage/tcptrace-$$arch ./cmd/tcptrace; \
		ARCH=$$arch GO='$(GO)' VERSION='$(VERSION)' COMMIT='$(subst $() ,,$(COMMIT))' DATE='$(DATE)' \
			packaging/deb/build dist/stage/native/tcptrace-bpf dist/stage/tcptrace-$$arch; \
	done; rm -rf dist/stage

run: build ## build it and trace retransmissions and resets on this host
	$(SUDO) ./tcptrace events --event retransmit,reset

demo: build ## build it, make real trouble in a throwaway namespace, and trace it
	$(SUDO) ./tcptrace demo

# One package at a time: the storm of one would overrun the tracefs witness of
# another, which sees the whole machine. Tests mostly wait for timers.
test: ## all tests, on the running kernel: private namespaces, real sockets, real loss
	$(SUDO) env "PATH=$$PATH" $(GO) test -race -count 1 -p 1 -parallel 6 -timeout 20m ./...

# Needs no root. VMFLAGS=-h lists what else can be set.
test-kernels: ## the kernel tests on stock kernels in VMs; KERNELS="5.10 7.3" and RUN=regex choose
	$(GO) run ./internal/vm/testkernels -kernels '$(KERNELS)' -run '$(value RUN)' -packages '$(PACKAGES)' $(VMFLAGS)

# arm64 has the code of 6.12, and would show the same.
STORY_KERNELS = $(or $(filter-out arm64,$(KERNELS)),5.10 6.1 6.12 6.18 7.2 7.3)
STORY_TABLE = -packages ./test/stories/balancer -shows test/stories/balancer/kernels.json -readme test/stories/balancer/README.md

kernels-table: ## run TestShows on every kernel, and write the table in README.md; and that in test/stories/balancer
	$(GO) run ./internal/vm/testkernels -kernels '$(KERNELS)' -run '^TestShows$$' -write $(VMFLAGS)
	$(GO) run ./internal/vm/testkernels -kernels '$(STORY_KERNELS)' -run '^TestMeasured$$' $(STORY_TABLE) -write $(VMFLAGS)

release-check: lint check-generated test ## all that a release needs, with no kernel left out
	$(GO) run ./internal/vm/testkernels -strict $(VMFLAGS)
	$(GO) run ./internal/vm/testkernels -strict -kernels '5.10 6.18' -packages ./cmd/tcptrace -run '^TestRecord(ClockSteps|Suspend)$$' $(VMFLAGS)
	$(GO) run ./internal/vm/testkernels -strict -kernels '$(STORY_KERNELS)' -run . $(STORY_TABLE) $(VMFLAGS)

# The copy has another path, another time, no git, an empty build cache and
# flags that its builder is used to.
check-reproducible: build ## fail if another place builds other bytes, or ones that need a library
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; mkdir "$$dir/elsewhere"; \
	tar -c --exclude=./.git --exclude=./tcptrace . | tar -x -C "$$dir/elsewhere"; \
	umask 077; GOCACHE="$$dir/cache" GOFLAGS=-buildvcs=auto GOAMD64=v2 CGO_ENABLED=1 TZ=Asia/Tokyo $(MAKE) -s -C "$$dir/elsewhere" build \
		VERSION='$(VERSION)' COMMIT='$(COMMIT)' DATE='$(DATE)'; \
	cmp tcptrace "$$dir/elsewhere/tcptrace" || { echo 'two builds of the same source differ' >&2; exit 1; }; \
	if readelf -lW tcptrace | grep -E 'INTERP|DYNAMIC'; then echo 'tcptrace is not static' >&2; exit 1; fi; \
	sha256sum tcptrace

deps: ## what generate, lint and test need beside Go (Debian, Ubuntu)
	$(SUDO) apt-get update -q
	$(SUDO) apt-get install -yq --no-install-recommends clang-14 llvm-14 clang-format-14 libbpf-dev \
		gcc libc6-dev binutils make git iproute2 libcap2-bin ca-certificates \
		bash-completion groff-base lintian man-db systemd qemu-system-x86 qemu-system-arm xz-utils

generate: ## the BPF objects and their Go types, from the C files
	BPF2GO_CC=$(CLANG) BPF2GO_STRIP=llvm-strip-14 $(GO) generate $(addprefix ./,$(BPF_DIRS))

check-generated: generate ## fail if a committed object does not match its source
	@git diff --exit-code --stat -- $(BPF_DIRS) || { echo 'generated files are stale: run "make generate" and commit the result' >&2; exit 1; }

lint: ## formatting, vet, staticcheck
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not gofmt-ed: $$files" >&2; exit 1; }
	clang-format-14 --dry-run --Werror $(C_FILES)
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff

fmt: ## format Go and C
	gofmt -w .
	clang-format-14 -i $(C_FILES)

# A tool that can't be had is reported as not measured.
bench-deps: ## what bench compares with (Debian, Ubuntu)
	@{ command -v bpftrace && command -v perf; } >/dev/null || \
		{ $(SUDO) apt-get update -q && $(SUDO) apt-get install -yq --no-install-recommends bpftrace linux-perf; } || \
		echo 'bench: bpftrace and perf could not be installed' >&2

# On a machine that does nothing else: it takes about 12 minutes.
bench: build bench-deps ## what it costs, beside other tools; BENCHFLAGS="-rounds 2 -only storm" or -h
	@set -e; out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	$(GO) test -run '^$$' -bench . -benchmem ./pkg/... ./internal/filter >"$$out" || { cat "$$out"; exit 1; }; cat "$$out"; \
	$(SUDO) env "PATH=$$PATH" $(GO) run ./internal/bench/measure -tcptrace ./tcptrace -gobench "$$out" $(BENCHFLAGS)

# Not in CI: it takes an hour. SOAKFLAGS=-h lists what else can be set.
SOAK ?= 1h
soak: build ## an hour of storms, losses and namespaces that come and go, with the flight recorder on; SOAK=10m shortens
	$(SUDO) env "PATH=$$PATH" $(GO) run ./internal/bench/soak -tcptrace ./tcptrace -for '$(SOAK)' $(SOAKFLAGS)

fuzz: ## every fuzz target for $(FUZZTIME)
	@set -e; for pkg in $$($(GO) list ./pkg/... ./internal/filter/... ./internal/names ./internal/netstat ./internal/live); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$pkg; \
		done; \
	done

clean: ## what builds leave
	rm -rf tcptrace dist
