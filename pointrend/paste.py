"""From region masks on their own grid to masks on the image's pixels.

Shape letters: R regions, M the side of a region mask, H W rows and columns of the image.
"""

import math

import torch
from torch import Tensor

from pointrend.points import Size


def _interpolation(start: float, end: float, side: int, first: int, last: int, like: Tensor) -> Tensor:
    """Weights (last - first, side) that interpolate a ``side``-cell row over [start, end] at pixel centres."""
    centres = torch.arange(first, last, device=like.device, dtype=like.dtype) + 0.5
    cells = (centres - start) / (end - start) * side - 0.5
    distance = (cells[:, None] - torch.arange(side, device=like.device, dtype=like.dtype)).abs()
    return (1.0 - distance).clamp(min=0.0)


def _pixel_range(start: float, end: float, side: int, limit: int) -> tuple[int, int]:
    """Pixels of [0, limit) whose centres a mask over [start, end] can reach, half a cell beyond its box."""
    margin = 0.5 * (end - start) / side
    first = max(0, math.floor(start - margin - 0.5))
    last = min(limit, math.ceil(end + margin + 0.5))
    return first, max(first, last)


def paste_mask(region_mask: Tensor, box: Tensor, size: Size) -> tuple[Tensor, tuple[int, int]]:
    """Samples one region mask bilinearly at the centres of the image's pixels around its box.

    Bilinear interpolation is separable, so it is two small matrix products. Beyond the box the mask fades to zero
    within half a cell, as a zero-padded bilinear lookup does.

    Args:
        region_mask: (M, M) probabilities.
        box: (4,) xyxy in pixels.
        size: (H, W) of the image.

    Returns:
        the crop (h, w) of the image that the mask can reach, and the (row, column) of its first pixel. The crop
        is empty for a box outside the image or of no area.
    """
    x0, y0, x1, y1 = box.tolist()
    if not (x1 > x0 and y1 > y0):
        return region_mask.new_zeros(0, 0), (0, 0)
    side = region_mask.shape[-1]
    top, bottom = _pixel_range(y0, y1, side, size[0])
    left, right = _pixel_range(x0, x1, side, size[1])
    rows = _interpolation(y0, y1, side, top, bottom, region_mask)
    columns = _interpolation(x0, x1, side, left, right, region_mask)
    return rows @ region_mask @ columns.T, (top, left)


def paste_masks(region_masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Region masks (R, 1, M, M) in boxes (R, 4) xyxy to image masks (R, 1, H, W), zero outside their boxes."""
    pasted = region_masks.new_zeros(len(boxes), 1, *size)
    for index, (region_mask, box) in enumerate(zip(region_masks, boxes, strict=True)):
        crop, (top, left) = paste_mask(region_mask[0], box, size)
        pasted[index, 0, top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return pasted
