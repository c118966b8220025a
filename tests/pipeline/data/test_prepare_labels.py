"""Preparing Cityscapes trees and folders of images and label PNGs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_cityscapes import CAR, PERSON, SIZE, instance_ids, label_ids, picture, save, write_cityscapes, write_labels
from PIL import Image

from pipeline.config.datasets import CityscapesDataset, LabelDataset, LabelSplit
from pipeline.data.coco import DatasetError
from pipeline.data.labels import CITYSCAPES
from pipeline.data.manifest import read_prepared
from pipeline.data.prepare import expected_images, prepare
from pipeline.progress import progress


def tree(task: str, **options: Any) -> CityscapesDataset:
    return CityscapesDataset(
        source="cityscapes",
        task=task,
        root="raw",
        train=LabelSplit(images="leftImg8bit/train", labels="gtFine/train", num_images=2),
        val=LabelSplit(images="leftImg8bit/val", labels="gtFine/val", num_images=1),
        **options,
    )


FOLDERS = LabelDataset(
    source="labels",
    root="raw",
    train=LabelSplit(images="train/images", labels="train/labels"),
    val=LabelSplit(images="val/images", labels="val/labels"),
    classes={"sky": 0, "road": 1},
)
DATASETS = {"instance": tree("instance"), "semantic": tree("semantic"), "labels": FOLDERS}
OBTAIN = "from https://example.org, unpacked into raw/"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A Cityscapes tree and folders of one's own."""
    write_cityscapes(tmp_path / "raw")
    write_labels(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture
def run(tmp_path: Path, raw: Path) -> Callable[..., Path]:
    def run(dataset: CityscapesDataset | LabelDataset) -> Path:
        output = tmp_path / "out" / "prepared"
        try:
            prepare(dataset, str(tmp_path), output, tmp_path / "known.parquet", progress("check", None))
        finally:
            assert [path.name for path in (tmp_path / "out").iterdir()] == ["prepared"][: output.exists()]
        return output

    return run


def refusal(run: Callable[..., Path], dataset: CityscapesDataset | LabelDataset) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        run(dataset)
    return caught.value


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# What is written


def test_cityscapes_instances(run: Callable[..., Path], raw: Path) -> None:
    folder = run(DATASETS["instance"])
    assert files(folder) == [
        "dataset.json", "train.parquet", "truth/bonn/bonn_1_gtFine_instanceIds.png", "val.parquet",
    ]  # fmt: skip
    truth = folder / "truth/bonn/bonn_1_gtFine_instanceIds.png"
    assert truth.read_bytes() == (raw / "gtFine/val/bonn/bonn_1_gtFine_instanceIds.png").read_bytes()
    prepared = read_prepared(folder)
    assert prepared.task == "instance"
    assert [c.id for c in prepared.categories] == [24, 25, 26, 27, 28, 31, 32, 33]
    rows = prepared.manifest("train").to_pylist()
    assert [(r["id"], r["file_name"], r["height"], r["width"]) for r in rows] == [
        (1, "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png", *SIZE),
        (2, "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png", *SIZE),
    ]
    # Ids go on from image to image; a group is a crowd.
    assert [[(a["id"], a["category_id"], a["iscrowd"]) for a in r["annotations"]] for r in rows] == [
        [(1, PERSON, True), (2, PERSON, False), (3, PERSON, False), (4, CAR, False)],
        [(5, PERSON, True), (6, PERSON, False), (7, PERSON, False), (8, CAR, False)],
    ]
    splits = prepared.summary["splits"]
    expected = {"train": (2, 8, 6, 2), "val": (1, 4, 3, 1)}
    assert {
        name: tuple(of[key] for key in ("images", "annotations", "objects", "crowds")) for name, of in splits.items()
    } == expected
    assert splits["train"]["classes"]["person"] == {"objects": 4, "crowds": 2, "images": 2}
    assert splits["train"]["dropped_annotations"] == []


def test_cityscapes_labels(run: Callable[..., Path]) -> None:
    folder = run(DATASETS["semantic"])
    assert files(folder / "truth") == ["bonn/bonn_1_gtFine_labelIds.png"]
    prepared = read_prepared(folder)
    assert (prepared.task, prepared.labels, prepared.num_classes) == ("semantic", CITYSCAPES, 19)
    (row,) = prepared.manifest("val").to_pylist()
    assert row == {
        "id": 1,
        "file_name": "leftImg8bit/val/bonn/bonn_1_leftImg8bit.png",
        "height": SIZE[0],
        "width": SIZE[1],
        "label_file": "gtFine/val/bonn/bonn_1_gtFine_labelIds.png",
    }
    val = prepared.summary["splits"]["val"]
    assert (val["images"], val["pixels"], val["ignored_pixels"]) == (1, SIZE[0] * SIZE[1], 0)
    counts = {name: of["pixels"] for name, of in val["classes"].items() if of["pixels"]}
    assert counts == {"road": 960 - 50 - 40 - 100 - 30, "person": 50 + 40 + 30, "car": 100}


def test_folders_of_ones_own(run: Callable[..., Path]) -> None:
    folder = run(FOLDERS)
    assert files(folder / "truth") == ["a.png"]
    prepared = read_prepared(folder)
    assert (prepared.labels.names, prepared.labels.ids, prepared.labels.ignored) == (("sky", "road"), (0, 1), (255,))
    assert [(r["file_name"], r["label_file"]) for r in prepared.manifest("train").to_pylist()] == [
        ("train/images/a.jpg", "train/labels/a.png"),
        ("train/images/deep/b.PNG", "train/labels/deep/b.png"),
        ("train/images/deep/er/c.webp", "train/labels/deep/er/c.png"),
    ]


def test_folders_that_are_links(run: Callable[..., Path], raw: Path, contents: Callable[[Path], Any]) -> None:
    expected = contents(run(FOLDERS))
    for name in ("train", "val/labels"):
        (raw / name).rename(raw.parent / name.replace("/", "-"))
        (raw / name).symlink_to(raw.parent / name.replace("/", "-"))
    assert contents(run(FOLDERS)) == expected


@pytest.mark.parametrize("name", DATASETS)
def test_preparing_twice_gives_the_same_files(
    run: Callable[..., Path], contents: Callable[[Path], Any], name: str
) -> None:
    first = contents(run(DATASETS[name]))
    assert contents(run(DATASETS[name])) == first


@pytest.mark.parametrize(("num_images", "expected"), [((2, 1), 3), ((None, 1), None), ((None, None), None)])
def test_how_many_images_there_will_be(num_images: tuple[int | None, int | None], expected: int | None) -> None:
    splits = {
        name: LabelSplit(images="a", labels="b", num_images=n)
        for name, n in zip(("train", "val"), num_images, strict=True)
    }
    assert expected_images(FOLDERS.model_copy(update=splits)) == expected


# What is wrong

VAL = {
    "instance": ("leftImg8bit/val/bonn/bonn_1_leftImg8bit.png", "gtFine/val/bonn/bonn_1_gtFine_instanceIds.png"),
    "semantic": ("leftImg8bit/val/bonn/bonn_1_leftImg8bit.png", "gtFine/val/bonn/bonn_1_gtFine_labelIds.png"),
    "labels": ("val/images/a.tif", "val/labels/a.png"),
}


def changed(name: str, value: int) -> np.ndarray:
    ids = {"instance": instance_ids, "semantic": label_ids, "labels": lambda: np.zeros(SIZE, np.uint8)}[name]()
    ids[3, 5] = value
    return ids


BAD_LABELS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "an unknown id": (
        {"instance": changed("instance", 34), "semantic": changed("semantic", 34), "labels": changed("labels", 2)},
        r"id (34|2)(;| at row 3, column 5)",
    ),
    "another size": (
        {name: changed(name, 1 if name == "labels" else 7)[:, :-1] for name in DATASETS},
        r"the labels are 39x24, their image .*(a\.tif|_leftImg8bit\.png) is 40x24",
    ),
    "RGB": ({name: picture(0) for name in DATASETS}, "its pixels are RGB; expected one channel of ids"),
    "with alpha": ({name: np.zeros((*SIZE, 2), np.uint8) for name in DATASETS}, "its pixels are LA; expected one"),
}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("damage", BAD_LABELS)
def test_bad_labels_are_named(run: Callable[..., Path], raw: Path, name: str, damage: str) -> None:
    pixels, said = BAD_LABELS[damage]
    path = raw / VAL[name][1]
    save(path, pixels[name])
    error = refusal(run, DATASETS[name])
    (problem,) = error.problems
    assert problem.startswith(f"{path}: ")
    assert re.search(said, problem), problem


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("part", [0, 1], ids=["image", "labels"])
def test_a_truncated_file_is_named(run: Callable[..., Path], raw: Path, name: str, part: int) -> None:
    path = raw / VAL[name][part]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    (problem,) = refusal(run, DATASETS[name]).problems
    assert problem.startswith(f"{path}: not a readable image")


@pytest.mark.parametrize("name", DATASETS)
def test_an_image_without_labels_and_labels_without_an_image(run: Callable[..., Path], raw: Path, name: str) -> None:
    image, labels = (raw / part for part in VAL[name])
    labels.rename(labels.with_name(labels.name.replace("1", "2").replace("a.png", "b.png")))
    error = refusal(run, DATASETS[name])
    assert [line.split(":")[0] for line in error.problems] == [
        str(image.relative_to(raw)),
        VAL[name][1].replace("_1_", "_2_").replace("a.png", "b.png"),
    ]
    assert f"no label file {labels}" in error.problems[0]
    assert "there is no image for it" in error.problems[1]


def test_labels_that_are_a_jpeg(run: Callable[..., Path], raw: Path) -> None:
    labels = raw / VAL["labels"][1]
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(labels, format="JPEG")
    error = refusal(run, DATASETS["labels"])
    (problem,) = error.problems
    assert problem.startswith(f"{labels}: it is a JPEG")
    assert "export PNGs" in str(error)

    labels.rename(labels.with_suffix(".jpg"))
    (problem,) = refusal(run, DATASETS["labels"]).problems
    assert problem == f"val/images/a.tif: no label file {labels}, and val/labels/a.jpg is no PNG"


def test_two_images_for_the_same_labels(run: Callable[..., Path], raw: Path) -> None:
    save(raw / "val/images/a.png", picture(5))
    (problem,) = refusal(run, FOLDERS).problems
    assert problem == "val/images/a.png and val/images/a.tif would have the same labels, val/labels/a.png"


def test_another_number_of_images(run: Callable[..., Path]) -> None:
    split = tree("semantic").train.model_copy(update={"num_images": 2975})
    error = refusal(run, tree("semantic").model_copy(update={"train": split}))
    assert error.problems == ["2 images, expected 2975"]


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_missing_comes_with_how_to_get_it(tmp_path: Path, name: str) -> None:
    dataset = DATASETS[name].model_copy(update={"obtain": OBTAIN})
    with pytest.raises(DatasetError) as caught:
        prepare(dataset, str(tmp_path), tmp_path / "out", tmp_path / "known.parquet", progress("check", None))
    assert len(caught.value.problems) == 2, "of either split"
    for split in (dataset.train, dataset.val):
        assert str(tmp_path / "raw" / split.images) in str(caught.value)
    assert str(caught.value).endswith(f"\nHow to obtain this data: {OBTAIN}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", DATASETS)
def test_the_problems_of_both_splits_are_in_one_error(run: Callable[..., Path], raw: Path, name: str) -> None:
    image = min(path for path in (raw / DATASETS[name].train.images).rglob("*") if path.is_file())
    labels = raw / VAL[name][1]
    for path in (image, labels):
        path.write_bytes(b"no picture")
    error = refusal(run, DATASETS[name])
    assert len(error.problems) == 2
    assert str(image) in error.problems[0]
    assert str(labels) in error.problems[1]


def test_what_was_prepared_before_stays(run: Callable[..., Path], raw: Path, contents: Callable[[Path], Any]) -> None:
    before = contents(run(DATASETS["semantic"]))
    Image.new("L", SIZE[::-1], 99).save(raw / VAL["semantic"][1])
    with pytest.raises(DatasetError, match="label id 99"):
        run(DATASETS["semantic"])
    assert contents(raw.parent / "out" / "prepared") == before
