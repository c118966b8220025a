"""Adaptive subdivision, one step at a time (Section 3.1, "Inference"): what its pictures are drawn from.

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

    upsampled: Tensor  # (R, K, H, W) logits of the step before, interpolated
    points: Tensor  # (R, P, 2), the cells that the point head predicted
    refined: Tensor  # (R, K, H, W) logits with those predictions in their places


@torch.no_grad()
def subdivision_steps(
    coarse_logits: Tensor,
    predict: Callable[[Tensor], Tensor],
    uncertainty: Callable[[Tensor], Tensor],
    sizes: Sequence[Size],
    num_points: int,
) -> list[Step]:
    """The steps of :func:`pointrend.subdivision.subdivide`, with its arguments; the last one's logits are its result.

    It skips what leaves no trace: grids of at most N cells, before the last of them. Here they are predicted like all
    others.
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
