from typing import Any

import pytest
import torch
from torch import nn

import pointrend
from pointrend import PointSampling, Rendering, build_model, list_models
from pointrend.heads import CoarseMaskHead, FourConvHead, PointHead

PAIRS = ("r50_fpn_coco", "tiny_fpn")


def build(name: str, **options: Any) -> nn.Module:
    """Shapes only: no time for random numbers."""
    with torch.device("meta"):
        return build_model(name, **options)


def test_list_models_has_both_heads_of_each_detector() -> None:
    assert list_models() == sorted(f"{head}_{pair}" for head in ("maskrcnn", "pointrend_rcnn") for pair in PAIRS)


@pytest.mark.parametrize("name", list_models())
def test_every_name_builds_in_training_mode(name: str) -> None:
    model = build(name)
    assert isinstance(model, pointrend.MaskRCNN)
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

    def test_inference_size(self) -> None:
        transform = build("pointrend_rcnn_r50_fpn_coco").transform
        assert (transform.min_size, transform.max_size) == (800, 1333)

    def test_point_selection(self) -> None:
        head = build("pointrend_rcnn_r50_fpn_coco").mask_head
        assert head.sampling == PointSampling("biased", 14**2, 3, 0.75)
        assert head.rendering == Rendering(224, 28**2)


class TestOptions:
    def test_num_classes(self) -> None:
        model = build("pointrend_rcnn_tiny_fpn", num_classes=5)
        assert model.roi_heads.box_predictor.cls_score.out_features == 6
        assert model.mask_head.point_head.predictor.out_channels == 5

    def test_sizes(self) -> None:
        transform = build("maskrcnn_tiny_fpn", min_size=100, max_size=200).transform
        assert (transform.min_size, transform.max_size) == (100, 200)

    def test_sampling_and_rendering(self) -> None:
        sampling, rendering = PointSampling("grid", 49), Rendering(56, 100)
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

    @pytest.mark.parametrize("option", [{"sampling": PointSampling()}, {"rendering": Rendering()}])
    def test_pointrend_options_on_the_other_head(self, option: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="'maskrcnn_tiny_fpn' has no PointRend head"):
            build_model("maskrcnn_tiny_fpn", **option)

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
        with pytest.raises(ValueError, match="norm is 'batch'"):
            build_model("maskrcnn_tiny_fpn", norm="batch")  # type: ignore[arg-type]

    def test_tiny_has_no_imagenet_weights(self) -> None:
        with pytest.raises(ValueError, match="ImageNet"):
            build_model("maskrcnn_tiny_fpn", pretrained_backbone=True)
