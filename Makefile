# `make test` is all that a change needs; `make help` lists the rest.
GO ?= go

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

test: clients ## every test: Go tests, then real clients end to end
	$(GO) test ./...
	cd test && $(GO) test ./...

clients: ## install the clients and servers that the end-to-end tests run (Debian, root)
	@test/scripts/install-clients.sh

e2e: clients ## only the end-to-end tests, with their table
	cd test && $(GO) test -count=1 -v ./e2e

e2e-full: clients ## the same with clients and signers built from source: some ten minutes
	test/scripts/e2e-full.sh

bench: ## the proxy beside distribution's, in one run
	cd bench && $(GO) run .

demo: ## what is served and what is refused, without a network
	$(GO) run ./cmd/countersign demo --once

lint: ## formatting, vet, staticcheck, known vulnerabilities
	test/scripts/lint.sh

race: ## the Go tests with the race detector
	$(GO) test -race ./...

fuzz: ## each fuzz target for FUZZTIME (20s)
	test/scripts/fuzz.sh $${FUZZTIME:-20s}

differential: ## ten thousand damaged repositories, to our verifier and to notary's
	cd test && NOTARYDIFF_REPOSITORIES=10000 $(GO) test -count=1 -v -run Differential -timeout 30m ./notarydiff

fixtures: ## sign the fixtures again with the real cosign CLIs: some minutes
	test/fixtures/make.sh

.PHONY: help test clients e2e e2e-full bench demo lint race fuzz differential fixtures
