"""Cityscapes AP on resamples of the images, from one run of cityscapesscripts' matching.

Predictions are matched with objects within each image; only the precision-recall curve is over all images. So an image
that a resample has n times counts n times in the curve. The rules are those of cityscapesscripts' ``evaluateMatches``
without distances, whose loops over images, classes and thresholds would be too slow to repeat for each resample.

Shape letters: N images, K classes, T IoU thresholds, D predictions that count, S resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

MIN_PIXELS = 100  # of an object that is to be found
FIRST_INSTANCE = 1000  # smaller ids are those of groups


class Ranked(NamedTuple):
    """The predictions of one class that count, right or wrong, at each IoU threshold."""

    scores: list[np.ndarray]  # T times (D,)
    images: list[np.ndarray]  # T times (D,) from 0 to N - 1
    right: list[np.ndarray]  # T times (D,) bool
    objects: np.ndarray  # (N,) objects to be found in each image


def ranked_predictions(
    matches: Sequence[Mapping[str, Any]], labels: Sequence[str], thresholds: np.ndarray
) -> list[Ranked]:
    """The predictions that count, for each class.

    Args:
        matches: the values of what cityscapesscripts' ``matchGtWithPreds`` returns, one for each image.
        labels: K class names.
        thresholds: (T,), from 0.5.
    """
    ranked = []
    for label in labels:
        found: list[list[tuple[float, int, bool]]] = [[] for _ in thresholds]  # score, image, right
        objects = np.zeros(len(matches), np.int64)
        for image, entry in enumerate(matches):
            for target in entry["groundTruth"][label]:
                if target["instID"] >= FIRST_INSTANCE and target["pixelCount"] >= MIN_PIXELS:
                    objects[image] += 1
                    offered = [(_iou(target, guess), guess["confidence"]) for guess in target["matchedPred"]]
                    for threshold, counted in zip(thresholds, found, strict=True):
                        # The most confident prediction of an object is right, the others are wrong.
                        scores = sorted((score for iou, score in offered if iou > threshold), reverse=True)
                        counted += [(score, image, place == 0) for place, score in enumerate(scores)]
            for guess in entry["prediction"][label]:
                best = max((_iou(guess, target) for target in guess["matchedGt"]), default=0.0)
                ignored = _ignored(guess)
                for threshold, counted in zip(thresholds, found, strict=True):
                    if best <= threshold and ignored <= threshold:
                        counted.append((guess["confidence"], image, False))
        ranked.append(
            Ranked(
                [np.array([score for score, _, _ in counted], np.float64) for counted in found],
                [np.array([image for _, image, _ in counted], np.int64) for counted in found],
                [np.array([right for _, _, right in counted], bool) for counted in found],
                objects,
            )
        )
    return ranked


def average_precision(ranked: Sequence[Ranked], counts: np.ndarray) -> np.ndarray:
    """AP of resampled datasets, given how often each has each image.

    The values equal those of evaluating each resampled dataset by itself.

    Args:
        ranked: for each class.
        counts: (S, N), how often each resample has each image.

    Returns:
        (S,) in percent; NaN where a resample has no objects to average over.
    """
    sums, classes = np.zeros(len(counts)), np.zeros(len(counts), np.int64)
    for found in ranked:
        positives = counts @ found.objects
        present = np.flatnonzero(positives)
        values = [
            _area_under(scores, right, counts[present][:, images], positives[present])
            for scores, images, right in zip(found.scores, found.images, found.right, strict=True)
        ]
        sums[present] += np.mean(values, axis=0)
        classes[present] += 1
    return 100 * np.divide(sums, classes, out=np.full(len(counts), np.nan), where=classes > 0)


def _area_under(scores: np.ndarray, right: np.ndarray, weights: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """The area under the precision-recall curve by the trapezoid rule, (S,).

    The curve begins with precision 1 at recall 0 and has a point for each distinct score. A score that a resample has
    no prediction of repeats the point before it and adds nothing.

    Args:
        scores: (D,).
        right: (D,) bool.
        weights: (S, D), how often each resample has each prediction.
        positives: (S,) the number of objects, not 0.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.nan))  # the last prediction of each distinct score
    every = np.cumsum(weights[:, order], axis=1)[:, last]
    true = np.cumsum(weights[:, order] * right[order], axis=1)[:, last]
    precision = np.ones((len(weights), len(last) + 1))
    np.divide(true, every, out=precision[:, 1:], where=every > 0)
    recall = np.zeros_like(precision)
    recall[:, 1:] = true / positives[:, None]
    return (np.diff(recall, axis=1) * (precision[:, 1:] + precision[:, :-1])).sum(axis=1) / 2


def _iou(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The IoU of an object and a prediction; one of them holds the number of pixels that they share."""
    shared = float(one["intersection"] if "intersection" in one else other["intersection"])
    return shared / (one["pixelCount"] + other["pixelCount"] - shared)


def _ignored(guess: Mapping[str, Any]) -> float:
    """The share of a prediction's pixels on void, on groups and on objects too small to be found."""
    pixels = guess["voidIntersection"]
    for target in guess["matchedGt"]:
        # A small group counts twice, as in cityscapesscripts.
        pixels += target["intersection"] * (
            int(target["instID"] < FIRST_INSTANCE) + int(target["pixelCount"] < MIN_PIXELS)
        )
    return float(pixels) / guess["pixelCount"]
