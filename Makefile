# make reproduce   environment, every chapter executed, book built in _build/html
# make test        environment, lint, book from the committed chapters, tests
# make test-all    every test: the chapters on other models too (an hour and more)
# make book        only chapters that are stale are executed, then the book is built
# make html        the book from the chapters as they are
# make rungs       the shares of non-English math that were tried for organism-base (hours)
# make small       fourteen small organisms: four mixes, seeds, widths, bytes (hours)
# make sweeps      what chapters 06, 07, 10 to 14, 16 to 20 only show and audit (twenty hours, WORKERS=2)
# make evidence    all shipped tables that are too long for a chapter (DATA=folder, hours)
#
# PYTHON=python3.11        the interpreter of the environment (3.11 or newer)
# PRESET=full              reproduce from nothing: organisms and evidence first (hours; needs DATA)
# DATA=../shared/data      folder of the real GSM8K and MMLU files (see book/run_your_model.md)
# PIP_EXTRA_INDEX_URL=...  pip's own setting; a CPU build of torch from there saves gigabytes

PYTHON ?= python3
PRESET ?= laptop
ORGANISMS ?= organism-skewed organism-even organism-base
RUNGS ?= 0.005 0.015 0.06
DATA ?= ../shared/data
WORKERS ?= 2
PY := .venv/bin/python
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

export MMLIB_CACHE ?= $(CURDIR)/.cache
# Two processes of tests on two cores: more threads than cores only wait for each other.
test test-all: export OMP_NUM_THREADS ?= 1

.PHONY: reproduce test test-all book html rungs small evidence sweeps
.DELETE_ON_ERROR:

reproduce: .venv/.installed
ifeq ($(PRESET),full)
	set -e; for name in $(ORGANISMS); do $(PY) -m mmlib train $$name; done
	$(MAKE) rungs evidence
else ifneq ($(PRESET),laptop)
	$(error PRESET=$(PRESET): choose laptop or full)
endif
	$(PY) -m mmlib run --all --force --workers $(WORKERS)
	$(MAKE) html

# The book comes before the tests: they look at its pages.
test: .venv/.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(MAKE) html
	$(PY) -m pytest -n 2

# Everything: the chapters on other models and architectures too (an hour and more).
test-all: .venv/.installed
	$(PY) -m pytest -n 2 -m ""

book: .venv/.installed
	$(PY) -m mmlib run --stale --workers $(WORKERS)
	$(MAKE) html

html: .venv/.installed
	.venv/bin/jupyter-book build book/ -W -n --keep-going --all

# The base recipe with other shares of non-English math, on another seed: an hour and more each.
rungs: .venv/.installed
	set -e; for share in $(RUNGS); do \
	  $(PY) -m mmlib train organism-base --out runs/rung-$$share \
	    -p mix.foreign_math=$$share -p mix.seed=2 -p seed=2; \
	done
	$(PY) -m mmlib run 02_organism --force -p audit_items=0 \
	  -p family="[$$(echo $(RUNGS:%=runs/rung-%) | sed 's/ /, /g')]"
	$(PY) -m mmlib keep base_rungs --where "training_seed == 2" \
	  $$(ls -t runs/02_organism-*/accuracy_by_part.csv | head -n 1)

# Half the documents of the shipped organisms, twenty minutes to half an hour each on one core:
# three mixes with three seeds each, and other widths with heads of the same size.
SMALL := $(foreach seed,1 2 3,$(foreach mix,skewed even latin,$(mix)-96-$(seed))) \
  skewed-32-1 skewed-64-1 short-96-1 bytes-96-1 base-96-1
READ := -p mix.documents=110000
RECIPE_skewed := organism-skewed $(READ)
RECIPE_even := organism-even $(READ)
RECIPE_base := organism-base $(READ)
RECIPE_latin := $(RECIPE_even) -p mix.languages="{en: 1, de: 1, fr: 1, hi-Latn: 1, sw: 1, bn: 1}"
# A ninth of it in pieces of words and in bytes; rows as long as the longest document.
RECIPE_short := organism-even -p mix.documents=12000
RECIPE_bytes := $(RECIPE_short) -p vocab_size=259 -p row_length=1536 -p batch_rows=8
WIDTH_32 := -p hidden_size=32 -p intermediate_size=85 -p heads=1 -p kv_heads=1
WIDTH_64 := -p hidden_size=64 -p intermediate_size=170 -p heads=2 -p kv_heads=2
WIDTH_96 := -p hidden_size=96 -p intermediate_size=256 -p heads=3 -p kv_heads=3
part = $(word $1,$(subst -, ,$*))

small: $(SMALL:%=runs/small/%)

# MIX-WIDTH-SEED; a finished one is not trained again when only the environment is newer.
runs/small/%: | .venv/.installed
	OMP_NUM_THREADS=1 $(PY) -m mmlib train $(RECIPE_$(call part,1)) --out $@ $(WIDTH_$(call part,2)) \
	  -p seed=$(call part,3) -p mix.seed=$(call part,3) --items 50 \
	  --snapshots 0 60 120 240 400 600 900 1300 1800 2300 2800 3200

# Every cell of the chapters that audit a sweep; what is finished is not run again.
GRID = $(PY) -m mmlib grid notebooks/grids
ALIGN := align align_parts align_knowledge align_stronger
SWAPS := swap swap_random swap_embeddings swap_bands swap_lengths_base swap_lengths_small
RATES := align_rates align_rates_full align_rates_lora
sweeps: .venv/.installed small
	set -e; for grid in what_breaks fractions travel formats precision mixes emergence; do \
	  $(GRID)/$$grid.yml --workers $(WORKERS); done
	$(PY) -m mmlib keep interventions $$($(GRID)/what_breaks.yml --tables edits)
	$(PY) -m mmlib keep fractions $$($(GRID)/fractions.yml --tables fraction_edits)
	$(PY) -m mmlib keep transfer $$($(GRID)/travel.yml --tables transfer_answers)
	$(PY) -m mmlib keep formats $$($(GRID)/formats.yml --tables format_rows)
	$(PY) -m mmlib keep precision $$($(GRID)/precision.yml --tables precision_rows)
	$(PY) -m mmlib keep precision_answers $$($(GRID)/precision.yml --tables precision_answers)
	set -e; for kind in sizes overlap accuracy trainings; do \
	  $(PY) -m mmlib keep data_$$kind $$($(GRID)/mixes.yml --tables data_$$kind); done
	set -e; for kind in sizes overlap accuracy travel loss; do \
	  $(PY) -m mmlib keep emergence_$$kind $$($(GRID)/emergence.yml --tables emergence_$$kind); done
	set -e; for grid in $(ALIGN) $(RATES); do $(GRID)/$$grid.yml --workers $(WORKERS); done
	set -e; for kind in answers log costs firing states; do tables=; for grid in $(ALIGN); do \
	  own=$$($(GRID)/$$grid.yml --tables system_$$kind); tables="$$tables $$own"; done; \
	  $(PY) -m mmlib keep system_$$kind $$tables; done
	set -e; for kind in answers log responses; do tables=; for grid in $(RATES); do \
	  own=$$($(GRID)/$$grid.yml --tables system_$$kind); tables="$$tables $$own"; done; \
	  $(PY) -m mmlib keep rate_$$kind $$tables; done
	$(PY) -m mmlib keep system_maps $$($(GRID)/align.yml --tables system_maps | cut -d' ' -f1)
	set -e; for grid in experts experts_rates; do $(GRID)/$$grid.yml --workers $(WORKERS); done
	set -e; for kind in log updates; do tables=; for grid in experts experts_rates; do \
	  own=$$($(GRID)/$$grid.yml --tables expert_$$kind); tables="$$tables $$own"; done; \
	  $(PY) -m mmlib keep expert_$$kind $$tables; done
	set -e; for grid in $(SWAPS) layers; do $(GRID)/$$grid.yml --workers $(WORKERS); done
	tables=; for grid in $(SWAPS); do own=$$($(GRID)/$$grid.yml --tables swap_answers); \
	  tables="$$tables $$own"; done; $(PY) -m mmlib keep swap_answers $$tables
	set -e; for kind in views yardsticks; do \
	  $(PY) -m mmlib keep layer_$$kind $$($(GRID)/layers.yml --tables layer_$$kind); done
	$(GRID)/advice.yml
	set -e; for kind in answers log forms; do \
	  $(PY) -m mmlib keep advice_$$kind $$($(GRID)/advice.yml --tables advice_$$kind); done

# All answers of the family, the untrained-model control on real text, what localisation costs.
evidence: .venv/.installed sweeps
	$(PY) -m mmlib run 02_organism --force -p audit_items=0
	$(PY) -m mmlib keep family_answers $$(ls -t runs/02_organism-*/answers.csv | head -n 1)
	set -e; for kind in llama qwen3; do \
	  $(PY) -m mmlib random-model runs/random-$$kind --architecture $$kind --data-dir $(DATA); \
	  $(PY) -m mmlib run 04_overlap --force -p model=runs/random-$$kind -p dtype=bfloat16 \
	    -p math=gsm8k -p nonmath=mmlu -p data_dir=$(DATA) -p languages='[en, de, hi]' \
	    -p num_samples=100 -p seeds='[1, 101, 201]' -p batch_size=8 \
	    -p untrained=false -p real_control=false; \
	  $(PY) -m mmlib run 03_math_weights --force -p model=runs/random-$$kind -p dtype=bfloat16 \
	    -p math=gsm8k -p nonmath=mmlu -p data_dir=$(DATA) -p languages='[en, de, hi]' \
	    -p num_samples=100 -p seeds='[1, 101, 201]' -p batch_size=8; \
	done
	$(PY) -m mmlib keep untrained_overlap --where "group != 'module'" \
	  $$(ls -t runs/04_overlap-*/overlap.csv | head -n 2)
	$(PY) -m mmlib run 05_cost --force -p shapes='[30M, 170M]'
	$(PY) -m mmlib keep localisation_cost --where "shape not in ['1M', 'organism']" \
	  $$(ls -t runs/05_cost-*/localisation_cost.csv | head -n 1)

# torch first and alone: pip then takes a CPU build where one is on offer.
.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer, please: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -c 'import torch' 2> /dev/null || $(PY) -m pip install $(TORCH)
	$(PY) -m pip install --editable '.[tasks,study,book,test]'
	git config filter.nbstripout.clean ".venv/bin/nbstripout --keep-id" 2> /dev/null || true
	touch $@
