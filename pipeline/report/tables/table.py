"""Fills a table of the paper: our numbers beside the published ones, gains and differences, why cells are empty."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from pipeline.config.tables import Cell, CostCell, Row, TableConfig
from pipeline.report.measured import Measured, changes, difference_interval, measure
from pipeline.report.results import RunResult
from pointrend.complexity import spec_complexity
from pointrend.specs import MODELS, InstanceSpec, Rendering

IMAGES_PER_SECOND = "images_per_second"  # the metric of `pipeline.evaluation.speed`

ROUNDED = 0.05  # smaller differences are shown as 0.0

STAND_INS = "Data, backbones and schedules are stand-ins: compare differences between rows, not the numbers."


@dataclass(frozen=True)
class Value:
    """One cell: our median over seeds, its gain over the baseline row, and the paper's number and gain.

    Args:
        numbers: our number of each seed, by the name of its run. A cost, which is counted on a network and needs no
            run, has the empty name.
        ours: the median of the numbers.
        gain: ours minus that of the baseline row.
        paper, paper_gain: the published ones; None where a run's settings are not the paper's.
        missing: why there is no number of ours.
        changes: the settings that were overridden for the cell's runs, as text.
        gain_interval: the gain's 95% interval over images and seeds; None where there is no gain or no resamples.
        selected: the number of selected runs of its experiment, each of which should have a number; 0 for a cost.
    """

    numbers: dict[str, float]
    ours: float | None
    gain: float | None
    paper: float | None
    paper_gain: float | None
    missing: str = ""
    changes: str = ""
    gain_interval: tuple[float, float] | None = None
    selected: int = 0

    @property
    def seeds(self) -> int:
        return len(self.numbers)

    @property
    def spread(self) -> float:
        """The largest minus the smallest number of the seeds."""
        return max(self.numbers.values()) - min(self.numbers.values()) if self.numbers else 0.0

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return _difference(self.ours, self.paper)

    @property
    def agrees(self) -> bool | None:
        """Whether our gain has the sign of the paper's; None where the paper has no gain, or one that rounds to 0."""
        if self.gain is None or self.paper_gain is None or abs(self.paper_gain) < ROUNDED:
            return None
        return abs(self.gain) >= ROUNDED and (self.gain > 0) == (self.paper_gain > 0)


@dataclass(frozen=True)
class Table:
    """A filled table.

    Args:
        name: the name of its file.
        heading: the paper's name for it, "Table 1".
        title: its subject.
        row_labels: the headers of the label columns.
        columns: key and label of each column of numbers.
        rows: the labels of each row, and its values by the key of their column.
        caveat: a warning about all of its numbers; empty where none is needed.
        published: the keys of the columns for which the paper has numbers.
        left_out: the labels of the rows that the scale has no experiment for.
        excluded: the labels of the rows whose experiments the selection leaves out.
        timed_on: the devices that its images were timed on.
    """

    name: str
    heading: str
    title: str
    row_labels: list[str]
    columns: list[tuple[str, str]]
    rows: list[tuple[list[str], dict[str, Value]]]
    caveat: str = ""
    published: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    timed_on: list[str] = field(default_factory=list)

    @property
    def reproduces(self) -> bool:
        """Whether our numbers should be the paper's, so that ours minus the paper's says something."""
        return not self.caveat


def _count(cell: CostCell) -> dict[str, float]:
    """The cost of a mask head, counted from its layers."""
    spec = MODELS[cell.model]
    assert isinstance(spec, InstanceSpec)  # the schema allows no other
    rendering = Rendering(cell.resolution, cell.num_points or 1)  # the 4xconv head subdivides nothing
    return {"": float(getattr(spec_complexity(spec, spec.num_classes, rendering), cell.cost))}


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _gain_interval(own: Measured | None, baseline: Measured | None, unit: float) -> tuple[float, float] | None:
    if own is None or baseline is None:
        return None
    found = difference_interval([own], [baseline])
    return None if found is None else (found[0] / unit, found[1] / unit)


def _changes(cell: Cell | CostCell, results: Sequence[RunResult]) -> str:
    return "" if isinstance(cell, CostCell) else changes(cell.experiment, results)


def _fill(
    cell: Cell | CostCell,
    unit: float,
    results: Sequence[RunResult],
    measured: Measured | None,
    selected: Mapping[str, int],
) -> Value:
    """A cell without its gains, which need the baseline row; ``measured`` unless its cost is counted."""
    counted = _count(cell) if isinstance(cell, CostCell) else {}
    numbers = {run: number / unit for run, number in (measured.numbers if measured else counted).items()}
    changed = _changes(cell, results)
    return Value(
        numbers=numbers,
        ours=statistics.median(numbers.values()) if numbers else None,
        gain=None,
        paper=None if changed else cell.paper,
        paper_gain=None,
        missing=measured.missing if measured else "",
        changes=changed,
        selected=0 if isinstance(cell, CostCell) else selected.get(cell.experiment, 0),
    )


def row_labels(row: Row, results: Sequence[RunResult]) -> list[str]:
    """A row's labels. Settings that were overridden for the row's runs are added to the last label, in brackets.

    They follow the name of their experiment, unless they are the same for all experiments of the row.
    """
    changed = {cell.experiment: changes(cell.experiment, results) for cell in row.measured.values()}
    with_runs = {result.experiment for result in results}
    texts = {text for experiment, text in changed.items() if experiment in with_runs}
    if not any(texts):
        return row.labels
    if len(texts) == 1:
        overridden = texts.pop()
    else:
        overridden = "; ".join(f"{experiment}: {text}" for experiment, text in changed.items() if text)
    return [*row.labels[:-1], f"{row.labels[-1]} [{overridden}]"]


def row_label(row: Row, results: Sequence[RunResult]) -> str:
    """The :func:`row_labels` as one text, which names the row in figures and in MLflow."""
    return " ".join(row_labels(row, results))


def build_table(
    name: str,
    config: TableConfig,
    results: Sequence[RunResult],
    missing: Mapping[str, str] | None = None,
    *,
    stand_ins: bool = False,
    defined: Set[str] | None = None,
    excluded: Set[str] = frozenset(),
) -> Table:
    """Fills a table from the results. A cell without a number says why.

    If settings of a cell's runs were overridden, the row's label lists them, and the paper's number, which is for other
    settings, is left out.

    Args:
        name: the name of the table's file.
        config: the table.
        results: the results of the runs.
        missing: why other selected runs have no results, by the run's name.
        stand_ins: whether the runs' data and networks stand in for the paper's.
        defined: the experiments that the scale has; rows of none of them are left out. None for all rows.
        excluded: the experiments that the selection leaves out; rows of these alone are left out.
    """
    left_out, without, shown = list[Row](), list[Row](), list[Row]()
    for row in config.rows:
        there = row.experiments if defined is None else row.experiments & defined
        kept = not row.measured or there - excluded
        (shown if kept else without if there else left_out).append(row)
    config = config.model_copy(update={"rows": shown})
    units = {column.key: column.unit for column in config.columns}
    selected = Counter(result.experiment for result in results)
    selected.update(run.rpartition("-")[0] for run in missing or {})
    measured = [
        {key: measure(cell, results, missing or {}) for key, cell in row.measured.items()} for row in config.rows
    ]
    filled = [
        {key: _fill(cell, units[key], results, found.get(key), selected) for key, cell in row.cells.items()}
        for row, found in zip(config.rows, measured, strict=True)
    ]
    rows: list[tuple[list[str], dict[str, Value]]] = []
    for index, row in enumerate(config.rows):
        base = config.baseline_of(index)
        compared = filled[base] if base != index else {}
        values = {
            key: replace(
                value,
                gain=_difference(value.ours, compared[key].ours),
                paper_gain=_difference(value.paper, compared[key].paper),
                gain_interval=_gain_interval(measured[index].get(key), measured[base].get(key), units[key]),
            )
            if key in compared
            else value
            for key, value in filled[index].items()
        }
        rows.append((row_labels(row, results), values))
    return Table(
        name=name,
        heading=config.heading or name.replace("table", "Table "),
        title=config.title,
        row_labels=config.row_labels,
        columns=[(column.key, column.label) for column in config.columns],
        rows=rows,
        caveat=STAND_INS if stand_ins and config.experiments else "",
        published={key for row in config.rows for key, cell in row.cells.items() if cell.paper is not None},
        left_out=[" ".join(row.labels) for row in left_out],
        excluded=[" ".join(row.labels) for row in without],
        timed_on=_devices(config, results),
    )


def _devices(config: TableConfig, results: Sequence[RunResult]) -> list[str]:
    """The devices that the images of a table's cells were timed on, each once."""
    cells = [cell for row in config.rows for cell in row.measured.values() if cell.metric == IMAGES_PER_SECOND]
    found = [
        result.evaluations[cell.evaluation].timed_on
        for cell in cells
        for result in results
        if result.experiment == cell.experiment and cell.evaluation in result.evaluations
    ]
    return sorted({device for device in found if device})


def notes(table: Table) -> list[str]:
    """The table's caveat, why cells are empty, where the paper's numbers are left out, and which rows; each once."""
    caveat = [table.caveat] if table.caveat else []
    reasons = [*_by_columns(table, lambda value: value.missing), *_by_columns(table, _left_out)]
    left_out = [f"This scale has no experiment for {'; '.join(table.left_out)}."] if table.left_out else []
    if table.timed_on:
        devices = "; ".join(table.timed_on)
        left_out.append(
            f"Images were timed one at a time, from pixels to the masks of the regions, on {devices}."
            + (" These are different devices: compare only rows of the same one." if len(table.timed_on) > 1 else "")
        )
    if table.excluded:
        left_out.append(f"The selection leaves out {'; '.join(table.excluded)} (`pointrend select --without`).")
    return caveat + [f"{columns}: {'; '.join(texts)}" for columns, texts in reasons] + left_out


def _left_out(value: Value) -> str:
    return f"run with {value.changes}; the paper's number is of other settings and left out" if value.changes else ""


def _by_columns(table: Table, reason: Callable[[Value], str]) -> Iterable[tuple[str, list[str]]]:
    """The reasons that a table's values give, by the labels of the columns that they concern."""
    labels = dict(table.columns)
    columns: dict[str, dict[str, None]] = {}
    for _, values in table.rows:
        for key, value in values.items():
            if text := reason(value):
                columns.setdefault(text, {})[labels[key]] = None
    reasons: dict[str, list[str]] = {}
    for text, found in columns.items():
        reasons.setdefault(", ".join(found), []).append(text)
    return reasons.items()
