# Everything a checkout needs; `make` alone lists the targets. The environment in .venv is made, and renewed when
# pyproject.toml or constraints.txt changed, by whichever target needs it.
#   make demo PYTHON=/opt/python3.12/bin/python3    another interpreter (3.11 or later)

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast test-cluster check format clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
PYTHON ?=
PROCESSES := 2
test test-cluster: PROCESSES := 3  # tests on SLURM wait for its clocks now and then
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(or $(TEST_PROCESSES),$(PROCESSES)) --dist loadfile --no-loadscope-reorder

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(STAMP) ## the lab sweep on this machine, then its report (the last line is its path)
	@$(BIN)/bll launch sweep=lab
	@$(BIN)/bll report lab

test: $(STAMP) ## all tests (those on a real SLURM are skipped without its packages or root)
	@$(PYTEST)

test-fast: $(STAMP) ## the tests that take seconds
	@$(PYTEST) -m "not slow"

test-cluster: $(STAMP) ## the tests on a real SLURM, as root (tests/cluster/local-slurm install)
	@BLL_REQUIRE_SLURM=1 $(PYTEST) tests/cluster

check: $(STAMP) ## lint, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## put formatting right
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

venv: $(STAMP) ## only the environment

clean: ## remove caches and builds; .venv/ and runs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './runs/*' -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@set -eu; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  python=; \
	  for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "bll-sweeps needs Python 3.11 or later; none of '$(or $(PYTHON),python3.11 python3.12 python3.13 python3)' is one." >&2; \
	    echo "Install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$python" --version) (a few minutes, once)"; \
	  "$$python" -m venv --clear $(VENV) || { echo "Python's venv module is incomplete (Debian: apt install python3-venv)" >&2; exit 1; }; \
	else echo "Bringing $(VENV) up to date"; fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	touch $@
