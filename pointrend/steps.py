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


def draw_object_steps(
    pixels: np.ndarray, box: tuple[float, float, float, float], steps: Sequence[Grid], paint: int
) -> Image.Image:
    """A row of panels: the object's box with the mask of each step as cells, and the points that it predicted."""
    picture = Image.fromarray(pixels).resize((OBJECT_PANEL, OBJECT_PANEL), Image.Resampling.BICUBIC, box=box)
    panels = []
    for step in steps:
        mask = (step.logits[0] >= 0).cpu().numpy()
        cells = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.NEAREST)
        colours = np.where(np.asarray(cells)[..., None] > 0, np.array(color(paint)) * 255, 0)
        panels.append(_panel(picture, colours, np.asarray(cells) > 0, step, (1.0, 1.0)))
    return _row(panels, [_caption(step) for step in steps])


def draw_image_steps(pixels: np.ndarray, steps: Sequence[Grid]) -> Image.Image:
    """A row of panels: the image with the classes of each step as cells, and the points that it predicted."""
    height, width = pixels.shape[:2]
    scale = IMAGE_PANEL / max(height, width)
    picture = Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    last = steps[-1].logits.shape[-2:]
    extent = (width / last[1], height / last[0])  # the prediction reaches beyond the image
    panels = []
    for step in steps:
        rows, columns = step.logits.shape[-2:]
        classes = step.logits.argmax(0).byte().cpu().numpy()
        box = (0, 0, columns * extent[0], rows * extent[1])
        cells = np.asarray(Image.fromarray(classes).resize(picture.size, Image.Resampling.NEAREST, box=box))
        table = np.array([color(index) for index in range(256)]) * 255
        panels.append(_panel(picture, table[cells], np.ones(cells.shape, bool), step, extent))
    return _row(panels, [_caption(step) for step in steps])


def _caption(step: Grid) -> str:
    rows, columns = step.logits.shape[-2:]
    return f"{columns} x {rows}" + (f", {len(step.points)} points" if len(step.points) else ", coarse")


def _panel(
    picture: Image.Image, colours: np.ndarray, painted: np.ndarray, step: Grid, extent: tuple[float, float]
) -> Image.Image:
    blended = np.asarray(picture).astype(np.float32)
    blended[painted] = 0.45 * blended[painted] + 0.55 * colours[painted]
    panel = Image.fromarray(blended.astype(np.uint8))
    draw = ImageDraw.Draw(panel)
    radius = 2.2 if len(step.points) < 400 else 1.2 if len(step.points) < 2000 else 0.5
    for x, y in step.points.cpu().tolist():
        x, y = x / extent[0] * panel.width, y / extent[1] * panel.height
        if x < panel.width and y < panel.height:
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
        return np.array(draw_image_steps(pixels, image_steps(model, model.coarse_prediction([image]), points_per_step)))
    assert rendering is not None
    found = model.detect([image])
    choose(found)
    boxes = found.original_boxes()[0].tolist()
    rows = [
        draw_object_steps(pixels, boxes[i], object_steps(model, found, i, rendering), int(found.labels[0][i]) - 1)
        for i in range(min(MAX_OBJECTS, len(boxes)))
    ]
    return np.vstack([np.array(row) for row in rows]) if rows else None
