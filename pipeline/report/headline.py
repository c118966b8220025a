"""The numbers that the page shows first, from cells of a filled table."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.figures import HeadlineConfig
from pipeline.report.tables.table import Table, Value


@dataclass(frozen=True)
class Line:
    """A row's number, with the length of its bar in percent of the largest number of the card."""

    label: str
    value: Value
    percent: float


@dataclass(frozen=True)
class Card:
    """A column of the table: a line for each row that has a cell in it."""

    label: str
    lines: list[Line]


@dataclass(frozen=True)
class Headline:
    """The page's first numbers.

    Args:
        title: the table's subject.
        cards: one for each column.
        missing: why numbers are missing, each reason once.
    """

    title: str
    cards: list[Card]
    missing: list[str]


def headline_of(config: HeadlineConfig, tables: Sequence[Table]) -> Headline | None:
    """The numbers of the headline's columns; None if the report does not have its table."""
    table = next((table for table in tables if table.name == config.table), None)
    if table is None:
        return None
    labels = dict(table.columns)
    cards: list[Card] = []
    missing: dict[str, None] = {}
    for key in config.columns:
        found = [(" ".join(text), row[key]) for text, row in table.rows if key in row]
        largest = max((value.ours for _, value in found if value.ours is not None), default=0.0)
        lines = [
            Line(text, value, round(100 * max(value.ours, 0.0) / largest, 1) if value.ours and largest > 0 else 0.0)
            for text, value in found
        ]
        cards.append(Card(labels[key], lines))
        missing.update({value.missing: None for _, value in found if value.missing})
    return Headline(table.title, cards, list(missing))
