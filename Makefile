# Each target does the set-up it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A process per core; tests/conftest.py keeps a file's tests together, since they share what is slow to make.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadgroup

.PHONY: build demo test test-all bench lint help
.DEFAULT_GOAL := help

# C++ changes reach Python only through a reinstall, so the stamp depends on csrc.
$(INSTALLED): setup.py pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt 'setuptools>=77' wheel pybind11 cmake ninja
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install -q --no-build-isolation -c constraints.txt -e '.[dev]'
	touch $@

build: $(INSTALLED)  ## make .venv, install everything at the tested versions, build discl._C

demo: build  ## the whole method on real handwriting, then a report: about 6 minutes on 2 cores
	$(BIN)/discl demo --out demo-run

test: build  ## every test but the long campaigns
	$(PYTEST) -m "not slow"

test-all: build  ## every test, the long campaigns too
	$(PYTEST)

bench: build  ## benchmarks against named peers; rows go to benchmarks/results
	$(BIN)/python -m benchmarks

lint: build  ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy -p discl

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12
