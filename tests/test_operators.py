"""How many operators and host reads a model needs on a GPU, counted on the CPU: upper limits."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor

MODEL = "pointrend_rcnn_r50_fpn_coco"


def batch(operators: object, images: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    arguments = Namespace(images=images, objects=4, height=96, width=128)
    return operators.batch(arguments, torch.device("cpu"))  # type: ignore[attr-defined]


def test_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import operators

    images, _ = batch(operators, 1)
    found = operators.inference(MODEL, images[0])
    assert found["detector"].operators <= 450
    assert found["mask head"].operators <= 150
    assert found["image"].operators <= 600
    assert found["image"].reads <= 10


def test_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two images, and of one more."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import operators

    images, targets = batch(operators, 3)
    two = operators.training(MODEL, images[:2], targets[:2])
    three = operators.training(MODEL, images, targets)
    assert two.operators <= 1000
    assert two.reads <= 6
    # Only what depends on an image's size is computed image by image, and nothing waits for it.
    assert three.operators - two.operators <= 40
    assert three.reads == two.reads


def test_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views and allocations are free; reading a value, and indices that depend on values, make the host wait."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import operators

    values = torch.arange(6.0)
    assert operators.count(lambda: values.view(2, 3).T[0].unsqueeze(0)) == (0, 0)
    assert operators.count(lambda: torch.empty(3)) == (0, 0)
    assert operators.count(lambda: (values + 1).relu()) == (2, 0)
    assert operators.count(lambda: values.sum().item())[1] == 1
    assert operators.count(lambda: values.nonzero())[1] == 1
    assert operators.count(lambda: values[values > 2])[1] == 1
