# make reproduce   environment, every chapter executed, book built in _build/html
# make test        environment, lint, book from the committed chapters, tests
# make test-all    every test: the chapters on other models too (an hour and more)
# make mutants     deliberate errors (tests/mutants.yml), each of which has to make a test fail
# make book        only chapters that are stale are executed, then the book is built
# make desk        fetch a real LLM, measure a slice of what pruning costs it again (one language, eight
#                  problems and texts, drawn by AUDIT_SEED), compare (needs DATA; PRESET=full: all of it)
# make html        the book from the chapters as they are
# make student     copies for a course, without answers; slides; kit: all of it and the packages, offline
# What is too long for a chapter is made by `python -m mmlib sweep` (see book/run_your_model.md).
# PYTHON=python3.11        the interpreter of the environment (3.11 or newer)
# PRESET=full              reproduce from nothing: organisms and evidence first (days; needs DATA)
# DATA=../shared/data      folder of the real GSM8K and MMLU files (see book/run_your_model.md)
# WORKERS=2                chapters at a time, with one thread each
# PIP_EXTRA_INDEX_URL=...  pip's own setting; a CPU build of torch from there saves gigabytes

PYTHON ?= python3
PRESET ?= laptop
DATA ?= ../shared/data
WORKERS ?= 2
AUDIT_SEED ?= 1
PY := .venv/bin/python
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

export MMLIB_CACHE ?= $(CURDIR)/.cache
# Two processes of tests on two cores: more threads than cores only wait for each other.
test test-all: export OMP_NUM_THREADS ?= 1

.PHONY: reproduce test test-all mutants book html desk student slides kit

reproduce: .venv/.installed
ifeq ($(PRESET),full)
	$(PY) -m mmlib fetch qwen-coder-0.5b
	$(PY) -m mmlib train organism-skewed organism-even organism-base
	$(PY) -m mmlib sweep --all --workers $(WORKERS) -p data_dir=$(DATA)
else ifneq ($(PRESET),laptop)
	$(error PRESET=$(PRESET): choose laptop or full)
endif
	$(PY) -m mmlib run --all --force --workers $(WORKERS)
	$(MAKE) html

# The tests build the book from the committed chapters, once, and look at its pages.
test: .venv/.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2

test-all: .venv/.installed
	$(PY) -m pytest -n 2 -m ""

mutants: .venv/.installed
	$(PY) tests/mutants.py --workers $(WORKERS)

book: .venv/.installed
	$(PY) -m mmlib run --stale --workers $(WORKERS)
	$(MAKE) html

desk: .venv/.installed
	$(PY) -m mmlib fetch qwen-coder-0.5b
ifeq ($(PRESET),full)
	$(PY) -m mmlib sweep desk desk_examples desk_answers desk_conditions desk_travel \
		desk_fractions --workers $(WORKERS) -p data_dir=$(DATA)
else
	$(PY) -m mmlib run 22_likelihood --force -p model=qwen-coder-0.5b -p data_dir=$(DATA) \
		-p math=gsm8k -p nonmath=mmlu -p tasks='[gsm8k]' -p texts='[mmlu]' -p languages='[en, de, fr]' \
		-p seeds='[1, 2, 3]' -p example_sets='[]' -p audit=true -p audit_seed=$(AUDIT_SEED)
endif

html: .venv/.installed
	.venv/bin/jupyter-book build book/ -W -n --keep-going --all

kit: html
student slides kit: .venv/.installed
	$(PY) -m mmlib $@ _build/$@

# torch first and alone: pip then takes a CPU build where one is on offer.
.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer, please: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -c 'import torch' 2> /dev/null || $(PY) -m pip install $(TORCH)
	$(PY) -m pip install --editable '.[tasks,study,book,test]'
	git config filter.nbstripout.clean ".venv/bin/nbstripout --keep-id" 2> /dev/null || true
	touch $@
