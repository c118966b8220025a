"""COCO mask AP by pycocotools, from files alone."""

import contextlib
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.metrics.coco_files import detections, read_ground_truth, read_results
from pipeline.metrics.resampled_ap import STATISTICS, ImageMatches, ap_intervals


def coco_ap(annotations: Path, predictions: Path, *, resamples: int = 0, seed: int = 0) -> dict[str, Any]:
    """Mask AP in percent, averaged over IoU thresholds 0.50 to 0.95 and over categories.

    Args:
        annotations: a COCO instances file.
        predictions: a COCO results file, a list of {image_id, category_id, segmentation (RLE), score}.
        resamples: how many resamples of the images the intervals are taken from; 0 for none.
        seed: of the resampling.

    Returns:
        AP, AP50, AP75 and, by the objects' area (below 32^2, to 96^2, above), APs, APm, APl; NaN where there is no
        ground truth to average over. Without any prediction they are 0. With resamples also ``AP_interval`` and so
        on: [low, high], the 95% bootstrap interval over images.

    Raises:
        DatasetError: for annotations with ids that stand twice or do not resolve, or with unusable masks.
        PredictionError: for an unknown image or category, a mask of another size than its image, or a score that is
            no finite number.
    """
    return score_instances(
        lambda truth, detections: COCOeval(truth, detections, "segm"), annotations, predictions, resamples, seed
    )


def score_instances(
    evaluator: Callable[[COCO, COCO], COCOeval], annotations: Path, predictions: Path, resamples: int, seed: int
) -> dict[str, Any]:
    """The statistics of :func:`coco_ap` by an evaluator of ground truth and detections."""
    truth = read_ground_truth(annotations)
    results = read_results(predictions, truth["images"], [category["id"] for category in truth["categories"]])
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluator(_index(truth), _index({**truth, "annotations": detections(results)}))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = evaluation.stats[: len(STATISTICS)]
    # pycocotools says -1 where there is nothing to average.
    scores: dict[str, Any] = {
        n: 100 * float(v) if v >= 0 else math.nan for n, v in zip(STATISTICS, values, strict=True)
    }
    if resamples:
        matches = [
            found and ImageMatches(found["dtScores"], found["dtMatches"], found["dtIgnore"], found["gtIgnore"])
            for found in evaluation.evalImgs
        ]
        parameters = evaluation.params
        scores |= ap_intervals(matches, len(parameters.imgIds), parameters.recThrs, resamples, seed)
    return scores


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
