"""Draws masks: ground truth and the predictions of each head side by side (the paper's Figures 2 and 6).

Shape letters: R objects, H W rows and columns.
"""

import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask
from torch import Tensor

from pipeline.data.storage import Storage
from pointrend.drawing import draw_masks
from pointrend.pictures import decode_picture

T = TypeVar("T")
Rle = dict[str, Any]  # COCO's: size (H, W) and counts

MIN_SCORE = 0.5  # predictions with lower scores are not drawn
MIN_IOU = 0.5  # least IoU of a prediction and the object it is matched to
GAP, CAPTION = 6, 20  # pixels
MARGIN = 6  # pixels around an object


@dataclass(frozen=True)
class Source:
    """One column of the picture: a caption and predictions, a COCO results file or a folder of label PNGs."""

    caption: str
    predictions: Path


def font() -> ImageFont.FreeTypeFont:
    """The captions' font."""
    # Pillow's own font has no "×"; matplotlib comes with a font that does.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 12)


@dataclass(frozen=True)
class Panels:
    """A grid of pictures with column captions."""

    captions: list[str]
    rows: list[list[Image.Image]]

    def render(self) -> Image.Image:
        """All panels in one picture."""
        widths = [
            max(math.ceil(font().getlength(caption)), *(row[column].width for row in self.rows))
            for column, caption in enumerate(self.captions)
        ]
        heights = [max(panel.height for panel in row) for row in self.rows]
        size = (sum(widths) + GAP * (len(widths) - 1), CAPTION + sum(heights) + GAP * (len(heights) - 1))
        sheet = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(sheet)
        left = 0
        for column, (caption, width) in enumerate(zip(self.captions, widths, strict=True)):
            pen.text((left + width / 2, CAPTION / 2), caption, "black", font(), anchor="mm")
            top = CAPTION
            for row, height in zip(self.rows, heights, strict=True):
                panel = row[column]
                sheet.paste(panel, (left + (width - panel.width) // 2, top + (height - panel.height) // 2))
                top += height + GAP
            left += width + GAP
        return sheet


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """Up to ``count`` of the items, the first and the last among them, at equal distances."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]


class Scenes:
    """The val images, their objects, and the predictions of each source.

    Args:
        manifest: the manifest of the val split.
        images: the storage that its file names are relative to.
        sources: the columns.
    """

    def __init__(self, manifest: pa.Table, images: Storage, sources: list[Source]) -> None:
        self._rows = {row["id"]: row for row in manifest.to_pylist()}
        self._images, self.sources = images, sources
        self._predictions = [_confident_by_image(source.predictions) for source in sources]

    def choose(self, count: int) -> list[int]:
        """The ids of up to ``count`` images, evenly spread over those with objects."""
        return evenly_spread(sorted(image_id for image_id in self._rows if self._objects(image_id)), count)

    def picture(self, image_id: int) -> Tensor:
        """The image (3, H, W)."""
        name = self._rows[image_id]["file_name"]
        return decode_picture(io.BytesIO(self._images.read(name)), self._images.where(name))

    def truth(self, image_id: int) -> Tensor:
        """The objects' masks (R, H, W) bool, without crowds."""
        return self._decode(self.truth_rles(image_id), image_id)

    def truth_rles(self, image_id: int) -> list[Rle]:
        """The objects' masks as RLEs, without crowds."""
        size = self._size(image_id)
        return [{"size": size, "counts": annotation["counts"]} for annotation in self._objects(image_id)]

    def categories(self, image_id: int) -> list[int]:
        """The category id of each object."""
        return [annotation["category_id"] for annotation in self._objects(image_id)]

    def _objects(self, image_id: int) -> list[dict[str, Any]]:
        return [annotation for annotation in self._rows[image_id]["annotations"] if not annotation["iscrowd"]]

    def matched(self, image_id: int, source: int) -> list[Rle | None]:
        """The RLE of a source's best prediction for each object; None if none overlaps it enough."""
        return [None if best is None else best[1] for best in self._best(image_id, source)]

    def predicted(self, image_id: int, source: int) -> Tensor:
        """All confident predictions (R', H, W): first those matched to objects, in the objects' order, then the others.

        An object without a prediction has an empty mask, so that each object has the same colour in every column.
        """
        best = self._best(image_id, source)
        taken = {match[0] for match in best if match is not None}
        others = [rle for number, rle in enumerate(self._predictions[source][image_id]) if number not in taken]
        empty = coco_mask.encode(np.zeros(self._size(image_id), dtype=np.uint8, order="F"))
        return self._decode([*(empty if match is None else match[1] for match in best), *others], image_id)

    def _best(self, image_id: int, source: int) -> list[tuple[int, Rle] | None]:
        """The best prediction for each object, with its index among the confident ones."""
        truth, found = self.truth_rles(image_id), self._predictions[source][image_id]
        if not found:
            return [None] * len(truth)
        overlaps = coco_mask.iou(truth, found, [0] * len(found))
        return [
            (number, found[number]) if row[number] >= MIN_IOU else None
            for row, number in zip(overlaps, overlaps.argmax(axis=1).tolist(), strict=True)
        ]

    def _size(self, image_id: int) -> tuple[int, int]:
        image = self._rows[image_id]
        return image["height"], image["width"]

    def _decode(self, rles: list[Rle], image_id: int) -> Tensor:
        """Masks (R, H, W) bool."""
        masks = [coco_mask.decode(rle) for rle in rles]
        return torch.from_numpy(np.stack(masks)).bool() if masks else torch.zeros(0, *self._size(image_id)).bool()


def _confident_by_image(predictions: Path) -> defaultdict[int, list[Rle]]:
    """The masks that are drawn. The others, by far the most, would take gigabytes for a large dataset."""
    found: defaultdict[int, list[Rle]] = defaultdict(list)
    for result in json.loads(predictions.read_text()):
        if result["score"] >= MIN_SCORE:
            found[result["image_id"]].append(result["segmentation"])
    return found


def to_image(picture: Tensor, scale: int) -> Image.Image:
    """A picture (3, H, W) in [0, 1] as an image ``scale`` times as large, without smoothing."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def scene_panels(scenes: Scenes, count: int) -> Panels:
    """A row for each of ``count`` images: the image, the ground truth, and every source's predictions."""
    rows = []
    for image_id in scenes.choose(count):
        picture = scenes.picture(image_id)
        masks = [scenes.truth(image_id), *(scenes.predicted(image_id, s) for s in range(len(scenes.sources)))]
        scale = max(1, round(240 / picture.shape[-1]))
        rows.append([to_image(p, scale) for p in (picture, *(draw_masks(picture, m) for m in masks))])
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


def object_panels(scenes: Scenes, objects: list[FoundObject], count: int, side: int = 260) -> Panels:
    """A row for each of the first ``count`` objects of :func:`one_per_image`, enlarged, with the IoU of each mask."""
    rows: list[list[Image.Image]] = []
    for found in one_per_image(objects)[:count]:
        picture = scenes.picture(found.image_id)
        masks = torch.from_numpy(coco_mask.decode([found.truth, *found.masks])).bool().permute(2, 0, 1)
        window = (slice(None), *_window(masks[0]))
        panels = (picture[window], *(draw_masks(picture, mask[None])[window] for mask in masks))
        notes = ["", "", *(f"IoU {overlap:.2f}" for overlap in found.overlaps)]
        rows.append([with_note(enlarge(panel, side), note) for panel, note in zip(panels, notes, strict=True)])
    return Panels(["image", "ground truth", *(source.caption for source in scenes.sources)], rows)


def _window(mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns around a mask (H, W)."""
    rows, columns = torch.where(mask.any(1))[0], torch.where(mask.any(0))[0]
    return (
        slice(max(0, int(rows[0]) - MARGIN), int(rows[-1]) + MARGIN + 1),
        slice(max(0, int(columns[0]) - MARGIN), int(columns[-1]) + MARGIN + 1),
    )


def enlarge(crop: Tensor, side: int) -> Image.Image:
    """A crop (3, h, w) enlarged by a whole factor to at most ``side`` pixels, or shrunk to ``side`` pixels."""
    image = to_image(crop, max(1, side // max(crop.shape[1:])))
    image.thumbnail((side, side))
    return image


def with_note(image: Image.Image, note: str) -> Image.Image:
    """An image with a line of text below it."""
    noted = Image.new("RGB", (image.width, image.height + CAPTION), "white")
    noted.paste(image)
    ImageDraw.Draw(noted).text((image.width / 2, image.height + CAPTION / 2), note, "black", font(), anchor="mm")
    return noted
