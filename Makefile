# make quickstart   installs qbench into .venv and measures the bundled model: precisions, tunings
# make test         installs what the tests need, runs them, and says which took longest
# make test-slow    the tests that make test leaves out: whole runs, suites rehearsed, kills, fuzz
# make fuzz         tries inputs made bad at random, FUZZ times as many as CI; kills runs, and nodes, 50 times
# make rehearse     runs every suite on the bundled model and data, all cells and measurements
# make lint         ruff, mypy, import-linter; shell scripts, the Dockerfile, workflows and the action
# make docs         builds the pages of docs/ into build/site; fails on a broken link
# make bench        benchmarks of qbench itself
# make dist         builds the wheel and the sdist into dist/, and runs them in fresh environments
# make test-pythons make test with each Python that qbench is for, each in an environment of its own
# make audit        asks about known vulnerabilities of the tested versions; fails where it cannot ask
# make sbom         build/sbom.cdx.json: what an installation of the wheel consists of (CycloneDX)
#
# torch is the build for CPUs on a machine without an NVIDIA GPU: see tools/install_torch.sh.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
WORKERS ?= 2
FUZZ ?= 50

PYTHONS ?= 3.11 3.12 3.13

.PHONY: install quickstart test test-slow test-pythons fuzz rehearse lint docs bench dist audit sbom clean

install: $(VENV)/.installed

quickstart: $(VENV)/.installed
	$(BIN)/qbench run suites/quickstart.yaml

# With an empty PYTHONDONTWRITEBYTECODE the tests and qbench are compiled once, not by each worker and
# each of the processes that tests start.
test test-slow: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m "not slow" --durations 10

test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m slow --durations 10

fuzz: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 QBENCH_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/fuzz --timeout 0 --numprocesses $(WORKERS)
	OMP_NUM_THREADS=1 QBENCH_KILLS=50 $(BIN)/python -m pytest -m slow tests/running/test_serving_killed.py
	OMP_NUM_THREADS=1 QBENCH_KILLS=50 $(BIN)/python -m pytest -m slow tests/running/test_ray_killed.py
	OMP_NUM_THREADS=1 QBENCH_KILLS=30 $(BIN)/python -m pytest -m slow tests/running/test_slurm_killed.py --timeout 0

rehearse: $(VENV)/.installed
	for suite in $$(find suites -name "*.yaml" | sort); do $(BIN)/qbench run "$$suite" --rehearse --fresh --quiet || exit 1; done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck .ci/* tools/*.sh tools/action/*.sh
	$(BIN)/hadolint Dockerfile
	$(BIN)/zizmor --offline --quiet action.yml .github
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

# twine stands in no extra: its check is all that is needed of it.
dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --installer uv --outdir dist
	$(BIN)/uv tool run --from 'twine>=6.1,<7' twine check --strict dist/*
	QBENCH_DIST=dist $(BIN)/python -m pytest -m slow tests/packaging

# uv finds an interpreter of this machine, or brings one.
test-pythons: $(VENV)/.installed-dev
	for version in $(PYTHONS); do \
	  python=$$($(BIN)/uv python find --no-project $$version 2>/dev/null) || \
	    { $(BIN)/uv python install $$version && python=$$($(BIN)/uv python find --no-project $$version); } || exit 1; \
	  $(MAKE) test PYTHON=$$python VENV=$(VENV)-$$version || exit 1; \
	done

audit: $(VENV)/.installed-dev
	$(BIN)/python tools/audit.py constraints.txt

sbom: $(VENV)/.installed-dev
	tools/sbom.sh $(BIN)/python build/sbom.cdx.json

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt tools/install_torch.sh | $(BIN)/python
	tools/install_torch.sh $(BIN)/python
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) --editable '.[dev]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) --editable '.[docs]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) $(VENV)-3.* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
