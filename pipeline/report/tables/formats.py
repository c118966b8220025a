"""A filled table as Markdown, CSV and LaTeX, and all tables as one Arrow table."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.report.tables.seeds import row_seeds, seeds_note
from pipeline.report.tables.table import Table, Value, notes


def format_number(value: float | None, gain: float | None = None) -> str:
    """A number as the paper prints it, with its gain in brackets; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.1f}" if gain is None else f"{value:.1f} ({format_difference(gain)})"


def format_difference(difference: float | None) -> str:
    """A number with its sign, zero as +0.0; a dash for None."""
    return "–" if difference is None else f"{difference:+z.1f}"


def format_spread(value: Value) -> str:
    """Half of the seeds' range, " ±0.4"; empty for one seed."""
    return f" ±{value.spread / 2:.1f}" if value.seeds > 1 else ""


def _ours(value: Value | None) -> str:
    return format_number(value.ours, value.gain) + format_spread(value) if value else "–"


def _paper(value: Value | None) -> str:
    return format_number(value.paper, value.paper_gain) if value else "–"


def _labels(table: Table, labels: Sequence[str], values: Mapping[str, Value]) -> list[str]:
    """A row's labels. Where its medians are over fewer seeds than the table's, the last one says so."""
    fewer = row_seeds(table, values)
    return [*labels[:-1], f"{labels[-1]} ({fewer})"] if fewer else [*labels]


def _texts(table: Table, values: Mapping[str, Value]) -> list[str]:
    """The texts of a row: our number, and in published columns the paper's and the difference, if it says something."""
    texts = []
    for key, _ in table.columns:
        value = values.get(key)
        texts.append(_ours(value))
        if key in table.published:
            texts.append(_paper(value))
            if table.reproduces:
                texts.append(format_difference(value.difference if value else None))
    return texts


def to_markdown(table: Table) -> str:
    """A pipe table. Published columns are followed by the paper's numbers, and by differences if they say something."""
    header = [*table.row_labels]
    for key, label in table.columns:
        header += [label, "paper", *(["Δ"] if table.reproduces else [])] if key in table.published else [label]
    lines = [f"**{table.heading}. {table.title}**", "", pipe_row(header), pipe_row(["---"] * len(header))]
    lines += [pipe_row([*_labels(table, labels, values), *_texts(table, values)]) for labels, values in table.rows]
    if below := [note for note in (seeds_note(table), *notes(table)) if note]:
        lines += ["", *(f"- {note}" for note in below)]
    return "\n".join(lines) + "\n"


def pipe_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    # The asterisk of AP* must not begin emphasis.
    return "| " + " | ".join(cell.replace("|", r"\|").replace("*", r"\*") for cell in cells) + " |"


def to_csv(table: Table) -> str:
    """A line for each row, with plain numbers.

    A column becomes six: our number, its spread over seeds, the number of seeds, the paper's number, ours minus the
    paper's, and why the cell is empty; without the difference where data and networks are stand-ins. The last two
    columns say which medians are over fewer seeds than the table's, and have the table's caveat.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    fields = ["", "_spread", "_seeds", "_paper", *(["_difference"] if table.reproduces else []), "_missing"]
    writer.writerow(
        [*table.row_labels, *(key + field for key, _ in table.columns for field in fields), "seeds", "caveat"]
    )
    for labels, values in table.rows:
        line: list[str | float | int | None] = [*labels]
        for key, _ in table.columns:
            value = values.get(key)
            if value is None:
                line += [None] * len(fields)
            else:
                ours, difference = (None if x is None else round(x, 4) for x in (value.ours, value.difference))
                line += [ours, round(value.spread, 4), value.seeds, value.paper]
                line += [difference, value.missing] if table.reproduces else [value.missing]
        writer.writerow([*line, row_seeds(table, values), table.caveat])
    return stream.getvalue()


def to_arrow(tables: Sequence[Table]) -> pa.Table:
    """All tables in one, a row for each cell and run; a cell without a number has one row, with the reason."""
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
    return re.sub(r"(?<![\w$}])-(?=\d)", "$-$", escaped)  # a minus sign; the hyphen of P2-P5 stays


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
        cells = [*map(_latex, _labels(table, labels, values))]
        for key, _ in table.columns:
            both = (_ours(values.get(key)), _paper(values.get(key)))
            cells += map(_latex, both if key in table.published else both[:1])
        body.append(cells)
    sentences = [text for text in (seeds_note(table), table.caveat) if text]
    caption = " ".join([f"{table.title}.", *sentences]) if sentences else table.title
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
