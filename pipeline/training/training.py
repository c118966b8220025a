"""The training of a run, whether or not it has been done: what it depends on, and its files. Needs no torch."""

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.config.experiments import RunConfig
from pipeline.data.manifest import FOR_SCORES_ALONE
from pipeline.data.storage import Storage
from pipeline.files import atomic_folder
from pipeline.training.record import BEST, METRICS, RECORD, WEIGHTS, data_digest, file_digest, training_key


@dataclass(frozen=True)
class Training:
    """A run with its inputs and its storage; every worker can reach all of the folders.

    Args:
        config: the run.
        prepared: the folder of its prepared dataset.
        images: the storage that the dataset's file names are relative to.
        code: a hash of the code that trains.
        root: the folder in which every training has a folder of its own.
        starts_from: the file of another run's weights that it starts from, if any.
    """

    config: RunConfig
    prepared: Path
    images: Storage
    code: str
    root: Path
    starts_from: Path | None = None

    @cached_property
    def data(self) -> str:
        """A hash of the prepared dataset, computed at the first use."""
        return data_digest(self.prepared)

    @cached_property
    def key(self) -> str:
        """A hash of everything that the result depends on: configuration, data, code and initial weights.

        That of a training that validates depends on the val images' part of the data as well.
        """
        data = self.data if self.config.validation is None else f"{self.data} {self._validation_data()}"
        return training_key(self.config, data, self.code, self.starts_from)

    def _validation_data(self) -> str:
        """A hash of the prepared dataset, without what only evaluations measure."""
        digest = hashlib.sha256()
        for file in sorted(path for path in self.prepared.rglob("*") if path.is_file()):
            name = file.relative_to(self.prepared).as_posix()
            if name not in FOR_SCORES_ALONE:
                digest.update(f"{name} {file_digest(file)}".encode())
        return digest.hexdigest()[:16]

    @property
    def id(self) -> str:
        return f"{self.config.run}-{self.key}"

    @property
    def storage(self) -> Path:
        """The training's own folder: checkpoints while it trains, then weights, metrics and record."""
        return self.root.resolve() / self.id

    @property
    def weights(self) -> Path:
        """The file of the weights to evaluate: the best ones where the training validates, or else the last ones."""
        return self.storage / (WEIGHTS if self.config.validation is None else BEST)

    @property
    def is_done(self) -> bool:
        return (self.storage / RECORD).is_file()

    def collect(self, output: Path) -> None:
        """Copies weights, record and metrics to the output folder of the `train` stage, whole or not at all."""
        with atomic_folder(output, replace=True) as folder:
            best = () if self.config.validation is None else (BEST,)
            for name in (WEIGHTS, *best, RECORD, METRICS):
                shutil.copy(self.storage / name, folder)
