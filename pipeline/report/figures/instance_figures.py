"""The paper's figures of PointRend's masks (Figures 1, 4, 5, 6 and 7), drawn by a run's own model.

Shape letters: K classes, P points, M the side of a region mask, H W rows and columns.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pipeline.config.figures import FiguresConfig
from pipeline.config.models import SamplingConfig
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.figures.cells import draw_cells, draw_points, fit_picture, probability_colors
from pipeline.report.figures.figure import PIXEL_RATIO, Figure, save_picture
from pipeline.report.figures.masks import FINER, draw_mask
from pipeline.report.figures.overlays import Scenes
from pipeline.report.figures.panels import Panels, to_image, with_note
from pipeline.report.figures.shown_objects import LOCATED, ShownObject, shown_objects
from pointrend.drawing import color
from pointrend.instance import MaskRCNN, PointRendMaskHead, select_class_logits
from pointrend.points import mask_uncertainty, select_training_points, upsample
from pointrend.specs import COARSE_SIDE, Rendering
from pointrend.subdivision import subdivision_sizes
from pointrend.subdivision_steps import Step, subdivision_steps

IMAGES = 40  # images that the objects are chosen from
OBJECTS = 3
SEED = 0  # seed of the training points
CELL = 40 * PIXEL_RATIO  # pixels of a cell of the coarse mask
PANEL = 240 * PIXEL_RATIO  # pixels of a panel's longer edge
MARGIN = 0.1  # around a box, as a fraction of the box's longer edge


def draw_instance_figures(run: TrainedRun, shown: FiguresConfig, folder: Path) -> list[Figure]:
    """Draws subdivision steps, training points and masks of several resolutions into a folder.

    Args:
        run: a run with PointRend.
        shown: which steps, points and resolutions.
        folder: the folder of the files.

    Returns:
        Figures 1, 4, 5 and 6; an empty list if the model has no PointRend or locates no object in the val images.
    """
    model = run.model(torch.device("cpu"))
    if not isinstance(model, MaskRCNN) or not isinstance(model.mask_head, PointRendMaskHead):
        return []
    prepared = run.dataset()
    scenes = Scenes(prepared.manifest("val"), run.images, [], reading=prepared.reading)
    objects = shown_objects(model, scenes, prepared.categories, IMAGES, OBJECTS)
    if not objects:
        return []
    name, chosen = run.config.run, objects[0]
    coarse = coarse_mask(model.mask_head, chosen)
    steps = mask_steps(model.mask_head, chosen, shown.subdivision.steps, shown.subdivision.num_points)
    numbers = ", ".join(dict.fromkeys(str(sampling.num_points) for sampling in shown.training_points.values()))
    every = mask_steps(model.mask_head, chosen, shown.rendering.steps, shown.rendering.num_points)
    figures = []
    for panels, title, caption, file in (
        (
            rendering_panels(chosen, coarse, every),
            f"From coarse to fine: {name}",
            f"Every subdivision step of a mask up to {every[-1].refined.shape[-1]}×{every[-1].refined.shape[-1]} (the "
            "bottom of the paper's Figure 1): the mask as it is then, without smoothing, and the cells that the point "
            f"head predicts in the step (black), at most N = {shown.rendering.num_points}.",
            f"rendering_{name}.webp",
        ),
        (
            step_panels(chosen, coarse, steps),
            f"Adaptive subdivision: {name}",
            f"The first {shown.subdivision.steps} steps for the first object below (the paper's Figure 4). Each step "
            "interpolates the prediction to twice its resolution; then the point head predicts the "
            f"N = {shown.subdivision.num_points} cells whose probability is closest to 0.5 (dots). White is a "
            "probability of 0, orange a probability of 1. The object's box is stretched to a square.",
            f"subdivision_{name}.png",
        ),
        (
            sampling_panels(coarse, shown.training_points),
            f"Training points: {name}",
            f"N = {numbers} points selected by different strategies on the same coarse prediction (the paper's "
            "Figure 5), which is shown interpolated.",
            f"training_points_{name}.png",
        ),
        (
            resolution_panels(model, objects, shown.resolutions),
            f"Output resolutions: {name}",
            "The same objects rendered at different resolutions, without smoothing (the paper's Figures 6 and 7). "
            "They are detections with the highest scores, of different categories, among the larger boxes that "
            f"have the category of an object and an IoU of at least {LOCATED} with its box; masks play no part.",
            f"resolutions_{name}.webp",
        ),
    ):
        width = save_picture(panels.render(), folder / file)
        figures.append(Figure(title, caption, file, width))
    return figures


@torch.inference_mode()
def coarse_mask(head: PointRendMaskHead, shown: ShownObject) -> Tensor:
    """The coarse prediction for an object's class: logits (1, 1, 7, 7)."""
    return select_class_logits(head.coarse_logits(shown.found.features, shown.found.boxes), shown.found.labels[0])


@torch.inference_mode()
def mask_steps(head: PointRendMaskHead, shown: ShownObject, count: int, num_points: int) -> list[Step]:
    """The first ``count`` subdivision steps of an object's mask with at most ``num_points`` each; R = K = 1."""
    features, boxes, labels = shown.found.features, shown.found.boxes, shown.found.labels[0]
    coarse = head.coarse_logits(features, boxes)
    side = coarse.shape[-1]
    last = side * 2**count
    return subdivision_steps(
        select_class_logits(coarse, labels),
        lambda points: select_class_logits(head.point_logits(features, boxes, coarse, points), labels),
        lambda logits: mask_uncertainty(logits[:, 0]),
        subdivision_sizes((side, side), (last, last)),
        num_points,
    )


def step_panels(shown: ShownObject, coarse: Tensor, steps: Sequence[Step]) -> Panels:
    """A row for each step: the prediction, its interpolation, the selected points, and the refined prediction."""
    extent = COARSE_SIDE * CELL

    def grid(logits: Tensor) -> Image.Image:
        return draw_cells(probability_colors(logits[0, 0].sigmoid()), extent // logits.shape[-1])

    rows: list[list[Image.Image]] = []
    before = coarse
    for step in steps:
        old, new = before.shape[-1], step.refined.shape[-1]
        interpolated = grid(step.upsampled)
        panels = [
            (grid(before), f"{old}×{old}"),
            (interpolated, f"{new}×{new}"),
            (draw_points(interpolated, step.points[0], extent / new / 4), f"{step.points.shape[1]} of {new**2} cells"),
            (grid(step.refined), f"{new}×{new}"),
            (
                _with_mask(region_picture(shown, extent), _enlarged(step.refined[0, 0] >= 0, extent * FINER)),
                shown.category,
            ),
        ]
        rows.append([with_note(panel, note) for panel, note in panels])
        before = step.refined
    captions = ["prediction", "2× bilinear upsampling", "most uncertain points", "refined prediction", "refined mask"]
    return Panels(captions, rows)


def rendering_panels(shown: ShownObject, coarse: Tensor, steps: Sequence[Step]) -> Panels:
    """One row: the coarse mask over the object's part of the image, and the mask and points of each step."""
    crop, box = _crop(shown)
    extent = torch.tensor([crop.shape[-1], crop.shape[-2]])
    row = [mask_over_image(shown, coarse[0, 0] >= 0)]
    captions = [f"{coarse.shape[-1]}×{coarse.shape[-1]}"]
    for step in steps:
        side = step.refined.shape[-1]
        points = (box[:2] + step.points[0] * (box[2:] - box[:2])) / extent
        cell = float(((box[2:] - box[:2]) / extent).min()) * PANEL / side  # its shorter edge in pixels, about
        dots = max(PIXEL_RATIO / 2, min(2 * PIXEL_RATIO, cell / 3))
        row.append(draw_points(mask_over_image(shown, step.refined[0, 0] >= 0), points, dots))
        captions.append(f"{side}×{side}")
    return Panels(captions, [[with_note(panel, "") for panel in row]])


def _enlarged(mask: Tensor, side: int) -> Tensor:
    """A mask (M, M) repeated to (side, side); side is a multiple of M."""
    times = side // mask.shape[-1]
    return mask.repeat_interleave(times, 0).repeat_interleave(times, 1)


def region_picture(shown: ShownObject, side: int) -> Image.Image:
    """The part of the image in an object's box, stretched to a square of ``side`` pixels."""
    box = tuple(shown.box.tolist())
    return to_image(shown.image, 1).resize((side, side), Image.Resampling.BICUBIC, box)


def sampling_panels(coarse: Tensor, strategies: Mapping[str, SamplingConfig]) -> Panels:
    """The coarse prediction (1, 1, 7, 7) and the training points of each strategy on it, under its name."""
    extent = COARSE_SIDE * CELL
    smooth = draw_cells(probability_colors(upsample(coarse, (extent, extent))[0, 0].sigmoid()), 1, lines=False)
    row = [draw_cells(probability_colors(coarse[0, 0].sigmoid()), CELL)]
    for sampling in strategies.values():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            points = select_training_points(coarse, sampling.build(), lambda logits: mask_uncertainty(logits[:, 0]))
        row.append(draw_points(smooth, points[0], 3 * PIXEL_RATIO))
    return Panels(["coarse prediction", *strategies], [row])


def resolution_panels(model: MaskRCNN, objects: Sequence[ShownObject], resolutions: Sequence[int]) -> Panels:
    """A row for each object: its part of the image, and its mask at each resolution over that part."""
    head = model.mask_head
    assert isinstance(head, PointRendMaskHead)
    rows: list[list[Image.Image]] = []
    for shown in objects:
        row = [with_note(fit_picture(_crop(shown)[0], PANEL), shown.category)]
        for resolution in resolutions:
            with torch.inference_mode():
                (masks,) = model.region_masks(shown.found, Rendering(resolution, head.rendering.num_points))
            row.append(with_note(mask_over_image(shown, masks[0, 0] >= 0.5), ""))
        rows.append(row)
    return Panels(["image", *(f"{side}×{side}" for side in resolutions)], rows)


def _crop(shown: ShownObject) -> tuple[Tensor, Tensor]:
    """The image around an object's box (3, h, w), and the box (4,) in its pixels."""
    height, width = shown.image.shape[-2:]
    margin = MARGIN * float((shown.box[2:] - shown.box[:2]).max())
    x0, y0 = (max(0, int(low - margin)) for low in shown.box[:2].tolist())
    right, bottom = (int(high + margin) + 1 for high in shown.box[2:].tolist())
    return shown.image[:, y0 : min(height, bottom), x0 : min(width, right)], shown.box - torch.tensor([x0, y0, x0, y0])


def mask_over_image(shown: ShownObject, mask: Tensor) -> Image.Image:
    """A region mask (M, M) bool drawn over its part of the image, without smoothing."""
    crop, box = _crop(shown)
    picture = fit_picture(crop, PANEL)
    width, height = picture.width * FINER, picture.height * FINER
    scale = torch.tensor([width / crop.shape[-1], height / crop.shape[-2]]).repeat(2)
    x0, y0, x1, y1 = (box * scale).tolist()
    side = mask.shape[-1]
    # The mask's cell at the centre of each pixel of the grid that masks are drawn on.
    columns = ((torch.arange(width) + 0.5 - x0) / (x1 - x0) * side).floor().long()
    rows = ((torch.arange(height) + 0.5 - y0) / (y1 - y0) * side).floor().long()
    inside = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))
    return _with_mask(picture, mask[rows.clamp(0, side - 1)][:, columns.clamp(0, side - 1)] & inside)


def _with_mask(picture: Image.Image, mask: Tensor) -> Image.Image:
    """A picture (h, w) with a mask (FINER h, FINER w) bool drawn over it."""
    drawn = picture.copy()
    draw_mask(drawn, mask.numpy(), color(0))
    return drawn
