# `make check` is the gate: continuous integration runs the same target.

PYTHON ?= python
CODE = wheels decoding envs agents benchmarks tests
WORKERS ?= 2

.PHONY: check format format-check lint links types test fast clean

check: format-check lint types test

format:
	$(PYTHON) -m ruff format $(CODE)
	$(PYTHON) -m ruff check --fix $(CODE)

format-check:
	$(PYTHON) -m ruff format --check $(CODE)

lint:
	$(PYTHON) -m ruff check $(CODE)

# One folder that looks like the installed package, for mypy and editors.
links:
	rm -rf build/types
	mkdir -p build/types/wheels
	cd build/types/wheels && ln -s ../../../wheels/* ../../../decoding ../../../envs ../../../agents ../../../benchmarks .

types: links
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -n $(WORKERS)

# What to run while you work: everything but whole runs, kills and processes.
fast:
	$(PYTHON) -m pytest -n $(WORKERS) -m "not slow"

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
