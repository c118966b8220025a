"""Runs the trials of a training sweep under Ray Tune: search, early stopping, and as many trials at once as fit.

The records of the trials hold the state of the sweep. An interrupted sweep starts Ray Tune again with all points.
Trials that are done report their recorded metrics at once, so that search and early stopping know as much as before;
the others continue from their checkpoints. Ray Tune's ``Tuner.restore`` would forget what early stopping has seen and,
after a lost process, everything since its last snapshot.
"""

import logging
import os
import shutil
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from pipeline.cluster.connection import connected
from pipeline.cluster.sweep_place import SweepError
from pipeline.config.sweeps import OptunaSearch
from pipeline.data.cpus import usable_cpus
from pipeline.errors import UserError
from pipeline.progress import Progress, progress
from pipeline.sweep.records import TrialRecord, TrialRecords
from pipeline.sweep.search import POINT, OptunaPoints, grid_points, random_points
from pipeline.sweep.trial import CHECKPOINTS, UPDATE, Trials, run_trial
from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import log_run, read_run
from pipeline.training.metrics_file import MetricEntry

# Turns off what this project does itself: handling Ctrl-C, writing results, showing errors and progress.
RAY_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}


def run_trials(trials: Trials, tracker: Tracker) -> None:
    """Runs all trials of a sweep that are not done yet.

    Raises:
        UserError: the error of a trial that failed, once its restarts are used up.
        SweepError: if a trial failed in another way, such as a lost process, once its restarts are used up.
    """
    task, cluster = trials.task, trials.cluster
    space: dict[str, Any] = {}
    search = None
    if isinstance(task.search, OptunaSearch):
        total = samples = task.search.trials
        known = [record.point for record in trials.records.all()]
        search = OptunaPoints(task.space, task.metric, task.search.seed, known)
    else:
        points = grid_points(task.space) if task.search.method == "grid" else random_points(task.space, task.search)
        total, samples = len(points), 1
        space[POINT] = tune.grid_search(points)
    scheduler = None
    if task.early_stopping is not None:
        scheduler = ASHAScheduler(
            time_attr=UPDATE,
            max_t=task.base.schedule.updates,
            grace_period=task.early_stopping.grace,
            reduction_factor=task.early_stopping.reduction,
        )
    storage = trials.records.folder / ".ray"
    shutil.rmtree(storage, ignore_errors=True)
    # Errors are raised below. Ray Tune would also log them, and complain about the loggers that are turned off.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    resources = {"CPU": float(cluster.cpus_per_worker), "GPU": float(cluster.gpus_per_worker)}
    with (
        # Trials always run in processes of Ray, even where the driver of a training would train by itself.
        connected(cluster.model_copy(update={"workers": max(cluster.workers, 1)})),
        progress(f"sweep {task.name}", total) as bar,
    ):
        results = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trainable, trials=trials), resources),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=task.metric,
                mode="max",
                search_alg=search,
                scheduler=scheduler,
                num_samples=samples,
                max_concurrent_trials=cluster.workers or max(1, usable_cpus() // cluster.cpus_per_worker),
                # Reused, because starting a process takes as long as a short trial.
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=task.name,
                storage_path=str(storage),
                failure_config=tune.FailureConfig(
                    max_failures=cluster.max_failures, fail_fast=cluster.max_failures == 0
                ),
                callbacks=[_Bookkeeping(trials.records, tracker, bar)],
                verbose=0,
            ),
        ).fit()
    for error in results.errors:
        cause = getattr(error, "cause", error)
        if isinstance(cause, UserError | OSError):
            raise cause
        raise SweepError(
            f"sweep {task.name}: a trial failed. Trials that are done are kept; start the sweep again to continue it. "
            f"Ray says: {error}"
        ) from error


def _trainable(config: dict[str, Any], trials: Trials) -> None:
    run_trial(trials, config[POINT], tune.report)


class _Bookkeeping(tune.Callback):
    """Completes the record and the MLflow run of each trial that has finished or was stopped early."""

    def __init__(self, records: TrialRecords, tracker: Tracker, bar: Progress) -> None:
        self._records, self._tracker, self._bar = records, tracker, bar

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._records.read(trial.config[POINT])
        assert record is not None
        finish_trial(record, self._records, self._tracker)
        self._bar.advance(note=record.name)


def finish_trial(record: TrialRecord, records: TrialRecords, tracker: Tracker) -> None:
    """Ends a trial's MLflow run and deletes its checkpoints. A trial whose record says "running" was stopped early."""
    if record.status == "running":
        record = replace(record, status="stopped")
        records.write(record)
    run = read_run(tracker, record.mlflow_run_id)
    # A trial that trains has logged its metrics at each rung.
    last = record.metrics if record.updates == 0 else {}
    # The time of the last entry, not the current time: entries that are logged again after an interruption have the
    # same time then, and MLflow keeps them once.
    time = max((entry.timestamp for entry in run.metrics), default=run.started)
    metrics = [MetricEntry(key, value, time, 0) for key, value in {**last, **record.costs}.items()]
    log_run(tracker, replace(run, tags={"trial_status": record.status}, ended=time, metrics=metrics))
    shutil.rmtree(records.trial_folder(record.point) / CHECKPOINTS, ignore_errors=True)
