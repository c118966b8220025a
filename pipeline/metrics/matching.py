"""Matches detections with objects by COCO's rules, for all images at once instead of in pycocotools' loops.

Within an image and a category, each detection, in order of falling score, takes the free object of largest IoU. Images
do not depend on one another: the first detections of all images are matched together, then the second ones, each at all
IoU thresholds. Only pairs that reach the lowest threshold are considered.

Shape letters: N images, K categories, T IoU thresholds, D detections, G objects, E pairs of both.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.metrics.average_precision import AREAS, IOU_THRESHOLDS, Matches

#: Areas in pixels, both ends included: all, small, medium, large.
AREA_RANGES = ((0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2))
#: Detections of one category that count in one image.
MAX_DETECTIONS = 100

assert len(AREA_RANGES) == len(AREAS)

#: IoU (D, G) of the masks (compressed RLE) of detections and objects, given which of the objects are crowds.
PairwiseIoU = Callable[[Sequence[Any], Sequence[Any], Sequence[bool]], np.ndarray]


class _Pairs(NamedTuple):
    """Pairs of a detection and an object, by index, that overlap enough to match."""

    detections: np.ndarray  # (E,)
    objects: np.ndarray  # (E,)
    ious: np.ndarray  # (E,)


def match(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], iou: PairwiseIoU) -> list[Matches]:
    """The matches that pycocotools' ``evaluate`` finds.

    Args:
        truth: images, categories and annotations as :func:`pipeline.metrics.coco_files.read_ground_truth` gives them.
        detections: as :func:`pipeline.metrics.coco_files.detections` gives them.
        iou: computes the IoU of the masks of one category in one image.

    Returns:
        one :class:`Matches` for each category, in order of their ids, and each range of areas.
    """
    image_ids = np.sort([image["id"] for image in truth["images"]])
    category_ids = np.sort([category["id"] for category in truth["categories"]])

    def cells(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """A number for the category and image (the cell) of each entry."""
        categories = np.array([entry["category_id"] for entry in entries], np.int64)
        images = np.array([entry["image_id"] for entry in entries], np.int64)
        return np.searchsorted(category_ids, categories) * len(image_ids) + np.searchsorted(image_ids, images)

    object_cells = cells(truth["annotations"])
    order = np.argsort(object_cells, kind="stable")
    objects, object_cells = [truth["annotations"][i] for i in order], object_cells[order]
    detection_cells = cells(detections)
    scores = np.array([detection["score"] for detection in detections], np.float64)
    order = np.lexsort((-scores, detection_cells))
    order = order[_ranks(detection_cells[order]) < MAX_DETECTIONS]
    found, detection_cells, scores = [detections[i] for i in order], detection_cells[order], scores[order]

    pairs = _pairs(found, detection_cells, objects, object_cells, iou)
    crowd = np.array([entry["iscrowd"] for entry in objects], bool)
    object_areas = np.array([entry["area"] for entry in objects], np.float64)
    areas = np.array([entry["area"] for entry in found], np.float64)
    by_area = []
    for low, high in AREA_RANGES:
        ignored = crowd | (object_areas < low) | (object_areas > high)
        matched, right = _choose(pairs, detection_cells, crowd, ignored)
        by_area.append((ignored, right, ~matched & (low <= areas) & (areas <= high)))

    matches = []
    for category in range(len(category_ids)):
        first = category * len(image_ids)
        start, stop = np.searchsorted(detection_cells, (first, first + len(image_ids)))
        order = start + np.argsort(-scores[start:stop], kind="stable")
        own = slice(*np.searchsorted(object_cells, (first, first + len(image_ids))))
        for area, (ignored, right, wrong) in zip(AREAS, by_area, strict=True):
            counted = object_cells[own][~ignored[own]] - first
            matches.append(
                Matches(
                    area,
                    scores[order],
                    detection_cells[order] - first,
                    right[:, order],
                    wrong[:, order],
                    np.bincount(counted, minlength=len(image_ids)),
                )
            )
    return matches


def _ranks(groups: np.ndarray) -> np.ndarray:
    """For each of rising numbers, how many equal ones come before it."""
    return np.arange(groups.size) - np.searchsorted(groups, groups)


def _pairs(
    found: Sequence[Mapping[str, Any]],
    detection_cells: np.ndarray,
    objects: Sequence[Mapping[str, Any]],
    object_cells: np.ndarray,
    iou: PairwiseIoU,
) -> _Pairs:
    """The pairs of one cell that reach the lowest IoU threshold."""

    def each() -> Iterator[_Pairs]:
        shared = np.intersect1d(detection_cells, object_cells)
        starts = np.searchsorted(detection_cells, shared), np.searchsorted(object_cells, shared)
        stops = np.searchsorted(detection_cells, shared, "right"), np.searchsorted(object_cells, shared, "right")
        for d, g, last_d, last_g in zip(*starts, *stops, strict=True):
            masks = [entry["segmentation"] for entry in found[d:last_d]]
            targets = [entry["segmentation"] for entry in objects[g:last_g]]
            ious = np.asarray(iou(masks, targets, [bool(entry["iscrowd"]) for entry in objects[g:last_g]]))
            rows, columns = np.nonzero(ious >= IOU_THRESHOLDS[0])
            yield _Pairs(d + rows, g + columns, ious[rows, columns])

    none = _Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return _Pairs(*(np.concatenate(parts) for parts in zip(none, *each(), strict=True)))


def _choose(
    pairs: _Pairs, detection_cells: np.ndarray, crowd: np.ndarray, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Assigns an object to each detection.

    Args:
        pairs: E.
        detection_cells: (D,) the cell (category and image) of each detection, rising.
        crowd: (G,) bool, objects that any number of detections may take.
        ignored: (G,) bool, objects taken only where no other is left; such detections do not count.

    Returns:
        (T, D) bool: which detections have an object, and which have one that is not ignored.
    """
    matched = np.zeros((len(IOU_THRESHOLDS), len(detection_cells)), bool)
    right = matched.copy()
    if not pairs.ious.size:
        return matched, right
    taken = np.zeros((len(IOU_THRESHOLDS), len(crowd)), bool)
    choosers, chooser = np.unique(pairs.detections, return_inverse=True)
    turn = _ranks(detection_cells[choosers])[chooser]
    # Sorted by turn, detection and preference; among equal IoUs the last object, as in pycocotools.
    order = np.lexsort((-pairs.objects, -pairs.ious, ignored[pairs.objects], pairs.detections, turn))
    detections, objects, ious = (column[order] for column in pairs)
    bounds = np.searchsorted(turn[order], np.arange(turn.max() + 2))
    for start, stop in itertools.pairwise(bounds):
        offered = objects[start:stop]
        free = (ious[start:stop] >= IOU_THRESHOLDS[:, None]) & (~taken[:, offered] | crowd[offered])
        choosing, starts = np.unique(detections[start:stop], return_index=True)
        place = np.where(free, np.arange(len(offered)), len(offered))
        best = np.minimum.reduceat(place, starts, axis=1)  # (T, choosing)
        chosen = best < len(offered)
        objects_chosen = offered[np.where(chosen, best, 0)]
        matched[:, choosing] = chosen
        right[:, choosing] = chosen & ~ignored[objects_chosen]
        threshold, column = np.nonzero(chosen)
        taken[threshold, objects_chosen[threshold, column]] = True
    return matched, right
