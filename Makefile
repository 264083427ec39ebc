# Everything sets itself up: `make demo` and `make test` work on a fresh machine with Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-fast check docs bench faults faults-short deploy-test deploy-test-short lock clean

help: ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)

# A lock names all there is, so nothing is left to resolve; pip's resolver refuses hashes where a
# package asks for an extra (fsspec[s3]) that the lock names without. `pip check` sees to the rest.
$(VENV)/.base: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes --no-deps -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	$(PIP) check
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes --no-deps -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	$(PIP) check
	@touch $@ $(VENV)/.base

demo: $(VENV)/.base ## Make images, find their circles, and say where to look
	$(BIN)/cohort demo demo

# Each of a thousand processes would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE

# Files in order, the short ones last: by default those with the fewest tests, which take longest,
# would be. A third process computes while others wait.
PYTEST = -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not faults and not deploy"

test: $(VENV)/.dev ## Run the tests
	$(BIN)/python $(PYTEST) --durations 10

coverage: $(VENV)/.dev ## Run the tests, and measure what they cover: 40 % more computing time
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run $(PYTEST)
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m coverage run -m pytest -q tests/unit/kernels -k small
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

test-fast: $(VENV)/.dev ## Run the tests that start no clusters, servers or processes
	$(BIN)/python -m pytest -q -n 2 --fast tests/unit tests/contracts

# Node comes as a wheel, and npm's lock pins the binary of biome by its hash.
WITH_NODE = PATH="$(CURDIR)/$(BIN):$$PATH"
BIOME = tests/biome/node_modules/.bin/biome

$(VENV)/.biome: tests/biome/package-lock.json $(VENV)/.dev
	@if $(WITH_NODE) npm ci --silent --prefix tests/biome; then touch $@; \
	else echo "SKIPPED: no CSS or JavaScript is checked, npm can't install biome here"; fi

check: $(VENV)/.dev $(VENV)/.biome ## Lint, formatting, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	[ ! -e $(VENV)/.biome ] || \
	  $(WITH_NODE) $(BIOME) ci --config-path tests/biome --error-on-warnings engine

SPHINX ?= $(BIN)/python -m sphinx

docs: $(VENV)/.dev ## Build the documentation, to docs/_build/html/index.html
	$(SPHINX) -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/.dev ## Measure against peers, as ratios in one run
	$(BIN)/python -m tests.benchmarks

faults: $(VENV)/.dev ## Repeat the fault tests, and print what survived
	$(BIN)/python -m pytest -m "faults or fault" tests

faults-short: $(VENV)/.dev ## Run one repetition of each fault test (some minutes)
	COHORT_TEST_FLIPS=$(or $(COHORT_TEST_FLIPS),5) COHORT_TEST_WALKS=$(or $(COHORT_TEST_WALKS),20) \
	  COHORT_TEST_POWER_CUTS=$(or $(COHORT_TEST_POWER_CUTS),2) \
	  $(BIN)/python -m pytest -q --one-repetition -m faults tests

# A network, process ids and mounts of their own: nothing of it is seen from outside, or outlives it.
CONTROL_PLANE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cohort-control-plane

ON_CONTROL_PLANE = unshare --net --mount --pid --fork --kill-child --mount-proc \
  env COHORT_CONTROL_PLANE=$(CONTROL_PLANE)/bin $(BIN)/python -m pytest

deploy-test: $(VENV)/.dev ## Test deploy/kubernetes on a real control plane (root on Debian 12)
	@if tests/deploy/control_plane/build $(CONTROL_PLANE) >$(VENV)/control-plane.log 2>&1; then \
	  $(ON_CONTROL_PLANE) -m deploy -rA tests/deploy; \
	else \
	  tail -n 3 $(VENV)/control-plane.log; \
	  echo "SKIPPED deploy-test: the control plane can't be built here, see $(VENV)/control-plane.log"; \
	fi

deploy-test-short: $(VENV)/.dev ## One night and one session of deploy-test, if its control plane is built
	@if [ -x $(CONTROL_PLANE)/bin/kube-apiserver ]; then \
	  tests/deploy/control_plane/build $(CONTROL_PLANE) >$(VENV)/control-plane.log 2>&1 && \
	  $(ON_CONTROL_PLANE) -m "deploy and short" tests/deploy; \
	else \
	  echo "SKIPPED deploy-test-short: no control plane in $(CONTROL_PLANE); make deploy-test builds it"; \
	fi

COMPILE = $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --generate-hashes --no-annotate \
  --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --extra build

# The image reads every format, since its root is read-only and no extra can be added. It has no
# torch unless it is for CUDA: torch for Linux comes with CUDA's libraries, 5 GB.
IN_IMAGE = --extra dicom --extra nifti --extra slides \
  --extra kubernetes --extra jupyter --extra notebooks

lock: $(BIN)/python ## Resolve all versions anew, with hashes
	$(PIP) install 'pip-tools>=7.5'
	$(COMPILE) --upgrade --extra dev -o requirements-dev.lock pyproject.toml
	sed -i '/^cohort-engine @/d' requirements-dev.lock  # the extra dev names extras of our own
	rm -f requirements.lock
	$(COMPILE) --constraint requirements-dev.lock -o requirements.lock pyproject.toml
	rm -f deploy/docker/requirements-*.lock
	$(COMPILE) --constraint requirements-dev.lock $(IN_IMAGE) \
	  -o deploy/docker/requirements-cpu.lock pyproject.toml
	if grep -q '^segment = ' pyproject.toml; then $(COMPILE) $(IN_IMAGE) --extra segment \
	  --constraint requirements-dev.lock -o deploy/docker/requirements-cuda.lock pyproject.toml; fi

clean: ## Remove what was set up and measured
	rm -rf $(VENV) tests/biome/node_modules docs/_build docs/generated docs/reference/python .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
