"""Adaptive subdivision: Section 3.1, "Inference"."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pointrend.points import grid_points, mask_uncertainty
from pointrend.subdivision import (
    num_point_predictions,
    select_grid_points,
    subdivide,
    subdivision_sizes,
    topk_indices,
)


def first_class_uncertainty(logits: Tensor) -> Tensor:
    return mask_uncertainty(logits[:, 0])


class TestTopkIndices:
    @settings(deadline=None, max_examples=60)
    @given(
        seed=st.integers(0, 2**31),
        length=st.integers(1, 40),
        uneven=st.integers(0, 3),
        count=st.integers(1, 12),
        values=st.sampled_from([3, 10**6]),
    )
    def test_has_the_values_of_topk(self, seed: int, length: int, uneven: int, count: int, values: int) -> None:
        width = 32 * length + uneven
        row = torch.randint(0, values, (2, width), generator=torch.Generator().manual_seed(seed)).float()
        indices = topk_indices(row, count)
        assert all(len(set(chosen)) == count for chosen in indices.tolist())
        assert torch.equal(row.gather(1, indices).sort(descending=True).values, row.topk(count).values)

    def test_nan_is_the_largest_and_ends(self) -> None:
        row = torch.randn(1, 32 * 100)
        row[0, 1234] = math.nan
        assert 1234 in topk_indices(row, 3)[0].tolist()


class TestSelectGridPoints:
    def test_picks_the_most_uncertain_cells(self) -> None:
        uncertainty = torch.tensor([[[0.1, 0.9, 0.2], [0.3, 0.0, 0.8]], [[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]]])
        indices, points = select_grid_points(uncertainty, 2)
        assert [sorted(row) for row in indices.tolist()] == [[1, 5], [0, 1]]
        for index, point in zip(indices.flatten().tolist(), points.view(-1, 2).tolist(), strict=True):
            row, column = divmod(index, 3)
            assert point == pytest.approx([(column + 0.5) / 3, (row + 0.5) / 2])

    @pytest.mark.parametrize("num_points", [6, 7, 1000])
    def test_all_cells_of_a_small_grid(self, num_points: int) -> None:
        indices, points = select_grid_points(torch.rand(2, 2, 3), num_points)
        assert points.shape == (2, 6, 2)
        assert indices.sort(dim=1).values.tolist() == [list(range(6))] * 2


class TestSubdivisionSizes:
    @pytest.mark.parametrize(
        ("coarse", "output", "expected"),
        [
            ((7, 7), (224, 224), [(14, 14), (28, 28), (56, 56), (112, 112), (224, 224)]),
            ((7, 7), (100, 100), [(14, 14), (28, 28), (56, 56), (100, 100)]),
            ((3, 5), (10, 9), [(6, 9), (10, 9)]),
            ((7, 7), (7, 8), [(7, 8)]),
            ((7, 7), (7, 7), []),
        ],
    )
    def test_by_hand(self, coarse: tuple[int, int], output: tuple[int, int], expected: list[tuple[int, int]]) -> None:
        assert subdivision_sizes(coarse, output) == expected

    @pytest.mark.parametrize("output", [(6, 7), (7, 6), (14, 3), (0, 0)])
    def test_does_not_shrink(self, output: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=f"7x7 grid to {output[0]}x{output[1]}"):
            subdivision_sizes((7, 7), output)


def test_num_point_predictions_of_the_paper() -> None:
    """Section 3.1: 28^2 * 4.25 points from 7 to 224, 15 times fewer than 224^2."""
    predictions = num_point_predictions(subdivision_sizes((7, 7), (224, 224)), 28**2)
    assert predictions == 28**2 * 4.25
    assert 224**2 // predictions == 15


class Plane:
    """Logits that are a random quadratic of the point, another one for each region and class."""

    def __init__(self, regions: int, classes: int) -> None:
        self.coefficients = torch.randn(regions, classes, 6, 1, dtype=torch.float64)
        self.predicted_points = 0

    def __call__(self, points: Tensor) -> Tensor:
        self.predicted_points += points.shape[1]
        x, y = points[:, None].double().unbind(dim=3)
        a, b, c, d, e, f = self.coefficients.unbind(dim=2)
        return a + b * x + c * y + d * x * y + e * x * x + f * y * y


def render_every_step(coarse: Tensor, predict: Plane, sizes: list[tuple[int, int]], num_points: int) -> Tensor:
    """Section 3.1 word by word: upsample, choose the N most uncertain cells, predict them, repeat."""
    logits = coarse
    for height, width in sizes:
        logits = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        count = min(num_points, height * width)
        order = logits[:, 0].abs().flatten(1).argsort(dim=1)[:, :count]
        rows, columns = order // width, order % width
        points = torch.stack(((columns + 0.5) / width, (rows + 0.5) / height), dim=2)
        predicted = predict(points)
        logits = logits.clone()
        for region in range(len(logits)):
            for index in range(count):
                logits[region, :, rows[region, index], columns[region, index]] = predicted[region, :, index]
    return logits


class TestSubdivide:
    @settings(deadline=None, max_examples=50)
    @given(
        seed=st.integers(0, 2**31),
        coarse_size=st.tuples(st.integers(2, 5), st.integers(2, 5)),
        growth=st.tuples(st.integers(0, 12), st.integers(0, 12)),
        num_points=st.integers(1, 90),
        regions=st.integers(0, 2),
        classes=st.integers(1, 2),
    )
    def test_equals_doing_every_step(
        self,
        seed: int,
        coarse_size: tuple[int, int],
        growth: tuple[int, int],
        num_points: int,
        regions: int,
        classes: int,
    ) -> None:
        torch.manual_seed(seed)
        coarse = torch.randn(regions, classes, *coarse_size, dtype=torch.float64)
        predict = Plane(regions, classes)
        sizes = subdivision_sizes(coarse_size, (coarse_size[0] + growth[0], coarse_size[1] + growth[1]))
        expected = render_every_step(coarse, predict, sizes, num_points)
        rendered = subdivide(coarse, predict, first_class_uncertainty, sizes, num_points)
        assert rendered.shape == expected.shape
        assert torch.equal(rendered, expected)

    def test_enough_points_predict_every_cell(self) -> None:
        predict = Plane(2, 3)
        rendered = subdivide(
            torch.randn(2, 3, 4, 4).double(), predict, first_class_uncertainty, [(8, 8), (11, 9)], 11 * 9
        )
        # What the last step replaces is not worth predicting before.
        assert predict.predicted_points == 11 * 9
        everywhere = predict(grid_points((11, 9)).expand(2, -1, -1)).unflatten(2, (11, 9))
        assert torch.equal(rendered, everywhere)

    def test_one_point_changes_one_cell_a_step(self) -> None:
        coarse = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        rendered = subdivide(
            coarse, lambda points: points.new_full((1, 1, 1), 9.0), first_class_uncertainty, [(4, 4)], 1
        )
        expected = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        expected[0, 0, 0, 0] = 9.0
        torch.testing.assert_close(rendered, expected)

    def test_each_region_selects_its_own_cells(self) -> None:
        # Zero in another corner of each region.
        coarse = torch.full((2, 1, 2, 2), 5.0)
        coarse[0, 0, 0, 0] = coarse[1, 0, 1, 1] = 0.0
        rendered = subdivide(
            coarse, lambda points: points.new_full((2, 1, 1), -9.0), first_class_uncertainty, [(4, 4)], 1
        )
        assert (rendered == -9).nonzero().tolist() == [[0, 0, 0, 0], [1, 0, 3, 3]]

    def test_a_constant_stays_constant(self) -> None:
        coarse = torch.tensor([1.5, -2.0]).view(2, 1, 1, 1).expand(2, 1, 7, 7)
        rendered = subdivide(
            coarse,
            lambda points: coarse[:, :, :1, 0].expand(2, 1, points.shape[1]),
            first_class_uncertainty,
            subdivision_sizes((7, 7), (56, 56)),
            20,
        )
        torch.testing.assert_close(rendered, coarse[:, :, :1, :1].expand(2, 1, 56, 56))

    def test_no_steps_give_the_coarse_prediction(self) -> None:
        coarse = torch.randn(2, 1, 7, 7)
        assert torch.equal(subdivide(coarse, Plane(2, 1), first_class_uncertainty, [], 10), coarse)

    @pytest.mark.parametrize("num_points", [14**2, 28**2])
    def test_renders_a_disc_with_few_predictions(self, num_points: int) -> None:
        """A crisp shape at 224x224 from a 7x7 grid, as accurate as its pixels."""
        counted = 0

        def predict(points: Tensor) -> Tensor:
            nonlocal counted
            counted += points.shape[1]
            centre = torch.tensor([0.53, 0.46])
            return 30 * (0.31 - (points - centre).norm(dim=2))[:, None]

        coarse = predict(grid_points((7, 7))[None]).unflatten(2, (7, 7))
        counted = 0
        sizes = subdivision_sizes((7, 7), (224, 224))
        rendered = subdivide(coarse, predict, first_class_uncertainty, sizes, num_points) > 0
        assert counted <= num_point_predictions(sizes, num_points) < 224**2 / 14
        exact = predict(grid_points((224, 224))[None]).unflatten(2, (224, 224)) > 0
        iou = (rendered & exact).sum() / (rendered | exact).sum()
        assert iou > 0.99
        if num_points == 28**2:
            assert iou == 1
