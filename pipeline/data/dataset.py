"""Torch datasets over the Parquet manifest of a dataset of instances.

Shape letters: G objects, H W rows and columns.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.manifest import PreparedDataset, Split
from pipeline.data.samplers import Draw
from pipeline.data.semantic_transforms import ColorChange, change_colors
from pipeline.data.storage import Storage
from pipeline.data.transforms import Target, augment, to_float
from pointrend.pictures import decode_pixels
from pointrend.points import Size
from pointrend.transform import resize_image


class Example(NamedTuple):
    """A training example as it travels to the device: small, with what the device has yet to do to the image.

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

        On the CPU the values are exactly those of doing all this before the transport.
        """
        image = to_float(self.image.to(device, non_blocking=True))
        if self.size is not None:
            height, width = self.size
            image = resize_image(image, (height, width))
        if self.colors is not None:
            image = change_colors(image, self.colors)
        return image, {name: value.to(device, non_blocking=True) for name, value in self.target.items()}


class _ManifestImages:
    """The rows of a manifest, kept as an Arrow table: annotations become Python objects only for an image in use."""

    def __init__(self, prepared: PreparedDataset, split: Split, storage: Storage, *, only_with_objects: bool) -> None:
        table = prepared.manifest(split)
        if only_with_objects:
            table = table.filter(pa.array(_has_object(table)))
        self._table = table.combine_chunks()
        self._storage = storage
        self._labels = {category.id: label for label, category in enumerate(prepared.categories, start=1)}

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, index: int) -> dict:
        return self._table.slice(index, 1).to_pylist()[0]

    def image(self, row: dict) -> Tensor:
        """(3, H, W) uint8."""
        name = row["file_name"]
        pixels = decode_pixels(io.BytesIO(self._storage.read(name)), self._storage.where(name))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    @property
    def wide(self) -> np.ndarray:
        """(D,) bool: whether image i is wider than it is high."""
        return np.asarray(pc.greater(self._table["width"], self._table["height"]))

    def target(self, row: dict) -> Target:
        """boxes (G, 4) xyxy clipped to the image, labels (G,) from 1, masks (G, H, W) bool; without crowds."""
        objects = [annotation for annotation in row["annotations"] if not annotation["iscrowd"]]
        size = [row["height"], row["width"]]
        boxes = torch.tensor([annotation["bbox"] for annotation in objects], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        limit = torch.tensor([row["width"], row["height"]] * 2, dtype=torch.float32)
        masks = coco_mask.decode([{"size": size, "counts": annotation["counts"]} for annotation in objects])
        return {
            "boxes": boxes.clamp(min=torch.zeros(4), max=limit),
            "labels": torch.tensor([self._labels[annotation["category_id"]] for annotation in objects]),
            "masks": torch.from_numpy(np.ascontiguousarray(masks.transpose(2, 0, 1))).bool(),
        }


def _has_object(table: pa.Table) -> np.ndarray:
    """(D,) bool: whether image i has an object that is not a crowd."""
    annotations = table["annotations"].combine_chunks()
    objects = ~np.asarray(annotations.flatten().field("iscrowd"))
    images = np.asarray(pc.list_parent_indices(annotations))
    return np.bincount(images[objects], minlength=table.num_rows) > 0


class TrainingImages(Dataset[Example]):
    """Augmented training examples. Images without objects are left out, as is usual for COCO.

    Args:
        prepared: the dataset.
        storage: what the manifest's file names are relative to.
        min_sizes: shorter edges to choose from, in pixels.
        max_size: limit of the longer edge.
    """

    def __init__(self, prepared: PreparedDataset, storage: Storage, min_sizes: Sequence[int], max_size: int) -> None:
        self._images = _ManifestImages(prepared, "train", storage, only_with_objects=True)
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
            self._images.image(row), self._images.target(row), self._min_sizes, self._max_size, draw.seed
        )
        return Example(row["id"], image, target, size=size)


class EvaluationImages(Dataset[tuple[int, Tensor]]):
    """Every image of the val split, unchanged, also those without objects: (image id, image (3, H, W) uint8)."""

    def __init__(self, prepared: PreparedDataset, storage: Storage) -> None:
        self._images = _ManifestImages(prepared, "val", storage, only_with_objects=False)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        row = self._images.row(index)
        return row["id"], self._images.image(row)
