# SPDX-License-Identifier: Apache-2.0
#
# "make help" lists the targets. Building needs Go alone; generate, lint and
# check-generated need clang, clang-format and libbpf's headers ("make deps").

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
GO ?= go
# The compiler is pinned: another one makes other, equally good, bytes.
CLANG ?= clang-14
C_FILES := $(wildcard bpf/*.c bpf/*.h)
# One run of every fuzz target takes this long.
FUZZTIME ?= 10s
# Which kernels test-kernels boots ("5.10 arm64"; all if empty), the tests it
# runs there (as go test -run; all if empty), and of which packages.
KERNELS ?=
RUN ?=
PACKAGES ?= ./internal/live

.DEFAULT_GOAL := build
.PHONY: help build run demo test test-kernels kernels-table release-check deps generate check-generated lint fmt bench fuzz clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

build: ## the static binary, ./tcptrace
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o tcptrace ./cmd/tcptrace

run: build ## build it and trace retransmissions and resets on this host
	$(SUDO) ./tcptrace events --event retransmit,reset

demo: build ## build it, make real trouble in a throwaway namespace, and trace it
	$(SUDO) ./tcptrace demo

# One package at a time: the storm of one would overrun the tracefs witness of
# another, which sees the whole machine.
test: ## all tests, on the running kernel: private namespaces, real sockets, real loss
	$(SUDO) env "PATH=$$PATH" $(GO) test -race -count 1 -p 1 -timeout 20m ./...

# Needs no root. VMFLAGS=-h lists what else can be set.
test-kernels: ## the kernel tests on stock kernels in VMs; KERNELS="5.10 7.3" and RUN=regex choose
	$(GO) run ./internal/vm/testkernels -kernels '$(KERNELS)' -run '$(value RUN)' -packages '$(PACKAGES)' $(VMFLAGS)

kernels-table: ## run TestShows on every kernel, and write the table in README.md
	$(GO) run ./internal/vm/testkernels -kernels '$(KERNELS)' -run '^TestShows$$' -write $(VMFLAGS)

release-check: lint check-generated test ## all that a release needs, with no kernel left out
	$(GO) run ./internal/vm/testkernels -strict $(VMFLAGS)

deps: ## what generate, lint and test need beside Go (Debian, Ubuntu)
	$(SUDO) apt-get update -q
	$(SUDO) apt-get install -yq --no-install-recommends clang-14 llvm-14 clang-format-14 libbpf-dev \
		gcc libc6-dev make git iproute2 ca-certificates qemu-system-x86 qemu-system-arm xz-utils

generate: ## the BPF object and its Go types, from bpf/*.c
	BPF2GO_CC=$(CLANG) BPF2GO_STRIP=llvm-strip-14 $(GO) generate ./bpf

check-generated: generate ## fail if the committed object does not match the source
	@git diff --exit-code --stat -- bpf || { echo 'bpf/ is stale: run "make generate" and commit the result' >&2; exit 1; }

lint: ## formatting, vet, staticcheck
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not gofmt-ed: $$files" >&2; exit 1; }
	clang-format-14 --dry-run --Werror $(C_FILES)
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff

fmt: ## format Go and C
	gofmt -w .
	clang-format-14 -i $(C_FILES)

bench: ## benchmarks of the user-space path
	$(GO) test -run '^$$' -bench . -benchmem ./...

fuzz: ## every fuzz target for $(FUZZTIME)
	@set -e; for pkg in $$($(GO) list ./pkg/... ./internal/filter/...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

clean: ## what builds leave
	rm -f tcptrace
