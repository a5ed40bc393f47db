# Solo: `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MODULES := proto sdk bus kernel capmgr resmon deployer gateway services examples test
PREFIX  := github.com/solo-os/solo
BIN     := $(CURDIR)/bin
VERSION := v0.1.0

# Build tools, pinned; installed into .build/bin on first use.
TOOLS             := $(CURDIR)/.build/bin
BUF               := github.com/bufbuild/buf/cmd/buf@v1.75.0
PROTOC_GEN_GO     := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
PROTOC_GEN_GRPC   := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
GOFUMPT           := mvdan.cc/gofumpt@v0.12.0
STATICCHECK       := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GRPCURL           := github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4
NATSCLI           := github.com/nats-io/natscli/nats@v0.5.1
PROTOVALIDATE     := github.com/bufbuild/protovalidate@v1.2.2

# Services in Go are built with the builder's own warm cache here; elsewhere Solo fills one of its own.
export GOCACHE := $(shell go env GOCACHE)

.PHONY: help build run demo test check bench campaign tidy gen attack e2e clean tools

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## all binaries into bin/
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 go build -trimpath -o $(BIN)/ work

run: build ## boot Solo in the foreground (SOLO_HOME, default .solo)
	@exec $(BIN)/solo-kernel --banner

demo: build ## the whole story, checked step by step (KEEP=1 leaves it running)
	@exec $(BIN)/solo-demo --bin $(BIN) $(if $(KEEP),--keep)

test: ## every test, with the race detector, and coverage
	@bash test/run.sh

e2e: ## only the tests that boot the whole system
	@go test -count=1 -timeout 20m ./test/e2e/...

attack: ## attacks on a live Solo, each with a twin in which it succeeds; ends with a table
	@CGO_ENABLED=0 go test -count=1 -tags checksoff -timeout 5m -run TestGateOff ./bus/gate/...
	@go test -count=1 -v -timeout 10m ./test/attack/...
	@CGO_ENABLED=0 go test -count=1 -v -timeout 10m -run TestFloods ./bus/door
	@go test -count=1 -timeout 10m -run 'TestTheServerAlone' ./test/e2e/...

check: $(TOOLS)/staticcheck $(TOOLS)/gofumpt ## formatting, vet, staticcheck, house rules, generated code current
	@out=$$($(TOOLS)/gofumpt -l $(MODULES) | grep -v '\.pb\.go$$' || true); test -z "$$out" || { echo "not formatted:"; echo "$$out"; exit 1; }
	@go vet work
	@$(TOOLS)/staticcheck $(addprefix ./,$(addsuffix /...,$(MODULES)))
	@go test -count=1 ./test/house/...
	@$(MAKE) --no-print-directory gen
	@git diff --exit-code --stat -- proto || { echo "generated code is not current: run make gen and commit"; exit 1; }
	@echo "check: ok"

bench: build ## figures beside their baselines
	@go run ./test/cmd/solo-bench --bin $(BIN)

campaign: build ## what is too long for make test: long runs, full counts
	@bash test/campaign.sh

gen: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## protobuf code from proto/
	@rm -rf proto/.build/protovalidate && mkdir -p proto/.build
	@dir=$$(cd /tmp && go mod download -json $(PROTOVALIDATE) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'); cp -r "$$dir/proto/protovalidate" proto/.build/protovalidate; chmod -R u+w proto/.build
	@cd proto && PATH="$(TOOLS):$$PATH" buf lint && PATH="$(TOOLS):$$PATH" buf generate

tidy: ## go.mod and go.sum of every module
	@bash test/tidy.sh "$(PREFIX)" "$(VERSION)" $(MODULES)

tools: $(TOOLS)/grpcurl $(TOOLS)/nats ## grpcurl and nats into .build/bin

$(TOOLS)/buf: ; @GOBIN=$(TOOLS) GOWORK=off go install $(BUF)
$(TOOLS)/protoc-gen-go: ; @GOBIN=$(TOOLS) GOWORK=off go install $(PROTOC_GEN_GO)
$(TOOLS)/protoc-gen-go-grpc: ; @GOBIN=$(TOOLS) GOWORK=off go install $(PROTOC_GEN_GRPC)
$(TOOLS)/gofumpt: ; @GOBIN=$(TOOLS) GOWORK=off go install $(GOFUMPT)
$(TOOLS)/staticcheck: ; @GOBIN=$(TOOLS) GOWORK=off go install $(STATICCHECK)
$(TOOLS)/grpcurl: ; @GOBIN=$(TOOLS) GOWORK=off go install $(GRPCURL)
$(TOOLS)/nats: ; @GOBIN=$(TOOLS) GOWORK=off go install $(NATSCLI)

clean: ## remove what was built
	@rm -rf $(BIN) .build cover proto/.build
