"""Torch datasets over a semantic manifest."""

import io
from typing import IO, Any

import numpy as np
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
from pointrend.pictures import decode_picture, decode_pixels
from pointrend.specs import IGNORE_LABEL


class _ManifestImages:
    """The rows of a split's manifest, kept as Arrow."""

    def __init__(self, prepared: PreparedDataset, split: Split, storage: Storage) -> None:
        self._table = prepared.manifest(split).combine_chunks()
        self._storage, self._labels = storage, prepared.labels

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, index: int) -> dict[str, Any]:
        return self._table.slice(index, 1).to_pylist()[0]

    def file(self, row: dict[str, Any]) -> tuple[IO[bytes], str]:
        """An image's file and what to call it."""
        name = row["file_name"]
        return io.BytesIO(self._storage.read(name)), self._storage.where(name)

    def labels(self, row: dict[str, Any]) -> np.ndarray:
        """(H, W) uint8: a class, or 255 where it is ignored.

        Raises:
            DatasetError: naming the file, if it is not what was prepared.
        """
        name = row["label_file"]
        try:
            classes = self._labels.classes(read_ids(io.BytesIO(self._storage.read(name))))
        except ValueError as error:
            problem = f"not what was prepared; run `dvc repro` to prepare it again ({error})"
            raise DatasetError(self._storage.where(name), [problem]) from error
        return np.where(classes == len(self._labels.names), IGNORE_LABEL, classes).astype(np.uint8)


class SemanticTrainingImages(Dataset[Example]):
    """Augmented training crops: image (3, h, w) and target ``labels`` (h, w).

    Args:
        prepared: the dataset.
        storage: what the manifest's file names are relative to.
        config: the crops.
    """

    def __init__(self, prepared: PreparedDataset, storage: Storage, config: SemanticModelConfig) -> None:
        self._images, self._config = _ManifestImages(prepared, "train", storage), config

    def __len__(self) -> int:
        return len(self._images)

    @property
    def groups(self) -> np.ndarray:
        """(D,) all zero: crops are of one size whatever their images' are."""
        return np.zeros(len(self), dtype=np.int64)

    def __getitem__(self, draw: Draw) -> Example:
        row = self._images.row(draw.image)
        pixels, labels = decode_pixels(*self._images.file(row)), self._images.labels(row)
        image, target = augment(pixels, labels, self._config, draw.seed)
        return Example(row["id"], image, {"labels": target})


class SemanticEvaluationImages(Dataset[tuple[str, Tensor]]):
    """Every image of the val split as it is: (file name of its labels, image (3, H, W))."""

    def __init__(self, prepared: PreparedDataset, storage: Storage) -> None:
        self._images = _ManifestImages(prepared, "val", storage)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        row = self._images.row(index)
        return row["label_file"], decode_picture(*self._images.file(row))
