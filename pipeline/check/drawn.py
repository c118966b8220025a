"""Draws a small dataset in place of a real one: in its format, and with as many classes."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config.datasets import CityscapesDataset, CocoDataset, CocoSplit, DatasetConfig, LabelDataset, LabelSplit
from pipeline.data.labels import CITYSCAPES
from pipeline.data.prepare import prepare
from pipeline.progress import progress
from pipeline.synthetic import ShapesSpec, StreetsSpec, generate_shapes, generate_streets

TRAIN_IMAGES, VAL_IMAGES = 16, 2
SIDE = 128  # of shapes, and the height of streets, in pixels

_COCO = "annotations/instances_{}.json"
_TREE = {split: LabelSplit(images=f"leftImg8bit/{split}", labels=f"gtFine/{split}") for split in ("train", "val")}


def draw_dataset(name: str, dataset: DatasetConfig, num_classes: int, folder: Path) -> tuple[Path, Path]:
    """Draws and prepares a dataset that stands in for another one.

    Args:
        name: the name of the dataset that it stands in for.
        dataset: that dataset; its files are not needed.
        num_classes: K, how many classes it has; for Cityscapes' format it is known.
        folder: the folder to write to.

    Returns:
        the folder of the prepared dataset, and that of its images.
    """
    raw, prepared = folder / "raw" / name, folder / "prepared" / name
    stand_in: DatasetConfig
    if isinstance(dataset, CocoDataset):
        generate_shapes(ShapesSpec(TRAIN_IMAGES, VAL_IMAGES, SIDE, max_objects=3), raw, processes=1)
        _add_categories(raw, num_classes)
        splits = {split: CocoSplit(annotations=_COCO.format(split), images=split) for split in ("train", "val")}
        stand_in = CocoDataset.model_validate({"source": "coco", "root": name, **splits})
    else:
        generate_streets(StreetsSpec(TRAIN_IMAGES, VAL_IMAGES, SIDE, 2 * SIDE), raw, processes=1)
        if isinstance(dataset, LabelDataset):
            _relabel(raw, dataset)
            classes = {"classes": dataset.classes, "ignored": dataset.ignored}
            stand_in = LabelDataset.model_validate(
                {"source": "labels", "root": name, "suffix": "_labels", **_TREE, **classes}
            )
        else:
            settings = {"source": "cityscapes", "root": name, "task": dataset.task, **_TREE}
            stand_in = CityscapesDataset.model_validate(settings)
    known = folder / "known_pictures.parquet"
    prepare(stand_in, str(folder / "raw"), prepared, known, progress(f"draw {name}", None))
    return prepared, raw


def _add_categories(raw: Path, num_classes: int) -> None:
    """Gives drawn shapes more categories, of which they have no objects; or fewer, which share the objects."""
    for split in ("train", "val"):
        file = raw / _COCO.format(split)
        content = json.loads(file.read_text())
        drawn = [category["name"] for category in content["categories"]]
        names = [*drawn, *(f"class {number}" for number in range(len(drawn) + 1, num_classes + 1))][:num_classes]
        content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
        for annotation in content["annotations"]:
            annotation["category_id"] = (annotation["category_id"] - 1) % num_classes + 1
        file.write_text(json.dumps(content))


def _relabel(raw: Path, dataset: LabelDataset) -> None:
    """Writes label PNGs beside those of drawn streets, ``<image>_labels.png``, with the ids of another dataset."""
    ids = list(dataset.classes.values())
    unlabelled = dataset.ignored[0] if dataset.ignored else ids[0]
    table = np.full(256, unlabelled, np.uint16)
    for index, label in enumerate(CITYSCAPES.ids):
        table[label] = ids[index % len(ids)]
    for file in sorted((raw / "gtFine").rglob("*_labelIds.png")):
        image = (
            raw
            / "leftImg8bit"
            / file.relative_to(raw / "gtFine").with_name(file.name.replace("_gtFine_labelIds", "_leftImg8bit"))
        )
        labels = table[np.asarray(Image.open(file))]
        # Pairs have the same path but for the suffix.
        Image.fromarray(labels.astype(np.uint8 if max(ids) < 256 else np.uint16)).save(
            file.with_name(f"{image.stem}_labels.png")
        )
    for file in [*(raw / "gtFine").rglob("*_gtFine_*")]:
        file.unlink()
