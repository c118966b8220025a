"""The part of a confusion matrix that is shown: the classes that are confused most.

Shape letters: K classes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.metrics.confusion import Confusion
from pipeline.report.confusion import BACKGROUND, MISSED

OTHERS = "other classes"
SHOWN_CLASSES = 12  # of the page; the other classes are put together


@dataclass(frozen=True)
class Mistake:
    """Objects or pixels of one class that were taken for another."""

    true: str
    predicted: str
    count: int
    of: int  # all of the true class


def mistakes(confusion: Confusion, most: int) -> list[Mistake]:
    """The most frequent confusions of two classes, falling."""
    classes, between = confusion.classes, confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    largest = np.argsort(-between, axis=None, kind="stable")[:most]
    pairs = [(int(row), int(column)) for row, column in zip(*np.unravel_index(largest, between.shape), strict=True)]
    return [
        Mistake(classes[row], classes[column], int(between[row, column]), int(confusion.truth[row]))
        for row, column in pairs
        if between[row, column]
    ]


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        text: a number of objects, or percent of the row's pixels; empty for 0.
        share: in [0, 1]: of the row's objects or pixels, in the row of the background of the column's predictions.
        kind: "right" on the diagonal, "wrong" beside it, "none" where there is nothing to count.
        title: the cell in words.
    """

    text: str
    share: float
    kind: Literal["right", "wrong", "none"]
    title: str


@dataclass(frozen=True)
class ConfusionTable:
    """The part of a confusion matrix that is shown, with names for its rows and columns.

    Attributes:
        columns: the names of the columns.
        rows: name, cells, and how many objects or pixels the row has.
        left_out: how many classes are put together.
    """

    columns: list[str]
    rows: list[tuple[str, list[Cell], int]]
    left_out: int


def confusion_table(confusion: Confusion, most: int = SHOWN_CLASSES) -> ConfusionTable:
    """The rows and columns of up to ``most`` classes, those that are confused most; the others are put together."""
    kinds = len(confusion.classes)
    shown = _most_confused(confusion, most)
    left_out = [number for number in present_classes(confusion) if number not in shown]
    groups = [*([number] for number in shown), *([left_out] if left_out else []), [kinds]]
    counts = np.array([[confusion.counts[np.ix_(rows, columns)].sum() for columns in groups] for rows in groups])
    names = [*(confusion.classes[number] for number in shown), *([OTHERS] if left_out else [])]
    # Pixels are never missed, unless a prediction has ignored ids, and have no background.
    missed = confusion.unit == "objects" or bool(counts[:, -1].any())
    columns = [*names, *([MISSED] if missed else [])]
    rows = []
    for number, name in enumerate([*names, *([BACKGROUND] if confusion.unit == "objects" else [])]):
        whole = np.maximum(1, counts.sum(0) if name is BACKGROUND else counts[number].sum())
        shares = counts[number] / whole
        cells = []
        for column, (predicted, share) in enumerate(zip(columns, shares.tolist(), strict=False)):
            count = int(counts[number, column])
            # The classes that are put together are confused among themselves, too.
            nothing = (name is OTHERS and predicted is OTHERS) or (name is BACKGROUND and predicted is MISSED)
            kind: Literal["right", "wrong", "none"] = "none" if nothing else "right" if number == column else "wrong"
            number_text = f"{count:,}" if confusion.unit == "objects" else f"{100 * share:.0f}"
            text = "" if nothing or number_text == "0" else number_text
            title = "" if nothing else f"{name}, predicted as {predicted}: {count:,} ({percent_text(share)}%)"
            cells.append(Cell(text, round(share, 3), kind, title.replace(f"predicted as {MISSED}", MISSED)))
        rows.append((name, cells, int(counts[number].sum())))
    return ConfusionTable(columns, rows, len(left_out))


def _most_confused(confusion: Confusion, most: int) -> list[int]:
    """The classes with the most confusions with other classes, in the order of the dataset."""
    between = confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    # Among equal ones, those with the most other mistakes.
    wrong = confusion.counts[:-1, -1] + confusion.counts[-1, :-1]
    order = np.lexsort((-wrong, -(between.sum(0) + between.sum(1))))
    present = present_classes(confusion)
    return sorted([number for number in order.tolist() if number in present][:most])


def present_classes(confusion: Confusion) -> list[int]:
    """The classes that something is of, or was predicted as."""
    there = confusion.counts[:-1].any(1) | confusion.counts[:, :-1].any(0)
    return np.flatnonzero(there).tolist()


def percent_text(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f}" if percent >= 0.95 or percent == 0 else f"{percent:.1f}"
