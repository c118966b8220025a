"""The COCO-category view of LVIS files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_lvis import (
    ACORN,
    COCO_DOG,
    COCO_PERSON,
    DOG,
    PERSON,
    coco_view_file,
    image,
    lvis_annotation,
    lvis_file,
    square,
    v05,
)

from pipeline.config.datasets import CocoSynset, SynsetTable
from pipeline.config.reader import ConfigError, load
from pipeline.data.coco import DatasetError
from pipeline.data.lvis import SYNSETS, coco_view

PUPPY = 40


@pytest.fixture
def view(tmp_path: Path) -> Callable[[Any], dict[str, Any]]:
    def view(content: Any) -> dict[str, Any]:
        (tmp_path / "lvis.json").write_text(json.dumps(content))
        return coco_view(tmp_path / "lvis.json")

    return view


def test_the_view_by_hand(view: Callable[[Any], dict[str, Any]]) -> None:
    assert view(lvis_file()) == coco_view_file()


def test_v05(view: Callable[[Any], dict[str, Any]]) -> None:
    found = view(v05(lvis_file()))
    expected = coco_view_file()
    assert found["annotations"] == expected["annotations"]
    assert found["categories"] == expected["categories"]
    # v0.5 names the files of COCO 2014; where they are in COCO 2017 stands in the URL.
    assert [{**entry, **raw} for entry, raw in zip(found["images"], expected["images"], strict=True)] == found["images"]


def test_a_file_name_stays_where_there_is_no_url(view: Callable[[Any], dict[str, Any]]) -> None:
    content = lvis_file()
    del content["images"][0]["coco_url"]
    content["images"][0]["file_name"] = "here.jpg"
    assert view(content)["images"][0]["file_name"] == "here.jpg"


def test_the_view_of_the_view_is_the_view(view: Callable[[Any], dict[str, Any]]) -> None:
    once = view(v05(lvis_file()))
    assert view(once) == once


def test_a_view_with_another_table_carries_it(tmp_path: Path) -> None:
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(lvis_file()))
    entry = CocoSynset(id=7, name="oak fruit", synset="acorn.n.01")
    found = coco_view(path, SynsetTable([entry]))
    assert found["categories"] == [{"id": 7, "name": "oak fruit", "synset": "acorn.n.01", "frequency": "r"}]
    assert [(raw["id"], raw["category_id"]) for raw in found["annotations"]] == [(13, 7)]
    assert [raw["neg_category_ids"] for raw in found["images"]] == [[], [7], [], []]
    assert [raw["not_exhaustive_category_ids"] for raw in found["images"]] == [[], [], [], [7]]
    path.write_text(json.dumps(found))
    assert coco_view(path) == found
    path.write_text(json.dumps({**found, "synsets": [{"id": 7, "name": "oak fruit"}]}))
    with pytest.raises(DatasetError, match=r"synsets.0.synset: Field required"):
        coco_view(path)


def test_a_category_that_the_version_lacks_is_left_out(view: Callable[[Any], dict[str, Any]]) -> None:
    content = lvis_file()
    content["categories"] = [category for category in content["categories"] if category["id"] != DOG]
    content["annotations"] = content["annotations"][1:]
    content["images"][1]["neg_category_ids"] = [ACORN]
    found = view(content)
    assert [category["id"] for category in found["categories"]] == [COCO_PERSON]
    assert [raw["id"] for raw in found["annotations"]] == [12]


@pytest.mark.parametrize(
    ("annotated", "negative", "partial", "expected"),
    [
        ([], [DOG, PUPPY], [], ([COCO_DOG], [])),
        ([], [DOG], [], ([], [])),
        ([DOG, PUPPY], [], [], ([], [])),
        ([DOG], [PUPPY], [], ([], [])),
        ([DOG], [], [], ([], [COCO_DOG])),
        ([DOG, PUPPY], [], [PUPPY], ([], [COCO_DOG])),
    ],
    ids=[
        "has neither",
        "of one nothing is known",
        "all of both",
        "one, not the other",
        "one, the other unknown",
        "some",
    ],
)
def test_two_categories_of_one_synset(
    view: Callable[[Any], dict[str, Any]],
    annotated: list[int],
    negative: list[int],
    partial: list[int],
    expected: tuple[list[int], list[int]],
) -> None:
    content = lvis_file()
    content["categories"] = [
        *content["categories"],
        {"id": PUPPY, "name": "puppy", "synset": "dog.n.01", "frequency": "c"},
    ]
    content["images"].append(image(5, negative, partial))
    content["annotations"] += [lvis_annotation(50 + id_, 5, id_, square(10)) for id_ in annotated]
    found = view(content)
    last = found["images"][-1]
    assert (last["neg_category_ids"], last["not_exhaustive_category_ids"]) == expected
    assert [raw["category_id"] for raw in found["annotations"][2:]] == [COCO_DOG] * len(annotated)
    assert [category["id"] for category in found["categories"]] == [COCO_PERSON, COCO_DOG]


BAD = {
    "a COCO file": (
        lambda c: [entry.pop(f"{kind}_category_ids") for entry in c["images"] for kind in ("neg", "not_exhaustive")],
        "no image has neg_category_ids: not an LVIS file",
    ),
    "an image without a list": (lambda c: c["images"][1].pop("neg_category_ids"), "image 2: neg_category_ids is None"),
    "a list of texts": (
        lambda c: c["images"][1].update(not_exhaustive_category_ids=["1"]),
        "image 2: not_exhaustive_category_ids is ['1']",
    ),
    "an unknown negative": (lambda c: c["images"][0].update(neg_category_ids=[PERSON, 999]), "has [999], ids of no"),
    "an unknown category": (lambda c: c["annotations"][0].update(category_id=999), "annotation 11 (image 1): unknown"),
    "no synset": (lambda c: c["categories"][0].pop("synset"), "category 1: synset is None"),
    "no frequency": (lambda c: c["categories"][0].pop("frequency"), "category 1: frequency is None"),
    "none of COCO's": (
        lambda c: [category.update(synset="acorn.n.01") for category in c["categories"]],
        "no category has the synset of a COCO category",
    ),
    "no annotations": (lambda c: c.pop("annotations"), "no list 'annotations'"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD.keys())
def test_what_is_no_lvis_file_is_one_error(
    view: Callable[[Any], Any], tmp_path: Path, change: Callable[[Any], Any], said: str
) -> None:
    content = json.loads(json.dumps(lvis_file()))
    change(content)
    with pytest.raises(DatasetError, match=re.escape(f"{tmp_path / 'lvis.json'}: ")) as caught:
        view(content)
    assert said in str(caught.value)


def test_the_table_has_cocos_80_categories() -> None:
    table = load(SynsetTable, SYNSETS).root
    assert len(table) == 80
    # COCO's 90 ids, without the ten that its instances do not use.
    assert [entry.id for entry in table] == sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
    assert {entry.name: entry.synset for entry in table}["cow"] == "beef.n.01"


@pytest.mark.parametrize(
    "second", ["{id: 1, name: b, synset: y}", "{id: 2, name: a, synset: y}", "{id: 2, name: b, synset: x}"]
)
def test_a_table_that_says_something_twice(tmp_path: Path, second: str) -> None:
    (tmp_path / "table.yaml").write_text(f"- {{id: 1, name: a, synset: x}}\n- {second}\n")
    with pytest.raises(ConfigError, match="more than once"):
        load(SynsetTable, tmp_path / "table.yaml")
