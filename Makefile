# Each command installs the package and its development tools into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CODE := src tests perf tools docs/examples examples
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

.PHONY: install quickstart format check format-check lint types layers dead-code spelling docs dist test-fast test \
  test-models clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

quickstart: install
	$(BIN)/expunge quickstart

# Fix formatting and whatever else ruff can fix.
format: install
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# All static checks; the order is from fast to slow.
check: format-check lint spelling dead-code layers types

format-check: install
	$(BIN)/ruff format --check $(CODE)

lint: install
	$(BIN)/ruff check $(CODE)

spelling: install
	$(BIN)/codespell src perf tools docs examples *.md

dead-code: install
	$(BIN)/python tools/dead_code.py

# Layers and import cycles.
layers: install
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy -p expunge

# The site, in site/; warnings, such as those about broken links, are errors.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Wheel and source distribution, in dist/.
dist: install
	$(BIN)/python -m build

# Unit and meta tests but the slow ones, in at most 90 seconds on two cores.
test-fast: install
	$(PYTEST) --dist worksteal -m "not slow" tests/unit tests/meta

test: install
	$(PYTEST) --dist loadfile

# All causal language model classes of transformers, in one process because the last test writes a record of them.
test-models: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "" tests/models

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
