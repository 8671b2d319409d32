# make reproduce   environment, every chapter executed, book built in _build/html
# make test        environment, lint, types, book from the committed chapters, tests
# make test-all    every test: the chapters on other models too (an hour and more)
# make mutants     deliberate errors (tests/mutants.yml), each of which has to make a test fail
# make book        only chapters that are stale are executed, then the book is built
# make desk        a drawn slice of a real LLM measured again and compared (needs DATA)
# make html        the book from the chapters as they are
# make student     copies for a course, without answers; slides; kit: all of it and the packages, offline
# PYTHON=python3.11 interpreter · WORKERS=2 chapters at a time · DATA folder of the benchmarks
# PRESET=full      reproduce from nothing (days), or all that is shipped of the real LLMs
# Longer work is made by `python -m mmlib sweep` (see book/run_your_model.md).
PYTHON ?= python3
PRESET ?= laptop
DATA ?= ../shared/data
WORKERS ?= 2
AUDIT_SEED ?= 1
PY := .venv/bin/python
SWEEP := $(PY) -m mmlib sweep --workers $(WORKERS) -p data_dir=$(DATA)
FULL := $(if $(filter-out laptop full,$(PRESET)),$(error PRESET=$(PRESET): choose laptop or full),$(filter full,$(PRESET)))
DESK := $(basename $(notdir $(wildcard notebooks/grids/desk*.yml)))
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
export MMLIB_CACHE ?= $(CURDIR)/.cache
test test-all: export OMP_NUM_THREADS ?= 1
.PHONY: reproduce test test-all mutants book html desk student slides kit
reproduce test test-all mutants book html desk student slides kit: .venv/.installed

reproduce:
	$(if $(FULL),$(PY) -m mmlib fetch qwen-coder-0.5b qwen-coder-1.5b)
	$(if $(FULL),$(PY) -m mmlib train organism-skewed organism-even organism-base)
	$(if $(FULL),$(SWEEP) --all)
	$(PY) -m mmlib run --all --force --workers $(WORKERS)
	$(MAKE) html
test:
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2
test-all:
	$(PY) -m pytest -n 2 -m ""
mutants:
	$(PY) tests/mutants.py --workers $(WORKERS)
book:
	$(PY) -m mmlib run --stale --workers $(WORKERS)
	$(MAKE) html
desk:
	$(PY) -m mmlib fetch qwen-coder-0.5b $(if $(FULL),qwen-coder-1.5b)
	$(SWEEP) $(if $(FULL),$(DESK),notebooks/grids/audits/desk.yml --force -p audit_seed=$(AUDIT_SEED))
html:
	.venv/bin/jupyter-book build book/ -W -n --keep-going --all
kit: html
student slides kit:
	$(PY) -m mmlib $@ _build/$@
# torch first and alone: pip then takes a CPU build where PIP_EXTRA_INDEX_URL offers one.
.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer, please: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -c 'import torch' 2> /dev/null || $(PY) -m pip install $(TORCH)
	$(PY) -m pip install --editable '.[tasks,study,book,test]'
	git config filter.nbstripout.clean ".venv/bin/nbstripout --keep-id" 2> /dev/null || true
	touch $@
