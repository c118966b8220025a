"""PointRend in torchvision's Mask R-CNN and DeepLabV3."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import MaskRCNN, fasterrcnn_mobilenet_v3_large_320_fpn, maskrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.segmentation import DeepLabV3, deeplabv3_mobilenet_v3_large, deeplabv3_resnet50, fcn_resnet50
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

import pointrend
from pointrend import PointSampling, Rendering, build_model, deeplabv3_with_pointrend, mask_rcnn_with_pointrend
from pointrend.instance_inference import Detections
from pointrend.paste import paste_masks
from pointrend.semantic_inference import CoarsePrediction
from pointrend.torchvision import from_torchvision

Scene = Callable[..., tuple[Tensor, dict[str, Tensor]]]

SAMPLING = PointSampling("biased", num_points=49, oversample_ratio=3, importance_sample_ratio=0.75)
BOXES = [(5, 5, 40, 40), (30, 20, 90, 60)]


def give_opinions(model: nn.Module) -> None:
    """Fresh predictors say 0.5 everywhere."""
    with torch.no_grad():
        for name, layer in model.named_modules():
            if name.endswith("predictor") and hasattr(layer, "weight"):
                layer.weight.normal_(std=0.5 / layer.weight[0].numel() ** 0.5)


def mask_rcnn(num_classes: int = 4, **options: Any) -> MaskRCNN:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return MaskRCNN(
        backbone,
        num_classes,
        min_size=64,
        max_size=96,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=50,
        box_detections_per_img=5,
        **options,
    )


def deeplabv3(num_classes: int = 3, aux: bool = True) -> DeepLabV3:
    torch.manual_seed(0)
    network = resnet18()
    layers = {"layer4": "out", **({"layer3": "aux"} if aux else {})}
    for layer in (network.layer3, network.layer4):  # stride 8, as torchvision's DeepLabV3
        layer[0].conv1.stride = layer[0].downsample[0].stride = (1, 1)
    return DeepLabV3(
        IntermediateLayerGetter(network, layers),
        DeepLabHead(512, num_classes),
        FCNHead(256, num_classes) if aux else None,
    )


def copied_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_states(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class TestMaskRCNN:
    def test_weights_and_modes_are_kept(self) -> None:
        model = mask_rcnn()
        model.backbone.eval()
        before, modes = copied_state(model), {name: module.training for name, module in model.named_modules()}
        found = mask_rcnn_with_pointrend(model)
        assert_equal_states(model.state_dict(), before)
        assert {name: module.training for name, module in model.named_modules()} == modes
        kept = {name: value for name, value in found.state_dict().items() if ".mask_head." not in name}
        assert_equal_states(kept, {name: value for name, value in before.items() if ".mask_" not in name})
        assert isinstance(found, MaskRCNN)
        assert found.training
        assert not found.backbone.training
        assert not mask_rcnn_with_pointrend(model.eval()).roi_heads.mask_head.training

    def test_detector_and_losses_are_torchvisions(self, scene: Scene) -> None:
        model = mask_rcnn()
        image, target = scene(64, 96, BOXES)
        found = mask_rcnn_with_pointrend(model, sampling=SAMPLING, rendering=Rendering(28, 49))
        losses = []
        for network in (model, found):
            torch.manual_seed(1)
            losses.append(network([image], [target]))
        assert losses[1].keys() == losses[0].keys() | {"loss_mask_point"}
        for name in losses[0].keys() - {"loss_mask"}:
            torch.testing.assert_close(losses[1][name], losses[0][name])
        with torch.no_grad():
            expected, detected = model.eval()([image]), found.eval()([image])
        assert len(expected[0]["boxes"]) == 5
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(detected[0][name], expected[0][name])

    def test_settings_of_the_roi_heads_are_kept(self) -> None:
        options = {
            "box_fg_iou_thresh": 0.6,
            "box_bg_iou_thresh": 0.4,
            "box_batch_size_per_image": 32,
            "box_positive_fraction": 0.3,
            "bbox_reg_weights": (1.0, 2.0, 3.0, 4.0),
            "box_score_thresh": 0.1,
            "box_nms_thresh": 0.45,
        }
        model = mask_rcnn(image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3], **options)
        found = mask_rcnn_with_pointrend(model)
        objects = ("proposal_matcher", "fg_bg_sampler", "box_coder")
        skipped = ("_modules", "mask_roi_pool", "mask_predictor", *objects)
        for part in ("roi_heads", "transform"):
            ours, theirs = vars(getattr(found, part)), vars(getattr(model, part))
            assert {k: v for k, v in ours.items() if k not in skipped} == {
                k: v for k, v in theirs.items() if k not in skipped
            }
        for part in objects:
            assert vars(getattr(found.roi_heads, part)) == vars(getattr(model.roi_heads, part))

    def test_training_steps_lower_the_mask_losses(self, scene: Scene) -> None:
        model = mask_rcnn_with_pointrend(mask_rcnn(), sampling=SAMPLING)
        image, target = scene(64, 96, BOXES)
        target = {**target, "masks": target["masks"].to(torch.uint8)}
        head = model.roi_heads.mask_head
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
        history = []
        for _ in range(8):
            losses = model([image], [target])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            for name, parameter in head.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
            optimizer.step()
            history.append((losses["loss_mask"] + losses["loss_mask_point"]).item())
        assert history[-1] < 0.8 * history[0]
        assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())

    def test_ground_truth_masks_are_sampled_at_their_own_resolution(self, scene: Scene) -> None:
        """An image that torchvision resizes: its masks reach the head as they are, and its boxes at the new size."""
        model = mask_rcnn_with_pointrend(mask_rcnn())
        image, target = scene(128, 192, BOXES)
        _, (resized,) = model.transform([image], [target])
        assert torch.equal(resized["masks"], target["masks"])
        assert torch.equal(resized["boxes"], target["boxes"] / 2)
        assert target.keys() == {"boxes", "labels", "masks"}
        assert model([image], [target])["loss_mask_point"].isfinite()

    def test_images_without_objects(self, scene: Scene) -> None:
        model = mask_rcnn_with_pointrend(mask_rcnn())
        losses = model(*([part] for part in scene(64, 96, [])))
        assert losses["loss_mask"] == losses["loss_mask_point"] == 0
        sum(losses.values()).backward()

    def test_output_has_torchvisions_format(self, scene: Scene) -> None:
        model = mask_rcnn().eval()
        images = [scene(64, 96, BOXES)[0], scene(80, 50, BOXES, seed=1)[0]]
        found = mask_rcnn_with_pointrend(model, rendering=Rendering(28, 49))
        model.roi_heads.score_thresh = 1.0
        with torch.no_grad():
            nothing = model(images), mask_rcnn_with_pointrend(model)(images)
            model.roi_heads.score_thresh = 0.05
            something = model(images), found(images)
        for theirs, ours in (nothing, something):
            for expected, detected in zip(theirs, ours, strict=True):
                assert list(detected) == list(expected)
                for name, value in expected.items():
                    assert (detected[name].shape, detected[name].dtype) == (value.shape, value.dtype), name
        assert [len(detected["boxes"]) for theirs in (*nothing, *something) for detected in theirs] == [0] * 4 + [5] * 4
        masks = something[1][0]["masks"]
        assert 0 <= masks.min() < 0.4
        assert 0.45 < masks.max() <= 1

    def test_masks_equal_those_of_the_librarys_model(self, scene: Scene) -> None:
        """With the same backbone, mask head and boxes, for an image that no model resizes."""
        torch.manual_seed(0)
        theirs = maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=96, box_detections_per_img=5
        )
        found = mask_rcnn_with_pointrend(theirs, rendering=Rendering(56, 196)).eval()
        give_opinions(found.roi_heads.mask_head)
        ours = build_model(
            "pointrend_rcnn_r50_fpn_coco", num_classes=3, min_size=64, max_size=96, rendering=Rendering(56, 196)
        ).eval()
        state = from_torchvision(theirs.state_dict(), 3)
        ours.backbone.load_state_dict(
            {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")},
            strict=False,
        )
        ours.mask_head.load_state_dict(found.roi_heads.mask_head.state_dict())
        image = scene(64, 96, BOXES)[0]
        with torch.no_grad():
            (detected,) = found([image])
            fields = [[detected[name]] for name in ("boxes", "labels", "scores")]
            features = ours.backbone(ours.transform([image]).tensors)
            (masks,) = ours.region_masks(Detections(features, *fields, [(64, 96)], [(64, 96)]))
        assert len(detected["boxes"]) == 5
        assert (detected["masks"] > 0.6).any()
        assert (detected["masks"] < 0.4).any()
        # The library folds its frozen norms into the convolutions, which rounds otherwise.
        expected = paste_masks(masks, detected["boxes"], (64, 96))
        torch.testing.assert_close(detected["masks"], expected, rtol=1e-4, atol=1e-4)

    def test_autocast_places_masks_in_float32(self, scene: Scene) -> None:
        model = mask_rcnn_with_pointrend(mask_rcnn().eval(), rendering=Rendering(28, 49))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            (detected,) = model([scene(64, 96, BOXES)[0]])
        assert len(detected["boxes"]) == 5
        assert detected["boxes"].dtype == detected["masks"].dtype == torch.float32

    @pytest.mark.parametrize(
        ("make", "options", "error", "message"),
        [
            (
                lambda: fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None),
                {},
                TypeError,
                r"the model is a torchvision\.models\.detection\.faster_rcnn\.FasterRCNN, expected torchvision's MaskR",
            ),
            (
                lambda: mask_rcnn_with_pointrend(mask_rcnn()),
                {},
                TypeError,
                r"model\.roi_heads is a pointrend\.in_torchvision\.PointRendRoIHeads, expected torchvision's RoIHeads",
            ),
            (
                mask_rcnn,
                {"fine_level": "p2"},
                ValueError,
                r"no feature map 'p2', only '0', '1', '2', '3', 'pool': pass .* of stride 4 as fine_level",
            ),
            (mask_rcnn, {"fine_level": "1"}, ValueError, r"'1' has 8 x 8 cells for 64 x 64 pixels, .* stride of 4"),
            (mask_rcnn, {"sampling": PointSampling("biased", None, 3, 0.75)}, ValueError, r"sampling\.num_points is N"),
        ],
    )
    def test_errors(
        self, make: Callable[[], nn.Module], options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            mask_rcnn_with_pointrend(make(), **options)

    def test_a_box_predictor_of_another_kind(self) -> None:
        model = mask_rcnn()
        model.roi_heads.box_predictor = nn.Identity()
        with pytest.raises(TypeError, match=r"box_predictor is a torch\.nn.* without a linear layer cls_score"):
            mask_rcnn_with_pointrend(model)

    def test_roi_heads_of_another_class(self) -> None:
        model = mask_rcnn()
        model.roi_heads.__class__ = type("OwnHeads", (RoIHeads,), {})
        with pytest.raises(TypeError, match=r"model\.roi_heads is a .*OwnHeads, expected torchvision's RoIHeads itse"):
            mask_rcnn_with_pointrend(model)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda target: target.pop("masks"), r"target 0 has no 'masks', expected uint8 or bool \(G, H, W\)"),
            (lambda target: target.update(masks=target["masks"][:1]), r"target 0 has boxes .* masks .*\(1, 64, 96\)"),
            (
                lambda target: target.update(labels=target["labels"].int()),
                r"target 0 has .* labels torch\.int32 \(2,\)",
            ),
        ],
    )
    def test_targets_that_are_not_as_needed(self, change: Callable[..., Any], message: str, scene: Scene) -> None:
        image, target = scene(64, 96, BOXES)
        change(target)
        with pytest.raises(ValueError, match=message):
            mask_rcnn_with_pointrend(mask_rcnn())([image], [target])


class TestDeepLabV3:
    @pytest.mark.parametrize("aux", [False, True])
    def test_weights_and_modes_are_kept(self, aux: bool) -> None:
        model = deeplabv3(aux=aux)
        model.backbone["bn1"].eval()
        before, layers = copied_state(model), dict(model.backbone.return_layers)
        modes = {name: module.training for name, module in model.named_modules()}
        found = deeplabv3_with_pointrend(model)
        assert_equal_states(model.state_dict(), before)
        assert model.backbone.return_layers == layers
        assert {name: module.training for name, module in model.named_modules()} == modes
        kept = {name: value for name, value in found.state_dict().items() if not name.startswith("pointrend.")}
        assert_equal_states(kept, before)
        assert {name: module.training for name, module in found.named_modules() if name in modes} == modes
        assert not any(module.training for module in deeplabv3_with_pointrend(model.eval()).modules())

    def test_training_output_is_torchvisions_and_the_point_loss(self) -> None:
        model = deeplabv3()
        found = deeplabv3_with_pointrend(model)
        images, labels = torch.rand(2, 3, 64, 96), torch.randint(0, 3, (2, 64, 96))
        outputs = []
        for network, arguments in ((model, [images]), (found, [images, labels])):
            torch.manual_seed(1)
            outputs.append(network(*arguments))
        loss = outputs[1].pop("loss_semantic_point")
        assert loss.shape == ()
        assert list(outputs[1]) == list(outputs[0]) == ["out", "aux"]
        for name, expected in outputs[0].items():
            torch.testing.assert_close(outputs[1][name], expected)

    def test_training_steps_lower_the_point_loss(self) -> None:
        model = deeplabv3_with_pointrend(deeplabv3(aux=False))
        images, labels = torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
        labels[:, :, 30:], labels[:, :5] = 1, 255
        images[:, 0, :, 30:] += 1
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        history = []
        for _ in range(8):
            outputs = model(images, labels)
            optimizer.zero_grad()
            (F.cross_entropy(outputs["out"], labels, ignore_index=255) + outputs["loss_semantic_point"]).backward()
            for name, parameter in model.pointrend.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
            optimizer.step()
            history.append(outputs["loss_semantic_point"].item())
        assert history[-1] < 0.8 * history[0]
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.pointrend.parameters())

    @pytest.mark.parametrize("size", [(64, 96), (50, 71)])
    def test_output_has_torchvisions_format(self, size: tuple[int, int]) -> None:
        model = deeplabv3().eval()
        with torch.no_grad():
            expected = model(images := torch.rand(2, 3, *size))
            found = deeplabv3_with_pointrend(model)(images)
        assert list(found) == list(expected) == ["out", "aux"]
        assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
            name: (value.shape, value.dtype) for name, value in expected.items()
        }
        torch.testing.assert_close(found["aux"], expected["aux"])
        assert found["out"].abs().sum() > 0

    def test_rendering_equals_the_librarys_model(self) -> None:
        """The same features, coarse prediction and point head in the library's model, every pixel rendered."""
        torch.manual_seed(0)
        ours = build_model("pointrend_deeplabv3_tiny", num_classes=3).eval()
        found = deeplabv3_with_pointrend(deeplabv3(aux=False), points_per_step=100).eval()
        give_opinions(found)
        ours.pointrend = found.pointrend
        images = torch.rand(2, 3, 64, 96)
        with torch.no_grad():
            features = found.backbone(images)
            coarse = CoarsePrediction(features, found.classifier(features["out"]), 8, (64, 96))
            torch.testing.assert_close(found(images)["out"], ours.render(coarse))

    def test_resnet50_and_mobilenet(self) -> None:
        """The layer of stride 4 and its channels are found in torchvision's own networks."""
        model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2)
        head = deeplabv3_with_pointrend(model).pointrend.point_head
        assert head.layers[0].in_channels == 256 + 2
        model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
        assert deeplabv3_with_pointrend(model, fine_level="3").stride == 16

    @pytest.mark.parametrize(
        ("make", "options", "error", "message"),
        [
            (lambda: fcn_resnet50(weights=None, weights_backbone=None), {}, TypeError, r"a torch.*\.FCN, expected tor"),
            (lambda: deeplabv3_with_pointrend(deeplabv3()), {}, TypeError, r"PointRendDeepLabV3, expected torchvision"),
            (deeplabv3, {"fine_level": "res2"}, ValueError, r"no layer 'res2', only conv1, .*layer4: pass .* stride 4"),
            (deeplabv3, {"fine_level": "layer2"}, ValueError, r"'layer2' has 8 x 8 cells for 64 x 64 .* stride of 4"),
        ],
    )
    def test_errors(
        self, make: Callable[[], nn.Module], options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            deeplabv3_with_pointrend(make(), **options)

    def test_labels_that_are_not_as_needed(self) -> None:
        model, images = deeplabv3_with_pointrend(deeplabv3()), torch.rand(2, 3, 64, 64)
        with pytest.raises(ValueError, match=r"training needs labels: model\(images, labels\)"):
            model(images)
        for labels in (torch.zeros(2, 32, 64).long(), torch.zeros(2, 64, 64)):
            with pytest.raises(ValueError, match=r"labels are .* expected int64 of shape \(2, 64, 64\)"):
                model(images, labels)


def test_documented_example() -> None:
    """The example of docs/python.md runs as it is written."""
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (example,) = [block for block in blocks if "mask_rcnn_with_pointrend" in block]
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["losses"].keys() >= {"loss_box_reg", "loss_mask", "loss_mask_point"}
    assert names["found"]["masks"].shape[1:] == (1, 120, 160)
    assert names["outputs"]["out"].shape == (2, 19, 64, 128)
    assert names["loss"].requires_grad


def test_type_checkers_find_the_annotations() -> None:
    assert (Path(pointrend.__file__).parent / "py.typed").is_file()
