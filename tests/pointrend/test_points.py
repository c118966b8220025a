import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pointrend.points
from pointrend.points import (
    class_uncertainty,
    grid_points,
    largest,
    mask_uncertainty,
    num_point_predictions,
    points_in_image,
    sample_features,
    sample_masks,
    select_grid_points,
    select_training_points,
    subdivide,
    subdivision_sizes,
    upsample,
)
from pointrend.specs import PointSampling


def first_class_uncertainty(logits: Tensor) -> Tensor:
    return mask_uncertainty(logits[:, 0])


class TestSampleFeatures:
    TWO_BY_TWO = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])

    @pytest.mark.parametrize(
        ("point", "expected"),
        [
            ((0.25, 0.25), 1.0),
            ((0.75, 0.25), 2.0),
            ((0.25, 0.75), 3.0),
            ((0.5, 0.25), 1.5),
            ((0.25, 0.625), 2.5),
            ((0.5, 0.5), 2.5),
            # Half way to the zero cells around the map.
            ((0.0, 0.0), 0.25),
            ((0.5, 0.0), 0.75),
            ((1.0, 1.0), 1.0),
        ],
    )
    def test_two_by_two_map_by_hand(self, point: tuple[float, float], expected: float) -> None:
        assert sample_features(self.TWO_BY_TWO, torch.tensor([[point]])).item() == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("point", [(-0.25, 0.5), (1.25, 0.5), (0.5, -0.3), (0.5, 1.3), (5.0, -7.0)])
    def test_zero_outside(self, point: tuple[float, float]) -> None:
        assert sample_features(self.TWO_BY_TWO, torch.tensor([[point]])).item() == pytest.approx(0, abs=1e-6)

    def test_cell_centres_give_the_cells(self) -> None:
        features = torch.randn(2, 3, 5, 4)
        points = grid_points((5, 4)).expand(2, -1, -1)
        torch.testing.assert_close(sample_features(features, points), features.flatten(2), atol=1e-5, rtol=0)

    def test_half_precision_features_do_not_move_the_points(self) -> None:
        ramp = torch.arange(256.0).expand(1, 1, 4, 256)
        x = torch.tensor([0.30078, 0.50123, 0.70317, 0.99001])
        points = torch.stack((x, torch.full_like(x, 0.5)), dim=1)[None]
        expected = (x * 256 - 0.5).view(1, 1, -1)
        torch.testing.assert_close(sample_features(ramp.to(torch.bfloat16), points), expected, atol=1e-3, rtol=0)

    def test_gradient_reaches_the_four_nearest_cells(self) -> None:
        features = torch.zeros(1, 1, 3, 3, requires_grad=True)
        sample_features(features, torch.tensor([[[1 / 3, 0.5]]])).sum().backward()
        expected = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
        torch.testing.assert_close(features.grad[0, 0], expected)


class TestSampleMasks:
    @settings(deadline=None, max_examples=60)
    @given(
        seed=st.integers(0, 2**31),
        size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
        objects=st.integers(1, 3),
        regions=st.integers(0, 4),
        reach=st.floats(0, 3),
    )
    def test_equals_sampling_copied_masks(
        self, seed: int, size: tuple[int, int], objects: int, regions: int, reach: float
    ) -> None:
        torch.manual_seed(seed)
        masks = torch.rand(objects, *size) < 0.5
        indices = torch.randint(objects, (regions,))
        boxes = torch.rand(regions, 4) * (1 + 2 * reach) - reach
        boxes[:, 2:] += boxes[:, :2]
        points = points_in_image(torch.rand(regions, 20, 2), boxes)
        copied = sample_features(masks[indices][:, None].float(), points)[:, 0]
        torch.testing.assert_close(sample_masks(masks, indices, points), copied, atol=1e-4, rtol=0)

    def test_far_outside_is_zero(self) -> None:
        masks = torch.ones(1, 4, 4, dtype=torch.bool)
        far = torch.tensor([[[1e12, 0.5], [-1e12, 0.5], [0.5, 1e30], [0.5, -1e30]]])
        assert sample_masks(masks, torch.tensor([0]), far).tolist() == [[0, 0, 0, 0]]

    def test_no_regions_and_no_masks(self) -> None:
        masks = torch.zeros(0, 6, 6, dtype=torch.bool)
        assert sample_masks(masks, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 9, 2)).shape == (0, 9)


def test_grid_points_are_row_major_cell_centres() -> None:
    expected = [[0.25, 1 / 6], [0.75, 1 / 6], [0.25, 0.5], [0.75, 0.5], [0.25, 5 / 6], [0.75, 5 / 6]]
    torch.testing.assert_close(grid_points((3, 2)), torch.tensor(expected))


def test_points_in_image_by_hand() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0], [-4.0, 0.0, 4.0, 1.0]])
    points = torch.tensor([[[0.0, 0.0], [0.5, 0.25]], [[0.25, 0.5], [1.0, 1.0]]])
    expected = torch.tensor([[[10.0, 20.0], [20.0, 30.0]], [[-2.0, 0.5], [4.0, 1.0]]])
    torch.testing.assert_close(points_in_image(points, boxes), expected)


class TestSelectTrainingPoints:
    #: Foreground right of x = 3/7, the paper's 7x7 coarse mask.
    EDGE = torch.cat((torch.full((4, 1, 7, 3), -4.0), torch.full((4, 1, 7, 4), 4.0)), dim=3)

    @staticmethod
    def share_near_edge(points: Tensor) -> float:
        return ((points[..., 0] - 3 / 7).abs() < 0.06).float().mean().item()

    @pytest.mark.parametrize(
        "sampling",
        [
            PointSampling(),
            PointSampling(num_points=7, oversample_ratio=1.0, importance_sample_ratio=0.5),
            PointSampling(num_points=7, oversample_ratio=1.3, importance_sample_ratio=1.0),
            PointSampling(num_points=1),
            PointSampling(strategy="grid", num_points=49),
        ],
    )
    def test_gives_n_points_inside_the_region(self, sampling: PointSampling) -> None:
        torch.manual_seed(0)
        points = select_training_points(torch.randn(3, 1, 7, 7), sampling, first_class_uncertainty)
        assert points.shape == (3, sampling.num_points, 2)
        assert ((points >= 0) & (points <= 1)).all()

    @pytest.mark.parametrize("strategy", ["biased", "grid"])
    def test_no_regions(self, strategy: str) -> None:
        points = select_training_points(torch.zeros(0, 1, 7, 7), PointSampling(strategy), first_class_uncertainty)  # type: ignore[arg-type]
        assert points.shape == (0, 196, 2)

    def test_without_importance_it_is_uniform(self) -> None:
        torch.manual_seed(0)
        points = select_training_points(
            self.EDGE.repeat(50, 1, 1, 1),
            PointSampling(oversample_ratio=1, importance_sample_ratio=0),
            first_class_uncertainty,
        ).view(-1, 2)
        torch.testing.assert_close(points.mean(dim=0), torch.tensor([0.5, 0.5]), atol=0.01, rtol=0)
        torch.testing.assert_close(points.T.cov(), torch.eye(2) / 12, atol=0.003, rtol=0)
        assert self.share_near_edge(points) == pytest.approx(0.12, abs=0.01)

    def test_mild_bias_crowds_at_the_edge_and_covers_the_rest(self) -> None:
        torch.manual_seed(0)
        points = select_training_points(self.EDGE, PointSampling(), first_class_uncertainty)
        # Of 3 N candidates 12 % lie there, and all of those are among the 75 % important points: 36 % and more.
        assert self.share_near_edge(points) > 0.3
        quarters = (points * 2).long().clamp(max=1) @ torch.tensor([1, 2])
        assert all((quarters == quarter).float().mean() > 0.1 for quarter in range(4))

    def test_heavy_bias_leaves_little_else(self) -> None:
        torch.manual_seed(0)
        sampling = PointSampling(oversample_ratio=10.0, importance_sample_ratio=1.0)
        points = select_training_points(self.EDGE, sampling, first_class_uncertainty)
        # Within half a cell of the region's border the prediction fades to zero, which is uncertain too.
        fading = ((points < 0.5 / 7) | (points > 6.5 / 7)).any(dim=2)
        assert self.share_near_edge(points[~fading]) > 0.99
        assert self.share_near_edge(points) > 0.7

    @pytest.mark.parametrize(
        ("num_points", "oversample_ratio", "importance_sample_ratio", "important"),
        [(196, 3.0, 0.75, 147), (10, 3.0, 0.75, 7), (7, 4.0, 0.5, 3), (5, 10.0, 1.0, 5), (5, 1.0, 1.0, 5)],
    )
    def test_the_important_points_are_the_most_uncertain_candidates(
        self, num_points: int, oversample_ratio: float, importance_sample_ratio: float, important: int
    ) -> None:
        torch.manual_seed(0)
        # Two more channels tell every candidate apart.
        coarse = torch.randn(2, 3, 7, 7)
        seen = []

        def uncertainty(logits: Tensor) -> Tensor:
            seen.append(logits)
            return first_class_uncertainty(logits)

        points = select_training_points(
            coarse, PointSampling("biased", num_points, oversample_ratio, importance_sample_ratio), uncertainty
        )
        (candidates,) = seen
        assert candidates.shape == (2, 3, int(oversample_ratio * num_points))
        selected = sample_features(coarse, points)
        for region in range(2):
            best = candidates[region, 0].abs().argsort()[:important]
            distance = (selected[region, :, :, None] - candidates[region, :, None, :]).abs().amax(dim=0)
            assert (distance[:, best].min(dim=0).values < 1e-5).all()
            assert (distance.min(dim=1).values < 1e-5).sum() == important

    def test_uncertain_is_where_the_interpolated_prediction_is(self) -> None:
        # Both cells are equally sure; half way between them the prediction is 0.
        torch.manual_seed(0)
        coarse = torch.tensor([[[[-1.0, 1.0]]]])
        sampling = PointSampling(num_points=10, oversample_ratio=100.0, importance_sample_ratio=1.0)
        points = select_training_points(coarse, sampling, first_class_uncertainty)
        assert (points[..., 0] - 0.5).abs().max() < 0.02

    @pytest.mark.parametrize("strategy", [PointSampling(num_points=100), PointSampling("grid", num_points=100)])
    def test_draws_from_the_given_part_of_each_region(self, strategy: PointSampling) -> None:
        extent = torch.tensor([[1.0, 0.25], [0.5, 1.0]])
        points = select_training_points(torch.randn(2, 1, 8, 8), strategy, first_class_uncertainty, extent)
        share = (points / extent[:, None]).clamp(min=0)
        assert (share <= 1).all()
        assert share.amax() > 0.9
        assert (share.amin(1) < 0.1).all()

    def test_grid_strategy_is_the_regular_grid(self) -> None:
        points = select_training_points(
            torch.randn(2, 1, 7, 7), PointSampling("grid", num_points=9), first_class_uncertainty
        )
        thirds = [1 / 6, 3 / 6, 5 / 6]
        expected = torch.tensor([[x, y] for y in thirds for x in thirds])
        torch.testing.assert_close(points, expected.expand(2, -1, -1))

    def test_no_gradient_flows(self) -> None:
        coarse = torch.randn(2, 1, 7, 7, requires_grad=True)
        assert not select_training_points(coarse, PointSampling(), first_class_uncertainty).requires_grad


class TestPointSampling:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"strategy": "random"}, "strategy is 'random'"),
            ({"num_points": 0}, "num_points is 0"),
            ({"num_points": -4}, "num_points is -4"),
            ({"oversample_ratio": 0.5}, "oversample_ratio .* 0.5"),
            ({"oversample_ratio": math.nan}, "oversample_ratio .* nan"),
            ({"oversample_ratio": math.inf}, "oversample_ratio .* inf"),
            ({"importance_sample_ratio": -0.1}, "importance_sample_ratio .* -0.1"),
            ({"importance_sample_ratio": 1.1}, "importance_sample_ratio .* 1.1"),
            ({"importance_sample_ratio": math.nan}, "importance_sample_ratio .* nan"),
            ({"strategy": "grid", "num_points": 200}, "200.* square"),
        ],
    )
    def test_refuses_values_outside_their_domain(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            PointSampling(**options)  # type: ignore[arg-type]

    def test_defaults_are_the_papers(self) -> None:
        assert PointSampling() == PointSampling("biased", 14**2, 3.0, 0.75)


class TestClassUncertainty:
    def test_by_hand(self) -> None:
        logits = torch.tensor([[3.0, 0.0], [1.0, 5.0], [2.5, 5.0]]).view(1, 3, 2)
        assert class_uncertainty(logits).tolist() == [[-0.5, 0.0]]

    @settings(deadline=None, max_examples=60)
    @given(
        seed=st.integers(0, 2**31),
        classes=st.integers(2, 6),
        shape=st.sampled_from([(0,), (7,), (5, 3), (1, 1)]),
    )
    def test_second_best_minus_best(self, seed: int, classes: int, shape: tuple[int, ...]) -> None:
        # Few distinct values: ties are as common as not.
        logits = torch.randint(-3, 3, (2, classes, *shape), generator=torch.Generator().manual_seed(seed)).float()
        best = logits.topk(2, dim=1).values
        assert torch.equal(class_uncertainty(logits), best[:, 1] - best[:, 0])

    def test_one_class_is_never_uncertain(self) -> None:
        assert class_uncertainty(torch.randn(2, 1, 3, 4)).tolist() == torch.zeros(2, 3, 4).tolist()


class TestLargest:
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
        indices = largest(row, count)
        assert all(len(set(chosen)) == count for chosen in indices.tolist())
        assert torch.equal(row.gather(1, indices).sort(descending=True).values, row.topk(count).values)

    def test_nan_is_the_largest_and_ends(self) -> None:
        row = torch.randn(1, 32 * 100)
        row[0, 1234] = math.nan
        assert 1234 in largest(row, 3)[0].tolist()


class TestUpsample:
    @settings(deadline=None, max_examples=60)
    @given(
        seed=st.integers(0, 2**31),
        shape=st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        cells=st.sampled_from([1, 100, 2**22]),
    )
    def test_doubles_as_interpolate_does(self, seed: int, shape: tuple[int, int, int, int], cells: int) -> None:
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        size = (2 * shape[2], 2 * shape[3])
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(pointrend.points, "CACHED_CELLS", cells)
            doubled = upsample(logits, size)
        expected = (
            logits.new_zeros(0, shape[1], *size)
            if not shape[0]
            else F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        )
        torch.testing.assert_close(doubled, expected, atol=1e-5, rtol=0)

    @torch.inference_mode()
    def test_any_other_size(self) -> None:
        logits = torch.randn(1, 2, 4, 5)
        expected = F.interpolate(logits, size=(8, 9), mode="bilinear", align_corners=False)
        assert torch.equal(upsample(logits, (8, 9)), expected)

    def test_has_a_gradient(self) -> None:
        logits = torch.randn(1, 1, 3, 3, requires_grad=True)
        upsample(logits, (6, 6)).sum().backward()
        torch.testing.assert_close(logits.grad, torch.full((1, 1, 3, 3), 4.0))


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
