# make train, make test and make ui work on a fresh machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
PORT   ?= 5000
READY  := $(VENV)/.installed

.PHONY: install train test lint chaos bench ui mlproject clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

install: $(READY)

train: $(READY)  ## the main job: the seed's non-linear regression, as an MLflow project
	PATH="$(abspath $(BIN)):$$PATH" mlflow run . --env-manager local

test: $(READY) lint  ## everything that must pass before a change lands
	$(BIN)/python -m pytest -m "not chaos"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

chaos: $(READY)  ## the long campaigns: hundreds of kills, outages and damaged files
	$(BIN)/python -m pytest -m chaos

bench: $(READY)  ## all measurements against the peers; minutes
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks

ui: $(READY)  ## the tracking UI on loopback
	PATH="$(abspath $(BIN)):$$PATH" mlflow ui --host 127.0.0.1 --port $(PORT)

mlproject: $(READY)  ## MLproject, written from the commands' table in src/runback/cli.py
	$(BIN)/python tools/write_mlproject.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
