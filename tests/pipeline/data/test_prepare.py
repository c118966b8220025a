import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import CocoDataset, CocoSplit
from pipeline.data.coco import DatasetError
from pipeline.data.dataset import EvaluationImages, TrainingImages
from pipeline.data.manifest import read_prepared
from pipeline.data.prepare import prepare
from pipeline.progress import progress
from pipeline.storage import Storage

LAYOUT = CocoDataset(
    source="coco",
    root="raw",
    train=CocoSplit(annotations="annotations/instances_train.json", images="train", num_images=3),
    val=CocoSplit(annotations="annotations/instances_val.json", images="val", num_images=3),
)


@pytest.fixture
def splits(tmp_path: Path, coco_folder: Callable[..., Any]) -> dict[str, Any]:
    return {split: coco_folder(tmp_path / "raw", split) for split in ("train", "val")}


@pytest.fixture
def run(tmp_path: Path, splits: dict[str, Any]) -> Callable[..., Path]:
    """Writes the splits' annotations and prepares them into ``prepared``."""

    def run(layout: CocoDataset = LAYOUT) -> Path:
        for split in splits.values():
            split.write()
        output = tmp_path / "out" / "prepared"
        prepare(layout, str(tmp_path), output, tmp_path / "known.parquet", progress("check", None))
        return output

    return run


def test_a_prepared_dataset(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run()
    assert sorted(os.listdir(folder)) == ["dataset.json", "train.parquet", "truth", "val.parquet"]
    prepared = read_prepared(folder)
    assert [(c.id, c.name) for c in prepared.categories] == [(2, "bolt"), (5, "nut"), (9, "gear")]
    rows = prepared.manifest("train").to_pylist()
    assert [(r["id"], r["file_name"], r["height"], r["width"]) for r in rows] == [
        (3, "train/tall.jpg", 36, 24),
        (7, "train/wide.png", 30, 40),
        (12, "train/empty.png", 20, 20),
    ]
    assert [[a["id"] for a in r["annotations"]] for r in rows] == [[24], [21, 22, 23], []]
    assert all((tmp_path / "raw" / r["file_name"]).is_file() for r in rows)


def test_images_without_objects_stay_in_val_and_go_from_training(
    run: Callable[..., Path], splits: dict[str, Any], tmp_path: Path
) -> None:
    # Image 3 keeps a crowd only: nothing to learn from.
    for split in splits.values():
        split.find("annotations", 24)["iscrowd"] = 1
    prepared = read_prepared(run())
    val = EvaluationImages(prepared, Storage(str(tmp_path / "raw")))
    assert [val[i][0] for i in range(len(val))] == [3, 7, 12]
    assert len(TrainingImages(prepared, Storage(str(tmp_path / "raw")), [30], 60)) == 1


def test_the_summary_counts_what_was_kept_and_lists_what_was_not(
    run: Callable[..., Path], splits: dict[str, Any]
) -> None:
    splits["train"].find("annotations", 22)["bbox"] = [20, 10, 0, 15]
    summary = json.loads((run(LAYOUT.model_copy(update={"invalid_annotations": "drop"})) / "dataset.json").read_text())
    assert (summary["splits"]["train"]["images"], summary["splits"]["train"]["annotations"]) == (3, 3)
    assert (summary["splits"]["val"]["images"], summary["splits"]["val"]["annotations"]) == (3, 4)
    (dropped,) = summary["splits"]["train"]["dropped_annotations"]
    assert dropped.startswith("annotation 22 (image 7): ")
    assert summary["splits"]["val"]["dropped_annotations"] == []


def test_preparing_twice_gives_the_same_files(run: Callable[..., Path], contents: Callable[[Path], Any]) -> None:
    first = contents(run())
    assert contents(run()) == first


def test_a_dataset_with_no_annotations_at_all(run: Callable[..., Path], splits: dict[str, Any], tmp_path: Path) -> None:
    for split in splits.values():
        split.data["annotations"] = []
    prepared = read_prepared(run())
    assert len(TrainingImages(prepared, Storage(str(tmp_path / "raw")), [30], 60)) == 0
    assert len(EvaluationImages(prepared, Storage(str(tmp_path / "raw")))) == 3


@pytest.mark.parametrize("broken", ["train", "val"])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failing_dataset_changes_nothing(
    run: Callable[..., Path],
    splits: dict[str, Any],
    tmp_path: Path,
    contents: Callable[[Path], Any],
    broken: str,
    existed: bool,
) -> None:
    if existed:
        run()
    before = contents(tmp_path / "out") if existed else None
    splits[broken].find("annotations", 21)["image_id"] = 99
    with pytest.raises(DatasetError, match=rf"instances_{broken}\.json(.|\n)*annotation 21 \(image 99\)"):
        run()
    if existed:
        assert contents(tmp_path / "out") == before
        assert os.listdir(tmp_path / "out") == ["prepared"]
    else:
        assert not (tmp_path / "out" / "prepared").exists()


def test_a_failure_while_writing_changes_nothing(
    run: Callable[..., Path],
    splits: dict[str, Any],
    tmp_path: Path,
    contents: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run()
    before = contents(tmp_path / "out")
    open_file = pq.ParquetWriter

    def full(where: Path, schema: Any, **options: Any) -> Any:
        if where.name == "val.parquet":
            raise OSError(28, "No space left on device")
        return open_file(where, schema, **options)

    splits["train"].data["annotations"].pop()
    monkeypatch.setattr("pipeline.data.manifest.pq.ParquetWriter", full)
    with pytest.raises(OSError, match="No space left"):
        run()
    assert contents(tmp_path / "out") == before
    assert os.listdir(tmp_path / "out") == ["prepared"]


@pytest.mark.parametrize("change", ["other name", "one more", "other id"])
def test_splits_with_different_categories(run: Callable[..., Path], splits: dict[str, Any], change: str) -> None:
    categories = splits["val"].data["categories"]
    if change == "other name":
        categories[0]["name"] = "wheel"
    elif change == "one more":
        categories.append({"id": 10, "name": "nail"})
    else:
        categories[0]["id"] = 10
        splits["val"].find("annotations", 21)["category_id"] = 10
    with pytest.raises(DatasetError, match="the train and the val split have different categories"):
        run()


def test_categories_in_another_order_are_the_same(run: Callable[..., Path], splits: dict[str, Any]) -> None:
    splits["val"].data["categories"].reverse()
    assert [c.id for c in read_prepared(run()).categories] == [2, 5, 9]
