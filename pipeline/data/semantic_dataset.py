"""The torch dataset of training examples over a semantic manifest."""

import io

import numpy as np
from torch.utils.data import Dataset

from pipeline.config.models import SemanticModelConfig
from pipeline.data.coco import DatasetError
from pipeline.data.dataset import Example, ManifestImages
from pipeline.data.labels import read_ids
from pipeline.data.manifest import PreparedDataset
from pipeline.data.samplers import Draw
from pipeline.data.semantic_transforms import augment
from pipeline.data.storage import Storage
from pointrend.specs import IGNORE_LABEL


class SemanticTrainingImages(Dataset[Example]):
    """Augmented training crops: image (3, h, w) uint8 and target ``labels`` (h, w) int64.

    Args:
        prepared: the dataset.
        storage: what the manifest's file names are relative to.
        config: the size of the crops and their augmentation.
    """

    def __init__(self, prepared: PreparedDataset, storage: Storage, config: SemanticModelConfig) -> None:
        self._images = ManifestImages(prepared.manifest("train"), storage, prepared.reading)
        self._storage = storage
        self._table, self._config = prepared.labels, config

    def __len__(self) -> int:
        return len(self._images)

    @property
    def groups(self) -> np.ndarray:
        """All zero, one number per image: all crops have the same size, whatever the sizes of their images."""
        return np.zeros(len(self), dtype=np.int64)

    def __getitem__(self, draw: Draw) -> Example:
        row = self._images.row(draw.image)
        pixels, labels = self._images.pixels(row), self._labels(row["label_file"])
        image, cropped, colors = augment(pixels, labels, self._config, draw.seed)
        return Example(row["id"], image, {"labels": cropped}, colors=colors)

    def _labels(self, name: str) -> np.ndarray:
        """(H, W) uint8: a class, or 255 for a pixel to ignore.

        Raises:
            DatasetError: if the file is not what was prepared; the message names it.
        """
        try:
            classes = self._table.classes(read_ids(io.BytesIO(self._storage.read(name))))
        except ValueError as error:
            problem = f"not what was prepared; run `dvc repro` to prepare it again ({error})"
            raise DatasetError(self._storage.where(name), [problem]) from error
        return np.where(classes == len(self._table.names), IGNORE_LABEL, classes).astype(np.uint8)
