"""Semantic segmentation of large images, tile by tile: memory depends on the tile, not on the image.

Tiles overlap, and of each its centre is kept: a kept pixel has at least an eighth of a tile around it, on every side
where the image goes on. Tiles begin at multiples of 32 pixels, so that the cells of every feature map lie where those
of the whole image would. The labels still differ from those of the whole image in some pixels, mostly near the seams:

- a network sees further than the overlap, and beyond a tile it sees padding;
- DeepLabV3 averages its features over a window, which ends with the tile, or over the whole tile, and group norm
  normalises by the whole tile: both change labels far from the seams too;
- a step of subdivision predicts its N points in every tile, not in the whole image.

Shape letters: N images, K classes, H W rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pointrend.regions import to_tensor
from pointrend.semantic import SemanticSegmenter

#: Sides of tiles are multiples of this, so that an eighth of a tile and a step from tile to tile fit the strides.
SIDE_MULTIPLE = 128
#: Tiles begin at multiples of this many pixels, the largest stride of a feature map.
STRIDE = 32


@dataclass(frozen=True)
class Span:
    """The rows or columns of a tile, and those of them that are kept."""

    start: int
    stop: int
    kept_start: int
    kept_stop: int


def check_side(side: int) -> None:
    """Raises ValueError if tiles cannot have that side."""
    if side < SIDE_MULTIPLE or side % SIDE_MULTIPLE:
        raise ValueError(
            f"tiles are to have {side} pixels a side, expected a multiple of {SIDE_MULTIPLE}, such as 1024"
        )


def spans(length: int, side: int) -> list[Span]:
    """The tiles along an axis of ``length`` pixels, each with at most ``side``; their kept parts make up the axis.

    Raises:
        ValueError: if ``side`` is not a positive multiple of 128.
    """
    check_side(side)
    context = side // 8
    last = max(0, -(-(length - side) // STRIDE) * STRIDE)  # the last tile is shorter, to begin at a multiple
    starts = [*range(0, last, side - 2 * context), last]
    seams = [(start + side + following) // 2 for start, following in pairwise(starts)]
    return [
        Span(start, min(start + side, length), kept_start, kept_stop)
        for start, kept_start, kept_stop in zip(starts, [0, *seams], [*seams, length], strict=True)
    ]


def label_images(
    model: SemanticSegmenter, images: Sequence[np.ndarray], side: int | None, points_per_step: int | None
) -> list[Tensor]:
    """The class of each pixel of N images uint8 (H, W, 3) of one size: N tensors (H, W) int16 on the CPU.

    Logits of all classes exist for one tile of each image at a time.

    Args:
        model: in evaluation mode.
        images: N of them.
        side: of the tiles, in pixels; None to predict the whole image at once, like images that fit into a tile.
        points_per_step: the most points that a subdivision step predicts in a tile; None for the model's own.

    Raises:
        ValueError: if ``side`` is not a positive multiple of 128, or the prediction is not finite.
    """
    height, width = images[0].shape[:2]
    device = next(model.parameters()).device
    whole = [(Span(0, height, 0, height), Span(0, width, 0, width))]
    tiles = (
        whole if side is None else [(rows, columns) for rows in spans(height, side) for columns in spans(width, side)]
    )
    labels = [torch.empty(height, width, dtype=torch.int16) for _ in images]
    for rows, columns in tiles:
        parts = [to_tensor(image[rows.start : rows.stop, columns.start : columns.stop]).to(device) for image in images]
        logits = model.render(model.coarse_prediction(parts), points_per_step)
        kept = logits[
            ...,
            rows.kept_start - rows.start : rows.kept_stop - rows.start,
            columns.kept_start - columns.start : columns.kept_stop - columns.start,
        ]
        for target, part in zip(labels, kept, strict=True):
            target[rows.kept_start : rows.kept_stop, columns.kept_start : columns.kept_stop] = part.argmax(0).short()
    return labels
