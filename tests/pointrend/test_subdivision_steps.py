"""Subdivision, one step at a time: nothing but what subdivision does."""

import torch
from torch import Tensor

from pointrend.points import class_uncertainty, mask_uncertainty, sample_features
from pointrend.subdivision import subdivide, subdivision_sizes
from pointrend.subdivision_steps import subdivision_steps


def own_uncertainty(logits: Tensor) -> Tensor:
    return mask_uncertainty(logits[:, 0])


def test_a_step_worked_out_by_hand() -> None:
    coarse = torch.tensor([[[[-4.0, 4.0]]]])
    # Interpolated along the row: -4, -2, 2, 4; the two in the middle are the most uncertain.
    (step,) = subdivision_steps(coarse, lambda points: points[:, None, :, 0] + 9, own_uncertainty, [(2, 4)], 4)
    row = [-4.0, -2.0, 2.0, 4.0]
    assert step.upsampled[0, 0].tolist() == [row, row]
    assert step.points[0].tolist() == [[0.375, 0.25], [0.625, 0.25], [0.375, 0.75], [0.625, 0.75]]
    refined = [-4.0, 9.375, 9.625, 4.0]
    assert step.refined[0, 0].tolist() == [refined, refined]


def test_a_grid_of_few_cells_is_predicted_whole() -> None:
    coarse = torch.zeros(1, 1, 2, 2)
    first, second = subdivision_steps(coarse, lambda p: p[:, None, :, 1], own_uncertainty, [(4, 4), (8, 8)], 16)
    assert first.points.shape[1] == second.points.shape[1] == 16
    assert first.refined[0, 0, :, 0].tolist() == [0.125, 0.375, 0.625, 0.875]


def test_the_last_step_is_what_subdivision_returns() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (torch.randn(2, 3, side, side, generator=generator) for side in (7, 40))
    sizes = subdivision_sizes((7, 7), (56, 56))
    # The first grid has as many cells as a step may predict, the others more.
    for num_points in (50, 196, 400):
        arguments = (lambda points: sample_features(fine, points), class_uncertainty, sizes, num_points)
        steps = subdivision_steps(coarse, *arguments)
        with torch.no_grad():
            assert torch.equal(steps[-1].refined, subdivide(coarse, *arguments))
        assert [step.refined.shape[-1] for step in steps] == [14, 28, 56]
