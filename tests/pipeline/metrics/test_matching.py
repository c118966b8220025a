"""Matching all images at once against pycocotools, on scenes full of ties and special cases."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_instances import annotation, rle
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.metrics import matching
from pipeline.metrics.average_precision import AREAS, IOU_THRESHOLDS, RECALLS, STATISTICS
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.coco_files import DataWarning, detections, read_ground_truth, read_results

SIZE = (110, 120)
CATEGORIES = [{"id": id_, "name": f"thing {id_}"} for id_ in (9, 2, 5, 4)]


def rectangle(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def grid_scene(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rectangles on a coarse grid with scores of one digit: equal IoUs, IoUs at the thresholds, equal scores.

    Objects of exactly 32^2 and 96^2 pixels and with areas unlike their masks', crowds, images and categories without
    objects or without detections, more than 100 detections of a category in an image, ids in no order.
    """
    rng = np.random.default_rng(seed)
    image_ids = [7, 3, 11, 2, 5]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def draw() -> np.ndarray:
        side = int(rng.choice([10, 20, 32, 40, 96]))
        x, y = 2 * rng.integers(0, 7, 2)
        return rectangle(x, y, side, side if rng.random() < 0.7 else int(0.8 * side))

    for image_id in image_ids[:4]:
        for _ in range(int(rng.integers(4, 14))):
            made = annotation(len(annotations) + 1, image_id, int(rng.choice([9, 2])), draw(), int(rng.random() < 0.2))
            if rng.random() < 0.2:
                made["area"] = float(rng.choice([100, 1024, 1024.5, 9216, 20000]))
            annotations.append(made)
    annotations.append(annotation(len(annotations) + 1, 3, 4, draw()))  # a category without detections
    for image_id, number in zip(image_ids[1:], (40, 260, 30, 10), strict=True):
        for _ in range(number):
            mask = draw() if rng.random() < 0.97 else np.zeros(SIZE, bool)
            category = int(rng.choice([9, 2, 5]))  # 5 has no objects
            score = float(rng.integers(0, 10)) / 10
            results.append({"image_id": image_id, "category_id": category, "segmentation": rle(mask), "score": score})
    order = rng.permutation(len(annotations))
    return {
        "images": [{"id": id_, "height": SIZE[0], "width": SIZE[1]} for id_ in image_ids],
        "annotations": [annotations[i] for i in order],
        "categories": CATEGORIES,
    }, results


def reference(annotations: Path, predictions: Path) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(annotations))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(predictions)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_pycocotools_finds(seed: int, write: Callable[..., tuple[Path, Path]]) -> None:
    content, results = grid_scene(seed)
    paths = write(content, results)
    expected = reference(*paths)
    assert 2 < 100 * expected.stats[0] < 95, "the scene must be neither trivial nor hopeless"
    content["annotations"].append(annotation(99, 3, 9, np.zeros(SIZE, bool)))  # pycocotools would count it as missed
    write(content, results)
    with pytest.warns(DataWarning, match=r"annotation 99 \(image 3\): its mask has no pixel"):
        truth = read_ground_truth(paths[0])
    found = detections(read_results(paths[1], truth["images"], [entry["id"] for entry in CATEGORIES]))
    matches = matching.match(truth, found, coco_mask.iou)

    images = len(content["images"])
    cells = range(0, len(expected.evalImgs), images)
    assert [entry.area for entry in matches] == [*AREAS] * len(CATEGORIES)
    for cell, match in zip(cells, matches, strict=True):
        of_images = expected.evalImgs[cell : cell + images]
        there = [(index, entry) for index, entry in enumerate(of_images) if entry is not None]
        objects = [0 if entry is None else int((entry["gtIgnore"] == 0).sum()) for entry in of_images]
        assert match.objects.tolist() == objects
        if not there:
            assert match.images.size == 0
            continue
        order = np.argsort(-np.concatenate([entry["dtScores"] for _, entry in there]), kind="stable")
        image = np.repeat([index for index, _ in there], [len(entry["dtScores"]) for _, entry in there])
        matched, ignored = (
            np.concatenate([entry[key] for _, entry in there], axis=1)[:, order] != 0
            for key in ("dtMatches", "dtIgnore")
        )
        np.testing.assert_array_equal(match.images, image[order])
        np.testing.assert_array_equal(match.right, matched & ~ignored)
        np.testing.assert_array_equal(match.wrong, ~matched & ~ignored)
    assert list(coco_ap(*paths).values()) == pytest.approx(100 * expected.stats[:6], abs=1e-9)


def test_the_parameters_are_pycocotools() -> None:
    parameters = COCOeval(iouType="segm").params
    np.testing.assert_array_equal(IOU_THRESHOLDS, parameters.iouThrs)
    np.testing.assert_array_equal(RECALLS, parameters.recThrs)
    assert [list(bounds) for bounds in matching.AREA_RANGES] == parameters.areaRng
    assert list(AREAS) == parameters.areaRngLbl
    assert parameters.maxDets[-1] == matching.MAX_DETECTIONS
    at = {name: IOU_THRESHOLDS[thresholds].tolist() for name, (thresholds, _) in STATISTICS.items()}
    assert at["AP50"] == pytest.approx([0.5])
    assert at["AP75"] == pytest.approx([0.75])


def test_a_better_object_that_is_ignored_is_left_for_one_that_counts(write: Callable[..., tuple[Path, Path]]) -> None:
    """The detection covers the crowd better than the object, but finds the object; the second one then is the crowd's.

    Neither is wrong, so AP50 is 100.
    """
    content = {
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1]}],
        "categories": CATEGORIES,
        "annotations": [
            annotation(1, 1, 9, rectangle(10, 10, 40, 40), iscrowd=1),
            annotation(2, 1, 9, rectangle(10, 10, 40, 30)),
        ],
    }
    found = {"image_id": 1, "category_id": 9, "segmentation": rle(rectangle(10, 10, 40, 40))}
    paths = write(content, [{**found, "score": 0.9}, {**found, "score": 0.8}])
    assert coco_ap(*paths)["AP50"] == pytest.approx(100)
    assert coco_ap(*paths)["AP75"] == pytest.approx(100)
    # 30 of 40 rows: an IoU of 0.75, which is enough for 6 of the 10 thresholds.
    assert coco_ap(*paths)["AP"] == pytest.approx(60)
