PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint docs compat clean

demo: $(READY)  ## set up, then convert, verify and show the model that comes along
	$(BIN)/kept demo --out out/demo

test: $(READY) lint  ## set up, then everything that CI checks
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

docs: $(READY)  ## write what is generated from the code
	$(BIN)/python docs/generate.py

compat: $(READY)  ## prove outputs in other runtimes; the first run builds llama.cpp, which takes five minutes
	$(BIN)/python compat/run.py --out docs/compat.md

# The pinned torch comes first, so that no other package can ask for another one.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("kept needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) out build dist
