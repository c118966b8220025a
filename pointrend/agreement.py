"""How far two outputs for the same image agree.

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
    """The largest differences over the detections of an image, each beside the nearest one of its class.

    Args:
        reference: ``boxes`` (R, 4), ``labels`` (R,), ``scores`` (R,), and masks (R, 1, ...) of probabilities under one
            or more names that end in "masks".
        other: the same of the other model, which may have found another number.

    Returns:
        ``detections`` and ``other_detections``; if both are above 0 also ``box`` in pixels, ``score``, and for masks
        that both have ``mask_iou`` or ``region_mask_iou``: the greatest differences, and the least IoU.
    """
    found: dict[str, float] = {"detections": len(reference["boxes"]), "other_detections": len(other["boxes"])}
    if not all(found.values()):
        return found
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
    return {**found, **differences}


def compare_semantics(reference: Tensor, other: Tensor) -> dict[str, float]:
    """The largest difference of logits (K, H, W), and the share of pixels of equal labels."""
    equal = (reference.argmax(0) == other.argmax(0)).float().mean()
    return {"logit": float((reference - other).abs().max()), "labels_equal": float(equal)}
