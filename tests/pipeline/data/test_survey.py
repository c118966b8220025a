"""What is in a dataset, and what looks odd in it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_labels import OWN, prepared_labels
from PIL import Image

from pipeline.config.datasets import CocoDataset, CocoSplit
from pipeline.data.coco import DatasetError
from pipeline.data.manifest import read_prepared
from pipeline.data.prepare import prepare
from pipeline.data.problems import group, remedy_of
from pipeline.data.storage import Storage
from pipeline.data.survey import Survey, survey
from pipeline.progress import progress
from pipeline.report.figures.contact_sheet import contact_sheet


@pytest.fixture
def splits(tmp_path: Path, coco_folder: Callable[..., Any]) -> dict[str, Any]:
    return {split: coco_folder(tmp_path / "raw", split) for split in ("train", "val")}


@pytest.fixture
def look(tmp_path: Path, splits: dict[str, Any]) -> Callable[[], Survey]:
    def look() -> Survey:
        for split in splits.values():
            split.write()
        dataset = CocoDataset(
            source="coco",
            root="raw",
            train=CocoSplit(annotations="annotations/instances_train.json", images="train"),
            val=CocoSplit(annotations="annotations/instances_val.json", images="val"),
        )
        prepare(dataset, str(tmp_path), tmp_path / "out", tmp_path / "known.parquet", progress("check", None))
        storage = Storage(str(tmp_path / "raw"))
        assert contact_sheet(read_prepared(tmp_path / "out"), storage).size[0] > 400
        return survey(read_prepared(tmp_path / "out"), storage)

    return look


def test_counts_of_instances(look: Callable[[], Survey]) -> None:
    found = look()
    assert found.splits["train"] == {
        "images": "3",
        "size": "20x20 to 40x30",
        "median edge": "24",
        "objects": "3",
        "per image": "0 to 2",
        "empty": "1",
        "crowds": "1",
    }
    assert found.classes["gear"] == {"train": "1", "val": "1", "small": "2", "medium": "0", "large": "0"}
    assert not found.odd


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": [[4, 5, 7, 5, 7, 8, 4, 8]], "bbox": [4, 5, 3, 3], "area": 9}, "its mask has only 9 pixels"),
        (
            {"bbox": [4, 5, 30, 8]},
            r"1 of 3 boxes do not fit their masks: annotation 21 .*: box \[4, 5, 30, 8\], its mask's \[4, 5, 10, 8\]",
        ),
        ({"area": 9.0}, "1 of 3 areas do not fit their masks: .*: area 9, its mask has 80 pixels"),
        (
            {"segmentation": [[0, 0, 40, 0, 40, 30, 0, 30]], "bbox": [0, 0, 40, 30], "area": 1200},
            "covers the whole image",
        ),
        (
            {"segmentation": [[20, 10, 32, 10, 32, 25, 20, 25]], "bbox": [20, 10, 12, 15], "area": 180},
            "annotation 22 .*: has the same mask as annotation 21",
        ),
        ({"category_id": 2}, "class 'gear': no object in the train split"),
    ],
)
def test_what_looks_odd(
    look: Callable[[], Survey], splits: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    splits["train"].find("annotations", 21).update(changes)
    (found,) = group(look().odd)
    assert found.count == 1

    assert re.search(message, found.problems[0]), found.problems
    assert found.remedy


def test_counts_of_labels(tmp_path: Path) -> None:
    prepared, storage = prepared_labels(tmp_path, OWN)
    found = survey(prepared, storage)
    assert found.splits["train"]["images"] == "3"
    assert found.classes["sand"]["train images"] == "3"
    shares = [float(of["train pixels"].removesuffix("%")) for of in found.classes.values()]
    assert sum(shares) == pytest.approx(100, abs=0.02)
    assert not found.odd
    assert contact_sheet(prepared, storage).size[0] > 400


def test_labels_that_are_all_ignored(tmp_path: Path) -> None:
    prepared, storage = prepared_labels(tmp_path, OWN)
    row = prepared.manifest("train").to_pylist()[0]
    path = Path(storage.where(row["label_file"]))
    Image.fromarray(np.zeros((row["height"], row["width"]), np.uint8)).save(path)
    assert f"image {row['file_name']}: all of its pixels are ignored" in survey(prepared, storage).odd


def test_problems_of_a_kind_are_one_group() -> None:
    problems = [f"annotation {i} (image 3): polygon 0 has {i} points, a polygon needs at least 3" for i in (1, 2)]
    other = "image 5: /data/a.png: no such file"
    first, second = group([other, *problems])
    assert (first.count, first.problems, second.count) == (2, tuple(problems), 1)
    assert first.title == "2 annotations with a polygon of fewer than 3 points"
    assert first.examples == ("annotation 1 (image 3)", "annotation 2 (image 3)")
    assert "--drop-invalid" in first.remedy
    assert (second.title, second.examples) == (other, ())
    assert "--images" in second.remedy


def test_an_error_says_its_remedies() -> None:
    error = DatasetError("a.json", ["image 5: /data/a.png: no such file"], "Get it from there.")
    assert str(error).splitlines() == [
        "a.json: image 5: /data/a.png: no such file",
        f"    -> {remedy_of('no such file')}",
        "Get it from there.",
    ]
