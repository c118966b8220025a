"""Instance segmentation: Mask R-CNN with the 4xconv or the PointRend mask head (Section 4).

Shape letters: N images, R regions, G ground-truth objects, C channels, K classes, P points, M the side of a region
mask, H W rows and columns. Boxes are xyxy in pixels; labels count from 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, roi_align

from pointrend.detector import BoxHeads, Features, ProposalNetwork, Regions, Target, pool_regions, split_like
from pointrend.finite import check_finite
from pointrend.heads import CoarseMaskHead, FourConvHead, PointHead
from pointrend.paste import paste_masks
from pointrend.points import (
    Size,
    grid_points,
    mask_uncertainty,
    points_in_image,
    sample_features,
    sample_masks,
    select_training_points,
    subdivide,
    subdivision_sizes,
)
from pointrend.rendering import render_regions
from pointrend.specs import COARSE_SIDE, FOUR_CONV_SIDE, PointSampling, Rendering
from pointrend.transform import ImageTransform, rescale_boxes


@dataclass
class Detections:
    """What the detector found in N images, in pixels of the network's input. One list entry per image."""

    features: Features
    boxes: list[Tensor]  # (R, 4)
    labels: list[Tensor]  # (R,)
    scores: list[Tensor]  # (R,)
    input_sizes: list[Size]
    original_sizes: list[Size]

    def original_boxes(self) -> list[Tensor]:
        """The boxes in pixels of the images as they were given, and inside them: N tensors (R, 4)."""
        return [
            clip_boxes_to_image(rescale_boxes(boxes, source, target), target)
            for boxes, source, target in zip(self.boxes, self.input_sizes, self.original_sizes, strict=True)
        ]


def class_indices(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (R,) from 1 to classes (R,) from 0; where there is one mask for all classes (K = 1), it is everyone's."""
    return labels - 1 if num_classes > 1 else torch.zeros_like(labels)


def own_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of each region's own class: (R, K, ...) and labels (R,) from 1 to (R, 1, ...)."""
    classes = class_indices(labels, logits.shape[1])
    return logits[torch.arange(labels.shape[0], device=logits.device), classes].unsqueeze(1)


def mean_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy; zero, still attached to the graph, where there is nothing to average."""
    if not logits.numel():
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


def crop_masks(masks: Tensor, indices: Tensor, boxes: Tensor, size: Size, side: int) -> Tensor:
    """Ground truth on each region's own grid: what share of a cell the object covers, thresholded at one half.

    Args:
        masks: (G, H, W) bool, at any resolution: ``size`` relates them to the boxes.
        indices: (R,) the object of each region.
        boxes: (R, 4) in pixels of an image of size ``size``.
        side: M.

    Returns:
        (R, M, M) of zeros and ones.
    """
    height, width = masks.shape[-2:]
    rois = torch.cat((indices[:, None].to(boxes.dtype), rescale_boxes(boxes, size, (height, width))), dim=1)
    return (roi_align(masks[:, None].float(), rois.float(), side, aligned=True)[:, 0] >= 0.5).float()


def crop_all_masks(targets: list[Target], regions: Regions, boxes: list[Tensor], side: int) -> Tensor:
    """:func:`crop_masks` over N images: (R summed over images, M, M)."""
    return torch.cat(
        [
            crop_masks(target["masks"], indices, image_boxes, tuple(target["size"].tolist()), side)
            for target, indices, image_boxes in zip(targets, regions.targets, boxes, strict=True)
        ]
    )


class FourConvMaskHead(nn.Module):
    """Mask R-CNN's default mask branch: RoIAlign 14x14 from the fitting level, 28x28 masks out."""

    pooled_size = FOUR_CONV_SIDE // 2

    def __init__(self, in_channels: int, num_classes: int, channels: int = 256, sampling_ratio: int = 0) -> None:
        super().__init__()
        self.sampling_ratio = sampling_ratio
        self.head = FourConvHead(in_channels, num_classes, channels)

    def losses(self, features: Features, regions: Regions, targets: list[Target]) -> dict[str, Tensor]:
        """{"loss_mask"}: the average cross-entropy of the mask of each proposal's class."""
        logits = self.logits(features, regions.proposals, regions.labels, None)
        wanted = crop_all_masks(targets, regions, regions.proposals, logits.shape[-1])
        return {"loss_mask": mean_bce(logits[:, 0], wanted)}

    def logits(
        self, features: Features, boxes: list[Tensor], labels: list[Tensor], rendering: Rendering | None
    ) -> Tensor:
        """Mask logits of each region's class: (R summed over images, 1, 28, 28).

        Raises:
            ValueError: if ``rendering`` asks for another resolution than the head's own.
        """
        side = FOUR_CONV_SIDE
        if rendering is not None and rendering.resolution != side:
            raise ValueError(f"the 4xconv head predicts {side}x{side} masks, not {rendering.resolution}")
        pooled = pool_regions(features, boxes, self.pooled_size, self.sampling_ratio)
        return self.head.forward_class(pooled, class_indices(torch.cat(labels), self.head.num_classes))


class PointRendMaskHead(nn.Module):
    """PointRend's mask branch: a coarse 7x7 mask from P2, refined point by point with features of P2.

    It trains on *predicted* boxes, as a cascade, where the 4xconv head trains on proposals (Section 4,
    "Training").
    """

    pooled_size = 2 * COARSE_SIDE
    fine_level, fine_stride = "p2", 4

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        sampling: PointSampling,
        rendering: Rendering,
        coarse_channels: int = 256,
        coarse_hidden: int = 1024,
        point_channels: int = 256,
        point_layers: int = 3,
    ) -> None:
        super().__init__()
        self.sampling, self.rendering = sampling, rendering
        self.coarse_head = CoarseMaskHead(
            in_channels, num_classes, self.pooled_size // 2, coarse_channels, coarse_hidden
        )
        self.point_head = PointHead(in_channels, num_classes, point_channels, point_layers)

    def fine_features(self, features: Features, boxes: list[Tensor], points: Tensor) -> Tensor:
        """Fine-grained features of P2 at points (R, P, 2) of all images' boxes: (R, C, P)."""
        fine = features[self.fine_level]
        height, width = (cells * self.fine_stride for cells in fine.shape[-2:])
        sampled = []
        for feature, image_boxes, image_points in zip(fine, boxes, split_like(points, boxes), strict=True):
            columns, rows = points_in_image(image_points, image_boxes).unbind(-1)
            located = torch.stack((columns / width, rows / height), dim=-1)
            # All regions of an image read the same map: one lookup with R P points, no copy per region.
            flat = sample_features(feature[None], located.view(1, -1, 2))[0]
            sampled.append(flat.unflatten(1, located.shape[:2]).transpose(0, 1))
        return torch.cat(sampled)

    def coarse_logits(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """The coarse prediction: (R, K, 7, 7)."""
        size = (self.pooled_size, self.pooled_size)
        regions = sum(image_boxes.shape[0] for image_boxes in boxes)
        points = grid_points(size, boxes[0].device).expand(regions, -1, -1)
        return self.coarse_head(self.fine_features(features, boxes, points).unflatten(2, size))

    def point_logits(self, features: Features, boxes: list[Tensor], coarse: Tensor, points: Tensor) -> Tensor:
        """Predictions at points (R, P, 2) given the coarse prediction (R, K, 7, 7): (R, K, P)."""
        return self.point_head(self.fine_features(features, boxes, points), sample_features(coarse, points))

    def losses(self, features: Features, regions: Regions, targets: list[Target]) -> dict[str, Tensor]:
        """{"loss_mask", "loss_mask_point"}: mean cross-entropy of the coarse mask and of the points, unweighted."""
        boxes, labels = regions.predicted, torch.cat(regions.labels)
        coarse = self.coarse_logits(features, boxes)
        wanted = crop_all_masks(targets, regions, boxes, coarse.shape[-1])
        points = select_training_points(
            own_class(coarse, labels).detach().float(), self.sampling, lambda logits: mask_uncertainty(logits[:, 0])
        )
        with torch.no_grad():
            wanted_points = torch.cat(
                [
                    sample_masks(
                        target["masks"],
                        indices,
                        points_in_image(image_points, image_boxes) / target["size"].flip(0).to(points.dtype),
                    )
                    for target, indices, image_boxes, image_points in zip(
                        targets, regions.targets, boxes, split_like(points, boxes), strict=True
                    )
                ]
            )
        logits = self.point_logits(features, boxes, coarse, points)
        return {
            "loss_mask": mean_bce(own_class(coarse, labels)[:, 0], wanted),
            "loss_mask_point": mean_bce(own_class(logits, labels)[:, 0], wanted_points),
        }

    def logits(
        self, features: Features, boxes: list[Tensor], labels: list[Tensor], rendering: Rendering | None
    ) -> Tensor:
        """Mask logits of each region's class, rendered by subdivision: (R summed over images, 1, M, M).

        No gradient flows. Under ``torch.autocast`` the heads compute in its type, bfloat16 for one; where the points
        lie and which are chosen is still decided in the type of the boxes.

        Raises:
            ValueError: if the resolution is not the coarse side doubled some number of times, or if P2 or a box holds
                NaN or infinity.
        """
        rendering = rendering or self.rendering
        side, resolution = self.coarse_head.side, rendering.resolution
        sizes = subdivision_sizes((side, side), (resolution, resolution))
        if resolution != side * 2 ** len(sizes):
            raise ValueError(
                f"resolution is {resolution}, expected {side} doubled: {side}, {2 * side}, {4 * side}, ..."
            )
        if torch.compiler.is_compiling():
            # A graph has room for any number of regions where there is no loop over them.
            return self.logits_layer_by_layer(features, boxes, labels, sizes, rendering.num_points)
        return self._render(features, boxes, labels, sizes, rendering.num_points)

    def logits_layer_by_layer(
        self, features: Features, boxes: list[Tensor], labels: list[Tensor], sizes: list[Size], num_points: int
    ) -> Tensor:
        """The logits (R, 1, M, M) as the layers are defined: what :meth:`logits` computes sooner."""
        classes = torch.cat(labels)
        coarse = self.coarse_logits(features, boxes)
        return subdivide(
            own_class(coarse, classes),
            lambda points: own_class(self.point_logits(features, boxes, coarse, points), classes),
            lambda logits: mask_uncertainty(logits[:, 0]),
            sizes,
            num_points,
        )

    @torch.no_grad()
    def _render(
        self, features: Features, boxes: list[Tensor], labels: list[Tensor], sizes: list[Size], num_points: int
    ) -> Tensor:
        fine = features[self.fine_level].to(boxes[0].dtype)
        check_finite(f"feature map {self.fine_level!r}", fine)
        check_finite("boxes", torch.cat(boxes))
        device = fine.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else fine.dtype
        coarse = self.coarse_logits({self.fine_level: fine}, boxes).to(fine.dtype)
        classes = class_indices(torch.cat(labels), coarse.shape[1])
        return torch.cat(
            [
                render_regions(
                    self.point_head,
                    feature,
                    image_boxes / self.fine_stride,
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


class MaskRCNN(nn.Module):
    """Mask R-CNN with either mask head, under torchvision's detection convention.

    In training, ``model(images, targets)`` returns a dict of losses; images come at their final size, and each
    target has ``boxes`` (G, 4) in pixels of its image, ``labels`` (G,) int64 from 1 and ``masks`` (G, H, W) bool
    *at any resolution*: the ground truth is sampled where it is needed, never resized.

    In evaluation, ``model(images)`` returns one dict per image: ``boxes`` (R, 4), ``labels`` (R,), ``scores`` (R,),
    ``masks`` (R, 1, H, W) in [0, 1] on the image's pixels, and ``region_masks`` (R, 1, M, M), the same before they
    are pasted. :meth:`detect` and :meth:`region_masks` are the two halves of it, to render one detector pass at
    several resolutions.
    """

    def __init__(
        self,
        transform: ImageTransform,
        backbone: nn.Module,
        rpn: ProposalNetwork,
        roi_heads: BoxHeads,
        mask_head: FourConvMaskHead | PointRendMaskHead,
    ) -> None:
        super().__init__()
        self.transform = transform
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.mask_head = mask_head

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self._predict(images)
        if targets is None:
            raise ValueError("training needs targets: model(images, targets)")
        return self._losses(images, targets)

    def _losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        batch = self.transform(images)
        targets = [
            {**target, "size": torch.tensor(size, device=batch.tensors.device)}
            for target, size in zip(targets, batch.image_sizes, strict=True)
        ]
        features = self.backbone(batch.tensors)
        proposals, losses = self.rpn(batch, features, targets)
        regions, box_losses = self.roi_heads.train_step(features, proposals, targets)
        return {**losses, **box_losses, **self.mask_head.losses(features, regions, targets)}

    def detect(self, images: list[Tensor]) -> Detections:
        """The detector's pass: boxes, labels and scores of N images (3, H, W), and the features to render from.

        Raises:
            ValueError: if an image or a feature map is not finite; the message names it.
        """
        batch = self.transform(images)
        features = self.backbone(batch.tensors)
        for name, feature in features.items():
            check_finite(f"feature map {name!r}", feature)
        proposals, _ = self.rpn(batch, features)
        boxes, scores, labels = self.roi_heads.detect(features, proposals, batch.image_sizes)
        original_sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        return Detections(features, boxes, labels, scores, batch.image_sizes, original_sizes)

    def region_masks(self, detections: Detections, rendering: Rendering | None = None) -> list[Tensor]:
        """Mask probabilities inside the detected boxes: N tensors (R, 1, M, M).

        Args:
            detections: from :meth:`detect`.
            rendering: PointRend's output resolution and points per step; the head's own by default.
        """
        logits = self.mask_head.logits(detections.features, detections.boxes, detections.labels, rendering)
        return split_like(logits.float().sigmoid(), detections.boxes)

    def _predict(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = self.detect(images)
        return [
            {
                "boxes": boxes,
                "labels": labels,
                "scores": scores,
                "masks": paste_masks(region_masks, boxes, size),
                "region_masks": region_masks,
            }
            for boxes, labels, scores, size, region_masks in zip(
                found.original_boxes(),
                found.labels,
                found.scores,
                found.original_sizes,
                self.region_masks(found),
                strict=True,
            )
        ]
