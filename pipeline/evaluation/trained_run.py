"""A trained run, as every process that predicts with it needs it."""

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
    """A run's weights and the data that it predicts on.

    Attributes:
        config: the run.
        prepared: the folder of its prepared dataset.
        images: what that dataset's file names are relative to.
        weights: the file that training wrote.
    """

    config: RunConfig
    prepared: Path
    images: Storage
    weights: Path

    def dataset(self) -> PreparedDataset:
        """The prepared dataset.

        Raises:
            DatasetError: if it is not prepared.
        """
        return read_prepared(self.prepared)

    def model(self, device: torch.device) -> "MaskRCNN | SemanticSegmenter":
        """The network with its weights, in evaluation mode."""
        model = build_run_model(self.config, self.dataset().num_classes, pretrained=False)
        load_weights(model, self.weights)
        return model.to(device).eval()
