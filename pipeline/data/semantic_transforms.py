"""Training augmentation of semantic segmentation (Appendix B): scale, crop, flip and colour.

Shape letters: H W rows and columns of the image, h w of the crop.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import adjust_hue

from pipeline.config.models import SemanticModelConfig
from pointrend.points import Size
from pointrend.specs import IGNORE_LABEL

CROP_DRAWS = 10

#: SSD's ranges (Liu et al., 2016): added to a brightness in [0, 1]; factors; and turns of the colour wheel.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32 / 255, 0.5, 0.5, 18 / 180


@dataclass(frozen=True)
class Window:
    """Where a crop lies: its upper left corner and size, in pixels of the image resized to ``scaled`` (H, W)."""

    top: int
    left: int
    size: Size
    scaled: Size


def scaled_sizes(size: Size, smallest: float, largest: float, step: int) -> list[Size]:
    """All (H, W) to choose from: shorter edges of ``smallest`` to ``largest`` times the image's, in steps of pixels."""
    shorter = min(size)
    edges = range(round(smallest * shorter), round(largest * shorter) + 1, step)
    return [(max(1, round(size[0] * edge / shorter)), max(1, round(size[1] * edge / shorter))) for edge in edges]


def draw_window(scaled: Size, crop_size: Size, generator: torch.Generator) -> Window:
    """A crop anywhere in the resized image; of the whole of an edge that is shorter than the crop's."""
    height, width = (min(side, length) for side, length in zip(crop_size, scaled, strict=True))
    top, left = (
        int(torch.randint(length - side + 1, (), generator=generator))
        for side, length in zip((height, width), scaled, strict=True)
    )
    return Window(top, left, (height, width), scaled)


def crop_pixels(pixels: np.ndarray, window: Window) -> Tensor:
    """A crop (3, h, w) in [0, 1] of an image (H, W, 3) uint8 resized bilinearly, anti-aliased when it shrinks.

    The rest of the resized image, up to four times the pixels of the file, is never made.
    """
    (height, width), (scaled_height, scaled_width) = window.size, window.scaled
    rows, columns = pixels.shape[0] / scaled_height, pixels.shape[1] / scaled_width
    box = (
        window.left * columns,
        window.top * rows,
        min((window.left + width) * columns, pixels.shape[1]),
        min((window.top + height) * rows, pixels.shape[0]),
    )
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def crop_labels(labels: np.ndarray, window: Window) -> np.ndarray:
    """The same crop (h, w) of labels (H, W): each pixel's is that of the pixel of the file that its centre lies in."""
    rows, columns = (
        ((np.arange(start, start + side) + 0.5) * length / scaled).astype(np.int64)
        for start, side, length, scaled in zip(
            (window.top, window.left), window.size, labels.shape, window.scaled, strict=True
        )
    )
    return labels[np.ix_(rows, columns)]


def is_varied(labels: np.ndarray, max_share: float) -> bool:
    """Whether no class covers more than a share of the pixels of labels (h, w) that are known, and there are two."""
    counts = np.bincount(labels[labels != IGNORE_LABEL].ravel())
    return bool(np.count_nonzero(counts) > 1 and counts.max() <= max_share * counts.sum())


def augment_colors(image: Tensor, generator: torch.Generator) -> Tensor:
    """SSD's colour augmentation of an image (3, h, w) in [0, 1], each of its parts with probability one half.

    Brightness first; contrast before or after saturation and hue.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def happens() -> bool:
        return bool(torch.rand((), generator=generator) < 0.5)

    def contrast(image: Tensor) -> Tensor:
        return (image * uniform(1 - CONTRAST, 1 + CONTRAST)).clamp(0, 1) if happens() else image

    if happens():
        image = (image + uniform(-BRIGHTNESS, BRIGHTNESS)).clamp(0, 1)
    contrast_first = happens()
    if contrast_first:
        image = contrast(image)
    if happens():
        image = scale_saturation(image, uniform(1 - SATURATION, 1 + SATURATION))
    if happens():
        image = adjust_hue(image, uniform(-HUE, HUE))
    return image if contrast_first else contrast(image)


def scale_saturation(image: Tensor, factor: float) -> Tensor:
    """Multiplies the saturation of HSV, up to 1; hue and value stay. image: (3, h, w) in [0, 1]."""
    value, lowest = image.amax(0), image.amin(0)
    # How far a channel lies below the value is proportional to the saturation, which is (value - lowest) / value.
    factors = torch.minimum(torch.full_like(value, factor), value / (value - lowest).clamp(min=1e-6))
    return (value - (value - image) * factors).clamp(0, 1)


def augment(pixels: np.ndarray, labels: np.ndarray, config: SemanticModelConfig, seed: int) -> tuple[Tensor, Tensor]:
    """A training crop, decided by ``seed`` alone.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        labels: (H, W), classes or 255.
        config: sizes of the crop and the image, and which augmentations there are.
        seed: of this example.

    Returns:
        the crop (3, h, w) in [0, 1] and its labels (h, w) int64. Where the resized image is smaller than the crop, so
        are they; the model pads its batch with the mean colour and label 255.
    """
    generator = torch.Generator().manual_seed(seed)
    scales = config.scales
    sizes = scaled_sizes(labels.shape, scales.smallest, scales.largest, scales.step)
    scaled = sizes[int(torch.randint(len(sizes), (), generator=generator))]
    height, width = config.crop_size
    for _ in range(CROP_DRAWS):
        window = draw_window(scaled, (height, width), generator)
        cropped = crop_labels(labels, window)
        if config.max_class_share is None or is_varied(cropped, config.max_class_share):
            break
    image = crop_pixels(pixels, window)
    if config.color_augmentation:
        image = augment_colors(image, generator)
    target = torch.from_numpy(cropped.astype(np.int64))
    if torch.rand((), generator=generator) < 0.5:
        image, target = image.flip(-1), target.flip(-1)
    return image, target
