# make demo   installs the package and runs the first experiment
# make test   the test suite            make lint   ruff and mypy
# The environment is .venv; PYTHON chooses the interpreter that it is made with.

PYTHON ?= python3
# Test processes, at most 4: every one of them imports torch.
WORKERS ?= auto

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Test processes already fill the cores, and one BLAS thread makes sums repeatable.
ONE_THREAD := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help demo test lint clean

help:
	@sed -n 's/^# //p' $(MAKEFILE_LIST) | head -n 3

demo: .venv/.installed
	$(BIN)/bbdfield run experiments/continuum.toml --out runs/continuum --overwrite

test: .venv/.installed-test
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=4 --dist=loadfile < /dev/null

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

# The stamps are newer than pyproject.toml: a second call installs nothing.
$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | $(BIN)/python
	$(PIP) install -e .
	@touch $@

.venv/.installed-test: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[test]'
	@touch $@

.venv/.installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[dev]'
	@touch $@
