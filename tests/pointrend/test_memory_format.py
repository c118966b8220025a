"""Models train in the channels-last memory format, which is faster on GPUs, as they do in torch's default."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pointrend import build_model


def losses_and_gradients(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    torch.manual_seed(0)  # of the sampled boxes and points
    losses = model(images, targets)
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**losses, **gradients}


def assert_equal_in_channels_last(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model = model.double()  # so that rounding does not choose other proposals
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the order in which it draws is the order in memory
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolution = other.get_submodule("backbone.body.layer2.0.conv1").get_parameter("weight")
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    expected, found = (losses_and_gradients(network, images, targets) for network in (model, other))
    assert any(name.startswith("backbone.") for name in found)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", ["frozen_batch", "batch", "group"])
@pytest.mark.parametrize("head", ["4xconv", "pointrend"])
def test_instance_models(head: str, norm: str, tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]) -> None:
    scenes = [scene(64, 96, [(5, 5, 40, 40), (30, 20, 90, 60)]), scene(64, 64, [(8, 8, 50, 60)], 1)]
    images, targets = [image for image, _ in scenes], [target for _, target in scenes]
    assert_equal_in_channels_last(tiny_model(head, norm=norm).train(), images, targets)


@pytest.mark.parametrize("norm", ["frozen_batch", "batch", "group"])
@pytest.mark.parametrize("name", ["pointrend_deeplabv3_tiny", "pointrend_semantic_fpn_tiny"])
def test_semantic_models(name: str, norm: Any) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=3, norm=norm)
    images, targets = [torch.rand(3, 64, 96)] * 2, [{"labels": torch.randint(0, 3, (64, 96))}] * 2
    assert_equal_in_channels_last(model, images, targets)
