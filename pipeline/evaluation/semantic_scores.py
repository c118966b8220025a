"""Scores the label PNGs of one setting: mIoU and trimap mIoU."""

import math
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.labels import LabelTable
from pipeline.evaluation.scores import Scores
from pipeline.metrics.bootstrap import RESAMPLES
from pipeline.metrics.segmentation_iou import miou


def score_labels(
    truth: Path, predictions: Path, table: LabelTable, trimap_widths: Sequence[int], resamples: int = 0
) -> Scores:
    """Scores a folder of label PNGs, in percent.

    Undefined values are left out, such as the IoU of a class that is neither in the ground truth nor predicted.

    Args:
        truth: the folder of ground truth.
        predictions: the folder of predictions.
        table: the label ids of both.
        trimap_widths: the widths in pixels for trimap mIoU.
        resamples: how many bootstrap resamples of the images to score as well.

    Returns:
        the mean IoUs, also on the resamples, and for each of them the IoU of every class.
    """
    found = miou(truth, predictions, table=table, trimap_widths=trimap_widths, resamples=resamples)
    means = {key: value for key, value in found.items() if key.endswith("mIoU") and not math.isnan(value)}
    classes = {
        key: {name: round(value, 4) for name, value in by_class.items() if not math.isnan(value)}
        for key, by_class in found.items()
        if key.endswith("IoU") and isinstance(by_class, dict)
    }
    return Scores(means, classes, {key: found[f"{key}{RESAMPLES}"].tolist() for key in means if resamples})
