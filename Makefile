# Everything lives in .venv, which each target makes if it is missing. Paths are relative to this folder, whose own
# path may have spaces in it.
PYTHON ?= python3
VENV := .venv
DOCS_VENV := .venv-docs
BIN := $(VENV)/bin
# What the stages write below outputs/<scale>.
KINDS := config data drawn evaluations metrics predictions sweeps train
# No usage reports, and no waiting for them.
export DO_NOT_TRACK := 1
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help install demo weights test test-faults check-paper lint docs clean
.DEFAULT_GOAL := help

help:
	@echo "make install      make .venv with everything pinned in requirements.lock"
	@echo "make demo         run the whole pipeline on synthetic data, up to reports/demo/index.html"
	@echo "make weights      train what the demo starts from again, in pipeline/synthetic/weights (an hour on two cores)"
	@echo "make test         run the tests"
	@echo "make test-faults  kill workers, drivers and nodes of trainings under Ray (15 minutes on two cores)"
	@echo "make check-paper  three updates of every distinct training of the paper, small, on two processes (minutes)"
	@echo "make lint         check style, types and the direction of imports"
	@echo "make docs         write the documentation's pages to site/ (in .venv-docs, without torch)"
	@echo "make clean        remove what these targets and dvc repro made: .venv, site, outputs, reports, tracked runs, DVC's"
	@echo "                  cache, wheels, and dvc.lock unless a commit has it. The folders of a scale go as a whole. It stops"
	@echo "                  while a dvc repro or jobs run"

install: $(VENV)/.installed

# The bytecode of what commands import is compiled once, here, by importing it. Without it they take seconds longer to
# start, and do so every time where PYTHONDONTWRITEBYTECODE is set.
IMPORTED := stages.run_job, stages.run_sweep, stages.report, stages.generate, stages.track, dvc.cli, dvc.repo.reproduce, \
  dvc.commands.repro, ray.dashboard.dashboard, ray.dashboard.agent, ray._private.log_monitor, mlflow.cli, mlflow.server

$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "Installing into $(VENV): about 6 GB, a minute or two."
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet "uv>=0.5"
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@$(BIN)/python -c 'from pathlib import Path; from pipeline.graph import match_git; print(match_git(Path.cwd()) or "")'
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import $(IMPORTED)'
	@touch $@

demo: install
	$(BIN)/pointrend select demo
	$(BIN)/dvc repro
	@echo "Done. Open reports/demo/index.html, or compare the runs with: $(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db"

weights: install
	$(BIN)/pointrend select pretraining
	$(BIN)/dvc repro
	for name in shapes_detector streets_detector streets_segmenter; do \
	  $(BIN)/python -m pipeline.training.initial_weights $$name-0 pipeline/synthetic/weights/$$name.safetensors || exit 1; \
	done
	$(BIN)/pointrend select demo

# Two files at a time, each with one thread; the tests of a file run in order.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# One after the other: each starts a Ray of its own, some with several nodes.
test-faults: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults --durations=0

# Drawn data and small images, but the paper's networks, losses and settings.
check-paper: install
	OMP_NUM_THREADS=1 $(BIN)/pointrend check paper --shrink

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages are written from Markdown and docstrings alone, in an environment of their own: torch is not needed. A broken
# link, an unknown name or a page outside the menu is an error.
docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet --strict
	@echo "Open site/index.html, or: $(DOCS_VENV)/bin/mkdocs serve"

$(DOCS_VENV)/.installed: docs/requirements.lock
	@test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install --quiet -r docs/requirements.lock
	@touch $@

# Name by name: outputs and reports may hold other files as well, and .dvc/config.local is the user's. Status 75 means
# that something runs; a broken .venv is no reason not to remove it. `dvc exp run` puts dvc.lock into git's index.
clean:
	@if test -x $(BIN)/python; then $(BIN)/python -m pipeline.cluster.idle; test $$? -ne 75; fi
	rm -rf $(VENV) $(DOCS_VENV) site docs/__pycache__ mlflow.db mlflow.db-* mlflow.db.lock mlartifacts dvc_plots .pointrend .dvc/cache .dvc/tmp
	for scale in configs/experiments/*/; do \
	  scale=$$(basename "$$scale"); \
	  rm -rf "reports/$$scale"; \
	  for kind in $(KINDS); do rm -rf "outputs/$$scale/$$kind"; done; \
	  rmdir "outputs/$$scale" 2>/dev/null || true; \
	done
	for folder in outputs reports; do rmdir $$folder 2>/dev/null || true; done
	@if git cat-file -e HEAD:./dvc.lock 2>/dev/null; then echo "dvc.lock stays: it is committed"; else \
	  rm -f dvc.lock; git rm --quiet --cached --ignore-unmatch dvc.lock 2>/dev/null || true; fi
	find benchmarks pipeline pointrend stages tests -name __pycache__ -prune -exec rm -rf {} +
	rm -rf build dist pointrend.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
