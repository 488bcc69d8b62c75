# Everything from a machine that has only Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
# Processes that run tests at the same time: auto is one a core.
WORKERS ?= auto
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test nightly check docs tutorial package release release-check lower-bounds bench clean

demo: $(VENV)/.installed
	$(BIN)/medxlate demo --overwrite

# Tests that measure time run alone, after the others; the longest are left to nightly.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile -m "not alone and not nightly"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "alone and not nightly"

# What takes long or needs a quiet machine, one after the other; ends at what fails.
nightly: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz --count 20000
	.ci/nnunet $(BIN)/python
	.ci/pythons $(BIN)/python

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The reference is generated, then the site is built; a link that leads nowhere is an error.
docs: $(VENV)/.installed-docs
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # --quiet would hide warnings from --strict

tutorial: $(VENV)/.installed
	$(BIN)/python docs/run_tutorial.py

package: $(VENV)/.installed-dev
	.ci/wheel $(BIN)/python

# Links on the package index lead to the files of this version's tag in the public repository.
release:
	@case "$(REPOSITORY)" in https://?*) ;; *) echo "Name the public repository: make release REPOSITORY=https://..." >&2; exit 1;; esac
	$(MAKE) $(VENV)/.installed-dev
	rm -rf dist
	MEDXLATE_REPOSITORY=$(REPOSITORY) $(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/contents.py dist/*

# Before a release: the wheel in an empty environment, about 5 GB from the package index, and the demo.
release-check: $(VENV)/.installed-dev
	.ci/wheel $(BIN)/python --full

lower-bounds:
	PYTHON=$(PYTHON) .ci/lower-bounds .venv-lower

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks all

clean:
	rm -rf $(VENV) .venv-* site .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	touch $@
