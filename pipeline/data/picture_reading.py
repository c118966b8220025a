"""Decides how the pictures of a dataset are read, by what all of them are, and says so once."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pointrend.pixels import Facts, Reading, Values
from pointrend.specs import Orientation
from pointrend.wording import counted

#: The kinds of values whose range matters.
DEEP: tuple[Values, ...] = ("16-bit", "32-bit", "float")
REMEDY = "set pixel_range: [BLACK, WHITE] in the dataset's file"


@dataclass(frozen=True)
class PictureReading:
    """How the pictures of a dataset are read.

    Attributes:
        reading: their orientation and the range of their values.
        notes: what was done with unusual pictures, and what may be wrong.
        problems: why they cannot be read.
    """

    reading: Reading
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def entry(self) -> dict[str, Any]:
        """What ``dataset.json`` says of it; empty for plain pictures, read as stored."""
        entry: dict[str, Any] = {}
        if self.reading.orientation != "stored":
            entry["orientation"] = self.reading.orientation
        if self.reading.pixel_range is not None:
            entry["pixel_range"] = list(self.reading.pixel_range)
        return entry | ({"notes": list(self.notes)} if self.notes else {})


def how_to_read(pictures: Sequence[Facts], orientation: Orientation, given: Sequence[float] | None) -> PictureReading:
    """How some pictures are read.

    Args:
        pictures: all pictures of a dataset.
        orientation: the dataset's.
        given: the dataset's setting ``pixel_range``.
    """
    notes, problems = _turns(pictures, orientation), []
    deep = [picture for picture in pictures if picture.values in DEEP]
    colours = [picture for picture in pictures if picture.values == "16-bit colours"]
    reading = Reading(orientation)
    if colours and max(picture.high for picture in colours) < 16:
        problems.append(
            f"{counted(len(colours), 'picture')} with 16-bit colours of which no more than 12 bits are in use; only "
            "the upper 8 bits can be read: convert them to 8 bits"
        )
    if deep:
        kinds = Counter(picture.values for picture in deep)
        low, high = min(picture.low for picture in deep), max(picture.high for picture in deep)
        what = ", ".join(f"{counted(count, 'picture')} of {kind}" for kind, count in kinds.most_common())
        what = f"{what} values, from {low:g} to {high:g}"
        if given is None and len(kinds) > 1:
            problems.append(f"{what}: one range for all would be a guess; {REMEDY}, or convert them to 8 bits")
        else:
            black, white = given or _range(low, high, "float" in kinds)
            reading = replace(reading, pixel_range=(float(black), float(white)))
            clipped = ", values outside are clipped" if low < black or high > white else ""
            chosen = "" if given else "; pixel_range sets another range"
            notes.append(f"{what}: {black:g} is black and {white:g} white{clipped}{chosen}")
    elif given is not None:
        problems.append("pixel_range is set, but no picture has single-channel values of more than 8 bits")
    notes += [
        f"of {counted(count, 'picture')} only {remark} is read"
        for remark, count in Counter(picture.remark for picture in pictures if picture.remark).most_common()
    ]
    return PictureReading(reading, tuple(notes), tuple(problems))


def _range(low: float, high: float, floats: bool) -> tuple[float, float]:
    """The range of integers is that of the bits in use, or from the lowest to the highest if some are negative."""
    if floats and low >= 0 and high <= 1:
        return 0.0, 1.0
    if floats or low < 0:
        return low, high if high > low else low + 1
    return 0.0, float(2 ** max(8, math.ceil(math.log2(high + 1))) - 1)


def _turns(pictures: Sequence[Facts], orientation: Orientation) -> list[str]:
    """Says what is done with pictures whose size does not tell whether they were annotated turned."""
    turned = [picture for picture in pictures if picture.turn != 1]
    if not turned:
        return []
    if orientation == "exif":
        return [f"{counted(len(turned), 'picture')} turned as EXIF data say (orientation: exif)"]
    untold = [picture for picture in turned if picture.turn < 5 or picture.height == picture.width]
    if not untold:
        return []
    return [
        f"{counted(len(untold), 'picture')} square or turned by 180 degrees in EXIF data, so that sizes do not tell "
        "whether annotations fit: read as stored; if viewers show them upright and the masks are off, set "
        "orientation: exif (--orientation exif)"
    ]
