# `make check` is the gate: continuous integration runs the same target.

PYTHON ?= python
CODE = wheels decoding envs agents benchmarks tests docs examples
WORKERS ?= 2

.PHONY: check format format-check lint links types docs tables test fast clean

check: format-check lint types docs test

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

# The pages, strictly: dead links and missing anchors fail. Nothing is fetched.
docs: links
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

# The tables of the results pages, anew from benchmarks/results.
tables:
	$(PYTHON) docs/hooks/result_tables.py

test:
	$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal

# What to run while you work: all that is not marked `slow`, in less than two minutes on two cores.
fast:
	$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
