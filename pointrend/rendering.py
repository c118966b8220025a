"""Renders the masks of the PointRend mask head at inference (Section 3.1, "Inference").

The point head computes what its layers define, in an order that needs far less work, and without approximation.
Bilinear interpolation and the product with a layer's weights are both linear, so they can be swapped:

- What a layer computes from the coarse prediction is computed once per cell of the 7 x 7 grid instead of once per
  point, and interpolated afterwards.
- So is what the first layer computes from the fine features, if the map has fewer cells than there are points.
- The last layer computes one class per region, the only one that its mask shows.

On a GPU :class:`pointrend.rendering_gpu.GpuPointHead` computes the same in fewer and larger steps.

Shape letters: R regions, C channels of the features, D channels of the hidden layers, K classes, P points, M the side
of a region mask, H W rows and columns of the feature map, h w of the coarse prediction.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from pointrend.detector import split_like
from pointrend.finite import check_finite
from pointrend.heads import PointHead
from pointrend.instance import PointRendMaskHead, class_indices, select_class_logits
from pointrend.interpolation import bilinear_cells, sum_weighted_rows
from pointrend.points import Size, mask_uncertainty, points_in_image, sample_features
from pointrend.pooling import Features
from pointrend.rendering_gpu import GpuPointHead
from pointrend.specs import Rendering
from pointrend.subdivision import num_point_predictions, subdivide, subdivision_sizes

#: Points that go through the point head together. On a CPU their features stay in the cache from layer to layer.
POINTS_AT_ONCE = {"cpu": 2**12, "cuda": 2**17}
#: Devices on which sums of table rows are faster than products.
SUM_TABLE_ROWS = {"cpu"}


def mask_logits(
    head: PointRendMaskHead, features: Features, boxes: list[Tensor], labels: list[Tensor], rendering: Rendering
) -> Tensor:
    """Mask logits of each region's class: (R summed over images, 1, M, M); see :meth:`PointRendMaskHead.logits`."""
    side, resolution = head.coarse_head.side, rendering.resolution
    sizes = subdivision_sizes((side, side), (resolution, resolution))
    if resolution != side * 2 ** len(sizes):
        raise ValueError(f"resolution is {resolution}, expected {side} doubled: {side}, {2 * side}, {4 * side}, ...")
    if torch.compiler.is_compiling():
        # A loop over regions would fix their number in the graph.
        return mask_logits_layer_by_layer(head, features, boxes, labels, sizes, rendering.num_points)
    return _mask_logits(head, features, boxes, labels, sizes, rendering.num_points)


def mask_logits_layer_by_layer(
    head: PointRendMaskHead,
    features: Features,
    boxes: list[Tensor],
    labels: list[Tensor],
    sizes: list[Size],
    num_points: int,
) -> Tensor:
    """:func:`mask_logits` layer by layer, as the head is defined: the reference, slower but without loops."""
    all_labels = torch.cat(labels)
    coarse = head.coarse_logits(features, boxes)
    return subdivide(
        select_class_logits(coarse, all_labels),
        lambda points: select_class_logits(head.point_logits(features, boxes, coarse, points), all_labels),
        lambda logits: mask_uncertainty(logits[:, 0]),
        sizes,
        num_points,
    )


@torch.no_grad()
def _mask_logits(
    head: PointRendMaskHead,
    features: Features,
    boxes: list[Tensor],
    labels: list[Tensor],
    sizes: list[Size],
    num_points: int,
) -> Tensor:
    fine = features[head.fine_level].to(boxes[0].dtype)
    check_finite({f"feature map {head.fine_level!r}": fine, "boxes": torch.cat(boxes)})
    device = fine.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else fine.dtype
    coarse = head.coarse_logits({head.fine_level: fine}, boxes).to(fine.dtype)
    classes = class_indices(torch.cat(labels), coarse.shape[1])
    return torch.cat(
        [
            render_regions(
                head.point_head,
                feature,
                image_boxes / head.fine_stride,
                image_coarse,
                image_classes,
                sizes,
                num_points,
                dtype,
            )
            for feature, image_boxes, image_coarse, image_classes in zip(
                fine, boxes, split_like(coarse, boxes), split_like(classes, boxes), strict=True
            )
        ]
    )


class RegionPointHead:
    """The point head for the R regions of one image: a function from points to the logits of each region's class.

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
        # Contiguous in this order: products of strided bfloat16 matrices need many times the memory.
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
        class_cells = torch.einsum("rhwk,rk->rhw", coarse_cells, weight[:, -num_classes:])
        bias = head.predictor.get_parameter("bias")[classes, None, None, None].to(dtype)
        self.class_table = self._with_border(class_cells[..., None], bias).flatten(1)  # (R, (h + 2) (w + 2))
        self.class_weight = weight[:, None, :-num_classes]  # (R, 1, D)

        self.fine, self.fine_table = fine[None], None
        # Sampling a point from (C, H, W) features costs about as much as its product with the weights.
        if fine[0].numel() < 2 * len(boxes) * num_points:
            self.fine_table = fine.to(dtype).flatten(1).T @ self.weights[0]  # (H W, D)
        self.fine_size = (fine.shape[-2], fine.shape[-1])

    @staticmethod
    def _with_border(cells: Tensor, bias: Tensor) -> Tensor:
        """Cells (R, h, w, D) plus a bias, surrounded by zero cells plus that bias: (R, h + 2, w + 2, D).

        With the border the weights of any point's four cells sum to 1, so the bias can be interpolated with the cells.
        """
        regions, height, width, channels = cells.shape
        table = bias.expand(regions, height + 2, width + 2, channels).clone()
        table[:, 1:-1, 1:-1] += cells
        return table

    def __call__(self, points: Tensor, regions: slice) -> Tensor:
        """The logits of each region's class: points (R, P, 2) of some of the regions to (R, 1, P)."""
        count, num_points = points.shape[:2]
        height, width = self.coarse_size
        cells, weights = bilinear_cells(points * points.new_tensor([width - 2, height - 2]) + 0.5, self.coarse_size)
        class_table = self.class_table[regions]
        logits = (class_table.gather(1, cells.flatten(1)).view(cells.shape) * weights).sum(dim=2)
        cells += torch.arange(count, device=cells.device)[:, None, None] * (height * width)
        cells, weights = cells.flatten(0, 1), weights.flatten(0, 1)
        tables = [table[regions.start * height * width :] for table in self.coarse_tables]

        hidden = sum_weighted_rows(tables[0], cells, weights)
        located = points_in_image(points, self.boxes[regions])
        if self.fine_table is not None:
            fine_cells, fine_weights = bilinear_cells(located.flatten(0, 1) - 0.5, self.fine_size)
            hidden += sum_weighted_rows(self.fine_table, fine_cells, fine_weights)
        else:
            extent = located.new_tensor([self.fine_size[1], self.fine_size[0]])
            sampled = sample_features(self.fine, located.view(1, -1, 2) / extent)[0]
            hidden.addmm_(sampled.T.to(hidden.dtype), self.weights[0])
        hidden.relu_()
        for table, weight in zip(tables[1:], self.weights[1:], strict=True):
            hidden = sum_weighted_rows(table, cells, weights).addmm_(hidden, weight).relu_()
        # The factors in the other order are several times slower in float32 on a CPU.
        from_hidden = torch.bmm(self.class_weight[regions], hidden.unflatten(0, (count, num_points)).transpose(1, 2))
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
    """Subdivides the masks of the regions of one image, a few regions at a time.

    Args:
        head: the point head.
        fine: (C, H, W), the fine-grained features of the image.
        boxes: (R, 4) xyxy in cells of that map.
        coarse: (R, K, h, w), the coarse prediction.
        classes: (R,) int64, the class of each region, from 0.
        sizes: the grid of each step, as from :func:`pointrend.subdivision.subdivision_sizes`.
        num_points: N, the most points that a step predicts.
        dtype: the type to compute in.

    Returns:
        (R, 1, M, M) logits of each region's class at the last size, in the type of ``coarse``.
    """
    regions = coarse.shape[0]
    logits = coarse[torch.arange(regions, device=coarse.device), classes].unsqueeze(1)
    if not sizes:
        return logits
    if not regions:
        return logits.new_zeros(0, 1, *sizes[-1])
    point_head: RegionPointHead | GpuPointHead
    if coarse.device.type in SUM_TABLE_ROWS:
        predicted = num_point_predictions(sizes, num_points)
        point_head = RegionPointHead(head, fine, boxes, coarse, classes, predicted, dtype)
    else:
        point_head = GpuPointHead(head, fine, boxes, coarse, classes, dtype)
    regions_at_once = max(1, POINTS_AT_ONCE.get(coarse.device.type, 2**17) // num_points)
    rendered = []
    for first in range(0, regions, regions_at_once):
        chunk = slice(first, min(first + regions_at_once, regions))
        rendered.append(
            subdivide(
                logits[chunk],
                partial(point_head, regions=chunk),
                lambda logits: mask_uncertainty(logits[:, 0]),
                sizes,
                num_points,
            )
        )
    return rendered[0] if len(rendered) == 1 else torch.cat(rendered)
