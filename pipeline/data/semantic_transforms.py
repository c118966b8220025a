"""Training augmentation of semantic segmentation (Appendix B): scale, crop, flip and colour.

The loading process scales, crops and flips, and draws the change of colours. The device makes the crops float and
changes their colours, so that they travel to it as uint8.

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

#: SSD's ranges (Liu et al., 2016): the largest change of a pixel in [0, 1], of the factors of contrast and saturation,
#: which are about 1, and of the hue in turns of the colour wheel.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32 / 255, 0.5, 0.5, 18 / 180


@dataclass(frozen=True)
class Window:
    """The place of a crop: its upper left corner and size, in pixels of the image resized to ``scaled`` (H, W)."""

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
    """Draws a crop anywhere in the resized image; where the image is smaller than the crop, the crop is, too."""
    height, width = (min(side, length) for side, length in zip(crop_size, scaled, strict=True))
    top, left = (
        int(torch.randint(length - side + 1, (), generator=generator))
        for side, length in zip((height, width), scaled, strict=True)
    )
    return Window(top, left, (height, width), scaled)


def crop_pixels(pixels: np.ndarray, window: Window) -> Tensor:
    """A crop (3, h, w) uint8 of an image (H, W, 3) uint8 resized bilinearly, anti-aliased when it shrinks.

    Only the crop is computed, not the rest of the resized image, which may have four times the file's pixels.
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
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def crop_labels(labels: np.ndarray, window: Window) -> np.ndarray:
    """The same crop (h, w) of labels (H, W): each pixel takes the label of the file's pixel that its centre lies in."""
    rows, columns = (
        ((np.arange(start, start + side) + 0.5) * length / scaled).astype(np.int64)
        for start, side, length, scaled in zip(
            (window.top, window.left), window.size, labels.shape, window.scaled, strict=True
        )
    )
    return labels[np.ix_(rows, columns)]


def is_varied(labels: np.ndarray, max_share: float) -> bool:
    """Whether labels (h, w) have two classes or more, none over ``max_share`` of the pixels that are not ignored."""
    counts = np.bincount(labels[labels != IGNORE_LABEL].ravel())
    return bool(np.count_nonzero(counts) > 1 and counts.max() <= max_share * counts.sum())


@dataclass(frozen=True)
class ColorChange:
    """One draw of SSD's colour augmentation. A part that is None does not happen.

    Attributes:
        brightness: added to the image.
        contrast: factor of the image.
        contrast_first: apply the contrast before saturation and hue, not after them.
        saturation: factor of the saturation of HSV.
        hue: added to the hue; 1 is a whole turn of the colour wheel.
    """

    brightness: float | None
    contrast: float | None
    contrast_first: bool
    saturation: float | None
    hue: float | None


def draw_color_change(generator: torch.Generator) -> ColorChange:
    """Draws SSD's colour augmentation: each of its parts happens with probability one half."""

    def happens() -> bool:
        return bool(torch.rand((), generator=generator) < 0.5)

    def maybe(low: float, high: float) -> float | None:
        return low + (high - low) * float(torch.rand((), generator=generator)) if happens() else None

    def contrast() -> float | None:
        return maybe(1 - CONTRAST, 1 + CONTRAST)

    brightness = maybe(-BRIGHTNESS, BRIGHTNESS)
    contrast_first = happens()
    # The order of the draws is that of the changes.
    first = contrast() if contrast_first else None
    saturation = maybe(1 - SATURATION, 1 + SATURATION)
    hue = maybe(-HUE, HUE)
    return ColorChange(brightness, first if contrast_first else contrast(), contrast_first, saturation, hue)


def change_colors(image: Tensor, change: ColorChange) -> Tensor:
    """Applies a change of colours to an image (3, h, w) in [0, 1], brightness first. The result is in [0, 1], too."""

    def contrast(image: Tensor) -> Tensor:
        return image if change.contrast is None else (image * change.contrast).clamp(0, 1)

    if change.brightness is not None:
        image = (image + change.brightness).clamp(0, 1)
    if change.contrast_first:
        image = contrast(image)
    if change.saturation is not None:
        image = scale_saturation(image, change.saturation)
    if change.hue is not None:
        image = adjust_hue(image, change.hue)
    return image if change.contrast_first else contrast(image)


def scale_saturation(image: Tensor, factor: float) -> Tensor:
    """Multiplies the saturation of HSV, up to 1; hue and value stay. image: (3, h, w) in [0, 1]."""
    value, lowest = image.amax(0), image.amin(0)
    # How far a channel lies below the value is proportional to the saturation, which is (value - lowest) / value.
    factors = torch.minimum(torch.full_like(value, factor), value / (value - lowest).clamp(min=1e-6))
    return (value - (value - image) * factors).clamp(0, 1)


def augment(
    pixels: np.ndarray, labels: np.ndarray, config: SemanticModelConfig, seed: int
) -> tuple[Tensor, Tensor, ColorChange | None]:
    """A training crop, decided by ``seed`` alone.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        labels: (H, W), classes or 255.
        config: sizes of the crop and the image, and which augmentations there are.
        seed: of this example.

    Returns:
        the crop (3, h, w) uint8, its labels (h, w) int64, and the change of colours to apply to the float crop, if
        any. If the resized image is smaller than the crop, so are crop and labels; the model pads its batch with the
        mean colour and label 255.
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
    colors = draw_color_change(generator) if config.color_augmentation else None
    target = torch.from_numpy(cropped.astype(np.int64))
    if torch.rand((), generator=generator) < 0.5:
        image, target = image.flip(-1), target.flip(-1)
    return image, target, colors
