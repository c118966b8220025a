"""The rules for the annotations of an instances file, the same for training, the ground truth and `score`.

An annotation is used if its mask has a pixel and its fields can be read. A box or area that is missing is the mask's.
Parts of a mask that cover nothing and masks without a pixel are left out and counted; anything else that is unusable is
a problem, or left out too where the caller drops. Boxes and areas are compared with the masks.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.data.box_fit import MOST, RECTANGLES, compare_boxes, odd_areas
from pipeline.data.masks import areas_of, draw, encode_segmentation, usable_polygons
from pipeline.data.problems import BOXES_ONLY, EXAMPLES
from pipeline.data.rle import sound_counts

MAX_NUMBER = 1e9  # of boxes and areas
CHUNK = 10_000  # masks that are measured at a time

Invalid = Literal["error", "drop"]


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
class CheckedAnnotations:
    """The annotations of a file that can be used, and what is wrong with the others.

    Attributes:
        usable: in the file's order.
        image_ids: the id of the image of each usable one.
        problems: messages about those that must not be used.
        dropped: messages about those that are left out.
        parts: messages about parts of masks that are left out.
        warnings: what looks wrong, each with its number.
    """

    usable: list[Annotation] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Drawn(NamedTuple):
    """An annotation whose ids are valid, with its mask."""

    raw: dict[str, Any]
    size: tuple[int, int]  # H, W
    counts: bytes


def describe(annotation: Mapping[str, Any]) -> str:
    """Names an annotation in messages."""
    return f"annotation {annotation['id']} (image {annotation['image_id']})"


def reference_problem(annotation: Mapping[str, Any], images: Collection[int], categories: Collection[int]) -> str:
    """An error message for an annotation whose image or category does not exist; empty for any other."""
    if annotation["image_id"] not in images:
        return f"{describe(annotation)}: there is no such image"
    if annotation["category_id"] not in categories:
        return f"{describe(annotation)}: unknown category id {annotation['category_id']!r}"
    return ""


def check_annotations(
    annotations: Sequence[dict[str, Any]],
    sizes: Mapping[int, tuple[int, int]],
    categories: Collection[int],
    invalid: Invalid,
) -> CheckedAnnotations:
    """Checks all annotations of a file.

    Args:
        annotations: the entries, with valid types of ids.
        sizes: height and width of each image by its id.
        categories: the categories' ids.
        invalid: whether an unusable annotation is a problem, or left out.
    """
    found = CheckedAnnotations()
    unusable = found.problems if invalid == "error" else found.dropped
    without_mask = sum(raw.get("segmentation") in (None, [], {}) for raw in annotations)
    boxes_only = 0 < without_mask == len(annotations)
    if boxes_only:
        found.problems.append(f"all {without_mask} annotations {BOXES_ONLY}")
    drawn: list[_Drawn] = []
    sound = _sound(annotations, sizes)
    for number, raw in enumerate(annotations):
        if problem := reference_problem(raw, sizes, categories):
            found.problems.append(problem)
        elif not boxes_only:
            size = sizes[raw["image_id"]]
            try:
                counts = _mask(raw, size, number in sound, found.parts, invalid)
                _check_numbers(raw)
            except ValueError as error:
                unusable.append(f"{describe(raw)}: {error}")
            else:
                drawn.append(_Drawn(raw, size, counts))
    if drawn:
        _check_fit(drawn, found, unusable)
    return found


def _sound(annotations: Sequence[dict[str, Any]], sizes: Mapping[int, tuple[int, int]]) -> set[int]:
    """The numbers of annotations that are valid compressed RLEs of their image's size, found all at once."""
    chosen = []
    for number, raw in enumerate(annotations):
        mask, size = raw.get("segmentation"), sizes.get(raw["image_id"])
        if isinstance(mask, dict) and size and isinstance(mask.get("counts"), str) and mask.get("size") == list(size):
            chosen.append((number, mask["counts"], size[0] * size[1]))
    found = sound_counts([counts for _, counts, _ in chosen], [pixels for *_, pixels in chosen])
    return {chosen[index][0] for index in np.flatnonzero(found)}


def _mask(raw: dict[str, Any], size: tuple[int, int], sound: bool, parts: list[str], invalid: Invalid) -> bytes:
    """The counts of an annotation's mask; adds messages about parts that are left out.

    Raises:
        ValueError: saying what is wrong with it.
    """
    segmentation = raw.get("segmentation")
    if sound:
        return segmentation["counts"].encode()  # type: ignore[index]
    if not isinstance(segmentation, list):
        return encode_segmentation(segmentation, *size)
    polygons, left_out = usable_polygons(segmentation, drop=invalid == "drop")
    parts += [f"{describe(raw)}: without its {fault}" for fault in left_out]
    return draw(polygons, *size)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def _check_numbers(raw: Mapping[str, Any]) -> None:
    """Raises ValueError if an annotation's box, area or iscrowd has another type than COCO's."""
    box, area, crowd = raw.get("bbox"), raw.get("area"), raw.get("iscrowd", 0)
    if box is not None and not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise ValueError(f"bbox is {box!r}, expected four finite numbers")
    if area is not None and not (_is_number(area) and area >= 0):
        raise ValueError(f"area is {area!r}, expected a number from 0")
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise ValueError(f"iscrowd is {crowd!r}, expected 0 or 1")


def _measure(drawn: Sequence[_Drawn]) -> tuple[np.ndarray, np.ndarray]:
    """The areas (N,) and boxes (N, 4) of masks in pixels."""
    areas, boxes = [], []
    entries: Iterator[_Drawn] = iter(drawn)
    while masks := [{"size": each.size, "counts": each.counts} for each in islice(entries, CHUNK)]:
        areas.append(areas_of(masks))
        boxes.append(coco_mask.toBbox(masks))
    return np.concatenate(areas), np.concatenate(boxes)


def _examples(which: np.ndarray, say: Callable[[int], str]) -> str:
    """What is said of the first ones."""
    chosen = np.flatnonzero(which).tolist()
    return "; ".join(say(index) for index in chosen[:EXAMPLES]) + ("; ..." if len(chosen) > EXAMPLES else "")


def _check_fit(drawn: list[_Drawn], found: CheckedAnnotations, unusable: list[str]) -> None:
    """Compares masks, boxes and areas, and adds the annotations that can be used."""
    mask_areas, mask_boxes = _measure(drawn)
    sizes = np.array([each.size for each in drawn], np.float64)
    boxes, areas = mask_boxes.copy(), mask_areas.copy()
    for number, (raw, _, _) in enumerate(drawn):
        if raw.get("bbox") is not None:
            boxes[number] = raw["bbox"]
        if raw.get("area") is not None:
            areas[number] = raw["area"]
    visible = mask_areas > 0
    if visible.mean() <= 1 - MOST:
        found.problems.append(
            f"{np.count_nonzero(~visible):,} of {len(drawn):,} masks have no pixel{_tiny_habit(drawn, visible)}: "
            + _examples(~visible, lambda index: describe(drawn[index].raw))
        )
    # Boxes are clipped to their image on loading, so the part inside must have an area.
    inside = np.minimum(boxes[:, :2] + boxes[:, 2:], sizes[:, ::-1]) - np.maximum(boxes[:, :2], 0)
    has_area = (inside > 0).all(axis=1)
    crowd = np.array([bool(each.raw.get("iscrowd", 0)) for each in drawn])
    compared = visible & ~crowd
    fit = compare_boxes(boxes[compared], mask_boxes[compared], sizes[compared])
    for number, (raw, size, counts) in enumerate(drawn):
        if not visible[number]:
            found.dropped.append(f"{describe(raw)}: its mask has no pixel")
        elif not has_area[number] and not fit.is_systematic:
            unusable.append(f"{describe(raw)}: box {raw['bbox']} has no area inside its {size[1]}x{size[0]} image")
        else:
            x, y, width, height = boxes[number].tolist()
            found.image_ids.append(raw["image_id"])
            found.usable.append(
                Annotation(
                    raw["id"],
                    raw["category_id"],
                    (x, y, width, height),
                    float(areas[number]),
                    bool(crowd[number]),
                    counts,
                )
            )
    beside = np.zeros(len(drawn), bool)
    beside[compared] = fit.beside
    if not fit.is_systematic:
        beside &= has_area
    total = np.count_nonzero(compared)
    if beside.any():
        habit = f"; they look like {fit.habit}" if fit.habit else ""
        (found.problems if fit.is_systematic else found.warnings).append(
            f"{np.count_nonzero(beside):,} of {total:,} boxes do not fit their masks{habit}: "
            + _examples(
                beside,
                lambda index: (
                    f"{describe(drawn[index].raw)}: "
                    f"box {_numbers(boxes[index])}, its mask's {_numbers(mask_boxes[index])}"
                ),
            )
        )
    odd = compared & odd_areas(areas, mask_areas, mask_boxes)
    if odd.any():
        of_boxes = np.isclose(areas[odd], boxes[odd, 2:].prod(axis=1), rtol=0.01, atol=1).mean() > MOST
        found.warnings.append(
            f"{np.count_nonzero(odd):,} of {total:,} areas do not fit their masks"
            + ("; they are their boxes' areas: " if of_boxes else ": ")
            + _examples(
                odd,
                lambda index: (
                    f"{describe(drawn[index].raw)}: area {areas[index]:g}, its mask has {mask_areas[index]:g} pixels"
                ),
            )
        )
    if total >= RECTANGLES and (mask_areas == mask_boxes[:, 2:].prod(axis=1))[compared].all():
        found.warnings.append(f"all {total:,} masks are rectangles")


def _tiny_habit(drawn: Sequence[_Drawn], visible: np.ndarray) -> str:
    """Says so if the masks without a pixel are polygons whose coordinates are shares of the image."""
    for index in np.flatnonzero(~visible).tolist():
        polygons = drawn[index].raw["segmentation"]
        try:
            if not all(0 <= v <= 1 for polygon in polygons for v in polygon):
                return ""
        except TypeError:  # an RLE, or a part that is no polygon
            return ""
    return "; their coordinates look like shares of the image, from 0 to 1"


def _numbers(values: np.ndarray) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def as_truth(data: dict[str, Any], annotations: Iterable[Annotation], image_ids: Iterable[int]) -> dict[str, Any]:
    """An instances file with checked annotations, and the ids of their images, in place of its own; masks as RLE."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in data["images"]}
    return {
        **data,
        "annotations": [
            {
                "id": each.id,
                "image_id": image_id,
                "category_id": each.category_id,
                "bbox": list(each.bbox),
                "area": each.area,
                "iscrowd": int(each.iscrowd),
                "segmentation": {"size": sizes[image_id], "counts": each.counts.decode("ascii")},
            }
            for each, image_id in zip(annotations, image_ids, strict=True)
        ],
    }
