"""Adaptive subdivision, one step at a time (Section 3.1, "Inference"), for drawing.

Shape letters: R regions, K classes, P points, H W rows and columns of a step's grid.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pointrend.points import Size, upsample
from pointrend.subdivision import subdivide


class Step(NamedTuple):
    """One step of subdivision."""

    upsampled: Tensor  # (R, K, H, W) interpolated logits of the step before
    points: Tensor  # (R, P, 2) centres of the cells that the point head predicts
    refined: Tensor  # (R, K, H, W) logits with those predictions in place


@torch.no_grad()
def subdivision_steps(
    coarse_logits: Tensor,
    predict: Callable[[Tensor], Tensor],
    uncertainty: Callable[[Tensor], Tensor],
    sizes: Sequence[Size],
    num_points: int,
) -> list[Step]:
    """The steps of :func:`pointrend.subdivision.subdivide`, with the same arguments; the last step has its result.

    ``subdivide`` predicts only the last of the grids with at most N cells, since each of them is predicted as a whole.
    Here all of them are predicted.
    """
    steps: list[Step] = []
    logits = coarse_logits
    for size in sizes:
        asked: list[Tensor] = []

        def recorded(points: Tensor, asked: list[Tensor] = asked) -> Tensor:
            asked.append(points)
            return predict(points)

        upsampled = upsample(logits, size)
        logits = subdivide(logits, recorded, uncertainty, [size], num_points)
        (points,) = asked
        steps.append(Step(upsampled, points, logits))
    return steps
