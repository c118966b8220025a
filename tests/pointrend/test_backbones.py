from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.ops import FrozenBatchNorm2d

from pointrend import build_model
from pointrend.backbones import NORM_LAYERS, dilated_resnet, resnet_fpn


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


@pytest.mark.parametrize("norm", ["group", "frozen_batch"])
def test_pyramid_from_p3_is_that_of_a_whole_pyramid(norm: str) -> None:
    whole, upper = (resnet_fpn("tiny", norm, 32, with_p2=with_p2) for with_p2 in (True, False))  # type: ignore[arg-type]
    assert upper.load_state_dict(whole.state_dict(), strict=False).missing_keys == []
    images = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        expected, found = whole(images), upper(images)
    assert list(found) == ["p3", "p4", "p5", "pool"]
    assert all(torch.equal(feature, expected[name]) for name, feature in found.items())


def test_from_scratch_everything_learns() -> None:
    for name in ("tiny", "tiny18", "tiny26", "r50", "r101", "x101"):
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

    def test_frozen_norm_is_torchvisions(self) -> None:
        torch.manual_seed(0)
        theirs, ours = torchvision.ops.FrozenBatchNorm2d(8), NORM_LAYERS["frozen_batch"](8)
        state = {name: value + torch.rand_like(value) for name, value in theirs.state_dict().items()}
        for module in (theirs, ours):
            module.load_state_dict(state)
        features = torch.randn(2, 8, 5, 7)
        assert torch.equal(ours(features), theirs(features))

    def test_frozen_norm_computes_in_the_features_type(self) -> None:
        norm, features = NORM_LAYERS["frozen_batch"](8), torch.randn(2, 8, 5, 7)
        assert norm(features.bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = resnet_fpn("tiny", "frozen_batch").body(torch.randn(2, 3, 64, 64))
        assert {feature.dtype for feature in found.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("r18", "group"), "unknown backbone 'r18', expected one of .*r50"),
        (("tiny", "instance"), "norm is 'instance', expected one of frozen_batch, batch, group"),
        (("tiny", "frozen_batch", 64, True), "no ImageNet weights for backbone 'tiny'"),
        (("r50", "group", 256, True), "norm is 'group', expected 'frozen_batch' or 'batch'"),
    ],
)
def test_refuses(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resnet_fpn(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "blocks", "layers"), [("tiny", 1, 10), ("tiny18", 2, 18), ("tiny26", 3, 26)])
class TestTiny:
    """Basic blocks of two 3x3 convolutions in four stages, after the stem and before a prediction layer."""

    def test_layers(self, name: str, blocks: int, layers: int) -> None:
        with torch.device("meta"):
            body = resnet_fpn(name, "group").body
        assert [len(body[f"layer{stage}"]) for stage in (1, 2, 3, 4)] == [blocks] * 4
        convolutions = sum(
            isinstance(module, nn.Conv2d) for key, module in body.named_modules() if "downsample" not in key
        )
        assert convolutions + 1 == layers == 2 + 8 * blocks

    def test_does_what_the_shallowest_does_with_its_weights(self, name: str, blocks: int, layers: int) -> None:
        torch.manual_seed(0)
        shallow, deep = resnet_fpn("tiny", "group", 32), resnet_fpn(name, "group", 32)
        state = {key: value + 0.1 * torch.randn_like(value) for key, value in shallow.state_dict().items()}
        shallow.load_state_dict(state)
        assert not deep.load_state_dict(state, strict=False).unexpected_keys
        images = torch.randn(2, 3, 64, 96)
        with torch.no_grad():
            expected, found = shallow(images), deep(images)
        for level, feature in expected.items():
            assert feature.std() > 0.01
            torch.testing.assert_close(found[level], feature)

    def test_every_block_can_learn(self, name: str, blocks: int, layers: int) -> None:
        torch.manual_seed(0)
        backbone = resnet_fpn(name, "group", 32)
        sum(feature.square().sum() for feature in backbone(torch.randn(1, 3, 64, 64)).values()).backward()  # type: ignore[union-attr]
        for stage in (1, 2, 3, 4):
            for block in backbone.body[f"layer{stage}"]:
                assert block.bn2.weight.grad.abs().max() > 0


class TestResNeXt:
    def test_grouped_convolutions_of_width_eight(self) -> None:
        with torch.device("meta"):
            body = resnet_fpn("x101", "frozen_batch").body
        conv = body["layer1"][0].conv2
        assert (conv.groups, conv.in_channels) == (32, 32 * 8)
        assert len(body["layer3"]) == 23


class TestStrides:
    """Both places of a stage's stride give maps of the same size, from the same weights."""

    @staticmethod
    def strides(body: nn.Module) -> list[tuple[int, int]]:
        stages = (body[f"layer{stage}"] for stage in (1, 2, 3, 4))  # type: ignore[index]
        return [(stage[0].conv1.stride[0], stage[0].conv2.stride[0]) for stage in stages]

    def test_in_the_3x3_convolution_or_in_the_1x1_one(self) -> None:
        with torch.device("meta"):
            here, there = resnet_fpn("r50", "frozen_batch"), resnet_fpn("r50", "frozen_batch", stride_in_1x1=True)
        assert self.strides(here.body) == [(1, 1), (1, 2), (1, 2), (1, 2)]
        assert self.strides(there.body) == [(1, 1), (2, 1), (2, 1), (2, 1)]
        assert all(block.downsample[0].stride == (2, 2) for block in (there.body["layer2"][0], there.body["layer4"][0]))
        assert {key: value.shape for key, value in here.state_dict().items()} == {
            key: value.shape for key, value in there.state_dict().items()
        }
        images = torch.zeros(1, 3, 64, 96, device="meta")
        assert [feature.shape for feature in here(images).values()] == [
            feature.shape for feature in there(images).values()
        ]

    def test_basic_blocks_have_no_1x1_convolution(self) -> None:
        with pytest.raises(ValueError, match=r"stride_in_1x1 needs .* bottleneck"):
            resnet_fpn("tiny", "group", stride_in_1x1=True)


class TestDilated:
    def test_resnet_103(self) -> None:
        """Section 5, footnote 3: three 3x3 convolutions in the stem, of 64, 64 and 128 channels."""
        with torch.device("meta"):
            body = dilated_resnet("r103", "batch").body
        stem = [module for module in body["conv1"].modules() if isinstance(module, nn.Conv2d)]
        assert [(conv.kernel_size[0], conv.stride[0], conv.out_channels) for conv in stem] == [
            (3, 2, 64),
            (3, 1, 64),
            (3, 1, 128),
        ]
        assert body["layer1"][0].conv1.in_channels == body["bn1"].num_features == 128
        layers = sum(isinstance(module, nn.Conv2d) for name, module in body.named_modules() if "downsample" not in name)
        assert layers + 1 == 103  # with the prediction layer, as the name counts

    def test_dilations_at_stride_16(self) -> None:
        with torch.device("meta"):
            body = dilated_resnet("r103", "batch").body
        assert {block.conv2.dilation[0] for block in body["layer3"]} == {1}
        assert [block.conv2.dilation[0] for block in body["layer4"]] == [2, 4, 8]  # a multi-grid of 1, 2, 4
        assert body["layer3"][0].conv2.stride == (2, 2)
        assert body["layer4"][0].conv2.stride == (1, 1)

    @pytest.mark.parametrize("size", [(64, 96), (33, 50), (1, 1), (17, 200)])
    def test_sizes_are_rounded_up(self, size: tuple[int, int]) -> None:
        backbone = dilated_resnet("tiny", "group")
        with torch.no_grad():
            features = backbone(torch.randn(2, 3, *size))
        expected = {
            name: (2, channels, -(-size[0] // stride), -(-size[1] // stride))
            for name, channels, stride in (("res2", 32, 4), ("res5", 256, 16))
        }
        assert {name: tuple(feature.shape) for name, feature in features.items()} == expected

    @pytest.mark.parametrize(("name", "size"), [("tiny", (64, 96)), ("tiny", (75, 41)), ("r50", (64, 81))])
    def test_stride_8_computes_what_stride_16_does_and_the_cells_between(
        self, name: str, size: tuple[int, int]
    ) -> None:
        backbone = dilated_resnet(name, "frozen_batch").eval()
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            sparse = backbone(images)["res5"]
            backbone.set_output_stride(8)
            dense = backbone(images)["res5"]
        assert dense.shape[2:] == (-(-size[0] // 8), -(-size[1] // 8))
        torch.testing.assert_close(dense[..., ::2, ::2], sparse, atol=1e-4, rtol=1e-3)

    def test_refuses_another_stride(self) -> None:
        with pytest.raises(ValueError, match="output_stride is 32, expected 8 or 16"):
            dilated_resnet("tiny", "group", output_stride=32)

    def test_r103_has_no_weights_to_download(self) -> None:
        with pytest.raises(ValueError, match="no ImageNet weights for backbone 'r103'"):
            dilated_resnet("r103", "batch", pretrained=True)


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

    @pytest.mark.parametrize("build", ["pyramid", "dilated"])
    def test_semantic_models_learn_all_of_it(self, imagenet: tuple[Path, dict[str, Tensor]], build: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORCH_HOME", str(imagenet[0]))
            if build == "pyramid":
                backbone = resnet_fpn("r50", "batch", pretrained=True, freeze_early=False)
            else:
                backbone = dilated_resnet("r50", "batch", pretrained=True)
        assert all(parameter.requires_grad for parameter in backbone.parameters())
        assert torch.equal(backbone.body["bn1"].running_mean, imagenet[1]["bn1.running_mean"])

    def test_stem_and_res2_are_frozen_and_the_rest_learns(self, model: nn.Module) -> None:
        frozen = {name.split(".")[2] for name, value in model.named_parameters() if not value.requires_grad}
        learning = {name for name, value in model.named_parameters() if value.requires_grad}
        assert frozen == {"conv1", "layer1"}
        assert not any(name.startswith(("backbone.body.conv1", "backbone.body.layer1")) for name in learning)
        for part in ("body.layer2", "body.layer3", "body.layer4", "fpn"):
            assert any(name.startswith(f"backbone.{part}.") for name in learning)
