# Everything a developer runs. Each target sets up what it needs, so any of them can come first, and twice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS ?=
MEMBERS ?=
SEEDS ?=
FIRST ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo dev test test-slow soak lint types screenshots wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## +/\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY)  ## make the virtual environment in .venv

# Built anew, never patched up: after an interrupted or changed installation the folder is either right or not ready.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Python 3.11 or newer is needed; name one with: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'This Python cannot make virtual environments. On Debian or Ubuntu: sudo apt install python3-venv' >&2; exit 1; }
	@echo 'Installing into $(VENV) (about a minute)'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## a cohort synced to local stand-ins, from snapshot to receipt (MEMBERS=1000000)
	@$(BIN)/cohort-pipelines demo $(if $(MEMBERS),--members $(MEMBERS)) $(ARGS)

dev: setup  ## the Dagster UI and daemon over what the demo left, with the stand-ins
	@$(BIN)/cohort-pipelines dev --standins $(ARGS)

test: setup  ## the quick tests, less than three minutes
	@$(BIN)/python -m pytest -m 'not slow' --numprocesses auto $(ARGS)

test-slow: setup  ## sweeps, browsers and daemons
	@$(BIN)/python -m pytest -m slow --numprocesses auto --dist loadfile $(ARGS)

soak: setup  ## random sequences of windows and mishaps against a model (SEEDS=20000, FIRST=1)
	@$(BIN)/python -m cohort_pipelines_tests.soak $(or $(SEEDS),2000) $(or $(FIRST),1)

lint: setup  ## formatting, lint, spelling and pyproject.toml
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache
	@$(BIN)/codespell
	@$(BIN)/validate-pyproject pyproject.toml >/dev/null

types: setup  ## mypy, strict
	@$(BIN)/mypy

screenshots: setup  ## take docs/images/ anew, with chromium (four minutes)
	@$(BIN)/python -m docs.take_screenshots

wheel: setup  ## build dist/*.whl
	@rm -rf dist
	@$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	@ls dist/*.whl

clean:  ## remove the environment, builds and caches; data/ stays
	@rm -rf $(VENV) dist build .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
