"""Predictions of semantic models: one backbone pass per image and output stride, from which settings are rendered.

Shape letters: K classes, H W rows and columns of an image.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.config.evaluations import EvaluationConfig, SemanticRenderingConfig
from pipeline.config.labels import LabelTable
from pipeline.data.dataset import EvaluationImages
from pipeline.evaluation.chunks import Predict, predict_images
from pipeline.evaluation.outputs import IncompletePredictionsError, prediction_names
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import atomic_file
from pointrend.semantic import SemanticSegmenter


@torch.inference_mode()
def predict_classes(
    model: SemanticSegmenter, image: Tensor, settings: Mapping[str, SemanticRenderingConfig]
) -> dict[str, Tensor]:
    """The classes (H, W) int64 of an image (3, H, W) under each setting, on the CPU.

    Settings with the same output stride share one backbone pass.
    """
    predicted = {}
    for stride in dict.fromkeys(setting.output_stride for setting in settings.values()):
        if stride is not None:
            model.set_output_stride(stride)
        coarse = model.coarse_prediction([image])
        for name, setting in settings.items():
            if setting.output_stride == stride:
                predicted[name] = model.render(coarse, setting.num_points)[0].argmax(0)
    return {name: classes.cpu() for name, classes in predicted.items()}


def write_ids(classes: Tensor, table: LabelTable, path: Path) -> None:
    """Writes classes (H, W) as a PNG of label ids, whole or not at all."""
    ids = np.array(table.ids)[classes.numpy()]
    with atomic_file(path, "wb") as stream:
        Image.fromarray(ids.astype(np.uint8 if max(table.ids) < 256 else np.uint16)).save(stream, "PNG")


def semantic_predictor(run: TrainedRun, settings: EvaluationConfig, device: torch.device) -> Predict:
    """Loads a semantic model, and returns the function that predicts a chunk of images.

    The function writes ``<setting>/<name>``, a PNG of label ids, for each setting and image.
    """
    model, dataset, renderings = run.model(device), run.dataset(), settings.all_of(SemanticRenderingConfig)
    assert isinstance(model, SemanticSegmenter)  # the configuration allows no other for these settings
    images, names = EvaluationImages(dataset, run.images, "label_file"), prediction_names(dataset)
    precision = run.config.schedule.precision

    def predict_chunk(chunk: range, folder: Path) -> None:
        def write(label_file: str, predicted: dict[str, Tensor]) -> None:
            for setting, classes in predicted.items():
                write_ids(classes, dataset.labels, folder / setting / names[label_file])

        predict_images(images, chunk, device, precision, lambda image: predict_classes(model, image, renderings), write)

    return predict_chunk


def gather_predictions(parts: Iterable[Path], setting: str, names: Iterable[str], folder: Path) -> None:
    """Copies a setting's PNGs into one folder. The parts stay as they are, so that this can be interrupted.

    Args:
        parts: the folders that a :func:`semantic_predictor` has written.
        setting: the evaluation setting.
        names: the names of all predictions.
        folder: the folder to copy them to.

    Raises:
        IncompletePredictionsError: if a prediction is missing, there twice, or of an unknown image.
    """
    missing = set(names)
    for part in parts:
        for path in sorted((part / setting).rglob("*.png")):
            name = path.relative_to(part / setting)
            if name.as_posix() not in missing:
                raise IncompletePredictionsError(f"{part}, {setting}: {name} is there twice, or of an unknown image")
            missing.remove(name.as_posix())
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    if missing:
        raise IncompletePredictionsError(f"{folder}: no prediction {min(missing)}; {len(missing)} are missing")
