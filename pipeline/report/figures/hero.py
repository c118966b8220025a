"""The page's first picture: one object of each category, segmented by the heads that the page is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.evaluation.outputs import predictions_file
from pipeline.report.figures.figure import PIXEL_RATIO, save_picture
from pipeline.report.figures.masks import Window, cut_out, enlarged_mask, enlarged_picture
from pipeline.report.figures.overlays import FoundObject, Scenes, Source, decode, found_objects, surroundings
from pipeline.report.figures.panels import Panels
from pipeline.report.inputs import ReportInputs
from pipeline.report.tables.table import row_label

CANDIDATES = 200  # images that the objects are chosen from
LOCATED = 0.75  # least IoU of the bounding boxes of every head's mask and the object
SIDE = 240 * PIXEL_RATIO  # pixels of a panel's longer edge
SHEET = "headline.webp"


@dataclass(frozen=True)
class ShownObject:
    """An object of the first picture.

    Args:
        category: its name.
        overlaps: the IoU of each head's mask with the object's.
        files: the picture of the image, and of each head's mask over it, in the report's folder.
    """

    category: str
    overlaps: list[float]
    files: list[str]


@dataclass(frozen=True)
class Hero:
    """The page's first picture.

    Args:
        rows: what each picture of an object is: the image, then the heads.
        objects: the objects.
        rule: how the objects were chosen.
        problem: why there is no object to show; empty if there is one.
    """

    rows: list[str]
    objects: list[ShownObject]
    rule: str
    problem: str = ""


def draw_hero(report: ReportInputs, folder: Path) -> Hero | None:
    """Draws the objects of the first picture into a folder, one by one and all in one file.

    Returns:
        The picture; None if none of the runs of the headline's table was selected.
    """
    headline = report.figures.headline
    table = report.tables.get(headline.table)
    if table is None or not table.experiments & report.experiments:
        return None
    sources, runs = [], []
    for number in headline.pictured:
        row = table.rows[number]
        cell = row.measured[headline.columns[0]]
        label = row_label(row, report.results)
        found = [run for run in report.results if run.experiment == cell.experiment]
        if not found or cell.evaluation not in found[0].evaluations:
            lost = [reason for run, reason in report.missing.items() if run.rpartition("-")[0] == cell.experiment]
            reason = lost[0] if lost else f"there are no results of {cell.experiment} at {cell.evaluation}"
            return Hero([], [], "", f"no masks of {label}: {reason}")
        runs.append(found[0])
        sources.append(Source(label, predictions_file(report.predictions / found[0].run, cell.evaluation)))
    network = report.trained[runs[0].run]
    prepared = network.dataset()
    manifest = prepared.manifest("val")
    scenes = Scenes(manifest, network.images, sources, reading=prepared.reading)
    rows = ["image", *(source.caption for source in sources)]
    objects = largest_of_categories(found_objects(scenes, CANDIDATES), headline.objects)
    if not objects:
        return Hero(rows, [], "", f"no object has a box with an IoU of {LOCATED} with that of every head's mask")
    names = {category.id: category.name for category in prepared.categories}
    drawn = [draw_object(scenes, found) for found in objects]
    shown = []
    for number, (found_object, pictures) in enumerate(zip(objects, drawn, strict=True)):
        files = [f"headline_{number}_{column}.webp" for column in range(len(pictures))]
        for picture, file in zip(pictures, files, strict=True):
            save_picture(picture, folder / file)
        shown.append(ShownObject(names[found_object.category_id], found_object.overlaps, files))
    save_picture(Panels(rows, drawn).render(), folder / SHEET)
    return Hero(rows, shown, _rule(manifest.num_rows))


def largest_of_categories(objects: Sequence[FoundObject], count: int) -> list[FoundObject]:
    """The object with the largest box of each category, for the ``count`` categories where it is largest.

    Only objects count whose box has an IoU of at least ``LOCATED`` with that of every source's mask.
    """
    largest: dict[int, FoundObject] = {}
    for found in sorted(objects, key=lambda found: (-_area(found), found.image_id)):
        if found.location >= LOCATED:
            largest.setdefault(found.category_id, found)
    return list(largest.values())[:count]


def _area(found: FoundObject) -> float:
    x0, y0, x1, y1 = found.box
    return (x1 - x0) * (y1 - y0)


def _rule(images: int) -> str:
    candidates = f"{CANDIDATES} of the val images" if images > CANDIDATES else "the val images"
    return (
        f"Of each category, this is the largest object in {candidates} that every head has found: with the right "
        f"category, and with a mask whose bounding box has an IoU of at least {LOCATED} with the object's. How well "
        "the outlines fit plays no part. A mask cuts the object out; what it leaves out is pale."
    )


def draw_object(scenes: Scenes, found: FoundObject) -> list[Image.Image]:
    """The image around an object, and what each source's mask cuts out of it."""
    window = Window.fit(surroundings(found.box, scenes.size(found.image_id), square=True), SIDE)
    plain = enlarged_picture(scenes.picture(found.image_id), window)
    return [plain, *(cut_out(plain, enlarged_mask(decode(mask), window)) for mask in found.masks)]
