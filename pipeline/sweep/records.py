"""The records of a sweep's trials, one file for each. An interrupted sweep continues from them.

Ray Tune saves its own state only from time to time, and without the results that early stopping has seen. After a lost
process it would be out of date.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.config.sweeps import PARAMETERS, Point
from pipeline.files import write_json
from pipeline.sweep.search import point_name

Status = Literal["running", "finished", "stopped", "diverged"]


@dataclass(frozen=True)
class Rung:
    """The metrics of a trial after ``update`` updates; 0 in sweeps that do not train."""

    update: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrialRecord:
    """The state of one trial.

    Attributes:
        point: the trial's parameters.
        mlflow_run_id: its MLflow run; empty until it is logged.
        status: "finished" after the last update, "stopped" by early stopping, "diverged" or "running".
        rungs: its metrics at the rungs that it has reached.
        seconds: the measured seconds per update, or per image in sweeps that do not train.
        multiply_adds: the multiply-adds of the mask head for one region; None if they are not counted.
    """

    point: Point
    mlflow_run_id: str
    status: Status = "running"
    rungs: list[Rung] = field(default_factory=list)
    seconds: float | None = None
    multiply_adds: int | None = None

    @property
    def name(self) -> str:
        return point_name(self.point)

    @property
    def updates(self) -> int:
        return self.rungs[-1].update if self.rungs else 0

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last rung; empty for a trial that has diverged."""
        return self.rungs[-1].metrics if self.rungs and self.status != "diverged" else {}

    def at(self, update: int) -> Rung | None:
        return next((rung for rung in self.rungs if rung.update == update), None)

    @property
    def costs(self) -> dict[str, float]:
        """The costs that are known, by name."""
        costs = {"seconds": self.seconds, "multiply_adds": self.multiply_adds}
        return {name: value for name, value in costs.items() if value is not None}


@dataclass(frozen=True)
class TrialRecords:
    """The records of one sweep, in a folder that all processes of the sweep can reach."""

    folder: Path

    def trial_folder(self, point: Point) -> Path:
        """The folder of a trial's record and checkpoints."""
        return self.folder / point_name(point)

    def read(self, point: Point) -> TrialRecord | None:
        return _read(self.trial_folder(point) / "trial.json")

    def write(self, record: TrialRecord) -> None:
        write_json(self.trial_folder(record.point) / "trial.json", asdict(record))

    def all(self) -> list[TrialRecord]:
        """The records of all trials that have begun, sorted by the values of their parameters."""
        found = (_read(path) for path in self.folder.glob("*/trial.json"))
        records = [record for record in found if record is not None]
        return sorted(records, key=lambda record: [record.point.get(name, 0) for name in PARAMETERS])


def _read(path: Path) -> TrialRecord | None:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return TrialRecord(**{**data, "rungs": [Rung(**rung) for rung in data["rungs"]]})
