"""Compares two outputs for the same image.

Shape letters: R regions, K classes, H W rows and columns.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.ops import box_iou


def mask_ious(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boolean masks (R, ...), region by region: (R,). Two empty masks are equal."""
    first, second = first.flatten(1), second.flatten(1)
    union = (first | second).sum(1)
    return torch.where(union > 0, (first & second).sum(1) / union.clamp(min=1), 1.0)


def compare_instances(reference: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest differences between two models' detections in an image, matched to the best overlap in their class.

    Args:
        reference: ``boxes`` (R, 4), ``labels`` (R,), ``scores`` (R,), and masks (R, 1, ...) of probabilities under one
            or more names that end in "masks".
        other: the other model's detections, in any number.

    Returns:
        ``detections`` and ``other_detections``, the two counts. If both are above 0, also the largest differences
        ``box`` in pixels and ``score``, and for masks that both have the lowest ``mask_iou`` or ``region_mask_iou``.
    """
    counts: dict[str, float] = {"detections": len(reference["boxes"]), "other_detections": len(other["boxes"])}
    if not all(counts.values()):
        return counts
    overlap = box_iou(reference["boxes"], other["boxes"])
    overlap[reference["labels"][:, None] != other["labels"]] = -1
    nearest = overlap.argmax(dim=1)
    differences = {
        "box": float((reference["boxes"] - other["boxes"][nearest]).abs().max()),
        "score": float((reference["scores"] - other["scores"][nearest]).abs().max()),
    }
    for masks in sorted(name for name in reference.keys() & other.keys() if name.endswith("masks")):
        ious = mask_ious(reference[masks] >= 0.5, other[masks][nearest] >= 0.5)
        differences[f"{masks.removesuffix('s')}_iou"] = float(ious.min())
    return {**counts, **differences}


def compare_semantics(reference: Tensor, other: Tensor) -> dict[str, float]:
    """The largest difference between logits (K, H, W), and the share of pixels with equal labels."""
    equal = (reference.argmax(0) == other.argmax(0)).float().mean()
    return {"logit": float((reference - other).abs().max()), "labels_equal": float(equal)}
