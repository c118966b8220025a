"""From region masks on their own grid to masks on the image's pixels, and to runs of pixels.

Shape letters: R regions, M the side of a region mask, H W rows and columns of the image, h w of a crop of it.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pointrend.points import Size
from pointrend.rendering import nearest_two

THRESHOLD = 0.5  # of a mask's probability

# PyTorch compiles, and keeps, a kernel for each length of the rows that `embedding_bag` adds. With one for each height
# of a crop, what they keep lies scattered between the masks of image after image, and memory grows by hundreds of MB.
ROWS_MULTIPLE = 32


def _lookup(starts: Tensor, ends: Tensor, side: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Where the centres of pixels lie on the M cells of regions over [start, end].

    Returns:
        (R, pixels, 2) each: two adjacent cells, and their weights in a zero-padded linear interpolation.
    """
    centres = torch.arange(pixels, device=starts.device, dtype=starts.dtype) + 0.5
    position = (centres - starts[:, None]) / (ends - starts)[:, None] * side - 0.5
    lower, weight, other_weight = nearest_two(position, max(2, side))
    return torch.stack((lower, lower + 1), dim=2), torch.stack((weight, other_weight), dim=2)


def _interpolate_rows(cells: Tensor, lookup: Tensor, weights: Tensor) -> Tensor:
    """Rows (M, C) of cells at the pixels that a part (h, 2) of a lookup and its weights are of: (h, C)."""
    firsts = torch.arange(0, lookup.numel(), 2, device=cells.device)
    return torch.embedding_bag(
        cells,
        lookup.flatten(),
        firsts,
        mode=0,
        per_sample_weights=weights.flatten(),  # the sum
    )[0]


def _pixel_range(start: float, end: float, side: int, limit: int, multiple: int = 1) -> tuple[int, int]:
    """Pixels of [0, limit) whose centres a mask over [start, end] can reach, half a cell beyond its box.

    With more around them, if need be, to be a multiple of a number, or all.
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
        for each region a crop (h, w) of the image with all that its mask can reach, its columns contiguous, and the
        (row, column) of its first pixel. The crop is empty for a box outside the image or of no area.
    """
    side = region_masks.shape[-1]
    if side == 1:
        # Zeros make two cells of one.
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
        crop = _interpolate_rows(region_masks[index], rows[index, top:bottom], row_weights[index, top:bottom])
        crop = _interpolate_rows(crop.T.contiguous(), columns[index, left:right], column_weights[index, left:right])
        yield crop.T, (top, left)


def paste_masks(region_masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Region masks (R, 1, M, M) in boxes (R, 4) xyxy to image masks (R, 1, H, W), zero outside their boxes."""
    pasted = region_masks.new_zeros(len(boxes), 1, *size)
    for index, (crop, (top, left)) in enumerate(paste_crops(region_masks[:, 0], boxes, size)):
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


def mask_runs(region_masks: Tensor, boxes: Tensor, size: Size) -> list[Tensor]:
    """The runs of equal pixels of pasted masks, column after column: COCO's uncompressed RLE.

    The masks never exist on the whole image. It is done on the CPU: many small steps, which no other device is fast at.

    Args:
        region_masks: (R, M, M) probabilities.
        boxes: (R, 4) xyxy in pixels.
        size: (H, W) of the image.

    Returns:
        for each region (runs,) int64 on the CPU, the lengths of runs of pixels in turn below and not below 0.5; the
        first may be 0.
    """
    height, width = size
    found = []
    for crop, (top, left) in paste_crops(region_masks.cpu(), boxes.cpu(), size):
        inside = crop.T >= THRESHOLD  # (w, h)
        if inside.shape[1] < height:
            # What lies between two columns of the crop is background.
            inside = F.pad(inside, (0, 1))
        stride = max(1, inside.shape[1])
        inside = F.pad(inside.flatten(), (1, 1))
        edges = (inside[1:] != inside[:-1]).nonzero()[:, 0]
        pixels = F.pad(edges + edges // stride * (height - stride) + (left * height + top), (1, 1))
        pixels[-1] = height * width
        runs = pixels.diff()
        found.append(runs if runs[-1] else runs[:-1])
    return found
