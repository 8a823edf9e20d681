# Two commands on a fresh machine: `make run` starts Lianxin with demo data, `make test` runs every test.
# `make setup` makes .venv and the pages; `make check` is the quick loop while working.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
RUN_ARGS ?= --demo
WEB_SOURCES := $(shell find web/src web/public web/index.html web/vite.config.ts web/tsconfig.json -type f 2>/dev/null)
NATIVE_SOURCES := $(wildcard sfu/_*.[ch] sfu/native/*.[ch])
PACKAGES := core sfu rooms recording portal signaling

.PHONY: help run setup test check lint types imports unit web-check test-setup lock bench clean

help:
	@echo "make run    start with demo data (address and accounts are printed)"
	@echo "make test   install what the tests need and run the whole suite"
	@echo "make check  format, lint, types, import rules, unit tests, front-end types and tests"
	@echo "make setup  environment and pages only"
	@echo "make bench  measure against Janus on this machine, into bench/RESULTS.md"

run: setup
	@exec .venv/bin/lianxin serve $(RUN_ARGS)

setup: .venv/.runtime .venv/.native web/dist/.built

# ---------------------------------------------------------------- environment

.venv/.python:
	@deploy/need.sh python gcc
	@python3 -m venv .venv
	@touch $@

.venv/.runtime: .venv/.python requirements.lock pyproject.toml
	@echo "Installing the Python packages of requirements.lock …"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The installation has built it already; this is for sources that change.  Without it Python forwards.
.venv/.native: .venv/.runtime setup.py $(NATIVE_SOURCES)
	@$(PY) setup.py --quiet build_ext --inplace || echo "The native relay was not built: media goes through Python."
	@touch $@

.venv/.dev: .venv/.runtime requirements-dev.lock
	@echo "Installing the tools of requirements-dev.lock …"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

web/node_modules/.installed: web/package-lock.json
	@deploy/need.sh node
	@echo "Installing the front end's packages …"
	@cd web && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

web/dist/.built: web/node_modules/.installed $(WEB_SOURCES)
	@echo "Building the pages …"
	@cd web && npm run --silent build -- --logLevel error
	@touch $@

lock:
	@uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
	  --group dev --group build pyproject.toml -o requirements-dev.lock
	@uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
	  --group build -c requirements-dev.lock pyproject.toml -o requirements.lock

# ---------------------------------------------------------------- quality

lint: .venv/.dev
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .

types: .venv/.dev
	@.venv/bin/mypy

imports: .venv/.dev
	@.venv/bin/lint-imports

unit: .venv/.dev .venv/.native
	@$(PY) -m pytest -q tests/unit tests/property

web-check: web/node_modules/.installed
	@cd web && npm run --silent typecheck && npm run --silent test

check: lint types imports unit web-check

test-setup: setup .venv/.dev
	@deploy/need.sh test

test: test-setup lint types imports web-check
	@$(PY) -m pytest tests

bench: .venv/.dev .venv/.native web/node_modules/.installed
	@deploy/need.sh bench
	@$(PY) -m bench.run $(BENCH_ARGS)

clean:
	@rm -rf .venv web/node_modules web/dist build *.egg-info sfu/_relay.*.so
