"""The MLflow runs of trainings and evaluations whose outputs are on disk.

The outputs may come from DVC's cache, and MLflow's database may be new or lost: a run that MLflow does not have is
logged again from the files, once. It then has another id, and the one that it had as a tag.
"""

from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric

from pipeline.config.evaluations import EvaluationSetting
from pipeline.config.experiments import RunConfig
from pipeline.evaluation.record import EvaluationRecord
from pipeline.tracking.client import KEY_TAG, Tracker
from pipeline.tracking.spool import MetricSpool
from pipeline.tracking.store import RELOGGED_TAG
from pipeline.training.record import METRICS, TrainingRecord


def training_run(record: TrainingRecord, trained: Path, tracker: Tracker) -> str:
    """The id of a training's MLflow run: its own, or that of the run that stands in for it.

    Args:
        record: of the training.
        trained: its output, with all the metrics that it logged.
        tracker: where it is looked for, and logged again if need be.

    Raises:
        MetricSpoolError: if its metrics are missing or damaged.
        TrackingError: if MLflow does not answer.
    """
    if tracker.find(record.mlflow_run_id) is not None:
        return record.mlflow_run_id
    return tracker.record(
        {KEY_TAG: record.key, RELOGGED_TAG: record.mlflow_run_id},
        record.run,
        record.parameters,
        record.tags,
        MetricSpool(trained / METRICS).entries(),
        (record.started, record.ended),
        config=record.config.model_dump(mode="json"),
    )


def log_evaluation(
    config: RunConfig,
    name: str,
    setting: EvaluationSetting,
    metrics: Mapping[str, float],
    times: tuple[int, int],
    parent: str,
    tracker: Tracker,
    tags: Mapping[str, str] | None = None,
) -> str:
    """The id of an evaluation's MLflow run, nested in the training's. However often it is logged, there is one.

    Args:
        config: the run.
        name: the setting's.
        setting: how the run was evaluated.
        metrics: what it came to.
        times: when it began and ended, in milliseconds since 1970.
        parent: the training's MLflow run.
        tracker: where it is logged.
        tags: more of them.
    """
    tags = {"kind": "evaluation", "experiment": config.experiment, "evaluation": name, **(tags or {})}
    run_id = tracker.add_evaluation(parent, f"{config.run} {name}", setting, metrics, tags, times)
    # On the training's run too: comparing trainings then shows losses and metrics together. MLflow takes what has the
    # same time only once.
    ended = tracker.get(run_id).info.end_time
    tracker.send_metrics(parent, [Metric(f"{key}_{name}", value, ended, 0) for key, value in metrics.items()])
    return run_id


def evaluation_run(record: EvaluationRecord, name: str, config: RunConfig, parent: str, tracker: Tracker) -> str:
    """The id of an evaluation's MLflow run: its own, or that of the run that stands in for it.

    Args:
        record: of the run's evaluations.
        name: the setting's.
        config: the run.
        parent: the training's MLflow run.
        tracker: where it is looked for, and logged again if need be.
    """
    logged = record.logged_as(name)
    if tracker.find(logged) is not None:
        return logged
    times = record.started, record.ended
    tags = {RELOGGED_TAG: logged}
    return log_evaluation(config, name, record.settings.root[name], record.metrics(name), times, parent, tracker, tags)
