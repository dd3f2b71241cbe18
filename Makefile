# A fresh clone proves itself on a CPU; setting up takes the network, what follows does not.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help setup demo check test faults test-slurm gpu-check tables page docs lint types audit clean

help:                ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(VENV)/run.stamp: requirements.txt requirements-demo.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: it takes Python 3.11 or newer: add PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what a run needs into $(VENV): a few minutes and, with a GPU build of torch, some gigabytes"
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -r requirements-demo.txt
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements-dev.txt
	@echo "installing what tests need into $(VENV)"
	$(PIP) -r requirements-dev.txt
	touch $@

setup: $(VENV)/run.stamp ## .venv with all that a run needs, pinned

demo: setup          ## DoRA on generated CoLA with a small encoder: under two minutes on two cores, offline
	$(BIN)/python train.py method=dora task=cola profile=offline

check: lint types    ## before each commit: lint, types, import layers, settings and methods
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/house tests/methods tests/core tests/experiments/test_config.py

test: $(VENV)/dev.stamp ## all tests, on every core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

faults: $(VENV)/dev.stamp ## the long form: fifty kills, a full disk, bad input by the hundred, every compiled method
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults tests/models tests/docs/test_readme.py tests/training/test_processes.py --long -n auto

test-slurm: $(VENV)/dev.stamp ## sweeps through a real Slurm of one node, as root; installs its Debian packages if they are missing
	which slurmctld slurmd munged sbatch >/dev/null || \
		apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slurm --slurm -v

gpu-check: $(VENV)/dev.stamp ## the first thing to run on a GPU: each method on it, and a benchmark cell; prints what a bug report needs
	OMP_NUM_THREADS=1 $(BIN)/python scripts/gpu_check.py

tables: $(VENV)/dev.stamp ## tables, figures, notebooks and the README's headline table, from the committed records
	$(BIN)/python scripts/make_tables.py
	$(BIN)/python scripts/make_figures.py
	$(BIN)/python scripts/run_notebooks.py

page: $(VENV)/dev.stamp ## page/index.html: the results to look at in a browser, without a network
	$(BIN)/python scripts/make_page.py

docs: $(VENV)/dev.stamp ## docs/ as a site in site/, whose search works offline; a dead link fails
	$(BIN)/python scripts/architecture.py
	$(BIN)/python scripts/methods_page.py
	$(BIN)/zensical build --strict

lint: $(VENV)/dev.stamp ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp ## mypy
	$(BIN)/mypy

audit:               ## known vulnerabilities of the pinned packages, asked of PyPI
	test -x $(VENV)/audit/bin/python || $(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean:               ## removes the environment; runs/ stays
	rm -rf $(VENV)
