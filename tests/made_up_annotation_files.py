"""Small annotation files and label folders as annotation tools write them, sound ones to change in one place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.datasets import CityscapesDataset, CocoDataset, CocoSplit, HeldOut, LabelDataset, LabelSplit
from pipeline.data.manifest import PreparedDataset, read_prepared
from pipeline.data.prepare import prepare
from pipeline.progress import progress

HEIGHT, WIDTH = 48, 80
Content = dict[str, Any]
Change = Callable[[Content], None]


def octagon(x: float, y: float, width: float, height: float) -> list[float]:
    """A box with its corners cut off, as a polygon."""
    a, b = width / 4, height / 4
    return [x + a, y, x + width - a, y, x + width, y + b, x + width, y + height - b,
            x + width - a, y + height, x + a, y + height, x, y + height - b, x, y + b]  # fmt: skip


def coco_file() -> Content:
    """Four images of 80x48 with three objects each, of two categories; ids from 1."""
    boxes = [(4, 8, 20, 12), (30, 20, 12, 24), (50, 6, 24, 16)]
    annotations = []
    for image in range(1, 5):
        for number, (x, y, width, height) in enumerate(boxes):
            box = [x + image, y, width, height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1 + number % 2,
                    "segmentation": [octagon(*box)],
                    "bbox": box,
                    "area": 0.875 * width * height,
                    "iscrowd": 0,
                }
            )
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(1, 5)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def each(change: Callable[[Content], Any]) -> Change:
    """The change, made to every annotation."""
    return lambda content: [change(annotation) for annotation in content["annotations"]] and None


def one(**values: Any) -> Change:
    """Other values in annotation 1."""
    return lambda content: content["annotations"][0].update(values)


def prepare_coco(root: Path, change: Change, *, hold_out: bool = False, **options: Any) -> PreparedDataset:
    """Prepares the changed file, as both splits, or with half of its images held out."""
    content = coco_file()
    change(content)
    for image in content["images"]:
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / image["file_name"])
    (root / "all.json").write_text(json.dumps(content))
    split = CocoSplit(annotations="all.json", images=".")
    val = HeldOut(share=0.5) if hold_out else split
    return prepared(CocoDataset(source="coco", root=".", train=split, val=val, **options), root)


def prepare_cityscapes(root: Path, ids: np.ndarray) -> PreparedDataset:
    """Prepares a tree of one image in each split, whose instanceIds are these."""
    for split in ("train", "val"):
        for path, pixels in (
            (f"leftImg8bit/{split}/a/a_0_0_leftImg8bit.png", np.zeros((*ids.shape, 3), np.uint8)),
            (f"gtFine/{split}/a/a_0_0_gtFine_instanceIds.png", ids.astype(np.uint16)),
        ):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / path)
    train, val = (LabelSplit(images=f"leftImg8bit/{s}", labels=f"gtFine/{s}") for s in ("train", "val"))
    return prepared(CityscapesDataset(source="cityscapes", task="instance", root=".", train=train, val=val), root)


def prepare_labels(root: Path, ids: np.ndarray, classes: dict[str, int], ignored: list[int]) -> PreparedDataset:
    """Prepares a folder of one image with these label ids, as both splits."""
    for folder, pixels in (("images", np.zeros((*ids.shape, 3), np.uint8)), ("labels", ids.astype(np.uint8))):
        (root / folder).mkdir()
        Image.fromarray(pixels).save(root / folder / "a.png")
    split = LabelSplit(images="images", labels="labels")
    dataset = LabelDataset(source="labels", root=".", train=split, val=split, classes=classes, ignored=ignored)
    return prepared(dataset, root)


def prepared(dataset: Any, root: Path) -> PreparedDataset:
    prepare(dataset, str(root), root / "out", root / "known.parquet", progress("check", None))
    return read_prepared(root / "out")
