"""Grids and points, pixel by pixel."""

import numpy as np
import torch
from PIL import Image

from pipeline.report.figures.cells import (
    INSIDE,
    LINES,
    OUTSIDE,
    draw_cells,
    draw_points,
    fit_picture,
    probability_colors,
)


def test_shades_lie_between_the_two_colors() -> None:
    colors = probability_colors(torch.tensor([[0.0, 0.5, 1.0]]))
    assert colors[0, 0].tolist() == list(OUTSIDE)
    assert colors[0, 2].tolist() == list(INSIDE)
    assert np.abs(colors[0, 1] - (np.array(OUTSIDE) + INSIDE) / 2).max() <= 0.5


def test_cells_are_squares_between_lines() -> None:
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    drawn = np.asarray(draw_cells(colors, 5))
    assert drawn.shape == (5, 15, 3)
    for column in range(3):
        assert (drawn[1:4, 5 * column + 1 : 5 * column + 4] == colors[0, column]).all()
        assert (drawn[:, 5 * column] == LINES).all()
    plain = np.asarray(draw_cells(colors, 5, lines=False))
    assert (plain == colors.repeat(5, 0).repeat(5, 1)).all()


def test_points_are_dots_where_they_are() -> None:
    image = Image.new("RGB", (40, 20), "white")
    drawn = np.asarray(draw_points(image, torch.tensor([[0.25, 0.5]]), 3))
    dark = np.argwhere(drawn[..., 0] < 128)
    assert dark.mean(0).tolist() == [9.5, 9.5]  # around (10, 10): pixels 7 to 12
    assert dark.min(0).tolist() == [7, 7]
    assert dark.max(0).tolist() == [12, 12]
    assert np.asarray(image).min() == 255


def test_a_picture_fills_its_longer_edge() -> None:
    picture = torch.tensor([0.0, 1.0]).repeat(3, 1, 1)  # one row of two pixels
    wide = np.asarray(fit_picture(picture, 6))
    assert wide.shape == (3, 6, 3)
    assert wide[0, :, 0].tolist() == [0, 0, 0, 255, 255, 255]
    # A pixel in which two meet has a bit of both.
    assert np.asarray(fit_picture(picture, 5))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert np.asarray(fit_picture(torch.zeros(3, 40, 10), 20)).shape == (20, 5, 3)
