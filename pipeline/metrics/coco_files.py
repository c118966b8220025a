"""Reads COCO files for the instance metrics: checks them, and converts every mask to compressed RLE."""

import json
import math
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from pipeline.data.annotations import as_truth
from pipeline.data.coco import DatasetError, check_instances, load_instances
from pipeline.data.masks import encode_segmentation
from pipeline.data.problems import lines
from pipeline.data.rle import sound_counts
from pipeline.metrics.errors import PredictionError


class DataWarning(UserWarning):
    """Something in a file of ground truth is left out, or looks wrong."""


def read_ground_truth(path: Path) -> dict[str, Any]:
    """A COCO instances file to score against; see :func:`check_ground_truth`."""
    return check_ground_truth(load_instances(path, names=False), path)


def check_ground_truth(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Instances to score against, ready for pycocotools and lvis, by the rules of training.

    Warns (:class:`DataWarning`) of what is left out or looks wrong.

    Args:
        data: images, annotations and categories with their ids and sizes.
        path: the file, for messages.

    Returns:
        ``data`` with checked annotations (see :mod:`pipeline.data.annotations`), numbered from 1, with every
        segmentation as compressed RLE.

    Raises:
        DatasetError: listing duplicate and unknown ids, and unusable annotations.
    """
    found = check_instances(data, "error")
    problems = found.problems + (["it has no images"] if not data["images"] else [])
    if problems:
        raise DatasetError(path, problems)
    if odd := [*found.dropped, *found.parts, *found.warnings]:
        warnings.warn("\n".join(lines(odd, str(path))), DataWarning, stacklevel=2)
    truth = as_truth(data, found.usable, found.image_ids)
    for number, annotation in enumerate(truth["annotations"], 1):
        # Both evaluators take a match with an object of id 0 for no match.
        annotation["id"] = number
    return truth


def read_results(
    path: Path, images: Sequence[Mapping[str, Any]], categories: Collection[int], left_out: Collection[int] | None = ()
) -> list[dict[str, Any]]:
    """A COCO results file, a list of {image_id, category_id, segmentation (RLE), score}; other keys are dropped.

    Boxes are dropped too: pycocotools and lvis would take areas from them, so that AP by size would go by box area.

    Args:
        path: the file.
        images: the images that may have predictions, with id, height and width.
        categories: the category ids that predictions may have.
        left_out: ids of other images, whose predictions are skipped; None for all others.

    Returns:
        The results with their segmentations as compressed RLE, in the file's order.

    Raises:
        PredictionError: naming the first entry with an unknown image or category, a mask of another size than its
            image, or a score that is not finite.
    """
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise PredictionError(f"{path}: not a readable COCO results file ({error})") from error
    if not isinstance(entries, list):
        raise PredictionError(f"{path}: expected a list of results")
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    categories, others = frozenset(categories), None if left_out is None else frozenset(left_out) - sizes.keys()
    scored = []
    for index, entry in enumerate(entries):
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        if type(image_id) is int and (image_id not in sizes if others is None else image_id in others):
            continue
        if (fault := _fault(entry, sizes, categories)) is not None:
            raise PredictionError(f"{path}: entry {index}{fault}")
        scored.append((index, entry))
    segmentations = [entry.get("segmentation") for _, entry in scored]
    shapes = [sizes[entry["image_id"]] for _, entry in scored]
    results = []
    found = zip(scored, segmentations, shapes, _sound(segmentations, shapes), strict=True)
    for (index, entry), segmentation, shape, sound in found:
        try:
            counts = (
                segmentation["counts"].encode() if sound else encode_segmentation(segmentation, *shape, polygons=False)
            )
        except ValueError as error:
            raise PredictionError(f"{path}: entry {index} (image {entry['image_id']}): mask: {error}") from error
        results.append(
            {
                **{key: entry[key] for key in ("image_id", "category_id", "score")},
                "segmentation": {"size": list(shape), "counts": counts},
            }
        )
    return results


def chosen_results(
    path: Path,
    every: Mapping[str, Any],
    truth: Mapping[str, Any],
    categories: Collection[int],
    left_out: Collection[int] | None = (),
) -> tuple[list[dict[str, Any]], int]:
    """The results of the images and categories to score, and how many are of others.

    Args:
        path: the file.
        every: the whole ground truth.
        truth: the part to score.
        categories: the category ids that predictions may have; those that are not in ``every`` are kept.
        left_out: ids of more images that may have predictions; None for any.

    Raises:
        PredictionError: as :func:`read_results`.
    """
    results = read_results(path, every["images"], categories, left_out)
    images = {image["id"] for image in truth["images"]}
    others = {category["id"] for category in every["categories"]} - {c["id"] for c in truth["categories"]}
    kept = [result for result in results if result["image_id"] in images and result["category_id"] not in others]
    # Those of images that the ground truth does not have are in the file alone.
    return kept, (len(json.loads(path.read_bytes())) if left_out is None or left_out else len(results)) - len(kept)


def detections(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results as the annotations that an evaluator reads, numbered from 1, with the areas of their masks."""
    return [
        {**result, "id": number, "area": float(coco_mask.area(result["segmentation"])), "iscrowd": 0}
        for number, result in enumerate(results, 1)
    ]


def counts(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], counted: int, left_out: int
) -> dict[str, Any]:
    """What was scored.

    Args:
        truth: the images and annotations.
        results: the predictions for them.
        counted: how many of those are right or wrong at an IoU of 0.50.
        left_out: how many predictions are of other images or categories.

    Returns:
        numbers of images, images without predictions, objects, ignored objects (crowds), predictions and predictions
        left out; and in percent how many predictions are neither right nor wrong: on crowds, beyond the number that
        counts in an image, or where LVIS does not say whether there is an object. NaN without predictions.
    """
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in truth["annotations"])
    return {
        "images": len(truth["images"]),
        "images_without_predictions": len(truth["images"]) - len({result["image_id"] for result in results}),
        "objects": len(truth["annotations"]) - crowds,
        "ignored_objects": crowds,
        "predictions": len(results),
        "predictions_left_out": left_out,
        "ignored_predictions_percent": 100 * (1 - counted / len(results)) if results else math.nan,
    }


def _fault(entry: Any, sizes: Mapping[int, tuple[int, int]], categories: frozenset[int]) -> str | None:
    """The error message for a result, its mask aside; None if it is valid."""
    if not isinstance(entry, dict):
        return f": {entry!r} is not a JSON object"
    image_id, category_id, score = entry.get("image_id"), entry.get("category_id"), entry.get("score")
    if type(image_id) is not int or image_id not in sizes:
        return f": unknown image id {image_id!r}"
    if type(category_id) is not int or category_id not in categories:
        return f" (image {image_id}): unknown category id {category_id!r}"
    if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= sys.float_info.max:
        return f" (image {image_id}): score is {score!r}, not a finite number"
    return None


def _sound(segmentations: Sequence[Any], shapes: Sequence[tuple[int, int]]) -> list[bool]:
    """Tells, all at once, which segmentations are valid compressed RLEs of their image's size."""
    sound = [
        isinstance(s, dict) and isinstance(s.get("counts"), str) and s.get("size") == list(shape)
        for s, shape in zip(segmentations, shapes, strict=True)
    ]
    chosen = [index for index, is_rle in enumerate(sound) if is_rle]
    pixels = [shapes[index][0] * shapes[index][1] for index in chosen]
    for index, is_sound in zip(chosen, sound_counts([segmentations[i]["counts"] for i in chosen], pixels), strict=True):
        sound[index] = bool(is_sound)
    return sound
