# make train, make test and make ui work on a new machine with Python (3.11 to 3.14) and make.
PYTHON ?=
VENV   ?= .venv
BIN    := $(VENV)/bin
PORT   ?= 5000
FUZZ_INPUTS ?= 100000
# The stamps of what is installed: runback alone, and its development tools, too.
READY  := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install train test lint docs audit fuzz chaos bench crashes browser ui build mlproject clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

$(READY): pyproject.toml constraints.txt
	PYTHON='$(PYTHON)' tools/install.sh $(VENV)
	@touch $(READY)

$(DEV): pyproject.toml constraints.txt
	PYTHON='$(PYTHON)' tools/install.sh $(VENV) dev
	@touch $(READY) $(DEV)

install: $(DEV)  ## create .venv with runback and its development tools

train: $(READY)  ## train the default job, the non-linear regression, as an MLflow project
	PATH="$(abspath $(BIN)):$$PATH" mlflow run . --env-manager local

test: $(DEV) lint  ## run lint, types and tests: everything that CI runs
	$(BIN)/python -m pytest -m "not chaos and not long" --numprocesses 2 --dist worksteal

lint: $(DEV)  ## run ruff (check, format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DEV)  ## build docs/ into build/docs; a warning is an error
	$(BIN)/python -m sphinx -E -W --keep-going -n -q docs build/docs
	@echo "see build/docs/index.html"

audit: $(VENV)/.audit  ## look up known vulnerabilities of all pinned packages (needs the network)
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

$(VENV)/.audit: $(DEV)
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet 'pip-audit>=2.9'
	touch $@

fuzz: $(DEV)  ## try 100,000 generated tables, options, tags, models, URIs and names (FUZZ_INPUTS=100000)
	FUZZ_INPUTS=$(FUZZ_INPUTS) $(BIN)/python -m pytest tests/fuzz

chaos: $(DEV)  ## run the long campaigns: hundreds of kills, outages and damaged files
	$(BIN)/python -m pytest -m "chaos or long"

bench: $(DEV)  ## run all benchmarks with the peers: half an hour
	tools/install.sh $(VENV) bench
	$(BIN)/python -m benchmarks

crashes: $(DEV)  ## let ckpt-chaos kill trainings at every file boundary and judge their resumes: an hour
	tools/install.sh $(VENV) bench
	$(BIN)/python -m benchmarks.crashes --bare

browser: $(DEV)  ## test MLflow's UI in Chromium (packages chromium, chromium-driver); write the pictures of the docs
	tools/install.sh $(VENV) browser
	SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/test_browser.py

ui: $(READY)  ## open MLflow's UI on our view of the runs (of a local store on 127.0.0.1, PORT=5000)
	$(BIN)/python -m runback ui --port $(PORT)

build: $(READY)  ## make a wheel in dist/, with the example's table
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

mlproject: $(DEV)  ## write MLproject from the table of commands in src/runback/cli.py
	$(BIN)/python tools/write_mlproject.py

clean:  ## remove .venv, build products and caches
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
