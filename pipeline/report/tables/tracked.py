"""Logs the tables in MLflow: each table is an experiment with a run per row and seed, to compare in ``mlflow ui``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from pipeline.config.tables import Row, TableConfig
from pipeline.report.results import EvaluationResult, RunResult
from pipeline.report.tables.table import row_label
from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import RunRecord, content_key, log_run
from pipeline.tracking.views import View, present
from pipeline.training.metrics_file import MetricEntry, now

KIND = "table row"


@dataclass(frozen=True)
class RowRun:
    """A row of a table for one seed, as it is logged in MLflow.

    Attributes:
        name: the row's labels.
        parameters: those of the row's evaluations; where they differ, all values.
        metrics: by the keys of the columns, in their units.
        tags: what to filter by, and the ids of the MLflow runs that the metrics are from.
    """

    name: str
    parameters: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def key(self) -> str:
        return content_key(asdict(self))


def log_tables(tables: Mapping[str, TableConfig], results: Sequence[RunResult], tracker: Tracker) -> None:
    """Logs the rows of each table in the experiment ``<tracker's experiment>-<table>``.

    The experiment has a description, and a saved view with the table's columns. Rows that are logged already are kept.
    Logged rows that are no longer in the table are deleted; MLflow only marks them as deleted.

    Args:
        tables: by name.
        results: the results of the selected runs.
        tracker: of the scale's experiment.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    for name, table in tables.items():
        rows = [run for row in table.rows for run in row_runs(name, table, row, results)]
        experiment = f"{tracker.experiment}-{name}"
        if not rows and not tracker.has_experiment(experiment):
            continue
        own = tracker.of_experiment(experiment)
        kept = {_log(row, own) for row in rows}
        for run in own.runs({"kind": KIND}):
            if run.info.run_id not in kept:
                own.delete(run.info.run_id)
        if rows:
            heading = table.heading_of(name)
            present(own, f"{heading}: {table.title}", name, _view(heading, table, rows))


def _view(name: str, table: TableConfig, rows: Sequence[RowRun]) -> View:
    """The columns of a table, after the parameters in which its rows differ."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for key, value in row.parameters.items():
            values.setdefault(key, set()).add(value)
    differing = [key for key, found in values.items() if len(found) > 1]
    measured = {key for row in rows for key in row.metrics}
    return View(name, differing, [column.key for column in table.columns if column.key in measured])


def _log(row: RowRun, tracker: Tracker) -> str:
    time = now()
    metrics = [MetricEntry(key, value, time, 0) for key, value in row.metrics.items()]
    return log_run(tracker, RunRecord(row.key, row.name, row.parameters, row.tags, time, time, metrics))


def row_runs(name: str, table: TableConfig, row: Row, results: Sequence[RunResult]) -> list[RowRun]:
    """A run for each seed that has any of a row's measured numbers.

    Args:
        name: the table's.
        table: the table.
        row: one of its rows.
        results: of the runs.
    """
    runs = {(result.experiment, result.seed): result for result in results}
    found = []
    for seed in sorted({result.seed for result in results}):
        metrics: dict[str, float] = {}
        sources: dict[str, tuple[RunResult, EvaluationResult]] = {}
        for column in table.columns:
            cell = row.measured.get(column.key)
            run = runs.get((cell.experiment, seed)) if cell else None
            evaluation = run.evaluations.get(cell.evaluation) if cell and run else None
            if cell is None or run is None or evaluation is None:
                continue
            value = evaluation.metrics.get(cell.metric, math.nan)
            if not math.isnan(value):
                metrics[column.key] = value / column.unit
                sources[evaluation.mlflow_run_id] = (run, evaluation)
        if metrics:
            parameters = _joined([evaluation.parameters for _, evaluation in sources.values()])
            labels = row_label(row, results)
            tags = {
                "kind": KIND,
                "table": name,
                "row": labels,
                "head": parameters["head"],
                "backbone": parameters["backbone"],
                **({"sampler": parameters["sampling"]} if "sampling" in parameters else {}),
                "trainings": _list(run.mlflow_run_id for run, _ in sources.values()),
                "evaluations": _list(sources),
            }
            found.append(RowRun(labels, parameters, metrics, tags))
    return found


def _joined(parameters: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The parameters of several runs in one; where they differ, a list of all values."""
    keys = dict.fromkeys(key for of_run in parameters for key in of_run)
    return {key: _list(of_run[key] for of_run in parameters if key in of_run) for key in keys}


def _list(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
