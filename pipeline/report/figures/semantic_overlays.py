"""Draws semantic labels: ground truth and the prediction of each model side by side (the paper's Figure 8).

Shape letters: K classes, H W rows and columns.
"""

import io
from collections.abc import Collection, Sequence

import numpy as np
import torch
from cityscapesscripts.helpers.labels import name2label
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.config.labels import LabelTable
from pipeline.data.labels import read_ids
from pipeline.data.manifest import PreparedDataset
from pipeline.data.storage import Storage
from pipeline.evaluation.outputs import prediction_names
from pipeline.metrics.segmentation_iou import boundary_distance
from pipeline.report.figures.figure import PIXEL_RATIO
from pipeline.report.figures.overlays import Source, evenly_spread
from pipeline.report.figures.panels import CAPTION, GAP, Panels, enlarge, font
from pointrend.drawing import color
from pointrend.pictures import decode_picture

OPACITY = 0.6
PANEL = 300 * PIXEL_RATIO  # pixels of a panel's longer edge
MAGNIFIED = 5  # the enlarged square's side is a fifth of the image's shorter edge


def palette(table: LabelTable) -> np.ndarray:
    """Colours (K + 1, 3) in [0, 1]: of each class, Cityscapes' own for its classes; last, of ignored pixels, black."""
    if all(name in name2label for name in table.names):
        colors = [tuple(value / 255 for value in name2label[name].color) for name in table.names]
    else:
        colors = [color(number) for number in range(len(table.names))]
    return np.array([*colors, (0.0, 0.0, 0.0)], dtype=np.float32)


def paint(image: Tensor, classes: np.ndarray, colors: np.ndarray) -> Tensor:
    """An image (3, H, W) with its classes (H, W) drawn over it in their colours (K + 1, 3)."""
    painted = torch.from_numpy(colors[classes]).permute(2, 0, 1)
    return (1 - OPACITY) * image + OPACITY * painted


def busiest_square(classes: np.ndarray, side: int) -> tuple[slice, slice]:
    """Rows and columns of the square with the most boundary pixels of classes (H, W)."""
    return densest_window(boundary_distance(classes) == 0, side, side)


def densest_window(values: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the ``height`` x ``width`` window with the largest sum of values (H, W)."""
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    return slice(int(row), int(row) + height), slice(int(column), int(column) + width)


def classes_of(table: LabelTable, images: Storage, label_file: str) -> np.ndarray:
    """The classes (H, W), from 0 to K, K where ignored, of a label PNG."""
    return table.classes(read_ids(io.BytesIO(images.read(label_file))))


def painted(images: Storage, file_name: str, classes: Sequence[np.ndarray], prepared: PreparedDataset) -> list[Tensor]:
    """An image (3, H, W), and the same under each of several maps of classes (H, W)."""
    picture = decode_picture(io.BytesIO(images.read(file_name)), images.where(file_name), prepared.reading)
    colors = palette(prepared.labels)
    return [picture, *(paint(picture, each, colors) for each in classes)]


def picture_panels(
    images: Storage, file_name: str, classes: Sequence[np.ndarray], prepared: PreparedDataset
) -> list[Image.Image]:
    """The pictures of :func:`painted` as panels."""
    return [enlarge(panel, PANEL) for panel in painted(images, file_name, classes, prepared)]


def label_panels(prepared: PreparedDataset, images: Storage, sources: Sequence[Source], count: int) -> Panels:
    """Up to ``count`` evenly spread val images, and below each its :func:`busiest_square`, enlarged.

    Args:
        prepared: the dataset.
        images: the storage that its file names are relative to.
        sources: the columns after image and ground truth; their predictions are folders of label PNGs.
        count: the largest number of images.
    """
    table, names = prepared.labels, prediction_names(prepared)
    val = prepared.manifest("val").select(["file_name", "label_file"]).to_pylist()
    rows: list[list[Image.Image]] = []
    for row in evenly_spread(val, count):
        file_name, label_file = row["file_name"], row["label_file"]
        truth = classes_of(table, images, label_file)
        predicted = [table.classes(read_ids(source.predictions / names[label_file])) for source in sources]
        panels = painted(images, file_name, [truth, *predicted], prepared)
        square = busiest_square(truth, max(1, min(truth.shape) // MAGNIFIED))
        rows.append([enlarge(panel, PANEL) for panel in panels])
        rows.append([enlarge(panel[:, square[0], square[1]], PANEL) for panel in panels])
    return Panels(["image", "ground truth", *(source.caption for source in sources)], rows)


def with_legend(sheet: Image.Image, table: LabelTable, shown: Collection[int] | None = None) -> Image.Image:
    """A picture with a legend below it: of all classes, or of those with some numbers, K for ignored pixels."""
    entries = [*zip([*table.names, "ignored"], palette(table).tolist(), strict=True)]
    return legend_below(sheet, [entry for number, entry in enumerate(entries) if shown is None or number in shown])


def legend_below(sheet: Image.Image, entries: Sequence[tuple[str, Sequence[float]]]) -> Image.Image:
    """A picture with names below it, each with its colour, RGB in [0, 1]."""
    places, left, line = [], GAP, 0
    for name, _ in entries:
        width = CAPTION + int(font().getlength(name)) + GAP * 2
        if left + width > sheet.width and left > GAP:
            left, line = GAP, line + 1
        places.append((left, line))
        left += width
    extended = Image.new("RGB", (sheet.width, sheet.height + GAP + (line + 1) * CAPTION), "white")
    extended.paste(sheet)
    pen = ImageDraw.Draw(extended)
    for (name, rgb), (left, line) in zip(entries, places, strict=True):
        top = sheet.height + GAP + line * CAPTION
        edges = (left, top + CAPTION / 5, left + CAPTION * 3 / 5, top + CAPTION * 4 / 5)
        pen.rectangle(edges, fill=tuple(int(255 * channel) for channel in rgb))
        pen.text((left + CAPTION, top + CAPTION / 2), name, "black", font(), anchor="lm")
    return extended
