"""Raw label datasets to break in one place at a time: a tree as Cityscapes', and folders of one's own."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 40)  # H, W
ROAD, PERSON, CAR = 7, 24, 26


def instance_ids() -> np.ndarray:
    """Two people, a car and a group of people on a road: (H, W) uint16."""
    ids = np.full(SIZE, ROAD, np.uint16)
    ids[2:12, 3:8] = 1000 * PERSON + 1
    ids[4:14, 20:24] = 1000 * PERSON
    ids[15:20, 10:30] = 1000 * CAR + 2
    ids[0:3, 30:40] = PERSON
    return ids


def label_ids() -> np.ndarray:
    """The labels of the same pixels: (H, W) uint8."""
    ids = instance_ids()
    return np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def write_cityscapes(root: Path) -> None:
    """Two train images in two cities and one val image, with label and instance ids and what else Cityscapes has."""
    for seed, (split, city, name) in enumerate(
        [("train", "ulm", "ulm_000000_000019"), ("train", "aachen", "aachen_000001_000019"), ("val", "bonn", "bonn_1")]
    ):
        save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", picture(seed))
        labels = root / "gtFine" / split / city
        save(labels / f"{name}_gtFine_instanceIds.png", instance_ids())
        save(labels / f"{name}_gtFine_labelIds.png", label_ids())
        save(labels / f"{name}_gtFine_color.png", picture(seed))
        (labels / f"{name}_gtFine_polygons.json").write_text("{}")


def write_labels(root: Path) -> None:
    """Images of several formats at several depths, and their labels 0, 1 and 255: one PNG has a palette."""
    ids = np.zeros(SIZE, np.uint8)
    ids[:, 10:] = 1
    ids[0, 0] = 255
    for seed, name in enumerate(["train/a.jpg", "train/deep/b.PNG", "train/deep/er/c.webp", "val/a.tif"]):
        split, _, rest = name.partition("/")
        save(root / split / "images" / rest, picture(seed))
        labels = Image.fromarray(ids)
        if seed == 1:
            labels = Image.fromarray(ids, mode="P")
            labels.putpalette([0, 0, 0, 255, 0, 0])
        path = (root / split / "labels" / rest).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        labels.save(path)
