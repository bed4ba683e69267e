# The two commands: `make paper_tables` (everything a table needs, then the tables) and `make test`.
# ARGS goes to the command behind a target: make paper_tables ARGS="--configfile params/smoke.yaml".

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
CORES ?= all
# The environment is installed again when the lock's content changes, whatever the clock says.
STAMP := $(VENV)/.installed-$(shell cksum < envs/requirements.lock | tr ' ' '-')
# Nothing here reports home, and two threads a test would only fight over two cores.
export PATH := $(abspath $(BIN)):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: setup paper_tables test lint types workflow_lint pytest format bench report lock clean

setup: $(STAMP)

$(STAMP):
	@bash envs/setup.sh $(VENV)
	@rm -f $(VENV)/.installed-*
	@touch $@

paper_tables: setup
	snakemake --cores $(CORES) paper_tables $(ARGS)

# Everything a change must pass; needs no network once the environment stands.
test: lint types workflow_lint pytest

lint: setup
	ruff check .
	ruff format --check .

types: setup
	mypy

workflow_lint: setup
	snakefmt --check --compact-diff Snakefile workflow/rules
	snakemake --lint

pytest: setup
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python -m pytest -n 2 --dist loadfile $(ARGS)

format: setup
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow/rules

bench: setup
	python -m benchmarks.run $(ARGS)

# One page with tables, curves and claims, of the runs that are there.
report: paper_tables
	snakemake --cores 1 --report report.html

# Freeze what is installed. Local version tags (torch's +cpu) are builds of one version, so they stay out.
lock: setup
	@{ grep '^#' envs/requirements.lock; \
	  python -m pip freeze --all 2>/dev/null | sed 's/+[a-z0-9.]*$$//' | grep -viE '^(pip|wheel)=='; } > envs/lock.tmp
	@mv envs/lock.tmp envs/requirements.lock
	@rm -f $(VENV)/.installed-* && touch $(VENV)/.installed-$$(cksum < envs/requirements.lock | tr ' ' '-')

# Results and environment stay: they cost hours. `git clean -xfd` is for those who mean it.
clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis report.html
	find pipelines tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
