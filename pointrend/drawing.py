"""Pictures in and out, and masks drawn onto them.

Shape letters: R regions, H W rows and columns.
"""

import colorsys
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
        upright: turn it as its EXIF data say, as viewers do. Annotated images are not turned: their annotations are
            in the stored pixels.

    Raises:
        OSError: naming the file, if it is missing, truncated or no image.
    """
    return decode_picture(path, str(path), upright=upright)


def decode_picture(file: Path | IO[bytes], name: str, *, upright: bool = False) -> Tensor:
    """As :func:`read_picture`, from an open file too; ``name`` is what an error calls it."""
    return torch.from_numpy(decode_pixels(file, name, upright=upright)).permute(2, 0, 1).float() / 255


def decode_pixels(file: Path | IO[bytes], name: str, *, upright: bool = False) -> np.ndarray:
    """As :func:`decode_picture`, as uint8 (H, W, 3)."""
    try:
        with Image.open(file) as opened:
            picture: Image.Image = ImageOps.exif_transpose(opened) if upright else opened
            if picture.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
                picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{name}: not a readable picture ({error})") from error


def check_picture_format(path: Path) -> None:
    """Raises ValueError if :func:`write_picture` could not tell the format from the file's name."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{path}: the name must end in a picture format, such as .png or .jpg")


def write_picture(image: Tensor, path: Path) -> None:
    """Writes float (3, H, W) in [0, 1] in the format of the path's suffix.

    Raises:
        ValueError: for an unknown suffix.
    """
    check_picture_format(path)
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(path)


def color(index: int) -> tuple[float, float, float]:
    """The RGB colour of object number ``index``: far from those of its neighbours in number."""
    golden_ratio = 0.61803398875
    return colorsys.hsv_to_rgb((0.02 + index * golden_ratio) % 1.0, 0.75, 1.0)


def boundary(masks: Tensor) -> Tensor:
    """The pixels of masks (R, H, W) bool that touch the outside across an edge: (R, H, W) bool."""
    padded = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    inside = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return masks & ~inside


def draw_masks(image: Tensor, masks: Tensor, opacity: float = 0.45) -> Tensor:
    """Lays masks (R, H, W) bool over an image (3, H, W), each in its colour with a solid outline."""
    drawn = image.clone()
    edges = boundary(masks)
    for index, (mask, edge) in enumerate(zip(masks, edges, strict=True)):
        paint = image.new_tensor(color(index))[:, None]
        drawn[:, mask] = (1 - opacity) * drawn[:, mask] + opacity * paint
        drawn[:, edge] = paint
    return drawn
