"""How somebody's own data are laid out."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.datasets import CityscapesDataset, CocoDataset, HeldOut, LabelDataset
from pipeline.data.coco import DatasetError
from pipeline.data.discover import DataError, Source, discover
from pipeline.data.prepare import prepare
from pipeline.progress import progress


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(path)


def labels(path: Path, *ids: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(ids, np.uint8), (6, 8))).save(path)


def instances(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "images": [{"id": i, "file_name": name, "height": 6, "width": 8} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]}
            for i in range(len(names))
        ],
        "categories": [{"id": 1, "name": "bolt"}],
    }
    path.write_text(json.dumps(content))
    return path


def usable(source: Source, tmp_path: Path) -> Any:
    """The dataset, which `prepare` accepts."""
    dataset = discover(source)
    prepare(dataset, "nowhere", tmp_path / "prepared", tmp_path / "known.parquet", progress("check", None))
    return dataset


def test_an_instances_file_whose_images_are_held_out(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / "photos" / f"{name}.png")
    file = instances(tmp_path / "notes" / "all.json", "a.png", "b.png", "c.png")
    dataset = usable(Source(file, images=tmp_path / "photos", val_share=0.4, seed=3), tmp_path)
    assert isinstance(dataset, CocoDataset)
    assert (dataset.root, dataset.train.images) == (str(tmp_path), "photos")
    assert dataset.val == HeldOut(share=0.4, seed=3)


def test_finer_annotations_do_not_change_where_the_images_are(tmp_path: Path) -> None:
    image(tmp_path / "set" / "a.png")
    image(tmp_path / "set" / "b.png")
    file, finer = (instances(tmp_path / name, "a.png", "b.png") for name in ("set/all.json", "fine/all.json"))
    source = Source(file, val_share=0.4)
    dataset = usable(replace(source, finer_val=finer), tmp_path)
    assert dataset == discover(source).model_copy(update={"finer_val": str(finer)})
    beside = instances(tmp_path / "set" / "fine" / "all.json", "a.png", "b.png")
    assert usable(replace(source, finer_val=beside), tmp_path).finer_val == "fine/all.json"
    with pytest.raises(DataError, match="--finer-val go with an instances file"):
        discover(Source(tmp_path, finer_val=finer))


@pytest.mark.parametrize("place", [".", "images", "train", "../train"])
def test_images_are_found_in_the_usual_places(tmp_path: Path, place: str) -> None:
    file = instances(tmp_path / "annotations" / "instances_train.json", "a.png", "b.png")
    for name in "ab":
        image(tmp_path / "annotations" / place / f"{name}.png")
    dataset = usable(Source(file), tmp_path)
    assert (Path(dataset.root) / dataset.train.images).resolve() == (tmp_path / "annotations" / place).resolve()


def test_a_second_file_is_the_val_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path / split / f"{split}.png")
        instances(tmp_path / f"instances_{split}.json", f"{split}.png")
    files = (tmp_path / "instances_train.json", tmp_path / "instances_val.json")
    dataset = usable(Source(files[0], val=files[1]), tmp_path)
    assert (dataset.val.annotations, dataset.val.images) == ("instances_val.json", "val")


def test_images_that_are_nowhere(tmp_path: Path) -> None:
    file = instances(tmp_path / "all.json", "a.png")
    with pytest.raises(DataError, match=r"its first image, a\.png, is not beside it; say with --images"):
        discover(Source(file))


def test_roboflow_s_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        image(tmp_path / split / "a.png")
        instances(tmp_path / split / "_annotations.coco.json", "a.png")
    dataset = usable(Source(tmp_path), tmp_path)
    assert (dataset.train.images, dataset.val.images) == ("train", "valid")


@pytest.mark.parametrize(
    ("images", "truth", "expected"),
    [
        ("images/{}.png", "labels/{}.png", ("images", "labels", "", None)),
        ("images/{}.png", "masks/{}_mask.png", ("images", "masks", "_mask", None)),
        ("images/train/x/{}.png", "labels/train/x/{}.png", ("images/train", "labels/train", "", None)),
        ("train/images/{}.png", "train/masks/{}.png", ("train/images", "train/masks", "", None)),
        ("{}.png", "{}_labels.png", ("raw", "raw", "_labels", None)),
    ],
)
def test_label_pngs(tmp_path: Path, images: str, truth: str, expected: tuple[Any, ...]) -> None:
    root = tmp_path / "raw"
    for number in (1, 2, 10):
        image(root / images.format(number))
        labels(root / truth.format(number), 3, 8, 255)
    dataset = usable(Source(root), tmp_path)
    assert isinstance(dataset, LabelDataset)
    assert (dataset.train.images, dataset.train.labels, dataset.suffix) == expected[:3]
    assert isinstance(dataset.val, HeldOut)
    assert dataset.classes == {"class_3": 3, "class_8": 8}


@pytest.mark.parametrize("layout", ["images/{split}", "{split}/images"])
def test_label_pngs_with_a_val_split(tmp_path: Path, layout: str) -> None:
    for split in ("train", "val"):
        image(tmp_path / layout.format(split=split) / "a.png")
        labels(tmp_path / layout.format(split=split).replace("images", "labels") / "a.png", 0, 1)
    assert usable(Source(tmp_path), tmp_path).val.images == layout.format(split="val")


def label_pngs(root: Path) -> None:
    for name in "ab":
        image(root / "images" / f"{name}.png")
        labels(root / "labels" / f"{name}.png", 0, 7)


@pytest.mark.parametrize("how", ["option", "file"])
def test_classes_are_named(tmp_path: Path, how: str) -> None:
    label_pngs(tmp_path)
    names = ("sea", "sand=7")
    if how == "file":
        (tmp_path / "classes.txt").write_text("\n".join(names))
    dataset = usable(Source(tmp_path, classes=names if how == "option" else ()), tmp_path)
    assert dataset.classes == {"sea": 0, "sand": 7}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"road=1\nsidewalk=1\n", "label id 1 stands for 'road' and 'sidewalk'; expected one meaning for each id"),
        (b"road=1\nroad=2\n", "two classes are named 'road'"),
        (b"road=255\n", "label id 255 stands for 'road' and ignored pixels"),
        (b"=1\n", "a class has an empty name"),
        (b"road=-1\n", "class 'road=-1'; expected NAME or NAME=ID"),
        (b"road=70000\n", "ids from 0 to 65535"),
        ("straße\n".encode("latin-1"), "is not written in UTF-8"),
    ],
)
def test_a_file_of_classes_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    label_pngs(tmp_path)
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        discover(Source(tmp_path))
    assert str(tmp_path / "classes.txt") in str(caught.value)


def test_a_file_of_classes_with_a_comment_and_a_byte_order_mark(tmp_path: Path) -> None:
    label_pngs(tmp_path)
    (tmp_path / "classes.txt").write_bytes("# label\nroad\nstraße=4".encode("utf-8-sig"))
    dataset = discover(Source(tmp_path))
    assert isinstance(dataset, LabelDataset)
    assert dataset.classes == {"road": 0, "straße": 4}


def test_label_jpegs_are_no_labels(tmp_path: Path) -> None:
    label_pngs(tmp_path)
    for path in list(tmp_path.rglob("*.png")):
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(DataError, match="labels have to be PNGs"):
        discover(Source(tmp_path))


def test_cityscapes_layout(tmp_path: Path) -> None:
    for name in ("leftImg8bit", "gtFine"):
        (tmp_path / name).mkdir()
    dataset = discover(Source(tmp_path))
    assert isinstance(dataset, CityscapesDataset)
    assert dataset.task == "semantic"
    with pytest.raises(DataError, match="leave out --classes"):
        discover(Source(tmp_path, classes=("road",)))


def test_another_folder_is_told_what_is_known(tmp_path: Path) -> None:
    image(tmp_path / "photos" / "a.png")
    with pytest.raises(DataError, match="expected one of"):
        discover(Source(tmp_path))


def test_a_file_of_configs(repository: Path) -> None:
    assert discover(Source(repository / "configs/datasets/nuclei.yaml")).root == "nuclei"


def test_a_file_name_that_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"images": [{"file_name": 7}]}))
    with pytest.raises(DatasetError, match="no list 'annotations': not a COCO instances file"):
        discover(Source(file))
    file.write_text(json.dumps({"images": [{"file_name": 7}], "annotations": [], "categories": []}))
    with pytest.raises(DatasetError, match="4 entries with an id, size or name of another type"):
        usable(Source(file), tmp_path)
