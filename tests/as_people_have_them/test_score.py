"""`pointrend score` on files as people have them: for each situation what must come out, or be said.

A new report of a user is one more row.
"""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from made_up_instances import annotation, disc, perfect, scene, truth
from made_up_lvis import RESULTS, SHAPE, lvis_file, result, square
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from pipeline.metrics.commands import app

SIZE = (40, 60)


def score(folder: Path, words: str) -> Result:
    """Runs a command whose words with a slash or an extension are files in a folder."""
    is_file = lambda word: "/" in word or word.endswith((".json", ".txt"))  # noqa: E731
    return CliRunner().invoke(app, [str(folder / word) if is_file(word) else word for word in words.split()])


# --- label PNGs


def cells() -> np.ndarray:
    """Background 0, a cell 1 of 500 pixels, another class 2 of 300, and 10 ignored pixels 255."""
    ids = np.zeros(SIZE, np.uint8)
    ids[10:30, 5:30] = 1
    ids[20:35, 35:55] = 2
    ids[0, :10] = 255
    return ids


def found() -> np.ndarray:
    """Half of the 2 is taken for 1; nothing is predicted as ignored."""
    ids = np.where(cells() == 255, 0, cells())
    ids[20:35, 35:45] = 1
    return ids.astype(np.uint8)


def street(*, train: bool = False) -> np.ndarray:
    """Road, a car, sky and the car that takes the picture, which is ignored: label ids or train ids."""
    ids = np.full(SIZE, 0 if train else 7, np.uint8)
    ids[10:30, 5:30] = 13 if train else 26
    ids[:5] = 10 if train else 23
    ids[35:] = 255 if train else 1
    return ids


@dataclass(frozen=True)
class Labels:
    """A situation of label PNGs: files by path, the command, and what it prints (as JSON) or says."""

    files: Mapping[str, np.ndarray]
    command: str
    scores: Mapping[str, Any] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    fails: bool = False


OWN = {"gt/a.png": cells(), "pred/a.png": found(), "gt/b.png": cells(), "pred/b.png": cells()}
IOU_1, IOU_2 = 100 * 1000 / 1150, 100 * 450 / 600  # in the two pictures of OWN together
CITY = "t_0_gtFine_labelIds.png"
LABELS = {
    "own PNGs with ids 0..2": Labels(
        OWN,
        "miou --gt gt/ --pred pred/ --classes 3",
        {"mIoU": (100 + IOU_1 + IOU_2) / 3, "IoU": {"0": 100, "1": IOU_1, "2": IOU_2}}
        | {"images": 2, "images_without_predictions": 0, "ignored_pixels_percent": 100 * 10 / 2400},
    ),
    "names, and a background that does not count": Labels(
        OWN,
        "miou --gt gt/ --pred pred/ --classes bg,cell,edge --ignored 0,255",
        {"IoU": {"cell": IOU_1, "edge": IOU_2}, "ignored_pixels_percent": 100 * 1600 / 2400},
    ),
    "ids with gaps": Labels(
        {"gt/a.png": np.where(cells() == 2, 90, cells()).astype(np.uint8), "pred/a.png": cells()},
        "miou --gt gt/ --pred pred/ --classes 0=bg,1=cell,90=edge",
        said=("label id 2", "expected ids 0-1, 90", "ids of the ground truth: 0 (66%), 1 (21%), 90 (12%)"),
        fails=True,
    ),
    "one picture of two": Labels(
        {**OWN, "list.txt": np.zeros(0)},
        "miou --gt gt/ --pred pred/ --classes 3 --images list.txt",
        {"mIoU": 100, "images": 1},
    ),
    "the ground truth has a suffix": Labels(
        {"gt/a_mask.png": cells(), "pred/a.png": found()},
        "miou --gt gt/ --pred pred/ --classes 3 --gt-suffix _mask.png",
        {"images": 1, "IoU": {"0": 100, "1": 100 * 500 / 650, "2": 100 * 150 / 300}},
    ),
    "no word about the classes": Labels(
        OWN, "miou --gt gt/ --pred pred/", said=("for classes other than Cityscapes' give --classes",), fails=True
    ),
    "renamed as Cityscapes', with ids that it ignores": Labels(
        {f"gt/{CITY}": found(), "pred/t_0.png": found()},
        "miou --gt gt/ --pred pred/ --json",
        said=("nothing to score, because all pixels of 1 image have an ignored id", "0 (67%)", "need --classes"),
        fails=True,
    ),
    "ids one too high": Labels(
        {**OWN, "pred/a.png": found() + 1, "pred/b.png": cells() + 1},
        "miou --gt gt/ --pred pred/ --classes 3",
        said=("the predictions' ids (0-3) look one too high",),
        fails=True,
    ),
    "ids one too low, of which all are known": Labels(
        {"gt/a.png": np.maximum(cells(), 1), "pred/a.png": np.where(cells() == 2, 1, 0).astype(np.uint8)},
        "miou --gt gt/ --pred pred/ --classes 3",
        {"mIoU": pytest.approx(0, abs=1)},
        said=("the predictions' ids (0-1) look one too low (100% of the pixels would be right instead of 0%)",),
    ),
    "a mask of 0 and 255 for a class": Labels(
        {"gt/a.png": np.minimum(cells(), 1), "pred/a.png": 255 * (cells() == 1).astype(np.uint8)},
        "miou --gt gt/ --pred pred/ --classes 2",
        said=("ids are 0 and 255, as in a mask",),
    ),
    "train ids": Labels(
        {f"gt/{CITY}": street(), "pred/t_0.png": street(train=True)},
        "miou --gt gt/ --pred pred/",
        said=("look like train ids: give --pred-ids train (100% of the pixels",),
        fails=True,
    ),
    "train ids of which all are label ids too": Labels(
        {f"gt/{CITY}": street(), "pred/t_0.png": np.where(street(train=True) == 255, 0, street(train=True))},
        "miou --gt gt/ --pred pred/",
        {"mIoU": 0},
        said=("note: the predictions' ids (0, 10, 13) look like train ids: give --pred-ids train",),
    ),
    "train ids, as told": Labels(
        {f"gt/{CITY}": street(), "pred/t_0.png": street(train=True)},
        "miou --gt gt/ --pred pred/ --pred-ids train",
        {"mIoU": 100, "ignored_pixels_percent": 12.5},
    ),
    "train ids on both sides": Labels(
        {"gt/t_0_gtFine_labelTrainIds.png": street(train=True), "pred/t_0.png": street(train=True)},
        "miou --gt gt/ --pred pred/ --gt-ids train --pred-ids train",
        {"mIoU": 100, "images": 1},
    ),
    "label ids, called train ids": Labels(
        {f"gt/{CITY}": street(), "pred/t_0.png": street()},
        "miou --gt gt/ --pred pred/ --pred-ids train",
        said=("look like label ids: give --pred-ids label",),
        fails=True,
    ),
    "sizes swapped": Labels(
        {**OWN, "pred/a.png": found().T.copy()},
        "miou --gt gt/ --pred pred/ --classes 3",
        said=("the image is 40x60", "width and height look swapped"),
        fails=True,
    ),
    "predictions of some": Labels(
        {**OWN, "gt/c.png": cells(), "gt/d.png": cells()},
        "miou --gt gt/ --pred pred/ --classes 3",
        said=("(2 of 4 images have none)",),
        fails=True,
    ),
    "trimap without a boundary": Labels(
        {"gt/a.png": np.zeros(SIZE, np.uint8), "pred/a.png": found()},
        "miou --gt gt/ --pred pred/ --classes 3 --trimap 5",
        said=("no image has a boundary, so leave --trimap out",),
        fails=True,
    ),
}


def check(done: Result, scores: Mapping[str, Any], said: tuple[str, ...], fails: bool) -> None:
    assert done.exit_code == int(fails), done.output
    for text in said:
        assert text in done.stderr
    assert "Traceback" not in done.output
    if fails:
        assert done.stdout == ""
    else:
        assert done.stderr.startswith("note: ") if said else done.stderr == ""
        values = json.loads(done.stdout)
        for name, expected in scores.items():
            assert values[name] == (
                expected if isinstance(expected, type(pytest.approx(0))) else pytest.approx(expected)
            )


@pytest.mark.parametrize("case", LABELS.values(), ids=LABELS)
def test_label_pngs(case: Labels, tmp_path: Path) -> None:
    for name, pixels in case.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.fromarray(pixels).save(tmp_path / name)
        else:
            (tmp_path / name).write_text("b.png\n")
    words = case.command if case.command.endswith("--json") else f"{case.command} --json"
    check(score(tmp_path, words), case.scores, case.said, case.fails)


# --- instances

COCO_TRUTH, COCO_RESULTS = scene(0)
FIRST_TWO = sum(entry["image_id"] in (1, 2) for entry in COCO_RESULTS)
RINGS = sum(entry["category_id"] == 8 and not entry["iscrowd"] for entry in COCO_TRUTH["annotations"])


def changed(**values: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """The results with other values of some keys, each computed from its entry."""
    return [{**entry, **{key: value(entry) for key, value in values.items()}} for entry in COCO_RESULTS]


def three_classes() -> dict[str, Any]:
    """A disc of each of the classes 1 and 2; class 3 has none."""
    discs = [annotation(n, 1, n, disc(60, 80, 20 + 30 * (n - 1), 30, 12)) for n in (1, 2)]
    categories = [{"id": n, "name": name} for n, name in ((1, "cup"), (2, "pen"), (3, "key"))]
    return {**truth(discs, {1: (60, 80)}), "categories": categories}


@dataclass(frozen=True)
class Instances:
    """A situation of COCO files: ground truth, results, the command, and what it prints (as JSON) or says."""

    command: str
    truth: Any
    results: Any
    scores: Mapping[str, Any] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    fails: bool = False
    list_: Any = ""


# Image 99 is COCO's and not LVIS's; images 2 and 4 are LVIS's alone.
OVERLAPPING = [*RESULTS, result(99, 1, square(30), 0.9)]
SHARED = {"images": [{"id": id_, "height": SHAPE[0], "width": SHAPE[1]} for id_ in (1, 3, 99)]}
FILES = "gt.json pred.json"
INSTANCES = {
    "all is counted": Instances(
        f"ap {FILES}",
        COCO_TRUTH,
        COCO_RESULTS,
        {"images": 12, "images_without_predictions": 0, "objects": 43, "ignored_objects": 5, "predictions": 58},
    ),
    "some images have no predictions": Instances(
        f"ap {FILES}",
        COCO_TRUTH,
        [entry for entry in COCO_RESULTS if entry["image_id"] > 4],
        {"images": 12, "images_without_predictions": 4},
        said=("4 of 12 images have no predictions, so their objects count as missed", "--images FILE"),
    ),
    "no predictions at all": Instances(
        f"boundary-ap {FILES}",
        COCO_TRUTH,
        [],
        {"AP": 0, "images_without_predictions": 12, "ignored_predictions_percent": None},
        said=("12 of 12 images have no predictions",),
    ),
    "an image list": Instances(
        f"ap {FILES} --images list.txt",
        COCO_TRUTH,
        COCO_RESULTS,
        {"images": 2, "predictions": FIRST_TWO, "predictions_left_out": len(COCO_RESULTS) - FIRST_TWO},
        list_="1.png\n2\n",
    ),
    "a list with a name that is not there": Instances(
        f"ap {FILES} --images list.txt",
        COCO_TRUTH,
        COCO_RESULTS,
        said=("1 of 2 images are not in", "dog.png"),
        fails=True,
        list_="1.png\ndog.png\n",
    ),
    "one class": Instances(
        f"ap {FILES} --classes ring",
        COCO_TRUTH,
        COCO_RESULTS,
        {"objects": RINGS, "predictions": sum(entry["category_id"] == 8 for entry in COCO_RESULTS)},
    ),
    "a class that is not there": Instances(
        f"boundary-ap {FILES} --classes square",
        COCO_TRUTH,
        COCO_RESULTS,
        said=("has no class square; its classes are star, ring",),
        fails=True,
    ),
    "no objects": Instances(
        f"ap {FILES}",
        {**COCO_TRUTH, "annotations": []},
        COCO_RESULTS,
        said=("nothing to score, because 12 images to score hold no object",),
        fails=True,
    ),
    "crowds alone": Instances(
        f"ap {FILES}",
        {**COCO_TRUTH, "annotations": [{**entry, "iscrowd": 1} for entry in COCO_TRUTH["annotations"]]},
        COCO_RESULTS,
        said=("hold no object beside 48 crowds",),
        fails=True,
    ),
    "numbers of classes instead of ids": Instances(
        f"ap {FILES}",
        COCO_TRUTH,
        changed(category_id=lambda entry: {3: 0, 8: 1}[entry["category_id"]]),
        said=("category ids 0-1, the ground truth 3, 8; they look like the numbers of the classes, from 0",),
        fails=True,
    ),
    "category ids one too high, of which all are known": Instances(
        f"ap {FILES}",
        three_classes(),
        [{**entry, "category_id": entry["category_id"] + 1} for entry in perfect(three_classes())],
        {"AP": 0},
        said=("category ids look as if they are one too high: of 2 masks that fit an object, 100% do",),
    ),
    "image ids from 0": Instances(
        f"boundary-ap {FILES}",
        COCO_TRUTH,
        changed(image_id=lambda entry: entry["image_id"] - 1),
        said=("unknown image id 0", "5 of 58 predictions", "the image ids look one too low"),
        fails=True,
    ),
    "sizes of masks swapped": Instances(
        f"ap {FILES}",
        COCO_TRUTH,
        changed(segmentation=lambda entry: {**entry["segmentation"], "size": entry["segmentation"]["size"][::-1]}),
        said=("58 of 58 masks have width and height swapped",),
        fails=True,
    ),
    "LVIS and COCO share some images": Instances(
        f"ap-star {FILES}",
        lvis_file(),
        OVERLAPPING,
        said=(
            "unknown image id 99",
            "1 of 9 predictions are of images that the ground truth does not have",
            "--images",
        ),
        fails=True,
    ),
    # Of image 1 the right dog and a cat, which LVIS's file lacks; of image 3 two people, of which one may be there.
    "LVIS and COCO share some images, as told": Instances(
        f"ap-star {FILES} --images list.json --by-class",
        lvis_file(),
        OVERLAPPING,
        {"AP": 100, "AP_by_class": {"person": 100, "dog": 100}, "images": 2, "images_without_predictions": 0}
        | {"predictions": 4, "predictions_left_out": 5, "ignored_predictions_percent": 50},
        list_=SHARED,
    ),
    "LVIS and COCO share some images, and the list has only those of LVIS": Instances(
        f"ap-star {FILES} --images list.txt",
        lvis_file(),
        OVERLAPPING,
        {"AP": 100, "images": 2, "predictions": 4, "predictions_left_out": 5},
        list_="1\n3\n",
    ),
    "images that predictions are not of": Instances(
        f"ap-star {FILES}",
        lvis_file(),
        [entry for entry in RESULTS if entry["image_id"] == 1],
        {"images": 4, "images_without_predictions": 3},
        said=("3 of 4 images have no predictions",),
    ),
    "a list of other images": Instances(
        f"ap-star {FILES} --images list.json",
        lvis_file(),
        RESULTS,
        said=("none of its images is in", "which has 1, 2, 3 and 1 more"),
        fails=True,
        list_={"images": [{"id": 99}]},
    ),
    "a list that is none": Instances(
        f"ap {FILES} --images list.json",
        COCO_TRUTH,
        COCO_RESULTS,
        said=("not a list of images",),
        fails=True,
        list_={"pictures": []},
    ),
}


@pytest.mark.parametrize("case", INSTANCES.values(), ids=INSTANCES)
def test_instances(case: Instances, tmp_path: Path) -> None:
    for name, content in (("gt.json", case.truth), ("pred.json", case.results), ("list.json", case.list_)):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "list.txt").write_text(str(case.list_))
    scores = {
        name: pytest.approx(expected, abs=0.005) if expected is not None else pytest.approx(None)
        for name, expected in case.scores.items()
    }
    check(score(tmp_path, f"{case.command} --json"), scores, case.said, case.fails)


# --- Cityscapes' instances

CAR = np.zeros(SIZE, bool)
CAR[10:30, 5:30] = True
CITY_INSTANCES = {
    "all is counted": (
        "",
        {"a": "a.png 26 0.9\n", "b": ""},
        {"AP": 50, "images": 2, "images_without_predictions": 1},
        (),
    ),
    "predictions of classes that do not count": (
        "",
        {"a": "a.png 26 0.9\nb.png 7 0.8\n", "b": "c.png 26 0.9\n"},
        {"AP": 100, "objects": 2, "predictions": 2, "predictions_left_out": 1, "ignored_predictions_percent": 0},
        (),
    ),
    "one image of two": (" --images list.txt", {"a": "a.png 26 0.9\n"}, {"AP": 100, "images": 1}, ()),
    "one class": (" --classes car", {"a": "a.png 26 0.9\n", "b": "c.png 26 1\n"}, {"AP": 100, "AP-car": 100}, ()),
    "a class without objects": (
        " --classes person",
        {"a": "", "b": ""},
        {},
        ("hold no object of at least 100 pixels",),
    ),
    "a class that is none": (" --classes road", {"a": "", "b": ""}, {}, ("has no class road; its classes are",)),
    "train ids": ("", {"a": "a.png 13 0.9\n", "b": "c.png 13 0.9\n"}, {}, ("none of 2 predictions", "not train ids")),
    "no file for an image": ("", {"a": "a.png 26 0.9\n"}, {}, ("no prediction for image b",)),
}


@pytest.mark.parametrize("case", CITY_INSTANCES.values(), ids=CITY_INSTANCES)
def test_cityscapes_instances(
    case: tuple[str, Mapping[str, str], Mapping[str, Any], tuple[str, ...]], tmp_path: Path
) -> None:
    options, files, scores, said = case
    for folder in ("gt", "pred"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        ids = np.where(CAR, 26001, 7).astype(np.uint16)
        Image.fromarray(ids).save(tmp_path / f"gt/{name}_gtFine_instanceIds.png")
    for name in ("a", "b", "c"):
        Image.fromarray(255 * CAR.astype(np.uint8)).save(tmp_path / f"pred/{name}.png")
    for name, lines in files.items():
        (tmp_path / f"pred/{name}.txt").write_text(lines)
    (tmp_path / "list.txt").write_text("a\n")
    done = score(tmp_path, f"cityscapes-ap --gt gt/ --pred pred/{options} --json")
    if scores.get("images_without_predictions"):
        assert "1 of 2 images have no predictions" in done.stderr
        said = ("note",)
    check(done, scores, said, not scores)


def test_ap_by_class_is_what_pycocotools_says(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(COCO_TRUTH))
    (tmp_path / "pred.json").write_text(json.dumps(COCO_RESULTS))
    values = json.loads(score(tmp_path, f"ap {FILES} --by-class --json").stdout)
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(tmp_path / "gt.json"))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(tmp_path / "pred.json")), "segm")
        expected = {}
        for category in COCO_TRUTH["categories"]:
            evaluation.params.catIds = [category["id"]]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            expected[category["name"]] = 100 * float(evaluation.stats[0])
    assert values["AP_by_class"] == pytest.approx(expected, abs=1e-9)
    assert values["AP"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)


def test_csv_has_the_numbers_of_the_json(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(COCO_TRUTH))
    (tmp_path / "pred.json").write_text(json.dumps(COCO_RESULTS))
    options = f"ap {FILES} --by-class --resamples 20"
    values = json.loads(score(tmp_path, f"{options} --json").stdout)
    lines = list(csv.DictReader(io.StringIO(score(tmp_path, f"{options} --csv").stdout)))
    assert list(lines[0]) == ["metric", "class", "value", "low", "high"]
    numbers = {(line["metric"], line["class"]): line for line in lines}
    assert float(numbers["AP", "ring"]["value"]) == values["AP_by_class"]["ring"]
    assert [float(numbers["AP", ""][end]) for end in ("low", "high")] == values["AP_interval"]
    assert (numbers["images", ""]["value"], numbers["images", ""]["low"]) == ("12", "")
    assert score(tmp_path, f"{options} --csv --json").exit_code == 2


def test_options_that_contradict_are_refused(tmp_path: Path) -> None:
    for options in ("--classes 0", "--classes a,1=b", "--classes a,a", "--classes 2 --ignored 0,1", "--ignored x"):
        done = score(tmp_path, f"miou --gt gt/ --pred pred/ {options}")
        assert (done.exit_code, done.stdout) == (2, "")
    assert score(tmp_path, "miou --gt gt/ --pred pred/ --classes 3 --pred-ids train").exit_code == 2
