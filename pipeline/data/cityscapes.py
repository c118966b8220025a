"""Reads the instances in Cityscapes' ``instanceIds`` PNGs.

A pixel holds a label id, or 1000 times the label id plus the number of the instance. The bare label id of an object
class marks a group whose objects were not annotated one by one.

Shape letters: H W rows and columns of an image.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from cityscapesscripts.helpers.labels import labels as all_labels
from pycocotools import mask as coco_mask

from pipeline.data.annotations import Annotation
from pipeline.data.coco import Category

INSTANCE_SUFFIX = "_gtFine_instanceIds.png"

#: The eight object classes that Cityscapes evaluates, under their label ids.
CATEGORIES = [Category(label.id, label.name) for label in all_labels if label.hasInstances and not label.ignoreInEval]


def check_instance_ids(present: list[int]) -> None:
    """Raises ValueError if a PNG has an id that Cityscapes does not define."""
    unknown = [value for value in present if (value if value < 1000 else value // 1000) not in id2label]
    if unknown:
        raise ValueError(
            f"instance id {unknown[0]}; expected a label id below 34, or 1000 times one plus the instance's number"
        )


def instances(ids: np.ndarray) -> list[Annotation]:
    """The objects of the evaluated classes in instance ids (H, W), groups as crowds; numbered from 0.

    Raises:
        ValueError: for an id that Cityscapes does not define.
    """
    known = {category.id for category in CATEGORIES}
    found: list[Annotation] = []
    for value, rle in _encoded(ids):
        label = value if value < 1000 else value // 1000
        if label not in known:
            continue
        x, y, width, height = coco_mask.toBbox(rle).tolist()
        area = float(coco_mask.area(rle))
        found.append(Annotation(len(found), label, (x, y, width, height), area, value < 1000, rle["counts"]))
    return found


def _encoded(ids: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each id of ids (H, W), in order, with the RLE of its pixels, from one pass over the columns."""
    pixels = ids.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], pixels[1:] != pixels[:-1]]))
    stops, values = np.append(starts[1:], pixels.size), pixels[starts]
    present = np.unique(values).tolist()
    check_instance_ids(present)
    for value in present:
        of_value = values == value
        # Lengths of runs without and with the id, in turn.
        edges = np.stack([starts[of_value], stops[of_value]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=pixels.size if edges[-1] < pixels.size else [])
        yield value, coco_mask.frPyObjects({"size": list(ids.shape), "counts": counts}, *ids.shape)
