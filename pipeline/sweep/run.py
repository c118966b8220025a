"""Runs a sweep: its trials, then their results, logged as one MLflow run with the trials nested in it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cluster.run_job import mark_unfinished
from pipeline.cluster.sweep_place import SweepError, SweepPlace, sweep_key
from pipeline.config.clusters import ClusterConfig
from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask
from pipeline.data.manifest import read_prepared
from pipeline.errors import UserError
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import atomic_folder, locked
from pipeline.sweep.records import TrialRecords
from pipeline.sweep.results import best_trial, write_results
from pipeline.sweep.subdivision import evaluate_settings
from pipeline.sweep.subset import with_fewer_val_images
from pipeline.sweep.training import finish_trial, run_trials
from pipeline.sweep.trial import Trials
from pipeline.tracking.client import Tracker
from pipeline.tracking.origin import origin_tags
from pipeline.tracking.runs import RunRecord, log_run, save_sweep_runs
from pipeline.training.metrics_file import MetricEntry, now
from pipeline.training.run import hardware


class InterruptedSweepError(UserError):
    """The user stopped a sweep."""


def run_sweep(
    task: TrainingTask | SubdivisionTask, place: SweepPlace, cluster: ClusterConfig, tracker: Tracker, code: str
) -> None:
    """Runs a sweep and writes its results, its best setting and its MLflow runs as files, whole or not at all.

    An interrupted sweep continues: trials that are done do not run again, and MLflow runs are not created twice.

    Args:
        task: the sweep.
        place: its folders.
        cluster: the number of workers and the resources of each.
        tracker: the MLflow experiment.
        code: the version of the code, for the record.

    Raises:
        InterruptedSweepError: after Ctrl-C or SIGTERM.
        SweepError: if the weights that it uses are missing, if another process runs it, or if a trial fails.
    """
    place.check()
    read_prepared(place.prepared)  # raises an error if the dataset is not prepared
    key = sweep_key(task, place)
    records = TrialRecords(place.records(task.name, key))
    with _exclusive(records.folder, task.name):
        tags = {"sweep": task.name, "code": code, "hardware": hardware(), "dataset": task.dataset}
        tags |= origin_tags("stages/run_sweep.py", code)
        sweep_tags = {"kind": "sweep", **tags}
        settings = task.model_dump(mode="json")
        run = RunRecord(key, task.name, _parameters(task), sweep_tags, started=now(), config=settings)
        run_id = log_run(tracker, run)
        try:
            _run(task, place, cluster, tracker, records, run_id, key, {"kind": "trial", **tags})
            found = records.all()
            best = best_trial(found, task.metric)
            # The end of the last trial, not the current time: entries that are logged again after an interruption
            # have the same time then, and MLflow keeps them once.
            ended = max(tracker.get(record.mlflow_run_id).info.end_time for record in found)
            logged = {f"best_{task.metric}": best.metrics[task.metric], "trials": float(len(found))}
            run = replace(
                run,
                run_id=run_id,
                started=tracker.get(run_id).info.start_time,
                ended=ended,
                tags={**sweep_tags, "best": best.name},
                metrics=[MetricEntry(name, value, ended, 0) for name, value in logged.items()],
            )
            with atomic_folder(place.result(task.name, key), replace=True) as folder:
                about = {
                    "sweep": task.name,
                    "kind": task.kind,
                    "key": key,
                    "dataset": task.dataset,
                    "mlflow_run_id": run_id,
                    "mlflow_trial_ids": {record.name: record.mlflow_run_id for record in found},
                    "hardware": hardware(),
                    **_conditions(task),
                }
                write_results(folder, found, task.metric, best, task.best(best.point), about)
                save_sweep_runs(folder, run, [record.mlflow_run_id for record in found], tracker)
            log_run(tracker, run)
        except BaseException as error:
            # Ray answers SIGTERM with SystemExit.
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            running = [record.mlflow_run_id for record in records.all() if record.status == "running"]
            mark_unfinished(tracker, [*filter(None, running), run_id], "KILLED" if interrupted else "FAILED")
            if interrupted:
                raise InterruptedSweepError(
                    f"sweep {task.name} was interrupted; what is done is safe, and the same command continues it"
                ) from None
            raise
    shutil.rmtree(records.folder)


def _run(
    task: TrainingTask | SubdivisionTask,
    place: SweepPlace,
    cluster: ClusterConfig,
    tracker: Tracker,
    records: TrialRecords,
    run_id: str,
    key: str,
    tags: dict[str, str],
) -> None:
    if isinstance(task, SubdivisionTask):
        assert place.weights is not None
        run = TrainedRun(task.run, place.prepared.resolve(), place.images, place.weights.resolve())
        evaluate_settings(task, run, cluster, records, tracker, run_id, tags)
    else:
        prepared = val_prepared = place.prepared.resolve()
        if task.val_images is not None:
            val_prepared = with_fewer_val_images(prepared, task.val_images, records.folder / ".val-subset")
        trials = Trials(
            task=task,
            prepared=prepared,
            val_prepared=val_prepared,
            images=place.images,
            weights=place.weights.resolve() if place.weights else None,
            records=records,
            cluster=cluster,
            tracking=(tracker.uri, tracker.experiment),
            parent=run_id,
            key=key,
            tags=tags,
        )
        run_trials(trials, tracker)
    for record in records.all():
        finish_trial(record, records, tracker)


def _parameters(task: TrainingTask | SubdivisionTask) -> dict[str, str]:
    """A sweep's settings as MLflow parameters."""
    if isinstance(task, SubdivisionTask):
        return {"run": task.run.run, "steps": str(task.steps), "subdivision_points": str(task.num_points)}
    early = task.early_stopping
    return {
        "experiment": task.base.experiment,
        **({"starts_from": task.starts_from.run} if task.starts_from else {}),
        "search": json.dumps(task.search.model_dump()),
        "space": json.dumps(task.space.model_dump(exclude_none=True)),
        **({"early_stopping": json.dumps(early.model_dump())} if early else {}),
        "updates": str(task.base.schedule.updates),
    }


def _conditions(task: TrainingTask | SubdivisionTask) -> dict[str, Any]:
    """The conditions under which the results were measured, for ``sweep.json``."""
    if isinstance(task, SubdivisionTask):
        return {"run": task.run.run, "timed_images": task.timed_images}
    return {
        "experiment": task.base.experiment,
        "starts_from": task.starts_from.run if task.starts_from else None,
        "updates": task.base.schedule.updates,
        "batch_size": task.base.schedule.batch_size,
        "search": task.search.model_dump(),
        "early_stopping": task.early_stopping.model_dump() if task.early_stopping else None,
        "val_images": task.val_images,
    }


@contextmanager
def _exclusive(folder: Path, name: str) -> Iterator[None]:
    """Holds a lock that keeps other processes from running the same sweep.

    Raises:
        SweepError: if another process runs the sweep.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / ".lock", wait=False))
        except BlockingIOError as error:
            raise SweepError(
                f"sweep {name} runs already; wait for it, or stop it with `pointrend jobs stop {name}`"
            ) from error
        yield
