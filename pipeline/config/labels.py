"""The meaning of the values of a label PNG."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

UNKNOWN = -1
MAX_CLASSES = 255


@dataclass(frozen=True)
class LabelTable:
    """The label ids of a dataset's PNGs.

    The number of a class is its index in ``names``; all ignored ids share the number ``len(names)``.

    Attributes:
        names: the classes' names, (K,).
        ids: the classes' ids in the PNGs, (K,).
        ignored: ids whose pixels neither training nor scores count.
        truth_suffix: how ground-truth files end where files are named as in Cityscapes, ``<image><truth_suffix>``, with
            predictions ``<image>*.png``; empty where a prediction has the relative path of its ground truth.

    Raises:
        ValueError: if an id is used twice, is negative or above 65535, if ids and names differ in number, if a name is
            empty, or if there are more than 255 classes.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    ignored: tuple[int, ...]
    truth_suffix: str = ""

    def __post_init__(self) -> None:
        known = [*self.ids, *self.ignored]
        if len(self.names) != len(self.ids):
            raise ValueError(f"{len(self.names)} class names and {len(self.ids)} ids; expected an id for each name")
        if not all(name.strip() for name in self.names):
            raise ValueError("a class has an empty name")
        meanings: dict[int, list[str]] = {}
        for id_, meaning in zip(known, (*map(repr, self.names), *["ignored pixels"] * len(self.ignored)), strict=True):
            meanings.setdefault(id_, []).append(meaning)
        if twice := [
            f"label id {id_} stands for {' and '.join(of_id)}" for id_, of_id in meanings.items() if len(of_id) > 1
        ]:
            raise ValueError(
                f"{'; '.join(twice[:3])}{'; ...' if len(twice) > 3 else ''}; expected one meaning for each id"
            )
        if len(self.names) > MAX_CLASSES:
            raise ValueError(
                f"{len(self.names)} classes; expected at most {MAX_CLASSES}, since training marks ignored pixels by 255"
            )
        if not self.names or min(known) < 0 or max(known) > 0xFFFF:
            raise ValueError("a label table needs a class, and ids from 0 to 65535")

    @cached_property
    def _classes(self) -> np.ndarray:
        """Class number by id + 1, with an unknown id at both ends."""
        classes = np.full(max(*self.ids, *self.ignored) + 3, UNKNOWN, np.int32)
        classes[np.array(self.ids) + 1] = np.arange(len(self.ids))
        classes[np.array(self.ignored, dtype=int) + 1] = len(self.ids)
        return classes

    def classes(self, ids: np.ndarray) -> np.ndarray:
        """Classes (H, W), int32, from 0 to K, K for ignored pixels, of label ids (H, W).

        Raises:
            ValueError: for an id outside the table, saying which and where.
        """
        classes = self._classes[np.clip(ids.astype(np.int32), -1, len(self._classes) - 2) + 1]
        unknown = classes == UNKNOWN
        if unknown.any():
            row, column = np.argwhere(unknown)[0]
            ignored = f", or {ranges_text(self.ignored)} = ignored" if self.ignored else ""
            expected = f"{ranges_text(self.ids)}{ignored}"
            raise ValueError(
                f"label id {ids[row, column]} at row {row}, column {column} ({unknown.sum()} unknown pixels); "
                f"expected ids {expected}"
            )
        return classes

    def count(self, ids: np.ndarray) -> np.ndarray:
        """How many of the label ids (H, W) are of each class, (K + 1,); last, of ignored ones.

        Raises:
            ValueError: for an id outside the table.
        """
        return np.bincount(self.classes(ids).ravel(), minlength=len(self.names) + 1)


def ranges_text(numbers: Iterable[int]) -> str:
    """Numbers in order, neighbours as a range: 1, 2, 3, 7 is "1-3, 7"."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
