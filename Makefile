# The targets install everything that they need, into .venv and a cache directory (CRYO_CACHE, or
# cryoshim in XDG_CACHE_HOME or ~/.cache), and nothing elsewhere.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
# Without byte code each process that a test starts compiles the shim again, which doubles its start.
unexport PYTHONDONTWRITEBYTECODE

venv := .venv
bin := $(venv)/bin
stamp := $(venv)/.stamp

PYTEST_ARGS ?=
# The number of processes for the tests; 0 runs them sequentially. Tests often wait, so there are more
# processes than cores. See tests/matrix.py.
TEST_WORKERS ?= $(shell workers=$$(($$(nproc) * 3 / 2)); echo $$((workers < 8 ? workers : 8)))
pytest := $(bin)/python -m pytest -n $(TEST_WORKERS)
# Run a step, print its result and duration, and fail if it fails: $(call step,NAME,COMMAND)
step = begin=$$SECONDS; if $(2); then result=passed; else result=FAILED; fi; \
	printf '%-6s %4d s  %s\n' $$result $$((SECONDS - begin)) '$(1)'; [ $$result = passed ]
# The tools that make smoke needs.
smoke_tools := runsc-new containerd-2.4 runc busybox
# The tools that the tests with Kubernetes need; the last two are built in ten minutes or more.
kubernetes_tools := runsc-new containerd-2.1 containerd-2.4 runc busybox etcd cni kubelet kube-apiserver server-python
N ?= 1000
SEED ?= 1
CASE ?= new
# Cases of the benchmark, and its options: make bench BENCH="--quick checkpoint".
BENCH ?=

.PHONY: help demo check check-lint check-types check-bindings check-tests smoke test test-all dist deb quickstart lint format \
	types native man schemas protos check-protos node-image docs bench bench-check bench-docs runsc tools faults fuzz soak test-containerd test-kubernetes test-faults lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-15s %s\n' "$$name" "$$text"; done

demo: runsc native ## checkpoint, kill and restore a live GPU container on this machine, and show each step
	@$(bin)/cryo selftest --story

check: $(stamp) native ## lint, types, bindings, unit and wire tests, in parallel; needs no root and no tools
	@$(MAKE) -s --keep-going -j 2 --output-sync=target check-lint check-types check-bindings check-tests

check-lint:
	@$(call step,lint,$(MAKE) -s lint)

check-types:
	@$(call step,types,$(MAKE) -s types)

check-bindings:
	@$(call step,bindings,$(MAKE) -s check-protos)

check-tests:
	@$(call step,unit and wire tests,$(pytest) -q --no-header tests/unit tests/wire)

smoke: $(stamp) native ## the main cases of tests/smoke.txt, with one runsc, one engine and one containerd
	@$(bin)/python -m hack.tools $(smoke_tools)
	@$(call step,smoke,$(pytest) @tests/smoke.txt)

test: $(stamp) native ## every test with one combination of runsc, engine and containerd; skips tests that cannot run here
	@$(call step,test,$(pytest) --tools $(PYTEST_ARGS))

test-all: $(stamp) native ## every test with every combination, then fuzz, faults and soak (many hours)
	@$(call step,test-all,$(pytest) --tools --all $(PYTEST_ARGS))
	@$(call step,fuzz,$(MAKE) -s fuzz N=1000000)
	@$(call step,faults,$(MAKE) -s faults CASE=new && $(MAKE) -s faults CASE=old)
	@$(call step,soak,$(MAKE) -s soak)

lint: $(stamp) ## check style and formatting
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .

format: $(stamp) ## format the code, and fix its style
	@$(bin)/ruff check --fix .
	@$(bin)/ruff format .

types: $(stamp) ## check types, strictly
	@$(bin)/mypy

native: ## build cryo-cuda, the launcher of shims and the simulation's libcuda.so.1; skipped without a C compiler
	@if ! command -v cc >/dev/null; then echo "make: no C compiler (cc): continuing without cryo-cuda and the launcher" >&2; \
	elif ! $(MAKE) -s -C native; then \
		echo "make: building native/ failed (is libc6-dev installed?): continuing without it" >&2; \
		$(if $(CRYO_REQUIRE_REAL),false,true); fi

man: $(stamp) ## write the manual pages of cryo and its commands into build/man
	@rm -rf build/man
	@$(bin)/python -m hack.man build/man

schemas: $(stamp) ## write docs/schemas, the form of what each command prints with --output json
	@$(bin)/python -m hack.schemas

protos: $(stamp) ## generate the bindings in shim/api, and both clients
	@$(bin)/python hack/protos.py
	@$(bin)/python hack/clients.py

check-protos: $(stamp) ## check that the generated code is current
	@$(bin)/python hack/protos.py --check
	@$(bin)/python hack/clients.py --check

node-image: $(stamp) native ## write the image that installs the runtime on Kubernetes nodes, with RUNSC=/path/to/runsc: docs/kubernetes.md
	@$(bin)/python -m hack.kubernetes.node.image dist/cryoshim-node.tar $(if $(RUNSC),--runsc $(RUNSC))

docs: $(stamp) ## build the documents as a site in build/site; a warning is an error
	@$(bin)/python -m hack.docs

dist: $(stamp) native ## build the source distribution and both wheels into dist
	@$(bin)/python -m hatchling build -d dist
	@cd packaging/selftest && $(CURDIR)/$(bin)/python -m hatchling build -t wheel -d $(CURDIR)/dist

deb: $(stamp) native ## build the Debian package into build/deb: docs/install.md
	@$(bin)/python -m hack.deb build/deb

quickstart: $(stamp) ## follow the quickstart on a clean Debian 13, and write docs/quickstart-transcript.md
	@$(bin)/python -m hack.tools debian-13 busybox
	@$(bin)/python -m hack.quickstart docs/quickstart-transcript.md

bench: tools native ## compare with plain runsc, scripts, other shims, CRIU, cp and dd, in at most 30 minutes; BENCH=... for some
	@$(bin)/python -m hack.bench $(BENCH)

bench-check: tools native ## the same, and fail for a ratio that is 20 % above that of docs/performance.json
	@$(bin)/python -m hack.bench --check $(BENCH)

bench-docs: tools native ## the same, and write docs/performance.json, docs/performance.md and the figures of all documents
	@$(bin)/python -m hack.bench --docs $(BENCH)

runsc: $(stamp)
	@$(bin)/python -m hack.tools runsc-new runsc-old

tools: $(stamp) ## download or build runsc, containerd, Docker and clients into the cache; RETRY=1 ignores cached failures
	@$(bin)/python -m hack.tools $(if $(CRYO_REQUIRE_REAL),--require) $(if $(RETRY),--retry)

faults: tools native ## inject N random faults, chosen by SEED, with CASE (new, old, new-phased ...)
	@$(bin)/python -m hack.faults --case $(CASE) -n $(N) --seed $(SEED)

fuzz: $(stamp) ## feed N mutated frames, requests, files and outputs to their parsers
	@$(bin)/python -m hack.fuzz -n $(N) --seed $(SEED)

soak: tools native ## 1000 cycles of one task, 200 tasks for half an hour, then execs for half an hour
	@$(bin)/python -m hack.soak --docs docs

test-containerd: $(stamp) native ## tests of containerd, Docker, crictl and nerdctl with every combination
	@$(pytest) --tools --all tests/containerd $(PYTEST_ARGS)

test-kubernetes: $(stamp) native ## tests of pods with a real kubelet and API server, with every combination
	@$(bin)/python -m hack.tools $(if $(CRYO_REQUIRE_REAL),--require) $(kubernetes_tools)
	@$(bin)/python -m pytest -n 0 --all tests/kubernetes $(PYTEST_ARGS)

test-faults: tools native ## tests with injected faults, with every combination (an hour)
	@$(pytest) --all tests/faults $(PYTEST_ARGS)

lock: $(stamp) ## update requirements.lock from pyproject.toml (needs uv)
	@hack/lock.sh

clean: ## remove .venv, build outputs and the caches in the checkout; keeps the cache of tools
	@rm -rf $(venv) build dist shim/cuda/bin shim/entry/shimbin/bin shim/simgpu/bin .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(stamp): pyproject.toml packaging/selftest/pyproject.toml requirements.lock hack/venv.sh
	@hack/venv.sh $(venv)
	@touch $@
