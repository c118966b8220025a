"""Annotation files as people have them: one row for each situation, with what must be said or come out."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_annotation_files import (
    HEIGHT,
    WIDTH,
    Change,
    Content,
    coco_file,
    each,
    octagon,
    one,
    prepare_cityscapes,
    prepare_coco,
    prepare_labels,
)

from pipeline.config.datasets import LabelDataset
from pipeline.data.coco import DatasetError
from pipeline.data.storage import Storage
from pipeline.data.survey import survey
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.coco_files import DataWarning

EMPTY_RLE = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
SLIVER = [octagon(5, 8, 20, 12), [1, 1]]


def box_as(write: Callable[..., list[float]]) -> Change:
    return each(lambda a: a.update(bbox=write(*a["bbox"])))


def drop(*keys: str) -> Change:
    return each(lambda a: [a.pop(key) for key in keys])


def categories(*names: str) -> Change:
    return lambda content: content.update(
        categories=[{"id": number, "name": name, "supercategory": "none"} for number, name in enumerate(names)]
    )


def merged_ids(content: Content) -> None:
    content["annotations"] += json.loads(json.dumps(content["annotations"]))


#: What is refused, by `prepare` and by `score` alike, and what the message says.
REFUSED: dict[str, tuple[Change, tuple[str, ...]]] = {
    # Fields against each other
    "boxes x1 y1 x2 y2": (
        box_as(lambda x, y, w, h: [x, y, x + w, y + h]),
        ("12 of 12 boxes do not fit their masks; they look like x1, y1, x2, y2", "annotation 1 (image 1)",
         "delete the bbox"),
    ),
    "boxes y x h w": (box_as(lambda x, y, w, h: [y, x, h, w]), ("look like y, x, height, width",)),
    "boxes y1 x1 y2 x2": (box_as(lambda x, y, w, h: [y, x, y + h, x + w]), ("look like y1, x1, y2, x2",)),
    "boxes 0 to 1": (
        box_as(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]),
        ("look like x, y, width, height from 0 to 1",),
    ),
    "YOLO's boxes": (
        box_as(lambda x, y, w, h: [(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT]),
        ("centre x, centre y, width, height from 0 to 1, as YOLO has them",),
    ),
    "masks 0 to 1": (
        each(lambda a: a.update(segmentation=[[v / 100 for v in a["segmentation"][0]]])),
        ("12 of 12 masks have no pixel; their coordinates look like shares of the image", "multiply x by"),
    ),
    "RLEs of one run": (each(lambda a: a.update(segmentation=EMPTY_RLE)), ("12 of 12 masks have no pixel",)),
    "a box without area": (one(bbox=[5, 8, 0, 12]), ("box [5, 8, 0, 12] has no area inside", "delete the bbox")),
    # Nothing to learn from
    "Roboflow's detection export": (
        each(lambda a: a.update(segmentation=[])), ("all 12 annotations have boxes but no masks", "in Roboflow"),
    ),
    "two categories of one name": (
        lambda c: c["categories"].insert(0, {"id": 0, "name": "cat"}),
        ("categories 0, 1 are named 'cat'; without an annotation: 0", "Roboflow writes the supercategory"),
    ),
    # Values
    "iscrowd as a text": (one(iscrowd="0"), ("iscrowd is '0', expected 0 or 1",)),
    "an area as a text": (one(area="210"), ("area is '210', expected a number",)),
    "a box of texts": (one(bbox=["5", "8", "20", "12"]), ("bbox is ['5', '8', '20', '12'], expected four",)),
    "an image id as a text": (one(image_id="1"), ("image_id is '1', expected a whole number",)),
    "an id beyond 64 bits": (one(id=2**63), (f"id is {2**63}, too large for 64 bits", "number them anew")),
    "a category id beyond 32 bits": (
        lambda c: (c["categories"][0].update(id=2**31), c["annotations"][0].update(category_id=2**31)),
        (f"category_id is {2**31}, too large for 32 bits",),
    ),
    "an image of 100,000 pixels square": (
        lambda c: c["images"][0].update(width=100_000, height=100_000), ("100000x100000 are too many pixels",),
    ),
    "an RLE with width and height swapped": (
        one(segmentation={"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}),
        (f"the RLE is of size [{WIDTH}, {HEIGHT}], its image of [{HEIGHT}, {WIDTH}]", "height comes first"),
    ),
    "a damaged RLE": (
        one(segmentation={"size": [HEIGHT, WIDTH], "counts": [100]}),
        ("the RLE's counts add up to 100 pixels", "they were damaged or edited"),
    ),
    "polygons without their outer list": (
        one(segmentation=[10, 10, 50, 10, 50, 40]), ("polygon 0 is not a list", "each polygon is a list of its own"),
    ),
    # Twenty lines that say the same
    "files that were merged": (
        merged_ids, ("12 problems", "problem: 12 ids that occur several times", "annotation 1; annotation 2; ...",
                     "-> merged files"),
    ),
}  # fmt: skip


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., float]:
    """AP of the prepared objects against the file that they were prepared from; what is said must be all warnings."""

    def score(change: Change, said: tuple[str, ...] = ()) -> float:
        content = coco_file()
        change(content)
        (tmp_path / "truth.json").write_text(json.dumps(content))
        prepared = tmp_path / "out" / "truth" / "instances.json"
        objects = json.loads(prepared.read_text())["annotations"] if prepared.is_file() else []
        found = [{key: each[key] for key in ("image_id", "category_id", "segmentation")} for each in objects]
        (tmp_path / "found.json").write_text(json.dumps([{**result, "score": 0.9} for result in found]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = coco_ap(tmp_path / "truth.json", tmp_path / "found.json")["AP"]
        messages = "\n".join(str(w.message) for w in caught if w.category is DataWarning)
        assert all(text in messages for text in said), messages
        assert bool(messages) == bool(said), messages
        return value

    return score


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path, score: Callable[..., float]) -> None:
    change, said = REFUSED[name]
    for attempt in (lambda: prepare_coco(tmp_path, change, hold_out=True), lambda: score(change)):
        with pytest.raises(DatasetError) as caught:
            attempt()
        message = str(caught.value)
        assert all(text in message for text in said), message
        assert len(message.splitlines()) < 25


def with_line(content: Content) -> None:
    """Annotation 1 has a part of two points, annotation 2 is one point three times, 3 lies outside its image."""
    first, second, third = content["annotations"][:3]
    first["segmentation"] = SLIVER
    second["segmentation"] = [[3, 3, 3, 3, 3, 3]]
    third["segmentation"] = [octagon(200, 200, 20, 20)]


#: What is used, by `prepare` and `score` alike: the ids that are left, and what is said.
USED: dict[str, tuple[Change, set[int], tuple[str, ...]]] = {
    "as it should be": (lambda c: None, set(), ()),
    "without boxes and areas": (drop("bbox", "area"), set(), ()),
    "null boxes": (each(lambda a: a.update(bbox=None)), set(), ()),
    "without iscrowd": (drop("iscrowd"), set(), ()),
    "iscrowd true and false": (each(lambda a: a.update(iscrowd=False)), set(), ()),
    "boxes to two digits, a pixel beside": (
        box_as(lambda x, y, w, h: [x - 0.37, y + 0.62, w + 1.01, h - 0.99]), set(), (),
    ),
    "a part of one point": (
        one(segmentation=SLIVER), set(), ("annotation 1 (image 1): without its polygon 1 has 1 points",),
    ),
    "masks of no pixel": (
        with_line, {2, 3}, ("annotation 2 (image 1)", "polygon 1 has 1 points"),
    ),
    "an RLE of one run": (one(segmentation=EMPTY_RLE), {1}, ("annotation 1 (image 1): its mask has no pixel",)),
    "one odd box": (
        one(bbox=[40, 8, 20, 12]), set(),
        ("1 of 12 boxes do not fit their masks", "box [40, 8, 20, 12], its mask's [5, 8,"),
    ),
    "areas of the boxes": (
        each(lambda a: a.update(segmentation=[octagon(*a["bbox"])[:6]], area=a["bbox"][2] * a["bbox"][3])),
        set(), ("areas do not fit their masks; they are their boxes' areas",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USED)
def test_the_truth_is_what_is_prepared(name: str, tmp_path: Path, score: Callable[..., float]) -> None:
    change, gone, said = USED[name]
    prepared = prepare_coco(tmp_path, change)
    kept = set(range(1, 13)) - gone
    for split in ("train", "val"):
        rows = prepared.manifest(split).to_pylist()
        assert {a["id"] for row in rows for a in row["annotations"]} == kept
        summary = prepared.summary["splits"][split]
        assert (summary["objects"], len(summary["dropped_annotations"])) == (len(kept), len(gone))
    truth = json.loads((prepared.truth / "instances.json").read_text())
    assert {a["id"] for a in truth["annotations"]} == kept
    messages = "\n".join([*prepared.left_out, *prepared.warnings])
    assert bool(prepared.left_out or prepared.warnings) == bool(said), prepared.warnings
    assert all(text in messages for text in said), messages
    assert score(change, said) == pytest.approx(100)


def test_a_dropped_annotation_is_not_in_the_truth(tmp_path: Path) -> None:
    found = prepare_coco(tmp_path, one(segmentation=[]), invalid_annotations="drop")
    truth = json.loads((found.truth / "instances.json").read_text())
    assert 1 not in {a["id"] for a in truth["annotations"]}
    assert len(found.summary["splits"]["val"]["dropped_annotations"]) == 1


#: A dataset that teaches nothing, and what is said.
NOTHING: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "CVAT's brush": (
        lambda root: prepare_coco(root, each(lambda a: a.update(iscrowd=1))),
        ("nothing to learn from in the train split: all 12 annotations are crowds",
         "CVAT exports brush masks as crowds"),
    ),
    "no annotation": (
        lambda root: prepare_coco(root, lambda c: c.update(annotations=[])), ("no image has an annotation", "export"),
    ),
    "no image": (
        lambda root: prepare_coco(root, lambda c: c.update(images=[], annotations=[])), ("the list 'images' is empty",),
    ),
    "boxes only, dropped": (
        lambda root: prepare_coco(root, drop("segmentation"), invalid_annotations="drop"),
        ("all 12 annotations have boxes but no masks", "in Roboflow"),
    ),
    "all unusable, dropped": (
        lambda root: prepare_coco(root, each(lambda a: a.update(segmentation=[[1, 2]])), invalid_annotations="drop"),
        ("nothing to learn from in the train split: all 12 annotations are left out: 12 annotations with a polygon",),
    ),
    "labelIds copied over instanceIds": (
        lambda root: prepare_cityscapes(root, np.where(np.eye(40) > 0, 24, 7)),
        ("all 1 objects have bare label ids", "labelIds were copied over instanceIds"),
    ),
    "Cityscapes without an object": (
        lambda root: prepare_cityscapes(root, np.full((8, 8), 7)), ("no image has an annotation",),
    ),
    "labels all 255": (
        lambda root: prepare_labels(root, np.full((8, 8), 255), {"a": 0, "b": 1}, [255]),
        ("every pixel is ignored (ids 255)", "--classes background=0,object=255"),
    ),
    "255 is the object": (
        lambda root: prepare_labels(root, np.eye(8) * 255, {"background": 0}, [255]),
        ("'background' is the only class in it; 12.5% of the pixels is ignored (ids 255)", "object=255"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_learn_from_is_refused(name: str, tmp_path: Path) -> None:
    make, said = NOTHING[name]
    with pytest.raises(DatasetError) as caught:
        make(tmp_path)
    message = str(caught.value)
    assert all(text in message for text in said), message
    assert not (tmp_path / "out").exists()


def test_more_objects_in_an_image_than_pycocotools_measures_at_once(tmp_path: Path) -> None:
    def change(content: Content) -> None:
        first = content["annotations"][0]
        del first["area"], first["bbox"]
        content["annotations"] += [{**first, "id": 100 + number} for number in range(300)]

    found = prepare_coco(tmp_path, change)
    rows = found.manifest("train").to_pylist()
    assert len({annotation["area"] for annotation in rows[0]["annotations"] if annotation["category_id"] == 1}) == 2
    assert len(survey(found, Storage(str(tmp_path))).odd) == 2 * 300


def test_more_than_255_classes_of_labels() -> None:
    split = {"images": "a", "labels": "b"}
    with pytest.raises(ValueError, match="256 classes; expected at most 255"):
        LabelDataset(
            source="labels", root=".", train=split, val=split, classes={str(i): i for i in range(256)}, ignored=[]
        )


def test_a_class_that_never_occurs_is_named(tmp_path: Path) -> None:
    found = prepare_coco(tmp_path, lambda c: c["categories"].append({"id": 3, "name": "bird"}))
    assert found.warnings == ["class 'bird': no object in either split"]


def test_what_a_dataset_teaches_is_in_its_summary(tmp_path: Path) -> None:
    change = one(iscrowd=1)
    summary = prepare_coco(tmp_path, change).summary["splits"]["train"]
    assert {key: summary[key] for key in ("images", "images_without_objects", "objects", "crowds")} == {
        "images": 4, "images_without_objects": 0, "objects": 11, "crowds": 1,
    }  # fmt: skip
    assert summary["classes"] == {
        "cat": {"objects": 7, "crowds": 1, "images": 4}, "dog": {"objects": 4, "crowds": 0, "images": 4},
    }  # fmt: skip


def test_six_kinds_of_faults_at_once_are_shown_on_a_screen(tmp_path: Path) -> None:
    def change(content: Content) -> None:
        faults: list[dict[str, Any]] = [
            {"segmentation": None}, {"segmentation": [[1, 2, 3, 4]]}, {"iscrowd": "0"},
            {"category_id": 99}, {"image_id": 999}, {"bbox": [5, 8, 0, 0]},
        ]  # fmt: skip
        for number in range(1200):
            fresh = json.loads(json.dumps(content["annotations"][0]))
            content["annotations"].append({**fresh, "id": 100 + number, **faults[number % 6]})

    with pytest.raises(DatasetError) as caught:
        prepare_coco(tmp_path, change)
    lines = str(caught.value).splitlines()
    assert len(lines) < 25
    assert "1,200 problems" in lines[0].split(":")[1] or "2,400 problems" in lines[0]
    assert sum("problem: " in line and "annotations" in line for line in lines) == 6
