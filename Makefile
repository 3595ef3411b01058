PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup setup-cityscapes demo demo-istd test soak lint docs check

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(STAMP)  ## build .venv with everything but Cityscapes' scripts

$(STAMP): requirements.txt requirements-detectron2.txt pyproject.toml tools/setup_venv.sh
	PYTHON=$(PYTHON) bash tools/setup_venv.sh $(VENV)
	@touch $@

setup-cityscapes: setup  ## add Cityscapes' scripts, so that no test is skipped for want of them
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-cityscapes.txt

demo: setup  ## S4M against its baselines on synthetic shapes
	$(BIN)/python tools/compare.py --output output/demo

demo-istd: setup  ## the schemes of ISTD on synthetic scenes
	$(BIN)/python tools/demo_istd.py --output output/demo-istd

test: setup  ## run the tests in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

soak: setup  ## kill 200 trainings at random points, and mutate 1,000 files of each kind
	$(BIN)/python tests/faults/soak.py
	MUTATIONS=1000 $(BIN)/python -m pytest tests/faults/test_mutated_files.py

lint: setup  ## run ruff
	$(BIN)/ruff check .

docs: setup  ## build the site in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

check: lint test docs  ## lint, test and docs
