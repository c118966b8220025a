"""AP* against numbers worked out by hand and against the lvis package on a view made by hand."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lvis import LVIS, LVISEval, LVISResults
from made_up_instances import rle, scene
from made_up_lvis import (
    COCO_DOG,
    COCO_PERSON,
    DOG,
    EXPECTED_AP,
    PERSON,
    RESULTS,
    coco_view_file,
    lvis_file,
    result,
    square,
    v05,
)

from pipeline.data.coco import DatasetError
from pipeline.metrics.errors import PredictionError
from pipeline.metrics.lvis_ap import ap_star

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def official(truth: Path, results: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The lvis package used as its own demonstration does; NaN where it has nothing to average."""
    with monkeypatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        ground_truth = LVIS(str(truth))
        evaluation = LVISEval(ground_truth, LVISResults(ground_truth, results))
        evaluation.run()
    return {name: 100 * v if (v := evaluation.get_results()[name]) > -1 else math.nan for name in NAMES}


@pytest.mark.parametrize("version", [lvis_file, lambda: v05(lvis_file()), coco_view_file], ids=["v1", "v0.5", "view"])
def test_by_hand(write: Callable[..., tuple[Path, Path]], version: Callable[[], Any]) -> None:
    found = ap_star(*write(version(), RESULTS))
    assert tuple(found) == NAMES
    assert [found[name] for name in ("AP", "AP50", "AP75", "APs")] == pytest.approx([EXPECTED_AP] * 4)
    assert math.isnan(found["APm"])
    assert math.isnan(found["APl"])


@pytest.mark.parametrize(
    ("key", "expected"), [("neg_category_ids", (1 + 1) / 2), ("not_exhaustive_category_ids", (1 / 3 + 1 / 2) / 2)]
)
def test_lists_that_are_not_mapped_change_the_result(
    write: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch, key: str, expected: float
) -> None:
    """The error of Appendix D: LVIS's ids read as COCO's. Wrong dogs go free, or wrong persons count."""
    wrong = coco_view_file()
    for entry, raw in zip(wrong["images"], lvis_file()["images"], strict=True):
        entry[key] = raw[key]
    truth, _ = write(wrong, RESULTS)
    mistaken = official(truth, [dict(entry) for entry in RESULTS if entry["category_id"] != 58], monkeypatch)["AP"]
    assert mistaken == pytest.approx(100 * expected)
    assert abs(ap_star(*write(lvis_file(), RESULTS))["AP"] - mistaken) > 20


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_what_lvis_says(
    write: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    content, results = scene(seed)
    rng = np.random.default_rng(seed)
    lvis_of = {3: DOG, 8: PERSON}
    coco_of = {3: COCO_DOG, 8: COCO_PERSON}
    raw, view = lvis_file(), coco_view_file()
    for made, ids in ((raw, lvis_of), (view, coco_of)):
        made["images"] = [{**entry} for entry in content["images"]]
        made["annotations"] = [{**entry, "category_id": ids[entry["category_id"]]} for entry in content["annotations"]]
    for ours, theirs in zip(raw["images"], view["images"], strict=True):
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            drawn = [star_or_ring for star_or_ring in (3, 8) if rng.random() < 0.4]
            ours[key] = [lvis_of[id_] for id_ in drawn]
            theirs[key] = [coco_of[id_] for id_ in drawn]
    results = [{**entry, "category_id": coco_of[entry["category_id"]]} for entry in results]
    truth, _ = write(view, results)
    expected = official(truth, [dict(entry) for entry in results], monkeypatch)
    assert 5 < expected["AP"] < 95, "the scene must be neither trivial nor hopeless"
    assert ap_star(*write(raw, results)) == pytest.approx(expected, abs=1e-9)
    boxed = [{**entry, "bbox": [0, 0, 5, 5]} for entry in results]
    assert ap_star(*write(raw, boxed)) == pytest.approx(expected, abs=1e-9)


def test_an_image_keeps_its_best_300(write: Callable[..., tuple[Path, Path]]) -> None:
    many = [result(1, COCO_DOG, square(50), 0.9)] * 299
    last = result(1, COCO_DOG, square(10), 0.5)
    person = result(3, COCO_PERSON, square(30), 0.5)
    assert ap_star(*write(lvis_file(), [*many, last, person]))["AP"] == pytest.approx(100 * (1 / 300 + 1) / 2)
    assert ap_star(*write(lvis_file(), [*many, many[0], last, person]))["AP"] == pytest.approx(50)


def test_no_predictions(write: Callable[..., tuple[Path, Path]]) -> None:
    found = ap_star(*write(lvis_file(), []))
    assert found == pytest.approx({**dict.fromkeys(NAMES, 0.0), "APm": math.nan, "APl": math.nan}, nan_ok=True)


BAD_RESULTS = {
    "unknown image": (result(9, COCO_DOG, square(10), 0.5), "unknown image id 9"),
    "an id that COCO does not use": (result(1, 12, square(10), 0.5), "unknown category id 12"),
    "LVIS's id": (result(1, 793, square(10), 0.5), "unknown category id 793"),
    "another size": ({**RESULTS[0], "segmentation": rle(square(10).T)}, "mask: the RLE is of size"),
    "NaN": ({**RESULTS[0], "score": math.nan}, "score is nan"),
}


@pytest.mark.parametrize(("bad", "said"), BAD_RESULTS.values(), ids=BAD_RESULTS.keys())
def test_a_bad_entry_is_named_with_its_file(
    write: Callable[..., tuple[Path, Path]], bad: dict[str, Any], said: str
) -> None:
    paths = write(lvis_file(), [RESULTS[0], bad])
    with pytest.raises(PredictionError) as caught:
        ap_star(*paths)
    assert str(caught.value).startswith(f"{paths[1]}: entry 1")
    assert said in str(caught.value)


def test_ids_that_stand_twice(write: Callable[..., tuple[Path, Path]]) -> None:
    content = lvis_file()
    content["annotations"][1]["id"] = content["annotations"][0]["id"]
    with pytest.raises(DatasetError, match="annotation 11: the id occurs 2 times"):
        ap_star(*write(content, RESULTS))


def test_it_leaves_numpy_and_logging_alone(write: Callable[..., tuple[Path, Path]]) -> None:
    code = (
        "import logging, sys, numpy; from pathlib import Path; from pipeline.metrics.lvis_ap import ap_star;"
        "ap_star(Path(sys.argv[1]), Path(sys.argv[2]));"
        "assert not logging.root.handlers and logging.root.level == logging.WARNING;"
        "assert not hasattr(numpy, 'float')"
    )
    command = [sys.executable, "-W", "error::DeprecationWarning:lvis", "-c", code, *write(lvis_file(), RESULTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
