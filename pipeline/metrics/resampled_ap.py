"""Average precision on resamples of the images, from one run of the matching.

pycocotools and lvis match detections with objects image by image; only the precision over recall is of all images. So
an image that is drawn n times counts n times there, and nothing is matched again.

Shape letters: N images, K categories, A ranges of areas, T IoU thresholds, D detections, G objects, S resamples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.metrics.bootstrap import interval, resample_counts

#: pycocotools' first six statistics, in its order: which IoU thresholds (of 0.50, 0.55 ... 0.95) and which range of
#: areas (all, small, medium, large) each is of.
STATISTICS = {
    "AP": (slice(None), 0),
    "AP50": (slice(0, 1), 0),
    "AP75": (slice(5, 6), 0),
    "APs": (slice(None), 1),
    "APm": (slice(None), 2),
    "APl": (slice(None), 3),
}

AREAS = 4
BLOCK = 1 << 22  # numbers of an array at a time


class ImageMatches(NamedTuple):
    """What one category has in one image within one range of areas, detections in order of falling score."""

    scores: Sequence[float]  # D
    matched: np.ndarray  # (T, D), not 0 where the detection found an object
    ignored: np.ndarray  # (T, D), not 0 where the detection counts neither way
    ignored_objects: np.ndarray  # (G,), not 0 where it is no error to miss the object


def ap_intervals(
    matches: Sequence[ImageMatches | None], images: int, recalls: np.ndarray, resamples: int, seed: int
) -> dict[str, list[float]]:
    """95% bootstrap intervals over images of the six statistics.

    Args:
        matches: K * A * N, in this order; None where a category has neither objects nor detections in an image.
        images: N.
        recalls: the recall thresholds that precision is averaged over, rising.
        resamples: S.
        seed: of the resampling.

    Returns:
        For each of :data:`STATISTICS`, ``<name>_interval``: its lower and upper end in percent, NaN where no resample
        has objects to average over.
    """
    values = resampled_ap(matches, recalls, resample_counts(images, resamples, seed))
    return {f"{name}_interval": list(interval(found)) for name, found in values.items()}


def resampled_ap(
    matches: Sequence[ImageMatches | None], recalls: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """The six statistics on every resample.

    Equal to evaluating the dataset with each image as often as ``counts`` says. Detections of equal score are in the
    order of their images, as both evaluators have them.

    Args:
        matches: K * A * N, as in :func:`ap_intervals`.
        recalls: likewise.
        counts: (S, N), how often each resample has each image.

    Returns:
        (S,) per statistic, in percent; NaN where a resample has no objects to average over.
    """
    resamples, images = counts.shape
    sums: dict[str, np.ndarray] = {name: np.zeros(resamples) for name in STATISTICS}
    categories: dict[str, np.ndarray] = {name: np.zeros(resamples, int) for name in STATISTICS}
    for cell in range(len(matches) // images):
        precision = _average_precision(matches[cell * images : (cell + 1) * images], recalls, counts)
        if precision is None:
            continue
        present = ~np.isnan(precision[:, 0])
        for name, (thresholds, area) in STATISTICS.items():
            if area == cell % AREAS:
                sums[name][present] += precision[present, thresholds].mean(1)
                categories[name] += present
    return {
        name: 100 * np.divide(sums[name], number, out=np.full(resamples, np.nan), where=number > 0)
        for name, number in categories.items()
    }


def _average_precision(
    matches: Sequence[ImageMatches | None], recalls: np.ndarray, counts: np.ndarray
) -> np.ndarray | None:
    """(S, T) of one category and range of areas, NaN for resamples without objects; None if no image has any."""
    found = [(index, match) for index, match in enumerate(matches) if match is not None]
    objects = np.array([np.count_nonzero(np.asarray(match.ignored_objects) == 0) for _, match in found], np.int64)
    if not objects.sum():
        return None
    order = np.argsort(-np.concatenate([match.scores for _, match in found]), kind="stable")
    image = np.repeat([index for index, _ in found], [len(match.scores) for _, match in found])[order]
    matched = np.concatenate([match.matched for _, match in found], axis=1)[:, order] != 0
    counted = np.concatenate([match.ignored for _, match in found], axis=1)[:, order] == 0
    positives = counts[:, [index for index, _ in found]] @ objects
    precision = np.full((len(counts), len(matched)), np.nan)
    step = max(1, BLOCK // (1 + image.size))
    for start in range(0, len(counts), step):
        rows = slice(start, start + step)
        present = start + np.flatnonzero(positives[rows])
        for t in range(len(matched)):
            right, wrong = image[matched[t] & counted[t]], image[~matched[t] & counted[t]]
            # How many wrong detections come before each right one.
            before = np.cumsum(~matched[t] & counted[t])[matched[t] & counted[t]]
            precision[present, t] = _area_under(right, wrong, before, recalls, counts[present], positives[present])
    return precision


def _area_under(
    right: np.ndarray,
    wrong: np.ndarray,
    before: np.ndarray,
    recalls: np.ndarray,
    counts: np.ndarray,
    positives: np.ndarray,
) -> np.ndarray:
    """Precision averaged over the recall thresholds, (S,).

    Recall and the largest precision from there on change at right detections only, so nothing else is looked at. An
    image's copies of one detection come one after another; the last of them has the largest precision.

    Args:
        right: (P,) the images of the right detections, in order of falling score.
        wrong: (Q,) those of the wrong ones.
        before: (P,) how many of the wrong ones come before each right one.
        recalls: the recall thresholds.
        counts: (S, N).
        positives: (S,) the number of objects, not 0.
    """
    if not right.size:
        return np.zeros(len(counts))
    true = np.cumsum(counts[:, right], axis=1)
    false = np.zeros((len(counts), before[-1] + 1), np.int64)
    np.cumsum(counts[:, wrong[: before[-1]]], axis=1, out=false[:, 1:])
    # The spacing is the evaluators' guard against a division by zero.
    precision = true / (false[:, before] + true + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(recalls, true / positives[:, None], side="right")
    return (precision * np.diff(reached, axis=1, prepend=0)).sum(1) / len(recalls)
