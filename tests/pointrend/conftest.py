"""Small models and small pictures with their ground truth."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pointrend import Rendering, build_model

Scene = tuple[Tensor, dict[str, Tensor]]


def _tiny_model(head: str = "pointrend", seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    if head == "pointrend":
        options.setdefault("rendering", Rendering(28, 49))
    name = {"pointrend": "pointrend_rcnn_tiny_fpn", "4xconv": "maskrcnn_tiny_fpn"}[head]
    model = build_model(name, **{"num_classes": 3, "min_size": 64, "max_size": 96, **options})
    # A fresh predictor says 0.5 everywhere and leaves every box where it is; these have opinions.
    with torch.no_grad():
        for module, layer in model.named_modules():
            if module.endswith(("predictor", "cls_score", "bbox_pred", "head.10")) and hasattr(layer, "weight"):
                layer.weight.normal_(std=0.2 / layer.weight[0].numel() ** 0.5)
    model.roi_heads.detections_per_img = 5
    return model


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., nn.Module]:
    """``tiny_model(head, seed, **options)``: a model of three classes for pictures of about 64x96, five boxes each."""
    return _tiny_model


def _scene(height: int, width: int, boxes: list[tuple[int, int, int, int]], seed: int = 0) -> Scene:
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.arange(len(boxes)) % 3 + 1,
        "masks": masks,
    }
    return image, target


@pytest.fixture(scope="session")
def scene() -> Callable[..., Scene]:
    """``scene(height, width, boxes)``: a noisy picture and filled rectangles, labelled 1, 2, 3, 1, ..."""
    return _scene
