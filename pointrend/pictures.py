"""Reads image files.

Shape letters: H W rows and columns.
"""

from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def read_picture(path: Path, *, upright: bool = False) -> Tensor:
    """An image file as float (3, H, W), RGB in [0, 1].

    Args:
        path: the file.
        upright: rotate it as its EXIF data say, as image viewers do. Leave this off for annotated images: their
            annotations refer to the stored pixels.

    Raises:
        OSError: naming the file, if it is missing, truncated or not an image.
    """
    return decode_picture(path, str(path), upright=upright)


def decode_picture(file: Path | IO[bytes], name: str, *, upright: bool = False) -> Tensor:
    """:func:`read_picture` from a path or an open file; errors call it ``name``."""
    return torch.from_numpy(decode_pixels(file, name, upright=upright)).permute(2, 0, 1).float() / 255


def decode_pixels(file: Path | IO[bytes], name: str, *, upright: bool = False) -> np.ndarray:
    """:func:`decode_picture` as uint8 (H, W, 3)."""
    try:
        with Image.open(file) as opened:
            picture: Image.Image = ImageOps.exif_transpose(opened) if upright else opened
            if picture.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255
                picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{name}: not a readable picture ({error})") from error
