"""A figure of the report."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure as Chart
from PIL import Image

PIXEL_RATIO = 2  # pictures have twice the pixels that the page shows, for sharp screens and prints


@dataclass(frozen=True)
class Figure:
    """A picture with the texts of its section of the page.

    Args:
        title: the section's title.
        caption: what the picture shows.
        file: the name of the PNG or WebP file in the report's folder.
        width: of the picture on the page, in CSS pixels.
    """

    title: str
    caption: str
    file: str
    width: int


def save_picture(picture: Image.Image, path: Path) -> int:
    """Writes a picture as PNG, or as WebP that looks like the original, and returns its width on the page."""
    if path.suffix == ".webp":
        picture.save(path, quality=88, method=4)
    else:
        picture.save(path, optimize=True)
    return round(picture.width / PIXEL_RATIO)


def save_chart(chart: Chart, path: Path) -> int:
    """Writes a chart as PNG and returns its width on the page."""
    chart.savefig(path)
    return round(chart.get_figwidth() * chart.get_dpi())
