"""What is in a prepared dataset: counts by class and size, sizes of images, and annotations that look wrong.

Shape letters: K classes, H W rows and columns.
"""

import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.data.labels import read_ids
from pipeline.data.manifest import PreparedDataset, Split
from pipeline.data.masks import areas_of
from pipeline.data.pictures import in_parallel
from pipeline.data.storage import Storage
from pointrend.wording import counted

#: Areas in pixels from which COCO counts an object as medium and as large.
MEDIUM, LARGE = 32**2, 96**2
FEW_PIXELS = 16
SAME = 0.95  # the IoU of masks that count as the same
WHOLE = 0.98  # the share of an image that counts as all of it
RARE = 0.001  # the share of the pixels below which a class is rare


@dataclass(frozen=True)
class Survey:
    """What is in a dataset.

    Attributes:
        splits: what is counted of each split, by the names of the counts.
        classes: what is counted of each class, by the names of the counts.
        odd: a message for each thing that looks wrong, though `prepare` accepts it.
    """

    splits: Mapping[str, Mapping[str, str]]
    classes: Mapping[str, Mapping[str, str]]
    odd: Sequence[str]


def survey(prepared: PreparedDataset, storage: Storage) -> Survey:
    """Looks at all annotations of a prepared dataset.

    Args:
        prepared: the dataset.
        storage: what the file names of its manifests are relative to.
    """
    rows = {split: prepared.manifest(split).to_pylist() for split in get_args(Split)}
    found = _labels(prepared, storage, rows) if prepared.task == "semantic" else _instances(prepared, rows)
    return replace(found, odd=[*prepared.warnings, *found.odd])


def _sizes(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    if not rows:
        return {"images": "0"}
    areas = sorted((row["height"] * row["width"], f"{row['width']}x{row['height']}") for row in rows)
    smallest, largest = areas[0][1], areas[-1][1]
    shorter = statistics.median(min(row["height"], row["width"]) for row in rows)
    same = smallest == largest
    return {
        "images": str(len(rows)),
        "size": smallest if same else f"{smallest} to {largest}",
        "median edge": f"{shorter:g}",
    }


# Instances


def _instances(prepared: PreparedDataset, rows: Mapping[str, list[dict[str, Any]]]) -> Survey:
    names = {category.id: category.name for category in prepared.categories}
    counts = {name: dict.fromkeys(("train", "val", "small", "medium", "large"), 0) for name in names.values()}
    splits, odd = {}, []
    for split, images in rows.items():
        objects = [annotation for row in images for annotation in row["annotations"]]
        crowds = sum(annotation["iscrowd"] for annotation in objects)
        numbers = [sum(not a["iscrowd"] for a in row["annotations"]) for row in images]
        splits[split] = (
            _sizes(images)
            | {
                "objects": str(sum(numbers)),
                "per image": f"{min(numbers, default=0)} to {max(numbers, default=0)}",
                "empty": str(numbers.count(0)),
            }
            | ({"crowds": str(crowds)} if crowds else {})
        )
        for annotation in objects:
            if not annotation["iscrowd"]:
                of_class = counts[names[annotation["category_id"]]]
                of_class[split] += 1
                area = annotation["area"]
                of_class["small" if area < MEDIUM else "medium" if area < LARGE else "large"] += 1
        odd += [message for row in images for message in _odd_annotations(row)]
    return Survey(splits, {name: {key: str(n) for key, n in of.items()} for name, of in counts.items()}, odd)


def _odd_annotations(row: Mapping[str, Any]) -> Iterator[str]:
    """Messages about the annotations of an image that look wrong."""
    annotations = row["annotations"]
    if not annotations:
        return
    pixels = row["height"] * row["width"]
    masks = [{"size": [row["height"], row["width"]], "counts": a["counts"]} for a in annotations]
    areas = areas_of(masks)
    same = np.array(coco_mask.iou(masks, masks, [0] * len(masks))) >= SAME
    for number, (annotation, area) in enumerate(zip(annotations, areas.tolist(), strict=True)):
        where = f"annotation {annotation['id']} (image {row['id']})"
        twins = np.flatnonzero(same[number, :number])
        if annotation["iscrowd"]:
            continue
        elif twins.size:
            yield f"{where}: has the same mask as annotation {annotations[twins[0]]['id']}"
        elif area < FEW_PIXELS:
            yield f"{where}: its mask has only {counted(int(area), 'pixel')}"
        elif area >= WHOLE * pixels:
            yield f"{where}: its mask covers the whole image"


# Label PNGs


def _labels(prepared: PreparedDataset, storage: Storage, rows: Mapping[str, list[dict[str, Any]]]) -> Survey:
    table = prepared.labels
    kinds = len(table.names)

    def count(row: Mapping[str, Any]) -> np.ndarray:
        return table.count(read_ids(io.BytesIO(storage.read(row["label_file"]))))

    splits: dict[str, dict[str, str]] = {}
    counts: dict[str, dict[str, str]] = {name: {} for name in table.names}
    odd = []
    for split, images in rows.items():
        by_image = np.array([*in_parallel(storage, count, images)]).reshape(len(images), kinds + 1)
        totals = by_image.sum(0)
        splits[split] = _sizes(images) | {"ignored pixels": f"{100 * totals[-1] / max(1, totals.sum()):.1f}%"}
        for number, name in enumerate(table.names):
            share = totals[number] / max(1, totals[:-1].sum())
            counts[name] |= {
                f"{split} images": str(np.count_nonzero(by_image[:, number])),
                f"{split} pixels": f"{100 * share:.2f}%",
            }
            if totals[number] and share < RARE and split == "train":
                odd.append(f"class {name!r}: fewer than {100 * RARE:g}% of the train pixels")
        odd += [
            f"image {row['file_name']}: all of its pixels are ignored"
            for row, pixels in zip(images, by_image, strict=True)
            if not pixels[:-1].any()
        ]
    return Survey(splits, counts, odd)
