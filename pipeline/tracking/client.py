"""MLflow: one run per training, its evaluations nested in it.

Everything goes through :class:`mlflow.MlflowClient` with explicit run ids, so that workers, stages and resumed
processes all write to the run that they mean. What fails for the moment, a server that restarts or a database that
other processes hold, is tried again, so that it is an error only where it lasts.
"""

import copy
import fcntl
import functools
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import requests
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pipeline.config.evaluations import EvaluationSetting, RenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pipeline.errors import UserError
from pipeline.tracking.store import RELOGGED_TAG
from pointrend.specs import MODELS

KEY_TAG = "pointrend.key"
METRICS_PER_BATCH = 1000  # the most that one MLflow request takes
PATIENCE_SECONDS = 30.0
SILENT_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 5.0
REQUEST_SECONDS = 30  # longer than a server on SQLite waits for its database, which is 20

FAILURES = (MlflowException, SQLAlchemyError, requests.RequestException)
# No answer is INTERNAL_ERROR; what a database refuses while others write to it can be any of the first three.
PASSING_CODES = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "BAD_REQUEST",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
}

T = TypeVar("T")


class TrackingError(UserError, RuntimeError):
    """MLflow cannot be reached or does not have what is asked for."""


def run_parameters(config: RunConfig) -> dict[str, str]:
    """A run's settings as MLflow parameters, without those that it does not have, such as a grid's ratios."""
    network, sampling = config.model, config.sampling
    if isinstance(network, InstanceModelConfig):
        head = "PointRend" if network.has_point_head else "4xconv"
        _, _, backbone = network.name.partition("_rcnn_" if network.has_point_head else "_")
        train_size = "-".join(map(str, sorted({min(network.train_min_sizes), max(network.train_min_sizes)})))
        sizes = {"train_size": train_size, "test_size": str(network.test_min_size)}
    else:
        head = f"{network.architecture} + PointRend" if network.has_point_head else network.architecture
        backbone = MODELS[network.name].backbone
        sizes = {"train_size": "x".join(map(str, network.crop_size))}
    parameters = {
        "dataset": config.dataset,
        "head": head,
        "backbone": backbone,
        "seed": str(config.seed),
        "batch_size": str(config.schedule.batch_size),
        "updates": str(config.schedule.updates),
        "learning_rate": str(config.schedule.learning_rate),
        "precision": config.schedule.precision,
        "norm": network.norm,
        **sizes,
    }
    if sampling is not None:
        parameters |= {"sampling": sampling.strategy, "train_points": str(sampling.num_points)}
        if sampling.strategy == "biased":
            parameters["oversample_ratio"] = f"{sampling.oversample_ratio:g}"
            parameters["importance_sample_ratio"] = f"{sampling.importance_sample_ratio:g}"
    if config.point_head_size is not None:
        layers, channels = config.point_head_size
        parameters |= {"point_layers": str(layers), "point_channels": str(channels)}
    return parameters


def now() -> int:
    """The time as MLflow has it, in milliseconds since 1970."""
    return int(time.time() * 1000)


def code_version(root: Path) -> str:
    """The checkout's commit, with ``-dirty`` where tracked files differ from it."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git
        return "unknown"
    return result.stdout.strip() or "unknown"


@contextmanager
def _alone_with_database(uri: str) -> Iterator[None]:
    """While MLflow opens an SQLite file: two processes that make its tables at once leave it broken for good."""
    _, scheme, file = uri.partition("sqlite:///")
    if not scheme:
        yield
        return
    lock = Path(f"{file}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _uninterrupted(uri: str) -> Iterator[None]:
    """Keeps Ctrl-C back while MLflow writes to a database: it would leave its transaction open, and all others out.

    A server's answer, which may take long, is not waited for.
    """
    if uri.startswith(("http://", "https://")) or threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        # Also where the write failed: it would be tried again, and Ctrl-C forgotten.
        if caught and callable(previous):
            previous(*caught[0])


def is_passing(error: Exception) -> bool:
    """Whether an error of MLflow may be gone at the next try: no answer, an overloaded server, a locked database."""
    if isinstance(error, MlflowException):
        return error.error_code in PASSING_CODES
    return isinstance(error, OperationalError | requests.RequestException)


def _reason(error: Exception) -> str:
    """What an error says, without the SQL that follows or the advice to programmers that may come before."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "Query-invoked autoflush" not in line), lines[0])


def content_key(*content: Any) -> str:
    """A key of a run that says what is in it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Tracker:
    """The runs of one MLflow experiment.

    Args:
        uri: the tracking server or database.
        experiment: name of the experiment; made where it is missing.
        artifacts: where a database without a server keeps artifacts.
        patience: for how many seconds a call that fails is tried again.

    Raises:
        TrackingError: if MLflow cannot be reached. All methods raise it, too.
    """

    def __init__(
        self, uri: str, experiment: str, artifacts: Path | None = None, patience: float = PATIENCE_SECONDS
    ) -> None:
        self.uri, self.experiment, self.artifacts, self.patience = uri, experiment, artifacts, patience
        # MLflow's own retries make a call last for minutes, say nothing, and do not cover a database without a server.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
        # It shows a traceback of every locked database, also where the next try succeeds.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        try:
            with _alone_with_database(uri):
                self._client = self._try(lambda: MlflowClient(uri))
            self._experiment_id = self._try(self._find_or_create_experiment)
        except FAILURES as error:
            raise TrackingError(
                f"MLflow at {uri} cannot be used; start it or change MLFLOW_TRACKING_URI ({_reason(error)})"
            ) from error

    def with_patience(self, seconds: float) -> "Tracker":
        """The same tracker with another patience."""
        other = copy.copy(self)
        other.patience = seconds
        return other

    def has_experiment(self, name: str) -> bool:
        """Whether MLflow has an experiment, and not only a deleted one."""
        found = self._call(name, lambda: self._client.get_experiment_by_name(name), "experiment")
        return found is not None and found.lifecycle_stage == LifecycleStage.ACTIVE

    def of_experiment(self, name: str) -> "Tracker":
        """The same tracker for another experiment, which is made where it is missing."""
        other = copy.copy(self)
        other.experiment = name
        other._experiment_id = self._call(name, other._find_or_create_experiment, "experiment")
        return other

    def _try(self, call: Callable[[], T]) -> T:
        """What ``call`` returns; tried until it succeeds, fails for good, or patience is at its end."""
        begun = time.monotonic()
        pause, silent = 0.1, True
        while True:
            try:
                with _uninterrupted(self.uri):
                    result = call()
            except FAILURES as error:
                waited = time.monotonic() - begun
                if not is_passing(error) or waited >= self.patience:
                    raise
                if silent and waited > SILENT_SECONDS:
                    silent = False
                    limit = f"{self.patience:.0f} s"
                    print(f"MLflow at {self.uri}: waiting up to {limit} for it ({_reason(error)})", flush=True)
            else:
                if not silent:
                    print(f"MLflow at {self.uri} answers again", flush=True)
                return result
            # Processes that collided must not meet again.
            time.sleep(min(pause * random.uniform(0.5, 1.0), max(self.patience - waited, 0.0)))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _call(self, name: str, call: Callable[[], T], kind: str = "run") -> T:
        """What ``call``, which is about a run or an experiment, returns.

        Raises:
            TrackingError: naming it.
        """
        try:
            return self._try(call)
        except FAILURES as error:
            raise TrackingError(f"MLflow at {self.uri}, {kind} {name}: {_reason(error)}") from error

    def _find_or_create_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            if found.lifecycle_stage == LifecycleStage.DELETED:
                # Nothing can be logged to it, and its name is not free.
                self._client.restore_experiment(found.experiment_id)
            return found.experiment_id
        # A server decides itself where artifacts go; a bare database would take the working directory.
        location = self.artifacts.resolve().as_uri() if self.artifacts and "://" in self.uri else None
        if self.uri.startswith(("http://", "https://")):
            location = None
        try:
            return self._client.create_experiment(self.experiment, artifact_location=location)
        except MlflowException:
            # Another process made it in the meantime.
            found = self._client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return found.experiment_id

    def start(self, key: str, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """The id of the run with this key: the one that was interrupted, or else a new one."""
        query = f"tags.`{KEY_TAG}` = '{key}' AND attributes.status != 'FINISHED'"

        # As a whole, what is tried again also finds the run that a request made whose answer was lost.
        def find_or_create() -> str:
            same = self._client.search_runs([self._experiment_id], query)
            # One that is being logged again is no training under way.
            found = [run for run in same if RELOGGED_TAG not in run.data.tags]
            if found:
                self._client.update_run(found[0].info.run_id, status="RUNNING")
                run = found[0]
            else:
                run = self._client.create_run(self._experiment_id, run_name=name, tags={**tags, KEY_TAG: key})
            missing = {k: v for k, v in parameters.items() if k not in run.data.params}
            self._client.log_batch(run.info.run_id, params=[Param(k, v) for k, v in missing.items()])
            return run.info.run_id

        return self._call(name, find_or_create)

    def record(
        self,
        identity: Mapping[str, str],
        name: str,
        parameters: Mapping[str, str],
        tags: Mapping[str, str],
        metrics: Sequence[Metric],
        times: tuple[int, int],
        config: Any = None,
    ) -> str:
        """The id of a finished run of something that is over, logged at once; one that is there already is found.

        One that was left half-way is completed: whatever happens, there is one run in the end.

        Args:
            identity: tags that no other run has all of.
            name: of the run.
            parameters: its parameters.
            tags: more of its tags.
            metrics: its metrics, each with its own time.
            times: when it began and ended, in milliseconds since 1970.
            config: a whole configuration to keep as :meth:`log_config` does, if any.
        """
        query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
        started, ended = times

        # As in start(), what is tried again also finds the run whose answer was lost.
        def find_or_create() -> Run:
            found = self._client.search_runs(
                [self._experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"]
            )
            if found:
                return found[0]
            return self._client.create_run(self._experiment_id, started, {**tags, **identity}, name)

        run = self._call(name, find_or_create)
        run_id = run.info.run_id
        if run.info.status != "FINISHED":
            missing = [Param(key, value) for key, value in parameters.items() if key not in run.data.params]
            self._call(run_id, lambda: self._client.log_batch(run_id, params=missing))
            if config is not None:
                self.log_config(run_id, config)
            self.send_metrics(run_id, metrics)
            self._call(run_id, lambda: self._client.set_terminated(run_id, "FINISHED", ended))
        return run_id

    def log_config(self, run_id: str, config: Any) -> None:
        """Keeps a run's whole configuration as an artifact."""
        text = json.dumps(config, indent=1, sort_keys=True)
        self._call(run_id, lambda: self._client.log_text(run_id, text, "config.json"))

    def add_evaluation(
        self,
        parent: str,
        name: str,
        setting: EvaluationSetting,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        times: tuple[int, int],
    ) -> str:
        """A finished run nested in the training's, with the training's parameters and the setting's own.

        The same setting that came to the same metrics is logged once.

        Args:
            parent: the training's run.
            name: of the run.
            setting: how the training was evaluated.
            metrics: what it came to.
            tags: of the run.
            times: when it began and ended, in milliseconds since 1970.
        """
        inherited = dict(self.get(parent).data.params)
        own = {"subdivision_points": str(setting.num_points or "-")}
        if isinstance(setting, RenderingConfig):
            own["resolution"] = str(setting.resolution)
        else:
            own["output_stride"] = str(setting.output_stride or "-")
        return self.record(
            {KEY_TAG: content_key(parent, name, setting.model_dump(), dict(metrics))},
            name,
            {**inherited, **own},
            {**tags, MLFLOW_PARENT_RUN_ID: parent},
            [Metric(key, value, times[1], 0) for key, value in metrics.items()],
            times,
        )

    def log_metrics(self, run_id: str, metrics: Iterable[tuple[str, float, int]]) -> None:
        """Logs (name, value, step) triples, as of now."""
        time_ = now()
        self.send_metrics(run_id, [Metric(name, value, time_, step) for name, value, step in metrics])

    def send_metrics(self, run_id: str, entries: Sequence[Metric]) -> None:
        """Logs entries that have a time of their own; MLflow keeps one that it has already only once."""
        for first in range(0, len(entries), METRICS_PER_BATCH):
            batch = entries[first : first + METRICS_PER_BATCH]
            self._call(run_id, lambda batch=batch: self._client.log_batch(run_id, metrics=batch))  # type: ignore[misc]

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._call(run_id, lambda: self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()]))

    def last_step(self, run_id: str, metric: str) -> int:
        """The highest step that a metric was logged at; 0 where it never was."""
        return max((step for step, _ in self.history(run_id, metric)), default=0)

    def finish(self, run_id: str, status: str) -> None:
        """Ends a run as FINISHED, FAILED or KILLED."""
        self._call(run_id, lambda: self._client.set_terminated(run_id, status))

    def get(self, run_id: str) -> Run:
        """A run with its parameters and metrics."""
        return self._call(run_id, lambda: self._client.get_run(run_id))

    def find(self, run_id: str) -> Run | None:
        """A run; None where MLflow does not have it, or only as a deleted one."""

        def find() -> Run | None:
            try:
                return self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

        run = self._call(run_id, find)
        return run if run and run.info.lifecycle_stage == LifecycleStage.ACTIVE else None

    def runs(self, tags: Mapping[str, str]) -> list[Run]:
        """The experiment's runs that have some tags."""
        query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found: list[Run] = []
        token = None
        while True:
            search = functools.partial(self._client.search_runs, [self._experiment_id], query, page_token=token)
            page = self._call(query, search, "runs with")
            found += page
            token = page.token
            if not token:
                return found

    def delete(self, run_id: str) -> None:
        """Deletes a run, as MLflow does: it is kept, out of sight, until `mlflow gc`."""
        self._call(run_id, lambda: self._client.delete_run(run_id))

    def entries(self, run_id: str) -> list[Metric]:
        """All that was ever logged of a run's metrics."""
        return [
            entry
            for name in self.get(run_id).data.metrics
            for entry in self._call(run_id, functools.partial(self._client.get_metric_history, run_id, name))
        ]

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """A metric's (step, value) pairs in order."""
        entries = self._call(run_id, lambda: self._client.get_metric_history(run_id, metric))
        return sorted((entry.step, entry.value) for entry in entries)
