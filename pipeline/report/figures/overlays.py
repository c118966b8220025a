"""Draws masks: ground truth and the predictions of each head side by side (the paper's Figures 2 and 6).

Shape letters: R objects, H W rows and columns.
"""

import io
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from pipeline.data.storage import Storage
from pipeline.report.figures.figure import PIXEL_RATIO
from pipeline.report.figures.masks import Window, cut_out, draw_mask, enlarged_mask, enlarged_picture
from pipeline.report.figures.panels import Panels, with_note
from pointrend.drawing import color
from pointrend.pictures import decode_picture
from pointrend.pixels import STORED, Reading

T = TypeVar("T")
Rle = dict[str, Any]  # COCO's: size (H, W) and counts

MIN_SCORE = 0.5  # predictions with lower scores are not drawn, as a rule
MIN_IOU = 0.5  # least IoU of the bounding boxes of a prediction and the object it is matched to
SCENE, OBJECT = 240 * PIXEL_RATIO, 240 * PIXEL_RATIO  # pixels of a panel's longer edge
MARGIN = 0.12  # around an object's box, as a fraction of its longer edge


@dataclass(frozen=True)
class Source:
    """One column of the picture.

    Attributes:
        caption: above it.
        predictions: a COCO results file or a folder of label PNGs.
        least_score: predictions of instances with lower scores are not drawn.
    """

    caption: str
    predictions: Path
    least_score: float = MIN_SCORE


class Prediction(NamedTuple):
    """A confident prediction in an image."""

    category_id: int
    mask: Rle


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """Up to ``count`` of the items, the first and the last among them, at equal distances."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]


class Scenes:
    """The val images, their objects, and the predictions of each source.

    Args:
        manifest: the manifest of the val split.
        images: the storage that its file names are relative to.
        sources: the columns.
        reading: how the images are read.
    """

    def __init__(
        self, manifest: pa.Table, images: Storage, sources: list[Source], *, reading: Reading = STORED
    ) -> None:
        self._rows = {row["id"]: row for row in manifest.to_pylist()}
        self._images, self.sources, self._reading = images, sources, reading
        self._predictions = [_confident_by_image(source.predictions, source.least_score) for source in sources]

    def choose(self, count: int) -> list[int]:
        """The ids of up to ``count`` images, evenly spread over those with objects."""
        return evenly_spread(sorted(image_id for image_id in self._rows if self._objects(image_id)), count)

    def picture(self, image_id: int) -> Tensor:
        """The image (3, H, W)."""
        name = self._rows[image_id]["file_name"]
        return decode_picture(io.BytesIO(self._images.read(name)), self._images.where(name), self._reading)

    def truth(self, image_id: int) -> list[np.ndarray]:
        """The objects' masks (H, W) bool, without crowds."""
        return [decode(rle) for rle in self.truth_rles(image_id)]

    def truth_rles(self, image_id: int) -> list[Rle]:
        """The objects' masks as RLEs, without crowds."""
        size = self.size(image_id)
        return [{"size": size, "counts": annotation["counts"]} for annotation in self._objects(image_id)]

    def categories(self, image_id: int) -> list[int]:
        """The category id of each object."""
        return [annotation["category_id"] for annotation in self._objects(image_id)]

    def _objects(self, image_id: int) -> list[dict[str, Any]]:
        return [annotation for annotation in self._rows[image_id]["annotations"] if not annotation["iscrowd"]]

    def matched(self, image_id: int, source: int) -> list[Rle | None]:
        """The mask of a source's prediction for each object; None if none of its category has its box.

        Boxes decide because they favour no mask head.
        """
        found = self._predictions[source][image_id]
        return [None if number is None else found[number].mask for number in self._best(image_id, source)]

    def predicted(self, image_id: int, source: int) -> list[np.ndarray | None]:
        """All confident predictions (H, W) bool: first those of objects, in the objects' order, then the others.

        An object without a prediction has None, so that each object has the same colour in every column.
        """
        found, best = self._predictions[source][image_id], self._best(image_id, source)
        others = [prediction.mask for number, prediction in enumerate(found) if number not in best]
        own = [None if number is None else decode(found[number].mask) for number in best]
        return [*own, *(decode(mask) for mask in others)]

    def _best(self, image_id: int, source: int) -> list[int | None]:
        """For each object, the index of the confident prediction of its category whose box overlaps its box most."""
        truth, found = self.truth_rles(image_id), self._predictions[source][image_id]
        if not truth or not found:
            return [None] * len(truth)
        boxes = (coco_mask.toBbox(truth), coco_mask.toBbox([prediction.mask for prediction in found]))
        overlaps = coco_mask.iou(*boxes, [0] * len(found))
        categories = np.array([prediction.category_id for prediction in found])
        overlaps[np.array(self.categories(image_id))[:, None] != categories] = 0.0
        return [
            number if row[number] >= MIN_IOU else None
            for row, number in zip(overlaps, overlaps.argmax(axis=1).tolist(), strict=True)
        ]

    def overlaps(self, image_id: int, source: int) -> np.ndarray:
        """The mask IoU (D, G) of a source's confident predictions and the objects; 0 where the categories differ."""
        truth, found = self.truth_rles(image_id), self._predictions[source][image_id]
        if not truth or not found:
            return np.zeros((len(found), len(truth)))
        overlaps = np.array(coco_mask.iou([prediction.mask for prediction in found], truth, [0] * len(truth)))
        categories = np.array([prediction.category_id for prediction in found])
        overlaps[categories[:, None] != np.array(self.categories(image_id))] = 0.0
        return overlaps

    def size(self, image_id: int) -> tuple[int, int]:
        """The image's H and W."""
        image = self._rows[image_id]
        return image["height"], image["width"]


def decode(rle: Rle) -> np.ndarray:
    """A mask (H, W) bool."""
    return coco_mask.decode(rle).astype(bool)


def _confident_by_image(predictions: Path, least_score: float) -> defaultdict[int, list[Prediction]]:
    """The masks that are drawn. The others, by far the most, would take gigabytes for a large dataset."""
    found: defaultdict[int, list[Prediction]] = defaultdict(list)
    for result in json.loads(predictions.read_text()):
        if result["score"] >= least_score:
            found[result["image_id"]].append(Prediction(result["category_id"], result["segmentation"]))
    return found


def scene_panels(scenes: Scenes, image_ids: Sequence[int]) -> Panels:
    """A row for each image: the image, the ground truth, and every source's predictions."""
    rows = []
    for image_id in image_ids:
        height, width = scenes.size(image_id)
        window = Window.fit((0, 0, width, height), SCENE)
        plain = enlarged_picture(scenes.picture(image_id), window)
        row = [plain]
        columns: list[Sequence[np.ndarray | None]] = [scenes.truth(image_id)]
        columns += [scenes.predicted(image_id, source) for source in range(len(scenes.sources))]
        for masks in columns:
            row.append(plain.copy())
            for number, mask in enumerate(masks):
                if mask is not None:
                    draw_mask(row[-1], enlarged_mask(mask, window), color(number))
        rows.append(row)
    return Panels(["image", "ground truth", *(source.caption for source in scenes.sources)], rows)


@dataclass(frozen=True)
class FoundObject:
    """An object that every source has found; its masks are RLEs."""

    image_id: int
    category_id: int
    truth: Rle
    masks: list[Rle]  # one per source
    overlaps: list[float]  # the IoU of each mask with the object's
    location: float  # the least IoU of a mask's bounding box with the object's

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The object's box, xyxy in pixels."""
        x, y, width, height = coco_mask.toBbox([self.truth])[0].tolist()
        return x, y, x + width, y + height


def found_objects(scenes: Scenes, images: int) -> list[FoundObject]:
    """The objects in up to ``images`` images that every source has found, those with the best boxes first.

    Boxes decide the order because they favour no mask head.
    """
    objects = []
    for image_id in scenes.choose(images):
        columns = [scenes.matched(image_id, source) for source in range(len(scenes.sources))]
        objects_of_image = zip(scenes.categories(image_id), scenes.truth_rles(image_id), *columns, strict=True)
        for category_id, truth, *found in objects_of_image:
            masks = [mask for mask in found if mask is not None]
            if len(masks) == len(found):
                overlaps = coco_mask.iou(masks, [truth], [0])[:, 0].tolist()
                boxes = coco_mask.toBbox([truth, *masks])
                location = float(coco_mask.iou(boxes[1:], boxes[:1], [0]).min())
                objects.append(FoundObject(image_id, category_id, truth, masks, overlaps, location))
    return sorted(objects, key=lambda found: -found.location)


def one_per_image(objects: list[FoundObject]) -> list[FoundObject]:
    """The first object of each image, ordered so that the categories alternate."""
    first: dict[int, FoundObject] = {}
    for found in objects:
        first.setdefault(found.image_id, found)
    seen: Counter[int] = Counter()
    ranked: list[tuple[int, FoundObject]] = []
    for found in first.values():
        ranked.append((seen[found.category_id], found))
        seen[found.category_id] += 1
    return [found for _, found in sorted(ranked, key=lambda item: item[0])]


def object_panels(scenes: Scenes, objects: list[FoundObject], count: int, side: int = OBJECT) -> Panels:
    """A row for each of the first ``count`` objects of :func:`one_per_image`, enlarged, with the IoU of each mask."""
    rows: list[list[Image.Image]] = []
    for found in one_per_image(objects)[:count]:
        window = Window.fit(surroundings(found.box, scenes.size(found.image_id)), side)
        plain = enlarged_picture(scenes.picture(found.image_id), window)
        row = [with_note(plain, "")]
        notes = ["", *(f"IoU {overlap:.2f}" for overlap in found.overlaps)]
        for mask, note in zip([found.truth, *found.masks], notes, strict=True):
            row.append(with_note(cut_out(plain, enlarged_mask(decode(mask), window)), note))
        rows.append(row)
    return Panels(["image", "ground truth", *(source.caption for source in scenes.sources)], rows)


def surroundings(
    box: tuple[float, float, float, float], size: tuple[int, int], *, square: bool = False
) -> tuple[float, float, float, float]:
    """A box, xyxy in pixels, with a margin, inside an image of a size (H, W); as a square where the image has room."""
    width, height = box[2] - box[0], box[3] - box[1]
    longer = max(width, height)
    margin = MARGIN * longer
    sides = (longer, longer) if square else (width, height)
    spans = []
    for low, length, side, limit in zip(box[:2], (width, height), sides, size[::-1], strict=True):
        span = min(side + 2 * margin, limit)
        start = min(max(0.0, low + (length - span) / 2), limit - span)
        spans.append((start, start + span))
    (x0, x1), (y0, y1) = spans
    return x0, y0, x1, y1
