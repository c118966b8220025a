"""Draws masks over enlarged parts of images, with smooth edges.

Shape letters: H W rows and columns of an image, h w those of a panel.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from pipeline.report.figures.figure import PIXEL_RATIO
from pipeline.report.figures.panels import to_image

BLUR = 0.45  # in pixels of the mask: rounds the stairs between its pixels, but a single pixel stays
FINER = 2  # edges are found on a grid this much finer than the panel's, for smooth lines
LINE, HALO = 1.5 * PIXEL_RATIO, 0.75 * PIXEL_RATIO  # widths of the outline and of the white line around it, in pixels
OPACITY = 0.4
PALE = 0.72  # how much white covers what a mask leaves out
INK = (0.08, 0.1, 0.16)  # the colour of the outline of what is cut out

Color = tuple[float, float, float]  # RGB in [0, 1]


@dataclass(frozen=True)
class Window:
    """A part of an image, ``box`` = (x0, y0, x1, y1) in its pixels, shown as a panel of ``size`` = (w, h) pixels."""

    box: tuple[float, float, float, float]
    size: tuple[int, int]

    @classmethod
    def fit(cls, box: tuple[float, float, float, float], side: int) -> "Window":
        """A panel whose longer edge has ``side`` pixels."""
        width, height = box[2] - box[0], box[3] - box[1]
        scale = side / max(width, height)
        return cls(box, (max(1, round(width * scale)), max(1, round(height * scale))))


def enlarged_picture(picture: Tensor, window: Window) -> Image.Image:
    """The window's part of a picture (3, H, W)."""
    return to_image(picture, 1).resize(window.size, Image.Resampling.LANCZOS, window.box)


def enlarged_mask(mask: np.ndarray, window: Window) -> np.ndarray:
    """The window's part of a mask (H, W) bool, on a grid ``FINER`` than the panel: (FINER h, FINER w) bool."""
    soft = Image.fromarray(gaussian_filter(mask.astype(np.float32), BLUR, mode="nearest"))
    size = (window.size[0] * FINER, window.size[1] * FINER)
    return np.asarray(soft.resize(size, Image.Resampling.BICUBIC, window.box)) >= 0.5


def paint(panel: Image.Image, area: np.ndarray, color: Color, opacity: float = 1.0) -> None:
    """Paints an area (FINER h, FINER w) bool of a panel; pixels at its edge are painted in part."""
    share = Image.fromarray(area.astype(np.uint8) * round(255 * opacity))
    rgb = tuple(round(255 * channel) for channel in color)
    panel.paste(rgb, (0, 0), share.resize(panel.size, Image.Resampling.BOX))


def draw_mask(panel: Image.Image, mask: np.ndarray, color: Color) -> None:
    """Draws a mask (FINER h, FINER w) bool over a panel: a translucent fill and an outline within a white line."""
    paint(panel, mask, color, OPACITY)
    _outline(panel, mask, color)


def cut_out(panel: Image.Image, mask: np.ndarray) -> Image.Image:
    """A panel on which only what a mask (FINER h, FINER w) bool covers keeps its colours; the rest is pale."""
    drawn = panel.copy()
    paint(drawn, ~mask, (1.0, 1.0, 1.0), PALE)
    _outline(drawn, mask, INK)
    return drawn


def _outline(panel: Image.Image, mask: np.ndarray, color: Color) -> None:
    """Draws a line along a mask's edge, and a thin white one around it. At the panel's border there is no edge."""
    if mask.all() or not mask.any():
        return
    line, halo = LINE * FINER / 2, HALO * FINER
    inside = np.ones_like(mask)  # pixels of the mask all of whose neighbours are
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    inside[:, 1:] &= mask[:, :-1]
    inside[:, :-1] &= mask[:, 1:]
    distance = distance_transform_edt(~mask | inside)  # from the mask's last pixels
    outwards = np.where(mask, -1 - distance, distance)
    paint(panel, (outwards > line) & (outwards <= line + halo), (1.0, 1.0, 1.0), 0.85)
    paint(panel, np.abs(outwards) <= line, color)
