"""A contact sheet: images of a dataset with their annotations drawn over them."""

import io
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from pipeline.data.manifest import PreparedDataset
from pipeline.data.storage import Storage
from pipeline.report.figures.figure import PIXEL_RATIO
from pipeline.report.figures.masks import Window, draw_mask, enlarged_mask, enlarged_picture
from pipeline.report.figures.overlays import decode, evenly_spread
from pipeline.report.figures.panels import Panels, with_note
from pipeline.report.figures.semantic_overlays import classes_of, legend_below, picture_panels, with_legend
from pointrend.drawing import color
from pointrend.pictures import decode_picture
from pointrend.pixels import Reading

COLUMNS, ROWS = 4, 3
PANEL = 210 * PIXEL_RATIO  # pixels of a panel's longer edge


def contact_sheet(prepared: PreparedDataset, storage: Storage) -> Image.Image:
    """Images spread evenly over the train split, with masks in the colours of their classes, or of labels.

    Where there is one class, each object has a colour of its own.
    """
    rows = prepared.manifest("train").to_pylist()
    if prepared.task == "semantic":
        panels = [_labelled(row, prepared, storage) for row in evenly_spread(rows, COLUMNS * ROWS)]
        return with_legend(_sheet(panels), prepared.labels)
    rows = [row for row in rows if row["annotations"]] or rows
    numbers = {category.id: number for number, category in enumerate(prepared.categories)}
    shown = evenly_spread(rows, COLUMNS * ROWS)
    sheet = _sheet([_annotated(row, numbers, prepared.reading, storage) for row in shown])
    there = {annotation["category_id"] for row in shown for annotation in row["annotations"]}
    names = [(category.name, color(numbers[category.id])) for category in prepared.categories if category.id in there]
    return legend_below(sheet, names) if len(numbers) > 1 else sheet


def _sheet(panels: Sequence[Image.Image]) -> Image.Image:
    rows = [list(panels[start : start + COLUMNS]) for start in range(0, len(panels), COLUMNS)]
    width = len(rows[0])
    rows[-1] += [Image.new("RGB", (1, 1), "white")] * (width - len(rows[-1]))
    return Panels([""] * width, rows).render()


def _annotated(row: Mapping[str, Any], numbers: Mapping[int, int], reading: Reading, storage: Storage) -> Image.Image:
    name, size = row["file_name"], [row["height"], row["width"]]
    window = Window.fit((0, 0, row["width"], row["height"]), PANEL)
    picture = decode_picture(io.BytesIO(storage.read(name)), storage.where(name), reading)
    panel = enlarged_picture(picture, window)
    for number, annotation in enumerate(row["annotations"]):
        mask = enlarged_mask(decode({"size": size, "counts": annotation["counts"]}), window)
        draw_mask(panel, mask, color(numbers[annotation["category_id"]] if len(numbers) > 1 else number))
    return with_note(panel, f"{PurePosixPath(name).name[-24:]}: {len(row['annotations'])}")


def _labelled(row: Mapping[str, Any], prepared: PreparedDataset, storage: Storage) -> Image.Image:
    classes = classes_of(prepared.labels, storage, row["label_file"])
    _, panel = picture_panels(storage, row["file_name"], [classes], prepared)
    return with_note(panel, PurePosixPath(row["file_name"]).name[-30:])
