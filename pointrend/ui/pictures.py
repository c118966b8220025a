"""Pictures on their way to the page: reduced, cropped, and as JPEG.

Shape letters: H W rows and columns.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pointrend.pixels import Reading, decode_image
from pointrend.points import Size
from pointrend.predict import MAX_PIXELS

Window = tuple[float, float, float, float]  # xyxy in pixels

#: The longer side in pixels of what the page shows of a whole picture, and of an enlarged part of it.
WHOLE, PART = 1280, 480


@dataclass(frozen=True)
class Picture:
    """A picture that was opened in the page."""

    name: str
    pixels: np.ndarray  # uint8 (H, W, 3)
    shown: np.ndarray  # the same, reduced to what the page shows
    remarks: tuple[str, ...]


def open_picture(data: bytes, name: str, bits: int | None, pixel_range: tuple[float, float] | None) -> Picture:
    """A picture from the bytes of its file; ``bits`` overrules ``pixel_range``, the values of black and white.

    Raises:
        OSError, ValueError: as :func:`pointrend.pixels.decode_image`.
    """
    reading = Reading("exif", pixel_range if bits is None else None)
    image = decode_image(io.BytesIO(data), name, reading, bits=bits, max_pixels=MAX_PIXELS["instance"])
    return Picture(name, image.pixels, reduced(image.pixels, WHOLE), image.remarks)


def reduced(pixels: np.ndarray, longest: int) -> np.ndarray:
    """An image uint8 (H, W, 3), made smaller where its longer side has more than so many pixels."""
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    size = scaled((height, width), longest)
    return np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BOX, reducing_gap=2))


def scaled(size: tuple[float, float], longest: int) -> Size:
    """(H, W) with a longer side of so many pixels."""
    height, width = (max(1, round(side * longest / max(size))) for side in size)
    return height, width


def enlarged(pixels: np.ndarray, window: Window) -> np.ndarray:
    """A part of an image uint8 (H, W, 3), with a longer side of ``PART`` pixels."""
    x0, y0, x1, y1 = window
    height, width = scaled((y1 - y0, x1 - x0), PART)
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box=window))


def jpeg(pixels: np.ndarray | Image.Image) -> str:
    """An image as a data URL."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
