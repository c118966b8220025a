from typing import Any

import pytest
import torch
from torch import nn

import pointrend
from pointrend import PointSampling, Rendering, build_model, list_models
from pointrend.heads import CoarseMaskHead, FourConvHead, PointHead
from pointrend.specs import PAPER_RENDERING, PAPER_SAMPLING, PAPER_SEMANTIC_SAMPLING

PAIRS = ("r50_fpn_coco", "r101_fpn_coco", "x101_fpn_coco", "r50_fpn_cityscapes", "tiny_fpn", "tiny18_fpn", "tiny26_fpn")


def build(name: str, **options: Any) -> nn.Module:
    """Shapes only: no time for random numbers."""
    with torch.device("meta"):
        return build_model(name, **options)


def test_list_models_has_both_heads_of_each_detector() -> None:
    expected = sorted(f"{head}_{pair}" for head in ("maskrcnn", "pointrend_rcnn") for pair in PAIRS)
    assert list_models("instance") == expected


def test_list_models_has_each_semantic_model_with_and_without_pointrend() -> None:
    plain = ("deeplabv3_r103_cityscapes", "semantic_fpn_r101_cityscapes", "deeplabv3_tiny", "semantic_fpn_tiny")
    assert list_models("semantic") == sorted(f"{prefix}{name}" for prefix in ("", "pointrend_") for name in plain)
    assert list_models() == sorted(list_models("instance") + list_models("semantic"))


@pytest.mark.parametrize("name", list_models())
def test_every_name_builds_in_training_mode(name: str) -> None:
    model = build(name)
    kind = pointrend.MaskRCNN if name in list_models("instance") else pointrend.SemanticSegmenter
    assert isinstance(model, kind)
    assert model.training


@pytest.mark.parametrize("pair", PAIRS)
def test_the_two_models_of_a_pair_differ_in_the_mask_head_only(pair: str) -> None:
    shapes = [
        {
            name: tuple(value.shape)
            for name, value in build(f"{head}_{pair}").state_dict().items()
            if not name.startswith("mask_head.")
        }
        for head in ("maskrcnn", "pointrend_rcnn")
    ]
    assert shapes[0] == shapes[1]


class TestTheModelOfThePaper:
    """Section 4: a ResNet-50-FPN with 256 channels, 80 classes, and the heads' published sizes."""

    def test_heads(self) -> None:
        (four_conv,) = (m for m in build("maskrcnn_r50_fpn_coco").modules() if isinstance(m, FourConvHead))
        modules = list(build("pointrend_rcnn_r50_fpn_coco").modules())
        (coarse,) = (m for m in modules if isinstance(m, CoarseMaskHead))
        (point,) = (m for m in modules if isinstance(m, PointHead))
        assert four_conv[-1].out_channels == 80
        assert (coarse.side, coarse.fc1.in_features, coarse.fc1.out_features) == (7, 12544, 1024)
        assert [layer.in_channels for layer in (*point.layers, point.predictor)] == [336] * 4

    @pytest.mark.parametrize(("data", "sizes"), [("coco", (800, 1333)), ("cityscapes", (1024, 2048))])
    def test_inference_size(self, data: str, sizes: tuple[int, int]) -> None:
        transform = build(f"pointrend_rcnn_r50_fpn_{data}").transform
        assert (transform.min_size, transform.max_size) == sizes

    def test_cityscapes_has_eight_classes(self) -> None:
        model = build("maskrcnn_r50_fpn_cityscapes")
        assert model.roi_heads.box_predictor.cls_score.out_features == 9
        assert model.mask_head.head[-1].out_channels == 8

    def test_point_selection(self) -> None:
        head = build("pointrend_rcnn_r50_fpn_coco").mask_head
        assert head.sampling == PointSampling("biased", 14**2, 3, 0.75)
        assert head.rendering == Rendering(224, 28**2)


class TestTheSemanticModelsOfThePaper:
    """Section 5: 19 classes, N = 8096, fine features of res2 or P2."""

    @pytest.mark.parametrize(
        ("name", "level", "channels"),
        [("pointrend_deeplabv3_r103_cityscapes", "res2", 256), ("pointrend_semantic_fpn_r101_cityscapes", "p2", 256)],
    )
    def test_pointrend(self, name: str, level: str, channels: int) -> None:
        head = build(name).pointrend
        assert (head.fine_level, head.fine_stride, head.points_per_step) == (level, 4, 8096)
        assert head.sampling == PointSampling("biased", None, 3, 0.75), "as many points as a stride-16 map has cells"
        layers = (*head.point_head.layers, head.point_head.predictor)
        assert [layer.in_channels for layer in layers] == [channels + 19] * 4
        assert [layer.out_channels for layer in layers] == [256, 256, 256, 19]

    def test_norms(self) -> None:
        """Appendix B: DeepLabV3 learns its batch norms, SemanticFPN keeps those of its backbone."""

        def kinds(name: str) -> set[str]:
            names = {type(module).__name__ for module in build(name).modules()}
            return names & {"BatchNorm2d", "FrozenBatchNorm2d", "GroupNorm"}

        assert kinds("deeplabv3_r103_cityscapes") == {"BatchNorm2d"}
        assert kinds("semantic_fpn_r101_cityscapes") == {"FrozenBatchNorm2d", "GroupNorm"}

    @pytest.mark.parametrize("name", ["deeplabv3_r103_cityscapes", "semantic_fpn_r101_cityscapes"])
    def test_pointrend_adds_to_the_plain_model(self, name: str) -> None:
        plain, ours = build(name).state_dict(), build(f"pointrend_{name}").state_dict()
        assert {key.partition(".")[0] for key in ours.keys() - plain.keys()} == {"pointrend"}
        assert plain.keys() <= ours.keys()

    def test_semantic_fpn_from_p3(self) -> None:
        model = build("pointrend_semantic_fpn_r101_cityscapes", levels=("p3", "p4", "p5"))
        assert (model.head.stride, model.pointrend.fine_level) == (8, "p2")


class TestOptions:
    def test_class_agnostic_masks(self) -> None:
        for name in ("maskrcnn_tiny_fpn", "pointrend_rcnn_tiny_fpn"):
            shapes = [
                value.shape
                for key, value in build(name, class_agnostic=True).state_dict().items()
                if key.startswith("mask_head.")
            ]
            assert shapes == [
                value.shape
                for key, value in build(name, num_classes=1).state_dict().items()
                if key.startswith("mask_head.")
            ]
            assert build(name, class_agnostic=True).roi_heads.box_predictor.cls_score.out_features == 81

    def test_coarse_features_in_the_first_layer_alone(self) -> None:
        head = build("pointrend_semantic_fpn_r101_cityscapes", coarse_each_layer=False).pointrend.point_head
        assert [layer.in_channels for layer in (*head.layers, head.predictor)] == [275, 256, 256, 256]

    def test_strides_of_the_backbone(self) -> None:
        for name in ("maskrcnn_r50_fpn_coco", "semantic_fpn_r101_cityscapes"):
            assert build(name, stride_in_1x1=True).backbone.body["layer2"][0].conv1.stride == (2, 2)

    def test_num_classes(self) -> None:
        model = build("pointrend_rcnn_tiny_fpn", num_classes=5)
        assert model.roi_heads.box_predictor.cls_score.out_features == 6
        assert model.mask_head.point_head.predictor.out_channels == 5

    def test_sizes(self) -> None:
        transform = build("maskrcnn_tiny_fpn", min_size=100, max_size=200).transform
        assert (transform.min_size, transform.max_size) == (100, 200)

    def test_sampling_and_rendering(self) -> None:
        sampling, rendering = PointSampling("grid", 49, 1, 0), Rendering(56, 100)
        head = build("pointrend_rcnn_tiny_fpn", sampling=sampling, rendering=rendering).mask_head
        assert (head.sampling, head.rendering) == (sampling, rendering)

    def test_rois_per_image(self) -> None:
        heads = build_model("maskrcnn_tiny_fpn", num_classes=3, rois_per_image=8).roi_heads
        boxes = torch.tensor([[0.0, 0.0, 30.0, 30.0]])
        features = {name: torch.zeros(1, 64, 16, 16) for name in ("p2", "p3", "p4", "p5")}
        target = {"boxes": boxes, "labels": torch.tensor([1])}
        regions, _ = heads.train_step(features, [boxes + torch.rand(50, 4)], [target])
        assert len(regions.labels[0]) == 2


class TestErrors:
    def test_unknown_name_lists_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match="unknown model 'maskrcnn_r18'") as raised:
            build_model("maskrcnn_r18")
        assert all(name in str(raised.value) for name in list_models())

    @pytest.mark.parametrize("option", [{"sampling": PAPER_SAMPLING}, {"rendering": PAPER_RENDERING}])
    def test_pointrend_options_on_the_other_head(self, option: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="'maskrcnn_tiny_fpn' has no PointRend head"):
            build_model("maskrcnn_tiny_fpn", **option)

    @pytest.mark.parametrize(
        ("name", "option"),
        [
            ("semantic_fpn_tiny", {"min_size": 800}),
            ("semantic_fpn_tiny", {"output_stride": 8}),
            ("deeplabv3_tiny", {"levels": ("p2",)}),
            ("deeplabv3_tiny", {"stride_in_1x1": True}),
            ("maskrcnn_tiny_fpn", {"pool_window": (512, 1024)}),
        ],
    )
    def test_options_of_another_model(self, name: str, option: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=f"model '{name}' takes no {next(iter(option))}"):
            build(name, **option)

    @pytest.mark.parametrize(
        "option", [{"sampling": PAPER_SAMPLING}, {"points_per_step": 9}, {"coarse_each_layer": False}]
    )
    def test_pointrend_options_on_a_plain_semantic_model(self, option: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="'deeplabv3_tiny' has no PointRend head"):
            build("deeplabv3_tiny", **option)

    def test_a_semantic_model_has_no_rendering(self) -> None:
        with pytest.raises(ValueError, match="it takes points_per_step, no rendering"):
            build("pointrend_deeplabv3_tiny", rendering=PAPER_RENDERING)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"num_classes": 256}, "at most 255, the ignored label"),
            ({"points_per_step": 0}, "points_per_step is 0"),
            ({"levels": ("p4", "p5")}, "levels is .*p4"),
        ],
    )
    def test_semantic_values(self, option: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build("pointrend_semantic_fpn_tiny", **option)

    def test_instance_models_need_a_number_of_points(self) -> None:
        with pytest.raises(ValueError, match=r"sampling\.num_points is None, expected a number"):
            build("pointrend_rcnn_tiny_fpn", sampling=PAPER_SEMANTIC_SAMPLING)

    @pytest.mark.parametrize("num_classes", [0, -3])
    def test_num_classes(self, num_classes: int) -> None:
        with pytest.raises(ValueError, match=f"num_classes is {num_classes}"):
            build_model("maskrcnn_tiny_fpn", num_classes=num_classes)

    @pytest.mark.parametrize("option", ["min_size", "max_size", "rois_per_image"])
    @pytest.mark.parametrize("value", [0, -8])
    def test_sizes_below_one(self, option: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"{option} is {value}"):
            build("maskrcnn_tiny_fpn", **{option: value})

    def test_unknown_norm(self) -> None:
        with pytest.raises(ValueError, match="norm is 'instance'"):
            build_model("maskrcnn_tiny_fpn", norm="instance")  # type: ignore[arg-type]

    def test_tiny_has_no_imagenet_weights(self) -> None:
        with pytest.raises(ValueError, match="ImageNet"):
            build_model("maskrcnn_tiny_fpn", pretrained_backbone=True)
