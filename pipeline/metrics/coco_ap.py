"""COCO mask AP from files alone: the numbers of pycocotools' COCOeval, without its loops."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.metrics.average_precision import AREAS, STATISTICS, average_precision, counted, resampled_ap
from pipeline.metrics.choice import Choice, class_labels
from pipeline.metrics.coco_files import chosen_results, counts, detections, read_ground_truth
from pipeline.metrics.matching import PairwiseIoU, match
from pipeline.metrics.precision_recall import precision_recall


def coco_ap(
    annotations: Path,
    predictions: Path,
    *,
    resamples: int = 0,
    seed: int = 0,
    resampled: Collection[str] = tuple(STATISTICS),
    by_class: bool = False,
    choice: Choice | None = None,
    with_counts: bool = False,
    best_f1: bool = False,
) -> dict[str, Any]:
    """Mask AP in percent, averaged over IoU thresholds 0.50 to 0.95 and over categories.

    Args:
        annotations: a COCO instances file.
        predictions: a COCO results file, a list of {image_id, category_id, segmentation (RLE), score}.
        resamples: how many bootstrap resamples of the images to compute metrics on as well.
        seed: of the resampling.
        resampled: the names of those metrics.
        by_class: whether to give the AP of each category as well.
        choice: the images and categories to score, by default all. Predictions of others are left out.
        with_counts: whether to say what was scored as well, see :func:`pipeline.metrics.coco_files.counts`.
        best_f1: whether to give the score threshold with the best F1 as well.

    Returns:
        AP, AP50, AP75 and, by the objects' area (below 32^2, to 96^2, above), APs, APm, APl; NaN where there is no
        ground truth to average over. Without any prediction they are 0. With resamples also
        ``AP_resamples`` and so on: (resamples,), the values on them; see :mod:`pipeline.metrics.bootstrap`. With
        ``by_class`` also ``AP_by_class``, by the categories' names (with the id where two have one name). With
        ``best_f1`` also ``F1``, in percent, the best one of all categories together at IoU 0.5, and ``F1_score``, the
        least score that it is reached with; see :mod:`pipeline.metrics.precision_recall`.

    Raises:
        DatasetError: for annotations with duplicate or unknown ids, or unusable masks.
        GroundTruthError: if the ground truth has not the chosen images or categories.
        PredictionError: for an unknown image or category, a mask of another size than its image, or a score that
            is not finite.
    """
    options = (resamples, seed, resampled, by_class, choice, with_counts, best_f1)
    return score_instances(coco_mask.iou, annotations, predictions, *options)


def score_instances(
    iou: PairwiseIoU,
    annotations: Path,
    predictions: Path,
    resamples: int,
    seed: int,
    resampled: Collection[str],
    by_class: bool = False,
    choice: Choice | None = None,
    with_counts: bool = False,
    best_f1: bool = False,
) -> dict[str, Any]:
    """The statistics of :func:`coco_ap` with masks compared by ``iou``."""
    every = read_ground_truth(annotations)
    truth = choice.of_instances(every, annotations) if choice else every
    categories = [category["id"] for category in every["categories"]]
    others = None if choice and choice.images else ()
    results, left_out = chosen_results(predictions, every, truth, categories, others)
    images = len(truth["images"])
    matches = match(truth, detections(results), iou)
    all_once = np.ones((1, images), np.int64)
    once = average_precision(matches, all_once)
    scores: dict[str, Any] = {name: float(values[0]) for name, values in once.items()}
    if by_class:
        # The matches are in the order of the categories' ids, one for each range of areas.
        of_class = [matches[start : start + len(AREAS)] for start in range(0, len(matches), len(AREAS))]
        scores["AP_by_class"] = {
            label: float(average_precision(own, all_once)["AP"][0])
            for label, own in zip(class_labels(truth["categories"]).values(), of_class, strict=True)
        }
    if with_counts:
        scores |= counts(truth, results, counted(matches), left_out)
    if best_f1:
        curve = precision_recall(matches)
        scores["F1_score"] = curve.best_score()
        scores["F1"] = 100 * curve.at(scores["F1_score"])[2] if curve.objects else math.nan
    if resamples:
        scores |= resampled_ap(matches, images, resamples, seed, resampled)
    return scores
