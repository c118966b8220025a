"""From region masks on their own grid to masks on the image's pixels, and to runs of pixels.

Shape letters: R regions, M the side of a region mask, H W rows and columns of the image, h w of a crop of it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pointrend.points import Size
from pointrend.rendering import nearest_two

THRESHOLD = 0.5  # of a mask's probability


def _interpolate_rows(cells: Tensor, start: float, end: float, first: int, last: int) -> Tensor:
    """Rows (M, C) that lie over [start, end] interpolated at the centres of the pixels [first, last), zeros beyond.

    Returns:
        (last - first, C).
    """
    side = len(cells)
    centres = torch.arange(first, last, device=cells.device, dtype=cells.dtype) + 0.5
    # The row of zeros after the last one makes two cells of one.
    lower, weight, other_weight = nearest_two((centres - start) / (end - start) * side - 0.5, side + 1)
    return F.embedding_bag(
        torch.stack((lower, lower + 1), dim=1),
        F.pad(cells, (0, 0, 0, 1)),
        per_sample_weights=torch.stack((weight, other_weight), dim=1),
        mode="sum",
    )


def _pixel_range(start: float, end: float, side: int, limit: int) -> tuple[int, int]:
    """Pixels of [0, limit) whose centres a mask over [start, end] can reach, half a cell beyond its box."""
    margin = 0.5 * (end - start) / side
    first = min(limit, max(0, math.floor(start - margin - 0.5)))
    last = min(limit, math.ceil(end + margin + 0.5))
    return first, max(first, last)


def paste_mask(region_mask: Tensor, box: Tensor, size: Size) -> tuple[Tensor, tuple[int, int]]:
    """Samples one region mask bilinearly at the centres of the image's pixels around its box.

    Bilinear interpolation is separable: rows first, then columns. Beyond the box the mask fades to zero within half a
    cell, as a zero-padded bilinear lookup does.

    Args:
        region_mask: (M, M) probabilities.
        box: (4,) xyxy in pixels.
        size: (H, W) of the image.

    Returns:
        the crop (h, w) of the image that the mask can reach, its columns contiguous, and the (row, column) of its
        first pixel. The crop is empty for a box outside the image or of no area.
    """
    x0, y0, x1, y1 = box.tolist()
    if not (x1 > x0 and y1 > y0):
        return region_mask.new_zeros(0, 0), (0, 0)
    side = region_mask.shape[-1]
    top, bottom = _pixel_range(y0, y1, side, size[0])
    left, right = _pixel_range(x0, x1, side, size[1])
    if top == bottom or left == right:
        return region_mask.new_zeros(0, 0), (0, 0)
    rows = _interpolate_rows(region_mask, y0, y1, top, bottom)
    return _interpolate_rows(rows.T, x0, x1, left, right).T, (top, left)


def paste_masks(region_masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Region masks (R, 1, M, M) in boxes (R, 4) xyxy to image masks (R, 1, H, W), zero outside their boxes."""
    pasted = region_masks.new_zeros(len(boxes), 1, *size)
    for index, (region_mask, box) in enumerate(zip(region_masks, boxes, strict=True)):
        crop, (top, left) = paste_mask(region_mask[0], box, size)
        pasted[index, 0, top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return pasted


def _reach(starts: Tensor, ends: Tensor, side: int, pixels: int) -> Tensor:
    """How much each of M cells over [start, end] weighs at each pixel's centre: (R,) and (R,) to (R, pixels, M)."""
    centres = torch.arange(pixels, device=starts.device) + 0.5
    position = (centres - starts[:, None]) / (ends - starts)[:, None] * side - 0.5
    return (1 - (position[:, :, None] - torch.arange(side, device=starts.device)).abs()).clamp(min=0)


def paste_masks_densely(region_masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """:func:`paste_masks` as two matrix products per region: more work, but no loop and no branch, for a graph.

    Boxes must have an area.
    """
    side = region_masks.shape[-1]
    rows = _reach(boxes[:, 1], boxes[:, 3], side, size[0])
    columns = _reach(boxes[:, 0], boxes[:, 2], side, size[1])
    return (rows @ region_masks[:, 0] @ columns.transpose(1, 2))[:, None]


def mask_runs(region_mask: Tensor, box: Tensor, size: Size) -> Tensor:
    """The runs of equal pixels of a pasted mask, column after column: COCO's uncompressed RLE.

    The mask never exists on the whole image.

    Args:
        region_mask: (M, M) probabilities.
        box: (4,) xyxy in pixels.
        size: (H, W) of the image.

    Returns:
        (runs,) int64 on the CPU, the lengths of runs of pixels in turn below and not below 0.5; the first may be 0.
    """
    height, width = size
    crop, (top, left) = paste_mask(region_mask, box, size)
    inside = (crop.T >= THRESHOLD).cpu()  # (w, h)
    if inside.shape[1] < height:
        # What lies between two columns of the crop is background.
        inside = F.pad(inside, (0, 1))
    stride = max(1, inside.shape[1])
    edges = F.pad(inside.flatten(), (1, 1)).diff().nonzero()[:, 0]
    pixels = (left + edges // stride) * height + top + edges % stride
    runs = torch.cat((pixels.new_zeros(1), pixels, pixels.new_tensor([height * width]))).diff()
    return runs if runs[-1] else runs[:-1]
