"""Reads and writes the image files of predictions: read as people see them, upright."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pointrend.files import atomic_output
from pointrend.pixels import ImageFile, Reading, decode_image

#: The longest side that the JPEG format has room for, in Pillow's encoder.
JPEG_SIDE = 65_500


def read_image(
    path: Path,
    *,
    bits: int | None = None,
    pixel_range: tuple[float, float] | None = None,
    max_pixels: int | None = None,
) -> ImageFile:
    """:func:`pointrend.pixels.decode_image` of a file, upright; ``bits`` overrules ``pixel_range``."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise OSError(f"{path}: not a file, but a folder, a pipe or a device")
    reading = Reading("exif", pixel_range if bits is None else None)
    return decode_image(path, str(path), reading, bits=bits, max_pixels=max_pixels)


def write_image(pixels: np.ndarray, path: Path) -> None:
    """Writes uint8 (H, W), (H, W, 3) or (H, W, 4), or uint16 (H, W), in the suffix's format, whole or not at all.

    Raises:
        ValueError: naming the file, for another suffix or if it is too long for a JPEG.
    """
    if path.suffix == ".jpg" and max(pixels.shape) > JPEG_SIDE:
        height, width = pixels.shape[:2]
        raise ValueError(
            f"{path}: {width} x {height} pixels; a JPEG has at most {JPEG_SIDE} a side, so write other files"
        )
    options: dict[str, dict[str, Any]] = {".jpg": {"quality": 95, "subsampling": 0}, ".png": {"compress_level": 3}}
    if path.suffix not in options:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(options)}")
    with atomic_output(path) as fresh:
        Image.fromarray(pixels).save(fresh, **options[path.suffix])
