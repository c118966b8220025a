"""Cityscapes' instances: what an ``instanceIds`` PNG says.

A pixel holds a label id, or 1000 times the label id plus the number of the instance; an object class without a number
is a group that was not told apart.

Shape letters: H W rows and columns of an image.
"""

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from cityscapesscripts.helpers.labels import labels as all_labels
from pycocotools import mask as coco_mask

from pipeline.data.coco import Annotation, Category

INSTANCE_SUFFIX = "_gtFine_instanceIds.png"

#: The eight object classes that Cityscapes evaluates, under their label ids.
CATEGORIES = [Category(label.id, label.name) for label in all_labels if label.hasInstances and not label.ignoreInEval]


def check_instance_ids(present: list[int]) -> None:
    """Raises ValueError if one of the ids in a PNG is none of Cityscapes'."""
    unknown = [value for value in present if (value if value < 1000 else value // 1000) not in id2label]
    if unknown:
        raise ValueError(
            f"instance id {unknown[0]}; expected a label id below 34, or 1000 times one plus the instance's number"
        )


def instances(ids: np.ndarray) -> list[Annotation]:
    """The objects of the evaluated classes in instance ids (H, W), groups as crowds; numbered from 0.

    Raises:
        ValueError: for an id that is none of Cityscapes'.
    """
    present = np.flatnonzero(np.bincount(ids.ravel())).tolist()
    check_instance_ids(present)
    known = {category.id for category in CATEGORIES}
    found: list[Annotation] = []
    for value in present:
        label = value if value < 1000 else value // 1000
        if label not in known:
            continue
        rle = coco_mask.encode(np.asfortranarray(ids == value, dtype=np.uint8))
        x, y, width, height = coco_mask.toBbox(rle).tolist()
        area = float(coco_mask.area(rle))
        found.append(Annotation(len(found), label, (x, y, width, height), area, value < 1000, rle["counts"]))
    return found
