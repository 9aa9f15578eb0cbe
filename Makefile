# make demo        train LIRDRec on generated data and write a report to look at
# make test        run the whole test suite
# make test-fast   run the quick tests of data, layers, transforms, sampling and metrics
# make lint        run ruff and mypy
# make docs        build the documentation, docs/_build/html/index.html
# make docs-links  check the links of the documentation to the web
# Each installs what it needs into $(VENV) once. An installed torch is kept.

PYTHON ?= python3
VENV ?= .venv
# The release the project is tested with; without an NVIDIA GPU its CPU build, which is much smaller.
TORCH ?= torch==2.13.0
CPU_INDEX = https://download.pytorch.org/whl/cpu
GET_PIP = https://bootstrap.pypa.io/get-pip.py
# Tests of a file share its fixtures; tests/conftest.py lets the slow files start first.
FAST = $(addprefix tests/,data nn transforms sampler evaluation)
PARALLEL = --numprocesses auto --dist loadfile --no-loadscope-reorder
# Tests are compiled once, whatever the environment says: that takes seconds in each process.
export PYTHONDONTWRITEBYTECODE =
SPHINX = $(VENV)/bin/python -m sphinx --fail-on-warning --keep-going -d docs/_build/doctrees
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-fast lint docs docs-links clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.report
	$(VENV)/bin/lirdrec-pyg fit --data synthetic --out runs/demo --overwrite --report
	@echo "Open runs/demo.html in a browser. Compute the metrics again: $(VENV)/bin/lirdrec-pyg evaluate runs/demo"

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-fast: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not slow and not fuzz" $(FAST) $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.docs
	$(SPHINX) -b html docs docs/_build/html

docs-links: $(VENV)/.docs
	$(SPHINX) -b linkcheck docs docs/_build/links

clean:
	rm -rf $(VENV) runs docs/_build docs/reference/api

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Python 3.10 or newer is required. Pass one as make PYTHON=python3.12"; exit 1; }
# Debian and Ubuntu keep ensurepip in a separate package; pip's own installer does not need it.
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	    rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && \
	    $(PYTHON) -c 'from urllib.request import urlretrieve as get; get("$(GET_PIP)", "$(VENV)/get-pip.py")' && \
	    $(VENV)/bin/python $(VENV)/get-pip.py --quiet; } >/dev/null 2>&1 || { rm -rf $(VENV); \
	    echo "Cannot create a virtual environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.torch: $(VENV)/.created
	@if $(VENV)/bin/python -c 'import torch' 2>/dev/null; then echo "torch is installed already"; \
	elif command -v nvidia-smi >/dev/null; then echo "installing $(TORCH)"; $(PIP) '$(TORCH)'; \
	else echo "installing $(TORCH) for the CPU"; $(PIP) --retries 1 --extra-index-url $(CPU_INDEX) '$(TORCH)' 2>$(VENV)/torch.log || \
	    { cat $(VENV)/torch.log; exit 1; }; fi
	@touch $@

$(VENV)/.package: pyproject.toml $(VENV)/.torch
	@echo "installing lirdrec-pyg"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.report: $(VENV)/.package
	@$(PIP) --editable '.[report]'
	@touch $@

$(VENV)/.test: $(VENV)/.package
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.package
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.package
	@$(PIP) --editable '.[docs]'
	@touch $@
