# Everything a person or CI does here. On a fresh machine: Python >= 3.11, make and a package registry are enough.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH ?=

.PHONY: help setup demo up test fuzz check bench lock pages train clean

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(READY)  ## the environment in .venv, from the hash-locked requirements (about 6 GB)

$(READY): requirements.lock requirements-uv.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)  ## start everything, run the main job on real input, print a report, stop
	$(BIN)/llmos demo

up: $(READY)  ## run the system until Ctrl-C, durable under .llmos
	$(BIN)/llmos up

# What needs no process beside its own runs on all cores; what starts systems has the machine for itself.
ALONE := tests/faults/test_schedules.py tests/fuzz tests/unit

test: $(READY)  ## all tests
	@failed=0; \
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ALONE) || failed=1; \
	$(BIN)/python -m pytest $(ALONE:%=--ignore=%) || failed=1; \
	exit $$failed

fuzz: $(READY)  ## look for records that break a stage, FUZZ_SECONDS (60) for each target
	$(BIN)/python -m tests.fuzz

check: $(READY)  ## format, lint, types, import contracts, generated pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m llmos.cli.pages --check

bench: $(READY)  ## all benchmarks, or one: make bench BENCH=pipeline
	$(BIN)/python -m benchmarks $(BENCH)

pages: $(READY)  ## write the generated pages of docs/
	$(BIN)/python -m llmos.cli.pages

train: $(READY)  ## train the decoder that ships, anew (about ten minutes)
	$(BIN)/python -m llmos.pipelines.training.decoder --data examples/data/tinyshakespeare.txt.gz --out models/shakespeare-decoder --resume

lock: $(READY)  ## resolve the dependencies anew (of the extra dev, which has all but what only `make fuzz` needs)
	$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --extra dev --python-version 3.11 pyproject.toml -o requirements.lock --quiet

clean:  ## remove the environment and what tests left
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
