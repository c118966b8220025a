"""A training, before and after it runs: what it is known by, and where its result is. Light: it takes no torch."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.config.experiments import RunConfig
from pipeline.data.storage import Storage
from pipeline.files import atomic_folder
from pipeline.training.record import (
    METRICS,
    RECORD,
    WEIGHTS,
    data_digest,
    training_key,
)


@dataclass(frozen=True)
class Training:
    """A run, and where it finds its data and leaves what it makes; every worker can reach all of it.

    Args:
        config: the run.
        prepared: its prepared dataset.
        images: what its file names are relative to.
        code: a hash of the code that trains.
        root: the folder of the trainings' own folders.
        starts_from: the weights that it begins with, if any.
    """

    config: RunConfig
    prepared: Path
    images: Storage
    code: str
    root: Path
    starts_from: Path | None = None

    @cached_property
    def data(self) -> str:
        """A hash of the prepared dataset, as it was when first asked for."""
        return data_digest(self.prepared)

    @cached_property
    def key(self) -> str:
        """A hash of all that the result depends on: configuration, data and code."""
        return training_key(self.config, self.data, self.code, self.starts_from)

    @property
    def id(self) -> str:
        return f"{self.config.run}-{self.key}"

    @property
    def storage(self) -> Path:
        """The training's own folder: its checkpoints while it trains, then its weights and their record."""
        return self.root.resolve() / self.id

    @property
    def weights(self) -> Path:
        return self.storage / WEIGHTS

    @property
    def is_done(self) -> bool:
        return (self.storage / RECORD).is_file()

    def collect(self, output: Path) -> None:
        """Copies the weights, their record and all logged metrics to a folder, whole or not at all."""
        with atomic_folder(output, replace=True) as folder:
            for name in (WEIGHTS, RECORD, METRICS):
                shutil.copy(self.storage / name, folder)
