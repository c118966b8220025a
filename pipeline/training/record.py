"""What a training is known by, and the record that it leaves beside its weights; neither Ray nor MLflow is needed."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config.experiments import RunConfig
from pipeline.errors import UserError
from pipeline.files import write_json

RECORD = "train.json"  # the last thing that a training writes
WEIGHTS = "model.safetensors"
METRICS = "metrics.jsonl"  # all that was logged
SUMMARY = "summary.json"  # of the workers, written after the weights


class UnreadableRecordError(UserError, ValueError):
    """A training's record that is damaged, or of an earlier version of the code."""


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """A hash of a file; many runs have the same data, which a process reads once, unless it changes."""
    found = path.stat()
    return _digest(path.absolute(), found.st_size, found.st_mtime_ns)


def data_digest(prepared: Path) -> str:
    """A hash of what a prepared dataset has for training."""
    digests = [file_digest(prepared / name) for name in ("dataset.json", "train.parquet")]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def training_key(config: RunConfig, data: str, code: str, starts_from: Path | None) -> str:
    """A hash of all that a training's result depends on.

    Args:
        config: the run.
        data: the hash of its dataset, see :func:`data_digest`.
        code: a hash of the code that trains.
        starts_from: the weights that it begins with, if any.
    """
    start = file_digest(starts_from) if starts_from else "-"
    return hashlib.sha256(f"{config.model_dump_json()} {code} {data} {start}".encode()).hexdigest()[:16]


def write_record(
    folder: Path,
    config: RunConfig,
    *,
    key: str,
    data: str,
    code: str,
    run_id: str,
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
    started: int,
    ended: int,
    summary: Mapping[str, Any],
) -> None:
    """Writes ``train.json``, from which the run can be logged again where MLflow does not have it.

    Args:
        folder: where to.
        config: the run.
        key: see :func:`training_key`.
        data: see :func:`data_digest`.
        code: the version of the code.
        run_id: the MLflow run.
        parameters: of the MLflow run.
        tags: of the MLflow run.
        started: when the training began, in milliseconds since 1970.
        ended: when it ended, likewise.
        summary: what the workers say of the training.
    """
    record = {
        "run": config.run,
        "key": key,
        "mlflow_run_id": run_id,
        "config": config.model_dump(mode="json"),
        "data": data,
        "code": code,
        "parameters": dict(parameters),
        "tags": dict(tags),
        "started": started,
        "ended": ended,
        **summary,
    }
    write_json(folder / RECORD, record)


class TrainingRecord(BaseModel):
    """``train.json``, as far as others than its readers' eyes read it.

    Attributes:
        run: the run's name.
        key: see :func:`training_key`.
        mlflow_run_id: where it was logged.
        config: the run's whole configuration.
        data: the hash of its dataset, see :func:`data_digest`.
        code: the version of the code.
        parameters: of the MLflow run.
        tags: of the MLflow run, without MLflow's own.
        started: when the MLflow run did, in milliseconds since 1970.
        ended: likewise.
        seconds: that training took, since it was last resumed.
        hardware: what it ran on.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    run: str
    key: str
    mlflow_run_id: str
    config: RunConfig
    data: str
    code: str
    parameters: dict[str, str]
    tags: dict[str, str]
    started: int
    ended: int
    seconds: float
    hardware: str

    @classmethod
    def read(cls, trained: Path) -> Self:
        """The record in a training's output.

        Raises:
            FileNotFoundError: where there is none.
            UnreadableRecordError: if it cannot be used.
        """
        path = trained / RECORD
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            keys = ", ".join(".".join(map(str, item["loc"])) or "file" for item in error.errors())
            raise UnreadableRecordError(
                f"{path}: damaged, or of an earlier version ({keys}); `dvc repro` makes it anew"
            ) from error
        except ValueError as error:
            raise UnreadableRecordError(f"{path}: damaged; `dvc repro` makes it anew ({error})") from error
