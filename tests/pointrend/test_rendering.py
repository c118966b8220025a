from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pointrend import Rendering, rendering
from pointrend.instance import FourConvMaskHead, PointRendMaskHead, select_class_logits
from pointrend.interpolation import bilinear_cells, sum_weighted_rows
from pointrend.points import grid_points, sample_features
from pointrend.rendering import POINTS_AT_ONCE, mask_logits_layer_by_layer
from pointrend.specs import PAPER_RENDERING, PAPER_SAMPLING
from pointrend.subdivision import subdivision_sizes


def decided_head(num_classes: int = 3, **options: Any) -> PointRendMaskHead:
    """A small head in double precision whose layers all matter: a fresh one says 0 everywhere."""
    torch.manual_seed(0)
    sizes = {"coarse_channels": 8, "coarse_hidden": 16, "point_channels": 8, **options}
    head = PointRendMaskHead(4, num_classes, sampling=PAPER_SAMPLING, rendering=PAPER_RENDERING, **sizes).double()
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() == 1:
                parameter.normal_(std=0.3)
        for predictor in (head.coarse_head.predictor, head.point_head.predictor):
            predictor.weight.normal_(std=0.5)
    return head.eval()


def layer_by_layer(head: PointRendMaskHead, features: Any, boxes: Any, labels: Any, rendering: Rendering) -> Tensor:
    sizes = subdivision_sizes((7, 7), (rendering.resolution, rendering.resolution))
    return mask_logits_layer_by_layer(head, features, boxes, labels, sizes, rendering.num_points)


@contextmanager
def path_of(device: str) -> Iterator[None]:
    """Renders as on a device."""
    with mock.patch.object(rendering, "SUM_TABLE_ROWS", {"cpu"} if device == "cpu" else set()):
        yield


DEVICES = pytest.mark.parametrize("device", ["cpu", "cuda"])


def pyramid(images: int, side: int) -> dict[str, Tensor]:
    return {"p2": torch.randn(images, 4, side, side + 3, dtype=torch.float64)}


@DEVICES
class TestEqualsTheLayers:
    # The same examples each time: of two cells that are equally uncertain but for the last digit, either may be chosen.
    @settings(deadline=None, max_examples=60, derandomize=True)
    @given(
        seed=st.integers(0, 2**31),
        regions=st.lists(st.integers(0, 4), min_size=1, max_size=3),
        num_classes=st.sampled_from([1, 2, 5]),
        # The first layer is taken at the cells of the small map, and at the points of the large one.
        side=st.sampled_from([4, 60]),
        resolution=st.sampled_from([7, 14, 28, 56]),
        num_points=st.integers(1, 300),
    )
    def test_any_regions(
        self, device: str, seed: int, regions: list[int], num_classes: int, side: int, resolution: int, num_points: int
    ) -> None:
        head, rendering = decided_head(num_classes), Rendering(resolution, num_points)
        torch.manual_seed(seed)
        features = pyramid(len(regions), side)
        # Some of them reach beyond the image, some lie outside of it.
        corners = [torch.rand(count, 2, dtype=torch.float64) * side * 6 - side for count in regions]
        boxes = [torch.cat((c, c + torch.rand_like(c) * side * 2), dim=1) for c in corners]
        labels = [torch.randint(1, num_classes + 1, (count,)) for count in regions]
        with path_of(device):
            rendered = head.logits(features, boxes, labels, rendering)
        expected = layer_by_layer(head, features, boxes, labels, rendering)
        assert rendered.shape == (sum(regions), 1, resolution, resolution)
        torch.testing.assert_close(rendered, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize(
        "box",
        [
            [10.0, 10.0, 10.0, 30.0],  # no width
            [10.0, 10.0, 30.0, 10.0],  # no height
            [12.0, 12.0, 12.0, 12.0],
            [-500.0, -500.0, -400.0, -420.0],
            [0.0, 0.0, 1e12, 1e12],
            [30.0, 30.0, 10.0, 10.0],  # the wrong way round
        ],
    )
    @pytest.mark.parametrize("side", [5, 60])
    def test_odd_boxes(self, device: str, box: list[float], side: int) -> None:
        head, features = decided_head(), pyramid(1, side)
        boxes, labels = [torch.tensor([box], dtype=torch.float64)], [torch.tensor([2])]
        with path_of(device):
            rendered = head.logits(features, boxes, labels, Rendering(28, 60))
        assert rendered.isfinite().all()
        expected = layer_by_layer(head, features, boxes, labels, Rendering(28, 60))
        torch.testing.assert_close(rendered, expected, atol=1e-5, rtol=0)

    def test_many_regions_in_portions(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        head, features = decided_head(), pyramid(1, 16)
        corners = torch.rand(11, 2, dtype=torch.float64) * 30
        boxes, labels = [torch.cat((corners, corners + 20), dim=1)], [torch.arange(11) % 3 + 1]
        with path_of(device):
            whole = head.logits(features, boxes, labels, Rendering(28, 50))
            monkeypatch.setitem(POINTS_AT_ONCE, "cpu", 150)
            torch.testing.assert_close(head.logits(features, boxes, labels, Rendering(28, 50)), whole)

    def test_more_points_than_cells(self, device: str) -> None:
        head, features = decided_head(), pyramid(1, 16)
        boxes, labels = [torch.tensor([[3.0, 5.0, 40.0, 50.0]]).double()], [torch.tensor([1])]
        with path_of(device):
            torch.testing.assert_close(
                head.logits(features, boxes, labels, Rendering(28, 28**2)),
                head.logits(features, boxes, labels, Rendering(28, 10**6)),
            )

    def test_gradients_do_not_matter(self, device: str) -> None:
        head, features = decided_head(), pyramid(1, 16)
        features["p2"].requires_grad_()
        boxes, labels = [torch.tensor([[3.0, 5.0, 40.0, 50.0]]).double()], [torch.tensor([1])]
        with path_of(device), torch.inference_mode():
            rendered = head.logits(features, boxes, labels, Rendering(28, 50))
        with path_of(device):
            assert torch.equal(rendered, head.logits(features, boxes, labels, Rendering(28, 50)))


@DEVICES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_mask(device: str, dtype: torch.dtype) -> None:
    head = decided_head().float()
    features = {"p2": torch.nn.functional.avg_pool2d(torch.randn(1, 4, 24, 24), 5, 1, 2) * 5}
    corners = torch.rand(6, 2) * 40
    boxes, labels = [torch.cat((corners, corners + 50), dim=1)], [torch.arange(6) % 3 + 1]
    exact = head.logits(features, boxes, labels, Rendering(56, 28**2))
    with path_of(device), torch.autocast("cpu", dtype):
        rendered = head.logits(features, boxes, labels, Rendering(56, 28**2))
    assert rendered.dtype == torch.float32
    assert not torch.equal(rendered, exact)
    assert (rendered - exact).abs().mean() < 0.02 * exact.std()


class TestNotFinite:
    BOXES, LABELS = [torch.tensor([[3.0, 5.0, 40.0, 50.0]]).double()], [torch.tensor([1])]

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_features(self, value: float) -> None:
        features = pyramid(1, 16)
        features["p2"][0, 1, 5, 5] = value
        with pytest.raises(ValueError, match="'p2'"):
            decided_head().logits(features, self.BOXES, self.LABELS, Rendering(28, 50))

    def test_boxes(self) -> None:
        boxes = [self.BOXES[0].clone()]
        boxes[0][0, 2] = float("nan")
        with pytest.raises(ValueError, match="boxes"):
            decided_head().logits(pyramid(1, 16), boxes, self.LABELS, Rendering(28, 50))


class TestBilinearRows:
    @settings(deadline=None, max_examples=60)
    @given(
        seed=st.integers(0, 2**31),
        size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
        reach=st.floats(0, 20),
    )
    def test_equals_sampling_the_map(self, seed: int, size: tuple[int, int], reach: float) -> None:
        torch.manual_seed(seed)
        features = torch.randn(1, 3, *size, dtype=torch.float64)
        points = torch.rand(1, 40, 2, dtype=torch.float64) * (1 + 2 * reach) - reach
        rows, weights = bilinear_cells(points * torch.tensor([size[1], size[0]]) - 0.5, size)
        assert rows.min() >= 0
        assert rows.max() < size[0] * size[1]
        sampled = sum_weighted_rows(features[0].flatten(1).T.contiguous(), rows[0], weights[0])
        torch.testing.assert_close(sampled.T[None], sample_features(features, points), atol=1e-9, rtol=0)

    def test_cell_centres(self) -> None:
        rows, weights = bilinear_cells(grid_points((3, 4)) * torch.tensor([4, 3]) - 0.5, (3, 4))
        assert (rows * weights).sum(dim=1).tolist() == list(range(12))
        assert weights.sum(dim=1).tolist() == [1] * 12


@pytest.mark.parametrize("num_classes", [1, 4])
@pytest.mark.parametrize("regions", [0, 5])
def test_four_conv_head_of_one_class(num_classes: int, regions: int) -> None:
    torch.manual_seed(0)
    head = FourConvMaskHead(4, num_classes, 8, 2).double()
    with torch.no_grad():
        head.head[-1].weight.normal_()
        head.head[-1].bias.normal_()
    pooled, labels = torch.randn(regions, 4, 14, 14, dtype=torch.float64), torch.randint(1, num_classes + 1, (regions,))
    one = head.head.forward_class(pooled, (labels - 1).clamp(max=num_classes - 1))
    torch.testing.assert_close(one, select_class_logits(head.head(pooled), labels))
