"""Finer annotations of the val images: a second instances file, on which AP* is measured as AP is on the first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.annotations import Invalid, as_truth
from pipeline.data.coco import (
    EMPTY,
    DatasetError,
    InstanceSplit,
    check_instances,
    different_categories,
    keep_classes,
    load_instances,
)
from pipeline.data.file_names import resolved_names
from pipeline.data.manifest import FINER_VAL, Split
from pipeline.data.outlines import Outlines, outlines_of
from pipeline.data.problems import NOTHING_VAL
from pipeline.data.storage import Storage


@dataclass(frozen=True)
class FinerVal:
    """Checked finer annotations of the val images.

    Attributes:
        truth: an instances file to score against, with the ids that the val split gives its images and categories.
        outlines: of its polygons.
        dropped: a message for each annotation that is left out.
        parts: a message for each part of a mask that is left out.
        warnings: what looks wrong, though it can be used.
    """

    truth: dict[str, Any]
    outlines: Outlines | None
    dropped: list[str]
    parts: list[str]
    warnings: list[str]


def read_finer(
    file: Path,
    storage: Storage,
    splits: Mapping[Split, tuple[str, InstanceSplit]],
    invalid: Invalid,
    classes: Sequence[str] = (),
) -> FinerVal:
    """Reads an instances file that annotates the val images again.

    It must have every val image, those without objects too, and the val split's categories with the same ids. Images
    are told by their file names; their ids may be others. Images of the train split are skipped, because a val split
    that is held out of one file is a part of it.

    Args:
        file: the instances JSON.
        storage: the dataset's root.
        splits: the folder of the images, and the split, of train and val.
        invalid: whether unusable annotations are an error, or dropped and listed.
        classes: the names of the categories to read; all if empty.

    Raises:
        DatasetError: listing everything that is wrong.
    """
    data = load_instances(file)
    if empty := [f"{FINER_VAL}: {problem}" for key, problem in EMPTY.items() if not data[key]]:
        raise DatasetError(file, empty)
    problems = keep_classes(data, classes) if classes else []
    val = splits["val"][1]
    found_categories = [(entry["id"], entry["name"]) for entry in data["categories"]]
    known_categories = [(category.id, category.name) for category in val.categories]
    if sorted(found_categories) != sorted(known_categories):
        problems.append(different_categories({"the val split": known_categories, FINER_VAL: found_categories}))

    val_images = {image.file_name: image for image in val.images}
    of_train = {image.file_name for image in splits["train"][1].images}
    names = [entry["file_name"] for entry in data["images"]]
    folders = list(dict.fromkeys([splits["val"][0], splits["train"][0]]))
    resolved = {folder: resolved_names(storage, folder, names) for folder in folders}
    images, skipped = {}, set()
    for entry in data["images"]:
        name = entry["file_name"]
        paths = [f"{folder}/{resolved[folder].get(name, name)}" for folder in folders]
        known = next((val_images[path] for path in paths if path in val_images), None)
        if known is not None:
            images[entry["id"]] = known
            if (entry["height"], entry["width"]) != (known.height, known.width):
                problems.append(
                    f"image {entry['id']}: {storage.where(known.file_name)} is {known.width}x{known.height}, "
                    f"annotated as {entry['width']}x{entry['height']}"
                )
        elif of_train.intersection(paths):
            skipped.add(entry["id"])
        else:
            problems.append(f"image {entry['id']}: {name} is in neither split")
    times = Counter(image.file_name for image in images.values())
    problems += [f"{name}: an image that {FINER_VAL} has {n} times" for name, n in times.items() if n > 1]
    problems += [f"{name}: a val image that {FINER_VAL} does not have" for name in val_images if name not in times]

    content = {
        **data,
        "images": [entry for entry in data["images"] if entry["id"] in images],
        "annotations": [raw for raw in data["annotations"] if raw["image_id"] not in skipped],
    }
    checked = check_instances(content, invalid)
    problems += checked.problems
    if not problems and all(annotation.iscrowd for annotation in checked.usable):
        crowds = f"all {len(checked.usable):,} annotations are crowds (iscrowd: 1)"
        found = crowds if checked.usable else "no val image has an annotation"
        problems.append(f"{NOTHING_VAL} in {FINER_VAL}: {found}")
    if problems:
        raise DatasetError(file, problems)
    usable = {annotation.id for annotation in checked.usable}
    truth = as_truth(content, checked.usable, checked.image_ids)
    annotations = [{**raw, "image_id": images[raw["image_id"]].id} for raw in truth["annotations"]]
    return FinerVal(
        {**val.truth, "annotations": annotations},
        outlines_of(content["annotations"], usable),
        checked.dropped,
        checked.parts,
        checked.warnings,
    )
