"""RoIAlign by matrix products is torchvision's, and every box is read from the level of its size."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import roi_align as torchvision_roi_align

from pointrend.backbones import STRIDES
from pointrend.pooling import pool_regions, roi_align


def pyramid(height: int, width: int, channels: int = 1, images: int = 1) -> dict[str, Tensor]:
    """Zero features of an image of this size, P2 to P6."""
    return {
        name: torch.zeros(images, channels, math.ceil(height / stride), math.ceil(width / stride))
        for name, stride in STRIDES.items()
    }


class TestRoIAlign:
    @staticmethod
    def assert_equal(feature: Tensor, rois: Tensor, side: int, scale: float, sampling_ratio: int) -> None:
        """Values, and gradients of a weighted sum of them."""
        found = []
        for function in (torchvision_roi_align, roi_align):
            options = {"aligned": True} if function is torchvision_roi_align else {}
            inputs = feature.clone().requires_grad_()
            pooled = function(inputs, rois, side, scale, sampling_ratio, **options)  # type: ignore[operator]
            (pooled * torch.linspace(-1, 2, pooled.numel(), dtype=pooled.dtype).view(pooled.shape)).sum().backward()
            found.append((pooled.detach(), inputs.grad))
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)

    @settings(deadline=None, max_examples=80)
    @given(
        boxes=st.lists(st.tuples(*[st.floats(-90, 160, width=32)] * 2, *[st.floats(0, 90, width=32)] * 2), max_size=5),
        size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
        side=st.integers(1, 5),
        scale=st.sampled_from([1.0, 1 / 4, 1 / 8]),
        sampling_ratio=st.integers(0, 3),
    )
    def test_is_torchvisions(
        self,
        boxes: list[tuple[float, ...]],
        size: tuple[int, int],
        side: int,
        scale: float,
        sampling_ratio: int,
    ) -> None:
        """Boxes inside, partly or wholly outside, and without area."""
        torch.manual_seed(0)
        corners = [(index % 2, x, y, x + w, y + h) for index, (x, y, w, h) in enumerate(boxes)]
        rois = torch.tensor(corners, dtype=torch.double).view(-1, 5)
        feature = torch.randn(2, 3, *size, dtype=torch.double)
        self.assert_equal(feature, rois, side, scale, sampling_ratio)

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_of_many_boxes_in_float32(self, channels_last: bool) -> None:
        torch.manual_seed(0)
        corners = torch.rand(200, 2) * torch.tensor([310.0, 230.0])
        rois = torch.cat((torch.randint(0, 2, (200, 1)), corners - 5, corners + torch.rand(200, 2) * 120), dim=1)
        feature = torch.randn(2, 16, 60, 80)
        if channels_last:
            feature = feature.to(memory_format=torch.channels_last)
        expected = torchvision_roi_align(feature, rois, 7, 0.25, aligned=True)
        torch.testing.assert_close(roi_align(feature, rois, 7, 0.25), expected, rtol=1e-4, atol=1e-5)

    def test_no_boxes_have_a_gradient_of_zero(self) -> None:
        feature = torch.randn(1, 3, 4, 5, requires_grad=True)
        pooled = roi_align(feature, torch.zeros(0, 5), 7, 0.25)
        assert pooled.shape == (0, 3, 7, 7)
        pooled.sum().backward()
        assert feature.grad is not None
        assert not feature.grad.any()


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_pyramid_is_torchvisions(sampling_ratio: int) -> None:
    """Which is not aligned: it is given boxes that are half a cell of the level that they are read from off."""
    torch.manual_seed(0)
    maps = {name: torch.randn(2, 4, *f.shape[-2:]) for name, f in pyramid(512, 768, images=2).items()}
    corners = torch.rand(60, 2) * torch.tensor([600.0, 400.0])
    boxes = torch.cat((corners, corners + 2 + torch.rand(60, 2).square() * 700), dim=1)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 70).all(dim=1)]  # torchvision's are a cell or more at the least
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    strides = 2 ** (4 + torch.log2(areas.sqrt() / 224 + 1e-8)).floor().clamp(2, 5)
    assert len(strides.unique()) >= 3
    theirs = MultiScaleRoIAlign(["p2", "p3", "p4", "p5"], 7, sampling_ratio or -1)
    expected = theirs(maps, [boxes - strides[:, None] / 2, boxes[:3] - strides[:3, None] / 2], [(512, 768)] * 2)
    torch.testing.assert_close(
        pool_regions(maps, [boxes, boxes[:3]], 7, sampling_ratio), expected, rtol=1e-3, atol=1e-4
    )


class TestPoolRegions:
    @staticmethod
    def constant_levels() -> dict[str, Tensor]:
        """Each level holds its number, the second image's levels ten more."""
        maps = pyramid(1024, 1024, images=2)
        for level, feature in enumerate(maps.values(), start=2):
            feature[0], feature[1] = level, level + 10
        return maps

    @pytest.mark.parametrize(
        ("side", "level"),
        [(4, 2), (111, 2), (112, 3), (223, 3), (224, 4), (447, 4), (448, 5), (900, 5)],
    )
    def test_level_fits_the_box(self, side: int, level: int) -> None:
        boxes = torch.tensor([[50.0, 60.0, 50.0 + side, 60.0 + side]])
        pooled = pool_regions(self.constant_levels(), [boxes, boxes], 7)
        torch.testing.assert_close(pooled, torch.tensor([level, level + 10.0]).view(2, 1, 1, 1).expand(2, 1, 7, 7))

    def test_level_goes_by_area(self) -> None:
        boxes = [torch.tensor([[0.0, 0.0, 112.0, 448.0], [0.0, 0.0, 56.0, 224.0]]), torch.zeros(0, 4)]
        assert pool_regions(self.constant_levels(), boxes, 1).flatten().tolist() == pytest.approx([4, 3])

    def test_regions_keep_their_order(self) -> None:
        def square(side: float) -> list[float]:
            return [10.0, 10.0, 10.0 + side, 10.0 + side]

        boxes = [torch.tensor([square(500), square(20), square(300)]), torch.tensor([square(20), square(150)])]
        pooled = pool_regions(self.constant_levels(), boxes, 3)
        assert pooled.mean(dim=(1, 2, 3)).tolist() == pytest.approx([5, 2, 4, 12, 13])

    @pytest.mark.parametrize(("level", "stride", "side"), [("p2", 4, 64.0), ("p3", 8, 128.0), ("p4", 16, 256.0)])
    @pytest.mark.parametrize("sampling_ratio", [0, 2])
    def test_cells_read_the_image_at_their_own_centre(
        self, level: str, stride: int, side: float, sampling_ratio: int
    ) -> None:
        maps = pyramid(512, 512)
        # Every pixel of the map knows where it is in the image.
        maps[level][0, 0] = (torch.arange(512 // stride) + 0.5) * stride
        pooled = pool_regions(maps, [torch.tensor([[100.0, 90.0, 100.0 + side, 90.0 + side]])], 7, sampling_ratio)
        expected = 100 + (torch.arange(7) + 0.5) * side / 7
        torch.testing.assert_close(pooled[0, 0], expected.expand(7, 7))

    @pytest.mark.parametrize("autocast", [False, True])
    def test_boxes_are_not_rounded_to_the_features_type(self, autocast: bool) -> None:
        """At 1,900 pixels, neighbouring bfloat16 numbers are 8 apart."""
        torch.manual_seed(0)
        maps = {name: torch.randn(1, 2, *f.shape[-2:]).bfloat16() for name, f in pyramid(256, 2048).items()}
        boxes = [torch.tensor([[1901.3, 13.7, 1943.9, 60.1], [1500.2, 3.3, 1811.7, 240.6]])]
        exact = pool_regions({name: feature.float() for name, feature in maps.items()}, boxes, 7)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            pooled = pool_regions(maps, boxes, 7)
        assert torch.equal(pooled, exact.bfloat16())

    def test_no_regions(self) -> None:
        pooled = pool_regions(pyramid(64, 64, channels=5, images=2), [torch.zeros(0, 4)] * 2, 7)
        assert pooled.shape == (0, 5, 7, 7)

    def test_gradient_reaches_the_level_that_was_read(self) -> None:
        maps = {name: feature.requires_grad_() for name, feature in pyramid(512, 512).items()}
        pool_regions(maps, [torch.tensor([[0.0, 0.0, 224.0, 224.0]])], 7).sum().backward()
        assert maps["p4"].grad.any()
        assert not maps["p2"].grad.any()
