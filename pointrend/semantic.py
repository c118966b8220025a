"""Semantic segmentation: DeepLabV3 or SemanticFPN, alone or with PointRend (Section 5, Appendix B).

This module defines the networks and their losses. Inference is in :mod:`pointrend.semantic_inference`, which is
imported on use: training does not depend on it.

Shape letters: N images, C channels, K classes, P points, H W rows and columns. A map of stride s has h x w cells and
covers an extent of (w s, h s) pixels, which may reach beyond the image. Points are (x, y) in [0, 1] of the extent of
the coarse prediction.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from pointrend.backbones import DilatedResNet
from pointrend.heads import PointHead
from pointrend.points import Size, class_uncertainty, sample_features, select_training_points, upsample
from pointrend.semantic_heads import DeepLabV3Head, SemanticFPNHead
from pointrend.specs import IGNORE_LABEL, PointSampling
from pointrend.transform import ImageTransform

if TYPE_CHECKING:
    from pointrend.metadata import ModelMetadata
    from pointrend.semantic_inference import CoarsePrediction

#: Training samples as many points as a map of this stride has (Section 5).
SAMPLING_STRIDE = 16


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labels that are not 255; of none it is zero, with a gradient of zero.

    Args:
        logits: (N, K, ...).
        labels: (N, ...) int64, a class or 255.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_LABEL, reduction="sum")
    return total / (labels != IGNORE_LABEL).sum().clamp(min=1)


def extent_of(features: Tensor, stride: int) -> Size:
    """The pixels (H, W) that a map (N, C, h, w) of that stride covers."""
    return features.shape[-2] * stride, features.shape[-1] * stride


def sample_labels(labels: Tensor, points: Tensor) -> Tensor:
    """The labels (N, P) of the pixels that points lie in: labels (N, H, W), points (N, P, 2) in pixels."""
    height, width = labels.shape[-2:]
    columns, rows = points[..., 0].long().clamp(0, width - 1), points[..., 1].long().clamp(0, height - 1)
    return labels.flatten(1).gather(1, rows * width + columns)


class SemanticPointRend(nn.Module):
    """PointRend for a semantic model, whose output is the coarse prediction; fine features are res2 or P2 (Section 5).

    Args:
        fine_level: "res2" or "p2".
        in_channels: C of that level.
        num_classes: K.
        sampling: training points; ``num_points`` None for as many as a stride-16 map of the batch has.
        points_per_step: N, the most points that a subdivision step predicts at inference.
        channels: of the point head.
        num_layers: its hidden layers.
        coarse_each_layer: give the coarse prediction to every layer of the point head instead of the first only.
    """

    fine_stride = 4

    def __init__(
        self,
        fine_level: str,
        in_channels: int,
        num_classes: int,
        *,
        sampling: PointSampling,
        points_per_step: int,
        channels: int = 256,
        num_layers: int = 3,
        coarse_each_layer: bool = True,
    ) -> None:
        super().__init__()
        self.fine_level, self.sampling, self.points_per_step = fine_level, sampling, points_per_step
        self.point_head = PointHead(in_channels, num_classes, channels, num_layers, coarse_each_layer=coarse_each_layer)

    def point_logits(self, features: dict[str, Tensor], coarse: Tensor, stride: int, points: Tensor) -> Tensor:
        """Predictions (N, K, P) at points (N, P, 2), given the coarse prediction (N, K, h, w) of that stride."""
        fine = features[self.fine_level]
        extent, fine_extent = extent_of(coarse, stride), extent_of(fine, self.fine_stride)
        columns, rows = points.unbind(-1)
        located = torch.stack((columns * (extent[1] / fine_extent[1]), rows * (extent[0] / fine_extent[0])), dim=-1)
        # Half precision features are sampled in float32 and converted back.
        return self.point_head(
            sample_features(fine, located).to(fine.dtype), sample_features(coarse, points).to(coarse.dtype)
        )

    def loss(
        self, features: dict[str, Tensor], coarse: Tensor, stride: int, labels: Tensor, sizes: list[Size]
    ) -> Tensor:
        """The mean cross-entropy of the training points, without those on label 255.

        Args:
            features: the backbone's.
            coarse: (N, K, h, w) logits of stride ``stride``.
            labels: (N, H, W) int64, 255 where unknown or beyond an image.
            sizes: of the N images; points are drawn within them.
        """
        sampling = self.sampling
        if sampling.num_points is None:
            rows, columns = (-(-side // SAMPLING_STRIDE) for side in labels.shape[-2:])
            sampling = replace(sampling, num_points=rows * columns)
        # As (x, y), like the points.
        extent = coarse.new_tensor(extent_of(coarse, stride)[::-1], dtype=torch.float32)
        images = coarse.new_tensor([size[::-1] for size in sizes], dtype=torch.float32) / extent
        points = select_training_points(coarse.detach().float(), sampling, class_uncertainty, images)
        logits = self.point_logits(features, coarse, stride, points)
        return mean_cross_entropy(logits, sample_labels(labels, points * extent))


class SemanticSegmenter(nn.Module):
    """A semantic segmentation model.

    In training, ``model(images, targets)`` returns a dict of losses, ``loss_semantic`` and with PointRend
    ``loss_semantic_point``. Each target has ``labels`` (H, W) int64 at its image's size, 255 where unknown.

    In evaluation, ``model(images)`` returns a list of logits (K, H, W), each at its image's size. They do not depend on
    the other images of the call: images run as one batch only if all have the same size.

    Images are float (3, H, W), RGB in [0, 1], of any size; they are never resized.

    ``metadata`` says what the model is, if :func:`pointrend.build_model` built it.
    """

    metadata: "ModelMetadata | None" = None

    def __init__(
        self,
        transform: ImageTransform,
        backbone: nn.Module,
        head: DeepLabV3Head | SemanticFPNHead,
        num_classes: int,
        pointrend: SemanticPointRend | None = None,
    ) -> None:
        super().__init__()
        self.transform = transform
        self.backbone = backbone
        self.head = head
        self.num_classes = num_classes
        self.pointrend = pointrend

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Tensor]:
        if not self.training:
            from pointrend.semantic_inference import predict

            return predict(self, images)
        if targets is None:
            raise ValueError("training needs targets: model(images, targets)")
        return self._losses(images, targets)

    def set_output_stride(self, output_stride: int) -> None:
        """DeepLabV3 at stride 16, or at 8 with res4 dilated too, with the same weights (Table 6).

        Raises:
            ValueError: for another stride, or a model other than DeepLabV3.
        """
        if not isinstance(self.backbone, DilatedResNet) or not isinstance(self.head, DeepLabV3Head):
            raise ValueError("only DeepLabV3 has an output stride to set")
        self.backbone.set_output_stride(output_stride)
        self.head.aspp.set_output_stride(output_stride)

    def coarse_logits(self, batch: ImageList) -> tuple[dict[str, Tensor], Tensor]:
        """The backbone's features and the head's logits (N, K, h, w), of stride ``self.head.stride``."""
        features = self.backbone(batch.tensors)
        return features, self.head(features)

    def _padded_labels(self, targets: list[dict[str, Tensor]], batch: ImageList) -> Tensor:
        """The labels of a batch, 255 beyond each image: (N, H, W)."""
        height, width = batch.tensors.shape[-2:]
        padded = torch.full((len(targets), height, width), IGNORE_LABEL, dtype=torch.int64, device=batch.tensors.device)
        for index, (target, size) in enumerate(zip(targets, batch.image_sizes, strict=True)):
            labels = target["labels"]
            if labels.dtype != torch.int64 or tuple(labels.shape) != size:
                raise ValueError(
                    f"labels of image {index} are {labels.dtype} of shape {tuple(labels.shape)}, expected int64 of "
                    f"the image's size {size}"
                )
            padded[index, : size[0], : size[1]] = labels
        invalid = padded[((padded < 0) | (padded >= self.num_classes)) & (padded != IGNORE_LABEL)]
        if len(invalid):
            raise ValueError(
                f"the labels hold {int(invalid[0])}, expected classes 0 to {self.num_classes - 1}, or {IGNORE_LABEL} "
                "where unknown"
            )
        return padded

    def _losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = self.transform(images)
        labels = self._padded_labels(targets, batch)
        features, coarse = self.coarse_logits(batch)
        height, width = labels.shape[-2:]
        extent = extent_of(coarse, self.head.stride)
        dense = upsample(coarse.float(), extent)
        losses = {"loss_semantic": mean_cross_entropy(dense[..., :height, :width], labels)}
        if self.pointrend is not None:
            losses["loss_semantic_point"] = self.pointrend.loss(
                features, coarse, self.head.stride, labels, batch.image_sizes
            )
        return losses

    def coarse_prediction(self, images: list[Tensor]) -> "CoarsePrediction":
        """The coarse prediction for N images (3, H, W) of one size, RGB in [0, 1], which :meth:`render` takes.

        Raises:
            ValueError: if an image is not a finite float tensor (3, H, W), or the prediction is not finite.
        """
        from pointrend.semantic_inference import coarse_prediction

        return coarse_prediction(self, self.transform(images))

    def render(self, coarse: "CoarsePrediction", points_per_step: int | None = None) -> Tensor:
        """Logits (N, K, H, W) at the images' size.

        Args:
            coarse: from :meth:`coarse_prediction`.
            points_per_step: N of PointRend, the most points that a subdivision step predicts; by default the model's.
        """
        from pointrend.semantic_inference import render

        return render(self, coarse, points_per_step)
