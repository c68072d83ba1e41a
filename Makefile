# Two commands do everything on a fresh machine: `make demo` and `make test`. `make` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# The lock's hashes are what is installed: change pyproject.toml, then `make lock`.
STAMP := $(VENV)/.installed
S3PRL := .venv-s3prl
NEWEST := .venv-newest
PACKAGE := $(shell find pipeline stages data_manifests -type f -not -path '*/__pycache__/*' 2>/dev/null)

# zarr needs Python >= 3.12. A machine's `python3` may be older while a newer one lies beside it or under pyenv, whose
# shims answer even for versions that are not switched on: each candidate is run before it is believed.
FIND_PYTHON = for candidate in $(PYTHON) python3.12 python3.13 python3.14 python3 \
	$$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[2-4]*/bin/python /usr/local/bin/python3.1[2-4] 2>/dev/null); do \
	"$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info < (3, 15))' \
	>/dev/null 2>&1 && { echo "$$candidate"; break; }; done

.PHONY: help demo test check lint types tests kills compiled browser s3prl newest lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(STAMP)  ## set up, then the whole story on the bundled speech (about 3 minutes; report in gdist-demo/)
	$(BIN)/gdist demo --out gdist-demo

test: check  ## set up, then lint, types and tests against the installed package

check: lint types tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy -p gdist.pipeline -p gdist.stages -p gdist.data_manifests
	$(BIN)/mypy tests

# A process a core, of one thread each: threads of several processes would wait for each other's cores.
tests: $(STAMP) browser $(S3PRL)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

kills: $(STAMP)  ## kill extractions at random moments, resume them and compare every byte (minutes; SEED=, KILLS=)
	$(BIN)/python -m pytest -s --no-header tests/campaigns/kills.py

compiled: $(STAMP)  ## train with torch.compile, and compare (a minute or two; needs a C++ compiler)
	$(BIN)/python -m pytest -s --no-header tests/campaigns/compiled.py

# Not what the lock has, but what `pip install gdist` would fetch today. Made anew each time, and never a part of CI:
# what fails here is to be mended before somebody meets it. (Tests that need s3prl are skipped, as it is made for .venv.)
newest: browser  ## the tests with the newest torch, torchaudio, transformers and zarr (an environment of its own)
	@python=$$($(FIND_PYTHON)); \
	[ -n "$$python" ] || { echo "gdist needs Python 3.12, 3.13 or 3.14 with venv, and found none." >&2; exit 1; }; \
	rm -rf $(NEWEST) && "$$python" -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	@rm -rf build *.egg-info
	@$(NEWEST)/bin/python -m pip list --disable-pip-version-check | grep -E '^(torch|torchaudio|transformers|zarr) '
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# s3prl, as its users have it, in an environment of its own: it brings packages that gdist should never need. torch and
# the like are those of .venv, which a .pth line adds.
s3prl: $(S3PRL)/.installed  ## set up s3prl, which an export is tested with

$(S3PRL)/.installed: $(VENV)/.locked tests/requirements-s3prl.txt
	@rm -rf $(S3PRL)
	$(BIN)/python -m venv $(S3PRL)
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		$$($(S3PRL)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth
	$(S3PRL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/requirements-s3prl.txt
	@touch $@

browser:  ## install Chromium, which the report's tests open, where that can be done
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	else echo "no Chromium: the report's browser tests will be skipped (install the package 'chromium')" >&2; fi; }

$(VENV)/.locked: requirements.lock
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
		echo "gdist needs Python 3.12, 3.13 or 3.14 with venv, and found none." >&2; \
		echo "Install one (apt-get install python3.12-venv, brew install python@3.12, pyenv install 3.12)," >&2; \
		echo "or name one: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	[ -x $(BIN)/python ] || { echo "making $(VENV) with $$python"; "$$python" -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

# The package itself is installed, not linked: a sub-package forgotten in pyproject.toml fails here, not at a user's.
$(STAMP): $(VENV)/.locked pyproject.toml README.md $(PACKAGE)
	@$(BIN)/python -m pip uninstall --quiet --disable-pip-version-check -y gdist 2>/dev/null || true
	@rm -rf build *.egg-info
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
	@rm -rf build *.egg-info
	@touch $@

lock:  ## resolve pyproject.toml into requirements.lock
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.12 --universal --generate-hashes --no-header -o requirements.lock

clean:  ## remove what make made
	rm -rf $(VENV) $(S3PRL) $(NEWEST) build *.egg-info gdist-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
