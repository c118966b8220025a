"""Points: where they lie, what features they have, and which ones to train on (Sections 3.1 and 3.2).

Shape letters used throughout:

    R    regions: boxes for instance segmentation, whole images for semantic segmentation
    C    feature channels
    K    classes
    P    points per region
    H W  rows and columns of a grid

A point is (x, y) in [0, 1] x [0, 1] of its region (or image). Cell (i, j) of an H x W grid has its centre at
((j + 0.5) / W, (i + 0.5) / H), the convention of ``align_corners=False``.

Bilinear interpolation in this library. Torch's own functions do it wherever they are as fast:

- :func:`sample_features`, torch's ``grid_sample``: features and predictions at points, with gradients.
- :func:`upsample`, torch's ``interpolate``: predictions to a larger grid, in the heads and between subdivision steps.
- :func:`pointrend.transform.resize_image`, torch's ``interpolate`` with anti-aliasing: images.

Three more exist for a reason. The figures compare them with ``grid_sample``, measured by
``benchmarks/interpolation.py --threads 1`` on one busy core of an AMD EPYC:

- :func:`sample_masks`: ground truth at training points without a float copy of the mask per region. 75 times as fast,
  with 15 MB instead of 594 MB.
- :mod:`pointrend.interpolation`, weighted sums of table rows: the point head of the mask branch at inference, 2.4 to
  2.8 times as fast, and pasting masks into images, 1.3 to 1.8 times as fast.
- :func:`pointrend.paste.paste_masks_densely`, two matrix products: pasting in exported graphs, which cannot loop over
  regions.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pointrend.specs import PointSampling

Size = tuple[int, int]


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


def sample_masks(masks: list[Tensor], indices: list[Tensor], points: Tensor) -> Tensor:
    """Bilinear interpolation of one mask per region, without copying a mask per region.

    Of one image equal to ``sample_features(masks[indices][:, None].float(), points)[:, 0]``, in O(R P) memory.

    Args:
        masks: (G, H, W) bool of each image, of any sizes.
        indices: (R,) int64 of each image, the mask of each region.
        points: (R summed over images, P, 2) in [0, 1] of the mask.

    Returns:
        (R summed over images, P) float values in [0, 1].
    """
    first, layout = 0, []
    for of_image in masks:
        layout.append((first, *of_image.shape[-2:]))
        first += of_image.numel()
    first_cell, height, width = repeat_rows(torch.tensor(layout, device=points.device), indices).unsqueeze(1).unbind(2)
    first_cell = first_cell + torch.cat(indices)[:, None] * height * width
    x = points[..., 0] * width - 0.5
    y = points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    # The four cells around each point: (4, R, P).
    columns, rows = torch.stack((left, left, left + 1, left + 1)), torch.stack((top, top + 1, top, top + 1))
    (from_right, from_left), (from_bottom, from_top) = (left + 1 - x, x - left), (top + 1 - y, y - top)
    weights = torch.stack((from_right, from_right, from_left, from_left)) * torch.stack(
        (from_bottom, from_top, from_bottom, from_top)
    )
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    # Set to 0 as floats: a huge coordinate has no int64.
    rows, columns = torch.where(inside, rows, 0).long(), torch.where(inside, columns, 0).long()
    cells = first_cell + rows * width + columns
    flat = torch.cat([of_image.flatten() for of_image in masks])
    first, second, third, fourth = weights * (flat[cells] & inside)
    return first + second + third + fourth


def repeat_rows(values: Tensor, like: list[Tensor]) -> Tensor:
    """Row i of values (N, ...) as many times as the i-th of N tensors has rows: (R summed over these, ...)."""
    counts = [len(tensor) for tensor in like]
    return values.repeat_interleave(torch.tensor(counts, device=values.device), dim=0, output_size=sum(counts))


def upsample(grids: Tensor, size: Size) -> Tensor:
    """Bilinear interpolation to a larger grid: (R, C, h, w) to (R, C, H, W). Beyond the border the border continues."""
    return F.interpolate(grids, size=size, mode="bilinear", align_corners=False)


def grid_points(size: Size, device: torch.device | None = None) -> Tensor:
    """The cell centres of an H x W grid in row-major order: (H * W, 2). Not to be written to."""
    if torch.compiler.is_compiling():
        return _grid_points(size, device)
    return _kept_grid_points(size, device or torch.get_default_device())


@lru_cache(maxsize=16)
def _kept_grid_points(size: Size, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor of inference mode could not train
        return _grid_points(size, device)


def _grid_points(size: Size, device: torch.device | None) -> Tensor:
    height, width = size
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=2).flatten(0, 1)


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
    regions, device, num_points = coarse_logits.shape[0], coarse_logits.device, sampling.num_points
    assert num_points is not None  # only semantic models leave it open, and they have set it by now
    within = 1 if extent is None else extent[:, None]
    if sampling.strategy == "grid":
        side = math.isqrt(num_points)
        return grid_points((side, side), device).expand(regions, -1, -1) * within
    num_important = int(sampling.importance_sample_ratio * num_points)
    num_uniform = num_points - num_important
    uniform = torch.rand(regions, num_uniform, 2, device=device) * within
    if num_important == 0:
        return uniform
    candidates = torch.rand(regions, int(sampling.oversample_ratio * num_points), 2, device=device) * within
    with torch.no_grad():
        scores = uncertainty(sample_features(coarse_logits, candidates))
        best = scores.topk(num_important, dim=1).indices
    important = candidates.gather(1, best.unsqueeze(2).expand(-1, -1, 2))
    return torch.cat((important, uniform), dim=1)
