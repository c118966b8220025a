"""The paper's Figure 9, drawn by a run's own model: semantic segmentation, refined step by step.

Shape letters: K classes, P points, H W rows and columns of an image.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.config.labels import LabelTable
from pipeline.data.labels import read_ids
from pipeline.data.manifest import PreparedDataset
from pipeline.data.storage import Storage
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.figures.cells import draw_points, fit_picture
from pipeline.report.figures.figure import PIXEL_RATIO, Figure, save_picture
from pipeline.report.figures.overlays import evenly_spread
from pipeline.report.figures.panels import GAP, Panels
from pipeline.report.figures.semantic_overlays import densest_window, palette, with_legend
from pointrend.pictures import decode_picture
from pointrend.points import Size, class_uncertainty
from pointrend.semantic import SAMPLING_STRIDE, SemanticSegmenter
from pointrend.subdivision_steps import Step, subdivision_steps

IMAGES = 40  # images that the shown one is chosen from
ZOOM = 4  # the enlarged part has a quarter of the image's height and width
WIDTH = 1560 * PIXEL_RATIO  # largest width of the picture in pixels
PALE = 0.45  # opacity of the classes' colours under points


class ShownImage(NamedTuple):
    """An image (3, H, W) and its classes (H, W), K where they are ignored."""

    picture: Tensor
    truth: np.ndarray


class LabelMap(NamedTuple):
    """The classes (h, w) at one resolution; a cell covers ``stride`` pixels of the image in each direction.

    ``points`` (P, 2) are the (x, y), in pixels, of the cells that the point head predicted.
    """

    classes: np.ndarray
    stride: int
    points: Tensor


def draw_semantic_figures(run: TrainedRun, folder: Path) -> list[Figure]:
    """Draws the label maps of all subdivision steps of one image into a folder.

    Args:
        run: a run with PointRend.
        folder: the folder of the file.

    Returns:
        Figure 9; an empty list if the model has no PointRend or there is no val image.
    """
    model = run.model(torch.device("cpu"))
    if not isinstance(model, SemanticSegmenter) or model.pointrend is None:
        return []
    prepared = run.dataset()
    shown = most_varied_image(prepared, run.images)
    if shown is None:
        return []
    height, width = shown.truth.shape
    num_points = min(model.pointrend.points_per_step, height * width // SAMPLING_STRIDE**2)
    maps = label_maps(model, shown.picture, num_points)
    sheet = map_panels(shown, maps, prepared.labels).render()
    caption = (
        "The classes after each subdivision step at its own resolution, without interpolation (the paper's Figure 9). "
        f"Each step predicts the N = {num_points} cells (dots) whose two best classes have the closest scores. Below, "
        "enlarged, is the part with the most points. The image is the val image with the most classes."
    )
    file = f"semantic_subdivision_{run.config.run}.webp"
    width = save_picture(with_legend(sheet, prepared.labels), folder / file)
    return [Figure(f"Semantic refinement: {run.config.run}", caption, file, width)]


def most_varied_image(prepared: PreparedDataset, images: Storage) -> ShownImage | None:
    """The image with the most classes among up to 40 evenly spread val images; None if there are no val images."""
    val = prepared.manifest("val").select(["file_name", "label_file"]).to_pylist()
    best, most = None, -1
    for row in evenly_spread(val, IMAGES):
        truth = prepared.labels.classes(read_ids(io.BytesIO(images.read(row["label_file"]))))
        found = len(np.unique(truth[truth < len(prepared.labels.names)]))
        if found > most:
            best, most = (row["file_name"], truth), found
    if best is None:
        return None
    name, truth = best
    return ShownImage(decode_picture(io.BytesIO(images.read(name)), images.where(name), prepared.reading), truth)


@torch.inference_mode()
def label_maps(model: SemanticSegmenter, picture: Tensor, num_points: int) -> list[LabelMap]:
    """The label maps of an image (3, H, W): the coarse prediction, then each subdivision step, cropped to the image.

    Args:
        model: with PointRend.
        picture: the image.
        num_points: N, the most points of a step.
    """
    refiner = model.pointrend
    assert refiner is not None
    coarse = model.coarse_prediction([picture])
    rows, columns = coarse.logits.shape[-2:]
    sizes = [(rows * 2**step, columns * 2**step) for step in range(1, coarse.stride.bit_length())]
    steps = subdivision_steps(
        coarse.logits,
        lambda points: refiner.point_logits(coarse.features, coarse.logits, coarse.stride, points),
        class_uncertainty,
        sizes,
        num_points,
    )
    extent = torch.tensor([columns, rows]) * coarse.stride
    start = Step(coarse.logits, coarse.logits.new_zeros(1, 0, 2), coarse.logits)
    maps = []
    for number, step in enumerate([start, *steps]):
        stride = coarse.stride >> number
        height, width = (-(-side // stride) for side in coarse.size)
        classes = step.refined[0].argmax(0)[:height, :width].numpy()
        maps.append(LabelMap(classes, stride, step.points[0] * extent))
    return maps


def map_panels(shown: ShownImage, maps: Sequence[LabelMap], table: LabelTable) -> Panels:
    """Image and ground truth, then a column for each label map: whole, with its points, and a part of it enlarged."""
    colors = palette(table)
    height, width = shown.truth.shape
    side = WIDTH // (len(maps) + 1) - GAP
    whole = (slice(0, height), slice(0, width))
    part = densest_window(_point_counts(maps, (height, width)), max(1, height // ZOOM), max(1, width // ZOOM))

    def panel(colored: Tensor, window: tuple[slice, slice]) -> Image.Image:
        return fit_picture(colored[:, window[0], window[1]], side)

    def dotted(label_map: LabelMap, colored: Tensor, window: tuple[slice, slice]) -> Image.Image:
        drawn = panel(1 - PALE * (1 - colored), window)
        scale = drawn.width / (window[1].stop - window[1].start)
        origin = torch.tensor([window[1].start, window[0].start])
        places = (label_map.points - origin) * scale / torch.tensor([drawn.width, drawn.height])
        return draw_points(drawn, places, max(0.8 * PIXEL_RATIO, label_map.stride * scale / 4))

    truth = _colored(shown.truth, colors)
    grid = [
        [_framed(panel(shown.picture, whole), part, width)],
        [panel(truth, whole)],
        [panel(shown.picture, part)],
        [panel(truth, part)],
    ]
    captions = ["image and ground truth"]
    for number, label_map in enumerate(maps):
        pixels = label_map.classes.repeat(label_map.stride, 0).repeat(label_map.stride, 1)[:height, :width]
        colored = _colored(pixels, colors)
        name = f"step {number}" if number else "coarse prediction"
        captions.append(f"{name}: {label_map.classes.shape[0]}×{label_map.classes.shape[1]}")
        for line, drawn in zip(
            grid,
            (
                panel(colored, whole),
                dotted(label_map, colored, whole),
                panel(colored, part),
                dotted(label_map, colored, part),
            ),
            strict=True,
        ):
            line.append(drawn)
    return Panels(captions, grid)


def _colored(classes: np.ndarray, colors: np.ndarray) -> Tensor:
    """Classes (H, W) in their colours (K + 1, 3): (3, H, W)."""
    return torch.from_numpy(colors[classes]).permute(2, 0, 1)


def _point_counts(maps: Sequence[LabelMap], size: Size) -> np.ndarray:
    """The number of the maps' points in each pixel (H, W)."""
    columns, rows = torch.cat([label_map.points for label_map in maps]).long().unbind(1)
    inside = (rows < size[0]) & (columns < size[1])  # points in the padding are left out
    counts = np.zeros(size, dtype=np.int64)
    np.add.at(counts, (rows[inside].numpy(), columns[inside].numpy()), 1)
    return counts


def _framed(drawn: Image.Image, part: tuple[slice, slice], width: int) -> Image.Image:
    """A panel of a whole image, ``width`` pixels wide, with a frame around a part of it."""
    rows, columns = part
    scale = drawn.width / width
    edges = tuple(edge * scale for edge in (columns.start, rows.start, columns.stop, rows.stop))
    pen = ImageDraw.Draw(drawn)
    pen.rectangle(edges, outline="black", width=3 * PIXEL_RATIO)
    inner = tuple(e + s * PIXEL_RATIO for e, s in zip(edges, (1, 1, -1, -1), strict=True))
    pen.rectangle(inner, outline="white", width=PIXEL_RATIO)
    return drawn
