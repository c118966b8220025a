"""Adaptive subdivision, PointRend's inference (Section 3.1, "Inference", Figure 4).

Shape letters: R regions, K classes, P points, H W rows and columns of a grid. Points and cells are as in
:mod:`pointrend.points`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pointrend.points import Size, grid_points, upsample

BLOCK = 32  # values per block in topk_indices
#: Devices on which points are faster in the order of the grid: neighbours are looked up together.
SORT_POINTS = {"cpu"}


def topk_indices(values: Tensor, count: int | torch.SymInt) -> Tensor:
    """The indices of the ``count`` largest values of each row, in no order: (R, P) to (R, count) int64.

    Like ``topk(count, sorted=False)``, but a long row is read only once: the largest values lie in the blocks with the
    largest maxima.
    """
    cells = values.shape[1]
    # In a graph that is recorded for any size, the length of a row is symbolic.
    if not isinstance(cells, int) or cells < 2 * BLOCK * count or cells % BLOCK:
        return values.topk(count, dim=1, sorted=False).indices
    chosen = values.unflatten(1, (cells // BLOCK, BLOCK)).amax(2).topk(count, dim=1, sorted=False).indices
    candidates = (chosen.unsqueeze(2) * BLOCK + torch.arange(BLOCK, device=values.device)).flatten(1)
    return candidates.gather(1, values.gather(1, candidates).topk(count, dim=1, sorted=False).indices)


def select_grid_points(uncertainty: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
    """The most uncertain cells of a grid (Section 3.1, "Inference").

    Args:
        uncertainty: (R, H, W).
        num_points: N; all cells where the grid has fewer.

    Returns:
        indices (R, P) int64 into the flattened grid, and their centres (R, P, 2).
    """
    height, width = uncertainty.shape[1:]
    indices = topk_indices(uncertainty.flatten(1), torch.sym_min(num_points, height * width))
    if indices.device.type in SORT_POINTS:
        indices = indices.sort(dim=1).values
    rows = indices // width
    columns = indices - rows * width  # graphs for any size know no remainder
    return indices, torch.stack(((columns + 0.5) / width, (rows + 0.5) / height), dim=2)


def subdivision_sizes(coarse: Size, output: Size) -> list[Size]:
    """The grids of the subdivision steps from ``coarse`` to ``output``: doubled each time, the last one exact.

    Example:
        >>> subdivision_sizes((7, 7), (56, 56))
        [(14, 14), (28, 28), (56, 56)]

    Raises:
        ValueError: if ``output`` is smaller than ``coarse``.
    """
    if output[0] < coarse[0] or output[1] < coarse[1]:
        raise ValueError(f"cannot subdivide a {coarse[0]}x{coarse[1]} grid to {output[0]}x{output[1]}")
    sizes = []
    size = coarse
    while size != output:
        size = (min(2 * size[0], output[0]), min(2 * size[1], output[1]))
        sizes.append(size)
    return sizes


def num_point_predictions(sizes: Sequence[Size], num_points: int) -> int:
    """How many points the subdivision over ``sizes`` predicts with at most ``num_points`` a step (Section 3.1)."""
    return sum(min(height * width, num_points) for height, width in sizes)


def subdivide(
    coarse_logits: Tensor,
    predict: Callable[[Tensor], Tensor],
    uncertainty: Callable[[Tensor], Tensor],
    sizes: Sequence[Size],
    num_points: int,
) -> Tensor:
    """Renders a fine prediction from a coarse one (Section 3.1, "Inference", Figure 4).

    Each step upsamples bilinearly to the next size and replaces the ``num_points`` most uncertain cells by point
    predictions.

    Args:
        coarse_logits: (R, K, H0, W0).
        predict: maps points (R, P, 2) to logits (R, K, P).
        uncertainty: maps logits (R, K, H, W) to uncertainties (R, H, W).
        sizes: the grid of each step, as from :func:`subdivision_sizes`.
        num_points: N, the most points that a step predicts.

    Returns:
        (R, K, H, W) logits at the last size; ``coarse_logits`` itself where ``sizes`` is empty.
    """
    logits = coarse_logits
    # A step whose grid has at most N cells replaces all of them, so everything before it can be skipped. In a graph
    # that is recorded for any size, the number of cells is symbolic, and no step is skipped.
    cells = [height * width for height, width in sizes]
    dense = sum(isinstance(count, int) and count <= num_points for count in cells)
    if dense:
        points = grid_points(sizes[dense - 1], logits.device).expand(logits.shape[0], -1, -1)
        logits = predict(points).unflatten(2, sizes[dense - 1])
    for size in sizes[dense:]:
        logits = upsample(logits, size)
        indices, points = select_grid_points(uncertainty(logits), num_points)
        predicted = predict(points).to(logits.dtype)
        logits = (
            logits.flatten(2)
            .scatter_(2, indices.unsqueeze(1).expand(-1, logits.shape[1], -1), predicted)
            .unflatten(2, size)
        )
    return logits
