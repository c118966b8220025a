"""What a model found in an image, region by region, so that no two masks are on the image's pixels at the same time.

Shape letters: R regions, M the side of a region mask, H W rows and columns of the image, h w of a crop of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pointrend.paste import THRESHOLD, paste_crops
from pointrend.points import Size

#: Rows that are worked on at a time where the whole image would need many times its memory.
STRIP = 256


@dataclass(frozen=True)
class Instances:
    """The objects in an image of size (H, W), best first, on the CPU."""

    size: Size
    boxes: Tensor  # (R, 4) xyxy in pixels
    classes: Tensor  # (R,) from 0
    scores: Tensor  # (R,)
    masks: Tensor  # (R, M, M) probabilities inside the boxes
    best_score: float = 0.0  # of all that was detected of the shown classes, also below the lowest score to show


@dataclass(frozen=True)
class Masks:
    """The objects in an image of size (H, W) by their masks in it, best first, as files of results have them."""

    size: Size
    classes: Tensor  # (R,) from 0
    scores: Tensor  # (R,)
    masks: Sequence[Tensor]  # R masks (H, W) bool


@dataclass(frozen=True)
class Segments:
    """The class of every pixel of an image of size (H, W), on the CPU; only some of the classes count as found."""

    size: Size
    classes: Tensor  # (H, W) int16, from 0
    shown: tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """One object, or the pixels of one class: a crop of the image that covers it."""

    index: int  # of an object in order of scores, or of a class
    class_index: int
    score: float | None
    box: tuple[float, float, float, float]  # xyxy in pixels
    mask: Tensor  # (h, w) bool
    probability: Tensor | None  # (h, w) in [0, 1], whose values from 0.5 are the mask
    top: int
    left: int


def regions(found: Instances | Masks | Segments, factor: int = 1) -> Iterator[Region]:
    """The regions one after another: objects from the lowest score to the highest, classes in order.

    Args:
        found: the objects or classes.
        factor: enlarges the image; region masks of objects are sampled at the larger size, others are repeated.
    """
    if isinstance(found, Segments):
        yield from _class_regions(found, factor)
        return
    if isinstance(found, Masks):
        for index in reversed(range(len(found.masks))):
            mask = _enlarged(found.masks[index], factor)
            yield _of_mask(index, int(found.classes[index]), float(found.scores[index]), mask)
        return
    height, width = found.size[0] * factor, found.size[1] * factor
    for index in reversed(range(len(found.boxes))):
        box = found.boxes[index] * factor
        ((probability, (top, left)),) = paste_crops(found.masks[index, None].float(), box[None], (height, width))
        x0, y0, x1, y1 = box.tolist()
        yield Region(
            index,
            int(found.classes[index]),
            float(found.scores[index]),
            (x0, y0, x1, y1),
            probability >= THRESHOLD,
            probability,
            top,
            left,
        )


def _class_regions(found: Segments, factor: int) -> Iterator[Region]:
    classes = _enlarged(found.classes, factor)
    # A few rows at a time: `unique` sorts, in many times the memory.
    present = set[int]().union(*(rows.unique().tolist() for rows in classes.split(STRIP)))
    for index in sorted(present & set(found.shown)):
        yield _of_mask(index, index, None, classes == index)


def _enlarged(values: Tensor, factor: int) -> Tensor:
    """Every value of (H, W) as ``factor`` x ``factor`` equal ones."""
    return values if factor == 1 else values.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def _of_mask(index: int, class_index: int, score: float | None, mask: Tensor) -> Region:
    """The region of a mask (H, W) bool."""
    rows, columns = tight(mask)
    box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
    return Region(index, class_index, score, box, mask[rows, columns], None, rows.start, columns.start)


def tight(mask: Tensor) -> tuple[slice, slice]:
    """The rows and columns of the smallest crop of a mask (h, w) that has all of it; empty slices for an empty mask."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def to_tensor(pixels: "object") -> Tensor:
    """uint8 (H, W, 3) to float (3, H, W) in [0, 1], one channel at a time to keep memory low."""
    source = torch.as_tensor(pixels)
    image = torch.empty(3, *source.shape[:2])
    for channel in range(3):
        torch.div(source[..., channel], 255, out=image[channel])
    return image
