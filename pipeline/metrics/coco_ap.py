"""COCO mask AP from files alone: the numbers of pycocotools' COCOeval, without its loops."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.metrics.average_precision import STATISTICS, average_precision, resampled_ap
from pipeline.metrics.coco_files import detections, read_ground_truth, read_results
from pipeline.metrics.matching import PairwiseIoU, match


def coco_ap(
    annotations: Path,
    predictions: Path,
    *,
    resamples: int = 0,
    seed: int = 0,
    resampled: Collection[str] = tuple(STATISTICS),
) -> dict[str, Any]:
    """Mask AP in percent, averaged over IoU thresholds 0.50 to 0.95 and over categories.

    Args:
        annotations: a COCO instances file.
        predictions: a COCO results file, a list of {image_id, category_id, segmentation (RLE), score}.
        resamples: how many bootstrap resamples of the images to compute metrics on as well.
        seed: of the resampling.
        resampled: the names of those metrics.

    Returns:
        AP, AP50, AP75 and, by the objects' area (below 32^2, to 96^2, above), APs, APm, APl; NaN where there is no
        ground truth to average over. Without any prediction they are 0. With resamples also
        ``AP_resamples`` and so on: (resamples,), the values on them; see :mod:`pipeline.metrics.bootstrap`.

    Raises:
        DatasetError: for annotations with duplicate or unknown ids, or unusable masks.
        PredictionError: for an unknown image or category, a mask of another size than its image, or a score that
            is not finite.
    """
    return score_instances(coco_mask.iou, annotations, predictions, resamples, seed, resampled)


def score_instances(
    iou: PairwiseIoU, annotations: Path, predictions: Path, resamples: int, seed: int, resampled: Collection[str]
) -> dict[str, Any]:
    """The statistics of :func:`coco_ap` with masks compared by ``iou``."""
    truth = read_ground_truth(annotations)
    results = read_results(predictions, truth["images"], [category["id"] for category in truth["categories"]])
    images = len(truth["images"])
    matches = match(truth, detections(results), iou)
    once = average_precision(matches, np.ones((1, images), np.int64))
    scores: dict[str, Any] = {name: float(values[0]) for name, values in once.items()}
    if resamples:
        scores |= resampled_ap(matches, images, resamples, seed, resampled)
    return scores
