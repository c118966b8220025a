# Everything lives in .venv, which each target makes if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# No usage reports, and no waiting for them.
export DO_NOT_TRACK := 1
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: install demo test test-faults lint clean
.DEFAULT_GOAL := help

help:
	@echo "make install  make .venv with everything pinned in requirements.lock"
	@echo "make demo     run the whole pipeline on synthetic data, to reports/demo/index.html"
	@echo "make test     run the tests"
	@echo "make test-faults  kill workers, drivers and nodes of real trainings under Ray (a quarter of an hour on two cores)"
	@echo "make lint     check style and types"
	@echo "make clean    remove .venv, data, outputs, reports and tracked runs"

install: $(VENV)/.installed

# Compiled once, here: without, a stage takes seconds longer to start, each time where PYTHONDONTWRITEBYTECODE is set.
$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "Installing into $(VENV): about 6 GB, a minute or two."
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet "uv>=0.5"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode -r requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

demo: install
	pointrend select demo
	dvc repro
	@echo "Done. Open reports/demo/index.html, or compare the runs with: $(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db"

# Two files at a time, of one thread each; the tests of a file run in order.
test: install
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# One after the other: each has a Ray of its own, or several nodes of one.
test-faults: install
	OMP_NUM_THREADS=1 python -m pytest -m faults --durations=0

lint: install
	ruff check .
	ruff format --check .
	mypy

clean:
	rm -rf $(VENV) data outputs reports mlflow.db mlartifacts .pointrend .dvc/cache .dvc/tmp
	find . -name __pycache__ -prune -exec rm -rf {} +
