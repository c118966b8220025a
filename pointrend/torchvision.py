"""Converts torchvision's Mask R-CNN checkpoints to this library's names and conventions."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pointrend.classes import COCO

#: The 80 category ids that COCO uses, in order; torchvision's COCO models have an output for each of 0 to 90.
COCO_CATEGORY_IDS = tuple(known.id for known in COCO)

#: Prefixes of torchvision's names, and ours for the same weights.
_TORCHVISION_PREFIXES = {
    "backbone.body.": "backbone.body.",
    "backbone.fpn.": "backbone.fpn.",
    "rpn.head.": "rpn.head.",
    "roi_heads.box_head.": "roi_heads.box_head.",
    "roi_heads.box_predictor.": "roi_heads.box_predictor.",
    "roi_heads.mask_head.0.0.": "mask_head.head.0.",
    "roi_heads.mask_head.1.0.": "mask_head.head.2.",
    "roi_heads.mask_head.2.0.": "mask_head.head.4.",
    "roi_heads.mask_head.3.0.": "mask_head.head.6.",
    "roi_heads.mask_predictor.conv5_mask.": "mask_head.head.8.",
    "roi_heads.mask_predictor.mask_fcn_logits.": "mask_head.head.10.",
}


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of torchvision's ``maskrcnn_resnet50_fpn``."""
    return any(name.startswith("roi_heads.mask_predictor.") for name in state)


def from_torchvision(state: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """torchvision's ``maskrcnn_resnet50_fpn`` in our names, with its 91 COCO outputs reduced to the 80 in use."""
    renamed = {}
    for name, value in state.items():
        theirs = next((prefix for prefix in _TORCHVISION_PREFIXES if name.startswith(prefix)), "")
        renamed[_TORCHVISION_PREFIXES.get(theirs, "") + name.removeprefix(theirs)] = value
    boxes, masks = "roi_heads.box_predictor.", "mask_head.head.10."
    needed = [f"{boxes}cls_score.", f"{boxes}bbox_pred.", masks]
    if not all(name + kind in renamed for name in needed for kind in ("weight", "bias")):
        return renamed
    outputs = len(renamed[f"{boxes}cls_score.bias"])
    kept = [i for i in COCO_CATEGORY_IDS if outputs == 91 and num_classes == len(COCO_CATEGORY_IDS)]
    foreground = torch.tensor(kept or range(1, outputs))
    classes = torch.cat((torch.tensor([0]), foreground))
    box_rows = (classes[:, None] * 4 + torch.arange(4)).flatten()
    for kind in ("weight", "bias"):
        # torchvision's mask head has an output for the background, ours does not.
        for name, rows in zip(needed, (classes, box_rows, foreground), strict=True):
            renamed[name + kind] = renamed[name + kind][rows]
    return renamed
