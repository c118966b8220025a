"""Average precision over a dataset and over resamples of its images, from one run of the matching.

Detections are matched with objects within each image; only the precision-recall curve is over all images. So an image
that a resample has n times counts n times in the curve, and nothing is matched again.

Shape letters: N images, K categories, T IoU thresholds, D detections, S resamples.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.metrics.bootstrap import RESAMPLES, resample_counts

#: COCO's thresholds, computed as in pycocotools: the last digits decide some comparisons.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ("all", "small", "medium", "large")

#: The IoU thresholds and the range of areas of each statistic.
STATISTICS = {
    "AP": (slice(None), "all"),
    "AP50": (slice(0, 1), "all"),
    "AP75": (slice(5, 6), "all"),
    "APs": (slice(None), "small"),
    "APm": (slice(None), "medium"),
    "APl": (slice(None), "large"),
}

BLOCK = 1 << 22  # elements of an array processed at a time


class Matches(NamedTuple):
    """The matches of one category in one range of areas; detections sorted by falling score, then by image."""

    area: str  # of AREAS
    scores: np.ndarray  # (D,)
    images: np.ndarray  # (D,) from 0 to N - 1
    right: np.ndarray  # (T, D) bool, true positives
    wrong: np.ndarray  # (T, D) bool, false positives; ignored detections are neither
    objects: np.ndarray  # (N,) objects to be found in each image


def counted(matches: Sequence[Matches]) -> int:
    """How many detections of all sizes are right or wrong at the lowest IoU threshold; the others are ignored."""
    return sum(int((found.right[0] | found.wrong[0]).sum()) for found in matches if found.area == AREAS[0])


def average_precision(matches: Sequence[Matches], counts: np.ndarray) -> dict[str, np.ndarray]:
    """The six statistics of resampled datasets, given how often each has each image.

    The values equal those of evaluating each resampled dataset by itself. Detections of equal score are in the order of
    their images, as both pycocotools and lvis have them.

    Args:
        matches: those of all categories.
        counts: (S, N), how often each resample has each image.

    Returns:
        (S,) for each of :data:`STATISTICS`, in percent; NaN where a resample has no objects to average over.
    """
    resamples = len(counts)
    sums: dict[str, np.ndarray] = {name: np.zeros(resamples) for name in STATISTICS}
    categories: dict[str, np.ndarray] = {name: np.zeros(resamples, int) for name in STATISTICS}
    for found in matches:
        if not found.objects.any():
            continue
        precision = _average_precision(found, counts)
        present = ~np.isnan(precision[:, 0])
        for name, (thresholds, area) in STATISTICS.items():
            if area == found.area:
                sums[name][present] += precision[present, thresholds].mean(1)
                categories[name] += present
    return {
        name: 100 * np.divide(sums[name], number, out=np.full(resamples, np.nan), where=number > 0)
        for name, number in categories.items()
    }


def resampled_ap(
    matches: Sequence[Matches], images: int, resamples: int, seed: int, statistics: Collection[str] = tuple(STATISTICS)
) -> dict[str, np.ndarray]:
    """The statistics on bootstrap resamples of the images.

    Args:
        matches: those of all categories.
        images: N.
        resamples: S.
        seed: of the resampling.
        statistics: those to compute, of :data:`STATISTICS`. AP by size takes three times as long as AP.

    Returns:
        For each of them, ``<name>_resamples``: (S,) in percent, NaN where a resample has no objects to
        average over.
    """
    areas = {STATISTICS[name][1] for name in statistics}
    values = average_precision(
        [found for found in matches if found.area in areas], resample_counts(images, resamples, seed)
    )
    return {f"{name}{RESAMPLES}": values[name] for name in STATISTICS if name in statistics}


def _average_precision(found: Matches, counts: np.ndarray) -> np.ndarray:
    """(S, T) of one category and range of areas, NaN for resamples without objects."""
    positives = counts @ found.objects
    precision = np.full((len(counts), len(found.right)), np.nan)
    step = max(1, BLOCK // (1 + found.images.size))
    for start in range(0, len(counts), step):
        present = start + np.flatnonzero(positives[start : start + step])
        for t, (is_right, is_wrong) in enumerate(zip(found.right, found.wrong, strict=True)):
            right, wrong = found.images[is_right], found.images[is_wrong]
            # The number of false positives before each true positive.
            before = np.cumsum(is_wrong)[is_right]
            precision[present, t] = _area_under(right, wrong, before, counts[present], positives[present])
    return precision


def _area_under(
    right: np.ndarray, wrong: np.ndarray, before: np.ndarray, counts: np.ndarray, positives: np.ndarray
) -> np.ndarray:
    """Precision averaged over the recall thresholds, (S,).

    Recall, and the largest precision from there on, change at true positives only, so nothing else is computed. The
    copies of one detection follow one another; the last copy has the largest precision.

    Args:
        right: (P,) the images of the true positives, in order of falling score.
        wrong: (Q,) the images of the false positives.
        before: (P,) how many false positives come before each true positive.
        counts: (S, N), how often each resample has each image.
        positives: (S,) the number of objects, not 0.
    """
    if not right.size:
        return np.zeros(len(counts))
    true = np.cumsum(counts[:, right], axis=1)
    false = np.zeros((len(counts), before[-1] + 1), np.int64)
    np.cumsum(counts[:, wrong[: before[-1]]], axis=1, out=false[:, 1:])
    # The evaluators add np.spacing(1) against a division by zero.
    precision = true / (false[:, before] + true + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, true / positives[:, None], side="right")
    return (precision * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS)
