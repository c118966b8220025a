"""Finer annotations of the val images: what `prepare` makes of them, and refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.datasets import CocoDataset, CocoSplit, HeldOut
from pipeline.data.coco import DatasetError
from pipeline.data.manifest import PreparedDataset, read_prepared
from pipeline.data.prepare import prepare
from pipeline.progress import progress
from pipeline.training.record import data_digest

LAYOUT = CocoDataset(
    source="coco",
    root="raw",
    train=CocoSplit(annotations="annotations/instances_train.json", images="train"),
    val=CocoSplit(annotations="annotations/instances_val.json", images="val"),
    finer_val="finer.json",
)


def octagon(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """A polygon of eight points in a box: its corners are cut by a quarter of each side."""
    a, b = width / 4, height / 4
    points = [(x + a, y), (x + width - a, y), (x + width, y + b), (x + width, y + height - b)]
    points += [(x + width - a, y + height), (x + a, y + height), (x, y + height - b), (x, y + b)]
    return [[value for point in points for value in point]]


@pytest.fixture
def splits(tmp_path: Path, coco_folder: Callable[..., Any]) -> dict[str, Any]:
    return {split: coco_folder(tmp_path / "raw", split) for split in ("train", "val")}


@pytest.fixture
def finer(splits: dict[str, Any]) -> dict[str, Any]:
    """The val images as another tool exports them: with ids of its own, and octagons."""
    ids = {7: 70, 3: 30, 12: 120}
    val = splits["val"].data
    return {
        "images": [{**image, "id": ids[image["id"]]} for image in val["images"]],
        "annotations": [
            {
                "id": 1 + number,
                "image_id": ids[raw["image_id"]],
                "category_id": raw["category_id"],
                "iscrowd": raw["iscrowd"],
                "segmentation": octagon(*raw["bbox"]),
            }
            for number, raw in enumerate(val["annotations"])
        ],
        "categories": [dict(category) for category in val["categories"][::-1]],
    }


@pytest.fixture
def run(tmp_path: Path, splits: dict[str, Any], finer: dict[str, Any]) -> Callable[..., PreparedDataset]:
    """Writes the annotations and prepares them."""

    def run(layout: CocoDataset = LAYOUT) -> PreparedDataset:
        for split in splits.values():
            split.write()
        (tmp_path / "raw" / "finer.json").write_text(json.dumps(finer))
        output = tmp_path / "prepared"
        prepare(layout, str(tmp_path), output, tmp_path / "known.parquet", progress("check", None))
        return read_prepared(output)

    return run


def test_the_truth_has_the_ids_of_the_val_split(run: Callable[..., PreparedDataset]) -> None:
    prepared = run()
    truth = json.loads((prepared.truth / "finer.json").read_text())
    own = json.loads((prepared.truth / "instances.json").read_text())
    assert truth["images"] == own["images"]
    assert truth["categories"] == own["categories"]
    placed = [(a["image_id"], a["category_id"], a["iscrowd"]) for a in truth["annotations"]]
    assert placed == [(7, 9, 0), (7, 2, 0), (7, 5, 1), (3, 5, 0)]
    # Without the corners of the boxes: 12 x 15 pixels are 180, two triangles of 3 x 3.75 at each side about 22 less.
    (bolt,) = [a for a in truth["annotations"] if a["category_id"] == 2]
    assert 150 <= bolt["area"] <= 165


def test_what_is_said_of_both_annotations(run: Callable[..., PreparedDataset]) -> None:
    found = run().val_annotations
    # Three rectangles; their edges from 10 pixels on are 20 of 36, all 54 and 60 of 78.
    assert found["outlines"] == {"objects": 3, "others": 0, "points": 4, "straight": pytest.approx(134 / 168)}
    assert found["finer_val"]["file"] == "finer.json"
    assert found["finer_val"]["outlines"]["points"] == 8
    assert not found["finer_val"]["dropped_annotations"]


def test_without_finer_annotations(run: Callable[..., PreparedDataset]) -> None:
    prepared = run(LAYOUT.model_copy(update={"finer_val": None}))
    assert list(prepared.val_annotations) == ["outlines"]
    assert not (prepared.truth / "finer.json").exists()


def test_training_does_not_depend_on_them(
    run: Callable[..., PreparedDataset], finer: dict[str, Any], contents: Callable[[Path], dict[str, bytes]]
) -> None:
    prepared = run()
    before, digest = contents(prepared.folder), data_digest(prepared.folder)
    finer["annotations"][0]["segmentation"] = octagon(5, 5, 8, 8)
    finer["annotations"].append(
        {**finer["annotations"][1], "id": 9, "segmentation": [[0, 0, 1, 1], *octagon(1, 1, 9, 9)]}
    )
    prepared = run()
    after = contents(prepared.folder)
    assert {name for name in after if after[name] != before[name]} == {"truth/finer.json", "val_annotations.json"}
    assert data_digest(prepared.folder) == digest
    (left_out,) = prepared.left_out
    assert (
        left_out == "finer_val: annotation 9 (image 70): without its polygon 0 has 2 points, a polygon needs at least 3"
    )


def test_of_a_held_out_split_the_images_of_training_may_be_there(
    run: Callable[..., PreparedDataset], splits: dict[str, Any], finer: dict[str, Any]
) -> None:
    layout = LAYOUT.model_copy(update={"val": HeldOut(share=0.4, seed=3)})
    prepared = run(layout)
    held_out = prepared.manifest("val").to_pylist()
    truth = json.loads((prepared.truth / "finer.json").read_text())
    assert [image["id"] for image in truth["images"]] == [row["id"] for row in held_out] == [7]
    assert [a["image_id"] for a in truth["annotations"]] == [7, 7, 7]
    # What is wrong with an image of training is of no account.
    finer["annotations"][-1]["segmentation"] = []
    run(layout)


def test_a_file_elsewhere(run: Callable[..., PreparedDataset], tmp_path: Path) -> None:
    run()
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "raw" / "finer.json").rename(tmp_path / "elsewhere" / "fine.json")
    assert run(LAYOUT.model_copy(update={"finer_val": str(moved)})).val_annotations["finer_val"]["file"] == "fine.json"


def refusal(run: Callable[..., PreparedDataset], layout: CocoDataset = LAYOUT) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        run(layout)
    return caught.value


def test_everything_that_is_wrong_is_in_one_error(
    run: Callable[..., PreparedDataset], finer: dict[str, Any], tmp_path: Path
) -> None:
    images = {image["file_name"]: image for image in finer["images"]}
    images["wide.png"].update(width=30, height=40)
    images["empty.png"]["file_name"] = "void.png"
    finer["images"].remove(images["tall.jpg"])
    finer["categories"][0]["name"] = "cog"
    finer["annotations"][0]["segmentation"] = []
    error = refusal(run)
    assert error.where == str(tmp_path / "raw" / "finer.json")
    expected = [
        "the val split and finer_val have different categories; only the val split has nut (id 5); "
        "only finer_val has cog (id 5)",
        "image 70: " + str(tmp_path / "raw" / "val" / "wide.png") + " is 40x30, annotated as 30x40",
        "image 120: void.png is in neither split",
        "val/tall.jpg: a val image that finer_val does not have",
        "val/empty.png: a val image that finer_val does not have",
        "annotation 1 (image 70): the list of polygons is empty",
        "annotation 4 (image 30): there is no such image",
    ]
    assert sorted(error.problems) == sorted(expected)
    assert "2 val images that finer_val does not have" in str(error)
    assert "-> finer_val needs every val image by its file name" in str(error)


def test_an_image_that_is_there_twice(run: Callable[..., PreparedDataset], finer: dict[str, Any]) -> None:
    finer["images"].append({**finer["images"][0], "id": 71})
    assert refusal(run).problems == ["val/wide.png: an image that finer_val has 2 times"]


def test_crowds_alone_measure_nothing(run: Callable[..., PreparedDataset], finer: dict[str, Any]) -> None:
    for raw in finer["annotations"]:
        raw["iscrowd"] = 1
    assert refusal(run).problems == ["nothing to measure on in finer_val: all 4 annotations are crowds (iscrowd: 1)"]


def test_no_annotation_measures_nothing(run: Callable[..., PreparedDataset], finer: dict[str, Any]) -> None:
    finer["annotations"] = []
    assert refusal(run).problems == ["nothing to measure on in finer_val: no val image has an annotation"]


def test_a_missing_file(run: Callable[..., PreparedDataset]) -> None:
    error = refusal(run, LAYOUT.model_copy(update={"finer_val": "fine.json"}))
    assert (str(error.where).endswith("raw/fine.json"), error.problems) == (
        True,
        ["no such annotation file (finer_val)"],
    )


def test_chosen_classes(run: Callable[..., PreparedDataset]) -> None:
    prepared = run(LAYOUT.model_copy(update={"classes": ["gear", "nut"]}))
    truth = json.loads((prepared.truth / "finer.json").read_text())
    assert [a["category_id"] for a in truth["annotations"]] == [9, 5, 5]
