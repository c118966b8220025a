"""What is probably wrong with COCO results that cannot be scored, or of which next to nothing is right."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.labels import ranges_text
from pipeline.metrics.matching import PairwiseIoU

#: Least IoU of a prediction and an object, whatever their classes, that are taken for the same.
MATCHING_IOU = 0.5
IDS = ("image_id", "category_id")


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The objects in a results file; none where it is unreadable, which is for the scoring to say."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    entries = [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
    return [entry for entry in entries if not any(isinstance(entry.get(key), list | dict) for key in IDS)]


def file_hints(entries: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], known: Collection[int]) -> list[str]:
    """Sentences about ids and sizes that do not fit the ground truth's, each with how many results it is about.

    Args:
        entries: the results.
        truth: the images.
        known: the category ids that results may have.
    """
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    hints = []
    strange = [entry for entry in entries if entry.get("image_id") not in sizes]
    if strange:
        number = f"{len(strange)} of {len(entries)} predictions are of images that the ground truth does not have"
        shift = _shift("image", {entry.get("image_id") for entry in entries}, set(sizes))
        hints.append(number + (shift or "; list the images to score with --images FILE"))
    categories = set(known)
    used = {entry.get("category_id") for entry in entries}
    if used - categories:
        hints.append(
            f"the predictions have the category ids {_ranges(used)}, the ground truth {_ranges(categories)}"
            + (_number_hint(used, categories) or _shift("category", used, categories))
        )
    swapped = sum(
        isinstance(mask := entry.get("segmentation"), dict)
        and mask.get("size") != (size := sizes.get(entry.get("image_id"), []))
        and mask.get("size") == size[::-1]
        for entry in entries
    )
    if swapped:
        hints.append(
            f"{swapped} of {len(entries)} masks have width and height swapped; an RLE's size is [height, width], and "
            "its pixels go down the columns"
        )
    return hints


def class_hint(results: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], iou: PairwiseIoU) -> str | None:
    """A sentence about category ids that are known but lie beside those of the objects that the masks fit."""
    categories = sorted(category["id"] for category in truth["categories"])
    pairs = _overlapping(results, truth, iou)
    if not pairs:
        return None
    found, true = np.array(pairs).T
    numbers = np.searchsorted(categories, true)
    right = {
        "are one too low": np.mean(found + 1 == true),
        "are one too high": np.mean(found - 1 == true),
        "are numbers of classes from 0, not ids": np.mean(found == numbers),
        "are numbers of classes from 1, not ids": np.mean(found == numbers + 1),
    }
    text = max(right, key=lambda key: float(right[key]))
    if right[text] < max(0.5, 2 * float(np.mean(found == true))):
        return None
    return f"category ids look as if they {text}: of {len(pairs)} masks that fit an object, {100 * right[text]:.0f}% do"


def _overlapping(
    results: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], iou: PairwiseIoU
) -> list[tuple[int, int]]:
    """The categories of each prediction and of the object that it fits best, where it fits one."""
    by_image: dict[int, tuple[list[Any], list[Any]]] = {image["id"]: ([], []) for image in truth["images"]}
    for side, entries in enumerate((results, truth["annotations"])):
        for entry in entries:
            if not entry.get("iscrowd"):
                by_image[entry["image_id"]][side].append(entry)
    pairs = []
    for found, objects in by_image.values():
        if found and objects:
            masks = [[entry["segmentation"] for entry in side] for side in (found, objects)]
            ious = np.asarray(iou(masks[0], masks[1], [False] * len(objects)))
            for row, best in enumerate(ious.argmax(1)):
                if ious[row, best] >= MATCHING_IOU:
                    pairs.append((found[row]["category_id"], objects[best]["category_id"]))
    return pairs


def _shift(kind: str, used: set[Any], known: set[int]) -> str:
    if all(type(id_) is int for id_ in used):
        for step, text in ((1, "low"), (-1, "high")):
            if {id_ + step for id_ in used} <= known:
                return f"; the {kind} ids look one too {text}"
    return ""


def _number_hint(used: set[Any], categories: set[int]) -> str:
    """Whether ids look like the classes' numbers from 0, which networks give out."""
    numbers = set(range(len(categories)))
    if used <= numbers and categories != {number + 1 for number in numbers}:
        return "; they look like the numbers of the classes, from 0: write the category's id instead"
    return ""


def _ranges(ids: set[Any]) -> str:
    whole = [id_ for id_ in ids if type(id_) is int]
    return ", ".join(([ranges_text(whole)] if whole else []) + [repr(id_) for id_ in ids if type(id_) is not int][:3])
