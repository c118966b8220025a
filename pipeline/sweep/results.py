"""Writes a sweep's results: its trials as Parquet, the best setting as an experiment, a summary as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.config.experiments import ExperimentConfig
from pipeline.config.sweeps import PARAMETERS
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.sweep.records import TrialRecord


def best_trial(records: Sequence[TrialRecord], metric: str) -> TrialRecord:
    """The trial with the highest metric among those that finished; among equals, the cheapest one.

    Raises:
        UserError: if no trial finished.
    """
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        raise UserError("no trial finished: all have diverged; lower the schedule's learning rate")
    return min(finished, key=lambda r: (-r.metrics[metric], r.multiply_adds or 0, r.seconds or 0))


def to_table(records: Sequence[TrialRecord], metric: str) -> pa.Table:
    """A table with one row per trial: parameters, status, updates, costs, metrics, and the metric at every rung."""
    names = sorted({name for record in records for name in record.metrics})
    columns: dict[str, Any] = {"trial": pa.array([r.name for r in records])}
    for name, parameter in PARAMETERS.items():
        if any(name in r.point for r in records):
            kind = pa.int64() if parameter.is_count else pa.float64()
            columns[name] = pa.array([r.point.get(name) for r in records], kind)
    columns["status"] = pa.array([r.status for r in records])
    columns["updates"] = pa.array([r.updates for r in records], pa.int64())
    columns["seconds"] = pa.array([r.seconds for r in records], pa.float64())
    columns["multiply_adds"] = pa.array([r.multiply_adds for r in records], pa.int64())
    for name in names:
        columns[name] = pa.array([r.metrics.get(name) for r in records], pa.float64())
    rung = pa.struct([("update", pa.int64()), (metric, pa.float64())])
    columns["rungs"] = pa.array(
        [[{"update": g.update, metric: g.metrics.get(metric)} for g in r.rungs] for r in records], pa.list_(rung)
    )
    columns["mlflow_run_id"] = pa.array([r.mlflow_run_id for r in records])
    return pa.table(columns)


def write_results(
    folder: Path, records: Sequence[TrialRecord], metric: str, best: TrialRecord, setting: ExperimentConfig, about: Any
) -> None:
    """Writes ``results.parquet``, ``best.yaml`` and ``sweep.json`` into an existing folder.

    Args:
        folder: the folder.
        records: all trials.
        metric: the metric that trials are compared by.
        best: the best trial.
        setting: the experiment with the settings of the best trial.
        about: further entries of ``sweep.json``.
    """
    pq.write_table(to_table(records, metric), folder / "results.parquet", compression="zstd")
    with (folder / "best.yaml").open("w", encoding="utf-8") as stream:
        stream.write("# Copy it to configs/experiments/<scale>/ to train and evaluate it.\n")
        yaml.safe_dump(setting.model_dump(exclude_none=True), stream, sort_keys=False)
    write_json(folder / "sweep.json", {**about, "metric": metric, "best": best.name, "trials": len(records)})
