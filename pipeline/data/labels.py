"""What the values of a label PNG mean, and reading one."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from PIL import Image

UNKNOWN = -1


@dataclass(frozen=True)
class LabelTable:
    """The label ids of a dataset's PNGs.

    Classes are numbered by their place in ``names``; all ignored ids are one more class, number ``len(names)``.

    Attributes:
        names: the classes' names, (K,).
        ids: the classes' ids in the PNGs, (K,).
        ignored: ids whose pixels are left out of any score.
        truth_suffix: how ground-truth files end where files are named as in Cityscapes, ``<image><truth_suffix>``, with
            predictions ``<image>*.png``; empty where a prediction has the relative path of its ground truth.

    Raises:
        ValueError: if an id stands for two things, is negative or above 65535, or if ids and names differ in number.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    ignored: tuple[int, ...]
    truth_suffix: str = ""

    def __post_init__(self) -> None:
        known = [*self.ids, *self.ignored]
        if len(self.names) != len(self.ids) or len(set(known)) != len(known):
            raise ValueError("a label table needs one id for each class, and no id for two things")
        if not self.names or min(known) < 0 or max(known) > 0xFFFF:
            raise ValueError("a label table needs a class, and ids from 0 to 65535")

    @cached_property
    def _classes(self) -> np.ndarray:
        """Class by id + 1, with one unknown id on either side."""
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
            expected = _ranges(self.ids) + (f", or {_ranges(self.ignored)} = ignored" if self.ignored else "")
            raise ValueError(
                f"label id {ids[row, column]} at row {row}, column {column} ({unknown.sum()} unknown pixels); "
                f"expected ids {expected}"
            )
        return classes

    def check(self, ids: np.ndarray) -> None:
        """Raises ValueError for label ids (H, W) with one that is outside the table."""
        self.classes(ids)


def _ranges(ids: Iterable[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    runs: list[list[int]] = []
    for value in sorted(ids):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


#: Cityscapes' 19 evaluated classes by label id (not train id), and the ids that its benchmark ignores.
CITYSCAPES = LabelTable(
    names=tuple(label.name for label in cityscapes_labels if not label.ignoreInEval),
    ids=tuple(label.id for label in cityscapes_labels if not label.ignoreInEval),
    # The licence plate's id, -1, is in no PNG.
    ignored=tuple(label.id for label in cityscapes_labels if label.ignoreInEval and label.id >= 0),
    truth_suffix="_gtFine_labelIds.png",
)


def plain(num_classes: int) -> LabelTable:
    """Any dataset whose PNGs hold the classes 0 to K - 1, and 255 where a pixel is ignored.

    Raises:
        ValueError: unless there are 1 to 255 classes.
    """
    if not 1 <= num_classes <= 255:
        raise ValueError(f"{num_classes} classes; expected 1 to 255, since 255 is the ignored id")
    return LabelTable(names=tuple(map(str, range(num_classes))), ids=tuple(range(num_classes)), ignored=(255,))


def read_picture(path: Path | IO[bytes]) -> Image.Image:
    """A picture, read to its end.

    Raises:
        ValueError: saying what is wrong with the file.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"truncated or no image ({error})") from error
    return picture


def read_ids(path: Path | IO[bytes]) -> np.ndarray:
    """The ids (H, W) in a PNG of one channel; a palette's indices as they are.

    Raises:
        ValueError: saying what is wrong with the file.
    """
    picture = read_picture(path)
    ids = np.array(picture)
    if ids.ndim != 2 or ids.dtype.kind == "f":
        raise ValueError(f"its pixels are {picture.mode}; expected one channel of ids")
    return ids
