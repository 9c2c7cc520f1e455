# `make help` explains the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup quickstart study ui bench test torture check lint format docs clean

help: ## show this text
	@echo "make TARGET; each target sets up what it needs in $(VENV) first."
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## make the virtual environment with catdog in it

# The page comes last: it names the champion's test accuracy, and its path is what the reader needs next.
quickstart: $(VENV)/.installed ## train four variants on drawn images, evaluate the champion, compare them (a few minutes)
	$(BIN)/python -m catdog.train experiment=quickstart
	$(BIN)/python -m catdog.evaluate study=quickstart
	$(BIN)/python -m catdog.compare study=quickstart

study: $(VENV)/.installed ## the real study: 2,000 photos, 20 epochs (downloads 68 MB and the ImageNet weights)
	$(BIN)/python -m catdog.train experiment=cats_vs_dogs
	$(BIN)/python -m catdog.evaluate
	$(BIN)/python -m catdog.compare

ui: $(VENV)/.installed ## browse the runs of the study trained last, on MLflow's pages
	$(BIN)/python -m catdog.ui

bench: $(VENV)/.installed ## time catdog against plain Keras on the real study (EPOCHS=20: about 40 minutes)
	$(BIN)/python benchmarks/bench.py --epochs $(or $(EPOCHS),20)

test: $(VENV)/.installed-dev ## run the tests
	$(BIN)/python -m pytest

torture: $(VENV)/.installed-dev ## the tests that take minutes; kill sweeps again and again and compare with uninterrupted ones; a server away for a minute (hours)
	cd tests && PYTHONPATH=.. ../$(BIN)/python torture.py --kills 20
	cd tests && PYTHONPATH=.. ../$(BIN)/python torture.py --kills 10 --trials 12
	cd tests && PYTHONPATH=.. ../$(BIN)/python torture.py --kills 10 --trials 12 --jobs 2
	CATDOG_TEST_AWAY_S=60 CATDOG_TEST_SWEEPS=8 $(BIN)/python -m pytest -m nightly
	CATDOG_TEST_APPLICATIONS=1 $(BIN)/python -m pytest tests/training/test_check.py -k application

check: lint test ## everything that must be green before a commit: lint, types, tests

lint: $(VENV)/.installed-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed ## write docs/reference.md from the schema
	$(BIN)/python -m catdog.reference

clean: ## remove the virtual environment and caches; runs in mlruns/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"catdog needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing catdog and TensorFlow into $(VENV), once: a minute or two"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing catdog, TensorFlow and the test tools into $(VENV), once: a minute or two"
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed
