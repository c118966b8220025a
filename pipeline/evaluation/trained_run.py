"""A trained run: what a process needs to know to predict with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.config.experiments import RunConfig
from pipeline.data.manifest import PreparedDataset, read_prepared
from pipeline.data.storage import Storage
from pipeline.training.model import build_run_model
from pointrend.weights import load_weights

if TYPE_CHECKING:
    from pointrend.instance import MaskRCNN
    from pointrend.semantic import SemanticSegmenter


@dataclass(frozen=True)
class TrainedRun:
    """A run's weights and the dataset that it predicts on.

    Attributes:
        config: the run.
        prepared: the folder of the prepared dataset.
        images: the storage that the dataset's file names are relative to.
        weights: the file of weights that training wrote.
    """

    config: RunConfig
    prepared: Path
    images: Storage
    weights: Path

    def dataset(self) -> PreparedDataset:
        """Reads the prepared dataset.

        Raises:
            DatasetError: if the dataset is not prepared.
        """
        return read_prepared(self.prepared)

    def model(self, device: torch.device) -> "MaskRCNN | SemanticSegmenter":
        """Builds the network with the run's weights, in evaluation mode."""
        model = build_run_model(self.config, self.dataset().num_classes, pretrained=False)
        load_weights(model, self.weights)
        return model.to(device).eval()
