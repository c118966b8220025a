"""Torch datasets over Parquet manifests: training examples of instances, and the images of both tasks to evaluate on.

Shape letters: D images of a manifest, G objects, H W rows and columns.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.manifest import PreparedDataset
from pipeline.data.samplers import Draw
from pipeline.data.semantic_transforms import ColorChange, change_colors
from pipeline.data.storage import Storage
from pipeline.data.transforms import Target, augment, to_float
from pointrend.pixels import Reading, decode_image
from pointrend.points import Size
from pointrend.transform import resize_image


class Example(NamedTuple):
    """A training example as the loading process returns it: a small image, and what the device does to it later.

    Attributes:
        image_id: of the image in its dataset.
        image: (3, h, w) RGB, uint8; or float in [0, 1].
        target: what the model is to learn from the image.
        size: (H, W) to resize the image to; None to keep its size.
        colors: the change of the image's colours; None to keep them.
    """

    image_id: int
    image: Tensor
    target: Target
    size: Size | None = None
    colors: ColorChange | None = None

    def to_device(self, device: torch.device) -> tuple[Tensor, Target]:
        """The image, float (3, H, W) in [0, 1] at its size and in its colours, and the target, both on the device.

        On a CPU the values equal, bit by bit, those of doing all this in the loading process.
        """
        image = to_float(self.image.to(device, non_blocking=True))
        if self.size is not None:
            height, width = self.size
            image = resize_image(image, (height, width))
        if self.colors is not None:
            image = change_colors(image, self.colors)
        return image, {name: value.to(device, non_blocking=True) for name, value in self.target.items()}


class ManifestImages:
    """The images of a manifest, kept as an Arrow table: annotations become Python objects only for an image in use."""

    def __init__(self, table: pa.Table, storage: Storage, reading: Reading) -> None:
        self._table, self._storage, self._reading = table.combine_chunks(), storage, reading

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def wide(self) -> np.ndarray:
        """(D,) bool: whether image i is wider than it is high."""
        return np.asarray(pc.greater(self._table["width"], self._table["height"]))

    def row(self, index: int) -> dict[str, Any]:
        return self._table.slice(index, 1).to_pylist()[0]

    def pixels(self, row: dict[str, Any]) -> np.ndarray:
        """An image (H, W, 3) uint8."""
        name = row["file_name"]
        return decode_image(io.BytesIO(self._storage.read(name)), self._storage.where(name), self._reading).pixels

    def image(self, row: dict[str, Any]) -> Tensor:
        """An image (3, H, W) uint8."""
        return torch.from_numpy(self.pixels(row)).permute(2, 0, 1)


def training_target(row: dict[str, Any], labels: Mapping[int, int]) -> Target:
    """The objects of a manifest's row, without crowds.

    Args:
        row: of an image (H, W).
        labels: the label of each category id, from 1.

    Returns:
        boxes (G, 4) xyxy clipped to the image, labels (G,) and masks (G, H, W) bool.
    """
    objects = [annotation for annotation in row["annotations"] if not annotation["iscrowd"]]
    size = [row["height"], row["width"]]
    boxes = torch.tensor([annotation["bbox"] for annotation in objects], dtype=torch.float32).view(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    limit = torch.tensor([row["width"], row["height"]] * 2, dtype=torch.float32)
    rles = [{"size": size, "counts": annotation["counts"]} for annotation in objects]
    # Of no masks, pycocotools returns an array of undefined size.
    masks = coco_mask.decode(rles) if rles else np.zeros((*size, 0), np.uint8)
    return {
        "boxes": boxes.clamp(min=torch.zeros(4), max=limit),
        "labels": torch.tensor([labels[annotation["category_id"]] for annotation in objects], dtype=torch.int64),
        "masks": torch.from_numpy(np.ascontiguousarray(masks.transpose(2, 0, 1))).bool(),
    }


def _has_object(table: pa.Table) -> np.ndarray:
    """(D,) bool: whether image i has an object that is not a crowd."""
    annotations = table["annotations"].combine_chunks()
    objects = ~np.asarray(annotations.flatten().field("iscrowd"))
    images = np.asarray(pc.list_parent_indices(annotations))
    return np.bincount(images[objects], minlength=table.num_rows) > 0


class TrainingImages(Dataset[Example]):
    """Augmented training examples.

    Args:
        prepared: the dataset.
        storage: what the manifest's file names are relative to.
        min_sizes: shorter edges to choose from, in pixels.
        max_size: limit of the longer edge.
        negatives: keep images without objects, which are left out otherwise, as is usual for COCO.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        storage: Storage,
        min_sizes: Sequence[int],
        max_size: int,
        *,
        negatives: bool = False,
    ) -> None:
        table = prepared.manifest("train")
        used = table if negatives else table.filter(pa.array(_has_object(table)))
        self._images = ManifestImages(used, storage, prepared.reading)
        self._labels = {category.id: label for label, category in enumerate(prepared.categories, start=1)}
        self._min_sizes, self._max_size = tuple(min_sizes), max_size

    def __len__(self) -> int:
        return len(self._images)

    @property
    def groups(self) -> np.ndarray:
        """(D,) bool: whether image i is wider than it is high. A batch of one kind needs little padding."""
        return self._images.wide

    def __getitem__(self, draw: Draw) -> Example:
        row = self._images.row(draw.image)
        image, target, size = augment(
            self._images.image(row), training_target(row, self._labels), self._min_sizes, self._max_size, draw.seed
        )
        return Example(row["id"], image, target, size=size)


class EvaluationImages(Dataset[tuple[Any, Tensor]]):
    """Every image of the val split of a dataset of either task, unchanged: (its key, image (3, H, W) uint8).

    Args:
        prepared: the dataset.
        storage: what the manifest's file names are relative to.
        key: the column of the manifest that the keys come from: the image's id, or the name of its label file.
    """

    def __init__(self, prepared: PreparedDataset, storage: Storage, key: Literal["id", "label_file"] = "id") -> None:
        self._images, self._key = ManifestImages(prepared.manifest("val"), storage, prepared.reading), key

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        row = self._images.row(index)
        return row[self._key], self._images.image(row)
