"""What a dataset teaches: objects, crowds and images by class and split, and the pixels that are ignored.

Shape letters: N images, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.data.coco import Category, ImageRecord
from pipeline.data.problems import NOTHING, NOTHING_VAL, group

#: The counts of one split, as ``dataset.json`` has them.
Contents = dict[str, Any]


def instance_contents(images: Sequence[ImageRecord], categories: Sequence[Category]) -> Contents:
    """Counts the images, objects and crowds of a split, together and by class."""
    names = {category.id: category.name for category in categories}
    classes = {name: {"objects": 0, "crowds": 0, "images": 0} for name in names.values()}
    empty = 0
    for image in images:
        learned = set()
        for annotation in image.annotations:
            name = names[annotation.category_id]
            if annotation.iscrowd:
                classes[name]["crowds"] += 1
            else:
                classes[name]["objects"] += 1
                learned.add(name)
        for name in learned:
            classes[name]["images"] += 1
        empty += not learned
    objects, crowds = (sum(of_class[key] for of_class in classes.values()) for key in ("objects", "crowds"))
    return {
        "images": len(images),
        "images_without_objects": empty,
        "annotations": objects + crowds,
        "objects": objects,
        "crowds": crowds,
        "classes": classes,
    }


def label_contents(pixels: np.ndarray, names: Sequence[str]) -> Contents:
    """Counts the images and pixels of a split by class.

    Args:
        pixels: (N, K + 1) how many pixels of each image have each class; last, of ignored ones.
        names: (K,) of the classes.
    """
    totals, images = pixels.sum(0).tolist(), np.count_nonzero(pixels, axis=0).tolist()
    return {
        "images": len(pixels),
        "pixels": sum(totals),
        "ignored_pixels": totals[-1],
        "classes": {name: {"images": images[number], "pixels": totals[number]} for number, name in enumerate(names)},
    }


def _amount(of_class: Mapping[str, int]) -> int:
    return of_class["objects"] if "objects" in of_class else of_class["pixels"]


def classes_with(splits: Mapping[Any, Contents], *, train: bool, val: bool) -> list[str]:
    """The classes that the train split has or lacks, and the val split has or lacks."""
    classes = {split: contents["classes"] for split, contents in splits.items()}
    return [
        name
        for name in classes["train"]
        if (_amount(classes["train"][name]) > 0, _amount(classes["val"][name]) > 0) == (train, val)
    ]


def missing_classes(splits: Mapping[Any, Contents]) -> list[str]:
    """A message for each class that has nothing in a split."""
    messages = []
    for name in next(iter(splits.values()))["classes"]:
        missing = [split for split, contents in splits.items() if not _amount(contents["classes"][name])]
        if missing:
            where = "either split" if len(missing) > 1 else f"the {missing[0]} split"
            labels = "pixels" in splits[missing[0]]
            messages.append(f"class {name!r}: {f'in no image of {where}' if labels else f'no object in {where}'}")
    return messages


def nothing_in(split: str, contents: Contents, left_out: Sequence[str], ignored: Sequence[int] = ()) -> list[str]:
    """A message if nothing can be learned from the train split, or measured on the val split.

    Args:
        split: train or val.
        contents: its counts.
        left_out: messages about its annotations that are left out.
        ignored: the label ids that are ignored.
    """
    start = f"{NOTHING if split == 'train' else NOTHING_VAL} in the {split} split"
    if "pixels" in contents:
        present = [name for name, of_class in contents["classes"].items() if of_class["pixels"]]
        ids = f"ids {', '.join(map(str, ignored[:3]))}{', ...' if len(ignored) > 3 else ''}"
        if not present:
            return [f"{start}: every pixel is ignored ({ids})"]
        if len(present) == 1 and split == "train":
            share = 100 * contents["ignored_pixels"] / contents["pixels"]
            rest = f"; {share:.1f}% of the pixels is ignored ({ids})" if contents["ignored_pixels"] else ""
            return [f"{start}: {present[0]!r} is the only class in it{rest}"]
    elif not contents["objects"]:
        if contents["crowds"]:
            return [f"{start}: all {contents['crowds']:,} annotations are crowds (iscrowd: 1)"]
        if left_out:
            kinds = "; ".join(each.title for each in group(left_out)[:3])
            return [f"{start}: all {len(left_out):,} annotations are left out: {kinds}"]
        return [f"{start}: no image has an annotation"]
    return []
