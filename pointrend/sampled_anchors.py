"""The RPN's head at sampled anchors alone.

The losses of the RPN are those of 256 anchors of an image, of some 250,000. No other output of its head has a gradient,
and yet the backward pass of convolutions over whole feature maps is a sixth of all operations of a training step. So
the head is computed without a gradient for the proposals, and for the losses once more, from the 3x3 cells around each
sampled anchor: the same sums, to rounding.

Shape letters: N images, L levels, T cells of all levels, A anchors of a cell, S samples, C channels.
"""

from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead


class Cells(NamedTuple):
    """The cells of a pyramid, level by level and row by row."""

    total: int  # T
    levels: Tensor  # (L, 3) int64: the first cell, height and width of each level
    ends: Tensor  # (L,) int64: the cell after the last one of each level
    around: Tensor  # (2, 9) int64: rows down, and columns right, to the 3x3 cells around a cell


def pyramid_cells(grids: list[list[int]], device: torch.device) -> Cells:
    """The cells of levels of these heights and widths."""
    ends = list(accumulate(height * width for height, width in grids))
    levels = [[end - height * width, height, width] for end, (height, width) in zip(ends, grids, strict=True)]
    down, right = [-1] * 3 + [0] * 3 + [1] * 3, [-1, 0, 1] * 3
    return Cells(ends[-1], *(torch.tensor(rows, device=device) for rows in (levels, ends, [down, right])))


def neighbours(cells: Cells, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """The 3x3 cells around cells, row by row.

    Args:
        cells: of one image.
        sampled: (S,) int64, indices among the N T cells of all images.

    Returns:
        (S, 9) int64, indices of the same kind, and whether they are inside of the level, (S, 9) bool. Where not, the
        index is that of the cell in the middle.
    """
    of_image = sampled % cells.total
    level = torch.bucketize(of_image, cells.ends, right=True)
    first, height, width = cells.levels[level].unsqueeze(2).unbind(1)
    of_level = of_image.unsqueeze(1) - first
    down, right = cells.around
    row, column = of_level // width + down, of_level % width + right
    # A remainder is never negative.
    inside = (row % height == row) & (column % width == column)
    middle = sampled.unsqueeze(1)
    return torch.where(inside, middle + down * width + right, middle), inside


def predict_at(
    head: RPNHead, maps: list[Tensor], cells: Cells, anchors: Tensor, num_foreground: int
) -> tuple[Tensor, Tensor]:
    """Predictions of a head for sampled anchors.

    Args:
        head: has one 3x3 convolution.
        maps: L feature maps (N, C, H, W).
        cells: those of the maps.
        anchors: (S,) int64, indices among the N T A anchors of all images, foreground first.
        num_foreground: how many of them are foreground. The others have no box.

    Returns:
        logits (S,), and box deltas (num_foreground, 4).

    Raises:
        ValueError: if the head has more than one 3x3 convolution.
    """
    if len(head.conv) != 1:
        raise ValueError(f"an RPN head with one 3x3 convolution is needed, this one has {len(head.conv)}")
    sampled, shape = anchors // head.cls_logits.out_channels, anchors % head.cls_logits.out_channels
    rows, inside = neighbours(cells, sampled)
    table = torch.cat([feature.flatten(2).transpose(1, 2) for feature in maps], dim=1).flatten(0, 1)
    around = table.index_select(0, rows.flatten()).unflatten(0, rows.shape) * inside.unsqueeze(2)
    # Parameters are used as views: of themselves autocast may keep copies from a pass without a gradient (before torch
    # 2.10).
    (convolution, _), *_ = head.conv
    assert convolution.bias is not None
    weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)
    hidden = F.relu(F.linear(around.flatten(1), weight, convolution.bias.view(-1)))
    logits = _pointwise(head.cls_logits, hidden).gather(1, shape.unsqueeze(1)).squeeze(1)
    deltas = _pointwise(head.bbox_pred, hidden[:num_foreground]).unflatten(1, (-1, 4))
    return logits, deltas.gather(1, shape[:num_foreground, None, None].expand(-1, 1, 4)).squeeze(1)


def _pointwise(convolution: nn.Conv2d, rows: Tensor) -> Tensor:
    """A 1x1 convolution of rows (S, C): (S, O)."""
    assert convolution.bias is not None
    return F.linear(rows, convolution.weight.flatten(1), convolution.bias.view(-1))
