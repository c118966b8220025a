"""Reads and checks a COCO-instances dataset.

All problems of a dataset are found before anything is written, and reported in one error.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pycocotools import mask as coco_mask

from pipeline.data.annotation_files import format_problems, parse_json
from pipeline.data.pictures import KnownPictures, check_pictures
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pointrend.wording import counted

MAX_LISTED = 20
MAX_COORDINATE = 1e6  # pixels
BOXES_ONLY = "have boxes but no masks"
#: What an instances file with an empty list lacks, and why that can be.
EMPTY = {
    "images": "no image: the list 'images' is empty; export the images' entries as well",
    "categories": "no category: the list 'categories' is empty; export it with the classes (labels) of the project",
}


class DatasetError(UserError, ValueError):
    """A dataset that cannot be used; the message lists what is wrong with it."""

    def __init__(self, where: Path | str, problems: Sequence[str], remedy: str = "") -> None:
        shown = list(problems[:MAX_LISTED])
        if len(problems) > MAX_LISTED:
            shown.append(f"... and {len(problems) - MAX_LISTED} more")
        super().__init__(
            f"{where}: {len(problems)} problem(s)\n"
            + "\n".join(f"  {line}" for line in shown)
            + (f"\n{remedy}" if remedy else "")
        )
        self.where, self.problems, self.remedy = where, list(problems), remedy

    def __reduce__(self) -> tuple[type["DatasetError"], tuple[Path | str, list[str], str]]:
        return DatasetError, (self.where, self.problems, self.remedy)


@dataclass(frozen=True)
class Category:
    id: int
    name: str


@dataclass(frozen=True)
class Annotation:
    """One object: box (x, y, width, height) in pixels and its mask as compressed RLE counts."""

    id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: bool
    counts: bytes


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
    """One checked split. ``dropped`` has the error message of each annotation that was dropped."""

    categories: list[Category]
    images: list[ImageRecord]
    dropped: list[str]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= 1e9


def _runs(counts: str) -> list[int]:
    """The runs of compressed RLE counts (pycocotools' rleFrString), which pycocotools itself does not check."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode("ascii"):
        part = byte - 48
        if not 0 <= part < 64:
            raise ValueError(f"the RLE's counts have the character {chr(byte)!r}")
        value |= (part & 0x1F) << shift
        shift += 5
        if part & 0x20:
            continue
        if part & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the RLE's counts are cut short")
    return runs


def encode_segmentation(segmentation: Any, height: int, width: int, *, polygons: bool = True) -> bytes:
    """Converts a COCO segmentation (polygons, uncompressed or compressed RLE) to compressed RLE counts.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if isinstance(segmentation, list) and polygons:
        if not segmentation:
            raise ValueError("the list of polygons is empty")
        for index, polygon in enumerate(segmentation):
            if not isinstance(polygon, list) or len(polygon) % 2:
                raise ValueError(f"polygon {index} is not a list of x, y pairs")
            if len(polygon) < 6:
                raise ValueError(f"polygon {index} has {len(polygon) // 2} points, a polygon needs at least 3")
            if not all(isinstance(v, int | float) and math.isfinite(v) for v in polygon):
                raise ValueError(f"polygon {index} has a coordinate that is not a finite number")
            # pycocotools overflows on larger ones and crashes the process.
            if max(map(abs, polygon)) > MAX_COORDINATE:
                raise ValueError(f"polygon {index} has a coordinate far outside its image")
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))["counts"]
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError("segmentation is neither a list of polygons nor an RLE with size and counts")
    if segmentation["size"] != [height, width]:
        raise ValueError(f"the RLE is of size {segmentation['size']}, its image of [{height}, {width}]")
    counts = segmentation["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(_is_int(run) and run >= 0 for run in runs):
        raise ValueError("the RLE's counts are neither a text nor a list of whole numbers")
    if sum(runs) != height * width:
        raise ValueError(f"the RLE's counts add up to {sum(runs)} pixels, its image has {height * width}")
    if isinstance(counts, str):
        return counts.encode("ascii")
    return coco_mask.frPyObjects(segmentation, height, width)["counts"]


def _parse_annotation(raw: dict[str, Any], image: ImageRecord) -> Annotation:
    """An annotation whose ids are valid.

    Raises:
        ValueError: saying what is wrong with its mask, box or area.
    """
    counts = encode_segmentation(raw.get("segmentation"), image.height, image.width)
    box = raw.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(v) for v in box):
        raise ValueError(f"bbox is {box}, expected four finite numbers")
    if not _is_finite(raw.get("area", 0)):
        raise ValueError(f"area is {raw['area']}, expected a number")
    x, y, width, height = (float(v) for v in box)
    # Boxes are clipped to their image on loading, so the part inside must have an area.
    inside_width = min(x + width, image.width) - max(x, 0.0)
    inside_height = min(y + height, image.height) - max(y, 0.0)
    if inside_width <= 0 or inside_height <= 0:
        raise ValueError(f"box {box} has no area inside its {image.width}x{image.height} image")
    return Annotation(
        id=int(raw["id"]),
        category_id=int(raw["category_id"]),
        bbox=(x, y, width, height),
        area=float(raw.get("area", width * height)),
        iscrowd=bool(raw.get("iscrowd", 0)),
        counts=counts,
    )


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
            where = f"{noun} {entry['id']}" if _is_int(entry.get("id")) else f"{noun} number {index}"
            for key in integers:
                if not _is_int(entry.get(key)):
                    found.append(f"{where}: {key} is {entry.get(key)!r}, expected a whole number")
                elif key in ("height", "width") and entry[key] < 1:
                    found.append(f"{where}: {key} is {entry[key]}, expected at least 1")
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


def duplicates(data: dict[str, Any]) -> list[str]:
    """Error messages for ids of images, annotations and categories that occur more than once."""
    return [
        f"{noun} {id_}: the id occurs {n} times"
        for kind, noun in (("images", "image"), ("annotations", "annotation"), ("categories", "category"))
        for id_, n in Counter(entry["id"] for entry in data[kind]).items()
        if n > 1
    ]


def describe(annotation: dict[str, Any]) -> str:
    """Names an annotation in messages."""
    return f"annotation {annotation['id']} (image {annotation['image_id']})"


def reference_problem(annotation: dict[str, Any], images: Container[int], categories: Container[int]) -> str | None:
    """An error message for an annotation whose image or category does not exist."""
    if annotation["image_id"] not in images:
        return f"{describe(annotation)}: there is no such image"
    if annotation["category_id"] not in categories:
        return f"{describe(annotation)}: unknown category id {annotation['category_id']}"
    return None


def read_coco(
    annotations: Path,
    storage: Storage,
    images: str,
    known: KnownPictures,
    *,
    num_images: int | None = None,
    invalid: Literal["error", "drop"] = "error",
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
        invalid: whether unusable annotations (a polygon of fewer than three points, a box without area) are an
            error, or dropped and listed.
        classes: the names of the categories to read, with their annotations; all if empty.
        on_image: called once per image checked.

    Raises:
        DatasetError: listing everything that is wrong.
    """
    data = load_instances(annotations)
    problems: list[str] = []
    dropped: list[str] = []
    if num_images is not None and len(data["images"]) != num_images:
        problems.append(f"{counted(len(data['images']), 'image')}, expected {num_images}")
    if empty := [problem for key, problem in EMPTY.items() if not data[key]]:
        raise DatasetError(annotations, empty)  # all that refers to them would be a problem too
    if classes:
        problems += _keep_classes(data, classes)
    problems += duplicates(data)
    without_mask = sum(raw.get("segmentation") in (None, [], {}) for raw in data["annotations"])
    boxes_only = 0 < without_mask == len(data["annotations"])
    if boxes_only:
        problems.insert(0, f"all {without_mask} annotations {BOXES_ONLY}")

    categories = sorted((Category(c["id"], c["name"]) for c in data["categories"]), key=lambda c: c.id)
    files = known.resolve(storage, images, [raw["file_name"] for raw in data["images"]])
    records = {
        raw["id"]: ImageRecord(
            raw["id"], f"{images}/{files.get(raw['file_name'], raw['file_name'])}", raw["height"], raw["width"]
        )
        for raw in data["images"]
    }
    category_ids = {category.id for category in categories}
    by_image: dict[int, list[Annotation]] = defaultdict(list)
    for raw in data["annotations"]:
        if problem := reference_problem(raw, records, category_ids):
            problems.append(problem)
            continue
        if boxes_only:
            continue
        try:
            by_image[raw["image_id"]].append(_parse_annotation(raw, records[raw["image_id"]]))
        except ValueError as error:
            (problems if invalid == "error" else dropped).append(f"{describe(raw)}: {error}")

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
    for image_id, found in by_image.items():
        records[image_id].annotations.extend(found)
    return InstanceSplit(categories, sorted(records.values(), key=lambda image: image.id), dropped)


def _keep_classes(data: dict[str, Any], classes: Sequence[str]) -> list[str]:
    """Leaves out the other categories and their annotations, in place; returns messages for unknown names."""
    names = [category["name"] for category in data["categories"]]
    left_out = {category["id"] for category in data["categories"] if category["name"] not in classes}
    data["categories"] = [category for category in data["categories"] if category["id"] not in left_out]
    data["annotations"] = [raw for raw in data["annotations"] if raw["category_id"] not in left_out]
    return [
        f"no category is named {name!r}; its categories are {', '.join(names)}" for name in classes if name not in names
    ]


def truth_of(path: Path, split: InstanceSplit) -> dict[str, Any]:
    """The ground truth of some images of an instances file: its entries for a split's images and annotations."""
    data = load_instances(path)
    images = {image.id for image in split.images}
    kept = {annotation.id for image in split.images for annotation in image.annotations}
    return {
        "images": [entry for entry in data["images"] if entry["id"] in images],
        "annotations": [entry for entry in data["annotations"] if entry["id"] in kept],
        "categories": [entry for entry in data["categories"] if entry["id"] in {c.id for c in split.categories}],
    }
