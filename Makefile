PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
.DEFAULT_GOAL := demo

.PHONY: help demo smollm2 test suite test-fast check docs docs-long compat bench kills fuzz clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*  ## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "%-10s %s\n", $$1, $$2 }'

demo: $(READY)  ## set up, then convert, verify and show the model that comes along
	$(BIN)/kept demo --out out/demo

smollm2: $(READY)  ## fetch SmolLM2-135M-Instruct (a GGUF file of 98 MB)
	$(BIN)/python demo/smollm2.py

# Files go to workers in the order of conftest.py, in which those with slow tests are first. Tests wait for processes a
# fifth of the time, so there is one worker more than the processors of a small machine.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Linters and types need one processor for a minute, so they run beside the tests. Without network the tests marked `real`
# are skipped.
test: $(READY)  ## set up, then everything that CI checks
	-$(BIN)/python demo/smollm2.py
	$(MAKE) --jobs 2 check suite

suite: $(READY)  ## every test, without linters
	$(PYTEST)

test-fast: $(READY)  ## the tests that are not marked slow, without linters
	$(PYTEST) -m 'not slow and not real'

check: $(READY)  ## linters, types, layers and freshness of generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

docs: $(READY)  ## write the generated pages and build the documentation in build/site
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

docs-long: $(READY)  ## run every command that the pages show with an output, those that take minutes too, and compare
	$(BIN)/python docs/transcripts.py --long

compat: $(READY)  ## prove outputs in other runtimes; the first run builds llama.cpp, which takes five minutes
	$(BIN)/python compat/run.py --out docs/reference/compat.md
	$(BIN)/python compat/reading.py --out docs/reference/compat.md
	$(BIN)/python compat/exported.py --out docs/reference/compat.md
	$(BIN)/python compat/gguf_files.py

bench: $(READY)  ## speed against cp -r (and mergekit, with MERGEKIT=path/to/mergekit-yaml), memory at three sizes: an hour
	$(BIN)/python benchmarks/speed.py --gb 8 $(if $(MERGEKIT),--mergekit $(MERGEKIT))
	$(BIN)/python benchmarks/sizes.py --gb 2 4 8

kills: $(READY)  ## kill each writing command, 200 times in all, repeat it, and compare its files with those of an uninterrupted run
	$(BIN)/python benchmarks/kills.py --kills 200

# The pinned torch comes first, so that no other package can ask for another one. Python compiles modules when they are
# imported, which is fewer than are installed.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("kept needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

# Atheris has no place among what is installed: it has wheels for some Pythons only, and nothing else needs it.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= card config documents evaluation gguf header healing index questions recipe record report \
	sentencepiece settings steps teacher-cache tokenizer
FUZZ_VENV ?= build/fuzz-venv

fuzz:  ## mutate files of every kind for FUZZ_SECONDS each, guided by coverage, in an environment that is thrown away
	$(PYTHON) -m venv $(FUZZ_VENV)
	$(FUZZ_VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt torch
	$(FUZZ_VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt . atheris
	for target in $(FUZZ_TARGETS); do \
		echo "$$target"; $(FUZZ_VENV)/bin/python fuzz/run.py $$target -max_total_time=$(FUZZ_SECONDS) -verbosity=0 || exit 1; done
	rm -rf $(FUZZ_VENV)

clean:  ## remove the environment, outputs and build files
	rm -rf $(VENV) out build dist
