"""Linear interpolation at inference as a weighted sum of table rows: one row per cell, all channels contiguous.

:mod:`pointrend.points` says where each kind of interpolation is used, and what it gains.

Shape letters: P positions, D channels, H W rows and columns of a grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pointrend.points import Size


def nearest_two(position: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two adjacent cells around each position on an axis, for zero-padded linear interpolation.

    Args:
        position: any shape, in cells; the centre of the first cell is at 0.
        cells: how many the axis has, at least 2.

    Returns:
        the index of the lower cell, int64, its weight, and the weight of the cell after it.
    """
    # A position outside the axis gets the two outermost cells with the smaller weights, or none, of zero padding.
    lower = position.floor().clamp_(0, cells - 2)
    distance = position - lower
    return lower.long(), (1 - distance.abs()).clamp_(min=0), (1 - (distance - 1).abs_()).clamp_(min=0)


def bilinear_cells(position: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """The four cells around each position on a grid and their weights in a zero-padded bilinear interpolation.

    Args:
        position: (..., 2), (x, y) in cells; the centre of the first cell is at 0.
        size: (H, W), at least 2 x 2.

    Returns:
        the indices (..., 4) int64 of the cells among all H * W in row-major order, and their weights (..., 4).
    """
    height, width = size
    left, left_weight, right_weight = nearest_two(position[..., 0], width)
    top, top_weight, bottom_weight = nearest_two(position[..., 1], height)
    first = top.mul_(width).add_(left)
    weights = (
        top_weight * left_weight,
        top_weight * right_weight,
        bottom_weight * left_weight,
        bottom_weight * right_weight,
    )
    return first.unsqueeze(-1) + first.new_tensor([0, 1, width, width + 1]), torch.stack(weights, dim=-1)


def sum_weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Sums S weighted rows of a table per position: the last step of an interpolation.

    Args:
        table: (T, D).
        rows: (P, S) int64, indices of the table's rows.
        weights: (P, S).

    Returns:
        (P, D), in the type of the table.
    """
    return F.embedding_bag(rows, table, per_sample_weights=weights.to(table.dtype), mode="sum")
