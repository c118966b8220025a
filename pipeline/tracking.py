"""MLflow: one run per training, its evaluations nested in it.

Everything goes through :class:`mlflow.MlflowClient` with explicit run ids, so that workers, stages and resumed
processes all write to the run that they mean.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from pipeline.config import EvaluationSetting, InstanceModelConfig, RenderingConfig, RunConfig
from pipeline.errors import UserError
from pointrend.specs import MODELS

KEY_TAG = "pointrend.key"
METRICS_PER_BATCH = 1000  # the most that one MLflow request takes


class TrackingError(UserError, RuntimeError):
    """MLflow cannot be reached or does not have what is asked for."""


def tracking_uri(root: Path) -> str:
    """The tracking server of ``MLFLOW_TRACKING_URI``; by default an SQLite file in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def run_parameters(config: RunConfig) -> dict[str, str]:
    """A run's settings as MLflow parameters: flat, short, and the same keys for every run."""
    network, sampling = config.model, config.sampling
    point_layers, point_channels = config.point_head_size or ("-", "-")
    if isinstance(network, InstanceModelConfig):
        head = "PointRend" if network.has_point_head else "4xconv"
        _, _, backbone = network.name.partition("_rcnn_" if network.has_point_head else "_")
        train_size = "-".join(map(str, sorted({min(network.train_min_sizes), max(network.train_min_sizes)})))
        test_size = str(network.test_min_size)
    else:
        head = f"{network.architecture} + PointRend" if network.has_point_head else network.architecture
        backbone = MODELS[network.name].backbone
        train_size, test_size = "x".join(map(str, network.crop_size)), "-"
    return {
        "dataset": config.dataset,
        "head": head,
        "backbone": backbone,
        "seed": str(config.seed),
        "batch_size": str(config.schedule.batch_size),
        "updates": str(config.schedule.updates),
        "learning_rate": str(config.schedule.learning_rate),
        "precision": config.schedule.precision,
        "norm": network.norm,
        "train_size": train_size,
        "test_size": test_size,
        "sampling": sampling.strategy if sampling else "-",
        "train_points": str(sampling.num_points) if sampling else "-",
        "k": f"{sampling.oversample:g}" if sampling else "-",
        "beta": f"{sampling.importance:g}" if sampling else "-",
        "point_layers": str(point_layers),
        "point_channels": str(point_channels),
    }


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


class Tracker:
    """The runs of one MLflow experiment.

    Args:
        uri: the tracking server or database.
        experiment: name of the experiment; made where it is missing.
        artifacts: where a database without a server keeps artifacts.

    Raises:
        TrackingError: if MLflow cannot be reached.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        self.uri, self.experiment, self.artifacts = uri, experiment, artifacts
        try:
            self._client = MlflowClient(uri)
            self._experiment_id = self._find_or_create_experiment()
        except (MlflowException, SQLAlchemyError) as error:
            raise TrackingError(
                f"MLflow at {uri} cannot be used; start it or change MLFLOW_TRACKING_URI ({error})"
            ) from error

    def _find_or_create_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
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
        with self._errors(name):
            unfinished = self._client.search_runs([self._experiment_id], query, max_results=1)
            if unfinished:
                run_id = unfinished[0].info.run_id
                self._client.update_run(run_id, status="RUNNING")
                return run_id
            run = self._client.create_run(self._experiment_id, run_name=name, tags={**tags, KEY_TAG: key})
            self._log_parameters(run.info.run_id, parameters)
            return run.info.run_id

    def log_config(self, run_id: str, config: Any) -> None:
        """Keeps a run's whole configuration as an artifact."""
        with self._errors(run_id):
            self._client.log_text(run_id, json.dumps(config, indent=1, sort_keys=True), "config.json")

    def add_evaluation(
        self, parent: str, name: str, setting: EvaluationSetting, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> str:
        """A finished run nested in the training's, with the training's parameters and the setting's own."""
        inherited = dict(self.get(parent).data.params)
        run = self._client.create_run(self._experiment_id, run_name=name, tags={**tags, MLFLOW_PARENT_RUN_ID: parent})
        run_id = run.info.run_id
        own = {"subdivision_points": str(setting.num_points or "-")}
        if isinstance(setting, RenderingConfig):
            own["resolution"] = str(setting.resolution)
        else:
            own["output_stride"] = str(setting.output_stride or "-")
        self._log_parameters(run_id, {**inherited, **own})
        self.log_metrics(run_id, [(key, value, 0) for key, value in metrics.items()])
        self.finish(run_id, "FINISHED")
        return run_id

    def _log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        self._client.log_batch(run_id, params=[Param(k, v) for k, v in parameters.items()])

    def log_metrics(self, run_id: str, metrics: Iterable[tuple[str, float, int]]) -> None:
        """Logs (name, value, step) triples."""
        now = int(time.time() * 1000)
        entries = [Metric(name, value, now, step) for name, value, step in metrics]
        for first in range(0, len(entries), METRICS_PER_BATCH):
            with self._errors(run_id):
                self._client.log_batch(run_id, metrics=entries[first : first + METRICS_PER_BATCH])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        with self._errors(run_id):
            self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def last_step(self, run_id: str, metric: str) -> int:
        """The highest step that a metric was logged at; 0 where it never was."""
        return max((step for step, _ in self.history(run_id, metric)), default=0)

    def finish(self, run_id: str, status: str) -> None:
        """Ends a run as FINISHED, FAILED or KILLED."""
        with self._errors(run_id):
            self._client.set_terminated(run_id, status)

    def get(self, run_id: str) -> Run:
        """A run with its parameters and metrics.

        Raises:
            TrackingError: if MLflow does not have it.
        """
        with self._errors(run_id):
            return self._client.get_run(run_id)

    @contextmanager
    def _errors(self, run_id: str) -> Iterator[None]:
        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            raise TrackingError(f"MLflow at {self.uri}, run {run_id}: {error}") from error

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """A metric's (step, value) pairs in order."""
        with self._errors(run_id):
            entries = self._client.get_metric_history(run_id, metric)
        return sorted((entry.step, entry.value) for entry in entries)
