"""Logs runs in MLflow: new runs, and runs that are missing because a database was lost.

A :class:`RunRecord` describes a run. :func:`log_run` finds the run in MLflow and completes it, or creates it. Files
describe a run that MLflow has lost: ``train.json`` and ``metrics.jsonl`` a training, ``evaluations/<run>.json`` its
evaluations, ``mlflow.json`` a sweep.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow.entities import Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from pipeline.config.evaluations import EvaluationSetting
from pipeline.config.experiments import RunConfig
from pipeline.config.parameters import run_parameters, setting_parameters
from pipeline.evaluation.class_scores import ClassScores, entry_class_scores
from pipeline.evaluation.record import EvaluationRecord
from pipeline.files import write_json
from pipeline.tracking.client import Tracker, tags_query
from pipeline.tracking.origin import ORIGIN_TAGS, SEEDS, evaluation_origin
from pipeline.tracking.store import RELOGGED_TAG
from pipeline.training.metrics_file import MetricEntry, MetricsFile, now
from pipeline.training.record import METRICS, TrainingRecord

KEY_TAG = "pointrend.key"
SWEEP_RUNS = "mlflow.json"


@dataclass(frozen=True)
class RunRecord:
    """The content that a run should have in MLflow.

    Attributes:
        key: a hash that identifies the run; logged as a tag.
        name: the run's name.
        parameters: all parameters.
        tags: all tags except those that MLflow and :func:`log_run` add.
        started: when the run began, in milliseconds since 1970.
        ended: when it ended, in milliseconds since 1970; None while it runs.
        metrics: the metric entries so far.
        config: a configuration to log as an artifact, if any.
        parent: the id of the MLflow run that it is nested in, if any.
        run_id: the id under which it was logged before, if it was.
    """

    key: str
    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    started: int
    ended: int | None = None
    metrics: Sequence[MetricEntry] = ()
    config: Any = None
    parent: str | None = None
    run_id: str | None = None


def content_key(*content: Any) -> str:
    """A hash (16 hex digits) of a run's content, used as its key."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def log_run(tracker: Tracker, record: RunRecord) -> str:
    """Logs a run in MLflow according to its record and returns the run's id.

    The run is looked up in this order: the run with the record's ``run_id``; the run that was logged again in its
    place, which has that id as a tag; without ``run_id``, a run with the record's key. If none exists, it is created.
    A record without ``ended`` continues an interrupted run, but never a finished one. If the call is interrupted at any
    point and repeated, there is still one run, with every entry once.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    run = tracker.find(record.run_id) if record.run_id else None
    if run is None:
        # Searching and creating are retried together: if only the answer was lost, the search finds the new run.
        run = tracker.call(f"run {record.name}", lambda: _find_or_create(tracker, record))
    run_id, subject = run.info.run_id, f"run {run.info.run_id}"
    if run.info.status == "FINISHED":
        return run_id
    parameters = [Param(key, value) for key, value in record.parameters.items() if key not in run.data.params]
    tags = [RunTag(key, value) for key, value in record.tags.items() if run.data.tags.get(key) != value]
    tracker.call(subject, lambda: tracker.client.log_batch(run_id, params=parameters, tags=tags))
    if record.config is not None:
        text = json.dumps(record.config, indent=1, sort_keys=True)
        tracker.call(subject, lambda: tracker.client.log_text(run_id, text, "config.json"))
    send_missing(tracker, run_id, record.metrics)
    if record.ended is not None:
        tracker.finish(run_id, "FINISHED", record.ended)
    elif run.info.status != "RUNNING":
        tracker.call(subject, lambda: tracker.client.update_run(run_id, status="RUNNING"))
    return run_id


def _find_or_create(tracker: Tracker, record: RunRecord) -> Run:
    identity = {KEY_TAG: record.key} | ({RELOGGED_TAG: record.run_id} if record.run_id else {})
    found = list(tracker.client.search_runs([tracker.experiment_id], tags_query(identity)))
    if record.ended is None:
        found = [run for run in found if run.info.status != "FINISHED" and RELOGGED_TAG not in run.data.tags]
    if found:
        return min(found, key=lambda run: (run.info.status == "FINISHED", run.info.start_time))
    tags = {**record.tags, **identity} | ({MLFLOW_PARENT_RUN_ID: record.parent} if record.parent else {})
    return tracker.client.create_run(tracker.experiment_id, record.started, tags, record.name)


def send_missing(tracker: Tracker, run_id: str, entries: Sequence[MetricEntry]) -> None:
    """Sends the entries that an MLflow run does not have yet."""
    if entries:
        known = {(entry.key, entry.timestamp, entry.step) for entry in tracker.entries(run_id)}
        missing = [entry for entry in entries if (entry.key, entry.timestamp, entry.step) not in known]
        tracker.send_metrics(run_id, missing)


def experiment_run(tracker: Tracker, config: RunConfig, tags: Mapping[str, str]) -> str | None:
    """The id of the MLflow run in which those of an experiment's seeds are nested; None where there is one seed.

    It is created if it is missing; processes that start seeds of an experiment at a time must wait for each other.

    Args:
        tracker: the MLflow experiment.
        config: one of the runs.
        tags: its tags.
    """
    if SEEDS not in tags:
        return None
    content = config.model_dump(mode="json", exclude={"run", "seed", "starts_from", "starts_from_digest"})
    key = content_key("experiment", content)
    if found := tracker.runs({KEY_TAG: key}):
        return found[0].info.run_id
    parameters = {name: value for name, value in run_parameters(config).items() if name != "seed"}
    kept = {name: tags[name] for name in (*ORIGIN_TAGS, SEEDS) if name in tags}
    kept |= {"kind": "experiment", "experiment": config.experiment}
    kept[MLFLOW_RUN_NOTE] = f"{config.experiment} with the seeds {tags[SEEDS]}."
    time = now()
    return log_run(tracker, RunRecord(key, config.experiment, parameters, kept, time, time))


def training_run(record: TrainingRecord, trained: Path, tracker: Tracker) -> str:
    """The id of a finished training's MLflow run; logs it again from the folder ``trained`` if MLflow does not have it.

    Raises:
        MetricsFileError: if the run is logged again and its metrics are missing or damaged.
        TrackingError: if MLflow does not answer.
    """
    if tracker.find(record.mlflow_run_id) is not None:
        return record.mlflow_run_id
    found = RunRecord(
        key=record.key,
        name=record.run,
        parameters=record.parameters,
        tags=record.tags,
        started=record.started,
        ended=record.ended,
        metrics=MetricsFile(trained / METRICS).entries(),
        config=record.config.model_dump(mode="json"),
        parent=experiment_run(tracker, record.config, record.tags),
        run_id=record.mlflow_run_id,
    )
    return log_run(tracker, found)


def log_evaluation(
    config: RunConfig,
    name: str,
    setting: EvaluationSetting,
    metrics: Mapping[str, float],
    classes: ClassScores,
    times: tuple[int, int],
    parent: str,
    tracker: Tracker,
    logged_as: str | None = None,
) -> str:
    """Logs an evaluation as a run nested in its training's, with the training's parameters, and returns its id.

    Args:
        config: the run that was evaluated.
        name: the setting's name.
        setting: the evaluation setting.
        metrics: the scores.
        classes: the scores of each class.
        times: when the evaluation began and ended, in milliseconds since 1970.
        parent: the id of the training's MLflow run.
        tracker: the MLflow experiment.
        logged_as: the id under which it was logged before, if it was.
    """
    run_name = f"{config.run} {name}"
    training = tracker.get(parent).data
    by_class = {
        class_metric(metric, each): value
        for metric, values in ((classes.metric, classes.values_by_class), ("AP_star", classes.star_by_class))
        for each, value in values.items()
    }
    record = RunRecord(
        key=content_key(parent, run_name, setting.model_dump(), dict(metrics)),
        name=run_name,
        parameters={**training.params, **setting_parameters(setting)},
        tags={
            "kind": "evaluation",
            "experiment": config.experiment,
            "evaluation": name,
            **evaluation_origin(training.tags, config.run, name),
        },
        started=times[0],
        ended=times[1],
        metrics=[MetricEntry(key, value, times[1], 0) for key, value in {**metrics, **by_class}.items()],
        parent=parent,
        run_id=logged_as,
    )
    run_id = log_run(tracker, record)
    # Logged in the training's run as well, to compare trainings by losses and scores. The time is the end of the
    # evaluation's run in MLflow, so that entries that are logged twice have the same time and are stored once.
    ended = tracker.get(run_id).info.end_time
    tracker.send_metrics(parent, [MetricEntry(f"{key}_{name}", value, ended, 0) for key, value in metrics.items()])
    return run_id


def class_metric(metric: str, name: str) -> str:
    """The name of a class's metric in MLflow: ``AP_by_class/traffic light``.

    MLflow's page shows all of one metric in one section. Characters that MLflow does not take become "_".
    """
    return f"{metric}_by_class/{re.sub(r'[^A-Za-z0-9_. -]', '_', name)}"


def evaluation_run(record: EvaluationRecord, name: str, config: RunConfig, parent: str, tracker: Tracker) -> str:
    """The id of the MLflow run of the evaluation with setting ``name``; logs it again if MLflow does not have it."""
    logged, times = record.logged_as(name), (record.started, record.ended)
    if tracker.find(logged) is not None:
        return logged
    setting = record.settings.root[name]
    metrics, classes = record.metrics(name), entry_class_scores(record.evaluations[name])
    return log_evaluation(config, name, setting, metrics, classes, times, parent, tracker, logged)


def save_sweep_runs(folder: Path, sweep: RunRecord, trials: Sequence[str], tracker: Tracker) -> None:
    """Writes the records of a sweep and of its trials, all ended, to a file from which :func:`log_sweep` can log them.

    ``trials`` are the ids of the trials' MLflow runs.
    """
    records = [read_run(tracker, run_id) for run_id in trials]
    write_json(folder / SWEEP_RUNS, {"sweep": vars(sweep), "trials": [vars(record) for record in records]})


def read_run(tracker: Tracker, run_id: str) -> RunRecord:
    """Reads the record of a run from MLflow."""
    run = tracker.get(run_id)
    return RunRecord(
        key=run.data.tags[KEY_TAG],
        name=run.info.run_name,
        parameters=dict(run.data.params),
        tags={
            key: value
            for key, value in run.data.tags.items()
            if key in ORIGIN_TAGS or not key.startswith(("mlflow.", "pointrend."))
        },
        started=run.info.start_time,
        ended=run.info.end_time,
        metrics=tracker.entries(run_id),
        run_id=run_id,
    )


def log_sweep(folder: Path, tracker: Tracker) -> None:
    """Logs a sweep and its trials from their file, unless MLflow has them."""
    kept = json.loads((folder / SWEEP_RUNS).read_text())
    sweep = log_run(tracker, _from_json(kept["sweep"]))
    for trial in kept["trials"]:
        log_run(tracker, replace(_from_json(trial), parent=sweep))


def _from_json(record: dict[str, Any]) -> RunRecord:
    return RunRecord(**{**record, "metrics": [MetricEntry(*entry) for entry in record["metrics"]]})
