"""Turns images of any size into the network's input, and rescales boxes.

Shape letters: N images, R regions, H W rows and columns.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from pointrend.finite import check_finite
from pointrend.points import Size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _as_one_symbol(length: int | torch.SymInt) -> int:
    """The same length; in a graph that is being recorded, a new symbol instead of an expression of other symbols.

    Expressions nested in expressions take minutes to simplify.
    """
    if isinstance(length, int):
        return length
    symbol = torch.scalar_tensor(length, dtype=torch.int64).item()
    torch._check(symbol >= 1)
    return symbol  # type: ignore[return-value]


def next_multiple(length: int, divisor: int) -> int:
    """The smallest multiple of ``divisor`` that is at least ``length``."""
    return length if divisor == 1 else _as_one_symbol((length + divisor - 1) // divisor) * divisor


def resized_size(size: Size, shorter: int, longest: int) -> Size:
    """(H, W) scaled to a shorter edge of ``shorter`` pixels, or less where the longer would exceed ``longest``."""
    # torch.sym_min and the like also accept the symbolic sizes of a graph.
    scale = torch.sym_min(shorter / torch.sym_min(*size), longest / torch.sym_max(*size))
    height, width = (_as_one_symbol(torch.sym_max(1, torch.sym_int(side * scale + 0.5))) for side in size)
    return height, width


def resize_image(image: Tensor, size: Size) -> Tensor:
    """Bilinear, anti-aliased when it shrinks: (3, h, w) to (3, H, W)."""
    if not torch.compiler.is_compiling() and tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def rescale_boxes(boxes: Tensor, source: Size, target: Size) -> Tensor:
    """Boxes (R, 4) xyxy in pixels of an image of size ``source`` to pixels of the same image at ``target``."""
    columns, rows = boxes[:, 0::2] * (target[1] / source[1]), boxes[:, 1::2] * (target[0] / source[0])
    return torch.stack((columns, rows), dim=2).flatten(1)


class ImageTransform(nn.Module):
    """Checks, resizes (at inference only: training images come at their size), normalises and batches images.

    Args:
        min_size: shorter edge at inference, in pixels; None to keep each image's size.
        max_size: limit of the longer edge at inference, in pixels.
        size_divisible: a batch is padded with zeros until its height and width are multiples of this.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, min_size: int | None, max_size: int | None, size_divisible: int = 32) -> None:
        super().__init__()
        self.min_size, self.max_size, self.size_divisible = min_size, max_size, size_divisible
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Sequence[Tensor]) -> ImageList:
        """N images (3, H, W), RGB in [0, 1], to one padded batch with the size of each image in it.

        Raises:
            ValueError: if there is no image, or one is not a float tensor of shape (3, H, W) or not finite.
        """
        return self.batch(self.normalised(images))

    def normalised(self, images: Sequence[Tensor]) -> list[Tensor]:
        """N images (3, H, W), RGB in [0, 1], each at the size it enters the network.

        Raises:
            ValueError: if there is no image, or one is not a float tensor of shape (3, H, W) or not finite.
        """
        if not images:
            raise ValueError("the list of images is empty")
        normalised, checked = [], {}
        for index, image in enumerate(images):
            if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point() or not image.numel():
                raise ValueError(
                    f"image {index} is {image.dtype} of shape {tuple(image.shape)}, expected float (3, H, W), "
                    "RGB in [0, 1]"
                )
            image = image.to(self.mean.dtype)
            checked[f"image {index}"] = image
            if not self.training and self.min_size is not None and self.max_size is not None:
                image = resize_image(
                    image, resized_size((image.shape[-2], image.shape[-1]), self.min_size, self.max_size)
                )
            normalised.append((image - self.mean) / self.std)
        check_finite(checked)
        return normalised

    def batch(self, normalised: Sequence[Tensor]) -> ImageList:
        """Images (3, H, W) padded with zeros to one size, with the size of each."""
        sizes = [(image.shape[-2], image.shape[-1]) for image in normalised]
        height, width = (next_multiple(max(size[axis] for size in sizes), self.size_divisible) for axis in (0, 1))
        padded = [F.pad(image, (0, width - w, 0, height - h)) for image, (h, w) in zip(normalised, sizes, strict=True)]
        return ImageList(torch.stack(padded), sizes)
