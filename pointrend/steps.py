"""Draws the subdivision of a mask step by step: each grid, and the points that were predicted on it (Section 3.1).

Shape letters: R regions, K classes, P points, H W rows and columns.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pointrend.drawing import color, font_of
from pointrend.instance import MaskRCNN, PointRendMaskHead, select_class_logits
from pointrend.instance_inference import Detections
from pointrend.overlays import shade
from pointrend.points import Size, class_uncertainty, mask_uncertainty
from pointrend.semantic import SemanticSegmenter
from pointrend.semantic_inference import CoarsePrediction
from pointrend.specs import Rendering
from pointrend.subdivision import subdivision_sizes
from pointrend.subdivision_steps import subdivision_steps

#: Objects drawn for each image, best first.
MAX_OBJECTS = 3
OBJECT_PANEL, IMAGE_PANEL = 320, 720  # pixels of a panel's longer side
GAP, CAPTION = 8, 26
BACKGROUND, FOREGROUND = (24, 24, 28), (240, 240, 240)


class Grid(NamedTuple):
    """The logits of one region or image on the grid of a step, and the points that the step predicted."""

    logits: Tensor  # (K, H, W)
    points: Tensor  # (P, 2)


class ClassGrid(NamedTuple):
    """The classes of an image on the grid of a step, which need less memory than logits, and the step's points."""

    classes: Tensor  # (H, W) uint8, on the CPU
    points: Tensor  # (P, 2)


def grids(
    coarse: Tensor,
    predict: Callable[[Tensor], Tensor],
    uncertainty: Callable[[Tensor], Tensor],
    sizes: Sequence[Size],
    num_points: int,
) -> list[Grid]:
    """The coarse prediction (1, K, H, W), and what each of :func:`subdivision_steps` makes of it."""
    steps = subdivision_steps(coarse, predict, uncertainty, sizes, num_points)
    return [Grid(coarse[0], coarse.new_zeros(0, 2)), *(Grid(step.refined[0], step.points[0]) for step in steps)]


def object_steps(model: MaskRCNN, found: Detections, index: int, rendering: Rendering) -> list[Grid]:
    """The steps of object ``index`` in the first image of a detector's pass."""
    head = model.mask_head
    assert isinstance(head, PointRendMaskHead)
    features = {head.fine_level: found.features[head.fine_level][:1].float()}
    boxes, labels = [found.boxes[0][index, None]], found.labels[0][index, None]
    coarse = head.coarse_logits(features, boxes)
    side = head.coarse_head.side
    return grids(
        select_class_logits(coarse, labels),
        lambda points: select_class_logits(head.point_logits(features, boxes, coarse, points), labels),
        lambda logits: mask_uncertainty(logits[:, 0]),
        subdivision_sizes((side, side), (rendering.resolution, rendering.resolution)),
        rendering.num_points,
    )


def image_steps(model: SemanticSegmenter, coarse: CoarsePrediction, points_per_step: int | None) -> list[Grid]:
    """The steps of a semantic model with PointRend on one image."""
    head = model.pointrend
    assert head is not None
    logits, stride = coarse.logits.float(), coarse.stride
    features = {head.fine_level: coarse.features[head.fine_level].float()}
    height, width = logits.shape[-2:]
    return grids(
        logits,
        lambda points: head.point_logits(features, logits, stride, points),
        class_uncertainty,
        [(2**n * height, 2**n * width) for n in range(1, stride.bit_length())],
        points_per_step or head.points_per_step,
    )


def class_grids(steps: Sequence[Grid]) -> list[ClassGrid]:
    """The most likely class of each cell."""
    return [ClassGrid(step.logits.argmax(0).byte().cpu(), step.points.cpu()) for step in steps]


def object_panels(
    pixels: np.ndarray,
    box: tuple[float, float, float, float],
    steps: Sequence[Grid],
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> list[Image.Image]:
    """A panel for each step: the object's box with the mask as cells, and the points that the step predicted.

    Args:
        pixels: of the image, uint8 (H, W, 3).
        box: xyxy in pixels.
        steps: from :func:`object_steps`.
        colour: of the mask, 0 to 255.
        size: (width, height) of a panel in pixels.
    """
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=box)
    panels = []
    for step in steps:
        mask = (step.logits[0] >= 0).cpu().numpy()
        cells = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
        colours = np.where(np.asarray(cells)[..., None] > 0, np.array(colour), 0)
        panels.append(_panel(picture, colours, np.asarray(cells) > 0, step.points))
    return panels


def image_panels(
    pixels: np.ndarray,
    steps: Sequence[ClassGrid],
    longest: int,
    window: tuple[float, float, float, float] | None = None,
) -> list[Image.Image]:
    """A panel for each step: the image with the classes as cells, and the points that the step predicted.

    Args:
        pixels: of the image, uint8 (H, W, 3).
        steps: from :func:`class_grids`.
        longest: the longer side of a panel in pixels.
        window: the part of the image to show, xyxy in pixels; None for all of it.
    """
    x0, y0, x1, y1 = window or (0, 0, pixels.shape[1], pixels.shape[0])
    scale = longest / max(x1 - x0, y1 - y0)
    size = (round((x1 - x0) * scale), round((y1 - y0) * scale))
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))
    table = np.array([color(index) for index in range(256)]) * 255
    extent = steps[-1].classes.shape  # the last prediction has a cell for each pixel, and reaches beyond the image
    panels = []
    for step in steps:
        cell = step.classes.shape[0] / extent[0], step.classes.shape[1] / extent[1]
        box = (x0 * cell[1], y0 * cell[0], x1 * cell[1], y1 * cell[0])
        cells = np.asarray(Image.fromarray(step.classes.numpy()).resize(size, Image.Resampling.NEAREST, box=box))
        located = step.points * step.points.new_tensor([extent[1], extent[0]]) - step.points.new_tensor([x0, y0])
        located /= located.new_tensor([x1 - x0, y1 - y0])
        panels.append(_panel(picture, table[cells], np.ones(cells.shape, bool), located))
    return panels


def caption(size: Sequence[int], points: int) -> str:
    """What a step is: its grid of size (rows, columns), and how many points it predicted."""
    return f"{size[1]} x {size[0]}" + (f", {points} points" if points else ", coarse")


def _panel(picture: Image.Image, colours: np.ndarray, painted: np.ndarray, points: Tensor) -> Image.Image:
    """The picture under colours (H, W, 3), where it is painted, with the points (P, 2) in [0, 1] that lie in it."""
    blended = np.asarray(picture).astype(np.float32)
    blended[painted] = 0.45 * blended[painted] + 0.55 * colours[painted]
    panel = Image.fromarray(blended.astype(np.uint8))
    draw = ImageDraw.Draw(panel)
    inside = points[((points >= 0) & (points < 1)).all(dim=1)].cpu()
    radius = 2.2 if len(inside) < 400 else 1.2 if len(inside) < 2000 else 0.5
    for x, y in (inside * inside.new_tensor([panel.width, panel.height])).tolist():
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(0, 0, 0))
        if radius > 2:
            draw.ellipse((x - radius + 1, y - radius + 1, x + radius - 1, y + radius - 1), fill=(255, 255, 255))
    return panel


def _row(panels: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    width = sum(panel.width + GAP for panel in panels) + GAP
    row = Image.new("RGB", (width, panels[0].height + CAPTION + GAP), BACKGROUND)
    draw, font, x = ImageDraw.Draw(row), font_of(15), GAP
    for panel, caption in zip(panels, captions, strict=True):
        row.paste(panel, (x, GAP))
        draw.text(
            (x + panel.width / 2, panel.height + GAP + CAPTION / 2), caption, font=font, fill=FOREGROUND, anchor="mm"
        )
        x += panel.width + GAP
    return row


@torch.inference_mode()
def draw_steps(
    model: MaskRCNN | SemanticSegmenter,
    image: Tensor,
    pixels: np.ndarray,
    choose: Callable[[Detections], None],
    rendering: Rendering | None,
    points_per_step: int | None,
) -> np.ndarray | None:
    """The steps on one image: a row for each of the best objects, or one of the image. None if nothing was found.

    Args:
        model: with a PointRend head, in evaluation mode.
        image: (3, H, W), on the model's device.
        pixels: the same as uint8 (H, W, 3).
        choose: leaves out the detections that are not shown, in place.
        rendering: of an instance model.
        points_per_step: of a semantic one; None for its own.
    """
    if isinstance(model, SemanticSegmenter):
        grids = class_grids(image_steps(model, model.coarse_prediction([image]), points_per_step))
        captions = [caption(grid.classes.shape, len(grid.points)) for grid in grids]
        return np.array(_row(image_panels(pixels, grids, IMAGE_PANEL), captions))
    assert rendering is not None
    found = model.detect([image])
    choose(found)
    boxes = found.original_boxes()[0].tolist()
    rows = []
    for index in range(min(MAX_OBJECTS, len(boxes))):
        steps, colour = object_steps(model, found, index, rendering), shade(int(found.labels[0][index]) - 1, 0)
        panels = object_panels(pixels, boxes[index], steps, colour, (OBJECT_PANEL, OBJECT_PANEL))
        captions = [caption(step.logits.shape[-2:], len(step.points)) for step in steps]
        rows.append(np.array(_row(panels, captions)))
    return np.vstack(rows) if rows else None
