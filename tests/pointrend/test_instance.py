from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointrend import Rendering
from pointrend.detector import Regions
from pointrend.instance import FourConvMaskHead, PointRendMaskHead, crop_masks, mean_bce, select_class_logits
from pointrend.paste import paste_masks
from pointrend.points import sample_features
from pointrend.specs import PAPER_RENDERING, PAPER_SAMPLING

HEADS = ("4xconv", "pointrend")
DETECTOR_LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
MASK_LOSSES = {"4xconv": {"loss_mask"}, "pointrend": {"loss_mask", "loss_mask_point"}}


def test_one_class_is_every_region_s_own() -> None:
    logits = torch.randn(3, 1, 2, 2)
    assert torch.equal(select_class_logits(logits, torch.tensor([1, 7, 80])), logits)


def test_select_class_logits_by_hand() -> None:
    logits = torch.arange(12.0).view(2, 3, 2)
    assert select_class_logits(logits, torch.tensor([3, 1])).tolist() == [[[4.0, 5.0]], [[6.0, 7.0]]]
    assert select_class_logits(torch.zeros(0, 3, 7, 7), torch.zeros(0, dtype=torch.int64)).shape == (0, 1, 7, 7)


class TestMeanBCE:
    def test_by_hand(self) -> None:
        loss = mean_bce(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(loss, (torch.tensor(2.0).log() + torch.tensor(1 + torch.e**2).log()) / 2)

    def test_empty_is_zero_and_differentiable(self) -> None:
        weight = torch.ones(5, requires_grad=True)
        loss = mean_bce(torch.zeros(0, 5) * weight, torch.zeros(0, 5))
        loss.backward()
        assert loss.item() == 0
        assert weight.grad.tolist() == [0] * 5


class TestCropMasks:
    #: Left half of 8x8, and its lower right quarter.
    MASKS = torch.zeros(2, 8, 8, dtype=torch.bool)
    MASKS[0, :, :4] = True
    MASKS[1, 4:, 4:] = True

    @pytest.mark.parametrize(
        ("index", "box", "side", "expected"),
        [
            (0, [0, 0, 8, 8], 4, [[1, 1, 0, 0]] * 4),
            (0, [2, 0, 6, 8], 2, [[1, 0], [1, 0]]),
            (0, [4, 0, 8, 8], 2, [[0, 0], [0, 0]]),
            (1, [0, 0, 8, 8], 2, [[0, 0], [0, 1]]),
            (1, [4, 0, 8, 8], 2, [[0, 0], [1, 1]]),
            # One cell, of which the object covers 4/8, 3/7 and 4/7.
            (0, [0, 0, 8, 8], 1, [[1]]),
            (0, [1, 0, 8, 8], 1, [[0]]),
            (0, [0, 0, 7, 8], 1, [[1]]),
            # Far outside of the image there is nothing.
            (0, [-8, 0, 8, 8], 4, [[0, 0, 1, 0]] * 4),
        ],
    )
    def test_by_hand(self, index: int, box: list[int], side: int, expected: list[list[int]]) -> None:
        crop = crop_masks([self.MASKS], [torch.tensor([index])], [torch.tensor([box]).float()], [(8, 8)], side)
        assert crop[0].tolist() == expected

    def test_one_object_for_many_regions(self) -> None:
        boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 4.0, 4.0]])
        crops = crop_masks([self.MASKS], [torch.tensor([1, 0, 0])], [boxes], [(8, 8)], 2)
        assert crops.tolist() == [[[0, 0], [0, 1]], [[1, 0], [1, 0]], [[1, 1], [1, 1]]]

    def test_resolution_of_the_ground_truth_does_not_matter(self) -> None:
        torch.manual_seed(0)
        masks = torch.rand(3, 8, 8) < 0.5
        indices = torch.tensor([0, 1, 2, 0])
        # In an image of 32x24: cells of the ground truth are 4x3 pixels.
        boxes = torch.tensor([[0, 0, 24, 32], [3, 4, 15, 20], [9, 16, 21, 32], [0, 8, 12, 24]]).float()
        expected = crop_masks([masks], [indices], [boxes], [(32, 24)], 4)
        assert 0 < expected.mean() < 1
        for factor in (2, 3):
            finer = masks.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
            assert torch.equal(crop_masks([finer], [indices], [boxes], [(32, 24)], 4), expected)

    def test_no_objects(self) -> None:
        nothing = torch.zeros(0, 9, 9, dtype=torch.bool)
        crops = crop_masks([nothing], [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, 4)], [(18, 18)], 7)
        assert crops.shape == (0, 7, 7)

    def test_images_of_different_sizes_at_once(self) -> None:
        torch.manual_seed(0)
        masks = [torch.rand(count, *size) < 0.5 for count, size in ((3, (8, 8)), (0, (5, 9)), (2, (20, 6)))]
        indices = [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64), torch.tensor([1, 1, 0])]
        boxes = [torch.rand(len(i), 2).repeat(1, 2) * 10 + torch.tensor([0.0, 0.0, 9.0, 12.0]) for i in indices]
        sizes = [(32, 24), (10, 18), (20, 24)]
        images = zip(masks, indices, boxes, sizes, strict=True)
        each = [crop_masks(*([value] for value in image), 4) for image in images]
        assert torch.equal(crop_masks(masks, indices, boxes, sizes, 4), torch.cat(each))


def pyramid(images: int = 1, channels: int = 4) -> dict[str, Tensor]:
    """Random features of 64x64 images."""
    torch.manual_seed(3)
    sides = {"p2": 16, "p3": 8, "p4": 4, "p5": 2, "pool": 1}
    return {name: torch.randn(images, channels, side, side) for name, side in sides.items()}


def pointrend_head(**options: Any) -> PointRendMaskHead:
    torch.manual_seed(0)
    settings = {"sampling": PAPER_SAMPLING, "rendering": PAPER_RENDERING, **options}
    return PointRendMaskHead(4, 3, coarse_channels=8, coarse_hidden=16, point_channels=8, **settings)


class TestFineFeatures:
    def test_by_hand(self) -> None:
        ramp = torch.arange(6.0).expand(1, 1, 4, 6)
        features = {"p2": torch.cat((ramp, ramp + 100))}
        boxes = [torch.tensor([[4.0, 4.0, 12.0, 12.0], [0.0, 0.0, 16.0, 8.0]]), torch.tensor([[8.0, 0.0, 16.0, 16.0]])]
        points = torch.tensor([[[0.5, 0.5], [0.0, 0.25]], [[0.25, 0.5], [1.0, 0.5]], [[0.25, 0.5], [0.5, 0.5]]])
        # Pixel x of the image is column x / 4 - 1/2 of P2.
        expected = [[[1.5, 0.5]], [[0.5, 3.5]], [[102.0, 102.5]]]
        sampled = pointrend_head().fine_features(features, boxes, points)
        torch.testing.assert_close(sampled, torch.tensor(expected), atol=1e-4, rtol=0)

    def test_equals_sampling_each_region_alone(self) -> None:
        features = pyramid(images=2)
        boxes = [torch.rand(3, 2).repeat(1, 2) * 30 + torch.tensor([0.0, 0.0, 20.0, 34.0]) for _ in range(2)]
        points = torch.rand(6, 11, 2)
        sampled = pointrend_head().fine_features(features, boxes, points)
        for region in range(6):
            image, box = region // 3, boxes[region // 3][region % 3]
            located = (box[:2] + points[region] * (box[2:] - box[:2])) / 64
            expected = sample_features(features["p2"][image][None], located[None])[0]
            torch.testing.assert_close(sampled[region], expected, atol=1e-4, rtol=0)

    def test_an_image_without_regions_between_others(self) -> None:
        box = torch.tensor([[4.0, 4.0, 40.0, 30.0]])
        features, points = pyramid(images=3), torch.rand(2, 5, 2)
        sampled = pointrend_head().fine_features(features, [box, torch.zeros(0, 4), box], points)
        outer = {"p2": features["p2"][[0, 2]]}
        torch.testing.assert_close(sampled, pointrend_head().fine_features(outer, [box, box], points))


class TestMaskLosses:
    @staticmethod
    def regions(proposals: Tensor, predicted: Tensor) -> Regions:
        count = len(proposals)
        return Regions([proposals], [predicted], [torch.arange(count) % 3 + 1], [torch.zeros(count, dtype=torch.int64)])

    @staticmethod
    def target(factor: int = 1) -> dict[str, Tensor]:
        """Of an image of 48x64 pixels, padded to 64x64 and annotated at a quarter of that or ``factor`` times finer."""
        mask = torch.zeros(1, 12, 16, dtype=torch.bool)
        mask[0, 2:11, 4:10] = True
        mask = mask.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
        return {"masks": mask}

    ONE = torch.tensor([[8.0, 8.0, 50.0, 60.0], [4.0, 12.0, 44.0, 52.0]])
    OTHER = torch.tensor([[20.0, 2.0, 62.0, 40.0], [10.0, 30.0, 30.0, 64.0]])

    @staticmethod
    def losses(head: nn.Module, regions: Regions, target: dict[str, Tensor]) -> dict[str, float]:
        torch.manual_seed(7)
        return {
            name: loss.item() for name, loss in head.losses(pyramid(), regions, [target["masks"]], [(48, 64)]).items()
        }

    def test_pointrend_trains_on_predicted_boxes(self) -> None:
        head, target = pointrend_head(), self.target()
        losses = self.losses(head, self.regions(self.ONE, self.ONE), target)
        assert losses.keys() == MASK_LOSSES["pointrend"]
        assert self.losses(head, self.regions(self.OTHER, self.ONE), target) == losses
        moved = self.losses(head, self.regions(self.ONE, self.OTHER), target)
        assert all(moved[name] != losses[name] for name in losses)

    def test_pointrend_without_the_cascade_trains_on_proposals(self) -> None:
        head, target = pointrend_head(), self.target()
        head.cascade = False
        losses = self.losses(head, self.regions(self.ONE, self.ONE), target)
        assert self.losses(head, self.regions(self.ONE, self.OTHER), target) == losses
        moved = self.losses(head, self.regions(self.OTHER, self.ONE), target)
        assert all(moved[name] != losses[name] for name in losses)

    def test_a_four_conv_head_of_twice_the_side(self) -> None:
        """Section 4.1: RoIAlign of twice the size, the same layers."""
        head, target = FourConvMaskHead(4, 3, 8, 2, side=56), self.target()
        regions = self.regions(self.ONE, self.ONE)
        assert head.pooled_size == 28
        assert head.logits(pyramid(), [self.ONE], regions.labels, Rendering(56)).shape == (2, 1, 56, 56)
        assert self.losses(head, regions, target).keys() == MASK_LOSSES["4xconv"]
        with pytest.raises(ValueError, match="predicts 56x56 masks, not 28"):
            head.logits(pyramid(), [self.ONE], regions.labels, Rendering(28))

    def test_four_conv_trains_on_proposals(self) -> None:
        torch.manual_seed(0)
        head, target = FourConvMaskHead(4, 3, 8, 2), self.target()
        losses = self.losses(head, self.regions(self.ONE, self.ONE), target)
        assert losses.keys() == MASK_LOSSES["4xconv"]
        assert self.losses(head, self.regions(self.ONE, self.OTHER), target) == losses
        assert self.losses(head, self.regions(self.OTHER, self.ONE), target) != losses

    @pytest.mark.parametrize("kind", HEADS)
    def test_of_a_head_that_always_says_the_same(self, kind: str) -> None:
        """With logit c everywhere the loss is softplus(c) - c * (the share of foreground)."""
        head = pointrend_head() if kind == "pointrend" else FourConvMaskHead(4, 3, 8, 2)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.zero_()
            if kind == "pointrend":
                head.coarse_head.predictor.bias.fill_(1.5)
                head.point_head.predictor.bias.fill_(1.5)
            else:
                head.head[-1].bias.fill_(1.5)
        target = self.target()
        inside = self.regions(torch.tensor([[20.0, 12.0, 36.0, 40.0]]), torch.tensor([[20.0, 12.0, 36.0, 40.0]]))
        outside = self.regions(torch.tensor([[44.0, 4.0, 60.0, 40.0]]), torch.tensor([[44.0, 4.0, 60.0, 40.0]]))
        softplus = F.softplus(torch.tensor(1.5)).item()
        for loss in self.losses(head, inside, target).values():
            assert loss == pytest.approx(softplus - 1.5, abs=1e-5)
        for loss in self.losses(head, outside, target).values():
            assert loss == pytest.approx(softplus, abs=1e-5)

    def test_resolution_of_the_ground_truth_does_not_matter(self) -> None:
        # Cells of 7x7 that are 4 pixels each, as those of the ground truth are.
        boxes = torch.tensor([[4.0, 4.0, 32.0, 32.0], [12.0, 24.0, 40.0, 52.0]])
        head = pointrend_head(sampling=replace(PAPER_SAMPLING, strategy="grid", num_points=49))
        coarse, fine = (self.losses(head, self.regions(boxes, boxes), self.target(factor)) for factor in (1, 4))
        assert fine == pytest.approx(coarse, abs=1e-6)

    def test_only_the_own_class_learns(self) -> None:
        head = pointrend_head()
        boxes = self.ONE[:1]  # of class 1
        sum(
            head.losses(pyramid(), self.regions(boxes, boxes), [self.target()["masks"]], [(48, 64)]).values()
        ).backward()
        learning = [row.any().item() for row in head.point_head.predictor.weight.grad]
        assert learning == [True, False, False]


@pytest.mark.parametrize("kind", HEADS)
class TestTraining:
    BOXES = ((5, 8, 45, 50), (40, 20, 90, 60), (50, 2, 70, 20))

    def test_losses_are_finite_and_reach_every_parameter(
        self, kind: str, tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]
    ) -> None:
        model = tiny_model(kind)
        images, targets = zip(scene(64, 96, self.BOXES), scene(60, 70, [(0, 0, 70, 60)]), strict=True)
        losses = model(list(images), list(targets))
        assert losses.keys() == DETECTOR_LOSSES | MASK_LOSSES[kind]
        assert all(loss.isfinite() and loss.dim() == 0 and loss > 0 for loss in losses.values())
        sum(losses.values()).backward()
        silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
        assert silent == []

    def test_leaves_images_and_targets_alone(
        self, kind: str, tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]
    ) -> None:
        (image, target), (image_before, target_before) = scene(64, 96, self.BOXES), scene(64, 96, self.BOXES)
        tiny_model(kind)([image], [target])
        assert torch.equal(image, image_before)
        assert target.keys() == target_before.keys()
        assert all(torch.equal(target[name], target_before[name]) for name in target)

    def test_an_image_without_objects_beside_another(
        self, kind: str, tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]
    ) -> None:
        images, targets = zip(scene(64, 96, []), scene(64, 96, self.BOXES), strict=True)
        losses = tiny_model(kind)(list(images), list(targets))
        assert all(loss.isfinite() for loss in losses.values())
        assert losses["loss_mask"] > 0

    def test_only_images_without_objects(
        self, kind: str, tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]
    ) -> None:
        model = tiny_model(kind)
        image, target = scene(64, 96, [])
        assert target["boxes"].shape == (0, 4)
        assert target["masks"].shape == (0, 64, 96)
        losses = model([image], [target])
        assert {name: losses[name].item() for name in MASK_LOSSES[kind]} == dict.fromkeys(MASK_LOSSES[kind], 0)
        sum(losses.values()).backward()
        # Distributed training waits for the gradient of every parameter.
        assert [name for name, value in model.named_parameters() if value.grad is None] == []
        assert all(value.grad.isfinite().all() for value in model.parameters())

    def test_ground_truth_at_another_resolution(
        self, kind: str, tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]
    ) -> None:
        image, target = scene(64, 96, [(16, 8, 64, 56)])
        finer = {**target, "masks": F.interpolate(target["masks"][None].float(), scale_factor=4)[0].bool()}
        losses = []
        for ground_truth in (target, finer):
            model = tiny_model(kind)
            torch.manual_seed(5)
            losses.append({name: loss.item() for name, loss in model([image], [ground_truth]).items()})
        assert losses[1] == pytest.approx(losses[0], rel=2e-2)

    def test_bfloat16(self, kind: str, tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]) -> None:
        model = tiny_model(kind)
        image, target = scene(64, 96, self.BOXES)
        with torch.autocast("cpu", torch.bfloat16):
            losses = model([image], [target])
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert all(value.grad.isfinite().all() for value in model.parameters())

    def test_needs_targets(self, kind: str, tiny_model: Callable[..., nn.Module]) -> None:
        with pytest.raises(ValueError, match="targets"):
            tiny_model(kind)([torch.rand(3, 64, 64)])


@pytest.mark.parametrize("kind", ["4xconv", "pointrend"])
def test_a_frozen_detector_stays_as_it_is_and_the_mask_head_learns(
    kind: str, tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]
) -> None:
    model = tiny_model(kind).train()
    model.freeze_detector()
    image, target = scene(64, 96, [(10, 8, 60, 50), (30, 20, 80, 60)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    for _ in range(2):
        losses = model([image], [target])
        assert losses.keys() == ({"loss_mask"} if kind == "4xconv" else {"loss_mask", "loss_mask_point"})
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("mask_head.") for name in changed)


def test_proposals_without_losses_are_those_with_them(
    tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]
) -> None:
    model = tiny_model("pointrend").train()
    image, target = scene(64, 96, [(10, 8, 60, 50)])
    batch = model.transform([image])
    with torch.no_grad():
        features = model.backbone(batch.tensors)
        expected, losses = model.rpn(batch, features, [target])
        (found,) = model.rpn.propose(batch, features)
    assert losses
    assert len(found) > 10
    assert torch.equal(found, expected[0])


def test_a_few_steps_learn_a_mask(tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]) -> None:
    """Overfits the mask losses of one picture."""
    model = tiny_model("pointrend")
    image, target = scene(64, 64, [(12, 12, 52, 52)])
    image[:, target["masks"][0]] *= 0.3
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = []
    for _ in range(20):
        losses = model([image], [target])
        history.append((losses["loss_mask"] + losses["loss_mask_point"]).item())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert sum(history[-3:]) < 0.5 * sum(history[:3])


@pytest.mark.parametrize("kind", HEADS)
class TestPrediction:
    SIDE = 28

    @pytest.fixture
    def model(self, kind: str, tiny_model: Callable[..., nn.Module]) -> nn.Module:
        return tiny_model(kind).eval()

    @pytest.fixture
    def images(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        return [torch.rand(3, 80, 110, generator=generator), torch.rand(3, 50, 40, generator=generator)]

    @torch.inference_mode()
    def test_convention(self, kind: str, model: nn.Module, images: list[Tensor]) -> None:
        outputs = model(images)
        assert len(outputs) == 2
        for image, output in zip(images, outputs, strict=True):
            height, width = image.shape[-2:]
            count = len(output["boxes"])
            assert count == 5
            assert {name: tuple(value.shape) for name, value in output.items()} == {
                "boxes": (count, 4),
                "labels": (count,),
                "scores": (count,),
                "masks": (count, 1, height, width),
                "region_masks": (count, 1, self.SIDE, self.SIDE),
            }
            assert output["labels"].dtype == torch.int64
            assert set(output["labels"].tolist()) <= {1, 2, 3}
            assert (output["scores"].diff() <= 0).all()
            for name in ("scores", "masks", "region_masks"):
                assert ((output[name] >= 0) & (output[name] <= 1)).all()
            boxes = output["boxes"]
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()
            assert output["region_masks"].std() > 0.01
            torch.testing.assert_close(output["masks"], paste_masks(output["region_masks"], boxes, (height, width)))

    @torch.inference_mode()
    def test_detect_and_render_equal_forward(self, kind: str, model: nn.Module, images: list[Tensor]) -> None:
        outputs, found = model(images), model.detect(images)
        for output, boxes, labels, scores, region_masks in zip(
            outputs, found.original_boxes(), found.labels, found.scores, model.region_masks(found), strict=True
        ):
            assert torch.equal(output["boxes"], boxes)
            assert torch.equal(output["labels"], labels)
            assert torch.equal(output["scores"], scores)
            assert torch.equal(output["region_masks"], region_masks)

    @torch.inference_mode()
    def test_no_detections(self, kind: str, model: nn.Module, images: list[Tensor]) -> None:
        model.roi_heads.score_thresh = 1.1
        for image, output in zip(images, model(images), strict=True):
            assert {name: tuple(value.shape) for name, value in output.items()} == {
                "boxes": (0, 4),
                "labels": (0,),
                "scores": (0,),
                "masks": (0, 1, *image.shape[-2:]),
                "region_masks": (0, 1, self.SIDE, self.SIDE),
            }

    @torch.inference_mode()
    def test_detections_in_one_image_only(self, kind: str, model: nn.Module, images: list[Tensor]) -> None:
        best = [output["scores"][0].item() for output in model(images)]
        assert best[0] != best[1]
        model.roi_heads.score_thresh = sum(best) / 2
        counts = [len(output["masks"]) for output in model(images)]
        assert [count > 0 for count in counts] == [score == max(best) for score in best]

    @torch.inference_mode()
    def test_a_batch_gives_what_its_images_give_alone(self, kind: str, model: nn.Module) -> None:
        # Resized to 64x80 and 64x90, both padded to 64x96.
        images = [torch.rand(3, 64, 80), torch.rand(3, 128, 180)]
        for image, output in zip(images, model(images), strict=True):
            (alone,) = model([image])
            assert output["labels"].tolist() == alone["labels"].tolist()
            for name in ("boxes", "scores", "masks", "region_masks"):
                torch.testing.assert_close(output[name], alone[name], atol=1e-3, rtol=0)

    @torch.inference_mode()
    def test_boxes_are_in_pixels_of_the_given_image(self, kind: str, model: nn.Module) -> None:
        image = torch.rand(3, 100, 300)
        found = model.detect([image])
        assert found.input_sizes == [(32, 96)]
        (output,) = model([image])
        torch.testing.assert_close(output["boxes"], found.boxes[0] * 3.125)

    @torch.inference_mode()
    def test_bfloat16(self, kind: str, model: nn.Module, images: list[Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images)
        for output in outputs:
            assert len(output["boxes"]) == 5
            assert {output[name].dtype for name in ("boxes", "scores", "masks", "region_masks")} == {torch.float32}

    def test_refuses_a_bad_image(self, kind: str, model: nn.Module) -> None:
        with pytest.raises(ValueError, match=r"image 1 is torch\.uint8"):
            model([torch.rand(3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.uint8)])

    def test_double_precision_images(self, kind: str, model: nn.Module, images: list[Tensor]) -> None:
        with torch.inference_mode():
            (output,) = model([images[0].double()])
            (expected,) = model([images[0]])
        torch.testing.assert_close(output["boxes"].float(), expected["boxes"], atol=1e-2, rtol=0)


@pytest.mark.parametrize("kind", ["pointrend", "4xconv"])
class TestClassAgnostic:
    """One mask per region, whatever its class."""

    def test_trains_on_objects_of_any_class(
        self, kind: str, tiny_model: Callable[..., nn.Module], scene: Callable[..., Any]
    ) -> None:
        model = tiny_model(kind, class_agnostic=True)
        image, target = scene(64, 96, [(5, 5, 40, 40), (50, 10, 90, 60), (10, 30, 60, 60)])
        assert target["labels"].tolist() == [1, 2, 3]
        losses = model([image], [target])
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        masks = [value.grad for name, value in model.named_parameters() if name.startswith("mask_head.")]
        assert all(grad is not None and grad.any() for grad in masks)

    @torch.inference_mode()
    def test_predicts_all_classes_of_boxes(self, kind: str, tiny_model: Callable[..., nn.Module]) -> None:
        model = tiny_model(kind, class_agnostic=True).eval()
        (output,) = model([torch.rand(3, 64, 96)])
        assert output["masks"].shape == (5, 1, 64, 96)
        assert model.roi_heads.box_predictor.cls_score.out_features == 4

    @torch.inference_mode()
    def test_the_class_of_a_region_does_not_matter(self, kind: str, tiny_model: Callable[..., nn.Module]) -> None:
        model = tiny_model(kind, class_agnostic=True).eval()
        found = model.detect([torch.rand(3, 64, 96)])
        (before,) = model.region_masks(found)
        found.labels = [labels % 3 + 1 for labels in found.labels]
        assert torch.equal(model.region_masks(found)[0], before)


@pytest.mark.parametrize("kind", ["pointrend", "4xconv"])
def test_nan_in_features_is_one_error(kind: str, tiny_model: Callable[..., nn.Module]) -> None:
    model = tiny_model(kind).eval()
    nn.init.constant_(model.backbone.body["layer4"][0].conv1.weight, torch.nan)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"feature map 'p2', of shape .* holds NaN"):
        model([torch.rand(3, 64, 96)])


class TestRendering:
    @pytest.fixture(scope="class")
    def model(self, tiny_model: Callable[..., nn.Module]) -> nn.Module:
        return tiny_model("pointrend").eval()

    @pytest.fixture(scope="class")
    def found(self, model: nn.Module) -> Any:
        with torch.inference_mode():
            return model.detect([torch.rand(3, 64, 96), torch.rand(3, 64, 64)])

    @torch.inference_mode()
    @pytest.mark.parametrize("resolution", [7, 14, 28, 56, 112, 224])
    def test_one_detection_renders_at_any_resolution(self, model: nn.Module, found: Any, resolution: int) -> None:
        region_masks = model.region_masks(found, Rendering(resolution, 49))
        assert [tuple(masks.shape) for masks in region_masks] == [(5, 1, resolution, resolution)] * 2

    @torch.inference_mode()
    def test_the_coarse_resolution_is_the_coarse_prediction(self, model: nn.Module, found: Any) -> None:
        coarse = model.mask_head.coarse_logits(found.features, found.boxes)
        expected = coarse[torch.arange(10), torch.cat(found.labels) - 1].sigmoid()
        torch.testing.assert_close(torch.cat(model.region_masks(found, Rendering(7, 49)))[:, 0], expected)

    @torch.inference_mode()
    def test_enough_points_are_the_point_head_everywhere(self, model: nn.Module, found: Any) -> None:
        head = model.mask_head
        centres = (torch.arange(14) + 0.5) / 14
        points = torch.stack((centres.repeat(14), centres.repeat_interleave(14)), dim=1).expand(10, -1, -1)
        coarse = head.coarse_logits(found.features, found.boxes)
        logits = head.point_logits(found.features, found.boxes, coarse, points)
        expected = logits[torch.arange(10), torch.cat(found.labels) - 1].sigmoid().view(10, 14, 14)
        rendered = torch.cat(model.region_masks(found, Rendering(14, 14 * 14)))[:, 0]
        torch.testing.assert_close(rendered, expected)

    @torch.inference_mode()
    def test_more_points_change_the_mask(self, model: nn.Module, found: Any) -> None:
        few, many = (torch.cat(model.region_masks(found, Rendering(28, points))) for points in (10, 28 * 28))
        assert not torch.equal(few, many)

    @pytest.mark.parametrize("resolution", [1, 6, 8, 21, 100, 223])
    def test_wrong_resolution(self, model: nn.Module, found: Any, resolution: int) -> None:
        with pytest.raises(ValueError, match=rf"\b{resolution}(\b|x)") as raised:
            model.region_masks(found, Rendering(resolution, 49))
        assert "7" in str(raised.value)

    def test_four_conv_has_one_resolution(self, tiny_model: Callable[..., nn.Module]) -> None:
        model = tiny_model("4xconv").eval()
        with torch.inference_mode():
            found = model.detect([torch.rand(3, 64, 64)])
            assert torch.equal(model.region_masks(found)[0], model.region_masks(found, Rendering(28, 1))[0])
        with pytest.raises(ValueError, match="28x28 masks, not 56"):
            model.region_masks(found, Rendering(56, 1))

    @pytest.mark.parametrize(
        ("options", "message"), [({"resolution": 0}, "resolution is 0"), ({"num_points": -1}, "num_points is -1")]
    )
    def test_refuses_values_outside_their_domain(self, options: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(PAPER_RENDERING, **options)
