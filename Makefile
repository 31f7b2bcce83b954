# `make help` lists the targets. Everything happens in .venv; nothing outside it is changed.
PYTHON ?= python3
PRESET ?= digits
N      ?= 10000000
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready$(if $(HASHED),-hashed)
# Tests, benchmarks and servers want the extras, too; who only runs vaesc does not pay for them.
DEV    := $(if $(HASHED),$(READY),$(VENV)/.ready-dev)
# What `make lock` and `make audit` work with, each in a virtual environment of its own.
UV        := uv==0.13.9
PIP_AUDIT := pip-audit==2.10.1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run claim test test-long faults fuzz check bench bench-sparse bench-training bench-streaming scale operate serve stack ui stop lock hashes audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PRESET=$(PRESET) PYTHON=$(PYTHON) HASHED=1 ARGS='--set training.epochs=5'"

setup: $(READY) ## create .venv with the exact versions of constraints.txt (HASHED=1: only files of requirements.lock, extras too)

setup-dev: $(DEV) ## the same with every extra, for tests, benchmarks and servers

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "== creating $(VENV) (about 6 GB with PyTorch; a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --progress-bar off --quiet -c constraints.txt -e .
	@rm -f $(VENV)/.ready-hashed
	@touch $@

$(VENV)/.ready-dev: $(READY)
	@echo "== adding what tests, benchmarks and servers need"
	$(BIN)/python -m pip install --progress-bar off --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# Anew, since pip checks only what it installs. Python's own pip does it, so that nothing comes
# unchecked, a newer pip neither; and the project is built by the setuptools that was checked. The
# file is complete: pip need not resolve (some refuse to, for what is asked for with an extra).
$(VENV)/.ready-hashed: pyproject.toml requirements.lock
	@echo "== creating $(VENV) anew, each file held against its SHA-256 (about 6 GB; a few minutes)"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-index --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $@ $(VENV)/.ready $(VENV)/.ready-dev

run: $(READY) ## run the main job: make run [PRESET=fashion-mnist] [ARGS=...]
	$(BIN)/vaesc run --preset $(PRESET) $(ARGS)

claim: $(READY) ## test the article's claim over three seeds: make claim [PRESET=fashion-mnist] [ARGS=...]
	$(BIN)/vaesc claim --preset $(PRESET) $(ARGS)

test: $(DEV) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: $(DEV) ## run the tests that take minutes and are no part of `make test`
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long $(ARGS)

faults: $(DEV) ## kill trainings at 50 moments, break runs at 300 points: the next one is whole (an hour; ARGS="--all": hours)
	$(BIN)/python -m tests.faults.kills
	$(BIN)/python -m tests.faults $(ARGS)

fuzz: $(DEV) ## search every parser for bad input that harms: 10 CPU minutes each, two at a time [ARGS="--minutes 1 --target zarr"]
	$(if $(HASHED),,-$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]")
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzzing $(ARGS)

check: $(DEV) ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(DEV) ## time the heavy steps against the loops people write first
	$(BIN)/python -m benchmarks $(ARGS)

bench-sparse: $(DEV) ## sparse coding against scikit-learn and SPAMS (first: ARGS=--set-up makes the peers' venv)
	$(BIN)/python benchmarks/sparse.py $(ARGS)

bench-training: $(DEV) ## time VAE training against other trainers (first: ARGS=--setup)
	$(BIN)/python -m benchmarks.training $(ARGS)

bench-streaming: $(DEV) ## train from disk and from memory, and extract latents (2,000,000 images; ARGS="--images N")
	$(BIN)/python -m benchmarks.streaming $(ARGS)

scale: $(DEV) ## 10,000,000 images in bounded memory, on workers, ranks and S3, as figures [N=1000000]
	$(BIN)/python -m benchmarks.scale --images $(N) $(ARGS)

operate: $(DEV) ## a week of operation in minutes, on real servers: schedule, gate, promotion, rollback
	$(BIN)/python -m deployments.operate $(ARGS)

serve: $(READY) ## run the schedules of deployments/prefect.yaml here, with no server to install
	$(BIN)/vaesc serve

stack: $(DEV) ## PostgreSQL, S3, MLflow and Prefect on this machine, with passwords, until Ctrl-C
	$(BIN)/python -m deployments.stack $(ARGS)

ui: $(READY) ## open Prefect's and MLflow's pages on this machine
	$(BIN)/python -m flows.ui

stop: $(READY) ## stop the local Prefect server (it stops by itself when idle)
	$(BIN)/python -m tasks.server stop

lock: ## renew constraints.txt and requirements.lock from what pyproject.toml admits today
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade "pip>=24"
	.venv-lock/bin/python -m pip install --quiet ".[dev,fuzz]"
	.venv-lock/bin/python -m pip freeze --all | grep -v '^vaesc' | LC_ALL=C sort -f > constraints.txt
	rm -rf .venv-lock
	$(MAKE) hashes

# For every platform and Python, hence not from what is installed. uv does not know pip's settings:
# whoever has pip ask another index wants uv to ask it, too.
hashes: ## renew requirements.lock alone: the SHA-256 of every file of the versions of constraints.txt
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet "$(UV)"
	index=$$(.venv-lock/bin/python -m pip config get global.index-url 2>/dev/null); \
	echo pip | UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$index}}" \
	.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev \
	    --generate-hashes --no-header --no-annotate --cache-dir .venv-lock/cache \
	    --constraint constraints.txt --output-file requirements.lock pyproject.toml - >/dev/null
	rm -rf .venv-lock

audit: ## hold every pinned version against the known vulnerabilities (asks an advisory service)
	$(PYTHON) -m venv --clear .venv-audit
	.venv-audit/bin/python -m pip install --quiet "$(PIP_AUDIT)"
	.venv-audit/bin/python -m deployments.audit $(ARGS)

clean: ## remove .venv and caches; data/ stays
	rm -rf $(VENV) .venv-lock .venv-audit .mypy_cache .ruff_cache .pytest_cache .hypothesis
