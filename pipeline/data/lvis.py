"""Maps an LVIS file to COCO's categories: the ground truth of AP* (Section 4.1 of the paper)."""

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from pipeline.config.datasets import SynsetTable
from pipeline.config.reader import load
from pipeline.data.annotations import describe
from pipeline.data.coco import DatasetError, load_instances

#: Part of the package rather than of the configuration: it is a fact about the two datasets.
SYNSETS = Path(__file__).with_name("coco_to_synset.yaml")


def coco_view(annotations: Path, synsets: SynsetTable | None = None) -> dict[str, Any]:
    """An LVIS file (v0.5 or v1) with COCO's categories.

    An LVIS category belongs to the COCO category that has its synset. Annotations of others are dropped; COCO
    categories that match none are left out. LVIS is a federated dataset: each image lists the categories that are
    absent from it (negative), and those whose objects are not all annotated (not exhaustive). Both lists are mapped the
    same way (Appendix D: they decide which detections count as wrong). The view of a view is the view itself.

    If several LVIS categories have the same synset, the COCO category is negative for an image if all of them are, and
    exhaustive if all of them are.

    Args:
        annotations: the LVIS JSON.
        synsets: the categories of another dataset in COCO's format, with their synsets, instead of COCO's own 80. The
            view keeps the table under ``synsets``, so that scoring does not need it as an argument.

    Returns:
        A dataset that the ``lvis`` package evaluates against: images with ``neg_category_ids`` and
        ``not_exhaustive_category_ids`` (sorted COCO ids) and, where their URL says it, a ``file_name`` relative to
        COCO's root, such as ``val2017/000000000139.jpg``; annotations; categories with COCO's ``id`` and ``name`` and
        LVIS's ``synset`` and ``frequency``.

    Raises:
        DatasetError: for a file that is not LVIS's, or with categories that do not resolve.
        ConfigError: for an unusable table of synsets.
    """
    data = load_instances(annotations, names=False)
    _check(data, annotations)
    if synsets is not None:
        data["synsets"] = synsets.model_dump()
    table = {entry.synset: entry for entry in synset_table(data, annotations).root}
    members: dict[int, set[int]] = defaultdict(set)
    categories: dict[int, dict[str, Any]] = {}
    for category in data["categories"]:
        if (entry := table.get(category["synset"])) is not None:
            members[entry.id].add(category["id"])
            view = {"id": entry.id, "name": entry.name, "synset": entry.synset, "frequency": category["frequency"]}
            categories.setdefault(entry.id, view)
    if not categories:
        raise DatasetError(annotations, ["no category has the synset of a COCO category"])
    coco_id = {lvis_id: id_ for id_, lvis_ids in members.items() for lvis_id in lvis_ids}

    present: dict[int, set[int]] = defaultdict(set)
    for raw in data["annotations"]:
        present[raw["image_id"]].add(raw["category_id"])
    return {
        **data,
        "images": [_map_image(image, present[image["id"]], members) for image in data["images"]],
        "annotations": [
            {**raw, "category_id": coco_id[raw["category_id"]]}
            for raw in data["annotations"]
            if raw["category_id"] in coco_id
        ],
        "categories": sorted(categories.values(), key=lambda category: category["id"]),
    }


def synset_table(data: dict[str, Any], path: Path) -> SynsetTable:
    """The table that a view was made with; for any other LVIS file, that of COCO's 80 categories.

    Args:
        data: the file's content.
        path: the file, for the error.

    Raises:
        DatasetError: for an unusable table in the file.
    """
    if "synsets" not in data:
        return load(SynsetTable, SYNSETS)
    try:
        return SynsetTable.model_validate(data["synsets"])
    except ValidationError as error:
        problems = [f"synsets.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise DatasetError(path, problems) from error


def _map_image(image: dict[str, Any], present: set[int], members: dict[int, set[int]]) -> dict[str, Any]:
    absent, partial = set(image["neg_category_ids"]), set(image["not_exhaustive_category_ids"])
    known = absent | present

    def is_partial(lvis_ids: set[int]) -> bool:
        # Several LVIS categories, of which one has objects here and another was not checked in this image.
        return bool(lvis_ids & partial) or bool(lvis_ids & present and lvis_ids - known)

    mapped = {
        **image,
        "neg_category_ids": sorted(id_ for id_, lvis_ids in members.items() if lvis_ids <= absent),
        "not_exhaustive_category_ids": sorted(id_ for id_, lvis_ids in members.items() if is_partial(lvis_ids)),
    }
    # v1 has no file names, and v0.5 those of COCO 2014; the URL's last two parts are COCO 2017's folder and file.
    if isinstance(url := image.get("coco_url"), str):
        mapped["file_name"] = str(PurePosixPath(*PurePosixPath(url).parts[-2:]))
    return mapped


def _check(data: dict[str, Any], path: Path) -> None:
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    if data["images"] and not any(key in image for image in data["images"] for key in lists):
        problem = "no image has neg_category_ids: not an LVIS file of v0.5 or v1 (COCO's instances have none)"
        raise DatasetError(path, [problem])
    problems = [
        f"category {category['id']}: {key} is {category.get(key)!r}, expected {expected} in an LVIS file"
        for category in data["categories"]
        for key, expected, right in (
            ("synset", "a text", isinstance(category.get("synset"), str)),
            ("frequency", "r, c or f", category.get("frequency") in ("r", "c", "f")),
        )
        if not right
    ]
    categories = {category["id"] for category in data["categories"]}
    for image in data["images"]:
        for key in lists:
            ids = image.get(key)
            if not isinstance(ids, list) or not all(type(id_) is int for id_ in ids):
                problems.append(f"image {image['id']}: {key} is {ids!r}, expected a list of category ids")
            elif unknown := sorted(set(ids) - categories):
                problems.append(f"image {image['id']}: {key} has {unknown}, ids of no category")
    problems += [
        f"{describe(raw)}: unknown category id {raw['category_id']}"
        for raw in data["annotations"]
        if raw["category_id"] not in categories
    ]
    if problems:
        raise DatasetError(path, problems)
