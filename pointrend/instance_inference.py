"""Inference of instance models: detections, their masks inside the boxes, and masks on the image.

Shape letters: N images, R regions, K classes, M the side of a region mask, H W rows and columns. Boxes are xyxy in
pixels; labels count from 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from pointrend.detector import BoxHeads, nms_per_group, split_like
from pointrend.finite import check_finite
from pointrend.instance import MaskRCNN
from pointrend.paste import paste_masks
from pointrend.points import Size
from pointrend.pooling import Features
from pointrend.specs import Rendering
from pointrend.transform import rescale_boxes


@dataclass
class Detections:
    """The detections in N images, in pixels of the network's input. One list entry per image."""

    features: Features  # of the batch, to predict masks from
    boxes: list[Tensor]  # (R, 4)
    labels: list[Tensor]  # (R,)
    scores: list[Tensor]  # (R,)
    input_sizes: list[Size]
    original_sizes: list[Size]

    def original_boxes(self) -> list[Tensor]:
        """The boxes in pixels of the original images, clipped to them: N tensors (R, 4)."""
        return [
            clip_boxes_to_image(rescale_boxes(boxes, source, target), target)
            for boxes, source, target in zip(self.boxes, self.input_sizes, self.original_sizes, strict=True)
        ]


def detect_boxes(
    heads: BoxHeads, features: Features, proposals: list[Tensor], image_sizes: list[Size]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Boxes (R, 4), scores (R,) and labels (R,) of each image, best first."""
    logits, deltas = heads.predict(features, proposals)
    boxes = heads.box_coder.decode_single(deltas.float(), torch.cat(proposals)).unflatten(1, (-1, 4))
    image_boxes = split_like(boxes, proposals)
    image_scores = split_like(logits.float().softmax(dim=1), proposals)
    detected = [_select_detections(heads, *image) for image in zip(image_boxes, image_scores, image_sizes, strict=True)]
    found_boxes, found_scores, found_labels = zip(*detected, strict=True)
    return list(found_boxes), list(found_scores), list(found_labels)


def _select_detections(heads: BoxHeads, boxes: Tensor, scores: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """One image's detections from boxes (R, K + 1, 4) and probabilities (R, K + 1), background first."""
    finite = boxes.isfinite().all(dim=2).all(dim=1) & scores.isfinite().all(dim=1)
    scores = torch.where(finite[:, None], scores, 0)
    region, label = torch.where(scores[:, 1:] > heads.score_thresh)
    label = label + 1
    boxes, scores = clip_boxes_to_image(boxes[region, label], size), scores[region, label]
    kept = nms_per_group(label, boxes, scores, heads.nms_thresh)[: heads.detections_per_img]
    # Only now: as in Detectron2, a box that clipping left without area still counts towards the limit per image.
    kept = kept[(boxes[kept, 2:] > boxes[kept, :2]).all(dim=1)]
    return boxes[kept], scores[kept], label[kept]


def detect(model: MaskRCNN, images: list[Tensor]) -> Detections:
    """:meth:`MaskRCNN.detect`."""
    batch = model.transform(images)
    features = model.backbone(batch.tensors)
    check_finite({f"feature map {name!r}": feature for name, feature in features.items()})
    proposals, _ = model.rpn(batch, features)
    boxes, scores, labels = detect_boxes(model.roi_heads, features, proposals, batch.image_sizes)
    original_sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    return Detections(features, boxes, labels, scores, batch.image_sizes, original_sizes)


def region_masks(model: MaskRCNN, detections: Detections, rendering: Rendering | None) -> list[Tensor]:
    """:meth:`MaskRCNN.region_masks`."""
    logits = model.mask_head.logits(detections.features, detections.boxes, detections.labels, rendering)
    return split_like(logits.float().sigmoid(), detections.boxes)


def predict(model: MaskRCNN, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """``model(images)`` in evaluation: detections, region masks and pasted masks of each image."""
    detections = detect(model, images)
    return [
        {
            "boxes": boxes,
            "labels": labels,
            "scores": scores,
            "masks": paste_masks(masks, boxes, size),
            "region_masks": masks,
        }
        for boxes, labels, scores, size, masks in zip(
            detections.original_boxes(),
            detections.labels,
            detections.scores,
            detections.original_sizes,
            region_masks(model, detections, None),
            strict=True,
        )
    ]
