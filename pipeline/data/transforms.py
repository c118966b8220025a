"""Training augmentation (Appendix A): horizontal flips and a random scale.

The loading process flips the image and decides the size, so that images travel to the device small and as uint8; the
device makes them float and resizes them.

Shape letters: G objects, H W rows and columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pointrend.points import Size
from pointrend.transform import rescale_boxes, resized_size

Target = dict[str, Tensor]


def to_float(image: Tensor) -> Tensor:
    """An image (3, H, W) uint8 as float in [0, 1]; a float image as it is."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def flip_horizontally(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirrors image (3, H, W), boxes (G, 4) xyxy and masks (G, H, W) left to right."""
    width = image.shape[-1]
    x0, y0, x1, y1 = target["boxes"].unbind(1)
    boxes = torch.stack((width - x1, y0, width - x0, y1), dim=1)
    return image.flip(-1), {**target, "boxes": boxes, "masks": target["masks"].flip(-1)}


def resize(source: Size, target: Target, shorter: int, longest: int) -> tuple[Size, Target]:
    """The new size (H, W) of an image of size ``source``, and its target with the boxes resized.

    The shorter edge becomes ``shorter`` pixels, but the longer one at most ``longest``. Masks keep their resolution:
    the model samples them where it needs them.
    """
    size = resized_size(source, shorter, longest)
    return size, {**target, "boxes": rescale_boxes(target["boxes"], source, size)}


def augment(
    image: Tensor, target: Target, min_sizes: Sequence[int], max_size: int, seed: int
) -> tuple[Tensor, Target, Size]:
    """Flips with probability one half and draws one of the shorter edges, both decided by ``seed`` alone.

    Returns:
        the image (3, h, w), flipped or not but not resized; the target, resized; and the size (H, W) to resize the
        image to.
    """
    generator = torch.Generator().manual_seed(seed)
    if torch.rand((), generator=generator) < 0.5:
        image, target = flip_horizontally(image, target)
    shorter = min_sizes[int(torch.randint(len(min_sizes), (), generator=generator))]
    size, target = resize((image.shape[-2], image.shape[-1]), target, shorter, max_size)
    return image, target, size
