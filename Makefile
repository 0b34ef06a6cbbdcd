# Everything a developer types. Each target sets up what it needs: `make test` in a fresh clone is enough.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# Further arguments: make demo ARGS="--passengers 12 --seed 7", make test ARGS="-k mrz -x"
ARGS ?=
# make soak N=200: how many seeds
N ?= 20

.PHONY: help setup models broker fprint postgres demo demo-sync demo-taiwan test lint format soak mutants \
    mutants-policy bench bench-sync conformance crash crash-sync fleet storm offline fleet-sync docs clean distclean

help: ## What there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## The virtual environment .venv with everything in it

$(READY): setup.cfg pyproject.toml
	@if [ ! -x $(PY) ]; then \
	    for python in "$${PYTHON:-python3}" python3.13 python3.12 python3.11; do \
	        "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break || python=; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "gated: no Python 3.11 or later found; install one, or name it: make PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then .ci/system ensurepip=python3-venv; fi; \
	    echo "gated: making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV); \
	fi
	@echo "gated: installing the Python packages of setup.cfg into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]' || { \
	    echo "gated: pip could not install everything. Without a network, point it to a mirror or a folder of" >&2; \
	    echo "gated: wheels: PIP_INDEX_URL=https://... make setup, or PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR make setup" >&2; \
	    exit 1; }
	@touch $@

models: $(READY) ## The networks' weights, by version and sha256
	@$(PY) -m models.obtain

broker:
	@.ci/system mosquitto=mosquitto mosquitto_sub=mosquitto-clients

# libfprint for the system's Python. What needs it can do without: a test skips, a lane says no_libfprint.
fprint:
	@.ci/system '/usr/lib/*/girepository-1.0/FPrint-2.0.typelib=gir1.2-fprint-2.0' \
	    '/usr/lib/python3/dist-packages/gi/__init__.py=python3-gi' || \
	    echo "gated: going on; what needs libfprint will be skipped and say so"

# HQ's records in PostgreSQL. HQ can do without it (SQLite), and so can the tests: they skip and say so.
postgres:
	@.ci/system '/usr/lib/postgresql/*/bin/initdb=postgresql' || \
	    echo "gated: going on; what needs PostgreSQL will be skipped and say so"

demo: models broker fprint ## A simulated lane with real networks and a real broker, live
	$(PY) -m tests.hw_sim demo $(ARGS)

demo-sync: models broker fprint ## What HQ changes and how soon a lane acts on it: enrolments, bans, renewed passports
	$(PY) -m tests.hw_sim demo --story $(ARGS)

demo-taiwan: models broker fprint ## Every category of the policy, both ways through one lane, HQ's counts beside the truth
	$(PY) -m tests.hw_sim demo --mix taiwan $(ARGS)

test: models fprint postgres ## The tests (fast ones)
	@$(MAKE) --no-print-directory broker || echo "gated: going on; what needs a broker will be skipped and say so"
	$(PY) -m pytest $(ARGS)

lint: $(READY) ## ruff and mypy --strict on everything
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY) ## Let ruff lay out the code
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

soak: $(READY) ## Virtual lane-hours over N seeds, with faults; lane and HQ over 10 N seeds; then mutants
	$(PY) -m tests.hw_sim soak --seeds $(N) $(ARGS)
	$(PY) -m tests.hw_sim protocol --seeds $$((10 * $(N)))
	@$(MAKE) --no-print-directory mutants ARGS=

mutants: $(READY) ## Plant mistakes in the machine and the policy; the tests must catch each
	$(PY) -m tests.hw_sim mutants $(ARGS)
	@$(MAKE) --no-print-directory mutants-policy ARGS=

mutants-policy: $(READY) ## Change every number, date, cell and predicate of the policy, one at a time
	$(PY) -m tests.hw_sim mutants-policy $(ARGS)

bench: models broker ## Figures, beside those of others
	@for file in benchmarks/bench_*.py; do \
	    name=$$(basename "$$file" .py); echo "== $$name"; \
	    quick=; [ "$$name" != bench_sync ] || quick=--quick; \
	    $(PY) -m "benchmarks.$$name" $$quick $(ARGS) || failed=1; \
	done; exit $${failed:-0}

bench-sync: $(READY) ## The cache at 5 million people: rows/s, look-ups, bytes; takes long
	$(PY) -m benchmarks.bench_sync $(ARGS)

conformance: models broker fprint ## The slow tests: whole services, crashes, manuals' vectors in full
	$(PY) -m pytest -m slow $(ARGS)

crash: models broker ## Kill -9 of lane, uplink, broker and HQ while passengers pass
	$(PY) -m tests.hw_sim crash $(ARGS)

crash-sync: $(READY) ## Kill -9 and failing disks at every step of a sync: old or new data, never mixed
	$(PY) -m tests.hw_sim crash-sync $(ARGS)

fleet: broker ## Many lanes report to one HQ over mutual TLS: ARGS="--lanes 1000 --rate 300 --db postgresql"
	$(PY) -m tests.hw_sim fleet $(ARGS)

storm: broker postgres ## A thousand deaths and cuts between lanes and HQ's database; then every record once, in order
	$(PY) -m tests.hw_sim storm $(ARGS)

offline: broker postgres ## A lane comes back after 30 days alone: what reaches HQ when
	$(PY) -m tests.hw_sim offline $(ARGS)

fleet-sync: $(READY) ## 200 lanes with the real sync against one HQ: seconds, bytes, CPU until all are current
	$(PY) -m tests.hw_sim fleet-sync $(ARGS)

docs: $(READY) ## Draw what the documents draw from the code
	$(PY) docs/build.py $(ARGS)
	$(PY) docs/facts_table.py $(ARGS)
	$(PY) docs/mqtt_doc.py $(ARGS)

clean: ## Remove what the tools left behind
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks var
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment and the networks' weights too
	rm -rf $(VENV) models/cache
