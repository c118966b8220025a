"""Multiply-adds and activations of the mask heads, counted from the modules as they run (Table 2).

The heads run on the meta device, on shapes without values, so counting is instant. Counts are for one region and all
its classes. As in the paper, the features that RoIAlign pools count as activations, bilinear interpolation costs
nothing, and of the subdivision steps only the largest counts towards activations: they run one after another.

Shape letters: R regions, C channels, K classes, P points.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pointrend.heads import CoarseMaskHead, FourConvHead, PointHead
from pointrend.points import mask_uncertainty
from pointrend.specs import FOUR_CONV_SIDE, InstanceSpec, Rendering
from pointrend.subdivision import subdivide, subdivision_sizes


class Complexity(NamedTuple):
    """The cost of a mask head for one region."""

    multiply_adds: int
    activations: int


def count(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, Complexity]:
    """Runs a module and returns its output and cost. The outputs of layers with weights are the activations."""
    activations = 0

    def add(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    layers = [layer for layer in module.modules() if isinstance(getattr(layer, "weight", None), Tensor)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            output = module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return output, Complexity(flops.get_total_flops() // 2, activations)


def four_conv_complexity(head: FourConvHead, in_channels: int, resolution: int) -> Complexity:
    """The 4xconv head on the meta device: (1, C, S / 2, S / 2) features to an S x S mask, S = ``resolution``.

    Raises:
        ValueError: for an odd resolution.
    """
    if resolution % 2:
        raise ValueError(f"resolution is {resolution}: the 4xconv head doubles its input, so it must be even")
    pooled = torch.empty(1, in_channels, resolution // 2, resolution // 2, device="meta")
    cost = count(head, pooled)[1]
    return cost._replace(activations=pooled.numel() + cost.activations)


def pointrend_complexity(
    coarse_head: CoarseMaskHead, point_head: PointHead, in_channels: int, rendering: Rendering
) -> Complexity:
    """The coarse and the point head on the meta device, through the subdivision steps of ``rendering``."""
    side, resolution = coarse_head.side, rendering.resolution
    pooled = torch.empty(1, in_channels, 2 * side, 2 * side, device="meta")
    coarse, coarse_cost = count(coarse_head, pooled)
    steps = []

    def predict(points: Tensor) -> Tensor:
        fine, interpolated = (
            pooled.new_empty(1, channels, points.shape[1]) for channels in (in_channels, coarse.shape[1])
        )
        logits, cost = count(point_head, fine, interpolated)
        steps.append(cost)
        return logits[:, :1]

    sizes = subdivision_sizes((side, side), (resolution, resolution))
    subdivide(coarse[:, :1], predict, lambda logits: mask_uncertainty(logits[:, 0]), sizes, rendering.num_points)
    return Complexity(
        coarse_cost.multiply_adds + sum(step.multiply_adds for step in steps),
        pooled.numel() + coarse_cost.activations + max((step.activations for step in steps), default=0),
    )


def spec_complexity(spec: InstanceSpec, num_classes: int, rendering: Rendering) -> Complexity:
    """The cost of a model's mask head, from its spec. A 4xconv head is counted at any even resolution.

    Raises:
        ValueError: if there are no classes, or the head cannot have that resolution.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}, expected at least 1")
    if not spec.has_pointrend:
        with torch.device("meta"):
            four_conv = FourConvHead(spec.fpn_channels, num_classes, spec.mask_channels)
        return four_conv_complexity(four_conv, spec.fpn_channels, rendering.resolution)
    with torch.device("meta"):
        coarse_head = CoarseMaskHead(
            spec.fpn_channels, num_classes, channels=spec.mask_channels, hidden=spec.coarse_hidden
        )
        point_head = PointHead(
            spec.fpn_channels, num_classes, spec.point_channels or spec.mask_channels, spec.point_layers
        )
    return pointrend_complexity(coarse_head, point_head, spec.fpn_channels, rendering)


class Row(NamedTuple):
    """One row of Table 2: a mask head, the side of its mask, and its cost."""

    mask_head: str
    resolution: int
    cost: Complexity


def compare_heads(spec: InstanceSpec, num_classes: int, rendering: Rendering) -> list[Row]:
    """The rows of Table 2: 4xconv at its own resolution and at PointRend's, then PointRend.

    Args:
        spec: of either model of a pair; only the channels matter.
        num_classes: K.
        rendering: PointRend's output resolution and points per step.

    Raises:
        ValueError: if there are no classes, or the resolution is odd or below that of the coarse mask.
    """
    four_conv, pointrend = replace(spec, mask_head="4xconv"), replace(spec, mask_head="pointrend")
    resolution, default = rendering.resolution, replace(rendering, resolution=FOUR_CONV_SIDE)
    return [
        Row("4xconv", FOUR_CONV_SIDE, spec_complexity(four_conv, num_classes, default)),
        Row("4xconv", resolution, spec_complexity(four_conv, num_classes, rendering)),
        Row("pointrend", resolution, spec_complexity(pointrend, num_classes, rendering)),
    ]
