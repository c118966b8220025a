import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from pipeline.config.datasets import CocoDataset, CocoSplit, LvisSource
from pipeline.data.coco import DatasetError
from pipeline.data.dataset import EvaluationImages, TrainingImages
from pipeline.data.manifest import read_prepared
from pipeline.data.prepare import prepare
from pipeline.data.storage import Storage
from pipeline.progress import progress

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
    files = ["dataset.json", "train.parquet", "truth", "val.parquet", "val_annotations.json"]
    assert sorted(os.listdir(folder)) == files
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


@pytest.mark.parametrize(("split", "said"), [("train", "nothing to learn from"), ("val", "nothing to measure on")])
def test_a_split_without_annotations(run: Callable[..., Path], splits: dict[str, Any], split: str, said: str) -> None:
    splits[split].data["annotations"] = []
    with pytest.raises(DatasetError, match=f"{said} in the {split} split: no image has an annotation"):
        run()


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
    with pytest.raises(DatasetError, match="the train split and the val split have different categories"):
        run()


def test_categories_in_another_order_are_the_same(run: Callable[..., Path], splits: dict[str, Any]) -> None:
    splits["val"].data["categories"].reverse()
    assert [c.id for c in read_prepared(run()).categories] == [2, 5, 9]


# Truth to score against


SYNSETS = {"bolt": "bolt.n.01", "nut": "nut.n.01", "gear": "gear.n.01"}
LVIS = LAYOUT.model_copy(
    update={"lvis": LvisSource(root="raw", annotations="lvis.json", num_images=2, synsets=SYNSETS)}
)


def lvis_image(id_: int, height: int, width: int, folder: str = "val2017") -> dict[str, Any]:
    """Of an image without bolts, whose gears (1 in LVIS) are not all annotated."""
    return {
        "id": id_,
        "height": height,
        "width": width,
        "coco_url": f"http://images.example.org/{folder}/{id_:012}.jpg",
        "neg_category_ids": [3],
        "not_exhaustive_category_ids": [1],
    }


@pytest.fixture
def lvis(tmp_path: Path, splits: dict[str, Any]) -> dict[str, Any]:
    """Two of the three val images, and as in v1 one that is not of them; written by ``run`` with the splits."""

    def annotation(id_: int, image_id: int, category_id: int) -> dict[str, Any]:
        return {**splits["val"].annotation(id_, image_id, category_id, (1, 2, 3, 4))}

    content = {
        "images": [lvis_image(7, 30, 40), lvis_image(3, 36, 24), lvis_image(500, 99, 99, "train2017")],
        "annotations": [annotation(1, 7, 1), annotation(2, 3, 2), annotation(3, 500, 1), annotation(4, 7, 4)],
        "categories": [
            {"id": id_, "name": name, "synset": f"{name}.n.01", "frequency": "f"}
            for id_, name in ((1, "gear"), (2, "nut"), (3, "bolt"), (4, "screw"))
        ],
    }
    write = splits["val"].write

    def write_both() -> None:
        write()
        (tmp_path / "raw" / "lvis.json").write_text(json.dumps(content))

    splits["val"].write = write_both
    return content


def test_the_truth_of_a_coco_dataset_is_the_objects_of_its_manifest(
    run: Callable[..., Path], splits: dict[str, Any]
) -> None:
    splits["val"].find("annotations", 22)["bbox"] = [20, 10, 0, 15]
    folder = run(LAYOUT.model_copy(update={"invalid_annotations": "drop"}))
    assert os.listdir(folder / "truth") == ["instances.json"]
    truth = json.loads((folder / "truth" / "instances.json").read_text())
    rows = read_prepared(folder).manifest("val").to_pylist()
    assert [(i["id"], i["height"], i["width"]) for i in truth["images"]] == [
        (row["id"], row["height"], row["width"]) for row in rows
    ]
    assert [(a["id"], a["segmentation"]["counts"].encode(), a["bbox"], a["area"]) for a in truth["annotations"]] == [
        (a["id"], a["counts"], a["bbox"], a["area"]) for row in rows for a in row["annotations"]
    ]
    assert [a["id"] for a in truth["annotations"]] == [24, 21, 23]


@pytest.mark.usefixtures("lvis")
def test_the_lvis_view_is_of_the_val_images_only(run: Callable[..., Path]) -> None:
    truth = run(LVIS) / "truth"
    assert sorted(os.listdir(truth)) == ["instances.json", "lvis.json"]
    view = json.loads((truth / "lvis.json").read_text())
    assert [(i["id"], i["neg_category_ids"], i["not_exhaustive_category_ids"]) for i in view["images"]] == [
        (7, [2], [9]),
        (3, [2], [9]),
    ]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in view["annotations"]] == [(1, 7, 9), (2, 3, 5)]
    assert [(c["id"], c["name"]) for c in view["categories"]] == [(2, "bolt"), (5, "nut"), (9, "gear")]
    # It is all that scoring needs.
    assert [entry["synset"] for entry in view["synsets"]] == ["bolt.n.01", "nut.n.01", "gear.n.01"]


def test_another_number_of_lvis_images(run: Callable[..., Path], lvis: dict[str, Any]) -> None:
    del lvis["images"][0]
    lvis["annotations"] = [annotation for annotation in lvis["annotations"] if annotation["image_id"] != 7]
    with pytest.raises(DatasetError, match=r"lvis\.json(.|\n)*1 of the val images, expected 2"):
        run(LVIS)


def test_an_lvis_file_of_other_images(run: Callable[..., Path], lvis: dict[str, Any]) -> None:
    lvis["images"] = [lvis_image(500, 99, 99)]
    lvis["annotations"] = lvis["annotations"][2:3]
    source = LVIS.lvis.model_copy(update={"num_images": None})
    with pytest.raises(DatasetError, match=r"lvis\.json(.|\n)*0 of the val images, expected some"):
        run(LVIS.model_copy(update={"lvis": source}))


def test_an_lvis_image_of_another_size(run: Callable[..., Path], lvis: dict[str, Any]) -> None:
    lvis["images"][0].update(height=40, width=30)
    with pytest.raises(DatasetError, match=r"lvis\.json(.|\n)*image 7: 30x40, but 40x30 in the dataset"):
        run(LVIS)


def test_a_coco_file_in_place_of_lvis(run: Callable[..., Path], lvis: dict[str, Any], splits: dict[str, Any]) -> None:
    lvis.clear()
    lvis.update(splits["val"].data)
    with pytest.raises(DatasetError, match=r"lvis\.json(.|\n)*not an LVIS file"):
        run(LVIS)


@pytest.mark.usefixtures("lvis")
def test_a_synset_of_a_category_that_the_dataset_has_not(run: Callable[..., Path]) -> None:
    source = LVIS.lvis.model_copy(update={"synsets": {**SYNSETS, "nail": "nail.n.01", "hook": "hook.n.01"}})
    with pytest.raises(DatasetError, match="synsets of unknown categories: hook, nail"):
        run(LVIS.model_copy(update={"lvis": source}))


# What is missing


def test_missing_annotation_files_are_named_together_before_any_image_is_read(
    run: Callable[..., Path], lvis: dict[str, Any], splits: dict[str, Any], tmp_path: Path, decoded: list[str]
) -> None:
    obtain = "unpack it into raw/"
    for split in splits.values():
        split.write = split.annotations.unlink
    with pytest.raises(DatasetError) as caught:
        run(LVIS.model_copy(update={"obtain": obtain}))
    raw = tmp_path / "raw"
    assert caught.value.problems == [
        f"{path}: no such annotation file"
        for path in (splits["train"].annotations, splits["val"].annotations, raw / "lvis.json")
    ]
    assert str(caught.value).endswith(f"\nHow to obtain this data: {obtain}")
    assert decoded == []


def test_the_problems_of_both_splits_are_in_one_error(run: Callable[..., Path], splits: dict[str, Any]) -> None:
    (splits["train"].images / "tall.jpg").unlink()
    splits["val"].find("annotations", 21)["image_id"] = 99
    with pytest.raises(DatasetError) as caught:
        run()
    assert [line.split(": ", 1)[1] for line in caught.value.problems] == [
        f"image 3: {splits['train'].images / 'tall.jpg'}: no such file",
        "annotation 21 (image 99): there is no such image",
    ]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The formats of the pictures that Pillow decodes."""
    found: list[str] = []
    load = ImageFile.ImageFile.load

    def counting(picture: ImageFile.ImageFile) -> object:
        found.append(str(picture.format))
        return load(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counting)
    return found


def test_preparing_again_decodes_nothing(run: Callable[..., Path], decoded: list[str], splits: dict[str, Any]) -> None:
    splits["val"].find("annotations", 21)["image_id"] = 99
    with pytest.raises(DatasetError):
        run()
    # The pictures of both splits are alike: known after the first.
    assert sorted(decoded) == ["JPEG", "PNG", "PNG"]
    splits["val"].find("annotations", 21)["image_id"] = 7
    run()
    assert len(decoded) == 3
    Image.new("RGB", (40, 30), "red").save(splits["val"].images / "wide.png")
    run()
    assert len(decoded) == 4
