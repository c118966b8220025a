"""Boundary AP (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021).

COCO AP with the smaller of mask IoU and boundary IoU: two masks must also agree inside a band along their contours.
"""

import functools
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.metrics.average_precision import IOU_THRESHOLDS, STATISTICS
from pipeline.metrics.choice import Choice
from pipeline.metrics.coco_ap import score_instances


def boundary_ap(
    annotations: Path,
    predictions: Path,
    *,
    dilation_ratio: float = 0.02,
    resamples: int = 0,
    seed: int = 0,
    resampled: Collection[str] = tuple(STATISTICS),
    by_class: bool = False,
    choice: Choice | None = None,
    with_counts: bool = False,
) -> dict[str, Any]:
    """Boundary AP in percent, averaged over IoU thresholds 0.50 to 0.95 and over categories.

    Args:
        annotations: a COCO instances file.
        predictions: a COCO results file, a list of {image_id, category_id, segmentation (RLE), score}.
        dilation_ratio: the boundary's width as a fraction of the image's diagonal; 0.02 for COCO (the paper's
            Section 4), 0.005 for Cityscapes.
        resamples: how many bootstrap resamples of the images to compute metrics on as well.
        seed: of the resampling.
        resampled: the names of those metrics.
        by_class: as for :func:`pipeline.metrics.coco_ap.coco_ap`, as are the next two.
        choice: which images and categories to score.
        with_counts: whether to say what was scored as well.

    Returns:
        The same keys as :func:`pipeline.metrics.coco_ap.coco_ap`.

    Raises:
        DatasetError, GroundTruthError, PredictionError: as :func:`pipeline.metrics.coco_ap.coco_ap`.
        ValueError: if the dilation ratio is not positive and finite.
    """
    if not (math.isfinite(dilation_ratio) and dilation_ratio > 0):
        raise ValueError(f"dilation_ratio is {dilation_ratio}, expected a positive number")
    iou = functools.partial(_smaller_iou, dilation_ratio=dilation_ratio)
    return score_instances(iou, annotations, predictions, resamples, seed, resampled, by_class, choice, with_counts)


def boundary_width(height: int, width: int, dilation_ratio: float) -> int:
    """The width in pixels of the boundaries in an image of this size, at least 1."""
    return max(1, round(dilation_ratio * math.sqrt(height**2 + width**2)))


def mask_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask within ``width`` pixels of its outside; beyond the array's border is outside.

    Args:
        mask: (H, W) bool.
        width: pixels, in the maximum norm: a 3x3 erosion this many times.

    Returns:
        (H, W) bool.
    """
    boundary = mask.copy()
    if min(mask.shape) > 2 * width:
        inside = _erode(_erode(mask, 2 * width + 1).T, 2 * width + 1).T
        boundary[width:-width, width:-width] &= ~inside
    return boundary


def _erode(mask: np.ndarray, window: int) -> np.ndarray:
    """(H, W) -> (H - window + 1, W): where ``window`` pixels from here downwards are all set."""
    size = 1
    while 2 * size <= window:
        mask = mask[:-size] & mask[size:]
        size *= 2
    return mask[: len(mask) - (window - size)] & mask[window - size :]


class _Region:
    """The boundary of a mask, cropped to the mask's box."""

    def __init__(self, rle: dict[str, Any], dilation_ratio: float) -> None:
        image_height, image_width = rle["size"]
        x, y, width, height = coco_mask.toBbox(rle).astype(int)
        # There is no mask beyond its box, so the crop's border can stand for the image's.
        crop = coco_mask.decode(rle)[y : y + height, x : x + width].astype(bool)
        self.pixels = mask_boundary(crop, boundary_width(image_height, image_width, dilation_ratio))
        self.area = int(np.count_nonzero(self.pixels))
        self.top, self.left, self.bottom, self.right = y, x, y + height, x + width

    def within(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        return self.pixels[top - self.top : bottom - self.top, left - self.left : right - self.left]


def _iou(a: _Region, b: _Region) -> float:
    top, left = max(a.top, b.top), max(a.left, b.left)
    bottom, right = min(a.bottom, b.bottom), min(a.right, b.right)
    if top >= bottom or left >= right:
        return 0.0
    both = int(np.count_nonzero(a.within(top, left, bottom, right) & b.within(top, left, bottom, right)))
    return both / max(1, a.area + b.area - both)


def _smaller_iou(
    found: Sequence[Any], objects: Sequence[Any], crowd: Sequence[bool], dilation_ratio: float
) -> np.ndarray:
    """(D, G) the smaller IoU of each pair, exact if it reaches the lowest threshold; crowds have mask IoU alone."""
    ious = np.array(coco_mask.iou(found, objects, crowd))
    # A pair whose masks overlap less cannot match, whatever its boundaries.
    rows, columns = np.nonzero((ious >= IOU_THRESHOLDS[0]) & ~np.array(crowd))
    detected = {row: _Region(found[row], dilation_ratio) for row in np.unique(rows)}
    annotated = {column: _Region(objects[column], dilation_ratio) for column in np.unique(columns)}
    for row, column in zip(rows, columns, strict=True):
        ious[row, column] = min(ious[row, column], _iou(detected[row], annotated[column]))
    return ious
