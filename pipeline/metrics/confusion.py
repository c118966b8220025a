"""Confusion matrices: of instances, matched whatever their classes are, and of the pixels of semantic labels.

Shape letters: K classes, D predictions, G objects, H W rows and columns of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask

from pipeline.config.labels import LabelTable
from pipeline.data.coco import Category
from pipeline.metrics.coco_files import read_results
from pipeline.metrics.segmentation_iou import confusion_counts, map_label_pairs

#: Least mask IoU of a prediction and the object that it is matched with.
MATCHING_IOU = 0.5
#: In place of the index of an object: the prediction is on background, or on a crowd and does not count.
BACKGROUND, IGNORED = -1, -2


@dataclass(frozen=True)
class Confusion:
    """What was predicted for the objects, or the pixels, of each class of the val split.

    Attributes:
        unit: what is counted.
        classes: the classes' names, (K,).
        counts: (K + 1, K + 1) int64. Rows are true classes, the last one is background: predictions that match no
            object. Columns are predicted classes, the last one is what was missed. Of pixels, the last row is 0, and
            the last column counts those that were predicted as an ignored id.
        images: how many images the val split has.
        score: the least score of the predictions that count; None for pixels.
        ignored: (K,) int64, predictions above that score that match a crowd and so are not in ``counts``.
    """

    unit: Literal["objects", "pixels"]
    classes: tuple[str, ...]
    counts: np.ndarray
    images: int
    score: float | None
    ignored: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """How many objects or pixels each class has, (K,)."""
        return self.counts[:-1].sum(1)

    @property
    def right(self) -> int:
        """How many objects or pixels have a prediction of their class."""
        return int(np.trace(self.counts[:-1, :-1]))

    @property
    def predictions(self) -> int:
        """How many predictions count."""
        return int(self.counts[:, :-1].sum())

    @property
    def f1(self) -> float:
        """Twice the right predictions over the predictions and the objects, of all classes together; 0 without any."""
        return 2 * self.right / max(1, self.predictions + int(self.truth.sum()))


def match_objects(
    ious: np.ndarray, scores: np.ndarray, predicted: np.ndarray, classes: np.ndarray, crowd: np.ndarray
) -> np.ndarray:
    """Matches the predictions of one image with its objects, whatever their classes are.

    In order of falling score, each prediction takes the free object of largest IoU; among equal ones, one of its own
    class. A prediction without an object is ignored if it lies on a crowd of its class, as in COCO's AP.

    Args:
        ious: (D, G) of the masks; of a crowd, the share of the prediction that lies on it.
        scores: (D,).
        predicted: (D,) the classes of the predictions.
        classes: (G,) the classes of the objects.
        crowd: (G,) bool.

    Returns:
        (D,) the index of each prediction's object, or :data:`BACKGROUND` or :data:`IGNORED`.
    """
    found = np.full(len(scores), BACKGROUND)
    free = ~crowd
    for index in np.argsort(-scores, kind="stable"):
        near = ious[index] >= MATCHING_IOU
        own_class = classes == predicted[index]
        if (candidates := np.flatnonzero(near & free)).size:
            order = np.lexsort((own_class[candidates], ious[index, candidates]))
            found[index] = candidates[order[-1]]
            free[found[index]] = False
        elif (near & crowd & own_class).any():
            found[index] = IGNORED
    return found


class _Predictions(NamedTuple):
    """The predictions of all images."""

    scores: np.ndarray  # (D,)
    predicted: np.ndarray  # (D,) from 0 to K - 1
    truth: np.ndarray  # (D,) the class of the matched object, K on background, IGNORED on a crowd


def instance_confusion(
    manifest: pa.Table, categories: Sequence[Category], predictions: Path, score: float
) -> Confusion:
    """The confusion matrix of the predictions of at least a score in a COCO results file.

    Args:
        manifest: the manifest of the val split.
        categories: its categories.
        predictions: the results.
        score: the least one that counts, such as :meth:`pipeline.metrics.precision_recall.PrecisionRecall.best_score`.

    Raises:
        PredictionError: as :func:`pipeline.metrics.coco_files.read_results`.
    """
    rows = manifest.to_pylist()
    numbers = {category.id: number for number, category in enumerate(categories)}
    by_image: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in rows}
    for result in read_results(predictions, rows, numbers):
        by_image[result["image_id"]].append(result)
    truth = np.zeros(len(numbers), np.int64)
    matched = [_Predictions(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for row in rows:
        annotations, results = row["annotations"], by_image[row["id"]]
        classes = np.array([numbers[annotation["category_id"]] for annotation in annotations], np.int64)
        crowd = np.array([annotation["iscrowd"] for annotation in annotations], bool)
        truth += np.bincount(classes[~crowd], minlength=len(numbers))
        masks = [{"size": [row["height"], row["width"]], "counts": a["counts"]} for a in annotations]
        ious = np.zeros((len(results), len(masks)))
        if results and masks:
            ious = np.asarray(coco_mask.iou([result["segmentation"] for result in results], masks, crowd.tolist()))
        scores = np.array([result["score"] for result in results], np.float64)
        predicted = np.array([numbers[result["category_id"]] for result in results], np.int64)
        objects = match_objects(ious, scores, predicted, classes, crowd)
        # The last two stand for IGNORED and BACKGROUND, which are -2 and -1.
        matched.append(_Predictions(scores, predicted, np.append(classes, [IGNORED, len(numbers)])[objects]))
    every = _Predictions(*map(np.concatenate, zip(*matched, strict=True)))
    return _confusion(every, truth, score, tuple(c.name for c in categories), len(rows))


def _confusion(
    found: _Predictions, truth: np.ndarray, score: float, classes: tuple[str, ...], images: int
) -> Confusion:
    kinds = len(truth)
    above, ignored = found.scores >= score, found.truth == IGNORED
    cells = found.truth * (kinds + 1) + found.predicted
    counts = np.bincount(cells[above & ~ignored], minlength=(kinds + 1) ** 2).reshape(kinds + 1, kinds + 1)
    counts[:-1, -1] = truth - counts[:-1, :-1].sum(1)
    return Confusion(
        "objects", classes, counts, images, score, np.bincount(found.predicted[above & ignored], minlength=kinds)
    )


def pixel_confusion(truth: Path, predictions: Path, table: LabelTable) -> Confusion:
    """The confusion matrix of a folder of label PNGs: of the pixels whose ground truth is not ignored.

    Args:
        truth: the folder of ground truth.
        predictions: the folder of predictions.
        table: the label ids of both.

    Raises:
        GroundTruthError, PredictionError: as :func:`pipeline.metrics.segmentation_iou.miou`.
    """
    kinds = len(table.names)
    found = map_label_pairs(truth, predictions, table, partial(confusion_counts, classes=kinds))
    counts = np.pad(sum(found, np.zeros((kinds, kinds + 1), np.int64)), ((0, 1), (0, 0)))
    return Confusion("pixels", table.names, counts, len(found), None, np.zeros(kinds, np.int64))
