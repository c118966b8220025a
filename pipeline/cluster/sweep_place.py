"""Where a sweep finds what it needs and leaves what it makes, and the key of its result. It needs no torch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pipeline.training.record import WEIGHTS, file_digest


class SweepError(UserError):
    """A sweep that cannot go on."""


@dataclass(frozen=True)
class SweepPlace:
    """The folders of a sweep; every worker can reach all of them.

    Attributes:
        prepared: the prepared dataset.
        images: what its file names are relative to.
        starts_from: the output of the training whose weights it takes, if any.
        storage: the folder of all sweeps under way.
        code: a hash of the code that trains and evaluates trials.
    """

    prepared: Path
    images: Storage
    starts_from: Path | None
    storage: Path
    code: str = ""

    @property
    def weights(self) -> Path | None:
        return self.starts_from / WEIGHTS if self.starts_from else None

    def check(self) -> None:
        """Checks that the run whose weights the sweep takes is trained.

        Raises:
            SweepError: if not.
        """
        if self.weights and not self.weights.is_file():
            raise SweepError(
                f"{self.weights}: no such weights; the sweep does not train them, "
                f"`dvc repro train@{self.weights.parent.name}` does"
            )

    def records(self, name: str, key: str) -> Path:
        """The folder of a sweep's trials while it is under way."""
        return self.storage.resolve() / f"{name}-{key}"

    def result(self, name: str, key: str) -> Path:
        """The folder of a sweep's result until it is collected."""
        return self.storage.resolve() / "done" / f"{name}-{key}"


def sweep_key(task: TrainingTask | SubdivisionTask, place: SweepPlace) -> str:
    """A hash of all that a sweep's result depends on: configuration, data, code and the weights that it takes."""
    digest = hashlib.sha256(f"{task.model_dump_json()} {place.code}".encode())
    files = [place.prepared / name for name in ("dataset.json", "train.parquet", "val.parquet")]
    for file in [*files, *([place.weights] if place.weights else [])]:
        digest.update(file_digest(file).encode())
    return digest.hexdigest()[:16]
