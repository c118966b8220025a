import contextlib
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_instances import annotation, perfect, rle, scene, truth
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.data.coco import DatasetError
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.errors import PredictionError

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
MISSING = object()


@pytest.fixture
def score(tmp_path: Path) -> Callable[[Any, Any], dict[str, float]]:
    def score(content: Any, results: Any) -> dict[str, float]:
        (tmp_path / "truth.json").write_text(json.dumps(content))
        (tmp_path / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
        return coco_ap(tmp_path / "truth.json", tmp_path / "results.json")

    return score


@pytest.fixture(scope="module")
def random_scene() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return scene(0)


def official(content: dict[str, Any], results: list[dict[str, Any]], folder: Path) -> list[float]:
    """The six numbers of pycocotools used as its own demonstration does."""
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(folder / "results.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * float(value) for value in evaluation.stats[:6]]


def test_it_is_what_pycocotools_says(
    random_scene: tuple[Any, Any], score: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    content, results = random_scene
    expected = official(content, results, tmp_path)
    assert all(5 < value < 95 for value in expected), "the scene must be neither trivial nor hopeless"
    found = score(content, results)
    assert tuple(found) == NAMES
    assert list(found.values()) == pytest.approx(expected, abs=1e-9)


def test_boxes_beside_the_masks_change_nothing(
    random_scene: tuple[Any, Any], score: Callable[..., dict[str, float]]
) -> None:
    # pycocotools takes an area from `bbox` where there is one: mask AP by size would be by the boxes' size.
    # Detectron2 removes the boxes for that reason.
    content, results = random_scene
    boxed = [{**result, "bbox": coco_mask.toBbox(result["segmentation"]).tolist()} for result in results]
    assert score(content, boxed) == score(content, results)


def test_boxes_beside_some_of_the_masks(random_scene: tuple[Any, Any], score: Callable[..., dict[str, float]]) -> None:
    content, results = random_scene
    boxed = [{**results[0], "bbox": [0, 0, 5, 5]}, *results[1:]]
    assert score(content, boxed) == score(content, results)


def test_it_says_nothing(
    random_scene: tuple[Any, Any], score: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    score(*random_scene)
    assert capsys.readouterr().out == ""


def test_perfect_predictions(random_scene: tuple[Any, Any], score: Callable[..., dict[str, float]]) -> None:
    content, _ = random_scene
    assert score(content, perfect(content)) == dict.fromkeys(NAMES, pytest.approx(100))


def test_no_predictions(random_scene: tuple[Any, Any], score: Callable[..., dict[str, float]]) -> None:
    content, _ = random_scene
    assert score(content, []) == dict.fromkeys(NAMES, 0.0)


def test_sizes_without_objects_are_not_a_number(score: Callable[..., dict[str, float]]) -> None:
    # Squares of 40x40 = 1600 pixels: between 32^2 and 96^2.
    mask = np.zeros((100, 100), bool)
    mask[10:50, 20:60] = True
    content = truth([annotation(1, 1, 3, mask)], {1: (100, 100)})
    for results, expected in ((perfect(content), 100.0), ([], 0.0)):
        found = score(content, results)
        assert [found[name] for name in ("AP", "AP50", "AP75", "APm")] == pytest.approx([expected] * 4)
        assert math.isnan(found["APs"])
        assert math.isnan(found["APl"])


def test_ap_by_hand(score: Callable[..., dict[str, float]]) -> None:
    """One object found with an IoU of 0.72: right at the thresholds 0.50, 0.55, 0.60, 0.65 and 0.70 only."""
    mask, part = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
    mask[5:55, 5:55] = True
    part[5:41, 5:55] = True  # 36 of 50 rows
    content = truth([annotation(1, 1, 3, mask)], {1: (60, 60)})
    result = {"image_id": 1, "category_id": 3, "segmentation": rle(part), "score": 0.5}
    found = score(content, [result])
    assert (found["AP"], found["AP50"], found["AP75"]) == pytest.approx((50, 100, 0))


# What cannot be scored

SQUARE = np.zeros((30, 40), bool)
SQUARE[5:20, 5:20] = True
CONTENT = truth([annotation(1, 1, 3, SQUARE)], {1: (30, 40)})
GOOD = {"image_id": 1, "category_id": 3, "segmentation": rle(SQUARE), "score": 0.5}

BAD_ENTRIES = {
    "unknown image": ({"image_id": 7}, "unknown image id 7"),
    "image id as text": ({"image_id": "1"}, "unknown image id"),
    "image id as a list": ({"image_id": [1]}, "image id"),
    "no image": ({"image_id": MISSING}, "image id"),
    "unknown category": ({"category_id": 4}, "unknown category id 4"),
    "category id as a list": ({"category_id": [3]}, "category id"),
    "no category": ({"category_id": MISSING}, "category id"),
    "transposed mask": ({"segmentation": rle(SQUARE.T)}, "size"),
    "no mask": ({"segmentation": MISSING}, "mask"),
    "null mask": ({"segmentation": None}, "mask"),
    "polygons": ({"segmentation": [[0, 0, 5, 0, 5, 5]]}, "mask"),
    "no counts": ({"segmentation": {"size": [30, 40]}}, "mask"),
    "null counts": ({"segmentation": {"size": [30, 40], "counts": None}}, "mask"),
    "counts of another mask": ({"segmentation": {"size": [30, 40], "counts": rle(np.ones((9, 9)))["counts"]}}, "mask"),
    "counts that are no RLE": ({"segmentation": {"size": [30, 40], "counts": "hello world"}}, "mask"),
    "NaN score": ({"score": math.nan}, "score is nan"),
    "infinite score": ({"score": math.inf}, "score is inf"),
    "score as text": ({"score": "0.5"}, "score"),
    "score as a truth value": ({"score": True}, "score is True"),
    "score beyond floats": ({"score": 10**400}, "score is 1000"),
    "image id as a truth value": ({"image_id": True}, "unknown image id"),
    "null score": ({"score": None}, "score is None"),
    "no score": ({"score": MISSING}, "score is None"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_a_bad_entry_is_named_with_its_file(
    score: Callable[..., Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    bad = {key: value for key, value in {**GOOD, **change}.items() if value is not MISSING}
    with pytest.raises(PredictionError) as caught:
        score(CONTENT, [GOOD, GOOD, bad])
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'results.json'}: entry 2")
    assert said in message


@pytest.mark.parametrize("entry", [None, 5, "text", [GOOD], [], True])
def test_an_entry_that_is_no_object(score: Callable[..., Any], tmp_path: Path, entry: Any) -> None:
    with pytest.raises(PredictionError, match=re.escape(f"{tmp_path / 'results.json'}: entry 1")):
        score(CONTENT, [GOOD, entry])


@pytest.mark.parametrize("results", [GOOD, {}, None, 5, "text"], ids=["a result", "an object", "null", "5", "a text"])
def test_a_file_that_is_no_list(score: Callable[..., Any], tmp_path: Path, results: Any) -> None:
    with pytest.raises(PredictionError, match=re.escape(str(tmp_path / "results.json")) + ".*list"):
        score(CONTENT, json.dumps(results))


@pytest.mark.parametrize("text", [json.dumps([GOOD])[:-20], "[", ""])
def test_truncated_predictions(score: Callable[..., Any], tmp_path: Path, text: str) -> None:
    with pytest.raises(PredictionError, match=re.escape(str(tmp_path / "results.json"))):
        score(CONTENT, text)


def test_predictions_that_are_no_text(score: Callable[..., Any], tmp_path: Path) -> None:
    score(CONTENT, [GOOD])
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(PredictionError, match=re.escape(str(tmp_path / "results.json"))):
        coco_ap(tmp_path / "truth.json", tmp_path / "results.json")


def test_missing_predictions(score: Callable[..., Any], tmp_path: Path) -> None:
    score(CONTENT, [GOOD])
    with pytest.raises(PredictionError, match=r"elsewhere\.json"):
        coco_ap(tmp_path / "truth.json", tmp_path / "elsewhere.json")


def test_the_first_bad_mask_of_many_is_named(score: Callable[..., Any]) -> None:
    # Masks are checked in bulk.
    short = {**GOOD, "segmentation": {"size": [30, 40], "counts": GOOD["segmentation"]["counts"][:-1]}}
    with pytest.raises(PredictionError, match=r"entry 7 \(image 1\): mask: "):
        score(CONTENT, [GOOD] * 7 + [short, GOOD, short])


def test_runs_as_numbers_are_masks_too(score: Callable[..., dict[str, float]]) -> None:
    runs = {"size": [30, 40], "counts": [5 * 30 + 5, *([15, 15] * 14), 15, 1200 - (5 * 30 + 5) - 15 * 29]}
    assert score(CONTENT, [{**GOOD, "segmentation": runs}]) == pytest.approx(score(CONTENT, [GOOD]), nan_ok=True)


# Ground truth that cannot be scored against

BAD_TRUTH = {
    "an id twice": (lambda c: c["annotations"].append(c["annotations"][0]), "annotation 1: the id occurs 2 times"),
    "an image twice": (lambda c: c["images"].append(c["images"][0]), "image 1: the id occurs 2 times"),
    "no such image": (
        lambda c: c["annotations"][0].update(image_id=5),
        "annotation 1 (image 5): there is no such image",
    ),
    "no such category": (lambda c: c["annotations"][0].update(category_id=5), "unknown category id 5"),
    "another size": (
        lambda c: c["annotations"][0].update(segmentation=rle(SQUARE.T)),
        "annotation 1 (image 1): the RLE",
    ),
    "no mask": (lambda c: c["annotations"][0].pop("segmentation"), "all 1 annotations have boxes but no masks"),
    "an area that is no number": (lambda c: c["annotations"][0].update(area="large"), "area is 'large'"),
    "no images": (lambda c: (c["images"].clear(), c["annotations"].clear()), "no images"),
    "no annotations": (lambda c: c.pop("annotations"), "no list 'annotations'"),
}


@pytest.mark.parametrize(("change", "said"), BAD_TRUTH.values(), ids=BAD_TRUTH.keys())
def test_bad_ground_truth_is_one_error(
    score: Callable[..., Any], tmp_path: Path, change: Callable[[Any], Any], said: str
) -> None:
    content = json.loads(json.dumps(CONTENT))
    change(content)
    with pytest.raises(DatasetError) as caught:
        score(content, [GOOD])
    assert str(caught.value).startswith(f"{tmp_path / 'truth.json'}: ")
    assert said in str(caught.value)


def test_missing_ground_truth(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.json"):
        coco_ap(tmp_path / "nowhere.json", tmp_path / "results.json")


def test_an_object_of_id_0_can_be_found(score: Callable[..., dict[str, float]]) -> None:
    # pycocotools alone takes its id for "no object matched".
    content = truth([{**annotation(1, 1, 3, SQUARE), "id": 0}], {1: (30, 40)})
    assert score(content, [GOOD])["AP"] == pytest.approx(100)


def test_area_and_crowd_need_not_be_given(score: Callable[..., dict[str, float]]) -> None:
    bare = {key: value for key, value in annotation(1, 1, 3, SQUARE).items() if key not in ("area", "iscrowd", "bbox")}
    assert score(truth([bare], {1: (30, 40)}), [GOOD]) == pytest.approx(score(CONTENT, [GOOD]), nan_ok=True)


def test_a_polygon_without_area_beside_others_changes_nothing(score: Callable[..., dict[str, float]]) -> None:
    def content(polygons: list[list[int]]) -> dict[str, Any]:
        return truth([{**annotation(1, 1, 3, SQUARE), "segmentation": polygons}], {1: (30, 40)})

    polygon = [5, 5, 20, 5, 20, 20, 5, 20]
    found = score(content([[1, 1, 9, 9], polygon]), [GOOD])
    assert found == pytest.approx(score(content([polygon]), [GOOD]), nan_ok=True)
