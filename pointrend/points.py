"""Point selection and adaptive subdivision: Sections 3.1 and 3.2 of the PointRend paper in one file.

Shape letters used throughout:

    R    regions: boxes for instance segmentation, whole images for semantic segmentation
    C    feature channels
    K    classes
    P    points per region
    H W  rows and columns of a grid

A point is (x, y) in [0, 1] x [0, 1] of its region (or image). Cell (i, j) of an H x W grid has its centre at
((j + 0.5) / W, (i + 0.5) / H), the convention of ``align_corners=False``.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pointrend.specs import PointSampling

Size = tuple[int, int]

CACHED_CELLS = 2**23  # of a band of rows that is read more than once
BLOCK = 32  # values of a row whose maximum stands for them


def sample_features(features: Tensor, points: Tensor) -> Tensor:
    """Bilinear interpolation of a feature map at real-valued points (Section 3.2).

    Values outside the map are zero, as if it were surrounded by zero cells.

    Args:
        features: (R, C, H, W).
        points: (R, P, 2).

    Returns:
        (R, C, P).
    """
    grid = (2.0 * points - 1.0).unsqueeze(2)
    # Half precision features are widened to the points: a bfloat16 coordinate is off by pixels.
    return F.grid_sample(features.to(grid.dtype), grid, mode="bilinear", align_corners=False).squeeze(3)


def sample_masks(masks: Tensor, indices: Tensor, points: Tensor) -> Tensor:
    """Bilinear interpolation of one mask per region, without copying a mask per region.

    Equal to ``sample_features(masks[indices][:, None].float(), points)[:, 0]``, in O(R P) memory.

    Args:
        masks: (G, H, W) bool.
        indices: (R,) int64, the mask of each region.
        points: (R, P, 2) in [0, 1] of the mask.

    Returns:
        (R, P) float values in [0, 1].
    """
    height, width = masks.shape[-2:]
    x = points[..., 0] * width - 0.5
    y = points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    values = torch.zeros_like(x)
    for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            # Clamped as floats: a huge coordinate has no int64.
            rows, columns = row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
            values += weight_x * weight_y * (masks[indices[:, None], rows, columns] & inside)
    return values


def grid_points(size: Size, device: torch.device | None = None) -> Tensor:
    """The cell centres of an H x W grid in row-major order: (H * W, 2)."""
    height, width = size
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack((x.repeat(height), y.repeat_interleave(width)), dim=1)


def points_in_image(points: Tensor, boxes: Tensor) -> Tensor:
    """Box-relative points to pixels of the image that the boxes are given in.

    Args:
        points: (R, P, 2) in [0, 1] of the box.
        boxes: (R, 4) xyxy in pixels.

    Returns:
        (R, P, 2) in pixels; the centre of the first pixel is at 0.5.
    """
    origin, corner = boxes[:, None, :2], boxes[:, None, 2:]
    return origin + points * (corner - origin)


def mask_uncertainty(logits: Tensor) -> Tensor:
    """Uncertainty of a binary mask: minus the distance of its logit from 0, i.e. of p from 0.5. Any shape."""
    return -logits.abs()


def class_uncertainty(logits: Tensor) -> Tensor:
    """Uncertainty among classes: the second best logit minus the best, at most 0 (Section 5).

    Args:
        logits: (R, K, ...).

    Returns:
        (R, ...); all zero where K is 1, as there is nothing to tell apart.
    """
    if logits.shape[1] == 1:
        return torch.zeros_like(logits[:, 0])
    # Two running maxima read plane after plane, where topk would walk the tensor with a stride of a plane.
    best, second = torch.maximum(logits[:, 0], logits[:, 1]), torch.minimum(logits[:, 0], logits[:, 1])
    for plane in logits.unbind(1)[2:]:
        second = torch.maximum(second, torch.minimum(best, plane))
        best = torch.maximum(best, plane)
    return second - best


def select_training_points(
    coarse_logits: Tensor,
    sampling: PointSampling,
    uncertainty: Callable[[Tensor], Tensor],
    extent: Tensor | None = None,
) -> Tensor:
    """Points to train on, mildly biased towards uncertain places (Section 3.1, "Training").

    The uncertainty is that of the *interpolated prediction*: between logits of -1 and 1 the prediction is 0 and
    most uncertain, although both cells by themselves are equally sure.

    Args:
        coarse_logits: (R, K, H, W); no gradient flows through the selection.
        sampling: the strategy and its parameters.
        uncertainty: maps logits (R, K, P) to uncertainties (R, P), higher where less sure.
        extent: (R, 2), the part (x, y) of each region to draw from, where the rest is padding; all of it by default.

    Returns:
        (R, N, 2) points, N = ``sampling.num_points``.
    """
    regions, device = coarse_logits.shape[0], coarse_logits.device
    within = 1 if extent is None else extent[:, None]
    if sampling.strategy == "grid":
        side = math.isqrt(sampling.num_points)
        return grid_points((side, side), device).expand(regions, -1, -1) * within
    num_important = int(sampling.importance_sample_ratio * sampling.num_points)
    num_uniform = sampling.num_points - num_important
    uniform = torch.rand(regions, num_uniform, 2, device=device) * within
    if num_important == 0:
        return uniform
    candidates = torch.rand(regions, int(sampling.oversample_ratio * sampling.num_points), 2, device=device) * within
    with torch.no_grad():
        scores = uncertainty(sample_features(coarse_logits, candidates))
        best = scores.topk(num_important, dim=1).indices
    important = candidates.gather(1, best.unsqueeze(2).expand(-1, -1, 2))
    return torch.cat((important, uniform), dim=1)


def largest(values: Tensor, count: int | torch.SymInt) -> Tensor:
    """The indices of the ``count`` largest values of each row, in no order: (R, P) to (R, count) int64.

    Like ``topk(count, sorted=False)``, but it reads a long row only once: the largest values lie in the blocks of the
    largest maxima.
    """
    cells = values.shape[1]
    # A graph that is recorded for any size does not know how long a row is.
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
    # In the order of the grid, so that neighbours are looked up together.
    indices = largest(uncertainty.flatten(1), torch.sym_min(num_points, height * width)).sort(dim=1).values
    rows = indices // width
    columns = indices - rows * width
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


def upsample(logits: Tensor, size: Size) -> Tensor:
    """Bilinear interpolation, ``align_corners=False``: (R, K, h, w) to (R, K, H, W)."""
    height, width = logits.shape[-2:]
    plain = logits.device.type == "cpu" and logits.dtype == torch.float32 and not torch.is_grad_enabled()
    if plain and size == (2 * height, 2 * width) and not (torch.compiler.is_compiling()):
        return _double(logits)
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _double(logits: Tensor) -> Tensor:
    """:func:`upsample` to twice the rows and columns, several times as fast on a CPU.

    Every new cell is three quarters its old cell and one quarter the neighbour that it lies next to. A few rows at a
    time, so that what the rows leave for the columns is still in the cache.
    """
    regions, classes, height, width = logits.shape
    doubled = logits.new_empty(regions, classes, 2 * height, 2 * width)
    rows = max(1, CACHED_CELLS // max(1, regions * classes * 4 * width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        # With the row before and the row after; beyond the border lies the border's copy.
        band = logits[:, :, torch.arange(top - 1, bottom + 1).clamp(0, height - 1)]
        tall = logits.new_empty(regions, classes, 2 * (bottom - top), width)
        torch.lerp(band[:, :, 1:-1], band[:, :, :-2], 0.25, out=tall[:, :, 0::2])
        torch.lerp(band[:, :, 1:-1], band[:, :, 2:], 0.25, out=tall[:, :, 1::2])
        wide = doubled[:, :, 2 * top : 2 * bottom]
        torch.lerp(tall[..., 1:], tall[..., :-1], 0.25, out=wide[..., 2::2])
        torch.lerp(tall[..., :-1], tall[..., 1:], 0.25, out=wide[..., 1:-1:2])
        wide[..., 0], wide[..., -1] = tall[..., 0], tall[..., -1]
    return doubled


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
    # A step whose grid has at most N cells replaces all of them: whatever came before it leaves no trace. In a graph
    # that is recorded for any size the grids may have more.
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
