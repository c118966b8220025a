"""COCO mask AP by pycocotools, from files alone."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.data.coco import encode_segmentation
from pipeline.metrics.errors import PredictionError

#: pycocotools' first six statistics, in its order.
STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def coco_ap(annotations: Path, predictions: Path) -> dict[str, float]:
    """Mask AP in percent, averaged over IoU thresholds 0.50 to 0.95 and over categories.

    Args:
        annotations: a COCO instances file.
        predictions: a COCO results file, a list of {image_id, category_id, segmentation (RLE), score}.

    Returns:
        AP, AP50, AP75 and, by the objects' area (below 32^2, to 96^2, above), APs, APm, APl; NaN where there is no
        ground truth to average over. Without any prediction they are 0.

    Raises:
        PredictionError: for an unknown image or category, a mask of another size than its image, or a score that is
            no finite number.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    try:
        results = json.loads(predictions.read_bytes())
    except (OSError, ValueError) as error:
        raise PredictionError(f"{predictions}: not a readable COCO results file ({error})") from error
    _check(results, truth, predictions)
    # pycocotools would take the areas from the boxes.
    results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), "segm")
        if not results:
            evaluation.cocoDt.dataset = {"images": [], "annotations": [], "categories": []}
            evaluation.cocoDt.createIndex()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = evaluation.stats[: len(STATISTICS)]
    # pycocotools says -1 where there is nothing to average.
    return {name: 100 * float(v) if v >= 0 else math.nan for name, v in zip(STATISTICS, values, strict=True)}


def _check(results: Any, truth: COCO, path: Path) -> None:
    if not isinstance(results, list):
        raise PredictionError(f"{path}: expected a list of results")
    categories = set(truth.getCatIds())
    for index, result in enumerate(results):
        where = f"{path}: entry {index}"
        if not isinstance(result, dict):
            raise PredictionError(f"{where}: {result!r} is no result")
        image_id = result.get("image_id")
        image = truth.imgs.get(image_id) if isinstance(image_id, int) else None
        if image is None:
            raise PredictionError(f"{where}: unknown image id {result.get('image_id')}")
        if not isinstance(result.get("category_id"), int) or result["category_id"] not in categories:
            raise PredictionError(f"{where} (image {image['id']}): unknown category id {result.get('category_id')}")
        if not isinstance(result.get("score"), int | float) or not math.isfinite(result["score"]):
            raise PredictionError(f"{where} (image {image['id']}): score is {result.get('score')}, not a finite number")
        try:
            encode_segmentation(result.get("segmentation"), image["height"], image["width"], polygons=False)
        except ValueError as error:
            raise PredictionError(f"{where} (image {image['id']}): mask: {error}") from error
