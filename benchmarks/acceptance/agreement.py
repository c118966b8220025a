"""Whether a device computes what the CPU computes: every model of the registry, in strict float32 on both."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from detectron2_weights import random_picture
from torch import Tensor, nn

from acceptance.random_weights import randomise
from acceptance.rows import DisagreementError, NotRunError, Result, Task
from pipeline.training.precision import float32_math
from pointrend import build_model, list_models
from pointrend.agreement import compare_instances, compare_semantics
from pointrend.points import Size

#: How far a device may be off: at most these differences, and at least these shares.
LARGEST = {"box": 0.01, "score": 1e-4, "logit": 2e-3}
LEAST = {"mask_iou": 0.98, "region_mask_iou": 0.98, "labels_equal": 0.999}
#: The columns' names.
LABELS = {
    "detections": "detections",
    "other_detections": "on the device",
    "box": "box, px",
    "score": "score",
    "mask_iou": "least mask IoU",
    "region_mask_iou": "least IoU in regions",
    "logit": "logit",
    "labels_equal": "equal labels",
}
STATED = (
    f"Limits: as many detections; boxes within {LARGEST['box']} px, scores within {LARGEST['score']}, IoU of masks at "
    f"least {LEAST['mask_iou']}; semantic logits within {LARGEST['logit']}, labels equal at {LEAST['labels_equal']} of "
    "the pixels. Random weights, strict float32 (no TF32) on both sides."
)


def judge(compared: Mapping[str, float]) -> str:
    """What is wrong with a device's output, or "".

    Args:
        compared: what :func:`pointrend.agreement.compare_instances` or ``compare_semantics`` found.
    """
    named = [(key, LABELS[key], value) for key, value in compared.items()]
    # What is not a number is neither above nor below a limit.
    wrong = [f"{label} is not a number" for _, label, value in named if math.isnan(value)]
    wrong += [
        f"{label} {value:.3g} > {LARGEST[key]}" for key, label, value in named if value > LARGEST.get(key, math.inf)
    ]
    wrong += [f"{label} {value:.4g} < {LEAST[key]}" for key, label, value in named if value < LEAST.get(key, -math.inf)]
    if "detections" in compared:
        if compared["detections"] != compared["other_detections"]:
            wrong.insert(0, f"{compared['other_detections']:.0f} detections in place of {compared['detections']:.0f}")
        elif not compared["detections"]:
            wrong.insert(0, "no detections to compare")
    return "; ".join(wrong)


@torch.inference_mode()
def output(model: nn.Module, picture: Tensor) -> Any:
    """What a model returns for a picture (3, H, W) in [0, 1], on the CPU."""
    found = model([picture])[0]
    return found.cpu() if isinstance(found, Tensor) else {name: value.cpu() for name, value in found.items()}


def compare(name: str, device: torch.device, size: Size) -> Result:
    """Compares a model's output on the device with that on the CPU.

    Raises:
        DisagreementError: if they differ by more than the limits.
    """
    model = build_model(name).eval()
    randomise(model, seed=0)
    if hasattr(model, "roi_heads"):
        model.transform.min_size, model.transform.max_size = min(size), max(size)
    picture = random_picture(size) / 255
    with float32_math("float32"):
        expected = output(model, picture)
        found = output(model.to(device), picture.to(device))
    compared = (compare_semantics if isinstance(expected, Tensor) else compare_instances)(expected, found)
    figures = {LABELS[key]: value for key, value in compared.items()}
    if wrong := judge(compared):
        raise DisagreementError(wrong, figures)
    return Result(figures, checked=True)


def tasks(device: torch.device, quick: bool) -> Iterator[Task]:
    """One row for each model; with ``quick`` only the tiny ones on a small picture."""
    size = (96, 128) if quick else (256, 320)
    for name in list_models():
        if quick and "_tiny" not in name:
            yield name, _not_quick
        else:
            yield name, partial(compare, name, device, size)


def _not_quick() -> Result:
    raise NotRunError("--quick takes the tiny models")
