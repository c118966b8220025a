"""The scores of one setting's label PNGs: mIoU and trimap mIoU."""

import math
from pathlib import Path
from typing import Any

from pipeline.config.labels import LabelTable
from pipeline.metrics.segmentation_iou import miou

TRIMAP_WIDTHS = (8, 20)  # pixels (Table 8)


def score_labels(truth: Path, predictions: Path, table: LabelTable) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics of a folder of label PNGs, and for each of them the IoU of every class.

    What is not defined is left out: a class that is neither there nor predicted, say.
    """
    found = miou(truth, predictions, table=table, trimap_widths=TRIMAP_WIDTHS)
    means = {key: value for key, value in found.items() if key.endswith("mIoU") and not math.isnan(value)}
    classes = {
        key: {name: round(value, 4) for name, value in by_class.items() if not math.isnan(value)}
        for key, by_class in found.items()
        if isinstance(by_class, dict)
    }
    return means, classes
