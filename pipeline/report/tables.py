"""The paper's tables: ours beside the published numbers, as Markdown, CSV and LaTeX."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import Cell, TableConfig
from pipeline.report.results import RunResult


@dataclass(frozen=True)
class Value:
    """One cell: the median over seeds, its gain over the baseline above it, and the paper's own two numbers."""

    ours: float | None
    gain: float | None
    spread: float  # largest minus smallest over the seeds
    seeds: int
    paper: float | None
    paper_gain: float | None
    missing: str  # why there is no number of ours


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    row_labels: list[str]
    columns: list[tuple[str, str]]  # key and label
    rows: list[tuple[list[str], dict[str, Value]]]


def _measure(cell: Cell, results: Sequence[RunResult]) -> tuple[list[float], str]:
    """Our numbers for a cell, one per seed; or none, and why."""
    runs = [result for result in results if result.experiment == cell.experiment]
    if not runs:
        return [], f"no run of {cell.experiment} was selected"
    if all(cell.evaluation not in run.evaluations for run in runs):
        return [], f"{cell.experiment} was not evaluated at {cell.evaluation}"
    evaluated = [run.evaluations[cell.evaluation] for run in runs if cell.evaluation in run.evaluations]
    values = [evaluation.metrics[cell.metric] for evaluation in evaluated if cell.metric in evaluation.metrics]
    numbers = [value for value in values if not math.isnan(value)]
    if values and not numbers:
        return [], f"{cell.metric} is not defined: there is no ground truth to average over"
    return numbers, "" if numbers else f"{cell.metric} was not measured"


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def build_table(name: str, config: TableConfig, results: Sequence[RunResult]) -> Table:
    """Fills a table from the results. A cell without a number says why."""
    base: dict[str, tuple[float | None, float | None]] = {}
    rows: list[tuple[list[str], dict[str, Value]]] = []
    for row in config.rows:
        if row.baseline:
            base.clear()
        values = {}
        for key, cell in row.cells.items():
            measured, missing = _measure(cell, results)
            ours = statistics.median(measured) if measured else None
            is_baseline = key not in base
            baseline, paper_baseline = base.setdefault(key, (ours, cell.paper))
            values[key] = Value(
                ours=ours,
                gain=None if is_baseline else _difference(ours, baseline),
                spread=max(measured) - min(measured) if measured else 0.0,
                seeds=len(measured),
                paper=cell.paper,
                paper_gain=None if is_baseline else _difference(cell.paper, paper_baseline),
                missing=missing,
            )
        rows.append((row.labels, values))
    return Table(name, config.title, config.row_labels, [(c.key, c.label) for c in config.columns], rows)


def format_number(value: float | None, gain: float | None = None) -> str:
    """A number as the paper prints it, with its gain in brackets; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.1f}" if gain is None else f"{value:.1f} ({gain:+z.1f})"


def _ours(value: Value | None) -> str:
    return format_number(value.ours, value.gain) if value else "–"


def _paper(value: Value | None) -> str:
    return format_number(value.paper, value.paper_gain) if value else "–"


def notes(table: Table) -> list[str]:
    """Why cells are empty, each reason once, after the columns that it is about."""
    labels = dict(table.columns)
    columns: dict[str, dict[str, None]] = {}
    for _, values in table.rows:
        for key, value in values.items():
            if value.missing:
                columns.setdefault(value.missing, {})[labels[key]] = None
    return [f"{', '.join(found)}: {reason}" for reason, found in columns.items()]


def to_markdown(table: Table) -> str:
    """A pipe table with a paper column beside each of ours."""
    header = [*table.row_labels, *(text for _, label in table.columns for text in (label, "paper"))]
    lines = [f"**{table.title}**", "", _pipes(header), _pipes(["---"] * len(header))]
    for labels, values in table.rows:
        lines.append(_pipes([*labels, *(t for key, _ in table.columns for t in _both(values.get(key)))]))
    if notes(table):
        lines += ["", *(f"- {note}" for note in notes(table))]
    return "\n".join(lines) + "\n"


def _both(value: Value | None) -> tuple[str, str]:
    return _ours(value), _paper(value)


def _pipes(cells: Sequence[str]) -> str:
    # AP* must not begin emphasis.
    return "| " + " | ".join(cell.replace("|", r"\|").replace("*", r"\*") for cell in cells) + " |"


def to_csv(table: Table) -> str:
    """Plain numbers: ours, its spread over seeds, how many seeds, the paper's, and why a cell is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    fields = ("", "_spread", "_seeds", "_paper", "_missing")
    writer.writerow([*table.row_labels, *(key + field for key, _ in table.columns for field in fields)])
    for labels, values in table.rows:
        line: list[str | float | int | None] = [*labels]
        for key, _ in table.columns:
            value = values.get(key)
            if value is None:
                line += [None] * len(fields)
            else:
                ours = None if value.ours is None else round(value.ours, 4)
                line += [ours, round(value.spread, 4), value.seeds, value.paper, value.missing]
        writer.writerow(line)
    return stream.getvalue()


_LATEX = {
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "×": r"$\times$",
    "–": "--",
    "*": "$^{*}$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    """A ``table`` environment that needs only the booktabs package."""
    columns = "l" * len(table.row_labels) + "rr" * len(table.columns)
    top = [""] * len(table.row_labels) + [rf"\multicolumn{{2}}{{c}}{{{_latex(label)}}}" for _, label in table.columns]
    header = [*map(_latex, table.row_labels), *(["ours", "paper"] * len(table.columns))]
    body = [
        [*map(_latex, labels), *(_latex(text) for key, _ in table.columns for text in _both(values.get(key)))]
        for labels, values in table.rows
    ]
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
        rf"\caption{{{_latex(table.title)}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
