"""Colours of objects and classes, and the font of their names."""

import colorsys
import functools

from PIL import ImageFont

# Okabe and Ito's colours, which colour-blind people can tell apart, in an order in which neighbours differ most.
PALETTE = ("#D55E00", "#56B4E9", "#F0E442", "#0072B2", "#E69F00", "#009E73", "#CC79A7")


def color(index: int) -> tuple[float, float, float]:
    """The RGB colour of object number ``index``, in [0, 1]; consecutive numbers have very different colours.

    The first are those of ``PALETTE``. No two of any number of colours are the same.
    """
    if index < len(PALETTE):
        red, green, blue = bytes.fromhex(PALETTE[index][1:])
        return red / 255, green / 255, blue / 255
    golden_ratio = 0.61803398875
    return colorsys.hsv_to_rgb((0.02 + index * golden_ratio) % 1.0, 0.75, 1.0)


@functools.cache
def font_of(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which has most alphabets, where it is installed; else the font inside Pillow, which has Latin."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)
