"""Inference of semantic models: coarse predictions, subdivided to the images' resolution.

Shape letters: N images, C channels, K classes, H W rows and columns of the image, h w of the coarse prediction.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from pointrend.finite import check_finite
from pointrend.points import Size, class_uncertainty, upsample
from pointrend.semantic import SemanticPointRend, SemanticSegmenter, extent_of
from pointrend.subdivision import subdivide


class CoarsePrediction(NamedTuple):
    """The backbone's features and the head's prediction for N images of one size: all that rendering needs."""

    features: dict[str, Tensor]
    logits: Tensor  # (N, K, h, w)
    stride: int
    size: Size  # (H, W) of the images


def crop(maps: Tensor, size: Size) -> Tensor:
    """The upper left part of maps (..., H, W)."""
    height, width = size
    if not torch.compiler.is_compiling():
        return maps[..., :height, :width]
    # A graph would record, for the size it is traced with, whether the slice covers everything.
    rows, columns = torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
    return maps.index_select(-2, rows).index_select(-1, columns)


def render_coarse(
    head: SemanticPointRend, features: dict[str, Tensor], coarse: Tensor, stride: int, points_per_step: int
) -> Tensor:
    """Subdivides a coarse prediction to every pixel of its extent: (N, K, h, w) of stride s to (N, K, h s, w s).

    Args:
        head: the point head and the level of its fine features.
        features: the backbone's.
        coarse: logits of stride ``stride``.
        stride: s, a power of two.
        points_per_step: the most points that a step predicts.

    Raises:
        ValueError: if the fine features hold NaN or infinity.
    """
    check_finite({f"feature map {head.fine_level!r}": features[head.fine_level]})
    height, width = coarse.shape[-2:]
    factors = [2**step for step in range(1, stride.bit_length())]
    return subdivide(
        coarse,
        lambda points: head.point_logits(features, coarse, stride, points),
        class_uncertainty,
        [(factor * height, factor * width) for factor in factors],
        points_per_step,
    )


def coarse_prediction(model: SemanticSegmenter, batch: ImageList) -> CoarsePrediction:
    """:meth:`SemanticSegmenter.coarse_prediction` of a batch."""
    features, coarse = model.coarse_logits(batch)
    check_finite({"the coarse prediction": coarse})
    return CoarsePrediction(features, coarse, model.head.stride, batch.image_sizes[0])


def render(model: SemanticSegmenter, coarse: CoarsePrediction, points_per_step: int | None) -> Tensor:
    """:meth:`SemanticSegmenter.render`."""
    if model.pointrend is None:
        logits = upsample(coarse.logits, extent_of(coarse.logits, coarse.stride))
    else:
        num_points = points_per_step or model.pointrend.points_per_step
        logits = render_coarse(model.pointrend, coarse.features, coarse.logits, coarse.stride, num_points)
    return crop(logits, coarse.size)


def predict(model: SemanticSegmenter, images: list[Tensor]) -> list[Tensor]:
    """``model(images)`` in evaluation: logits (K, H, W) of each image."""
    normalised = model.transform.normalised(images)
    if all(image.shape == normalised[0].shape for image in normalised):
        batches = [model.transform.batch(normalised)]
    else:
        batches = [model.transform.batch([image]) for image in normalised]
    return [logits for batch in batches for logits in render(model, coarse_prediction(model, batch), None)]
