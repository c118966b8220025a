"""Folded norms compute what convolution and norm compute one after the other, whatever happens to the weights."""

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from pointrend.backbones import dilated_resnet, resnet_fpn
from pointrend.frozen_norm import FoldedConv2d, FrozenBatchNorm2d, fold_frozen_norms


def random_norm(channels: int) -> FrozenBatchNorm2d:
    norm = FrozenBatchNorm2d(channels)
    norm.load_state_dict({name: torch.rand_like(value) + 0.5 for name, value in norm.state_dict().items()})
    return norm


def pair(bias: bool = False) -> tuple[nn.Sequential, nn.Sequential]:
    """A convolution and its norm, folded and not, with parameters and buffers of their own."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2, groups=2, bias=bias), random_norm(8))
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    assert isinstance(folded[0], FoldedConv2d)
    return plain, folded


def assert_equal(plain: nn.Module, folded: nn.Module, images: Tensor | None = None) -> None:
    images = torch.randn(2, 4, 9, 11) if images is None else images
    torch.testing.assert_close(folded(images), plain(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients(bias: bool) -> None:
    images = torch.randn(2, 4, 9, 11)
    found = []
    for network in pair(bias):
        inputs = images.clone().requires_grad_()
        network(inputs).square().sum().backward()
        found.append([inputs.grad, *(parameter.grad for parameter in network.parameters())])
    assert len(found[0]) == 2 + bias
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "build", [lambda: resnet_fpn("r50", "frozen_batch"), lambda: dilated_resnet("r103", "frozen_batch")]
)
def test_every_norm_of_a_resnet_is_folded(build: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        backbone = build()
    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    folded = [module for module in backbone.modules() if isinstance(module, FoldedConv2d)]
    assert len(norms) == len(folded) > 50
    assert all(norm.folded for norm in norms)
    assert {id(module._norm[0]) for module in folded} == {id(norm) for norm in norms}


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_other_norms_stay(norm: Any) -> None:
    assert not any(isinstance(module, FoldedConv2d) for module in resnet_fpn("tiny", norm).modules())


def test_a_convolution_without_its_norm_stays_plain() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), random_norm(4))
    fold_frozen_norms(network)
    assert type(network[0]) is nn.Conv2d
    assert not cast(FrozenBatchNorm2d, network[2]).folded


def test_state_dict_is_that_of_plain_modules() -> None:
    plain, folded = pair()
    folded.eval()(torch.randn(1, 4, 8, 8))  # what is kept does not show
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in folded.named_parameters()] == ["0.weight"]
    other = pair()[1]
    other.load_state_dict(plain.state_dict())
    assert_equal(plain, other)


class TestKept:
    """The scaled weight of a frozen convolution, and of any at inference."""

    def test_is_computed_once(self) -> None:
        folded = pair()[1].requires_grad_(False)
        first = folded[0].folded()  # type: ignore[operator]
        assert folded[0].folded()[0] is first[0]  # type: ignore[operator]

    def test_of_a_trainable_weight_only_without_gradients(self) -> None:
        folded: Any = pair()[1]
        assert folded[0].folded()[0].requires_grad
        with torch.no_grad():
            assert folded[0].folded()[0] is folded[0].folded()[0]
        assert folded[0].folded()[0].requires_grad

    def test_in_inference_mode_serves_a_training_too(self) -> None:
        """A frozen convolution behind a trainable one, which autograd saves the scaled weight of."""
        folded = pair()[1].requires_grad_(False)
        with torch.inference_mode():
            folded(torch.randn(1, 4, 8, 8))
        images = torch.randn(1, 4, 8, 8, requires_grad=True)
        folded(images).sum().backward()
        assert images.grad is not None

    @torch.no_grad()
    @pytest.mark.parametrize(
        "change",
        [
            lambda network: network[0].weight.mul_(2),
            lambda network: network[1].running_mean.add_(1),
            lambda network: network[1].weight.copy_(torch.arange(8.0)),
            lambda network: network.load_state_dict({k: v * 3 + 1 for k, v in network.state_dict().items()}),
            lambda network: network.load_state_dict(
                {k: v * 3 + 1 for k, v in network.state_dict().items()}, assign=True
            ),
            lambda network: setattr(network[0], "weight", nn.Parameter(torch.ones(8, 2, 3, 3))),
            lambda network: network.double().float().half().float(),
            lambda network: network.to(memory_format=torch.channels_last),
            lambda network: (network[0].weight.data.mul_(2), network.eval()),
        ],
    )
    def test_follows_every_change(self, change: Callable[[Any], Any]) -> None:
        plain, folded = pair()
        assert_equal(plain, folded)
        change(plain)
        change(folded)
        assert_equal(plain, folded)

    @pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}])
    def test_follows_an_optimizer(self, options: dict[str, bool]) -> None:
        plain, folded = pair()
        with torch.no_grad():
            assert_equal(plain, folded)
        images = torch.randn(2, 4, 9, 11)
        for network in (plain, folded):
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, **options)
            network(images).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            assert_equal(plain, folded)

    @pytest.mark.parametrize(
        "copied",
        [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))],  # noqa: S301 - its own
    )
    def test_a_copy_has_its_own(self, copied: Callable[[Any], Any]) -> None:
        plain, folded = pair()
        with torch.no_grad():
            assert_equal(plain, folded)
            other = copied(folded)
            other[0].weight.mul_(2)
            assert_equal(plain, folded)
            plain[0].weight.mul_(2)  # type: ignore[operator]
            assert_equal(plain, other)
            other[1].running_mean.add_(1)
            plain[1].running_mean.add_(1)  # type: ignore[operator]
            assert_equal(plain, other)


class TestTypes:
    def test_a_bfloat16_weight_is_rounded_once(self) -> None:
        folded = pair()[1]
        exact = cast(FoldedConv2d, folded[0]).folded()
        narrow: Any = folded.bfloat16()
        weight, bias = narrow[0].folded()
        assert weight.dtype == bias.dtype == torch.bfloat16
        torch.testing.assert_close(weight.float(), exact[0], rtol=2**-6, atol=0)
        assert narrow(torch.randn(1, 4, 8, 8).bfloat16()).dtype == torch.bfloat16

    @pytest.mark.parametrize("trainable", [True, False])
    def test_autocast(self, trainable: bool) -> None:
        plain, folded = pair()
        folded.requires_grad_(trainable)
        images = torch.randn(2, 4, 9, 11)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = folded(images)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), plain(images), rtol=0.05, atol=0.05)

    def test_double(self) -> None:
        plain, folded = (network.double() for network in pair())
        images = torch.randn(2, 4, 9, 11, dtype=torch.double)
        torch.testing.assert_close(folded(images), plain(images), rtol=1e-12, atol=1e-12)


def test_compiled_graphs_fold_anew() -> None:
    """A program of ``torch.export`` has the weights, not what was kept of them."""
    plain, folded = pair()
    images = torch.randn(2, 4, 9, 11)
    with torch.no_grad():
        folded(images)
        program = torch.export.export(folded, (images,), strict=False)
    assert list(program.state_dict) == list(plain.state_dict())
    assert_equal(plain, program.module(), images)


def test_replaced_parameters_of_a_functional_call() -> None:
    plain, folded = pair()
    state = {name: value.detach() + 1 for name, value in plain.state_dict().items()}
    images = torch.randn(2, 4, 9, 11)
    with torch.no_grad():
        folded(images)
        found, expected = (torch.func.functional_call(network, state, (images,)) for network in (folded, plain))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
