PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo demo-istd test check lint

setup: $(STAMP)

$(STAMP): requirements.txt requirements-detectron2.txt setup.py tools/setup_venv.sh
	PYTHON=$(PYTHON) bash tools/setup_venv.sh $(VENV)
	@touch $@

demo: setup
	$(BIN)/python tools/compare.py --output output/demo

demo-istd: setup
	$(BIN)/python tools/demo_istd.py --output output/demo-istd

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .

check: lint test
