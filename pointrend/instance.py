"""Instance segmentation: Mask R-CNN with the 4xconv or the PointRend mask head (Section 4).

This module defines the networks and their losses. Inference is in :mod:`pointrend.instance_inference` and
:mod:`pointrend.rendering`, which are imported on use: training does not depend on them.

Shape letters: N images, R regions, G ground-truth objects, C channels, K classes, P points, M the side of a region
mask, H W rows and columns. Boxes are xyxy in pixels; labels count from 1.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from pointrend.detector import BoxHeads, ProposalNetwork, Regions, Target, split_like
from pointrend.heads import CoarseMaskHead, FourConvHead, PointHead
from pointrend.points import (
    Size,
    grid_points,
    mask_uncertainty,
    points_in_image,
    repeat_rows,
    sample_features,
    sample_masks,
    select_training_points,
)
from pointrend.pooling import Features, pool_regions
from pointrend.specs import COARSE_SIDE, FOUR_CONV_SIDE, PointSampling, Rendering
from pointrend.transform import ImageTransform

if TYPE_CHECKING:
    from pointrend.instance_inference import Detections
    from pointrend.metadata import ModelMetadata


def class_indices(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (R,) from 1 to classes (R,) from 0; all 0 if there is one mask for all classes (K = 1)."""
    return labels - 1 if num_classes > 1 else torch.zeros_like(labels)


def select_class_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of each region's class: (R, K, ...) and labels (R,) from 1 to (R, 1, ...)."""
    classes = class_indices(labels, logits.shape[1])
    return logits[torch.arange(labels.shape[0], device=logits.device), classes].unsqueeze(1)


def mean_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy; of no elements it is zero, with a gradient of zero."""
    if not logits.numel():
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


def crop_masks(masks: list[Tensor], indices: list[Tensor], boxes: list[Tensor], sizes: list[Size], side: int) -> Tensor:
    """Ground-truth masks on the regions' grids: a cell is 1 if the object covers at least half of it.

    Args:
        masks: (G, H, W) bool of each image, at any resolution: they cover the same image as the boxes.
        indices: (R,) of each image, the object of each region.
        boxes: (R, 4) of each image, in pixels.
        sizes: of each image that the boxes are in.
        side: M.

    Returns:
        (R summed over images, M, M) of zeros and ones.
    """
    flat = torch.cat(boxes).float()
    scales = [
        [of_image.shape[-1] / width, of_image.shape[-2] / height]
        for of_image, (height, width) in zip(masks, sizes, strict=True)
    ]
    rois = flat * repeat_rows(flat.new_tensor(scales), boxes).repeat(1, 2)
    rois = torch.cat((torch.cat(indices)[:, None], rois), dim=1)
    crops = [
        roi_align(of_image[:, None].float(), image_rois, side, aligned=True)
        for of_image, image_rois in zip(masks, split_like(rois, boxes), strict=True)
    ]
    return (torch.cat(crops)[:, 0] >= 0.5).float()


class FourConvMaskHead(nn.Module):
    """Mask R-CNN's default mask branch: RoIAlign 14x14 from the pyramid level of a box's size, 28x28 masks out.

    With another ``side`` of its masks, which is even, it pools features half as wide (Section 4.1 compares 56x56).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        sampling_ratio: int = 0,
        side: int = FOUR_CONV_SIDE,
    ) -> None:
        super().__init__()
        self.sampling_ratio, self.side, self.pooled_size = sampling_ratio, side, side // 2
        self.head = FourConvHead(in_channels, num_classes, channels)

    def losses(self, features: Features, regions: Regions, masks: list[Tensor], sizes: list[Size]) -> dict[str, Tensor]:
        """{"loss_mask"}: the mean cross-entropy of the masks of the proposals' classes.

        Args:
            features: of the batch.
            regions: to train on.
            masks: (G, H, W) bool, the ground truth of each image at any resolution.
            sizes: of each image, in pixels of the boxes.
        """
        logits = self.logits(features, regions.proposals, regions.labels, None)
        target_masks = crop_masks(masks, regions.targets, regions.proposals, sizes, logits.shape[-1])
        return {"loss_mask": mean_bce(logits[:, 0], target_masks)}

    def logits(
        self, features: Features, boxes: list[Tensor], labels: list[Tensor], rendering: Rendering | None
    ) -> Tensor:
        """Mask logits of each region's class: (R summed over images, 1, 28, 28), or of another side.

        Raises:
            ValueError: if ``rendering`` asks for another resolution than the head's own.
        """
        if rendering is not None and rendering.resolution != self.side:
            raise ValueError(f"the 4xconv head predicts {self.side}x{self.side} masks, not {rendering.resolution}")
        pooled = pool_regions(features, boxes, self.pooled_size, self.sampling_ratio)
        return self.head.forward_class(pooled, class_indices(torch.cat(labels), self.head.num_classes))


class PointRendMaskHead(nn.Module):
    """PointRend's mask branch: a coarse 7x7 mask from P2, refined point by point with features of P2.

    It trains on *predicted* boxes, as a cascade, where the 4xconv head trains on proposals (Section 4,
    "Training"); with ``cascade=False``, on proposals too.
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
        cascade: bool = True,
        coarse_channels: int = 256,
        coarse_hidden: int = 1024,
        point_channels: int = 256,
        point_layers: int = 3,
    ) -> None:
        super().__init__()
        self.sampling, self.rendering, self.cascade = sampling, rendering, cascade
        self.coarse_head = CoarseMaskHead(
            in_channels, num_classes, self.pooled_size // 2, coarse_channels, coarse_hidden
        )
        self.point_head = PointHead(in_channels, num_classes, point_channels, point_layers)

    def fine_features(self, features: Features, boxes: list[Tensor], points: Tensor) -> Tensor:
        """Fine-grained features of P2 at points (R, P, 2) of all images' boxes: (R, C, P)."""
        fine = features[self.fine_level]
        height, width = (cells * self.fine_stride for cells in fine.shape[-2:])
        columns, rows = points_in_image(points, torch.cat(boxes)).unbind(-1)
        located = torch.stack((columns / width, rows / height), dim=-1)
        sampled = []
        for feature, image_points in zip(fine, split_like(located, boxes), strict=True):
            # All regions of an image read the same map: one call with R P points needs no copy of it per region.
            flat = sample_features(feature[None], image_points.view(1, -1, 2))[0]
            sampled.append(flat.unflatten(1, image_points.shape[:2]).transpose(0, 1))
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

    def losses(self, features: Features, regions: Regions, masks: list[Tensor], sizes: list[Size]) -> dict[str, Tensor]:
        """{"loss_mask", "loss_mask_point"}: mean cross-entropy of the coarse mask and of the points, unweighted.

        The arguments are those of :meth:`FourConvMaskHead.losses`.
        """
        boxes, labels = regions.predicted if self.cascade else regions.proposals, torch.cat(regions.labels)
        coarse = self.coarse_logits(features, boxes)
        target_masks = crop_masks(masks, regions.targets, boxes, sizes, coarse.shape[-1])
        points = select_training_points(
            select_class_logits(coarse, labels).detach().float(),
            self.sampling,
            lambda logits: mask_uncertainty(logits[:, 0]),
        )
        extents = repeat_rows(points.new_tensor([(width, height) for height, width in sizes]), boxes)
        located = points_in_image(points, torch.cat(boxes)) / extents[:, None]
        target_points = sample_masks(masks, regions.targets, located)
        logits = self.point_logits(features, boxes, coarse, points)
        return {
            "loss_mask": mean_bce(select_class_logits(coarse, labels)[:, 0], target_masks),
            "loss_mask_point": mean_bce(select_class_logits(logits, labels)[:, 0], target_points),
        }

    def logits(
        self, features: Features, boxes: list[Tensor], labels: list[Tensor], rendering: Rendering | None
    ) -> Tensor:
        """Mask logits of each region's class, rendered by subdivision: (R summed over images, 1, M, M).

        No gradient flows. Under ``torch.autocast`` the heads compute in its type, such as bfloat16; points are placed
        and chosen in the type of the boxes.

        Raises:
            ValueError: if the resolution is not 7, 14, 28, ... (7 doubled any number of times), or if P2 or a box
                holds NaN or infinity.
        """
        from pointrend.rendering import mask_logits

        return mask_logits(self, features, boxes, labels, rendering or self.rendering)


class MaskRCNN(nn.Module):
    """Mask R-CNN with either mask head, under torchvision's detection convention.

    In training, ``model(images, targets)`` returns a dict of losses; images come at their final size, and each
    target has ``boxes`` (G, 4) in pixels of its image, ``labels`` (G,) int64 from 1 and ``masks`` (G, H, W) bool
    *at any resolution*: the ground truth is sampled, never resized.

    In evaluation, ``model(images)`` returns one dict per image: ``boxes`` (R, 4), ``labels`` (R,), ``scores`` (R,),
    ``masks`` (R, 1, H, W) in [0, 1] on the image's pixels, and ``region_masks`` (R, 1, M, M), the same before they
    are pasted. :meth:`detect` and :meth:`region_masks` do this in two steps, to render one detector pass at several
    resolutions.

    ``metadata`` says what the model is, if :func:`pointrend.build_model` built it.
    """

    metadata: "ModelMetadata | None" = None

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
        self.detector_is_frozen = False

    def freeze_detector(self) -> None:
        """Trains nothing but the mask head from now on: losses are those of the mask head, on the detector's regions.

        A detector that does not change needs no backward pass, which is most of the time of a small network's update.
        """
        for module in (self.backbone, self.rpn, self.roi_heads):
            module.requires_grad_(False)
        self.detector_is_frozen = True

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            from pointrend.instance_inference import predict

            return predict(self, images)
        if targets is None:
            raise ValueError("training needs targets: model(images, targets)")
        return self._losses(images, targets)

    def _losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        batch = self.transform(images)
        features = self.backbone(batch.tensors)
        if self.detector_is_frozen:
            losses: dict[str, Tensor] = {}
            regions = self.roi_heads.foreground(features, self.rpn.propose(batch, features), targets)
        else:
            proposals, losses = self.rpn(batch, features, targets)
            regions, box_losses = self.roi_heads.train_step(features, proposals, targets)
            losses |= box_losses
        masks = [target["masks"] for target in targets]
        return {**losses, **self.mask_head.losses(features, regions, masks, batch.image_sizes)}

    def detect(self, images: list[Tensor]) -> "Detections":
        """The detector's pass: boxes, labels and scores of N images (3, H, W), and the features to render from.

        Raises:
            ValueError: if an image or a feature map is not finite; the message names it.
        """
        from pointrend.instance_inference import detect

        return detect(self, images)

    def region_masks(self, detections: "Detections", rendering: Rendering | None = None) -> list[Tensor]:
        """Mask probabilities inside the detected boxes: N tensors (R, 1, M, M).

        Args:
            detections: from :meth:`detect`.
            rendering: PointRend's output resolution and points per step; by default those of the model.
        """
        from pointrend.instance_inference import region_masks

        return region_masks(self, detections, rendering)
