# The same targets for people and CI. Every target can be repeated: nothing is installed or drawn twice.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
BUNDLE ?= runs/quickstart/best
# A process that dies is not replaced: pytest-xdist waits for ever if the other one has ended before.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.PHONY: help install synthetic sweep serve format lint check docs prometheus chromium test bench

help:      ## this list
	@grep -E '^[a-z ]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/'

$(INSTALLED): pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(INSTALLED)  ## make .venv and install the project into it

synthetic/train.csv: | $(INSTALLED)
	$(BIN)/whale-ray synth synthetic --individuals 24 --images 900 --difficulty 0.6 --seed 0

synthetic: synthetic/train.csv  ## draw a data set of humpback flukes

sweep: $(INSTALLED) synthetic  ## run the quickstart sweep on synthetic flukes
	$(BIN)/python -m whale_ray.sweep sweeps/quickstart.yaml

serve: $(INSTALLED)  ## serve the best bundle of the quickstart sweep (BUNDLE=... for another)
	RAY_AUTH_MODE=token $(BIN)/whale-ray serve $(BUNDLE)

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: $(INSTALLED)  ## formatting, lint, types, import contracts, spelling
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	$(BIN)/typos

check: lint  ## lint and the quick tests; run it after each edit
	$(BIN)/pytest -m 'not slow and not integration' $(PARALLEL)

docs: $(INSTALLED)  ## build the documentation into docs/_build, warnings are errors
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo open docs/_build/html/index.html

# Two Debian programs that some tests need. If one cannot be installed, its tests are skipped.
prometheus chromium:  ## install it from Debian if it is missing
	@command -v $@ >/dev/null || timeout 300 sh -c 'apt-get update -qq && apt-get install -qq -y --no-install-recommends $@' >/dev/null 2>&1 \
	  || echo "$@ is missing and cannot be installed here: its tests are skipped"

# The slow tests come last: they start Ray and services, which the quick ones would keep waiting.
test: lint prometheus chromium  ## everything that CI runs
	$(BIN)/pytest -m 'not slow' $(PARALLEL) $(TEST_OPTIONS)
	$(BIN)/pytest -m slow $(PARALLEL) $(TEST_OPTIONS)

bench: $(INSTALLED)  ## run the benchmarks and write benchmarks/RESULTS.md (QUICK=1: in ten minutes)
	$(BIN)/python benchmarks/results.py $(if $(QUICK),--quick)
