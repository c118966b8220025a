"""The file of JSON lines with every metric of a training. MLflow is filled from it, during the training or later."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.errors import UserError
from pipeline.files import atomic_file

VALIDATION = "val/"  # before the names of metrics of the val images


class MetricsFileError(UserError, RuntimeError):
    """A metrics file cannot be written, or is missing or damaged."""


class MetricEntry(NamedTuple):
    """One value of one metric.

    Attributes:
        key: the metric's name.
        value: its value; may be NaN or infinite.
        timestamp: when it was measured, in milliseconds since 1970.
        step: the number of updates done when it was measured.
    """

    key: str
    value: float
    timestamp: int
    step: int


def now() -> int:
    """The time in milliseconds since 1970, MLflow's unit."""
    return int(time.time() * 1000)


@dataclass(frozen=True)
class MetricsFile:
    """An append-only file with one line for each logged step. Only one process may append to it.

    Entries carry the time at which they were measured, so that MLflow stores an entry that is sent twice only once.
    """

    path: Path

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step, with the current time. They are on disk when this returns.

        Raises:
            MetricsFileError: if the file cannot be written.
        """
        line = _line(step, now(), metrics)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as stream:
                _drop_torn_line(stream)
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise MetricsFileError(
                f"{self.path}: metrics could not be written; free some space and run `dvc repro` again ({error})"
            ) from error

    def restore(self, entries: Iterable[MetricEntry]) -> None:
        """Replaces the file, whole or not at all, with entries that were read from MLflow."""
        steps: dict[tuple[int, int], dict[str, float]] = {}
        for entry in entries:
            steps.setdefault((entry.timestamp, entry.step), {})[entry.key] = entry.value
        with atomic_file(self.path, "wb") as stream:
            for (timestamp, step), metrics in sorted(steps.items()):
                stream.write(_line(step, timestamp, metrics))

    def entries(self) -> list[MetricEntry]:
        """All entries in the order in which they were added.

        Raises:
            MetricsFileError: if the file is missing or damaged.
        """
        if not self.path.is_file():
            raise MetricsFileError(f"{self.path}: missing; run `dvc repro`, which writes it again")
        return self.read(0)[0]

    def last_step(self, prefix: str = "") -> int:
        """The highest step of the metrics whose names begin with a prefix; 0 if there are none."""
        return max((entry.step for entry in self.read(0)[0] if entry.key.startswith(prefix)), default=0)

    def read(self, start: int) -> tuple[list[MetricEntry], int]:
        """The entries of all complete lines from byte ``start`` on, and the byte at which the last complete line ends.

        A missing file has no entries.

        Raises:
            MetricsFileError: if a line is damaged.
        """
        entries: list[MetricEntry] = []
        if not self.path.exists():
            return entries, start
        with self.path.open("rb") as stream:
            stream.seek(start)
            end = start
            for line in stream:
                if not line.endswith(b"\n"):  # still being written, or torn
                    break
                try:
                    found = json.loads(line)
                    timestamp, step = found["time"], found["step"]
                    entries += [MetricEntry(key, value, timestamp, step) for key, value in found["metrics"].items()]
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise MetricsFileError(
                        f"{self.path}: the line at byte {end} is damaged; delete it and run `dvc repro` again ({error})"
                    ) from error
                end += len(line)
        return entries, end


def _line(step: int, timestamp: int, metrics: Mapping[str, float]) -> bytes:
    return json.dumps({"step": step, "time": timestamp, "metrics": dict(metrics)}).encode() + b"\n"


def _drop_torn_line(stream: BinaryIO) -> None:
    """Removes an incomplete last line, left by a killed process or a full disk."""
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return
    stream.seek(size - 1)
    if stream.read(1) != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
    stream.seek(0, os.SEEK_END)
