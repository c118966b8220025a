"""Scores the label PNGs of one setting: mIoU and trimap mIoU."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.labels import LabelTable
from pipeline.metrics.segmentation_iou import miou


def score_labels(
    truth: Path, predictions: Path, table: LabelTable, trimap_widths: Sequence[int]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores a folder of label PNGs, in percent.

    Undefined values are left out, such as the IoU of a class that is neither in the ground truth nor predicted.

    Args:
        truth: the folder of ground truth.
        predictions: the folder of predictions.
        table: the label ids of both.
        trimap_widths: the widths in pixels for trimap mIoU.

    Returns:
        the mean IoUs, and for each of them the IoU of every class.
    """
    found = miou(truth, predictions, table=table, trimap_widths=trimap_widths)
    means = {key: value for key, value in found.items() if key.endswith("mIoU") and not math.isnan(value)}
    classes = {
        key: {name: round(value, 4) for name, value in by_class.items() if not math.isnan(value)}
        for key, by_class in found.items()
        if isinstance(by_class, dict)
    }
    return means, classes
