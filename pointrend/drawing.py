"""Colours of objects and classes, and the font of their names."""

import colorsys
import functools

import numpy as np
from PIL import ImageFont

# Okabe and Ito's colours, which colour-blind people can tell apart, in an order in which neighbours differ most.
PALETTE = ("#D55E00", "#56B4E9", "#F0E442", "#0072B2", "#E69F00", "#009E73", "#CC79A7")
#: So many colours differ from each other as much as they can.
DISTINCT = 100


def color(index: int) -> tuple[float, float, float]:
    """The RGB colour of object or class number ``index``, in [0, 1]; the first are those of ``PALETTE``.

    Of the first ``DISTINCT`` each is as far from all before it as any saturated colour. No two of any number of
    colours are the same.
    """
    if index < DISTINCT:
        red, green, blue = _distinct_colors()[index].tolist()
        return red, green, blue
    golden_ratio = 0.61803398875
    return colorsys.hsv_to_rgb((0.02 + index * golden_ratio) % 1.0, 0.75, 1.0)


@functools.cache
def _distinct_colors() -> np.ndarray:
    """(DISTINCT, 3), each chosen to be the farthest one from those before it."""
    palette = np.array([[*bytes.fromhex(code[1:])] for code in PALETTE]) / 255
    candidates = np.stack(np.meshgrid(*[np.linspace(0, 1, 9)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = oklab(candidates)
    visible = (seen[:, 0] > 0.4) & (seen[:, 0] < 0.93) & (np.hypot(seen[:, 1], seen[:, 2]) > 0.09)
    candidates, seen = candidates[visible], seen[visible]
    chosen = [*palette]
    nearest = np.linalg.norm(seen[:, None] - oklab(palette)[None], axis=2).min(axis=1)
    while len(chosen) < DISTINCT:
        farthest = nearest.argmax()
        chosen.append(candidates[farthest])
        nearest = np.minimum(nearest, np.linalg.norm(seen - seen[farthest], axis=1))
    return np.array(chosen)


def oklab(colors: np.ndarray) -> np.ndarray:
    """sRGB colours (..., 3) in [0, 1] in Oklab, where distances are about those that people see: lightness, a, b.

    https://bottosson.github.io/posts/oklab
    """
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(linear @ np.array(to_cones).T) @ np.array(to_lab).T


@functools.cache
def font_of(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which has most alphabets, where it is installed; else the font inside Pillow, which has Latin."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)
