"""The record of a run's evaluations: the training that was evaluated, the settings and the metrics."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.config.evaluations import EvaluationConfig
from pipeline.files import write_json
from pipeline.training.record import read_record

MAIN_METRICS = ("AP", "AP_star", "boundary_AP", "F1", "F1_score")


class EvaluationRecord(BaseModel):
    """The content of ``evaluations/<run>.json``.

    Attributes:
        run: the run's name.
        mlflow_run_id: the MLflow run of its training.
        training: the key of the training whose weights were evaluated.
        settings: the evaluation settings.
        evaluations: the metrics of each setting by its name, with its ``mlflow_run_id`` and details such as the IoU of
            each class.
        resamples: the main metrics on each bootstrap resample of the val images, by setting and metric; None where a
            resample has nothing to compute the metric from. Every run of a dataset has the same resamples.
        started: when the first prediction began, in milliseconds since 1970.
        ended: when all predictions were scored, in milliseconds since 1970.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    run: str
    mlflow_run_id: str
    training: str
    settings: EvaluationConfig
    evaluations: dict[str, dict[str, Any]]
    resamples: dict[str, dict[str, list[float | None]]] = Field(default_factory=dict)
    started: int
    ended: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.evaluations.keys() != self.settings.root.keys():
            raise ValueError("settings and evaluations have different names")
        if unknown := self.resamples.keys() - self.evaluations.keys():
            raise ValueError(f"resamples are of unknown settings: {', '.join(sorted(unknown))}")
        for name, entry in self.evaluations.items():
            if not isinstance(entry.get("mlflow_run_id"), str):
                raise ValueError(f"evaluations.{name} has no mlflow_run_id")
        return self

    def logged_as(self, setting: str) -> str:
        """The id of the MLflow run of an evaluation setting."""
        return self.evaluations[setting]["mlflow_run_id"]

    def metrics(self, setting: str) -> dict[str, float]:
        """The metrics of an evaluation setting, not rounded."""
        return {key: float(value) for key, value in self.evaluations[setting].items() if isinstance(value, float | int)}

    def timed_on(self, setting: str) -> str:
        """The device that an evaluation setting was timed on; empty if it was not timed."""
        timing = self.evaluations[setting].get("timing")
        return str(timing["device"]) if timing else ""

    def resampled(self, setting: str) -> dict[str, list[float]]:
        """The metrics of an evaluation setting on each resample; NaN where they are undefined."""
        return {
            name: [math.nan if value is None else value for value in values]
            for name, values in self.resamples.get(setting, {}).items()
        }

    def write(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a record.

        Raises:
            FileNotFoundError, UnreadableRecordError: as :func:`pipeline.training.record.read_record`.
        """
        return read_record(cls, path)


def rounded(values: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    """Values on resamples as a record holds them: four decimals, None for NaN."""
    return {
        name: [None if math.isnan(value) else round(value, 4) for value in of_metric]
        for name, of_metric in values.items()
    }


def summary(record: EvaluationRecord, settings: EvaluationConfig) -> dict[str, float]:
    """The main metrics of a run's main evaluation setting, which is the last one.

    The order of the settings is that of ``settings``, the run's configuration: a record's file has sorted keys.

    These are AP, AP_star, boundary_AP, F1 and F1_score for instances, mIoU and trimap mIoU for semantic labels, as far
    as they were measured; in percent but for F1_score, rounded to two decimals. Empty for a run without evaluations.
    """
    if not settings.root:
        return {}
    main = list(settings.root)[-1]
    return {
        name: round(value, 2)
        for name, value in record.metrics(main).items()
        if (name in MAIN_METRICS or name.endswith("mIoU")) and math.isfinite(value)
    }
