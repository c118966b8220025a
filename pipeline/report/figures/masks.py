"""Draws masks over enlarged parts of images, with smooth edges.

Shape letters: H W rows and columns of an image, h w those of a panel.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from pipeline.report.figures.figure import PIXEL_RATIO
from pipeline.report.figures.panels import to_image

BLUR = 0.45  # in pixels of the mask: rounds the stairs between its pixels, but a single pixel stays
SOFT = 4  # pixels of the mask beside which nothing of it is left when it is blurred and enlarged
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
    enlarged = np.zeros((window.size[1] * FINER, window.size[0] * FINER), bool)
    if not mask.any():
        return enlarged
    # Only about the mask: the rest of a large picture takes a hundred times as long.
    (left, right), (top, bottom) = (_extent(mask, axis, 2 * SOFT) for axis in (0, 1))
    part = gaussian_filter(mask[top:bottom, left:right].astype(np.float32), BLUR, mode="nearest")
    columns, x0, x1 = _places(_extent(mask, 0, SOFT), window.box[0], window.box[2], enlarged.shape[1])
    rows, y0, y1 = _places(_extent(mask, 1, SOFT), window.box[1], window.box[3], enlarged.shape[0])
    if columns and rows:
        box = (max(0.0, x0 - left), max(0.0, y0 - top), min(x1 - left, right - left), min(y1 - top, bottom - top))
        soft = Image.fromarray(part).resize((len(columns), len(rows)), Image.Resampling.BICUBIC, box)
        enlarged[rows.start : rows.stop, columns.start : columns.stop] = np.asarray(soft) >= 0.5
    return enlarged


def _places(extent: tuple[int, int], start: float, stop: float, count: int) -> tuple[range, float, float]:
    """The pixels of a grid of ``count`` from ``start`` to ``stop`` that show an extent, and their borders."""
    fine = count / (stop - start)
    shown = range(max(0, math.floor((extent[0] - start) * fine)), min(count, math.ceil((extent[1] - start) * fine)))
    return shown, start + shown.start / fine, start + shown.stop / fine


def _extent(mask: np.ndarray, axis: int, room: int) -> tuple[int, int]:
    """From where to where a mask that is not empty reaches, with some room, within it: its columns for axis 0."""
    covered = np.flatnonzero(mask.any(axis=axis))
    return max(0, int(covered[0]) - room), min(mask.shape[1 - axis], int(covered[-1]) + 1 + room)


def paint(
    panel: Image.Image, area: np.ndarray, color: Color, opacity: float = 1.0, at: tuple[int, int] = (0, 0)
) -> None:
    """Paints an area (FINER h, FINER w) bool from a place (x, y) of a panel on; its edge is painted in part."""
    share = Image.fromarray(area.astype(np.uint8) * round(255 * opacity))
    rgb = tuple(round(255 * channel) for channel in color)
    size = (area.shape[1] // FINER, area.shape[0] // FINER)
    panel.paste(rgb, at, share.resize(size, Image.Resampling.BOX))


def draw_mask(panel: Image.Image, mask: np.ndarray, color: Color) -> None:
    """Draws a mask (FINER h, FINER w) bool over a panel: a translucent fill and an outline within a white line."""
    if not mask.any():
        return
    room = FINER * math.ceil(LINE / 2 + HALO)
    (left, right), (top, bottom) = (_extent(mask, axis, room) for axis in (0, 1))
    at = (left // FINER, top // FINER)
    part = mask[FINER * at[1] : FINER * -(-bottom // FINER), FINER * at[0] : FINER * -(-right // FINER)]
    paint(panel, part, color, OPACITY, at)
    _outline(panel, part, color, at)


def cut_out(panel: Image.Image, mask: np.ndarray) -> Image.Image:
    """A panel on which only what a mask (FINER h, FINER w) bool covers keeps its colours; the rest is pale."""
    drawn = panel.copy()
    paint(drawn, ~mask, (1.0, 1.0, 1.0), PALE)
    _outline(drawn, mask, INK)
    return drawn


def _outline(panel: Image.Image, mask: np.ndarray, color: Color, at: tuple[int, int] = (0, 0)) -> None:
    """Draws a line along a mask's edge, and a thin white one around it. At the mask's border there is no edge."""
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
    paint(panel, (outwards > line) & (outwards <= line + halo), (1.0, 1.0, 1.0), 0.85, at)
    paint(panel, np.abs(outwards) <= line, color, at=at)
