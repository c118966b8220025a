"""Chooses the objects that a run's figures show, by boxes and scores alone: masks play no part."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from pipeline.data.coco import Category
from pipeline.report.figures.overlays import Scenes
from pointrend.instance import MaskRCNN
from pointrend.instance_inference import Detections

LOCATED = 0.75  # least IoU of a detection's box and the object's


@dataclass(frozen=True)
class LocatedObject:
    """A detection with the category and the box of an object."""

    image_id: int
    number: int  # its index among the image's detections
    category_id: int
    score: float
    area: float  # of its box, in pixels


@dataclass(frozen=True)
class ShownObject:
    """An object, with what is needed to render its mask."""

    category: str
    image: Tensor  # (3, H, W)
    box: Tensor  # (4,) xyxy in pixels of the image
    found: Detections  # the image's features and this detection alone


@torch.inference_mode()
def located_objects(
    model: MaskRCNN, scenes: Scenes, categories: Sequence[Category], images: int
) -> list[LocatedObject]:
    """The detections, in up to ``images`` images, that have the category and the box of an object."""
    objects = []
    for image_id in scenes.choose(images):
        found = model.detect([scenes.picture(image_id)])
        boxes = found.original_boxes()[0]
        truth = box_convert(torch.from_numpy(coco_mask.toBbox(scenes.truth_rles(image_id))).float(), "xywh", "xyxy")
        category_ids = [categories[label - 1].id for label in found.labels[0].tolist()]
        alike = torch.tensor(category_ids)[:, None] == torch.tensor(scenes.categories(image_id))
        located = (alike & (box_iou(boxes, truth) >= LOCATED)).any(1)
        for number in located.nonzero()[:, 0].tolist():
            x0, y0, x1, y1 = boxes[number].tolist()
            score = float(found.scores[0][number])
            objects.append(LocatedObject(image_id, number, category_ids[number], score, (x1 - x0) * (y1 - y0)))
    return objects


def choose_objects(objects: Sequence[LocatedObject], count: int) -> list[LocatedObject]:
    """Up to ``count`` objects of different images and, if there are enough, of different categories.

    Objects whose box is smaller than the median box are left out; of the others the highest scores come first.
    """
    if not objects:
        return []
    smallest = median(found.area for found in objects)
    large = sorted((o for o in objects if o.area >= smallest), key=lambda o: (-o.score, o.image_id, o.number))
    chosen: list[LocatedObject] = []
    seen: Counter[int] = Counter()
    while len(chosen) < count:
        images = {found.image_id for found in chosen}
        left = [found for found in large if found.image_id not in images]
        if not left:
            break
        # The first object of the category that was chosen least often.
        chosen.append(min(left, key=lambda found: seen[found.category_id]))
        seen[chosen[-1].category_id] += 1
    return chosen


def shown_objects(
    model: MaskRCNN, scenes: Scenes, categories: Sequence[Category], images: int, count: int
) -> list[ShownObject]:
    """The objects of :func:`choose_objects` from up to ``images`` images; empty if the model locates none."""
    names = {category.id: category.name for category in categories}
    shown = []
    for chosen in choose_objects(located_objects(model, scenes, categories, images), count):
        image = scenes.picture(chosen.image_id)
        # Detect again: keeping the features of all images would take gigabytes.
        with torch.inference_mode():
            found = model.detect([image])
        own = slice(chosen.number, chosen.number + 1)
        shown.append(
            ShownObject(
                names[chosen.category_id],
                image,
                found.original_boxes()[0][chosen.number],
                replace(
                    found,
                    boxes=[found.boxes[0][own]],
                    labels=[found.labels[0][own]],
                    scores=[found.scores[0][own]],
                ),
            )
        )
    return shown
