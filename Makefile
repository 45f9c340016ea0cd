# SPDX-License-Identifier: Apache-2.0
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The demo needs less than the tests; each set is installed once, and again when what it depends on changes.
RUNTIME := $(VENV)/.runtime
TOOLS := $(VENV)/.tools
BENCHED := $(VENV)/.bench
# The store that tests take for Azure's; npm has it.
AZURITE := 3.35.0
# All but mlflow, see there.
EXTRAS := azure s3 gcs sftp examples dev docs bench
STORED := $(VENV)/.stored
DEMO_NEEDS := $(RUNTIME) $(if $(filter azure,$(STORAGE)),$(STORED) azurite)
PINS := pyproject.toml constraints.txt demo/install.py
MODULE := $(BIN)/python -m
WITH_AIRFLOW := tests/demo tests/on_airflow

.DEFAULT_GOAL := help
.PHONY: help setup demo up down test test-airflow test-long faults bench bench-check check docs constraints clean

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(RUNTIME) ## Make .venv with what the demo needs

demo: $(DEMO_NEEDS) ## Run batch inference over real digits on a real Airflow; with STORAGE=azure from and to Azurite
	@$(MODULE) demo run $(or $(STORAGE),local)

up: $(RUNTIME) ## Start the same Airflow and leave it running
	@$(MODULE) demo up

down: ## Stop what "make up" left running
	@if [ -f $(RUNTIME) ]; then $(MODULE) demo down; fi

test: $(TOOLS) browser azurite ## Run the tests
	@# Those that start an Airflow mostly wait: the others run beside them.
	@$(MODULE) pytest -p no:cacheprovider $(WITH_AIRFLOW) > $(VENV)/airflow-tests.log 2>&1 & beside=$$!; \
	$(MODULE) pytest $(WITH_AIRFLOW:%=--ignore %); status=$$?; \
	wait $$beside || status=1; \
	cat $(VENV)/airflow-tests.log; exit $$status

test-airflow: $(TOOLS) browser azurite ## Run all tests that need a real Airflow, the long ones too
	$(MODULE) pytest -m airflow

test-long: $(TOOLS) browser azurite ## Run the tests that take too long for every day
	$(MODULE) pytest -m long

faults: $(TOOLS) ## Run N runs that are hurt on purpose (make faults N=500 STORE=azure), and print what became of them
	$(BIN)/python tests/faults -n $(or $(N),100) $(if $(STORE),--store $(STORE))

bench: $(BENCHED) ## Compare with what others do, minutes; hours with MODE=full; ARGS="--pairs 1" and others
	$(MODULE) benchmarks --$(or $(MODE),quick) $(ARGS)

bench-check: $(RUNTIME) ## Check that the benchmark's peers all write the same rows
	$(MODULE) benchmarks --check

check: $(TOOLS) ## Check format, style, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(TOOLS) ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

constraints: $(TOOLS) ## Pin the newest versions of everything in constraints.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 $(EXTRAS:%=--extra %) pyproject.toml -o constraints.txt

clean: down ## Remove everything that was made here, the demo's results too
	rm -rf $(VENV) .benchmark .demo build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(RUNTIME): $(PINS)
	@$(MAKE) --no-print-directory python
	@echo "Set-up (once, and again when the pins change):"
	@$(PYTHON) demo/install.py $(VENV) examples
	@touch $@

$(TOOLS): $(PINS) | $(RUNTIME)
	@echo "Set-up of the tools for tests, checks and docs:"
	@$(PYTHON) demo/install.py $(VENV) examples azure s3 gcs sftp dev docs mlflow
	@touch $@ $(RUNTIME) $(STORED)

$(STORED): $(PINS) | $(RUNTIME)
	@echo "Set-up of the driver and the provider for Azure:"
	@$(PYTHON) demo/install.py $(VENV) examples azure
	@touch $@ $(RUNTIME)

$(BENCHED): $(PINS) | $(RUNTIME)
	@echo "Set-up of what the benchmark compares with:"
	@$(PYTHON) demo/install.py $(VENV) examples bench
	@touch $@ $(RUNTIME)

.PHONY: python browser azurite
python:
	@command -v $(PYTHON) > /dev/null || { \
	  echo "$(PYTHON) is not there. Install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Python 3.11 to 3.13 is needed (TensorFlow has no later build), $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	    "Name another one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "  install python3-venv, which Debian keeps apart …"; \
	    apt-get update -qq > /dev/null && \
	      DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv > /dev/null 2>&1; \
	  fi; \
	  $(PYTHON) -c 'import ensurepip, venv' 2> /dev/null; } || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# Chromium comes from the distribution: browser builds of PyPI packages need a download of their own.
browser:
	@if command -v chromium > /dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "  install chromium for the browser tests …"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; } \
	    > $(VENV)/chromium.log 2>&1 || { cat $(VENV)/chromium.log >&2; exit 1; }; \
	elif [ "$${CI:-}" = true ]; then echo "chromium is missing, and it cannot be installed: not root, or no apt-get." >&2; exit 1; \
	else echo "chromium is missing (root could install it with apt-get): the browser tests will be skipped."; fi

azurite:
	@if [ -e $(VENV)/azurite/.$(AZURITE) ]; then exit 0; fi; \
	if ! command -v node > /dev/null || ! command -v npm > /dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "  install nodejs and npm for Azurite …"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nodejs npm; } \
	      > $(VENV)/npm.log 2>&1 || { cat $(VENV)/npm.log >&2; exit 1; }; \
	  elif [ "$${CI:-}" = true ]; then echo "npm is missing, and it cannot be installed: not root, or no apt-get." >&2; exit 1; \
	  else echo "npm is missing (root could install it with apt-get): there is no Azurite, and its tests will be skipped."; exit 0; fi; \
	fi; \
	echo "  fetch azurite $(AZURITE) from npm …"; \
	rm -rf $(VENV)/azurite && mkdir -p $(VENV)/azurite && \
	npm install --prefix $(VENV)/azurite --no-package-lock --no-audit --no-fund --loglevel=error azurite@$(AZURITE) \
	  > $(VENV)/npm.log 2>&1 || { cat $(VENV)/npm.log >&2; exit 1; }; \
	touch $(VENV)/azurite/.$(AZURITE)
