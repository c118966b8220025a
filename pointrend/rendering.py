"""The point head at inference: the logits that its layers define, in an order that computes far less.

Nothing here is approximate. Bilinear interpolation and the product with a layer's weights are both linear, so they may
trade places. What a layer takes from the coarse prediction is computed for the 7 x 7 cells of a region instead of its
points, what the first layer takes from the fine features for the cells of the map where those are fewer than the
points; both are interpolated afterwards. The last layer computes one class per region, the only one that a mask shows.

Shape letters: R regions, C channels of the features, D channels of the hidden layers, K classes, P points, H W rows and
columns of the feature map, h w of the coarse prediction.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pointrend.heads import PointHead
from pointrend.points import (
    Size,
    mask_uncertainty,
    num_point_predictions,
    points_in_image,
    sample_features,
    subdivide,
)

#: Points that go through the point head together. On a CPU their features stay in the cache from layer to layer.
POINTS_AT_ONCE = {"cpu": 2**12, "cuda": 2**17}


def nearest_two(position: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """The lower one of two adjacent cells around each position on an axis, its weight, and the other's weight."""
    # Of a position outside the axis these are the two outermost cells, which weigh what they should: less or nothing.
    lower = position.floor().clamp_(0, cells - 2)
    distance = position - lower
    return lower.long(), (1 - distance.abs()).clamp_(min=0), (1 - (distance - 1).abs_()).clamp_(min=0)


def bilinear_rows(position: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """The four cells around each position on a grid and their weights in a zero-padded bilinear interpolation.

    Args:
        position: (..., 2), (x, y) in cells; the centre of the first cell is at 0.
        size: (H, W), at least 2 x 2.

    Returns:
        rows (..., 4) int64 of a table of the H * W cells, and weights (..., 4).
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


def interpolate(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of the rows of a table: (T, D), (R, P, 4) and (R, P, 4) to (R P, D)."""
    weights = weights.to(table.dtype)
    return F.embedding_bag(rows.flatten(0, 1), table, per_sample_weights=weights.flatten(0, 1), mode="sum")


class RegionPointHead:
    """The point head of the R regions of one image as a function of their points.

    Args:
        head: the point head.
        fine: (C, H, W), the fine-grained features of the image.
        boxes: (R, 4) xyxy in cells of that map.
        coarse: (R, K, h, w), the coarse prediction.
        classes: (R,) int64, the class of each region, from 0.
        num_points: how many points of a region will be asked for, over all calls.
        dtype: the type to compute in.
    """

    def __init__(
        self,
        head: PointHead,
        fine: Tensor,
        boxes: Tensor,
        coarse: Tensor,
        classes: Tensor,
        num_points: int,
        dtype: torch.dtype,
    ) -> None:
        self.boxes = boxes
        num_classes = coarse.shape[1]
        # In this order in memory too: products of strided bfloat16 matrices take many times the memory.
        coarse_cells = coarse.permute(0, 2, 3, 1).to(dtype).contiguous()

        self.weights: list[Tensor] = []  # (C or D, D) of each layer
        self.coarse_tables: list[Tensor] = []  # (R (h + 2) (w + 2), D) of each layer
        for layer in head.layers:
            weight = layer.get_parameter("weight")[:, :, 0].T.to(dtype)
            self.weights.append(weight[:-num_classes].contiguous())
            table = self._with_border(coarse_cells @ weight[-num_classes:], layer.get_parameter("bias").to(dtype))
            self.coarse_tables.append(table.flatten(0, 2))
        self.coarse_size = (coarse.shape[-2] + 2, coarse.shape[-1] + 2)

        weight = head.predictor.weight[classes, :, 0].to(dtype)
        own = torch.einsum("rhwk,rk->rhw", coarse_cells, weight[:, -num_classes:])
        bias = head.predictor.get_parameter("bias")[classes, None, None, None].to(dtype)
        self.own_table = self._with_border(own[..., None], bias).flatten(1)  # (R, (h + 2) (w + 2))
        self.own_weight = weight[:, None, :-num_classes]  # (R, 1, D)

        self.fine, self.fine_table = fine[None], None
        # To look a point up among features with the channels apart takes about as long as its product.
        if fine[0].numel() < 2 * len(boxes) * num_points:
            self.fine_table = fine.to(dtype).flatten(1).T @ self.weights[0]  # (H W, D)
        self.fine_size = (fine.shape[-2], fine.shape[-1])

    @staticmethod
    def _with_border(cells: Tensor, bias: Tensor) -> Tensor:
        """Cells (R, h, w, D) plus a bias, within a border of zero cells plus that bias: (R, h + 2, w + 2, D).

        With the border the weights of any point's four cells sum to 1, so the bias can be interpolated along.
        """
        regions, height, width, channels = cells.shape
        table = bias.expand(regions, height + 2, width + 2, channels).clone()
        table[:, 1:-1, 1:-1] += cells
        return table

    def __call__(self, points: Tensor, regions: slice) -> Tensor:
        """The logits of the regions' own classes: points (R, P, 2) of some of the regions to (R, 1, P)."""
        count, num_points = points.shape[:2]
        height, width = self.coarse_size
        cells, weights = bilinear_rows(points * points.new_tensor([width - 2, height - 2]) + 0.5, self.coarse_size)
        own_table = self.own_table[regions]
        logits = (own_table.gather(1, cells.flatten(1)).view(cells.shape) * weights).sum(dim=2)
        cells += torch.arange(count, device=cells.device)[:, None, None] * (height * width)
        tables = [table[regions.start * height * width :] for table in self.coarse_tables]

        hidden = interpolate(tables[0], cells, weights)
        located = points_in_image(points, self.boxes[regions])
        if self.fine_table is not None:
            hidden += interpolate(self.fine_table, *bilinear_rows(located - 0.5, self.fine_size))
        else:
            extent = located.new_tensor([self.fine_size[1], self.fine_size[0]])
            sampled = sample_features(self.fine, located.view(1, -1, 2) / extent)[0]
            hidden.addmm_(sampled.T.to(hidden.dtype), self.weights[0])
        hidden.relu_()
        for table, weight in zip(tables[1:], self.weights[1:], strict=True):
            hidden = interpolate(table, cells, weights).addmm_(hidden, weight).relu_()
        # In this order of the factors: the other one is several times as slow in float32 on a CPU.
        from_hidden = torch.bmm(self.own_weight[regions], hidden.unflatten(0, (count, num_points)).transpose(1, 2))
        return logits[:, None] + from_hidden


def render_regions(
    head: PointHead,
    fine: Tensor,
    boxes: Tensor,
    coarse: Tensor,
    classes: Tensor,
    sizes: Sequence[Size],
    num_points: int,
    dtype: torch.dtype,
) -> Tensor:
    """Subdivides the masks of the regions of one image, a few regions at a time (Section 3.1, "Inference").

    Args:
        head: the point head.
        fine: (C, H, W), the fine-grained features of the image.
        boxes: (R, 4) xyxy in cells of that map.
        coarse: (R, K, h, w), the coarse prediction.
        classes: (R,) int64, the class of each region, from 0.
        sizes: the grid of each step, as from :func:`pointrend.points.subdivision_sizes`.
        num_points: N, the most points that a step predicts.
        dtype: the type to compute in.

    Returns:
        (R, 1, H, W) logits of the regions' own classes at the last size, in the type of ``coarse``.
    """
    regions = coarse.shape[0]
    own = coarse[torch.arange(regions, device=coarse.device), classes].unsqueeze(1)
    if not sizes:
        return own
    if not regions:
        return own.new_zeros(0, 1, *sizes[-1])
    point_head = RegionPointHead(head, fine, boxes, coarse, classes, num_point_predictions(sizes, num_points), dtype)
    at_once = max(1, POINTS_AT_ONCE.get(coarse.device.type, 2**17) // num_points)
    rendered = []
    for first in range(0, regions, at_once):
        chunk = slice(first, min(first + at_once, regions))
        rendered.append(
            subdivide(
                own[chunk],
                partial(point_head, regions=chunk),
                lambda logits: mask_uncertainty(logits[:, 0]),
                sizes,
                num_points,
            )
        )
    return torch.cat(rendered)
