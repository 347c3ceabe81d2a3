# One word per task, for people and CI alike. Each may be typed again: nothing is installed or drawn twice.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
BUNDLE ?= runs/quickstart/best

.PHONY: help install synthetic sweep serve check prometheus chromium test format

help:      ## this list
	@grep -E '^[a-z ]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/'

$(INSTALLED): pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

install: $(INSTALLED)  ## makes .venv and installs the project into it

synthetic/train.csv: | $(INSTALLED)
	$(BIN)/whale-ray synth synthetic --individuals 60 --images 700 --difficulty 0.4 --seed 0

synthetic: synthetic/train.csv  ## draws a data set of humpback flukes

sweep: $(INSTALLED) synthetic  ## the quickstart sweep on synthetic flukes
	$(BIN)/python -m whale_ray.sweep sweeps/quickstart.yaml

serve: $(INSTALLED)  ## serves the best bundle of the quickstart sweep (BUNDLE=... for another)
	RAY_AUTH_MODE=token $(BIN)/whale-ray serve $(BUNDLE)

format: $(INSTALLED)  ## rewrites the code in its format
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

check: $(INSTALLED)  ## format, lint, types and the quick tests: after each edit
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -m 'not slow' --numprocesses 2 --dist loadfile

# Two programs of Debian's that tests want. The tests that need one that cannot be had are skipped.
prometheus chromium:  ## installs it from Debian, where it is not there
	@command -v $@ >/dev/null || timeout 300 sh -c 'apt-get update -qq && apt-get install -qq -y --no-install-recommends $@' >/dev/null 2>&1 \
	  || echo "$@ is not there and cannot be installed here: the tests that want it are skipped"

test: $(INSTALLED) prometheus chromium  ## everything that CI runs
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest
