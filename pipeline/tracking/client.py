"""The connection to one MLflow experiment.

Every call names its run, so that workers, stages and resumed processes all write to the right run. A call that fails
temporarily, because a server restarts or another process has locked the database, is repeated here.

MLflow's own retries (3.17) are not enough. They repeat a request whose answer was lost, which creates a run twice, they
print nothing, and they do not apply to a database without a server. Its asynchronous logging drops a batch that fails,
and waits without limit for the others at exit.
"""

import copy
import functools
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import requests
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pipeline.errors import UserError
from pipeline.files import locked
from pipeline.stage import Stage
from pipeline.tracking.store import tracking_uri
from pipeline.training.metrics_file import MetricEntry

METRICS_PER_REQUEST, MOST_RUNS = 1000, 50_000  # MLflow's limits
PATIENCE_SECONDS = 30.0  # how long a failing call is repeated
SILENT_SECONDS = 5.0  # shorter outages are not reported
LONGEST_PAUSE_SECONDS = 5.0
REQUEST_SECONDS = 30  # more than the 20 for which a server waits for its SQLite database

# Tells MLflow's page that an experiment has trainings, with charts and parallel coordinates, and not language models.
# In MLflow 3.17 the browser's choice between the two, at the page's top left, goes before it;
# "?workflowType=machine_learning" in an address makes it.
KIND_TAG, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"

DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
FAILURES = (MlflowException, SQLAlchemyError, requests.RequestException)
# INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE and BAD_REQUEST: no answer, or another process writes to the database.
# RESOURCE_ALREADY_EXISTS: another process has created the same experiment in the meantime.
TRANSIENT_CODES = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "BAD_REQUEST",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_ALREADY_EXISTS",
}

T = TypeVar("T")


class TrackingError(UserError, RuntimeError):
    """MLflow cannot be reached, or a request to it fails."""


def tags_query(tags: Mapping[str, str]) -> str:
    """An MLflow search filter for runs that have all of the tags."""
    return " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())


class Tracker:
    """One MLflow experiment.

    Args:
        uri: the tracking server or database.
        experiment: name of the experiment; created if it is missing.
        artifacts: folder for the artifacts of a database without a server.
        patience: seconds for which a failing call is repeated.

    Raises:
        TrackingError: if MLflow cannot be used. All methods raise it.
    """

    client: MlflowClient
    experiment_id: str

    def __init__(
        self, uri: str, experiment: str, artifacts: Path | None = None, patience: float = PATIENCE_SECONDS
    ) -> None:
        self.uri, self.experiment, self.artifacts, self.patience = uri, experiment, artifacts, patience
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
        # MLflow logs a traceback whenever the database is locked, even if the next try succeeds.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        try:
            with _database_lock(uri):
                self.client = self._try(lambda: MlflowClient(uri))
            self.experiment_id = self._try(self._find_or_create_experiment)
        except FAILURES as error:
            raise TrackingError(f"MLflow at {uri} cannot be used; {_remedy(error)} ({_reason(error)})") from error

    def with_patience(self, seconds: float) -> Self:
        """A tracker of the same experiment with another patience."""
        other = copy.copy(self)
        other.patience = seconds
        return other

    def of_experiment(self, name: str) -> Self:
        """A tracker of another experiment of the same server or database; created if it is missing."""
        other = copy.copy(self)
        other.experiment = name
        other.experiment_id = self.call(f"experiment {name}", other._find_or_create_experiment)
        return other

    def has_experiment(self, name: str) -> bool:
        """Whether an experiment exists and is not deleted."""
        found = self.call(f"experiment {name}", lambda: self.client.get_experiment_by_name(name))
        return found is not None and found.lifecycle_stage == LifecycleStage.ACTIVE

    def call(self, subject: str, action: Callable[[], T]) -> T:
        """Calls ``action``, again if it fails temporarily, and returns its result.

        Raises:
            TrackingError: if it still fails; the message names the subject.
        """
        try:
            return self._try(action)
        except FAILURES as error:
            raise TrackingError(f"MLflow at {self.uri}, {subject}: {_reason(error)}") from error

    def find(self, run_id: str) -> Run | None:
        """A run of the experiment; None if MLflow does not have it or if it is deleted."""
        return next(iter(self._search(f"attributes.run_id = '{run_id}'")), None)

    def get(self, run_id: str) -> Run:
        """A run with its parameters, tags and the last value of each metric."""
        return self.call(f"run {run_id}", lambda: self.client.get_run(run_id))

    def runs(self, tags: Mapping[str, str]) -> list[Run]:
        """The experiment's runs that have all of the tags."""
        return self._search(tags_query(tags))

    def entries(self, run_id: str) -> list[MetricEntry]:
        """Every metric entry of a run."""
        return [entry for key in self.get(run_id).data.metrics for entry in self._history(run_id, key)]

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """A metric's (step, value) pairs, in order."""
        return sorted((entry.step, entry.value) for entry in self._history(run_id, metric))

    def send_metrics(self, run_id: str, entries: Sequence[MetricEntry]) -> None:
        """Logs metric entries. MLflow stores an entry that it has already only once."""
        for first in range(0, len(entries), METRICS_PER_REQUEST):
            metrics = [Metric(*entry) for entry in entries[first : first + METRICS_PER_REQUEST]]
            self.call(f"run {run_id}", functools.partial(self.client.log_batch, run_id, metrics=metrics))

    def finish(self, run_id: str, status: str, ended: int | None = None) -> None:
        """Ends a run as FINISHED, FAILED or KILLED, now or at a time in milliseconds since 1970."""
        self.call(f"run {run_id}", lambda: self.client.set_terminated(run_id, status, ended))

    def delete(self, run_id: str) -> None:
        """Deletes a run; MLflow keeps it, hidden, until `mlflow gc`."""
        self.call(f"run {run_id}", lambda: self.client.delete_run(run_id))

    def _search(self, query: str) -> list[Run]:
        """The experiment's runs that are not deleted and match a filter; the oldest first."""
        search = functools.partial(
            self.client.search_runs,
            [self.experiment_id],
            query,
            max_results=MOST_RUNS,
            order_by=["attributes.start_time ASC"],
        )
        return list(self.call(f"runs with {query}", search))

    def _history(self, run_id: str, metric: str) -> list[MetricEntry]:
        found = self.call(f"run {run_id}", lambda: self.client.get_metric_history(run_id, metric))
        return [MetricEntry(entry.key, entry.value, entry.timestamp, entry.step) for entry in found]

    def _find_or_create_experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            # A server has a folder for artifacts. Without a server MLflow would use the working directory.
            local = self.uri.startswith(DATABASES)
            location = self.artifacts.resolve().as_uri() if self.artifacts and local else None
            kind = {KIND_TAG: MODEL_TRAINING}
            return self.client.create_experiment(self.experiment, artifact_location=location, tags=kind)
        if found.lifecycle_stage == LifecycleStage.DELETED:
            self.client.restore_experiment(found.experiment_id)  # a deleted experiment keeps its name
        if KIND_TAG not in found.tags:
            self.client.set_experiment_tag(found.experiment_id, KIND_TAG, MODEL_TRAINING)
        return found.experiment_id

    def _try(self, action: Callable[[], T]) -> T:
        """Calls ``action`` until it succeeds, fails permanently, or the patience is used up; returns its result."""
        begun = time.monotonic()
        pause, reported = 0.1, False
        while True:
            try:
                result = self._uninterrupted(action)
            except FAILURES as error:
                waited = time.monotonic() - begun
                if not is_transient(error) or waited >= self.patience:
                    raise
                if not reported and waited > SILENT_SECONDS:
                    reported = True
                    limit = f"{self.patience:.0f} s"
                    print(f"MLflow at {self.uri}: waiting up to {limit} for it ({_reason(error)})", flush=True)
            else:
                if reported:
                    print(f"MLflow at {self.uri} answers again", flush=True)
                return result
            # Random, so that processes that collided do not collide again.
            time.sleep(min(pause * random.uniform(0.5, 1.0), max(self.patience - waited, 0.0)))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _uninterrupted(self, action: Callable[[], T]) -> T:
        """Calls ``action``. If it writes to a database directly, Ctrl-C does not interrupt it.

        An interrupted write would leave its transaction open and the database locked for every process. Ctrl-C only
        reaches the main thread, so the action runs in another one, and leaving the block waits for it. A call to a
        server can be interrupted, because the server may hang.
        """
        if not self.uri.startswith(DATABASES):
            return action()
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(action).result()


@contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Lets one process at a time open an SQLite file: two that create its tables at once damage it permanently."""
    _, scheme, file = uri.partition("sqlite:///")
    if not scheme:
        yield
        return
    with locked(Path(f"{file}.lock")):
        yield


def is_transient(error: Exception) -> bool:
    """Whether an error is temporary: no answer, an overloaded server, a locked database."""
    if isinstance(error, MlflowException):
        return error.error_code in TRANSIENT_CODES
    return isinstance(error, OperationalError | requests.RequestException)


def _remedy(error: Exception) -> str:
    """What to do about an error of the first calls to a server or database."""
    status = error.get_http_status_code() if isinstance(error, MlflowException) else None
    if status == 401:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        said = f"it refuses the password of {user}" if user else "it asks for a name and a password"
        return f"{said}: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and start the local Ray again"
    if status == 403:
        return "its user may not do this: ask who runs the server for the right to edit this experiment"
    if "ProxyError" in str(error):
        return "a proxy does not let it through: add its host to no_proxy"
    return "start it or change MLFLOW_TRACKING_URI"


def _reason(error: Exception) -> str:
    """The first useful line of an error's message, without SQL or SQLAlchemy's hints for programmers."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "Query-invoked autoflush" not in line), lines[0])


def tracker_of(stage: Stage) -> Tracker:
    """The MLflow experiment of the selected scale, which all workspaces of a project share."""
    return Tracker(tracking_uri(stage.root), f"pointrend-{stage.params.scale}", stage.home / "mlartifacts")
