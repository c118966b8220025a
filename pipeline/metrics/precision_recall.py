"""Precision and recall over the score threshold, and the threshold with the best F1, from COCO's matching at IoU 0.5.

Shape letters: D detections, G objects, K categories.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask

from pipeline.data.coco import Category
from pipeline.metrics.average_precision import RECALLS, Matches
from pipeline.metrics.coco_files import detections, read_results
from pipeline.metrics.matching import match
from pointrend.runs import USUAL_SCORE

#: The thresholds of which the one with the best F1 is taken, and the one where no prediction is right at any of them.
SCORES = np.arange(1, 101) / 100


class PrecisionRecall(NamedTuple):
    """The detections that are right or wrong, by falling score; ignored ones, as on crowds, are left out."""

    scores: np.ndarray  # (D,)
    right: np.ndarray  # (D,) bool
    objects: int  # G, those to be found

    @property
    def recall(self) -> np.ndarray:
        """(D,) the share of the objects that is found down to each detection; NaN without objects."""
        return np.cumsum(self.right) / self.objects if self.objects else np.full(len(self.right), np.nan)

    @property
    def precision(self) -> np.ndarray:
        """(D,) the share of the detections that is right, down to each."""
        return np.cumsum(self.right) / np.arange(1, len(self.right) + 1)

    def interpolated(self) -> np.ndarray:
        """The largest precision from each of COCO's 101 recalls on, 0 where it is not reached: the curve of AP50."""
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        places = np.searchsorted(self.recall, RECALLS, side="left")
        return np.append(best, 0.0)[np.minimum(places, len(best))]

    def at(self, score: float) -> tuple[float, float, float]:
        """Precision, recall and F1 of the detections of at least a score; precision is 1 without any."""
        count = int(np.count_nonzero(self.scores >= score))
        right = int(np.count_nonzero(self.right[:count]))
        precision = right / count if count else 1.0
        return precision, right / self.objects if self.objects else float("nan"), self._f1(right, count)

    def _f1(self, right: Any, count: Any) -> Any:
        return 2 * right / np.maximum(1, count + self.objects)

    def best_score(self) -> float:
        """The score with the best F1: a multiple of 0.01, the highest of equally good ones; or ``USUAL_SCORE``."""
        count = np.searchsorted(-self.scores, -SCORES, side="right")
        right = np.append(0, np.cumsum(self.right))[count]
        f1 = self._f1(right, count)
        return float(SCORES[len(f1) - 1 - f1[::-1].argmax()]) if right.any() else USUAL_SCORE


def precision_recall(matches: Sequence[Matches]) -> PrecisionRecall:
    """The curve of categories together, at IoU 0.5, from their matches in all areas."""
    parts = [found for found in matches if found.area == "all"]
    counted = [found.right[0] | found.wrong[0] for found in parts]
    scores = np.concatenate([np.zeros(0), *(found.scores[of] for found, of in zip(parts, counted, strict=True))])
    right = np.concatenate([np.zeros(0, bool), *(f.right[0][of] for f, of in zip(parts, counted, strict=True))])
    order = np.argsort(-scores, kind="stable")
    return PrecisionRecall(scores[order], right[order], sum(int(found.objects.sum()) for found in parts))


class Curves(NamedTuple):
    """The curve of all classes together, and of each class by its name, in the order of the dataset."""

    together: PrecisionRecall
    by_class: Mapping[str, PrecisionRecall]


def read_curves(manifest: pa.Table, categories: Sequence[Category], predictions: Path) -> Curves:
    """The curves of a COCO results file.

    Args:
        manifest: the manifest of the val split.
        categories: its categories.
        predictions: the results.

    Raises:
        PredictionError: as :func:`pipeline.metrics.coco_files.read_results`.
    """
    rows = manifest.to_pylist()
    truth = {
        "images": rows,
        "categories": [{"id": category.id} for category in categories],
        "annotations": [
            {
                "image_id": row["id"],
                "category_id": annotation["category_id"],
                "area": annotation["area"],
                "iscrowd": int(annotation["iscrowd"]),
                "segmentation": {"size": [row["height"], row["width"]], "counts": annotation["counts"]},
            }
            for row in rows
            for annotation in row["annotations"]
        ],
    }
    results = read_results(predictions, rows, [category.id for category in categories])
    matches = [found for found in match(truth, detections(results), coco_mask.iou) if found.area == "all"]
    by_id = {
        id_: precision_recall([found])
        for id_, found in zip(sorted(category.id for category in categories), matches, strict=True)
    }
    return Curves(precision_recall(matches), {category.name: by_id[category.id] for category in categories})
