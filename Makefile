# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A machine that has just started updates itself: wait for its turn.
APT := apt-get -o DPkg::Lock::Timeout=300
STAMP := $(VENV)/.installed
CLUSTER := $(BIN)/python -m lora_cluster
PACKAGES := -p lora_api -p lora_crd -p lora_cluster -p lora_demo -p lora_operator -p lora_trainer -p smallbase
SOURCES := api operator trainer-image cluster demo examples benchmarks tests

KILLS ?= 200
chaos-trainer: KILLS := $(if $(filter file,$(origin KILLS)),20,$(KILLS))
SEED ?= 1
RUNS ?= 1000
STEADY ?= 0

.PHONY: help setup generate lock lint test test-unit test-api test-trainer test-e2e \
        cluster images install demo down clean bench bench-trainer bench-cluster simulate-policy \
        bench-operator bench-policy chaos chaos-trainer check-loaders

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- Working on the code -------------------------------------------------------------------------

setup: $(STAMP) ## Make the virtual environment from the hash-pinned lists

$(STAMP): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "installing python3-venv"; $(APT) update -qq; $(APT) install -qq -y python3-venv; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .
	@touch $@

generate: $(STAMP) ## Write crds/ and docs/reasons.md from the models in api/
	$(BIN)/python -m lora_crd

lock: $(STAMP) ## Pin requirements/*.in again, with hashes
	bash requirements/lock.sh $(BIN)/uv

lint: $(STAMP) ## Format, lint, types, layers, generated files
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/mypy tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/python -m lora_crd --check

test: lint ## Everything: lint, unit, API server, trainer and cluster tests
	$(BIN)/pytest tests/unit
	$(MAKE) install  # first, because on a fresh machine it builds programs and images side by side
	$(BIN)/pytest tests/api tests/trainer
	$(BIN)/pytest tests/e2e
	$(BIN)/pytest tests/chaos

test-unit: $(STAMP) ## Rules, builders and other pure code (seconds)
	$(BIN)/pytest tests/unit

test-api: $(STAMP) ## Against a real etcd and API server (about a minute)
	$(BIN)/pytest tests/api

test-trainer: $(STAMP) ## Trains on the small base model (minutes)
	$(BIN)/pytest tests/trainer

test-e2e: install ## Against the full cluster with real pods (minutes)
	$(BIN)/pytest tests/e2e

chaos: $(STAMP) ## Kill everything at random on the local cluster (KILLS=200 SEED=1)
	$(BIN)/python -m tests.chaos.storm --kills $(KILLS) --seed $(SEED)

# --- Running it ----------------------------------------------------------------------------------

cluster: $(STAMP) ## Start the local cluster
	$(CLUSTER) up

images: cluster ## Build both images and load them into the cluster
	$(CLUSTER) build-image operator --load
	$(CLUSTER) build-image trainer --load

install: $(STAMP) ## Install the chart into the local cluster
	$(BIN)/python -m lora_demo install

demo: $(STAMP) ## From nothing to a LoRA one can look at
	$(BIN)/python -m lora_demo run

down: $(STAMP) ## Stop the local cluster and remove all it left
	$(CLUSTER) down

SEED ?= 1
simulate-policy: $(STAMP) ## A month of 10,000 runs through the operator's own policy code (SEED=1)
	$(BIN)/python -m benchmarks.policy_simulation.simulate --seed $(SEED)

chaos-trainer: $(STAMP) ## Kill trainings at random moments: make chaos-trainer KILLS=20 SEED=1
	$(BIN)/python -m tests.trainer.chaos --kills $(KILLS) --seed $(SEED)

bench: $(STAMP) ## Operator latency and trainer start-up, as ratios to a floor
	$(BIN)/python benchmarks/operator_latency/measure.py
	$(BIN)/python benchmarks/trainer_startup/measure.py

bench-trainer: $(STAMP) ## The trainer beside diffusers' script and sd-scripts (PEERS=folder with checkouts)
	$(BIN)/python -m benchmarks.trainer.measure $(if $(PEERS),--peers $(PEERS))

check-loaders: $(STAMP) ## Our files read by ComfyUI, sd-scripts and musubi-tuner (PEERS=folder with checkouts)
	$(BIN)/python -m benchmarks.loaders.check --peers $(PEERS)

bench-operator: $(STAMP) ## Runs by the thousand on a real control plane (RUNS=1000 STEADY=0)
	$(BIN)/python -m benchmarks.operator.measure --runs 100 300 $(RUNS) --steady $(STEADY)

bench-policy: $(STAMP) ## What a namespace's policy costs the operator, per run that waits
	$(BIN)/python -m benchmarks.operator.policy

bench-cluster: $(STAMP) ## Stop and start the local cluster, timed
	$(BIN)/python benchmarks/cluster_up/measure.py

clean: down ## Also remove the virtual environment and build results
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
