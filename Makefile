# Everything that a fresh clone needs is made by the targets themselves, in .venv and in a cache
# folder (CRYO_CACHE, or cryoshim in XDG_CACHE_HOME or ~/.cache). Nothing else is installed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

venv := .venv
bin := $(venv)/bin
stamp := $(venv)/.stamp

PYTEST_ARGS ?=
# The files of tests are spread over so many processes; 0 is one after the other.
TEST_WORKERS ?= $(shell cores=$$(nproc); echo $$((cores < 8 ? cores : 8)))
N ?= 1000
SEED ?= 1
CASE ?= new

.PHONY: help native demo test lint format types protos check-protos bench tools faults fuzz soak test-containerd test-faults lock clean runsc

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-15s %s\n' "$$name" "$$text"; done

demo: runsc native ## freeze, kill and restore a live GPU container on this machine, and tell the story
	@$(bin)/cryo selftest --story

test: tools native ## run every test; what this machine cannot run is skipped with its reason
	@$(bin)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(stamp) ## check style and format
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .

format: $(stamp) ## put the code into the project's format
	@$(bin)/ruff check --fix .
	@$(bin)/ruff format .

types: $(stamp) ## check types, strictly
	@$(bin)/mypy

native: ## build cryo-cuda and the simulation's libcuda.so.1; goes on without a C compiler
	@if ! command -v cc >/dev/null; then echo "make: no C compiler (cc): going on without cryo-cuda" >&2; \
	elif ! $(MAKE) -s -C native; then \
		echo "make: cryo-cuda was not built (is libc6-dev there?): going on without it" >&2; \
		$(if $(CRYO_REQUIRE_REAL),false,true); fi

protos: $(stamp) ## generate the bindings in shim/api from proto/
	@$(bin)/python hack/protos.py

check-protos: $(stamp) ## prove that the committed bindings are current
	@$(bin)/python hack/protos.py --check

bench: tools native ## measure our checkpoint and restore against the plain runsc commands
	@$(bin)/python -m hack.bench
	@$(bin)/python -m hack.bench_shims

runsc: $(stamp)
	@$(bin)/python -m hack.tools runsc-new runsc-old

tools: $(stamp) ## obtain runsc, containerd, Docker and clients, into the cache; RETRY=1 asks again after a recent no
	@$(bin)/python -m hack.tools $(if $(CRYO_REQUIRE_REAL),--require) $(if $(RETRY),--retry)

faults: tools native ## break things at N random moments, SEED by SEED, with CASE (new, old, new-phased ...)
	@$(bin)/python -m hack.faults --case $(CASE) -n $(N) --seed $(SEED)

fuzz: $(stamp) ## feed N mutated frames, requests, files and outputs to all that reads them
	@$(bin)/python -m hack.fuzz -n $(N) --seed $(SEED)

soak: tools native ## run long: 1000 cycles of one task, then 200 tasks at once for half an hour
	@$(bin)/python -m hack.soak --docs docs

test-containerd: tools native ## run the tests with real containerd, Docker, crictl and nerdctl
	@$(bin)/python -m pytest -n $(TEST_WORKERS) --dist loadfile tests/containerd $(PYTEST_ARGS)

test-faults: tools native ## run the tests of faults with every combination, not the short set (an hour)
	@CRYO_FAULTS_ALL=1 $(bin)/python -m pytest tests/faults $(PYTEST_ARGS)

lock: $(stamp) ## renew requirements.lock from pyproject.toml (needs uv)
	@hack/lock.sh

clean: ## remove the venv and what the tools leave in the checkout; the cache stays
	@rm -rf $(venv) build dist shim/cuda/bin shim/simgpu/bin .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(stamp): pyproject.toml requirements.lock hack/venv.sh
	@hack/venv.sh $(venv)
	@touch $@
