"""The record of a run's evaluations: the training that was evaluated, the settings and the metrics."""

import math
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from pipeline.config.evaluations import EvaluationConfig
from pipeline.files import write_json
from pipeline.training.record import read_record

MAIN_METRICS = ("AP", "AP_star", "boundary_AP")


class EvaluationRecord(BaseModel):
    """The content of ``evaluations/<run>.json``.

    Attributes:
        run: the run's name.
        mlflow_run_id: the MLflow run of its training.
        training: the key of the training whose weights were evaluated.
        settings: the evaluation settings.
        evaluations: the metrics of each setting by its name, with its ``mlflow_run_id`` and details such as the IoU of
            each class.
        started: when the first prediction began, in milliseconds since 1970.
        ended: when all predictions were scored, in milliseconds since 1970.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    run: str
    mlflow_run_id: str
    training: str
    settings: EvaluationConfig
    evaluations: dict[str, dict[str, Any]]
    started: int
    ended: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.evaluations.keys() != self.settings.root.keys():
            raise ValueError("settings and evaluations have different names")
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

    def write(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a record.

        Raises:
            FileNotFoundError, UnreadableRecordError: as :func:`pipeline.training.record.read_record`.
        """
        return read_record(cls, path)


def summary(record: EvaluationRecord) -> dict[str, float]:
    """The main metrics of a run's main evaluation setting, which is the last one.

    These are AP, AP_star and boundary_AP for instances, mIoU and trimap mIoU for semantic labels, as far as they were
    measured; in percent, rounded to two decimals. Empty for a run without evaluations.
    """
    if not record.settings.root:
        return {}
    main = list(record.settings.root)[-1]
    return {
        name: round(value, 2)
        for name, value in record.metrics(main).items()
        if (name in MAIN_METRICS or name.endswith("mIoU")) and math.isfinite(value)
    }
