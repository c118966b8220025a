"""Pictures of masks: ground truth and each head's predictions side by side (the paper's Figures 2 and 6).

Shape letters: R objects, H W rows and columns.
"""

import contextlib
import io
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import Tensor

from pointrend.drawing import draw_masks, read_picture

MIN_SCORE = 0.5  # of a prediction that is drawn
MIN_IOU = 0.5  # of a prediction with the object it is said to be
GAP, CAPTION = 6, 20  # pixels


@dataclass(frozen=True)
class Source:
    """One column of the picture: a caption and a COCO results file."""

    caption: str
    predictions: Path


@dataclass(frozen=True)
class Panels:
    """A grid of pictures that explain themselves: column captions, and rows of equal-sized images."""

    captions: list[str]
    rows: list[list[Image.Image]]

    def render(self) -> Image.Image:
        """All panels in one picture."""
        widths = [max(row[c].width for row in self.rows) for c in range(len(self.captions))]
        heights = [max(panel.height for panel in row) for row in self.rows]
        size = (sum(widths) + GAP * (len(widths) - 1), CAPTION + sum(heights) + GAP * (len(heights) - 1))
        sheet = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(sheet)
        # Pillow's own font lacks signs such as the one in "28×28"; matplotlib brings one that has them.
        font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 12)
        left = 0
        for column, (caption, width) in enumerate(zip(self.captions, widths, strict=True)):
            pen.text((left + width / 2, CAPTION / 2), caption, "black", font, anchor="mm")
            top = CAPTION
            for row, height in zip(self.rows, heights, strict=True):
                panel = row[column]
                sheet.paste(panel, (left + (width - panel.width) // 2, top + (height - panel.height) // 2))
                top += height + GAP
            left += width + GAP
        return sheet


class Scenes:
    """The val images, their objects, and what each source predicts for them.

    Args:
        annotations: the val split's COCO file.
        images: the folder that holds the images' ``file_name``.
        sources: the columns.
    """

    def __init__(self, annotations: Path, images: Path, sources: list[Source]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._truth = COCO(str(annotations))
        self._images, self.sources = images, sources
        self._predictions = [_by_image(source.predictions) for source in sources]

    def choose(self, count: int) -> list[int]:
        """Ids of up to ``count`` images to show: evenly spread over those with objects, the same every time."""
        ids = sorted(i for i in self._truth.getImgIds() if self._truth.getAnnIds(imgIds=[i], iscrowd=False))
        spread = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
        return [ids[i] for i in spread]

    def picture(self, image_id: int) -> Tensor:
        """The image (3, H, W)."""
        return read_picture(self._images / self._truth.imgs[image_id]["file_name"])

    def truth(self, image_id: int) -> Tensor:
        """The objects' masks (R, H, W) bool, crowds left out."""
        ids = self._truth.getAnnIds(imgIds=[image_id], iscrowd=False)
        return _stack([self._truth.annToMask(self._truth.anns[i]) for i in ids], self._size(image_id))

    def matched(self, image_id: int, source: int) -> list[Tensor | None]:
        """Each object's best prediction (H, W) bool of a source, or None where none overlaps it enough."""
        predicted = self._decode(image_id, source)
        best: list[Tensor | None] = []
        for mask in self.truth(image_id):
            overlaps = (predicted & mask).flatten(1).sum(1) / (predicted | mask).flatten(1).sum(1).clamp(min=1)
            found = len(overlaps) > 0 and overlaps.max() >= MIN_IOU
            best.append(predicted[int(overlaps.argmax())] if found else None)
        return best

    def predicted(self, image_id: int, source: int) -> Tensor:
        """All confident predictions (R', H, W): first those of the objects, in their order, then the others.

        An object without a prediction leaves an empty mask, so that an object has the same colour in every column.
        """
        predicted = self._decode(image_id, source)
        matched = self.matched(image_id, source)
        empty = torch.zeros(self._size(image_id), dtype=torch.bool)
        taken = [m for m in matched if m is not None]
        others = [p for p in predicted if not any(torch.equal(p, m) for m in taken)]
        return torch.stack([*(empty if m is None else m for m in matched), *others])

    def _size(self, image_id: int) -> tuple[int, int]:
        image = self._truth.imgs[image_id]
        return image["height"], image["width"]

    def _decode(self, image_id: int, source: int) -> Tensor:
        found = self._predictions[source].get(image_id, [])
        masks = [coco_mask.decode(result["segmentation"]) for result in found if result["score"] >= MIN_SCORE]
        return _stack(masks, self._size(image_id))


def _stack(masks: list[np.ndarray], size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack(masks)).bool() if masks else torch.zeros(0, *size, dtype=torch.bool)


def _by_image(predictions: Path) -> dict[int, list[dict[str, Any]]]:
    found = defaultdict(list)
    for result in json.loads(predictions.read_text()):
        found[result["image_id"]].append(result)
    return found


def to_image(picture: Tensor, scale: int) -> Image.Image:
    """(3, H, W) in [0, 1] as an image ``scale`` times as large, its pixels kept visible."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def scene_panels(scenes: Scenes, count: int) -> Panels:
    """Whole images: the image, the ground truth, and every source's predictions."""
    rows = []
    for image_id in scenes.choose(count):
        picture = scenes.picture(image_id)
        masks = [scenes.truth(image_id), *(scenes.predicted(image_id, s) for s in range(len(scenes.sources)))]
        scale = max(1, round(240 / picture.shape[-1]))
        rows.append([to_image(p, scale) for p in (picture, *(draw_masks(picture, m) for m in masks))])
    return Panels(["image", "ground truth", *(source.caption for source in scenes.sources)], rows)


def object_panels(scenes: Scenes, count: int, side: int = 260) -> Panels:
    """Single objects, enlarged: the largest one of each image that every source has found."""
    rows: list[list[Image.Image]] = []
    for image_id in scenes.choose(4 * count):
        if len(rows) == count:
            break
        truth = scenes.truth(image_id)
        found = [scenes.matched(image_id, source) for source in range(len(scenes.sources))]
        for index in truth.flatten(1).sum(1).argsort(descending=True).tolist():
            masks = [column[index] for column in found]
            if all(mask is not None for mask in masks):
                picture = scenes.picture(image_id)
                window = _window(truth[index])
                drawn = [draw_masks(picture, mask[None]) for mask in (truth[index], *masks) if mask is not None]
                rows.append([_enlarge(panel[(slice(None), *window)], side) for panel in (picture, *drawn)])
                break
    return Panels(["image", "ground truth", *(source.caption for source in scenes.sources)], rows)


def _window(mask: Tensor, margin: int = 6) -> tuple[slice, slice]:
    """Rows and columns around a mask (H, W)."""
    rows, columns = torch.where(mask.any(1))[0], torch.where(mask.any(0))[0]
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )


def _enlarge(crop: Tensor, side: int) -> Image.Image:
    """A crop (3, h, w) enlarged by a whole factor to at most ``side`` pixels, or shrunk to them."""
    image = to_image(crop, max(1, side // max(crop.shape[1:])))
    image.thumbnail((side, side))
    return image
