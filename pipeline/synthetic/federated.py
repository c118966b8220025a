"""LVIS v1 annotations of the shapes: exact masks, and categories of which each image is annotated for some only.

LVIS is a federated dataset (Gupta et al. 2019): an image lists the categories that are verified absent, and those whose
objects are annotated only in part. About all other categories it says nothing, whether it has objects of them or not.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

#: Sorted by name, as in LVIS, and each with another id than in the COCO file. Four are not in the COCO file: arrows,
#: crescents and crosses, which no image has, and holes, which are parts of gears and rings.
LVIS_CATEGORIES: tuple[str, ...] = ("arrow", "crescent", "cross", "gear", "hole", "leaf", "ring", "splash", "star")
MAX_ANNOTATIONS = 200  # of an image, holes included

ABSENT = 0.6  # share of the categories without objects that are verified absent
UNKNOWN = 0.12  # share of the categories with objects that are not annotated at all
PARTIAL = 0.5  # share of the categories with several objects that are annotated only in part


def synset(name: str) -> str:
    """An invented synset: those of WordNet have a part of speech in the middle, so the two cannot be confused."""
    return f"{name}.shape.01"


def annotate_federatedly(
    rng: np.random.Generator, image: dict[str, Any], objects: Iterable[tuple[str, np.ndarray]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """LVIS's record of an image and its annotations.

    Args:
        rng: chooses which categories are annotated.
        image: its id, height, width and file_name, relative to the dataset's root.
        objects: category from LVIS_CATEGORIES and visible mask (H, W) bool of every object.
    """
    by_category: dict[str, list[np.ndarray]] = {name: [] for name in LVIS_CATEGORIES}
    for name, mask in objects:
        by_category[name].append(mask)
    absent: list[int] = []
    partial: list[int] = []
    annotations: list[dict[str, Any]] = []
    for category_id, masks in enumerate(by_category.values(), 1):
        # Always the same number of draws, so that the choice for one category does not change the others'.
        fate, chosen = rng.random(), rng.permutation(len(masks))
        if not masks:
            if fate < ABSENT:
                absent.append(category_id)
            continue
        if fate < UNKNOWN:
            continue
        if len(masks) > 1 and fate > 1 - PARTIAL:
            partial.append(category_id)
            chosen = chosen[: int(rng.integers(1, len(masks)))]
        for index in sorted(chosen.tolist()):
            rle = mask_api.encode(np.asfortranarray(masks[index], dtype=np.uint8))
            annotations.append(
                {
                    "id": image["id"] * MAX_ANNOTATIONS + len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category_id,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                    "area": float(mask_api.area(rle)),
                    "bbox": mask_api.toBbox(rle).tolist(),
                }
            )
    record = {
        "id": image["id"],
        "height": image["height"],
        "width": image["width"],
        # v1 has no file names: the URL's last two parts are the folder and the file.
        "coco_url": f"https://shapes.invalid/{image['file_name']}",
        "neg_category_ids": absent,
        "not_exhaustive_category_ids": partial,
    }
    return record, annotations


def lvis_categories(train: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The categories of both files, with their counts in the annotations of the train split.

    Rare are those in up to 10 training images, common those in up to 100, as in LVIS.
    """
    instances: Counter[int] = Counter()
    images: dict[int, set[int]] = {number: set() for number in range(1, len(LVIS_CATEGORIES) + 1)}
    for raw in train:
        instances[raw["category_id"]] += 1
        images[raw["category_id"]].add(raw["image_id"])
    return [
        {
            "id": number,
            "name": name,
            "synonyms": [name],
            "synset": synset(name),
            "def": f"the shape of that name: {name}",
            "frequency": "r" if len(images[number]) <= 10 else "c" if len(images[number]) <= 100 else "f",
            "image_count": len(images[number]),
            "instance_count": instances[number],
        }
        for number, name in enumerate(LVIS_CATEGORIES, 1)
    ]
