"""The job of a run: trains it, evaluates it on the same devices, and writes the results to the training's storage."""

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.cluster.ray_train import fit, for_batch
from pipeline.cluster.worker import RunWork, Tracking, is_trained, run_worker
from pipeline.config.clusters import ClusterConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.parameters import run_parameters
from pipeline.data.manifest import read_prepared
from pipeline.evaluation.class_scores import entry_class_scores
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.record import EvaluationRecord, rounded
from pipeline.evaluation.run import gather, score
from pipeline.evaluation.speed import with_speeds
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import atomic_folder, locked
from pipeline.tracking.client import Tracker, TrackingError
from pipeline.tracking.datasets import log_dataset
from pipeline.tracking.origin import SEEDS
from pipeline.tracking.products import Products
from pipeline.tracking.runs import RunRecord, experiment_run, log_evaluation, log_run, training_run
from pipeline.tracking.system import SYSTEM
from pipeline.training.metrics_file import MetricsFile, now
from pipeline.training.record import METRICS, SUMMARY, TrainingRecord
from pipeline.training.run import InterruptedTrainingError, hardware
from pipeline.training.training import Training

UNFINISHED_SECONDS = 10.0


def run_job(
    config: RunConfig,
    training: Training | None,
    evaluation: Evaluation | None,
    evaluated: TrainedRun | None,
    cluster: ClusterConfig,
    tracker: Tracker,
    version: str,
    tags: Mapping[str, str],
    products: Products,
) -> None:
    """Trains and evaluates a run, or does one of the two, on workers that are started once.

    An interrupted run continues from its last checkpoint, in the same MLflow run, and with the chunks of predictions
    that it has already written. The workers' devices are free again while the predictions are scored.

    Args:
        config: the run.
        training: the training; None if the job only evaluates.
        evaluation: the evaluation; None if the job only trains.
        evaluated: the run with the weights to evaluate, with absolute paths; needed with ``evaluation``.
        cluster: the number of workers and the resources of each.
        tracker: the MLflow experiment.
        version: the version of the code, for the record.
        tags: more tags of the training's MLflow run, see :mod:`pipeline.tracking.origin`.
        products: what is logged beside parameters and metrics.

    Raises:
        InterruptedTrainingError: after Ctrl-C, once a checkpoint is written.
        DivergedTrainingError: if a loss or gradient is no longer finite.
        LostWorkerError: if a worker died and its restarts are used up.
        TrackingError: if MLflow does not answer, before the training or after everything else is done.
    """
    cluster = for_batch(cluster, config.schedule.batch_size)
    work = RunWork(cluster)
    record = None
    if training is not None and not training.is_done:
        record = _begin(training, tracker, version, tags)
        seconds = products.settings.system_metrics
        tracking = Tracking(tracker.uri, tracker.experiment, record.run_id or "", seconds)
        work = replace(work, training=training, tracking=tracking)
    started = now()
    if evaluation is not None and not evaluation.is_done:
        evaluation.chunks.mkdir(parents=True, exist_ok=True)
        work = replace(work, evaluated=evaluated, settings=evaluation.settings, chunks=evaluation.chunks)
    if work.evaluated is not None or (training is not None and not is_trained(training.storage)):
        storage = (training.storage if training else evaluation.storage) / "ray"  # type: ignore[union-attr]
        try:
            fit(run_worker, {"work": work}, cluster, config.run, storage)
        except BaseException as error:
            interrupted = isinstance(error, InterruptedTrainingError | KeyboardInterrupt | SystemExit)
            if record is not None and record.run_id:
                mark_unfinished(tracker, [record.run_id], "KILLED" if interrupted else "FAILED")
            raise
        shutil.rmtree(storage, ignore_errors=True)
    if record is not None:
        assert training is not None
        _finish_training(training, cluster, tracker, record, version, products)
    if work.evaluated is not None:
        assert evaluation is not None
        _finish_evaluation(config, evaluation, work.evaluated, tracker, started, products)


def _begin(training: Training, tracker: Tracker, version: str, more_tags: Mapping[str, str]) -> RunRecord:
    """Starts the training's MLflow run, or continues that of an interrupted training, and returns its record.

    If the weights are written already, nothing is logged here: :func:`finish` logs the whole run.
    """
    config = training.config
    parameters = run_parameters(config)
    tags = {"kind": "training", "experiment": config.experiment, "code": version, "hardware": hardware()}
    tags |= {name: parameters[name] for name in ("dataset", "head", "backbone", "sampling") if name in parameters}
    tags |= more_tags
    record = RunRecord(training.key, config.run, parameters, tags, started=now(), config=config.model_dump(mode="json"))
    if SEEDS in tags:
        with locked(training.root / f"{config.experiment}.lock"):  # the jobs of other seeds start as well
            record = replace(record, parent=experiment_run(tracker, config, tags))
    if is_trained(training.storage):
        return record
    run_id = log_run(tracker, record)
    prepared, source = read_prepared(training.prepared), training.images.where()
    log_dataset(tracker, run_id, config.dataset, training.data, prepared, source)
    metrics = MetricsFile(training.storage / METRICS)
    if not metrics.path.exists():
        # An interrupted run whose storage was lost has its metrics only in MLflow.
        metrics.restore([entry for entry in tracker.entries(run_id) if not entry.key.startswith(SYSTEM)])
    return replace(record, run_id=run_id)


def _finish_training(
    training: Training,
    cluster: ClusterConfig,
    tracker: Tracker,
    record: RunRecord,
    version: str,
    products: Products,
) -> None:
    """Ends the MLflow run, logs the weights, then writes the training's record, which marks the training as done."""
    storage = training.storage
    patient = tracker.with_patience(cluster.tracking_patience)
    record = finish(storage, patient, record)
    assert record.run_id is not None
    trained = TrainedRun(training.config, training.prepared, training.images, training.weights)
    with nothing_is_lost(storage, record.name):
        products.log_training(patient, record.run_id, trained, training.data)
    shutil.rmtree(storage / "checkpoints", ignore_errors=True)
    assert record.ended is not None
    TrainingRecord(
        run=training.config.run,
        key=training.key,
        mlflow_run_id=record.run_id,
        config=training.config,
        data=training.data,
        code=version,
        parameters=dict(record.parameters),
        tags=dict(record.tags),
        started=record.started,
        ended=record.ended,
        **json.loads((storage / SUMMARY).read_text()),
    ).write(storage)


def _finish_evaluation(
    config: RunConfig,
    evaluation: Evaluation,
    run: TrainedRun,
    tracker: Tracker,
    started: int,
    products: Products,
) -> None:
    """Joins, scores and logs the predictions, then writes the evaluation's record, which marks it as done."""
    dataset, settings = run.dataset(), evaluation.settings.root
    with atomic_folder(evaluation.predictions, replace=True) as folder:
        gather(run, evaluation.settings, evaluation.chunks, folder)
    scores = {name: score(dataset, evaluation.predictions, name, setting) for name, setting in settings.items()}
    scores = with_speeds(scores, evaluation.chunks)
    ended = now()
    # Logged once all settings are scored, so that MLflow never has only a part of them.
    trained = run.weights.parent
    record = TrainingRecord.read(trained)
    parent = training_run(record, trained, tracker)
    entries = {}
    for name, found in scores.items():
        entry, times = {**found.metrics, **found.details}, (started, ended)
        classes = entry_class_scores(entry)
        run_id = log_evaluation(config, name, settings[name], found.metrics, classes, times, parent, tracker)
        entries[name] = {"mlflow_run_id": run_id, **entry}
    products.log_evaluation(tracker, parent, run, evaluation.predictions, list(settings)[-1])
    EvaluationRecord(
        run=config.run,
        mlflow_run_id=parent,
        training=record.key,
        settings=evaluation.settings,
        evaluations=entries,
        resamples={name: rounded(found.resamples) for name, found in scores.items()},
        started=started,
        ended=ended,
    ).write(evaluation.record)
    shutil.rmtree(evaluation.chunks, ignore_errors=True)


def mark_unfinished(tracker: Tracker, run_ids: Sequence[str], status: str) -> None:
    """Ends MLflow runs as FAILED or KILLED, if MLflow answers within :data:`UNFINISHED_SECONDS`.

    Never raises an error of MLflow: the caller is about to raise the one that ended the runs. It works in a thread, so
    that a server that hangs does not keep a user who pressed Ctrl-C waiting.
    """
    problem: str | None = "no answer"

    def mark() -> None:
        nonlocal problem
        try:
            for run_id in run_ids:
                tracker.with_patience(UNFINISHED_SECONDS / 2).finish(run_id, status)
            problem = None
        except TrackingError as error:
            problem = str(error)

    thread = threading.Thread(target=mark, daemon=True)
    thread.start()
    thread.join(UNFINISHED_SECONDS)
    if problem is not None:
        print(f"the interrupted run still counts as running in MLflow at {tracker.uri} ({problem})", flush=True)


def finish(storage: Path, tracker: Tracker, record: RunRecord) -> RunRecord:
    """Logs all metrics of a training in MLflow, ends its MLflow run, and returns the completed record.

    The record has a new run id if MLflow has lost the run in the meantime.

    Raises:
        TrackingError: if MLflow does not answer within the tracker's patience.
        InterruptedTrainingError: after Ctrl-C while MLflow does not answer.
    """
    with nothing_is_lost(storage, record.name):
        metrics = MetricsFile(storage / METRICS).entries()
        record = replace(record, metrics=metrics, ended=max((entry.timestamp for entry in metrics), default=now()))
        run_id = log_run(tracker, record)
        return replace(record, run_id=run_id, started=tracker.get(run_id).info.start_time)


@contextmanager
def nothing_is_lost(storage: Path, name: str) -> Iterator[None]:
    """Logs what is left of a complete training: errors say that its files are safe in ``storage``.

    Raises:
        TrackingError: if MLflow does not answer.
        InterruptedTrainingError: after Ctrl-C while MLflow does not answer.
    """
    safe = (
        f"run {name}: the training is complete and nothing is lost; its weights and metrics are in {storage}. "
        "`dvc repro` logs the rest without training again"
    )
    try:
        yield
    except TrackingError as error:
        raise TrackingError(f"{safe} once MLflow answers ({error})") from error
    except KeyboardInterrupt:
        raise InterruptedTrainingError(f"interrupted while MLflow did not answer; {safe}") from None
