"""Shows scores as a table, as CSV or as one JSON object."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Column, Table

INTERVAL = "_interval"
UNDEFINED = "–: nothing to compute it from"


class Row(NamedTuple):
    """One number.

    Attributes:
        metric: its name.
        of_class: the class that it is of; empty for all.
        value: the number.
        interval: the ends of its 95% interval, if there is one.
    """

    metric: str
    of_class: str
    value: float
    interval: tuple[float, float] | None


def rows(scores: Mapping[str, Any]) -> Iterator[Row]:
    """The numbers in scores, which may be by class: ``{"IoU": {"road": 1.0}}``, or ``{"AP-car": 1.0}``."""
    for name, value in scores.items():
        if name.endswith(INTERVAL):
            continue
        intervals = scores.get(f"{name}{INTERVAL}")
        if isinstance(value, Mapping):
            for of_class, number in value.items():
                ends = intervals.get(of_class) if intervals else None
                yield Row(name.removesuffix("_by_class"), of_class, number, ends)
        else:
            metric, _, of_class = name.partition("-")
            yield Row(metric, of_class, value, intervals)


def as_json(scores: Mapping[str, Any]) -> str:
    return json.dumps(_plain(scores), allow_nan=False)


def _plain(value: Any) -> Any:
    """Converts a value to plain JSON types; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_csv(scores: Mapping[str, Any]) -> str:
    """Lines ``metric,class,value``, with ``low,high`` where there are intervals; undefined values are empty."""
    found = list(rows(scores))
    has_intervals = any(row.interval for row in found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["metric", "class", "value", *(["low", "high"] if has_intervals else [])])
    for row in found:
        numbers = [row.value, *((row.interval or ("", "")) if has_intervals else ())]
        writer.writerow([row.metric, row.of_class, *("" if number != number else number for number in numbers)])
    return text.getvalue()


def has_undefined(scores: Mapping[str, Any]) -> bool:
    """Whether the table has a value that is not defined."""
    return any(isinstance(row.value, float) and math.isnan(row.value) for row in rows(scores))


def as_table(scores: Mapping[str, Any]) -> Table:
    found = list(rows(scores))
    table = Table(Column("metric", no_wrap=True), Column("value", justify="right"), box=None, pad_edge=False)
    if any(row.interval for row in found):
        table.add_column("95% interval", justify="right", no_wrap=True)
    for row in found:
        name = f"{row.metric} {row.of_class}".strip()
        interval = " – ".join(map(_number, row.interval or ()))
        table.add_row(*(escape(name), _number(row.value), interval)[: len(table.columns)])
    return table


def _number(value: float) -> str:
    return ("–" if math.isnan(value) else f"{value:.2f}") if isinstance(value, float) else str(value)
