# make run    researches: makes its own environment, installs, runs `borg run`      (ARGS="--task pico" adds options)
# make test   lints, types, import contracts and the tests not marked slow          (PYTEST_ARGS="-k wire" adds options)
# make slow   the tests marked slow      make bench  measurements with their noise      make docs  docs/reference
# make clean  removes the environment and every cache
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run test lint slow bench docs clean

help:
	@sed -n '1,4s/^# //p' Makefile

# The stamps lie inside the environment, so that removing it removes them too.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "spore_borg needs Python 3.11 or newer; give one with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "this Python cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: $(BIN)/python pyproject.toml tools/install.py
	$(BIN)/python tools/install.py
	@touch $@

$(VENV)/.run: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.run

run: $(VENV)/.run
	$(BIN)/borg run $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint
	$(BIN)/python -m pytest -q -m "not slow" $(PYTEST_ARGS)

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow $(PYTEST_ARGS)

bench: $(VENV)/.dev
	$(BIN)/borg bench $(ARGS)

docs: $(VENV)/.dev
	$(BIN)/python tools/gen_docs.py

clean:
	rm -rf $(VENV) .make build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
