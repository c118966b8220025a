"""The figures that `pointrend check` has measured: seconds and memory of an update, for each distinct training.

They hold for the place, the workers and the code that they were measured with. Any others are never used, and the plan
says why.
"""

import hashlib
import os
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, RootModel

from pipeline.config.clusters import ClusterConfig
from pipeline.config.code import code_of, digest
from pipeline.config.experiments import RunConfig
from pipeline.config.reader import Strict, load
from pipeline.files import write_json
from pointrend.specs import Task

#: What does not change what an update does: names, the seed, learning rates, and how often something else happens.
_NAMES = {"run", "experiment", "seed", "changes", "validation"}
_RATES = {"warmup", "phases", "poly", "head_multiplier", "checkpoint_every", "validate_every", "stop_early"}
#: The settings of a cluster that change how fast an update is.
_SPEED = {"workers", "min_workers", "images_per_worker", "cpus_per_worker", "gpus_per_worker", "loader_processes"}


def kind_of(config: RunConfig) -> str:
    """A hash (16 hex digits) that trainings share if they differ in names, seed, learning rates and length alone."""
    text = config.model_dump_json(exclude={**dict.fromkeys(_NAMES, True), "schedule": _RATES})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def place() -> str:
    """Where jobs run: the cluster of ``RAY_ADDRESS``, or this machine."""
    return os.environ.get("RAY_ADDRESS") or platform.node()


class Measurement(Strict):
    """What a training of three updates took."""

    kind: str = Field(description="see kind_of")
    code: str = Field(description="a hash of the code that trains")
    cluster: str = Field(description="the name of the cluster configuration")
    speed: str = Field(description="a hash of those of its settings that change the speed")
    place: str
    device: str = Field(description="of one worker")
    workers: PositiveInt
    seconds_per_update: PositiveFloat
    memory: PositiveInt = Field(description="the peak of one worker in bytes: of its GPU, or of its process")
    date: str

    @property
    def where(self) -> str:
        """Device and date, for people."""
        return f"{devices_text(self.workers, self.device)} ({self.cluster}) on {self.date}"


def devices_text(workers: int, device: str) -> str:
    """The devices of all workers, for people."""
    return f"{workers} × {device}" if workers > 1 else device


def speed_of(cluster: ClusterConfig) -> str:
    """A hash (16 hex digits) of the settings of a cluster that change how fast an update is."""
    return hashlib.sha256(cluster.model_dump_json(include=_SPEED).encode()).hexdigest()[:16]


def measured_file(home: Path) -> Path:
    """The project's file of measurements."""
    return home / ".pointrend" / "check" / "measured.json"


class _Measurements(RootModel[list[Measurement]]):
    """The file's content."""


def read_measurements(home: Path) -> list[Measurement]:
    """All measurements of a project; none if nothing was measured.

    Raises:
        ConfigError: if the file is damaged.
    """
    file = measured_file(home)
    return load(_Measurements, file).root if file.is_file() else []


def keep_measurements(home: Path, fresh: Iterable[Measurement]) -> None:
    """Adds measurements to the project's file. They replace older ones of the same training, cluster and place."""
    new = list(fresh)
    replaced = {(each.kind, each.cluster, each.place) for each in new}
    kept = [each for each in read_measurements(home) if (each.kind, each.cluster, each.place) not in replaced]
    write_json(measured_file(home), [each.model_dump() for each in kept + new])


class Measured:
    """Looks up the measurements of a project that hold on a cluster as it is now.

    Attributes:
        unused: why others of the trainings that were looked up are not used.
    """

    def __init__(self, root: Path, home: Path, name: str, cluster: ClusterConfig) -> None:
        self._name, self._speed, self._place = name, speed_of(cluster), place()
        self._known = [each for each in read_measurements(home) if each.cluster == name]
        self._code = cache(lambda task: digest(code_of(root, "train", task)))
        self.unused: list[str] = []

    def find(self, config: RunConfig, task: Task) -> Measurement | None:
        """The measurement of a training; None if there is none that holds."""
        kind = kind_of(config)
        for each in (each for each in self._known if each.kind == kind):
            reason = self._why_not(each, task)
            if reason is None:
                return each
            line = f"measured on {each.where}: {reason}; run `pointrend check` again"
            if line not in self.unused:
                self.unused.append(line)
        return None

    def _why_not(self, each: Measurement, task: Task) -> str | None:
        if each.place != self._place:
            return f"not used, jobs ran at {each.place} then and would run at {self._place} now"
        if each.speed != self._speed:
            return f"not used, configs/clusters/{self._name}.yaml has changed since"
        if each.code != self._code(task):
            return "not used, the code of the trainings has changed since"
        return None
