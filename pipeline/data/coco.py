"""Reads and checks a COCO-instances dataset.

All problems of a dataset are found before anything is written, and reported in one error.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.annotation_files import format_problems, parse_json
from pipeline.data.annotations import Annotation, CheckedAnnotations, Invalid, as_truth, check_annotations
from pipeline.data.masks import MAX_PIXELS, is_int
from pipeline.data.pictures import KnownPictures, check_pictures
from pipeline.data.problems import lines
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pointrend.wording import counted

#: Bits of the ids in a manifest, by their keys.
BITS = {"id": 64, "image_id": 64, "category_id": 32}
#: What an instances file with an empty list lacks, and why that can be.
EMPTY = {
    "images": "no image: the list 'images' is empty; export the images' entries as well",
    "categories": "no category: the list 'categories' is empty; export it with the classes (labels) of the project",
}


class DatasetError(UserError, ValueError):
    """A dataset that cannot be used; the message lists what is wrong with it by kind, with remedies."""

    def __init__(self, where: Path | str, problems: Sequence[str], remedy: str = "") -> None:
        if len(problems) == 1:
            text = lines(problems, str(where))
        else:
            text = [f"{where}: {len(problems):,} problems", *lines(problems, "problem")]
        super().__init__("\n".join([*text, *filter(None, [remedy])]))
        self.where, self.problems, self.remedy = where, list(problems), remedy

    def __reduce__(self) -> tuple[type["DatasetError"], tuple[Path | str, list[str], str]]:
        return DatasetError, (self.where, self.problems, self.remedy)


@dataclass(frozen=True)
class Category:
    id: int
    name: str


@dataclass(frozen=True)
class ImageRecord:
    """One image; ``file_name`` is relative to the dataset's root."""

    id: int
    file_name: str
    height: int
    width: int
    annotations: list[Annotation] = field(default_factory=list)


@dataclass(frozen=True)
class InstanceSplit:
    """One checked split.

    Attributes:
        categories: in order of their ids.
        images: in order of their ids, with their usable annotations.
        dropped: a message for each annotation that is left out.
        parts: a message for each part of a mask that is left out.
        warnings: what looks wrong, though it can be used.
    """

    categories: list[Category]
    images: list[ImageRecord]
    dropped: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def truth(self) -> dict[str, Any]:
        """The split as an instances file to score against: the objects that training would see."""
        images = [{"id": i.id, "file_name": i.file_name, "height": i.height, "width": i.width} for i in self.images]
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        content = {"images": images, "annotations": [], "categories": categories}
        annotations = [annotation for image in self.images for annotation in image.annotations]
        return as_truth(content, annotations, [image.id for image in self.images for _ in image.annotations])


def _load_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DatasetError(path, ["no such annotation file"])
    try:
        data = parse_json(path.read_bytes())
    except ValueError as error:
        raise DatasetError(path, [str(error)]) from error
    if problems := format_problems(data):
        raise DatasetError(path, problems)
    return data


def _faults(data: dict[str, Any], names: bool) -> list[str]:
    """Error messages for entries without the ids, names and sizes that other entries refer to."""
    found = []
    for kind, noun, integers, texts in (
        ("images", "image", ("id", "height", "width"), ("file_name",) if names else ()),
        ("annotations", "annotation", ("id", "image_id", "category_id"), ()),
        ("categories", "category", ("id",), ("name",) if names else ()),
    ):
        for index, entry in enumerate(data[kind]):
            if not isinstance(entry, dict):
                found.append(f"{noun} number {index}: not a JSON object")
                continue
            where = f"{noun} {entry['id']}" if is_int(entry.get("id")) else f"{noun} number {index}"
            for key in integers:
                value: Any = entry.get(key)
                bits = 32 if kind == "categories" else BITS.get(key, 64)
                if not is_int(value):
                    found.append(f"{where}: {key} is {value!r}, expected a whole number")
                elif key in ("height", "width") and value < 1:
                    found.append(f"{where}: {key} is {value}, expected at least 1")
                elif not -(1 << bits - 1) <= value < 1 << bits - 1:
                    found.append(f"{where}: {key} is {value}, too large for {bits} bits")
            height: Any = entry.get("height")
            width: Any = entry.get("width")
            if kind == "images" and is_int(height) and is_int(width) and height * width > MAX_PIXELS:
                found.append(f"{where}: {width}x{height} are too many pixels")
            for key in texts:
                if not isinstance(entry.get(key), str):
                    found.append(f"{where}: {key} is {entry.get(key)!r}, expected a text")
    return found


def load_instances(path: Path, *, names: bool = True) -> dict[str, Any]:
    """The JSON of an instances file, with the ids and sizes of each entry checked.

    Args:
        path: the COCO instances JSON.
        names: whether images must have a file name and categories a name.

    Raises:
        DatasetError: listing the entries whose id, size or name is missing or invalid.
    """
    data = _load_json(path)
    if faults := _faults(data, names):
        raise DatasetError(path, faults)
    return data


def _repeated_ids(kind: str, noun: str, data: Mapping[str, Any]) -> list[str]:
    counts = Counter(entry["id"] for entry in data[kind])
    return [f"{noun} {id_}: the id occurs {n} times" for id_, n in counts.items() if n > 1]


def _repeated_images(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Error messages for ids and files that several images have, so that nobody knows which one is meant."""
    of_file: dict[str, list[int]] = {}
    for image in images:
        of_file.setdefault(image["file_name"], []).append(image["id"])
    repeated = {name: ids for name, ids in of_file.items() if len(set(ids)) > 1}
    return _repeated_ids("images", "image", {"images": images}) + [
        f"images {', '.join(map(str, ids[:5]))}{', ...' if len(ids) > 5 else ''}: have the same file_name, {name}"
        for name, ids in repeated.items()
    ]


def duplicates(data: Mapping[str, Any]) -> list[str]:
    """Error messages for ids of images, annotations and categories, and names, that occur more than once."""
    found = [
        message
        for kind, noun in (("images", "image"), ("annotations", "annotation"), ("categories", "category"))
        for message in _repeated_ids(kind, noun, data)
    ]
    used = {raw["category_id"] for raw in data["annotations"]}
    of_name: dict[Any, set[int]] = {}
    for category in data["categories"]:
        of_name.setdefault(category.get("name"), set()).add(category["id"])
    for name, ids in of_name.items():
        if name is not None and len(ids) > 1:
            unused = ", ".join(map(str, sorted(ids - used))) or "none of them"
            found.append(
                f"categories {', '.join(map(str, sorted(ids)))} are named {name!r}; without an annotation: {unused}"
            )
    return found


def check_instances(data: Mapping[str, Any], invalid: Invalid) -> CheckedAnnotations:
    """Checks the ids and annotations of an instances file whose entries have the right types."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    found = check_annotations(data["annotations"], sizes, {category["id"] for category in data["categories"]}, invalid)
    found.problems.extend(duplicates(data))
    return found


def read_coco(
    annotations: Path,
    storage: Storage,
    images: str,
    known: KnownPictures,
    *,
    num_images: int | None = None,
    invalid: Invalid = "error",
    classes: Sequence[str] = (),
    on_image: Callable[[], None] | None = None,
) -> InstanceSplit:
    """Reads one split and checks all of it: ids, masks, boxes and every image file.

    Args:
        annotations: the COCO instances JSON.
        storage: the dataset's root.
        images: the folder of the images in it.
        known: pictures decoded in earlier runs, which are not decoded again.
        num_images: how many images there must be.
        invalid: whether unusable annotations are an error, or dropped and listed; see :mod:`pipeline.data.annotations`.
        classes: the names of the categories to read, with their annotations; all if empty.
        on_image: called once per image checked.

    Raises:
        DatasetError: listing everything that is wrong.
    """
    data = load_instances(annotations)
    problems: list[str] = []
    if num_images is not None and len(data["images"]) != num_images:
        problems.append(f"{counted(len(data['images']), 'image')}, expected {num_images}")
    if empty := [problem for key, problem in EMPTY.items() if not data[key]]:
        raise DatasetError(annotations, empty)  # all that refers to them would be a problem too
    if repeated := _repeated_images(data["images"]):
        raise DatasetError(annotations, repeated)  # so would be masks and sizes
    if classes:
        problems += keep_classes(data, classes)
    found = check_instances(data, invalid)
    problems += found.problems
    categories = sorted((Category(c["id"], c["name"]) for c in data["categories"]), key=lambda c: c.id)
    files = known.resolve(storage, images, [raw["file_name"] for raw in data["images"]])
    records = {
        raw["id"]: ImageRecord(
            raw["id"], f"{images}/{files.get(raw['file_name'], raw['file_name'])}", raw["height"], raw["width"]
        )
        for raw in data["images"]
    }
    del data
    checked = check_pictures(storage, [record.file_name for record in records.values()], known, on_image)
    for record in records.values():
        picture = checked[record.file_name]
        if picture.problem:
            problems.append(f"image {record.id}: {picture.problem}")
        elif picture.size != (record.height, record.width):
            hint = picture.exif_hint((record.height, record.width))
            problems.append(
                f"image {record.id}: {storage.where(record.file_name)} is {picture.size[1]}x{picture.size[0]}, "
                f"annotated as {record.width}x{record.height}{hint}"
            )
    if problems:
        raise DatasetError(annotations, problems)
    for annotation, image_id in zip(found.usable, found.image_ids, strict=True):
        records[image_id].annotations.append(annotation)
    ordered = sorted(records.values(), key=lambda image: image.id)
    return InstanceSplit(categories, ordered, found.dropped, found.parts, found.warnings)


def keep_classes(data: dict[str, Any], classes: Sequence[str]) -> list[str]:
    """Leaves out the other categories and their annotations, in place; returns messages for unknown names."""
    names = [category["name"] for category in data["categories"]]
    left_out = {category["id"] for category in data["categories"] if category["name"] not in classes}
    data["categories"] = [category for category in data["categories"] if category["id"] not in left_out]
    data["annotations"] = [raw for raw in data["annotations"] if raw["category_id"] not in left_out]
    return [
        f"no category is named {name!r}; its categories are {', '.join(names)}" for name in classes if name not in names
    ]


def different_categories(sides: Mapping[str, Sequence[tuple[int, str]]]) -> str:
    """Says that two lists of categories differ, and how.

    Args:
        sides: the ids and names of each list, by what it is of.
    """
    (first, one), (second, other) = sides.items()
    only = [
        f"only {name} has {', '.join(f'{label} (id {id_})' for id_, label in missing[:3])}"
        + (", ..." * (len(missing) > 3))
        for name, own, others in ((first, one, other), (second, other, one))
        if (missing := [category for category in own if category not in others])
    ]
    return "; ".join([f"{first} and {second} have different categories", *only])
