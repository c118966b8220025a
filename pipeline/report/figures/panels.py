"""Arranges pictures in a grid with captions."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.report.figures.figure import PIXEL_RATIO

GAP, CAPTION = 6 * PIXEL_RATIO, 20 * PIXEL_RATIO  # pixels


@cache
def font() -> ImageFont.FreeTypeFont:
    """The captions' font."""
    # Pillow's own font has no "×"; matplotlib comes with a font that does.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 12 * PIXEL_RATIO)


@dataclass(frozen=True)
class Panels:
    """A grid of pictures with column captions."""

    captions: list[str]
    rows: list[list[Image.Image]]

    def render(self) -> Image.Image:
        """All panels in one picture."""
        widths = [
            max(math.ceil(font().getlength(caption)), *(row[column].width for row in self.rows))
            for column, caption in enumerate(self.captions)
        ]
        heights = [max(panel.height for panel in row) for row in self.rows]
        size = (sum(widths) + GAP * (len(widths) - 1), CAPTION + sum(heights) + GAP * (len(heights) - 1))
        sheet = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(sheet)
        left = 0
        for column, (caption, width) in enumerate(zip(self.captions, widths, strict=True)):
            pen.text((left + width / 2, CAPTION / 2), caption, "black", font(), anchor="mm")
            top = CAPTION
            for row, height in zip(self.rows, heights, strict=True):
                panel = row[column]
                sheet.paste(panel, (left + (width - panel.width) // 2, top + (height - panel.height) // 2))
                top += height + GAP
            left += width + GAP
        return sheet


def to_image(picture: Tensor, scale: int) -> Image.Image:
    """A picture (3, H, W) in [0, 1] as an image ``scale`` times as large, without smoothing."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def enlarge(crop: Tensor, side: int) -> Image.Image:
    """A crop (3, h, w) enlarged by a whole factor to at most ``side`` pixels, or shrunk to ``side`` pixels."""
    image = to_image(crop, max(1, side // max(crop.shape[1:])))
    image.thumbnail((side, side))
    return image


def with_note(image: Image.Image, note: str) -> Image.Image:
    """An image with a line of text below it."""
    noted = Image.new("RGB", (image.width, image.height + CAPTION), "white")
    noted.paste(image)
    ImageDraw.Draw(noted).text((image.width / 2, image.height + CAPTION / 2), note, "black", font(), anchor="mm")
    return noted
