SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps build try generate lint test bench soak clean

PROGRAMS := skylift-connector:connector skylift-controlplane:controlplane skylift:skylift
VERSION   = $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what the tests and the try-out need of the system
	@scripts/deps

build: ## build the programs into bin/
	@for program in $(PROGRAMS); do \
		CGO_ENABLED=0 go build -trimpath -ldflags '-X skylift/cmd/internal/daemon.Version=$(VERSION)' \
			-o "bin/$${program%%:*}" "./cmd/$${program##*:}"; \
	done

try: deps build ## migrate a simulated server on this machine; ARGS go to skylift try
	@bin/skylift try $(ARGS)

generate: ## write again what is generated: the link's code, the error catalog
	@scripts/generate

lint: ## check format, generated code, vet, staticcheck, and that the appliance builds
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not formatted, run gofmt -w: $$unformatted" >&2; exit 1; }
	@scripts/generate --check
	@go vet ./...
	@go tool staticcheck ./...
	@for arch in amd64 arm64; do CGO_ENABLED=0 GOOS=freebsd GOARCH=$$arch go build -o /dev/null ./cmd/connector; done

test: deps lint ## run all tests under the race detector; TESTFLAGS go to go test
	@go test -race -timeout 15m $(TESTFLAGS) ./... | scripts/summary

bench: ## measure runs against the work they cannot avoid, ARGS go to the program; or the Go benchmarks that BENCH selects
	@$(if $(BENCH),go test -run '^$$' -bench '$(BENCH)' -benchmem ./...,go run ./cmd/internal/bench $(ARGS))

soak: ## RUNS random runs with faults and kills (SEED alone has one again), all crash points, shuffled tests, fuzzing; COUNT, FUZZTIME
	@scripts/soak

clean: ## remove what was built
	@rm -rf bin dist
