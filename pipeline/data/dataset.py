"""Torch datasets over a Parquet manifest.

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
from pipeline.data.storage import Storage
from pipeline.data.transforms import Target, augment
from pointrend.pictures import decode_picture


class Example(NamedTuple):
    image_id: int
    image: Tensor  # (3, H, W) RGB in [0, 1]
    target: Target


class _ManifestImages:
    """The rows of a manifest, kept as Arrow: no Python object per annotation until an image is asked for."""

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
        name = row["file_name"]
        return decode_picture(io.BytesIO(self._storage.read(name)), self._storage.where(name))

    @property
    def wide(self) -> np.ndarray:
        """(D,) bool: whether image i is wider than high."""
        return np.asarray(pc.greater(self._table["width"], self._table["height"]))

    def target(self, row: dict) -> Target:
        """boxes (G, 4) xyxy clipped to the image, labels (G,) from 1, masks (G, H, W) bool; crowds left out."""
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
    """(D,) bool: whether image i has an object that is no crowd."""
    annotations = table["annotations"].combine_chunks()
    objects = ~np.asarray(annotations.flatten().field("iscrowd"))
    images = np.asarray(pc.list_parent_indices(annotations))
    return np.bincount(images[objects], minlength=table.num_rows) > 0


class TrainingImages(Dataset[Example]):
    """Augmented training examples. Images without objects are dropped, as COCO's practice is.

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
        """(D,) bool: whether image i is wider than high. A batch of one kind needs little padding."""
        return self._images.wide

    def __getitem__(self, draw: Draw) -> Example:
        row = self._images.row(draw.image)
        image, target = augment(
            self._images.image(row), self._images.target(row), self._min_sizes, self._max_size, draw.seed
        )
        return Example(row["id"], image, target)


class EvaluationImages(Dataset[tuple[int, Tensor]]):
    """Every image of the val split as it is, those without objects too: (image id, image (3, H, W))."""

    def __init__(self, prepared: PreparedDataset, storage: Storage) -> None:
        self._images = _ManifestImages(prepared, "val", storage, only_with_objects=False)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        row = self._images.row(index)
        return row["id"], self._images.image(row)
