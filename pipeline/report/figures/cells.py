"""Draws small grids with visible cells, and points on them as dots.

Shape letters: P points, H W rows and columns of a grid.
"""

import math

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.report.figures.panels import to_image

Color = tuple[int, int, int]

OUTSIDE: Color = (255, 255, 255)  # probability 0
INSIDE: Color = (232, 119, 34)  # probability 1
LINES: Color = (196, 196, 196)  # between cells
SMOOTHING = 8  # dots are drawn this many times as large and then shrunk


def probability_colors(probabilities: Tensor) -> np.ndarray:
    """Mask probabilities (H, W) in [0, 1] as colours (H, W, 3) uint8 from white to orange."""
    share = probabilities.clamp(0, 1).cpu().numpy()[..., None]
    return ((1 - share) * np.array(OUTSIDE) + share * np.array(INSIDE)).round().astype(np.uint8)


def draw_cells(colors: np.ndarray, cell: int, *, lines: bool = True) -> Image.Image:
    """Colours (H, W, 3) uint8 as squares of ``cell`` pixels, with thin lines between them unless ``lines`` is False."""
    height, width = colors.shape[:2]
    image = Image.fromarray(colors).resize((width * cell, height * cell), Image.Resampling.NEAREST)
    if lines:
        pen = ImageDraw.Draw(image)
        for column in range(width + 1):
            x = min(column * cell, image.width - 1)
            pen.line((x, 0, x, image.height), LINES)
        for row in range(height + 1):
            y = min(row * cell, image.height - 1)
            pen.line((0, y, image.width, y), LINES)
    return image


def draw_points(image: Image.Image, points: Tensor, radius: float) -> Image.Image:
    """An image with a black dot at each of the points (P, 2), which are (x, y) in [0, 1] of the image."""
    size = (image.width * SMOOTHING, image.height * SMOOTHING)
    dots = Image.new("L", size)
    pen = ImageDraw.Draw(dots)
    reach = radius * SMOOTHING
    for x, y in (points.cpu().numpy() * size).tolist():
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=255)
    drawn = image.copy()
    drawn.paste((0, 0, 0), mask=dots.resize(image.size, Image.Resampling.BOX))
    return drawn


def fit_picture(picture: Tensor, side: int) -> Image.Image:
    """Resizes a picture (3, H, W) in [0, 1] to a longer edge of ``side`` pixels and keeps its pixels visible."""
    longer = max(picture.shape[1:])
    size = (round(picture.shape[2] * side / longer), round(picture.shape[1] * side / longer))
    return to_image(picture, math.ceil(side / longer)).resize(size, Image.Resampling.BOX)
