"""Training augmentation (Appendix A): horizontal flips and a random scale.

Shape letters: G objects, H W rows and columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pointrend.transform import rescale_boxes, resize_image, resized_size

Target = dict[str, Tensor]


def flip_horizontally(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirrors image (3, H, W), boxes (G, 4) xyxy and masks (G, H, W) left to right."""
    width = image.shape[-1]
    x0, y0, x1, y1 = target["boxes"].unbind(1)
    boxes = torch.stack((width - x1, y0, width - x0, y1), dim=1)
    return image.flip(-1), {**target, "boxes": boxes, "masks": target["masks"].flip(-1)}


def resize(image: Tensor, target: Target, shorter: int, longest: int) -> tuple[Tensor, Target]:
    """Resizes image and boxes. The masks keep their resolution: the model samples them where it needs them."""
    source = (image.shape[-2], image.shape[-1])
    size = resized_size(source, shorter, longest)
    return resize_image(image, size), {**target, "boxes": rescale_boxes(target["boxes"], source, size)}


def augment(image: Tensor, target: Target, min_sizes: Sequence[int], max_size: int, seed: int) -> tuple[Tensor, Target]:
    """A flip with probability one half and one of the shorter edges, both decided by ``seed`` alone."""
    generator = torch.Generator().manual_seed(seed)
    if torch.rand((), generator=generator) < 0.5:
        image, target = flip_horizontally(image, target)
    shorter = min_sizes[int(torch.randint(len(min_sizes), (), generator=generator))]
    return resize(image, target, shorter, max_size)
