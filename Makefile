# `make help` lists the targets. Everything happens in .venv; nothing outside it is changed.
PYTHON ?= python3
PRESET ?= digits
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup run claim test faults fuzz check bench bench-sparse bench-training bench-streaming operate serve stack ui stop lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PRESET=$(PRESET) PYTHON=$(PYTHON) ARGS='--set training.epochs=5'"

setup: $(READY) ## create .venv with the exact versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	@echo "== creating $(VENV) (about 6 GB with PyTorch; a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --progress-bar off --quiet -c constraints.txt -e ".[dev]"
	@touch $(READY)

run: $(READY) ## run the main job: make run [PRESET=fashion-mnist] [ARGS=...]
	$(BIN)/vaesc run --preset $(PRESET) $(ARGS)

claim: $(READY) ## test the article's claim over three seeds: make claim [PRESET=fashion-mnist] [ARGS=...]
	$(BIN)/vaesc claim --preset $(PRESET) $(ARGS)

test: $(READY) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

faults: $(READY) ## kill trainings at 50 moments, break runs at every point: the next one is whole (hours; ARGS="--few 20")
	$(BIN)/python -m tests.faults.kills
	$(BIN)/python -m tests.faults $(ARGS)

fuzz: $(READY) ## search every parser for bad input that harms: 10 CPU minutes each, two at a time [ARGS="--minutes 1 --target zarr"]
	-$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzzing $(ARGS)

check: $(READY) ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## time the heavy steps against the loops people write first
	$(BIN)/python -m benchmarks $(ARGS)

bench-sparse: $(READY) ## sparse coding against scikit-learn and SPAMS (first: ARGS=--set-up makes the peers' venv)
	$(BIN)/python benchmarks/sparse.py $(ARGS)

bench-training: $(READY) ## time VAE training against other trainers (first: ARGS=--setup)
	$(BIN)/python -m benchmarks.training $(ARGS)

bench-streaming: $(READY) ## train from disk and from memory, and extract latents (2,000,000 images; ARGS="--images N")
	$(BIN)/python -m benchmarks.streaming $(ARGS)

operate: $(READY) ## a week of operation in minutes, on real servers: schedule, gate, promotion, rollback
	$(BIN)/python -m deployments.operate $(ARGS)

serve: $(READY) ## run the schedules of deployments/prefect.yaml here, with no server to install
	$(BIN)/vaesc serve

stack: $(READY) ## PostgreSQL, S3, MLflow and Prefect on this machine, with passwords, until Ctrl-C
	$(BIN)/python -m deployments.stack $(ARGS)

ui: $(READY) ## open Prefect's and MLflow's pages on this machine
	$(BIN)/python -m flows.ui

stop: $(READY) ## stop the local Prefect server (it stops by itself when idle)
	$(BIN)/python -m tasks.server stop

lock: $(READY) ## renew constraints.txt from what pyproject.toml admits today
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade "pip>=24"
	.venv-lock/bin/python -m pip install --quiet ".[dev,fuzz]"
	.venv-lock/bin/python -m pip freeze | grep -v '^vaesc' | sort -f > constraints.txt
	rm -rf .venv-lock

clean: ## remove .venv and caches; data/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
