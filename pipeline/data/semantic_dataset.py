"""Torch datasets over a semantic manifest."""

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.config.models import SemanticModelConfig
from pipeline.data.coco import DatasetError
from pipeline.data.dataset import Example
from pipeline.data.labels import read_ids
from pipeline.data.manifest import PreparedDataset, Split
from pipeline.data.samplers import Draw
from pipeline.data.semantic_transforms import augment
from pipeline.data.storage import Storage
from pointrend.pictures import decode_pixels
from pointrend.specs import IGNORE_LABEL


class _ManifestImages:
    """The rows of a split's manifest, kept as an Arrow table."""

    def __init__(self, prepared: PreparedDataset, split: Split, storage: Storage) -> None:
        self._table = prepared.manifest(split).combine_chunks()
        self._storage, self._labels = storage, prepared.labels

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, index: int) -> dict[str, Any]:
        return self._table.slice(index, 1).to_pylist()[0]

    def pixels(self, row: dict[str, Any]) -> np.ndarray:
        """An image (H, W, 3) uint8."""
        name = row["file_name"]
        return decode_pixels(io.BytesIO(self._storage.read(name)), self._storage.where(name))

    def labels(self, row: dict[str, Any]) -> np.ndarray:
        """(H, W) uint8: a class, or 255 for a pixel to ignore.

        Raises:
            DatasetError: if the file is not what was prepared; the message names it.
        """
        name = row["label_file"]
        try:
            classes = self._labels.classes(read_ids(io.BytesIO(self._storage.read(name))))
        except ValueError as error:
            problem = f"not what was prepared; run `dvc repro` to prepare it again ({error})"
            raise DatasetError(self._storage.where(name), [problem]) from error
        return np.where(classes == len(self._labels.names), IGNORE_LABEL, classes).astype(np.uint8)


class SemanticTrainingImages(Dataset[Example]):
    """Augmented training crops: image (3, h, w) uint8 and target ``labels`` (h, w) int64.

    Args:
        prepared: the dataset.
        storage: what the manifest's file names are relative to.
        config: the size of the crops and their augmentation.
    """

    def __init__(self, prepared: PreparedDataset, storage: Storage, config: SemanticModelConfig) -> None:
        self._images, self._config = _ManifestImages(prepared, "train", storage), config

    def __len__(self) -> int:
        return len(self._images)

    @property
    def groups(self) -> np.ndarray:
        """(D,) all zero: all crops have one size, whatever the sizes of their images."""
        return np.zeros(len(self), dtype=np.int64)

    def __getitem__(self, draw: Draw) -> Example:
        row = self._images.row(draw.image)
        image, labels, colors = augment(self._images.pixels(row), self._images.labels(row), self._config, draw.seed)
        return Example(row["id"], image, {"labels": labels}, colors=colors)


class SemanticEvaluationImages(Dataset[tuple[str, Tensor]]):
    """Every image of the val split, unchanged: (file name of its labels, image (3, H, W) uint8)."""

    def __init__(self, prepared: PreparedDataset, storage: Storage) -> None:
        self._images = _ManifestImages(prepared, "val", storage)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        row = self._images.row(index)
        return row["label_file"], torch.from_numpy(self._images.pixels(row)).permute(2, 0, 1)
