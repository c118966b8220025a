"""The key of a training, and the record that is written beside its weights. Needs neither Ray nor MLflow."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config.experiments import RunConfig
from pipeline.errors import UserError
from pipeline.files import write_json

RECORD = "train.json"  # the last thing that a training writes
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"  # the weights with the best score on the val images, of a training that validates
METRICS = "metrics.jsonl"  # every metric that was logged
SUMMARY = "summary.json"  # written by worker 0 after the weights


def weights_to_use(trained: Path) -> Path:
    """The weights of a finished training to evaluate and to start from: the best ones, or else the last ones."""
    best = trained / BEST
    return best if best.is_file() else trained / WEIGHTS


class UnreadableRecordError(UserError, ValueError):
    """The record of a training or evaluation is damaged, or was written by an earlier version of the code."""


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """A SHA-256 hash of a file. A process reads each file once, unless it changes: many runs share their data."""
    found = path.stat()
    return _digest(path.absolute(), found.st_size, found.st_mtime_ns)


def data_digest(prepared: Path) -> str:
    """A hash (16 hex digits) of the files of a prepared dataset that training reads."""
    digests = [file_digest(prepared / name) for name in ("dataset.json", "train.parquet")]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def training_key(config: RunConfig, data: str, code: str, starts_from: Path | None) -> str:
    """A hash (16 hex digits) of everything that a training's result depends on.

    Args:
        config: the run.
        data: the hash of its dataset, see :func:`data_digest`.
        code: a hash of the code that trains.
        starts_from: the file of another run's weights that it starts from, if any.
    """
    start = file_digest(starts_from) if starts_from else "-"
    return hashlib.sha256(f"{config.model_dump_json()} {code} {data} {start}".encode()).hexdigest()[:16]


R = TypeVar("R", bound=BaseModel)


def read_record(kind: type[R], path: Path) -> R:
    """Reads a record from its JSON file.

    Raises:
        FileNotFoundError: if there is none.
        UnreadableRecordError: if it is damaged, or of an earlier version of the code.
    """
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
        raise UnreadableRecordError(
            f"{path}: damaged, or of an earlier version ({reasons}); run `dvc repro`, which writes it again"
        ) from error
    except ValueError as error:
        raise UnreadableRecordError(f"{path}: damaged; run `dvc repro`, which writes it again ({error})") from error


class BestScore(BaseModel):
    """Where a training's best weights are from.

    Attributes:
        update: the number of updates after which they were validated.
        metric: the metric that ranked them.
        score: theirs on the val images, in percent; None if it is undefined.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    update: int
    metric: str
    score: float | None


class TrainingRecord(BaseModel):
    """The content of ``train.json``, from which the run can be logged again if MLflow does not have it.

    It also has the entries of ``summary.json`` (see :func:`pipeline.training.run.train_run`). Those without a field
    here, such as the number of workers, are for people.

    Attributes:
        run: the run's name.
        key: see :func:`training_key`.
        mlflow_run_id: the MLflow run that it was logged as.
        config: the run's whole configuration.
        data: the hash of its dataset, see :func:`data_digest`.
        code: the version of the code.
        parameters: the parameters of the MLflow run.
        tags: the tags of the MLflow run, without MLflow's own.
        started: when the MLflow run began, in milliseconds since 1970.
        ended: when it ended, in milliseconds since 1970.
        seconds: the duration of the training since it was last resumed.
        hardware: the devices that it ran on.
        updates: the number of updates, fewer than the schedule's if the training stopped early; None if not known.
        resumed_from: the number of updates that it had when it was last resumed.
        peak_memory_gb: the most memory of worker 0, in gigabytes: of the GPU, or of the process without one.
        best: of a training that validates.
        stopped: why it stopped early, if it did.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

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
    updates: int | None = Field(None, exclude_if=lambda value: value is None)
    resumed_from: int | None = Field(None, exclude_if=lambda value: value is None)
    peak_memory_gb: float | None = Field(None, exclude_if=lambda value: value is None)
    best: BestScore | None = Field(None, exclude_if=lambda value: value is None)
    stopped: str | None = Field(None, exclude_if=lambda value: value is None)

    @property
    def updates_per_second(self) -> float | None:
        """Over the time since it was last resumed, with its validations; None if not known."""
        if self.updates is None or self.seconds <= 0:
            return None
        return (self.updates - (self.resumed_from or 0)) / self.seconds

    def write(self, trained: Path) -> None:
        """Writes the record into a training's folder."""
        write_json(trained / RECORD, self.model_dump(mode="json"))

    @classmethod
    def read(cls, trained: Path) -> Self:
        """Reads the record in a training's folder.

        Raises:
            FileNotFoundError, UnreadableRecordError: as :func:`read_record`.
        """
        return read_record(cls, trained / RECORD)
