# `make demo` and `make test` do everything on a fresh machine. `make` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# What is installed is pinned by requirements.lock, with hashes: change pyproject.toml, then run `make lock`.
STAMP := $(VENV)/.installed
PACKAGES := --require-hashes -r requirements.lock
S3PRL := .venv-s3prl
NEWEST := .venv-newest
PYTHONS := 3.12 3.13 3.14
# What releases are made with, pinned in a lock of its own: CI installs it where it builds, and nowhere else.
RELEASE := .venv-release
# Where a built wheel is installed, as a user does it.
CLEAN := .venv-dist
AZURITE := .azurite/node_modules/.bin/azurite-blob
CEPH := ceph-mon ceph-osd radosgw ceph-common
PACKAGE := $(shell find pipeline stages data_manifests -type f -not -path '*/__pycache__/*' 2>/dev/null)

# zarr needs Python >= 3.12. A machine's `python3` may be older while a newer one is installed next to it or under pyenv,
# whose shims exist even for versions that are not switched on. So each candidate is run before it is chosen. `$(call
# FIND_PYTHON,3.13)` takes no other version than that one.
FIND_PYTHON = for candidate in $(PYTHON) python3.12 python3.13 python3.14 python3 \
	$$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[2-4]*/bin/python /usr/local/bin/python3.1[2-4] 2>/dev/null); do \
	"$$candidate" -c 'import sys, venv, ensurepip; \
	sys.exit(not ((3, 12) <= sys.version_info < (3, 15) and sys.version.startswith("$(1)")))' \
	>/dev/null 2>&1 && { echo "$$candidate"; break; }; done

.PHONY: help demo test check lint types tests thorough buckets kills shared ranks faults fuzz soak docs pages newcomer schemas compiled gpu browser s3prl newest matrix \
	$(addprefix python,$(PYTHONS)) dist dist-demo sbom licences lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(STAMP)  ## set up, then run everything on the bundled speech (about 3 minutes; report in gdist-demo/)
	$(BIN)/gdist demo --out gdist-demo

test: check  ## set up, then run lint, type checks and tests against the installed package

check: lint types tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy -p gdist.pipeline -p gdist.stages -p gdist.data_manifests
	$(BIN)/mypy tests
	$(BIN)/mypy benchmarks

# One thread each: the threads of several processes would wait for each other's cores. One process more than there are
# cores, since a quarter of the time is waiting: for servers, clusters and processes to start.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n + 1 : 4)))
BY_FILE := --dist loadfile --no-loadscope-reorder

# s3prl is set up for .venv only; the tests that need it are skipped in other environments.
tests: $(STAMP) browser $(if $(filter .venv,$(VENV)),$(S3PRL)/.installed)
	$(PYTEST) $(BY_FILE) $(ARGS)

thorough: $(STAMP) browser $(S3PRL)/.installed  ## the tests with the longest ones, which `make test` leaves out
	GDIST_THOROUGH=1 $(PYTEST) $(BY_FILE)

# moto, which `make test` uses, is a server made for tests. These are two that people have: Azurite, Microsoft's emulator
# of Azure's storage (telemetry off), and Ceph, where its packages are installed or Debian has them.
buckets: $(STAMP) $(AZURITE)  ## the bucket tests on moto, Azurite and Ceph (a quarter of an hour; needs npm)
	@servers=azurite; \
	command -v radosgw >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(CEPH) >/dev/null 2>&1; } || true; \
	if command -v radosgw >/dev/null; then servers=azurite,ceph; else echo "no Ceph: install $(CEPH)" >&2; fi; \
	GDIST_BUCKETS=$$servers $(PYTEST) --dist loadfile tests/pipeline/storage

$(AZURITE):
	@command -v npm >/dev/null || { echo "make buckets needs npm (apt-get install npm)" >&2; exit 1; }
	npm install --prefix .azurite --no-audit --no-fund --silent azurite@3

kills: $(STAMP)  ## kill extractions at random moments, resume them and compare every byte (minutes; SEED=, KILLS=)
	$(BIN)/python -m pytest -s --no-header tests/campaigns/kills.py

shared: $(STAMP)  ## eight trainings on one --local, some killed and resumed, and compare (minutes; SEED=, ROUNDS=)
	$(BIN)/python -m pytest -s --no-header tests/campaigns/shared.py

ranks: $(STAMP)  ## small trainings by torchrun, and how each of their processes ends (10 s each; RUNS=)
	$(BIN)/python -m pytest -s --no-header tests/campaigns/ranks.py

faults: $(STAMP)  ## disturb every command and damage what is there, a thousand times, and count (20 minutes, as root; SEED=, FAULTS=, PHASE=, FAULT=)
	PYTHONPATH=tests:tests/pipeline/storage $(BIN)/python -m faulting.campaign

# Guided by coverage, with MINUTES=: that needs atheris, which exists for CPython 3.12 and 3.13 on Linux.
fuzz: $(STAMP)  ## hostile inputs for every reader of documents, and counts (READER=, SEED=, INPUTS=; or MINUTES=)
	@if [ -n "$(MINUTES)" ]; then $(BIN)/python -m pip install -q "atheris==3.1.0" && \
		PYTHONPATH=tests READER=$(READER) MINUTES=$(MINUTES) $(BIN)/python -m fuzzing.guided; \
	else PYTHONPATH=tests READER="$(READER)" SEED=$(SEED) INPUTS=$(INPUTS) $(BIN)/python -m fuzzing.campaign; fi

soak: $(STAMP)  ## an extraction, a training and an evaluation for an hour: memory, files and threads stay flat (OUT=, MINUTES=)
	$(BIN)/python benchmarks/soak.py $(or $(OUT),/tmp/gdist-soak) --minutes $(or $(MINUTES),60)

docs: $(STAMP)  ## the documentation site, in site/: without a network; a broken link or a public name without words fails
	$(BIN)/python -m sphinx -c docs -b html -W --keep-going -q . site
	@echo "open site/index.html"

pages: schemas  ## the pages and schemas that are made from the code: docs/reference, docs/schemas
	$(BIN)/python docs/generate.py

newcomer:  ## the first page and the tutorial as a newcomer has them, from an empty environment on, with the time each takes
	@python=$$($(FIND_PYTHON)); \
	[ -n "$$python" ] || { echo "gdist needs Python 3.12, 3.13 or 3.14 with venv, and found none." >&2; exit 1; }; \
	PYTHONPATH=tests "$$python" tests/campaigns/newcomer.py "$$python"

schemas: $(STAMP)  ## docs/schemas, JSON Schemas of all documents and of what --json prints, from the code's types
	PYTHONPATH=tests $(BIN)/python tests/schemas.py

compiled: $(STAMP)  ## train with torch.compile, and compare (a minute or two; needs a C++ compiler)
	$(BIN)/python -m pytest -s --no-header tests/campaigns/compiled.py

# On a machine where nothing can be installed: benchmarks/gpu.sh.
gpu: $(STAMP)  ## on a machine with a GPU: tests/test_cuda.py, then all speeds, into benchmarks/gpu/ (7 minutes at most)
	$(BIN)/python benchmarks/gpu.py $(STEPS)

# Not what the lock pins, but what `pip install gdist` would fetch today. The environment is created from scratch each
# time, and pull requests never wait for it: what fails here is to be fixed before a user meets it.
newest:  ## the tests with the newest torch, torchaudio, transformers and zarr (in a separate environment; ARGS=)
	@rm -rf $(NEWEST)
	@$(MAKE) --no-print-directory $(NEWEST)/.installed VENV=$(NEWEST) PACKAGES="'.[dev]'"
	@$(NEWEST)/bin/python -m pip list --disable-pip-version-check | grep -E '^(torch|torchaudio|transformers|zarr) '
	@$(MAKE) --no-print-directory tests VENV=$(NEWEST) PACKAGES="'.[dev]'"

# What the lock pins, on every Python that gdist is for; `make python3.13` is one of them. CI has each of them installed,
# so that one that is not found is a failure there.
matrix: $(addprefix python,$(PYTHONS))  ## the tests on Python 3.12 to 3.14, as far as they are found (PYTHONS=, ARGS=)

$(addprefix python,$(PYTHONS)): python%:
	@python=$$($(call FIND_PYTHON,$*)); \
	if [ -n "$$python" ]; then $(MAKE) --no-print-directory tests VENV=.venv-$* PYTHON="$$python"; \
	else echo "Python $*: none was found, so its tests are skipped" >&2; [ -z "$$CI" ]; fi

# TAG and LINKS reach dist.py through the environment, never as part of a command line: in a workflow they are what
# somebody called a tag.
dist: $(RELEASE)/.installed  ## wheel and source distribution in dist/, built twice, compared and checked (TAG=, LINKS=)
	PYTHONPATH=tests $(RELEASE)/bin/python -m release.dist dist
	$(RELEASE)/bin/twine check --strict dist/*.whl dist/*.tar.gz

dist-demo: dist  ## install the built wheel in an empty environment and run its `gdist demo` from another folder
	PYTHONPATH=tests $(RELEASE)/bin/python -m release.clean_demo $(CLEAN) dist/*.whl

sbom: $(RELEASE)/.installed  ## dist/gdist.cdx.json: what gdist and its extras bring, as CycloneDX
	@mkdir -p dist
	PYTHONPATH=tests $(RELEASE)/bin/python -m release.sbom dist/gdist.cdx.json

licences: $(VENV)/.locked  ## docs/licences.md: the packages that gdist and its extras bring, with their licences
	PYTHONPATH=tests $(BIN)/python -m release.licences

$(RELEASE)/.installed: requirements-release.lock
	@python=$$($(FIND_PYTHON)); \
	[ -n "$$python" ] || { echo "gdist needs Python 3.12, 3.13 or 3.14 with venv, and found none." >&2; exit 1; }; \
	rm -rf $(RELEASE) && "$$python" -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-release.lock
	@touch $@

# s3prl, as its users have it, in a separate environment: it brings packages that gdist should never need. torch and
# other shared packages come from .venv, which a .pth line adds.
s3prl: $(S3PRL)/.installed  ## set up s3prl, which exports are tested with

$(S3PRL)/.installed: $(VENV)/.locked tests/requirements-s3prl.txt
	@rm -rf $(S3PRL)
	$(BIN)/python -m venv $(S3PRL)
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		$$($(S3PRL)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth
	$(S3PRL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/requirements-s3prl.txt
	@touch $@

browser:  ## install Chromium, which the report's tests open, where that is possible
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	else echo "no Chromium: the report's browser tests will be skipped (install the package 'chromium')" >&2; fi; }

$(VENV)/.locked: requirements.lock
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
		echo "gdist needs Python 3.12, 3.13 or 3.14 with venv, but none was found." >&2; \
		echo "Install one (apt-get install python3.12-venv, brew install python@3.12, pyenv install 3.12)," >&2; \
		echo "or name one: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	[ -x $(BIN)/python ] || { echo "creating $(VENV) with $$python"; "$$python" -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PACKAGES)
	@touch $@

# The package itself is installed, not linked, so that a sub-package forgotten in pyproject.toml fails here and not on a
# user's machine.
$(STAMP): $(VENV)/.locked pyproject.toml README.md $(PACKAGE)
	@$(BIN)/python -m pip uninstall --quiet --disable-pip-version-check -y gdist 2>/dev/null || true
	@rm -rf build *.egg-info
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
	@rm -rf build *.egg-info
	@touch $@

lock:  ## resolve pyproject.toml into requirements.lock and requirements-release.lock (then: make licences)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.12 --universal --generate-hashes --no-header -o requirements.lock
	$(BIN)/uv pip compile --group release --python-version 3.12 --universal --generate-hashes --no-header -o requirements-release.lock

clean:  ## remove everything that make created
	rm -rf $(VENV) $(S3PRL) $(NEWEST) $(addprefix .venv-,$(PYTHONS)) $(RELEASE) $(CLEAN) dist .azurite build site *.egg-info gdist-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
