import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pointrend.points import (
    class_uncertainty,
    grid_points,
    mask_uncertainty,
    points_in_image,
    sample_features,
    sample_masks,
    select_training_points,
    upsample,
)
from pointrend.specs import PAPER_SAMPLING, PointSampling


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
        torch.testing.assert_close(sample_masks([masks], [indices], points), copied, atol=1e-4, rtol=0)

    def test_far_outside_is_zero(self) -> None:
        masks = torch.ones(1, 4, 4, dtype=torch.bool)
        far = torch.tensor([[[1e12, 0.5], [-1e12, 0.5], [0.5, 1e30], [0.5, -1e30]]])
        assert sample_masks([masks], [torch.tensor([0])], far).tolist() == [[0, 0, 0, 0]]

    def test_no_regions_and_no_masks(self) -> None:
        masks = torch.zeros(0, 6, 6, dtype=torch.bool)
        assert sample_masks([masks], [torch.zeros(0, dtype=torch.int64)], torch.zeros(0, 9, 2)).shape == (0, 9)


def test_grid_points_are_row_major_cell_centres() -> None:
    expected = [[0.25, 1 / 6], [0.75, 1 / 6], [0.25, 0.5], [0.75, 0.5], [0.25, 5 / 6], [0.75, 5 / 6]]
    torch.testing.assert_close(grid_points((3, 2)), torch.tensor(expected))


def test_upsample_by_hand() -> None:
    """Three quarters of a cell and one quarter of its neighbour; beyond the border lies the border's own value."""
    upsampled = upsample(torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]]), (4, 4))
    row = torch.tensor([0.0, 1.0, 3.0, 4.0])
    torch.testing.assert_close(upsampled[0, 0], row + 2 * row[:, None])


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
            PAPER_SAMPLING,
            PointSampling("biased", 7, oversample_ratio=1.0, importance_sample_ratio=0.5),
            PointSampling("biased", 7, oversample_ratio=1.3, importance_sample_ratio=1.0),
            replace(PAPER_SAMPLING, num_points=1),
            replace(PAPER_SAMPLING, strategy="grid", num_points=49),
        ],
    )
    def test_gives_n_points_inside_the_region(self, sampling: PointSampling) -> None:
        torch.manual_seed(0)
        points = select_training_points(torch.randn(3, 1, 7, 7), sampling, first_class_uncertainty)
        assert points.shape == (3, sampling.num_points, 2)
        assert ((points >= 0) & (points <= 1)).all()

    @pytest.mark.parametrize("strategy", ["biased", "grid"])
    def test_no_regions(self, strategy: str) -> None:
        sampling = replace(PAPER_SAMPLING, strategy=strategy)
        points = select_training_points(torch.zeros(0, 1, 7, 7), sampling, first_class_uncertainty)
        assert points.shape == (0, 196, 2)

    def test_without_importance_it_is_uniform(self) -> None:
        torch.manual_seed(0)
        uniform = replace(PAPER_SAMPLING, oversample_ratio=1, importance_sample_ratio=0)
        points = select_training_points(self.EDGE.repeat(50, 1, 1, 1), uniform, first_class_uncertainty).view(-1, 2)
        torch.testing.assert_close(points.mean(dim=0), torch.tensor([0.5, 0.5]), atol=0.01, rtol=0)
        torch.testing.assert_close(points.T.cov(), torch.eye(2) / 12, atol=0.003, rtol=0)
        assert self.share_near_edge(points) == pytest.approx(0.12, abs=0.01)

    def test_mild_bias_crowds_at_the_edge_and_covers_the_rest(self) -> None:
        torch.manual_seed(0)
        points = select_training_points(self.EDGE, PAPER_SAMPLING, first_class_uncertainty)
        # Of 3 N candidates 12 % lie there, and all of those are among the 75 % important points: 36 % and more.
        assert self.share_near_edge(points) > 0.3
        quarters = (points * 2).long().clamp(max=1) @ torch.tensor([1, 2])
        assert all((quarters == quarter).float().mean() > 0.1 for quarter in range(4))

    def test_heavy_bias_leaves_little_else(self) -> None:
        torch.manual_seed(0)
        sampling = replace(PAPER_SAMPLING, oversample_ratio=10.0, importance_sample_ratio=1.0)
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
        sampling = PointSampling("biased", 10, oversample_ratio=100.0, importance_sample_ratio=1.0)
        points = select_training_points(coarse, sampling, first_class_uncertainty)
        assert (points[..., 0] - 0.5).abs().max() < 0.02

    @pytest.mark.parametrize("strategy", ["biased", "grid"])
    def test_draws_from_the_given_part_of_each_region(self, strategy: Literal["biased", "grid"]) -> None:
        sampling = replace(PAPER_SAMPLING, strategy=strategy, num_points=100)
        extent = torch.tensor([[1.0, 0.25], [0.5, 1.0]])
        points = select_training_points(torch.randn(2, 1, 8, 8), sampling, first_class_uncertainty, extent)
        share = (points / extent[:, None]).clamp(min=0)
        assert (share <= 1).all()
        assert share.amax() > 0.9
        assert (share.amin(1) < 0.1).all()

    def test_grid_strategy_is_the_regular_grid(self) -> None:
        points = select_training_points(
            torch.randn(2, 1, 7, 7), replace(PAPER_SAMPLING, strategy="grid", num_points=9), first_class_uncertainty
        )
        thirds = [1 / 6, 3 / 6, 5 / 6]
        expected = torch.tensor([[x, y] for y in thirds for x in thirds])
        torch.testing.assert_close(points, expected.expand(2, -1, -1))

    def test_no_gradient_flows(self) -> None:
        coarse = torch.randn(2, 1, 7, 7, requires_grad=True)
        assert not select_training_points(coarse, PAPER_SAMPLING, first_class_uncertainty).requires_grad


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
            ({"strategy": "grid", "num_points": None}, "None.* square"),
        ],
    )
    def test_refuses_values_outside_their_domain(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(PAPER_SAMPLING, **options)  # type: ignore[arg-type]

    def test_the_papers_settings(self) -> None:
        assert PointSampling("biased", 14**2, 3.0, 0.75) == PAPER_SAMPLING


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
