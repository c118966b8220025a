"""Shows the images of the val split on which models are best and worst, and where two of them differ most.

Shape letters: K classes, D predictions, G objects.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.labels import read_ids
from pipeline.data.manifest import PreparedDataset
from pipeline.data.storage import Storage
from pipeline.evaluation.outputs import prediction_names
from pipeline.metrics.segmentation_iou import confusion_counts
from pipeline.report.figures.figure import PIXEL_RATIO
from pipeline.report.figures.overlays import MIN_IOU, Scenes, Source, scene_panels
from pipeline.report.figures.panels import Panels
from pipeline.report.figures.semantic_overlays import classes_of, picture_panels, with_legend
from pointrend.wording import counted

SHOWN = 10  # images of each kind
QUALITY = {
    "instance": "Quality is the sum of the IoUs of predictions and objects that match "
    f"(IoU above {MIN_IOU:g}, same class), over the mean of the numbers of both: 1 where all is exact.",
    "semantic": "Quality is the mean IoU of the classes in the image.",
}


@dataclass(frozen=True)
class ShownImage:
    """One val image: its truth and predictions, side by side in one picture.

    Attributes:
        name: of its file.
        note: what is in it, and how good each prediction is.
        file: the name of the picture in the report's folder.
        width: of the picture on the page, in CSS pixels.
    """

    name: str
    note: str
    file: str
    width: int


@dataclass(frozen=True)
class ImageGroup:
    """Some val images, and why they are shown."""

    title: str
    images: list[ShownImage]


@dataclass(frozen=True)
class _Val:
    """The val images by the names of their files: what is in each, each source's quality, and what draws one."""

    contents: Mapping[str, str]
    qualities: Sequence[Mapping[str, float]]
    draw: Callable[[str], Image.Image]


def instance_quality(overlaps: np.ndarray) -> float:
    """The quality of an image, given the IoU (D, G) of predictions and objects, 0 for those of different classes.

    It is the panoptic quality: 1 if every object is found exactly and nothing else is. NaN without either.
    """
    if not sum(overlaps.shape):
        return float("nan")
    total, left = 0.0, overlaps.copy()
    while left.size and (best := left.max()) > MIN_IOU:
        row, column = np.unravel_index(left.argmax(), left.shape)
        left[row, :] = left[:, column] = 0
        total += float(best)
    return total / (sum(overlaps.shape) / 2)


def semantic_quality(truth: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """The mean IoU of the classes in an image: numbers (H, W) from 0 to K, K where ignored. NaN if all is ignored."""
    table = confusion_counts(truth, predicted, classes)
    hits, wholes = np.diagonal(table), table.sum(1) + table.sum(0)[:classes]
    present = table.sum(1) > 0
    return float((hits[present] / (wholes - hits)[present]).mean()) if present.any() else float("nan")


def worst_median_best(qualities: Mapping[str, float]) -> tuple[list[str], list[str], list[str]]:
    """The keys of the lowest qualities, rising, of those about the median, and of the highest, falling.

    No key is in two of them. Those without a quality are in none.
    """
    ranked = sorted((key for key, value in qualities.items() if not math.isnan(value)), key=qualities.__getitem__)
    count = min(SHOWN, max(1, len(ranked) // 3))
    worst, rest = ranked[:count], ranked[count:]
    best, between = rest[len(rest) - min(count, len(rest)) :][::-1], rest[: len(rest) - min(count, len(rest))]
    start = max(0, (len(ranked) - count) // 2 - count)
    return worst, between[start : start + count], best


def most_different(first: Mapping[str, float], second: Mapping[str, float]) -> list[str]:
    """The keys with the largest differences of two qualities, falling; without equal and undefined ones."""
    gaps = {key: abs(value - second[key]) for key, value in first.items()}
    return sorted((key for key, gap in gaps.items() if gap > 0), key=lambda key: -gaps[key])[:SHOWN]


def image_groups(
    prepared: PreparedDataset, images: Storage, sources: Sequence[Source], folder: Path, prefix: str
) -> list[ImageGroup]:
    """Draws the worst, median and best val images of a model, and those where the second one differs most from it.

    Of few val images all are drawn.

    Args:
        prepared: the dataset.
        images: the storage that its file names are relative to.
        sources: the models, the one that decides first; predictions of the least score of each count.
        folder: where the pictures go.
        prefix: of their names.
    """
    val = (_labels if prepared.task == "semantic" else _instances)(prepared, images, sources)
    best = sources[0].caption
    if len(val.contents) <= SHOWN:
        ordered = sorted(val.contents, key=lambda name: np.nan_to_num(val.qualities[0][name], nan=np.inf))
        chosen = {f"All val images, the worst of {best} first": ordered}
    else:
        worst, median, good = worst_median_best(val.qualities[0])
        chosen = {
            f"The worst images of {best}": worst,
            f"Images about the median of {best}": median,
            f"The best images of {best}": good,
        }
    if len(sources) > 1:
        title = f"Where {best} and {sources[1].caption} differ most"
        chosen[title] = most_different(val.qualities[0], val.qualities[1])
    drawn: dict[str, ShownImage] = {}
    for name in dict.fromkeys(name for names in chosen.values() for name in names):
        file = f"{prefix}_image_{len(drawn)}.webp"
        picture = val.draw(name)
        picture.save(folder / file, quality=80, method=4)
        scores = ", ".join(
            f"{source.caption} {quality[name]:.2f}" for source, quality in zip(sources, val.qualities, strict=True)
        )
        note = f"{val.contents[name]}; quality {scores}"
        drawn[name] = ShownImage(name, note, file, round(picture.width / PIXEL_RATIO))
    return [ImageGroup(title, [drawn[name] for name in names]) for title, names in chosen.items() if names]


def _instances(prepared: PreparedDataset, images: Storage, sources: Sequence[Source]) -> _Val:
    manifest = prepared.manifest("val")
    scenes = Scenes(manifest, images, list(sources), reading=prepared.reading)
    names = {category.id: category.name for category in prepared.categories}
    ids, contents = {}, {}
    for row in manifest.select(["id", "file_name"]).to_pylist():
        ids[row["file_name"]] = row["id"]
        classes = [names[category] for category in scenes.categories(row["id"])]
        listed = ", ".join(f"{classes.count(name)} {name}" for name in dict.fromkeys(classes))
        contents[row["file_name"]] = listed or "no object"
    qualities = [
        {name: instance_quality(scenes.overlaps(image_id, source)) for name, image_id in ids.items()}
        for source in range(len(sources))
    ]
    return _Val(contents, qualities, lambda name: scene_panels(scenes, [ids[name]]).render())


def _labels(prepared: PreparedDataset, images: Storage, sources: Sequence[Source]) -> _Val:
    table, names = prepared.labels, prediction_names(prepared)
    rows = {row["file_name"]: row for row in prepared.manifest("val").to_pylist()}
    kinds = len(table.names)

    def truth(name: str) -> np.ndarray:
        return classes_of(table, images, rows[name]["label_file"])

    def predicted(name: str, source: Source) -> np.ndarray:
        return table.classes(read_ids(source.predictions / names[rows[name]["label_file"]]))

    contents, qualities = {}, [dict[str, float]() for _ in sources]
    for name in rows:
        classes = truth(name)
        present = [table.names[number] for number in np.unique(classes) if number < kinds]
        contents[name] = ", ".join(present) or counted(0, "class")
        for of_source, source in zip(qualities, sources, strict=True):
            of_source[name] = semantic_quality(classes, predicted(name, source), kinds)

    def draw(name: str) -> Image.Image:
        maps = [truth(name), *(predicted(name, source) for source in sources)]
        captions = ["image", "ground truth", *(source.caption for source in sources)]
        shown = {number for numbers in maps for number in np.unique(numbers).tolist()}
        return with_legend(Panels(captions, [picture_panels(images, name, maps, prepared)]).render(), table, shown)

    return _Val(contents, qualities, draw)
