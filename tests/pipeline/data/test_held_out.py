"""Datasets whose val images are held out of the train split's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.datasets import CocoDataset, CocoSplit, HeldOut, LabelDataset, LabelSplit, load_dataset
from pipeline.config.reader import ConfigError
from pipeline.data.coco import DatasetError
from pipeline.data.held_out import held_out
from pipeline.data.manifest import PreparedDataset, read_prepared
from pipeline.data.prepare import prepare
from pipeline.evaluation.outputs import prediction_names
from pipeline.metrics.coco_files import read_ground_truth
from pipeline.progress import progress

NAMES = [f"{number}.png" for number in range(50)]


def prepared(dataset: CocoDataset | LabelDataset, root: Path) -> PreparedDataset:
    prepare(dataset, str(root), root / "prepared", root / "known.parquet", progress("check", None))
    return read_prepared(root / "prepared")


def ids(dataset: PreparedDataset, split: Any) -> list[int]:
    return dataset.manifest(split)["id"].to_pylist()


def test_the_seed_decides_which_images_are_held_out() -> None:
    chosen = held_out(NAMES, 0.2, 0)
    assert len(chosen) == 10
    assert held_out(NAMES[::-1], 0.2, 0) == chosen != held_out(NAMES, 0.2, 1)


def test_one_more_image_changes_the_split_of_at_most_one_other() -> None:
    assert len(held_out([*NAMES, "new.png"], 0.2, 0) ^ held_out(NAMES, 0.2, 0)) <= 2


@pytest.mark.parametrize(("share", "expected"), [(0.001, 1), (0.999, 49)])
def test_neither_split_is_empty(share: float, expected: int) -> None:
    assert len(held_out(NAMES, share, 0)) == expected


def coco(seed: int = 0) -> CocoDataset:
    train = CocoSplit(annotations="annotations/instances_train.json", images="train")
    return CocoDataset(source="coco", root="raw", train=train, val=HeldOut(share=0.3, seed=seed))


def test_instances(tmp_path: Path, coco_folder: Callable[..., Any]) -> None:
    split = coco_folder(tmp_path / "raw", "train")
    split.data["annotations"].append(split.annotation(25, 12, 9, (2, 2, 5, 5)))
    split.write()
    held = {tuple(ids(prepared(coco(seed), tmp_path), "val")) for seed in range(8)}
    assert len(held) > 1
    found = prepared(coco(), tmp_path)
    train, val = ids(found, "train"), ids(found, "val")
    assert (sorted(train + val), len(val)) == ([3, 7, 12], 1)
    truth = read_ground_truth(found.truth / "instances.json")
    assert [image["id"] for image in truth["images"]] == val
    in_manifest = {a["id"] for row in found.manifest("val").to_pylist() for a in row["annotations"]}
    assert {
        annotation["id"] for annotation in json.loads((found.truth / "instances.json").read_text())["annotations"]
    } == (in_manifest)


@pytest.mark.parametrize("seed", range(4))
def test_where_the_folders_lie_changes_no_split(tmp_path: Path, coco_folder: Callable[..., Any], seed: int) -> None:
    split = coco_folder(tmp_path / "raw", "train")
    split.data["annotations"].append(split.annotation(25, 12, 9, (2, 2, 5, 5)))
    split.write()
    expected = ids(prepared(coco(seed), tmp_path), "val")
    (tmp_path / "data" / "deeper").mkdir(parents=True)
    (tmp_path / "raw" / "train").rename(tmp_path / "data" / "deeper" / "pictures")
    (tmp_path / "raw" / "annotations" / "instances_train.json").rename(tmp_path / "data" / "second.json")
    shutil.rmtree(tmp_path / "raw")
    moved = CocoSplit(annotations="second.json", images="deeper/pictures")
    dataset = coco(seed).model_copy(update={"root": "data", "train": moved})
    assert ids(prepared(dataset, tmp_path), "val") == expected


def test_an_annotation_that_was_dropped_is_not_in_the_truth(tmp_path: Path, coco_folder: Callable[..., Any]) -> None:
    split = coco_folder(tmp_path / "raw", "train")
    split.data["annotations"] = [
        split.annotation(10 * image_id + n, image_id, 9, (2, 2, 5 + n, 5)) for image_id in (3, 7, 12) for n in (1, 2)
    ]
    for image_id in (3, 7, 12):
        split.find("annotations", 10 * image_id + 1)["segmentation"] = [[1, 1, 2, 2]]
    split.write()
    found = prepared(coco().model_copy(update={"invalid_annotations": "drop"}), tmp_path)
    (held,) = ids(found, "val")
    truth = json.loads((found.truth / "instances.json").read_text())
    assert [annotation["id"] for annotation in truth["annotations"]] == [10 * held + 2]
    assert len(found.left_out) == 3


def test_one_image_cannot_be_split(tmp_path: Path, coco_folder: Callable[..., Any]) -> None:
    split = coco_folder(tmp_path / "raw", "train")
    split.data["images"], split.data["annotations"] = split.data["images"][:1], []
    split.write()
    with pytest.raises(DatasetError, match="1 image; expected 2 or more"):
        prepared(coco(), tmp_path)


def test_labels_beside_their_images(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "all"
    folder.mkdir(parents=True)
    for number in range(5):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(np.full((8, 8), number % 2, np.uint8)).save(folder / f"{number}_mask.png")
    dataset = LabelDataset(
        source="labels",
        root="raw",
        train=LabelSplit(images="all", labels="all"),
        val=HeldOut(share=0.4),
        suffix="_mask",
        classes={"no": 0, "yes": 1},
    )
    found = prepared(dataset, tmp_path)
    rows = {split: found.manifest(split).to_pylist() for split in ("train", "val")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 3, "val": 2}
    assert all(row["label_file"] == row["file_name"].replace(".png", "_mask.png") for row in rows["val"])
    names = {Path(row["label_file"]).name for row in rows["val"]}
    assert {path.name for path in found.truth.iterdir()} == names == set(prediction_names(found).values())


@pytest.mark.parametrize(
    ("val", "message"), [("{share: 1.5}", "val.share: Input should be less than 1"), ("{images: a}", "val.annotations")]
)
def test_a_wrong_val_split_is_named(tmp_path: Path, val: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"source: coco\nroot: x\ntrain: {{annotations: a, images: b}}\nval: {val}\n")
    with pytest.raises(ConfigError, match=message):
        load_dataset(path)
