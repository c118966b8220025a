"""Scores of one setting's predictions."""

import math
from pathlib import Path

from pipeline.metrics.coco_ap import coco_ap


def score_predictions(annotations: Path, predictions: Path) -> dict[str, float]:
    """The metrics of a COCO results file against the val split's COCO file.

    JSON and MLflow have numbers only: what is not defined (no small objects, say) is left out.
    """
    return {key: value for key, value in coco_ap(annotations, predictions).items() if not math.isnan(value)}
