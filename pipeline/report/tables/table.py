"""The paper's tables: ours beside the published numbers, as Markdown, CSV, LaTeX and one Parquet file of all."""

import csv
import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.config.tables import Cell, CostCell, TableConfig
from pipeline.report.results import RunResult
from pointrend.complexity import spec_complexity
from pointrend.specs import MODELS, InstanceSpec, Rendering

ROUNDED = 0.05  # what is shown as 0.0

STAND_INS = "Data, backbones and schedules are stand-ins: compare differences between rows, not the numbers."


@dataclass(frozen=True)
class Value:
    """One cell: the median over seeds, its gain over the table's baseline, and the paper's own two numbers.

    Args:
        numbers: ours, one per seed, by the run that it is of; one by no run where it is counted on a network.
        ours: their median.
        gain: over the baseline row.
        paper, paper_gain: the published ones.
        missing: why there is no number of ours.
    """

    numbers: dict[str, float]
    ours: float | None
    gain: float | None
    paper: float | None
    paper_gain: float | None
    missing: str = ""

    @property
    def seeds(self) -> int:
        return len(self.numbers)

    @property
    def spread(self) -> float:
        """The largest minus the smallest of the seeds."""
        return max(self.numbers.values()) - min(self.numbers.values()) if self.numbers else 0.0

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return _difference(self.ours, self.paper)

    @property
    def agrees(self) -> bool | None:
        """Whether our gain has the sign of the paper's; None where the paper has none, or sees no difference."""
        if self.gain is None or self.paper_gain is None or abs(self.paper_gain) < ROUNDED:
            return None
        return abs(self.gain) >= ROUNDED and (self.gain > 0) == (self.paper_gain > 0)


@dataclass(frozen=True)
class Table:
    """A filled table.

    Args:
        name: of its file.
        heading: what the paper calls it.
        title: what it is about.
        row_labels: the heads of the columns with the rows' labels.
        columns: key and label of each column of numbers.
        rows: the labels and the values, by the key of their column.
        caveat: what a reader of the numbers must know, if anything.
    """

    name: str
    heading: str
    title: str
    row_labels: list[str]
    columns: list[tuple[str, str]]
    rows: list[tuple[list[str], dict[str, Value]]]
    caveat: str = ""
    published: set[str] = field(default_factory=set)  # the columns that the paper has, too


def _measure(cell: Cell, results: Sequence[RunResult], lost: Mapping[str, str]) -> tuple[dict[str, float], str]:
    """Our numbers for a cell, one per seed; or none, and why."""
    runs = [result for result in results if result.experiment == cell.experiment]
    if not runs:
        reasons = [reason for run, reason in lost.items() if run.rpartition("-")[0] == cell.experiment]
        return {}, reasons[0] if reasons else f"no run of {cell.experiment} was selected"
    if all(cell.evaluation not in run.evaluations for run in runs):
        return {}, f"{cell.experiment} was not evaluated at {cell.evaluation}"
    found = {run.run: run.evaluations[cell.evaluation].metrics for run in runs if cell.evaluation in run.evaluations}
    values = {run: metrics[cell.metric] for run, metrics in found.items() if cell.metric in metrics}
    numbers = {run: value for run, value in values.items() if not math.isnan(value)}
    if values and not numbers:
        return {}, f"{cell.metric} is not defined: there is no ground truth to average over"
    return numbers, "" if numbers else f"{cell.metric} was not measured"


def _count(cell: CostCell) -> dict[str, float]:
    """What a mask head takes: nothing is run for it."""
    spec = MODELS[cell.model]
    assert isinstance(spec, InstanceSpec)  # the schema's promise
    rendering = Rendering(cell.resolution, cell.num_points or 1)  # the 4xconv head subdivides nothing
    return {"": float(getattr(spec_complexity(spec, spec.num_classes, rendering), cell.cost))}


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def build_table(
    name: str,
    config: TableConfig,
    results: Sequence[RunResult],
    lost: Mapping[str, str] | None = None,
    *,
    stand_ins: bool = False,
) -> Table:
    """Fills a table from the results. A cell without a number says why.

    Args:
        name: of the table's file.
        config: the table.
        results: of the runs.
        lost: why runs that were selected have no results.
        stand_ins: whether the runs' data and networks stand in for the paper's.
    """
    units = {column.key: column.unit for column in config.columns}
    found: list[dict[str, tuple[dict[str, float], str]]] = []
    for row in config.rows:
        cells: dict[str, tuple[dict[str, float], str]] = {}
        for key, cell in row.cells.items():
            numbers, missing = (_count(cell), "") if isinstance(cell, CostCell) else _measure(cell, results, lost or {})
            cells[key] = ({run: value / units[key] for run, value in numbers.items()}, missing)
        found.append(cells)
    ours = [{k: statistics.median(n.values()) if n else None for k, (n, _) in cells.items()} for cells in found]

    rows: list[tuple[list[str], dict[str, Value]]] = []
    for index, row in enumerate(config.rows):
        base = config.baseline_of(index)
        values = {}
        for key, cell in row.cells.items():
            numbers, missing = found[index][key]
            other = config.rows[base].cells.get(key)
            compared = index != base and other is not None
            values[key] = Value(
                numbers=numbers,
                ours=ours[index][key],
                gain=_difference(ours[index][key], ours[base].get(key)) if compared else None,
                paper=cell.paper,
                paper_gain=_difference(cell.paper, other.paper) if compared and other else None,
                missing=missing,
            )
        rows.append((row.labels, values))
    return Table(
        name=name,
        heading=config.heading or name.replace("table", "Table "),
        title=config.title,
        row_labels=config.row_labels,
        columns=[(column.key, column.label) for column in config.columns],
        rows=rows,
        caveat=STAND_INS if stand_ins and config.experiments else "",
        published={key for row in config.rows for key, cell in row.cells.items() if cell.paper is not None},
    )


def format_number(value: float | None, gain: float | None = None) -> str:
    """A number as the paper prints it, with its gain in brackets; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.1f}" if gain is None else f"{value:.1f} ({format_difference(gain)})"


def format_difference(difference: float | None) -> str:
    """A number with its sign, nothing as +0.0; a dash for none."""
    return "–" if difference is None else f"{difference:+z.1f}"


def format_spread(value: Value) -> str:
    """How far apart the seeds are; nothing where there is one."""
    return f" ±{value.spread / 2:.1f}" if value.seeds > 1 else ""


def _ours(value: Value | None) -> str:
    return format_number(value.ours, value.gain) + format_spread(value) if value else "–"


def _paper(value: Value | None) -> str:
    return format_number(value.paper, value.paper_gain) if value else "–"


def _texts(table: Table, values: Mapping[str, Value]) -> list[str]:
    """Ours, and where the paper has the column the paper's and the difference."""
    texts = []
    for key, _ in table.columns:
        value = values.get(key)
        texts.append(_ours(value))
        if key in table.published:
            texts += [_paper(value), format_difference(value.difference if value else None)]
    return texts


def notes(table: Table) -> list[str]:
    """The caveat; and why cells are empty, each reason once, after the columns that it is about."""
    labels = dict(table.columns)
    columns: dict[str, dict[str, None]] = {}
    for _, values in table.rows:
        for key, value in values.items():
            if value.missing:
                columns.setdefault(value.missing, {})[labels[key]] = None
    reasons: dict[str, list[str]] = {}
    for reason, found in columns.items():
        reasons.setdefault(", ".join(found), []).append(reason)
    caveat = [table.caveat] if table.caveat else []
    return caveat + [f"{found}: {'; '.join(why)}" for found, why in reasons.items()]


def to_markdown(table: Table) -> str:
    """A pipe table; beside each of our columns the paper's, if it has one, and the difference."""
    header = [*table.row_labels]
    for key, label in table.columns:
        header += [label, "paper", "Δ"] if key in table.published else [label]
    lines = [f"**{table.heading}. {table.title}**", "", _pipes(header), _pipes(["---"] * len(header))]
    lines += [_pipes([*labels, *_texts(table, values)]) for labels, values in table.rows]
    if notes(table):
        lines += ["", *(f"- {note}" for note in notes(table))]
    return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    # AP* must not begin emphasis.
    return "| " + " | ".join(cell.replace("|", r"\|").replace("*", r"\*") for cell in cells) + " |"


def to_csv(table: Table) -> str:
    """Plain numbers, and in a column at the end the caveat.

    Of each cell: ours, its spread over seeds, how many seeds, the paper's, ours minus the paper's, and why it is empty.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    fields = ("", "_spread", "_seeds", "_paper", "_difference", "_missing")
    writer.writerow([*table.row_labels, *(key + field for key, _ in table.columns for field in fields), "caveat"])
    for labels, values in table.rows:
        line: list[str | float | int | None] = [*labels]
        for key, _ in table.columns:
            value = values.get(key)
            if value is None:
                line += [None] * len(fields)
            else:
                ours, difference = (None if x is None else round(x, 4) for x in (value.ours, value.difference))
                line += [ours, round(value.spread, 4), value.seeds, value.paper, difference, value.missing]
        writer.writerow([*line, table.caveat])
    return stream.getvalue()


def to_arrow(tables: Sequence[Table]) -> pa.Table:
    """All tables in one, a row per cell and run; a cell without a number has one row, which says why."""
    rows = []
    for table in tables:
        labels = dict(table.columns)
        for row, (row_labels, values) in enumerate(table.rows):
            for key, value in values.items():
                cell = {
                    "table": table.name,
                    "row": row,
                    "labels": row_labels,
                    "column": key,
                    "label": labels[key],
                    "paper": value.paper,
                }
                numbers: list[tuple[str | None, float | None]] = [(run or None, x) for run, x in value.numbers.items()]
                for run, number in numbers or [(None, None)]:
                    rows.append({**cell, "run": run, "value": number, "missing": value.missing or None})
    schema = pa.schema(
        {
            "table": pa.string(),
            "row": pa.int32(),
            "labels": pa.list_(pa.string()),
            "column": pa.string(),
            "label": pa.string(),
            "run": pa.string(),
            "value": pa.float64(),
            "paper": pa.float64(),
            "missing": pa.string(),
        }
    )
    return pa.Table.from_pylist(rows, schema=schema)


_LATEX = {
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "×": r"$\times$",
    "–": "--",
    "*": "$^{*}$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    "²": "$^{2}$",
    "⁶": "$^{6}$",
    "⁹": "$^{9}$",
    "β": r"$\beta$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w$}])-(?=\d)", "$-$", escaped)  # a minus, not the hyphen of P2-P5


def to_latex(table: Table) -> str:
    """A ``table`` environment that needs only the booktabs package."""
    spans = [2 if key in table.published else 1 for key, _ in table.columns]
    columns = "l" * len(table.row_labels) + "r" * sum(spans)
    top = [""] * len(table.row_labels)
    header = [*map(_latex, table.row_labels)]
    for (_, label), span in zip(table.columns, spans, strict=True):
        top.append(rf"\multicolumn{{{span}}}{{c}}{{{_latex(label)}}}")
        header += ["ours", "paper"][:span]
    body = []
    for labels, values in table.rows:
        cells = [*map(_latex, labels)]
        for key, _ in table.columns:
            both = (_ours(values.get(key)), _paper(values.get(key)))
            cells += map(_latex, both if key in table.published else both[:1])
        body.append(cells)
    caption = f"{table.title}. {table.caveat}" if table.caveat else table.title
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(top) + r" \\",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \\" for cells in body),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_latex(caption)}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
