"""Pastes region masks into images, as probabilities or as run-length encodings.

Shape letters: R regions, M the side of a region mask, H W rows and columns of the image, h w of a crop of it.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pointrend.interpolation import nearest_two, sum_weighted_rows
from pointrend.points import Size

THRESHOLD = 0.5  # of a mask's probability

# Heights of crops are rounded up to a multiple of this many rows. `embedding_bag` compiles and keeps a kernel for each
# row length that it meets, and with one for every possible height the memory of the process grows by hundreds of MB.
ROWS_MULTIPLE = 32


def _lookup(starts: Tensor, ends: Tensor, side: int, pixels: int) -> tuple[Tensor, Tensor]:
    """The cells of region masks that the centres of pixels lie between, along one axis of the image.

    Args:
        starts: (R,), where the regions begin, in pixels.
        ends: (R,), where they end.
        side: M, cells between start and end.
        pixels: of the axis.

    Returns:
        (R, pixels, 2) each: two adjacent cells, and their weights in a zero-padded linear interpolation.
    """
    centres = torch.arange(pixels, device=starts.device, dtype=starts.dtype) + 0.5
    position = (centres - starts[:, None]) / (ends - starts)[:, None] * side - 0.5
    lower, weight, other_weight = nearest_two(position, max(2, side))
    return torch.stack((lower, lower + 1), dim=2), torch.stack((weight, other_weight), dim=2)


def _pixel_range(start: float, end: float, side: int, limit: int, multiple: int = 1) -> tuple[int, int]:
    """The range of pixels in [0, limit) whose centres a mask over [start, end] can reach: half a cell beyond its box.

    It is widened to a multiple of ``multiple`` pixels, where the axis has as many.
    """
    margin = 0.5 * (end - start) / side
    first = min(limit, max(0, math.floor(start - margin - 0.5)))
    last = min(limit, math.ceil(end + margin + 0.5))
    if last <= first:
        return first, first
    count = -(-(last - first) // multiple) * multiple
    first = max(0, min(first, limit - count))
    return first, min(limit, first + count)


def paste_crops(region_masks: Tensor, boxes: Tensor, size: Size) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Samples region masks bilinearly at the centres of the image's pixels around their boxes, one after another.

    Bilinear interpolation is separable: rows first, then columns. Beyond the box the mask fades to zero within half a
    cell, as a zero-padded bilinear lookup does.

    Args:
        region_masks: (R, M, M) probabilities.
        boxes: (R, 4) xyxy in pixels.
        size: (H, W) of the image.

    Yields:
        for each region a crop (h, w) of the image that covers its whole mask, contiguous in memory along its columns,
        and the (row, column) of its first pixel. The crop is empty for a box outside the image or without area.
    """
    side = region_masks.shape[-1]
    if side == 1:
        # Interpolation needs two cells: the second one is padding.
        region_masks = F.pad(region_masks, (0, 1, 0, 1))
    rows, row_weights = _lookup(boxes[:, 1], boxes[:, 3], side, size[0])
    columns, column_weights = _lookup(boxes[:, 0], boxes[:, 2], side, size[1])
    row_weights, column_weights = row_weights.to(region_masks.dtype), column_weights.to(region_masks.dtype)
    for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        if not (x1 > x0 and y1 > y0):
            yield region_masks.new_zeros(0, 0), (0, 0)
            continue
        top, bottom = _pixel_range(y0, y1, side, size[0], ROWS_MULTIPLE)
        left, right = _pixel_range(x0, x1, side, size[1])
        if top == bottom or left == right:
            yield region_masks.new_zeros(0, 0), (0, 0)
            continue
        crop = sum_weighted_rows(region_masks[index], rows[index, top:bottom], row_weights[index, top:bottom])
        crop = sum_weighted_rows(crop.T.contiguous(), columns[index, left:right], column_weights[index, left:right])
        yield crop.T, (top, left)


def paste_masks(region_masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Region masks (R, 1, M, M) in boxes (R, 4) xyxy to image masks (R, 1, H, W), zero outside their boxes."""
    if region_masks.device.type != "cpu":
        return paste_masks_at_once(region_masks, boxes, size)
    pasted = region_masks.new_zeros(len(boxes), 1, *size)
    for index, (crop, (top, left)) in enumerate(paste_crops(region_masks[:, 0], boxes, size)):
        pasted[index, 0, top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return pasted


def _weight_matrix(starts: Tensor, ends: Tensor, side: int, pixels: int) -> Tensor:
    """The weight of each of M cells over [start, end] at each pixel's centre: (R,) and (R,) to (R, pixels, M)."""
    centres = torch.arange(pixels, device=starts.device) + 0.5
    position = (centres - starts[:, None]) / (ends - starts)[:, None] * side - 0.5
    return (1 - (position[:, :, None] - torch.arange(side, device=starts.device)).abs()).clamp(min=0)


def paste_masks_densely(region_masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """:func:`paste_masks` as two matrix products per region: more work, but without loops and branches, for export.

    Every box must have an area.
    """
    side = region_masks.shape[-1]
    rows = _weight_matrix(boxes[:, 1], boxes[:, 3], side, size[0])
    columns = _weight_matrix(boxes[:, 0], boxes[:, 2], side, size[1])
    return (rows @ region_masks[:, 0] @ columns.transpose(1, 2))[:, None]


def paste_masks_at_once(region_masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """:func:`paste_masks` for GPUs, where some 20 operators for all regions replace 7 and a host read for each."""
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1, keepdim=True)
    outside = torch.arange(-4, 0, dtype=boxes.dtype, device=boxes.device)  # xyxy, left of and above every image
    with torch.autocast(region_masks.device.type, enabled=False):
        pasted = paste_masks_densely(region_masks.to(boxes.dtype), torch.where(has_area, boxes, outside), size)
    return pasted.to(region_masks.dtype)


def mask_runs(region_masks: Tensor, boxes: Tensor, size: Size) -> list[Tensor]:
    """The runs of equal pixels of pasted masks, column after column: COCO's uncompressed RLE.

    Masks are never pasted onto the whole image. It runs on the CPU: the steps are many and small.

    Args:
        region_masks: (R, M, M) probabilities.
        boxes: (R, 4) xyxy in pixels.
        size: (H, W) of the image.

    Returns:
        for each region (runs,) int64 on the CPU: the lengths of runs of pixels that are alternately below 0.5 and at
        least 0.5. The first may be 0.
    """
    crops = paste_crops(region_masks.cpu(), boxes.cpu(), size)
    return [crop_runs(crop >= THRESHOLD, top, left, size) for crop, (top, left) in crops]


def crop_runs(mask: Tensor, top: int, left: int, size: Size) -> Tensor:
    """The runs of :func:`mask_runs` of a mask (h, w) bool in a crop of an image of size (H, W), on the CPU."""
    height, width = size
    inside = mask.T
    if inside.shape[1] < height:
        # Between two columns of the crop lies background.
        inside = F.pad(inside, (0, 1))
    stride = max(1, inside.shape[1])
    inside = F.pad(inside.flatten(), (1, 1))
    edges = (inside[1:] != inside[:-1]).nonzero()[:, 0]
    pixels = F.pad(edges + edges // stride * (height - stride) + (left * height + top), (1, 1))
    pixels[-1] = height * width
    runs = pixels.diff()
    return runs if runs[-1] else runs[:-1]
