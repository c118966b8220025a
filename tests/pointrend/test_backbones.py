from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.ops import FrozenBatchNorm2d

from pointrend import build_model
from pointrend.backbones import resnet_fpn


@pytest.mark.parametrize("norm", ["group", "frozen_batch"])
def test_pyramid_of_an_odd_image(norm: str) -> None:
    features = resnet_fpn("tiny", norm, fpn_channels=32)(torch.randn(2, 3, 96, 160))  # type: ignore[arg-type]
    assert {name: tuple(feature.shape) for name, feature in features.items()} == {
        "p2": (2, 32, 24, 40),
        "p3": (2, 32, 12, 20),
        "p4": (2, 32, 6, 10),
        "p5": (2, 32, 3, 5),
        "pool": (2, 32, 2, 3),
    }


def test_from_scratch_everything_learns() -> None:
    for name in ("tiny", "r50"):
        with torch.device("meta"):
            backbone = resnet_fpn(name, "group")
        assert all(parameter.requires_grad for parameter in backbone.parameters())


class TestNorm:
    def test_group_norm_reaches_the_pyramid(self) -> None:
        def kinds(norm: str) -> set[str]:
            return {type(module).__name__ for module in resnet_fpn("tiny", norm).fpn.modules()}  # type: ignore[arg-type]

        assert "GroupNorm" in kinds("group")
        assert not any("Norm" in kind.removeprefix("Conv2dNorm") for kind in kinds("frozen_batch"))

    def test_group_norm_has_no_running_statistics(self) -> None:
        backbone = resnet_fpn("tiny", "group")
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(backbone.train()(images)["p2"], backbone.eval()(images)["p2"])
        assert not list(backbone.buffers())

    def test_group_norm_looks_at_each_image_alone(self) -> None:
        backbone = resnet_fpn("tiny", "group")
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            together, alone = backbone(images)["p3"][:1], backbone(images[:1])["p3"]
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)

    def test_frozen_norm_neither_learns_nor_counts(self) -> None:
        backbone = resnet_fpn("tiny", "frozen_batch").train()
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        backbone(torch.randn(2, 3, 64, 64) + 3)
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        frozen = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
        assert len(frozen) == 12  # the stem, four blocks of two and three shortcuts
        assert not any(list(module.parameters()) for module in frozen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("r18", "group"), "unknown backbone 'r18', expected one of .*r50"),
        (("tiny", "batch"), "norm is 'batch', expected one of frozen_batch, group"),
        (("tiny", "frozen_batch", 64, True), "no ImageNet weights for backbone 'tiny'"),
        (("r50", "group", 256, True), "norm is 'group', expected 'frozen_batch'"),
    ],
)
def test_refuses(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resnet_fpn(*arguments)  # type: ignore[arg-type]


class TestPretrained:
    """With a file of random weights where torchvision keeps its downloads."""

    @pytest.fixture(scope="class")
    def imagenet(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
        torch.manual_seed(0)
        with torch.device("meta"):
            network = resnet50()
        network = network.to_empty(device="cpu")
        state = {
            name: torch.rand_like(value) * 0.01 if value.is_floating_point() else torch.zeros_like(value)
            for name, value in network.state_dict().items()
        }
        home = tmp_path_factory.mktemp("torch")
        downloads = home / "hub" / "checkpoints"
        downloads.mkdir(parents=True)
        torch.save(state, downloads / ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
        return home, state

    @pytest.fixture(scope="class")
    def model(self, imagenet: tuple[Path, dict[str, Tensor]]) -> nn.Module:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORCH_HOME", str(imagenet[0]))
            return build_model("pointrend_rcnn_r50_fpn_coco", num_classes=1, pretrained_backbone=True)

    def test_takes_weights_and_statistics(self, model: nn.Module, imagenet: tuple[Path, dict[str, Tensor]]) -> None:
        body = model.backbone.body.state_dict()
        expected = {
            name: value
            for name, value in imagenet[1].items()
            if not name.startswith("fc.") and "num_batches" not in name
        }
        assert body.keys() == expected.keys()
        assert all(torch.equal(body[name], value) for name, value in expected.items())

    def test_stem_and_res2_are_frozen_and_the_rest_learns(self, model: nn.Module) -> None:
        frozen = {name.split(".")[2] for name, value in model.named_parameters() if not value.requires_grad}
        learning = {name for name, value in model.named_parameters() if value.requires_grad}
        assert frozen == {"conv1", "layer1"}
        assert not any(name.startswith(("backbone.body.conv1", "backbone.body.layer1")) for name in learning)
        for part in ("body.layer2", "body.layer3", "body.layer4", "fpn"):
            assert any(name.startswith(f"backbone.{part}.") for name in learning)
