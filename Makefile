# You need make and Python 3.11 to 3.13 with venv; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
WORKDIR ?= runs/quick

.DEFAULT_GOAL := help
.PHONY: help train test test-slow test-hosts lint clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

train: $(VENV)/installed  ## train on synthetic data, evaluate, write the report (WORKDIR=runs/quick)
	$(RUN) -m mbn_jax train --workdir=$(WORKDIR)

test: $(VENV)/installed-dev  ## run the tests
	$(RUN) -m pytest -n auto --maxprocesses=4 --dist=loadfile

test-slow: $(VENV)/installed-dev  ## run the tests that cause real faults (half an hour)
	$(RUN) -m pytest -m slow tests/failures

test-hosts: $(VENV)/installed-dev  ## run the other slow tests, such as training in several processes (ten minutes)
	$(RUN) -m pytest -m slow tests --ignore=tests/failures

lint: $(VENV)/installed-dev  ## check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:  ## remove .venv, but no data and no runs
	rm -rf $(VENV)

$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v else f"Python 3.11 or newer is needed, {sys.executable} is {v[0]}.{v[1]}; give another with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
