"""Draws what was found over an image: filled regions, crisp contours, names, scores and a legend.

Shape letters: H W rows and columns, h w of a crop.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pointrend.drawing import color, font_of
from pointrend.metadata import ClassInfo
from pointrend.points import Size
from pointrend.regions import STRIP, Instances, Masks, Region, Segments, regions, tight

OPACITY = 0.4
#: Smaller images are enlarged by a whole number to about this many pixels, so that contours and names are sharp.
LONG_SIDE = 1024
MAX_FACTOR = 8
#: The legend: white on almost black.
BACKGROUND, FOREGROUND = (24, 24, 28), (240, 240, 240)
#: Objects of one class differ in how much white (positive) or black (negative) is mixed into their class's colour.
SHADES = (0.0, 0.35, -0.3)


def enlargement(size: tuple[int, int]) -> int:
    """By how much an image of size (H, W) is enlarged for drawing."""
    return max(1, min(MAX_FACTOR, round(LONG_SIDE / max(size))))


def shade(class_index: int, number: int) -> tuple[int, int, int]:
    """The colour of object ``number`` of a class, 0 to 255."""
    mix = SHADES[number % len(SHADES)]
    target = 1.0 if mix > 0 else 0.0
    red, green, blue = (round(255 * (part + (target - part) * abs(mix))) for part in color(class_index))
    return red, green, blue


def outline(mask: Tensor, width: int) -> Tensor:
    """The pixels of a mask (h, w) bool within about ``width`` pixels of its boundary: (h, w) bool."""
    inside = mask
    for step in range(width):
        padded = torch.nn.functional.pad(inside, (1, 1, 1, 1))
        shrunk = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & inside
        if step % 2:  # the diagonals every other step, for round corners
            shrunk &= padded[:-2, :-2] & padded[2:, 2:] & padded[:-2, 2:] & padded[2:, :-2]
        inside = shrunk
    return mask & ~inside


def draw_overlay(
    pixels: np.ndarray, found: Instances | Masks | Segments, classes: Sequence[ClassInfo], *, legend: bool = True
) -> np.ndarray:
    """The overlay of an image uint8 (H, W, 3), enlarged if it is small, with a legend below: uint8 (H', W', 3)."""
    factor = enlargement(found.size)
    height, width = found.size[0] * factor, found.size[1] * factor
    if factor == 1:
        canvas = pixels.copy()
    else:
        canvas = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    # Only objects have lines of their own: between neighbouring classes one line is enough.
    thickness = max(2, round(max(height, width) / 500)) if not isinstance(found, Segments) else 1
    seen: Counter[int] = Counter()
    if not isinstance(found, Segments):
        seen.update(found.classes.tolist())
    numbers, drawn = seen.copy(), []
    for region in regions(found, factor):
        numbers[region.class_index] -= 1
        colour = shade(region.class_index, max(0, numbers[region.class_index]))
        paint(canvas, region, colour, thickness)
        if region.score is None:
            seen[region.class_index] = int(region.mask.sum())
        drawn.append((region.score, region.class_index, colour, _anchor(region)))
    if not isinstance(found, Segments):
        picture = Image.fromarray(canvas)
        _write_names(picture, list(reversed(drawn)), classes)
        canvas = np.array(picture)
        entries = [(shade(index, 0), f"{classes[index].name} x {count}") for index, count in sorted(seen.items())]
    else:
        shares = [(index, count / (height * width)) for index, count in sorted(seen.items(), key=lambda item: -item[1])]
        entries = [(shade(index, 0), f"{classes[index].name} {share:.1%}") for index, share in shares]
    if not legend:
        return canvas
    return np.concatenate([canvas, _legend((height, width), entries or [(None, "nothing found")])])


def paint(canvas: np.ndarray, region: Region, colour: tuple[int, int, int], thickness: int) -> None:
    """Blends a region into the canvas uint8 (H, W, 3), in place."""
    rows, columns = tight(region.mask)
    mask = region.mask[rows, columns]
    top, left = region.top + rows.start, region.left + columns.start
    over = np.array(colour, np.float32)
    height, width = mask.shape
    for first in range(0, height, STRIP):
        last = min(first + STRIP, height)
        above, below = max(0, first - thickness), min(last + thickness, height)  # what the outline depends on
        line = outline(mask[above:below], thickness)[first - above : last - above].numpy()
        filled = mask[first:last].numpy()
        view = canvas[top + first : top + last, left : left + width]
        view[filled] = (view[filled] * np.float32(1 - OPACITY) + over * np.float32(OPACITY)).astype(np.uint8)
        view[line] = colour


def _anchor(region: Region) -> tuple[int, int]:
    """Where a region's name stands: the middle of its mask's upper edge, (x, y)."""
    rows, _ = tight(region.mask)
    if rows.start == rows.stop:
        return region.left, region.top
    upper = region.mask[rows.start].nonzero()[:, 0]
    return region.left + int(upper[len(upper) // 2]), region.top + rows.start


def _write_names(
    picture: Image.Image,
    drawn: Sequence[tuple[float | None, int, tuple[int, int, int], tuple[int, int]]],
    classes: Sequence[ClassInfo],
) -> None:
    """Writes names and scores, best first; one that would cover another is left out, as the legend counts all."""
    width, height = picture.size
    size = max(12, max(width, height) / 70)
    font, draw, pad = font_of(size), ImageDraw.Draw(picture), round(size / 4)
    taken: list[tuple[float, float, float, float]] = []
    for score, index, colour, (x, y) in drawn:
        text = f"{classes[index].name} {score:.2f}"
        x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
        wide, high = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
        left = min(max(0, x - wide / 2), max(0, width - wide))
        above = min(max(0, y - high - 2), max(0, height - high))
        box = (left, above, left + wide, above + high)
        if any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken):
            continue
        taken.append(box)
        draw.rounded_rectangle(box, radius=pad, fill=colour)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        draw.text((left + pad - x0, above + pad - y0), text, font=font, fill=(0, 0, 0) if bright else (255, 255, 255))


def _legend(size: Size, entries: Sequence[tuple[tuple[int, int, int] | None, str]]) -> np.ndarray:
    """The strip below a picture of size (H, W), with a swatch and a text for each entry in as many lines as they need.

    Returns:
        uint8 (h, W, 3).
    """
    height, width = size
    text_size = max(12, max(width, height) / 60)
    font, pad = font_of(text_size), round(text_size / 2)
    line, swatch = round(text_size * 1.7), round(text_size)
    x, row, places = pad, 0, []
    for colour, text in entries:
        wide = (swatch + pad if colour else 0) + round(font.getlength(text))
        if x > pad and x + wide > width - pad:
            x, row = pad, row + 1
        places.append((colour, text, x, row))
        x += wide + 2 * pad
    strip = Image.new("RGB", (width, (row + 1) * line + pad), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for colour, text, x, row in places:
        y = pad // 2 + row * line + line / 2
        if colour is not None:
            draw.rounded_rectangle((x, y - swatch / 2, x + swatch, y + swatch / 2), radius=swatch // 5, fill=colour)
            x += swatch + pad
        draw.text((x, y), text, font=font, fill=FOREGROUND, anchor="lm")
    return np.array(strip)
