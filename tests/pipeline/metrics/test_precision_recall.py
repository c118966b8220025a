"""Precision and recall: against a case worked by hand, pycocotools, scikit-learn, and every other threshold."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import made_up_instances
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score, precision_recall_curve

from pipeline.data.coco import Category
from pipeline.data.manifest import INSTANCE_SCHEMA
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.precision_recall import SCORES, USUAL_SCORE, Curves, PrecisionRecall, read_curves


def curve(scores: list[float], right: list[int], objects: int) -> PrecisionRecall:
    return PrecisionRecall(np.array(scores), np.array(right, bool), objects)


def test_a_case_worked_by_hand() -> None:
    found = curve([0.9, 0.8, 0.8, 0.4], [1, 0, 1, 0], 4)
    assert found.precision.tolist() == [1, 1 / 2, 2 / 3, 1 / 2]
    assert found.recall.tolist() == [1 / 4, 1 / 4, 1 / 2, 1 / 2]
    assert found.at(0.8) == (2 / 3, 1 / 2, 4 / 7)
    assert found.at(0.95) == (1.0, 0.0, 0.0)
    # F1 of 1, 3 and 4 predictions: 2/5, 4/7 and 4/8. The highest threshold with the same predictions is taken.
    assert found.best_score() == 0.8
    assert found.interpolated()[[0, 25, 26, 50, 51]].tolist() == [1, 1, 2 / 3, 2 / 3, 0]


def test_without_a_right_prediction_the_threshold_is_the_usual_one() -> None:
    assert curve([], [], 3).best_score() == USUAL_SCORE
    assert curve([0.9, 0.009], [0, 1], 3).best_score() == USUAL_SCORE


ranked = st.lists(st.tuples(st.integers(1, 100), st.booleans()), max_size=30)


@given(ranked=ranked, missed=st.integers(0, 5))
def test_no_threshold_is_better(ranked: list[tuple[int, bool]], missed: int) -> None:
    ranked.sort(key=lambda pair: -pair[0])
    found = curve([n / 100 for n, _ in ranked], [int(r) for _, r in ranked], sum(r for _, r in ranked) + missed)
    best = found.at(found.best_score())[2]
    assert all(found.at(float(score))[2] <= best for score in SCORES)


def test_the_points_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    right = random.random(40) < 0.5
    scores = np.sort(random.permutation(1000)[:40] / 1000)[::-1]
    # Nothing is missed, as scikit-learn knows of no objects without a prediction.
    found = PrecisionRecall(scores, right, int(right.sum()))
    precision, recall, thresholds = precision_recall_curve(right, scores)
    assert found.precision[::-1] == pytest.approx(precision[:-1])
    assert found.recall[::-1] == pytest.approx(recall[:-1])
    assert found.scores[::-1] == pytest.approx(thresholds)
    steps = np.diff(found.recall, prepend=0) * found.precision
    assert steps.sum() == pytest.approx(average_precision_score(right, scores))


def manifest(content: dict[str, Any]) -> pa.Table:
    rows = [
        {
            "id": image["id"],
            "file_name": f"{image['id']}.png",
            "height": image["height"],
            "width": image["width"],
            "annotations": [
                {key: a[key] for key in ("id", "category_id", "bbox", "area")}
                | {"iscrowd": bool(a["iscrowd"]), "counts": a["segmentation"]["counts"]}
                for a in content["annotations"]
                if a["image_id"] == image["id"]
            ],
        }
        for image in content["images"]
    ]
    return pa.Table.from_pylist(rows, schema=INSTANCE_SCHEMA)


def pycocotools_curves(truth: Path, found: Path) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(truth))
        evaluation = COCOeval(data, data.loadRes(str(found)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize("seed", range(3))
def test_points_of_predictions_are_those_of_scikit_learn(seed: int, tmp_path: Path) -> None:
    """Of each class, with right and wrong detections as pycocotools matches them."""
    content, predictions = made_up_instances.scene(seed)
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps(predictions))
    categories = [Category(entry["id"], entry["name"]) for entry in content["categories"]]
    curves = read_curves(manifest(content), categories, found)
    cells = [cell for cell in pycocotools_curves(truth, found).evalImgs if cell and cell["aRng"] == [0, 1e10]]
    for category in categories:
        own = [cell for cell in cells if cell["category_id"] == category.id]
        counts = ~np.concatenate([cell["dtIgnore"][0] for cell in own]).astype(bool)
        right = np.concatenate([cell["dtMatches"][0] for cell in own])[counts] > 0
        scores = np.concatenate([cell["dtScores"] for cell in own])[counts]
        objects = sum(int(np.sum(np.asarray(cell["gtIgnore"]) == 0)) for cell in own)
        assert 0 < right.sum() < min(objects, len(right)), "some are found, some missed, some invented"
        precision, recall, thresholds = precision_recall_curve(right, scores)
        curve = curves.by_class[category.name]
        assert curve.objects == objects
        for score, its_precision, its_recall in zip(thresholds, precision, recall, strict=False):
            # scikit-learn knows of no objects that are missed at every threshold: its recall is of those found.
            expected = (its_precision, its_recall * right.sum() / objects)
            assert curve.at(float(score))[:2] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_curves_by_class_are_those_of_pycocotools(seed: int, tmp_path: Path) -> None:
    content, predictions = made_up_instances.scene(seed)
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps(predictions))
    categories = [Category(entry["id"], entry["name"]) for entry in content["categories"]]
    curves: Curves = read_curves(manifest(content), categories, found)
    expected = pycocotools_curves(truth, found)
    order = sorted(category.id for category in categories)
    compared = 0
    for category in categories:
        column = expected.eval["precision"][0, :, order.index(category.id), 0, -1]
        if (column > -1).all():
            assert curves.by_class[category.name].interpolated() == pytest.approx(column, abs=1e-12)
            compared += 1
    assert compared
    scores = coco_ap(truth, found, by_class=True, best_f1=True)
    for category in categories:
        column = expected.eval["precision"][:, :, order.index(category.id), 0, -1]
        if (column > -1).all():
            assert scores["AP_by_class"][category.name] == pytest.approx(100 * column.mean())
    assert scores["F1_score"] == curves.together.best_score()
    assert scores["F1"] == pytest.approx(100 * curves.together.at(scores["F1_score"])[2])
