PYTHON ?= python3
VENV   := .venv
ENVPY  := $(VENV)/bin/python
PETSC_VENV := .venv-petsc

.DELETE_ON_ERROR:
# demo and test share one environment: two installations at once would break it.
.NOTPARALLEL:
.PHONY: help demo test test-all test-distributed docs clean

help:
	@echo "make demo      create $(VENV), install, solve a transport problem, write figures to demo-output/"
	@echo "make test      create $(VENV), install, run the tests but the slow ones"
	@echo "make test-all  the same with the slow tests"
	@echo "make test-distributed  Debian's PETSc and $(PETSC_VENV) beside $(VENV), the tests of the distributed engine"
	@echo "make docs      the documentation, docs/_build/html/index.html"
	@echo "make clean     remove $(VENV), $(PETSC_VENV), demo-output/ and everything built or cached"
	@echo "Another Python: make demo PYTHON=/path/to/python3 (make clean first if $(VENV) exists)"

demo: $(VENV)/.installed
	$(ENVPY) -m pmapde demo --out demo-output

test: $(VENV)/.installed-test
	$(ENVPY) -m pytest -m "not slow"

test-all: $(VENV)/.installed-test
	$(ENVPY) -m pytest

# Stamps are touched last, so that an interrupted or failed step is done again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("pmapde needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@$(ENVPY) -c 'import pip, sys; sys.exit(int(pip.__version__.split(".")[0]) < 23)' \
		|| $(ENVPY) -m pip install --upgrade pip
	@touch $@

$(VENV)/.installed: $(VENV)/.created setup.cfg pyproject.toml
	$(ENVPY) -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created setup.cfg pyproject.toml
	$(ENVPY) -m pip install --quiet -e ".[test]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(VENV)/.created setup.cfg pyproject.toml
	$(ENVPY) -m pip install --quiet -e ".[docs]"
	@touch $(VENV)/.installed $@

# Warnings are errors: a dead reference, a page that is in no list.
docs: $(VENV)/.installed-docs
	$(ENVPY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Where PETSc cannot be had the tests are skipped, with the reason; where it can they must run, and pass.
test-distributed:
	@if reason=$$(tests/distributed/set_up.sh $(PETSC_VENV)); then \
		PMAPDE_REQUIRE_PETSC=1 NUMBA_CACHE_DIR=$(PETSC_VENV)/numba-cache \
			$(PETSC_VENV)/bin/python -m pytest -p no:cacheprovider tests/distributed; \
	elif [ $$? -eq 75 ]; then echo "make test-distributed: skipped: $$reason"; \
	else echo "make test-distributed: the environment could not be made: $$reason" >&2; exit 1; fi

clean:
	rm -rf $(VENV) $(PETSC_VENV) demo-output build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache \
		docs/_build docs/generated docs/notebooks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
