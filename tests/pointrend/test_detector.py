import math
from functools import partial
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, clip_boxes_to_image

from pointrend.backbones import STRIDES
from pointrend.detector import Anchors, BoxHeads, ProposalNetwork, box_heads, proposal_network
from pointrend.instance_inference import detect_boxes
from pointrend.sampled_anchors import Cells, pyramid_cells


def pyramid(height: int, width: int, channels: int = 1, images: int = 1) -> dict[str, Tensor]:
    """Zero features of an image of this size, P2 to P6."""
    return {
        name: torch.zeros(images, channels, math.ceil(height / stride), math.ceil(width / stride))
        for name, stride in STRIDES.items()
    }


def anchors_of(maps: dict[str, Tensor], sizes: tuple[int, ...] = (32, 64, 128, 256, 512)) -> list[Tensor]:
    images = len(maps["p2"])
    height, width = (edge * 4 for edge in maps["p2"].shape[-2:])
    batch = ImageList(torch.zeros(images, 3, height, width), [(height, width)] * images)
    return Anchors(sizes)(batch, list(maps.values()))


class TestAnchors:
    def test_first_cell_by_hand(self) -> None:
        (anchors,) = anchors_of(pyramid(64, 64))
        # Ratio is height / width; the area is 32 squared; whole pixels would be 46 x 22.
        expected = [
            [-22.6274, -11.3137, 22.6274, 11.3137],
            [-16.0, -16.0, 16.0, 16.0],
            [-11.3137, -22.6274, 11.3137, 22.6274],
        ]
        torch.testing.assert_close(anchors[:3], torch.tensor(expected))

    def test_neighbours_are_a_stride_apart(self) -> None:
        (anchors,) = anchors_of(pyramid(64, 96))
        right, below = anchors[3], anchors[24 * 3]
        torch.testing.assert_close(right - anchors[0], torch.tensor([4.0, 0.0, 4.0, 0.0]))
        torch.testing.assert_close(below - anchors[0], torch.tensor([0.0, 4.0, 0.0, 4.0]))

    def test_every_level_has_its_size_and_its_exact_stride(self) -> None:
        # 800 pixels are 25 cells of P5 and 13 of P6: dividing the image by its map gives 61, not 64.
        maps = pyramid(800, 800)
        assert [feature.shape[-1] for feature in maps.values()] == [200, 100, 50, 25, 13]
        (anchors,) = anchors_of(maps)
        levels = anchors.split([3 * feature[0, 0].numel() for feature in maps.values()])
        for level, feature, stride, size in zip(
            levels, maps.values(), (4, 8, 16, 32, 64), (32, 64, 128, 256, 512), strict=True
        ):
            cells = feature.shape[-1]
            boxes = level.view(cells, cells, 3, 4)
            areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
            torch.testing.assert_close(areas, torch.full_like(areas, size**2), rtol=1e-4, atol=0)
            centres = (boxes[..., :2] + boxes[..., 2:]) / 2
            positions = torch.arange(cells) * float(stride)
            expected = torch.stack((positions.expand(cells, cells), positions[:, None].expand(cells, cells)), dim=2)
            torch.testing.assert_close(centres, expected[:, :, None].expand_as(centres), atol=1e-3, rtol=0)

    def test_same_for_every_image(self) -> None:
        first, second = anchors_of(pyramid(64, 64, images=2))
        assert torch.equal(first, second)


@pytest.mark.parametrize(("autocast", "training"), [(True, False), (True, True), (False, False)])
def test_proposals_of_bfloat16_features_are_float32(autocast: bool, training: bool) -> None:
    """Under autocast, or where the network itself is bfloat16."""
    sizes = (32, 64, 128, 256, 512)
    network = proposal_network(8, sizes, (100, 100), 100).train(training)
    for parameter in network.head.bbox_pred.parameters():
        torch.nn.init.zeros_(parameter)
    maps = {name: torch.randn(1, 8, *feature.shape[-2:]).bfloat16() for name, feature in pyramid(512, 1024).items()}
    if not autocast:
        network = network.bfloat16()
    batch = ImageList(torch.zeros(1, 3, 512, 1024), [(512, 1024)])
    targets = [{"boxes": torch.tensor([[700.3, 20.9, 901.7, 333.1]]), "labels": torch.tensor([1])}]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        (proposals,), losses = network(batch, maps, targets if training else None)
    anchors = clip_boxes_to_image(anchors_of(maps)[0], (512, 1024))
    assert proposals.dtype == torch.float32
    assert len(proposals) == 100
    assert ((proposals[:, None] - anchors).abs().amax(dim=2).min(dim=1).values < 1e-3).all()
    assert {loss.dtype for loss in losses.values()} <= {torch.float32}


class OneCell(nn.Module):
    """An anchor generator of a pyramid of one cell."""

    def __init__(self, anchors: Tensor) -> None:
        super().__init__()
        self.anchors = anchors

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        return [self.anchors] * len(images.image_sizes)

    def cells(self, maps: list[Tensor]) -> Cells:
        return pyramid_cells([[1, 1]], self.anchors.device)


def test_proposal_losses_by_hand() -> None:
    network = proposal_network(8, (32, 64, 128, 256, 512), (100, 100), 100)
    logits, deltas = network.head.cls_logits.bias, network.head.bbox_pred.bias
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.zero_()
        logits.copy_(torch.tensor([2.0, -1.0, 5.0]))
        deltas.copy_(torch.tensor([0.5, -0.25, 0.0, 0.1, *[9.0] * 8]))
    # The object is as wide as the first anchor and e^0.3 times as high, about the same centre: an IoU of 0.74. The
    # second anchor is far away, background; the third has an IoU of 0.37, which is neither.
    height = 10 * math.exp(0.3)
    network.anchor_generator = OneCell(
        torch.tensor([[0.0, -5.0, 10.0, 5.0], [40.0, 40.0, 48.0, 48.0], [0.0, -5.0, 10.0, 0.0]])
    )
    target = {"boxes": torch.tensor([[0.0, -height / 2, 10.0, height / 2]]), "labels": torch.tensor([1])}
    batch = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])
    losses = network.losses(batch, {"p2": torch.randn(1, 8, 1, 1)}, [target])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 256
    assert losses["loss_objectness"].item() == pytest.approx(expected)
    # L1, over the 256 anchors that an image samples at most.
    assert losses["loss_rpn_box_reg"].item() == pytest.approx((0.5 + 0.25 + 0.2) / 256)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert deltas.grad is not None
    assert (logits.grad != 0).tolist() == [True, True, False]
    assert deltas.grad.mul(256).tolist() == [1, -1, 0, -1, *[0] * 8]


def dense_losses(
    network: ProposalNetwork, batch: ImageList, maps: dict[str, Tensor], targets: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The losses of a network from the predictions of its head at every cell."""
    logits, deltas = (
        torch.cat([level.flatten(2).transpose(1, 2).flatten(1) for level in levels], dim=1)
        for levels in network.head(list(maps.values()))
    )

    def read(head: object, levels: object, cells: object, anchors: Tensor, foreground: int) -> tuple[Tensor, Tensor]:
        return logits.flatten()[anchors], deltas.view(-1, 4)[anchors[:foreground]]

    with mock.patch("pointrend.detector.predict_at", read):
        return network.losses(batch, maps, targets)


@pytest.mark.parametrize("compiled", [False, True])
def test_losses_are_those_of_the_maps_at_hand(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one size after those of another: the losses and gradients of the head at every cell."""
    network = proposal_network(8, (32, 64, 128, 256, 512), (100, 100), 100)
    network.anchor_generator(ImageList(torch.zeros(1), [(96, 256)]), list(pyramid(96, 256).values()))  # keeps its cells
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    target = {"boxes": torch.tensor([[20.0, 30.0, 90.0, 110.0]]), "labels": torch.tensor([1])}
    for size in ((128, 192), (192, 128), (64, 256)):
        batch = ImageList(torch.zeros(2, 3, *size), [size] * 2)
        maps = {name: torch.randn_like(feature) for name, feature in pyramid(*size, 8, 2).items()}
        results = []
        for losses_of in (network, partial(dense_losses, network)):
            network.zero_grad()
            torch.manual_seed(1)
            losses = losses_of(batch, maps, [target] * 2)
            losses = losses[1] if isinstance(losses, tuple) else losses
            sum(losses.values()).backward()
            results.append([*losses.values(), *(parameter.grad for parameter in network.parameters())])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)


def test_an_image_without_objects_trains_on_background_alone() -> None:
    torch.manual_seed(0)
    network = proposal_network(8, (32, 64, 128, 256, 512), (100, 100), 100)
    batch = ImageList(torch.zeros(1, 3, 256, 256), [(256, 256)])
    maps = {name: torch.randn(1, 8, *feature.shape[-2:]) for name, feature in pyramid(256, 256).items()}
    losses = network(batch, maps, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}])[1]
    assert losses["loss_rpn_box_reg"].item() == 0
    assert losses["loss_objectness"].item() == pytest.approx(math.log(2), rel=0.1)


class TestTrainStep:
    CHANNELS, CLASSES = 4, 3
    GROUND_TRUTH = torch.tensor([[10.0, 10.0, 60.0, 70.0], [50.0, 40.0, 120.0, 110.0]])

    def heads(self, rois_per_image: int = 16) -> BoxHeads:
        torch.manual_seed(0)
        return box_heads(self.CHANNELS, 16, self.CLASSES, rois_per_image, 100, 2).train()

    def features(self, images: int = 1) -> dict[str, Tensor]:
        return {name: torch.randn_like(f) for name, f in pyramid(128, 128, self.CHANNELS, images).items()}

    def near(self, count: int = 200) -> Tensor:
        """Boxes around the two objects, some close and some not."""
        boxes = self.GROUND_TRUTH[torch.randint(2, (count,))] + 12 * torch.randn(count, 4)
        return torch.cat((boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 4)), dim=1)

    def target(self) -> dict[str, Tensor]:
        return {"boxes": self.GROUND_TRUTH, "labels": torch.tensor([3, 1])}

    def test_regions_overlap_the_object_they_are_for(self) -> None:
        heads = self.heads()
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        proposals, targets = [self.near(), self.near(), self.near()], [self.target(), nothing, self.target()]
        regions, losses = heads.train_step(self.features(images=3), proposals, targets)
        assert all(loss.isfinite() for loss in losses.values())
        counts = [len(boxes) for boxes in regions.proposals]
        assert counts == [4, 0, 4]  # a quarter of 16
        for field in regions:
            assert [len(entry) for entry in field] == counts
        for image in (0, 2):
            matched = self.GROUND_TRUTH[regions.targets[image]]
            assert (box_iou(regions.proposals[image], matched).diag() >= 0.5).all()
            assert torch.equal(regions.labels[image], torch.tensor([3, 1])[regions.targets[image]])

    def test_objects_are_proposals_themselves(self) -> None:
        far = torch.tensor([[0.0, 90.0, 20.0, 120.0]])
        regions, _ = self.heads().train_step(self.features(), [far], [self.target()])
        assert sorted(regions.proposals[0].tolist()) == self.GROUND_TRUTH.tolist()

    def test_predicted_boxes_are_the_corrected_proposals_without_gradient(self) -> None:
        heads = self.heads()
        # For class 1 move by a tenth of the size in x, for class 3 double the height.
        with torch.no_grad():
            heads.box_predictor.bbox_pred.weight.zero_()
            heads.box_predictor.bbox_pred.bias.zero_()
            heads.box_predictor.bbox_pred.bias[4 * 1 + 0] = 0.1 * 10
            heads.box_predictor.bbox_pred.bias[4 * 3 + 3] = math.log(2) * 5
        regions, _ = heads.train_step(self.features(), [torch.zeros(0, 4)], [self.target()])
        by_label = dict(zip(regions.labels[0].tolist(), regions.predicted[0], strict=True))
        torch.testing.assert_close(by_label[3], torch.tensor([10.0, -20.0, 60.0, 100.0]))
        torch.testing.assert_close(by_label[1], torch.tensor([57.0, 40.0, 127.0, 110.0]))
        assert not regions.predicted[0].requires_grad

    def test_losses_by_hand(self) -> None:
        heads = self.heads()
        with torch.no_grad():
            for parameter in heads.box_predictor.parameters():
                parameter.zero_()
        target = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]), "labels": torch.tensor([2])}
        # Overlapping by 0.8, 0.4 and nothing: only the first is for the object.
        proposals = torch.tensor([[0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 4.0], [80.0, 80.0, 100.0, 100.0]])
        _, losses = heads.train_step(self.features(), [proposals], [target])
        assert losses.keys() == {"loss_classifier", "loss_box_reg"}
        assert losses["loss_classifier"].item() == pytest.approx(math.log(4))
        # The centre is 1 of 8 pixels off, weight 10; the height ln(10/8), weight 5; over four boxes.
        assert losses["loss_box_reg"].item() == pytest.approx((1 / 8 * 10 + math.log(10 / 8) * 5) / 4)


class TestDetect:
    def test_best_first_and_inside_the_image(self) -> None:
        torch.manual_seed(0)
        heads = box_heads(4, 16, 3, 16, 100, 2).eval()
        heads.score_thresh = 0.0
        with torch.no_grad():
            for parameter in heads.box_predictor.parameters():
                parameter.normal_(std=0.5)
        proposals = [torch.rand(30, 2).repeat(1, 2) * 100 + torch.tensor([0.0, 0.0, 25.0, 40.0]) for _ in range(2)]
        features = {name: torch.randn_like(f) for name, f in pyramid(128, 128, 4, 2).items()}
        with torch.no_grad():
            found = detect_boxes(heads, features, proposals, [(100, 90), (128, 128)])
        for boxes, scores, labels, (height, width) in zip(*found, [(100, 90), (128, 128)], strict=True):
            assert len(boxes) == len(scores) == len(labels) > 5
            assert (scores.diff() <= 0).all()
            assert set(labels.tolist()) <= {1, 2, 3}
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([width, height, width, height])).all()
            for label in (1, 2, 3):
                overlaps = box_iou(boxes[labels == label], boxes[labels == label]).fill_diagonal_(0)
                assert (overlaps <= 0.5).all()
