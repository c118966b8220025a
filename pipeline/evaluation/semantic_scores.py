"""The scores of one setting's label PNGs: mIoU and trimap mIoU."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.labels import LabelTable
from pipeline.metrics.segmentation_iou import miou


def score_labels(
    truth: Path, predictions: Path, table: LabelTable, trimap_widths: Sequence[int]
) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics of a folder of label PNGs, and for each of them the IoU of every class.

    Undefined values are left out, such as the IoU of a class that is neither in the truth nor predicted.

    Args:
        truth: the folder of ground truth.
        predictions: the folder.
        table: of the label ids of both.
        trimap_widths: of trimap mIoU, in pixels.
    """
    found = miou(truth, predictions, table=table, trimap_widths=trimap_widths)
    means = {key: value for key, value in found.items() if key.endswith("mIoU") and not math.isnan(value)}
    classes = {
        key: {name: round(value, 4) for name, value in by_class.items() if not math.isnan(value)}
        for key, by_class in found.items()
        if isinstance(by_class, dict)
    }
    return means, classes
