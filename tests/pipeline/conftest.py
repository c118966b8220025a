"""A small COCO-instances dataset that tests break in one place at a time."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# MLflow asks for nothing from outside in tests.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"

REPOSITORY = Path(__file__).parents[2]


def rectangle(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """A box as one COCO polygon."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


class CocoFolder:
    """One split on disk: ``annotations/instances_<split>.json`` and ``<split>/``.

    Images, by id: 7 is a PNG of 40x30, 3 a JPEG of 24x36, 12 a PNG of 20x20 without objects; id and order differ.
    Category ids have gaps: 2 bolt, 5 nut, 9 gear. Tests change ``data`` and write it again.
    """

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        self.images = root / split
        self.annotations = root / "annotations" / f"instances_{split}.json"
        self.data: dict[str, Any] = {
            "images": [
                {"id": 7, "file_name": "wide.png", "height": 30, "width": 40},
                {"id": 3, "file_name": "tall.jpg", "height": 36, "width": 24},
                {"id": 12, "file_name": "empty.png", "height": 20, "width": 20},
            ],
            "annotations": [
                self.annotation(21, 7, 9, (4, 5, 10, 8)),
                self.annotation(22, 7, 2, (20, 10, 12, 15)),
                self.annotation(23, 7, 5, (0, 0, 40, 4), iscrowd=1),
                self.annotation(24, 3, 5, (6, 3, 9, 30)),
            ],
            "categories": [{"id": 9, "name": "gear"}, {"id": 2, "name": "bolt"}, {"id": 5, "name": "nut"}],
        }
        self.images.mkdir(parents=True)
        for index, image in enumerate(self.data["images"]):
            pixels = np.random.default_rng(index).integers(0, 256, (image["height"], image["width"], 3), np.uint8)
            Image.fromarray(pixels).save(self.images / image["file_name"])
        self.write()

    @staticmethod
    def annotation(
        id_: int, image_id: int, category_id: int, box: tuple[int, int, int, int], iscrowd: int = 0
    ) -> dict[str, Any]:
        return {
            "id": id_,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": iscrowd,
            "segmentation": rectangle(*box),
        }

    def find(self, kind: str, id_: int) -> dict[str, Any]:
        """An entry of the file, to change."""
        return next(entry for entry in self.data[kind] if entry["id"] == id_)

    def write(self) -> None:
        self.annotations.parent.mkdir(parents=True, exist_ok=True)
        self.annotations.write_text(json.dumps(self.data))


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    """A train split without faults."""
    return CocoFolder(tmp_path / "raw")


@pytest.fixture(scope="session")
def coco_folder() -> Callable[..., CocoFolder]:
    """Makes splits: ``coco_folder(root, split)``."""
    return CocoFolder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout under test."""
    return REPOSITORY


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, hidden ones too."""
    return tree
