"""One training run, from its configuration to its weights."""

import json
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.cluster.ray_train import fit, for_batch
from pipeline.config.clusters import ClusterConfig
from pipeline.config.parameters import run_parameters
from pipeline.tracking.client import Tracker, TrackingError
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.training.metrics_file import MetricsFile, now
from pipeline.training.record import METRICS, WEIGHTS, write_record
from pipeline.training.training import Training
from pipeline.training.worker import SUMMARY, InterruptedTrainingError, hardware, train_worker

UNFINISHED_SECONDS = 10.0


def run_training(training: Training, cluster: ClusterConfig, tracker: Tracker, version: str) -> None:
    """Trains a run on a cluster and leaves its weights and their record in its storage.

    A run that was interrupted goes on from its last checkpoint and in its MLflow run. One that is complete, but for
    what MLflow did not take, is not trained again.

    Args:
        training: the run.
        cluster: where it runs.
        tracker: where it is logged.
        version: of the code, for the record.

    Raises:
        InterruptedTrainingError: after Ctrl-C, once a checkpoint is written.
        DivergedTrainingError: if a loss is no longer finite.
        TrackingError: if MLflow does not answer at the start, or at the end, when all else is done.
    """
    config, storage = training.config, training.storage
    cluster = for_batch(cluster, config.schedule.batch_size)
    parameters = run_parameters(config)
    tags = {"kind": "training", "experiment": config.experiment, "code": version, "hardware": hardware()}
    tags |= {name: parameters[name] for name in ("dataset", "head", "backbone", "sampling") if name in parameters}
    record = RunRecord(training.key, config.run, parameters, tags, started=now(), config=config.model_dump(mode="json"))
    run_id = log_run(tracker, record)
    record = replace(record, run_id=run_id, started=tracker.get(run_id).info.start_time)
    arguments = {
        "config": config.model_dump(mode="json"),
        "prepared": str(training.prepared.resolve()),
        "images": training.images.root,
        "storage": str(storage),
        "starts_from": str(training.starts_from.resolve()) if training.starts_from else None,
        "images_per_worker": cluster.images_per_worker,
        "loader_processes": cluster.loader_processes,
        "use_gpu": cluster.gpus_per_worker > 0,
        "tracking": {"uri": tracker.uri, "experiment": tracker.experiment, "run_id": run_id},
    }
    if not is_complete(storage):
        metrics = MetricsFile(storage / METRICS)
        if not metrics.path.exists():
            # A run that was interrupted, and lost its storage, has its metrics in MLflow alone.
            metrics.restore(tracker.entries(run_id))
        try:
            fit(train_worker, arguments, cluster, config.run, storage / "ray")
        except BaseException as error:
            interrupted = isinstance(error, InterruptedTrainingError | KeyboardInterrupt)
            mark_unfinished(tracker, [run_id], "KILLED" if interrupted else "FAILED")
            raise
    record = finish(storage, tracker.with_patience(cluster.tracking_patience), record)
    summary = json.loads((storage / SUMMARY).read_text())
    for folder in ("checkpoints", "ray"):
        shutil.rmtree(storage / folder, ignore_errors=True)
    assert record.run_id is not None
    assert record.ended is not None
    write_record(
        storage,
        config,
        key=training.key,
        data=training.data,
        code=version,
        run_id=record.run_id,
        parameters=record.parameters,
        tags=record.tags,
        started=record.started,
        ended=record.ended,
        summary=summary,
    )


def is_complete(storage: Path) -> bool:
    """Whether a run's last update is done and its weights written; the summary is written after them."""
    return all((storage / name).exists() for name in (WEIGHTS, SUMMARY))


def mark_unfinished(tracker: Tracker, run_ids: Sequence[str], status: str) -> None:
    """Ends runs in MLflow as FAILED or KILLED if it answers soon; the error that ended them is the one to see.

    A request to a server that hangs would keep the user who pressed Ctrl-C waiting, hence the thread.
    """
    said = ["no answer"]

    def mark() -> None:
        try:
            for run_id in run_ids:
                tracker.with_patience(UNFINISHED_SECONDS / 2).finish(run_id, status)
            said.clear()
        except TrackingError as error:
            said[:] = [str(error)]

    thread = threading.Thread(target=mark, daemon=True)
    thread.start()
    thread.join(UNFINISHED_SECONDS)
    if said:
        print(f"what was interrupted still counts as running in MLflow at {tracker.uri} ({said[0]})", flush=True)


def finish(storage: Path, tracker: Tracker, record: RunRecord) -> RunRecord:
    """Completes a run in MLflow with all of its metrics and returns its record.

    It has another id where MLflow's database was lost in the meantime.

    Raises:
        TrackingError: if MLflow does not answer for as long as the tracker is patient.
        InterruptedTrainingError: after Ctrl-C.
    """
    safe = (
        f"run {record.name}: the training is complete and nothing is lost; its weights and metrics are in {storage}. "
        "`dvc repro` sends the rest without training again"
    )
    try:
        metrics = MetricsFile(storage / METRICS).entries()
        record = replace(record, metrics=metrics, ended=max((entry.timestamp for entry in metrics), default=now()))
        return replace(record, run_id=log_run(tracker, record))
    except TrackingError as error:
        raise TrackingError(f"{safe} once MLflow answers ({error})") from error
    except KeyboardInterrupt:
        raise InterruptedTrainingError(f"interrupted while MLflow did not answer; {safe}") from None
