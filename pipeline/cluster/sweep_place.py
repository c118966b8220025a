"""The folders that a sweep reads and writes, and the key of its result. Needs no torch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pipeline.training.record import file_digest, weights_to_use


class SweepError(UserError):
    """A sweep cannot start or cannot continue."""


@dataclass(frozen=True)
class SweepPlace:
    """The folders of a sweep; every worker can reach all of them.

    Attributes:
        prepared: the prepared dataset.
        images: the storage that the dataset's file names are relative to.
        starts_from: the output folder of the training whose weights the sweep uses, if any.
        storage: the folder of all sweeps.
        code: a hash of the code that trains and evaluates trials.
    """

    prepared: Path
    images: Storage
    starts_from: Path | None
    storage: Path
    code: str

    @property
    def weights(self) -> Path | None:
        return weights_to_use(self.starts_from) if self.starts_from else None

    def check(self) -> None:
        """Raises SweepError if the weights that the sweep uses are missing."""
        if self.weights and not self.weights.is_file():
            raise SweepError(
                f"{self.weights}: the weights that the sweep uses are missing; "
                f"run `dvc repro train@{self.weights.parent.name}` first"
            )

    def records(self, name: str, key: str) -> Path:
        """The folder of the trials' records and checkpoints while the sweep runs."""
        return self.storage.resolve() / f"{name}-{key}"

    def result(self, name: str, key: str) -> Path:
        """The folder of the sweep's result until the `sweep` stage collects it."""
        return self.storage.resolve() / "done" / f"{name}-{key}"


def sweep_key(task: TrainingTask | SubdivisionTask, place: SweepPlace) -> str:
    """A hash (16 hex digits) of what a sweep's result depends on: configuration, data, code and the weights it uses."""
    digest = hashlib.sha256(f"{task.model_dump_json()} {place.code}".encode())
    files = [place.prepared / name for name in ("dataset.json", "train.parquet", "val.parquet")]
    for file in [*files, *([place.weights] if place.weights else [])]:
        digest.update(file_digest(file).encode())
    return digest.hexdigest()[:16]
