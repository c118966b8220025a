"""Reads image files as tensors.

Shape letters: H W rows and columns.
"""

from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from pointrend.pixels import STORED, UPRIGHT, Reading, decode_image


def read_picture(path: Path, *, upright: bool = False) -> Tensor:
    """An image file as float (3, H, W), RGB in [0, 1].

    Args:
        path: the file.
        upright: rotate it as its EXIF data say, as image viewers do. Leave this off for annotated images whose
            annotations refer to the stored pixels.

    Raises:
        OSError: naming the file, if it is missing, truncated or not an image.
        ValueError: naming the file, if what its values mean is not certain.
    """
    return decode_picture(path, str(path), UPRIGHT if upright else STORED)


def decode_picture(file: Path | IO[bytes], name: str, reading: Reading = STORED) -> Tensor:
    """:func:`read_picture` from a path or an open file; errors call it ``name``."""
    return torch.from_numpy(decode_image(file, name, reading).pixels).permute(2, 0, 1).float() / 255
