"""The results of sweeps from their files: trials, the heat map of two parameters, and the Pareto front."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline.config.reader import load
from pipeline.config.sweeps import PARAMETERS, ShownSweep, ShownSweeps
from pipeline.errors import UserError

COST_LABELS = {
    ("training", "seconds"): "time of a training update",
    ("subdivision", "seconds"): "time of the mask head for an image",
    ("training", "multiply_adds"): "multiply-adds of the mask head per region",
    ("subdivision", "multiply_adds"): "multiply-adds of the mask head per region",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class SweepResult:
    """A sweep from its files: ``about`` describes it, and ``trials`` has a row for each trial."""

    name: str
    shown: ShownSweep
    about: dict[str, Any]
    trials: list[Row]

    @property
    def metric(self) -> str:
        return self.about["metric"]

    @property
    def parameters(self) -> list[str]:
        """The parameters that were swept."""
        return [name for name in PARAMETERS if name in self.trials[0]]

    @property
    def best(self) -> Row:
        return next(trial for trial in self.trials if trial["trial"] == self.about["best"])

    @property
    def cost_label(self) -> str:
        return COST_LABELS[self.about["kind"], self.shown.cost]


def read_sweeps(shown: Path, folder: Path) -> list[SweepResult]:
    """Reads the selected sweeps.

    Args:
        shown: the file that lists them.
        folder: the folder of all sweeps' outputs.

    Raises:
        UserError: if one of them has not run.
    """
    results, sweeps = [], load(ShownSweeps, shown).root
    if missing := [name for name in sweeps if not (folder / name / "sweep.json").is_file()]:
        raise UserError(
            f"no results yet of {'sweep' if len(missing) == 1 else 'sweeps'} {', '.join(missing)}; run `dvc repro`"
        )
    for name, sweep in sweeps.items():
        about = json.loads((folder / name / "sweep.json").read_text())
        results.append(SweepResult(name, sweep, about, pq.read_table(folder / name / "results.parquet").to_pylist()))
    return results


class Cell(NamedTuple):
    """The best of all trials that have a pair of values."""

    value: float
    status: str
    updates: int


@dataclass(frozen=True)
class HeatMap:
    """A metric over two parameters. Pairs of values without a trial, or without a score, have no cell."""

    row_name: str
    column_name: str
    rows: list[float]
    columns: list[float]
    cells: dict[tuple[float, float], Cell]


def heat_map(sweep: SweepResult) -> HeatMap | None:
    """The heat map of a sweep; None if its file asks for none.

    A trial that was stopped early counts only in cells without a finished trial: its score is of fewer updates.
    """
    if sweep.shown.heat_map is None:
        return None
    row_name, column_name = sweep.shown.heat_map
    cells: dict[tuple[float, float], Cell] = {}
    ends = {
        name: sorted({trial[name] for trial in sweep.trials if trial[name] is not None})
        for name in (row_name, column_name)
    }
    for trial in sweep.trials:
        value = trial.get(sweep.metric)
        if value is None:
            continue
        place, cell = (trial[row_name], trial[column_name]), Cell(value, trial["status"], trial["updates"])
        if place not in cells or _rank(cell) > _rank(cells[place]):
            cells[place] = cell
    return HeatMap(row_name, column_name, ends[row_name], ends[column_name], cells)


def _rank(cell: Cell) -> tuple[bool, float]:
    return cell.status == "finished", cell.value


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the Pareto-optimal (cost, value) points, by rising cost: no cheaper point is as good."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front
