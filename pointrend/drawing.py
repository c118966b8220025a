"""Draws masks onto images and writes image files.

Shape letters: R regions, H W rows and columns.
"""

import colorsys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pointrend.files import atomic_output


def check_picture_format(path: Path) -> None:
    """Raises ValueError if the suffix of a file's name is not that of an image format that Pillow can write."""
    # Pillow also knows the suffixes of formats that it can only read.
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{path}: the name must end in a picture format, such as .png or .jpg")


def write_picture(image: Tensor, path: Path) -> None:
    """Writes float (3, H, W) in [0, 1] in the format of the path's suffix, whole or not at all.

    Raises:
        ValueError: for an unknown suffix.
        OSError: if the folder does not exist, or the file cannot be written.
    """
    check_picture_format(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    with atomic_output(path) as fresh:
        Image.fromarray(pixels).save(fresh)


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


def boundary(masks: Tensor) -> Tensor:
    """The pixels of masks (R, H, W) bool that share an edge with a pixel outside their mask: (R, H, W) bool."""
    padded = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    inside = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return masks & ~inside


def draw_masks(image: Tensor, masks: Tensor, opacity: float = 0.45) -> Tensor:
    """Blends masks (R, H, W) bool into an image (3, H, W), each in its own colour with a solid outline."""
    drawn = image.clone()
    edges = boundary(masks)
    for index, (mask, edge) in enumerate(zip(masks, edges, strict=True)):
        paint = image.new_tensor(color(index))[:, None]
        drawn[:, mask] = (1 - opacity) * drawn[:, mask] + opacity * paint
        drawn[:, edge] = paint
    return drawn
