"""Predictions of every evaluation setting of a run, then their scores.

What instance and semantic runs need is imported on use, so that a change in one does not evaluate the other again.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.config.evaluations import EvaluationConfig, EvaluationSetting, SemanticRenderingConfig
from pipeline.data.manifest import PreparedDataset
from pipeline.errors import UserError
from pipeline.evaluation.chunks import Predict, chunk_folder, image_chunks, predict_chunks
from pipeline.evaluation.outputs import labels_folder, prediction_names, predictions_file
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.progress import progress


def predict_share(
    run: TrainedRun,
    settings: EvaluationConfig,
    chunks: Path,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Predicts one worker's share of the val images under every setting.

    The predictions are the same however many workers there are, given that each has as many CPU threads.

    Args:
        run: the run, with absolute paths that every worker can reach.
        settings: how to evaluate it.
        chunks: a folder that all workers share; what it has already is not predicted again.
        device: where to predict.
        rank: the worker's number, from 0.
        world_size: how many workers there are.

    Raises:
        OSError: for an image that cannot be read.
    """
    dataset = run.dataset()
    every = image_chunks(dataset.manifest("val").num_rows)
    share = every[rank::world_size]

    def build() -> Predict:
        if dataset.task == "semantic":
            from pipeline.evaluation.semantics import SemanticPredictor

            return SemanticPredictor(run, settings, device)
        from pipeline.evaluation.instances import InstancePredictor

        return InstancePredictor(run, settings, device)

    if rank:
        predict_chunks(build, share, chunks)
        return
    with progress(f"evaluate {run.config.run}", sum(map(len, share))) as bar:
        predict_chunks(build, share, chunks, bar)


def gather(run: TrainedRun, settings: EvaluationConfig, chunks: Path, output: Path) -> None:
    """Joins the chunks of all workers: a COCO results file for each setting, or a folder of label PNGs.

    Args:
        run: the run.
        settings: its evaluation settings.
        chunks: the folder that :func:`predict_share` has filled; label PNGs are moved out of it.
        output: an existing folder.

    Raises:
        IncompletePredictionsError: unless every image is there exactly once.
    """
    dataset = run.dataset()
    image_ids = dataset.manifest("val")["id"].to_pylist()
    parts = [chunk_folder(chunks, chunk) for chunk in image_chunks(len(image_ids))]
    for name in settings.root:
        if dataset.task == "semantic":
            from pipeline.evaluation.semantics import gather_predictions

            gather_predictions(parts, name, prediction_names(dataset).values(), labels_folder(output, name))
        else:
            from pipeline.evaluation.instances import merge_predictions

            merge_predictions(parts, name, image_ids, predictions_file(output, name))


def predict(run: TrainedRun, settings: EvaluationConfig, device: torch.device, chunks: Path, output: Path) -> None:
    """Predicts all val images in this process, see :func:`predict_share` and :func:`gather`."""
    run = replace(run, prepared=run.prepared.resolve(), weights=run.weights.resolve())
    predict_share(run, settings, chunks, device)
    gather(run, settings, chunks, output)


def score(
    dataset: PreparedDataset, predictions: Path, name: str, setting: EvaluationSetting
) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics of a setting's predictions, and the details that are kept beside them, such as IoU by class."""
    if isinstance(setting, SemanticRenderingConfig):
        from pipeline.evaluation.semantic_scores import score_labels

        folder = labels_folder(predictions, name)
        return score_labels(dataset.truth, folder, dataset.labels, setting.trimap_widths or ())
    from pipeline.evaluation.instance_scores import score_instances

    return score_instances(dataset, predictions_file(predictions, name)), {}


def own_device(use_gpu: bool) -> torch.device:
    """This process's device.

    Raises:
        UserError: if the cluster configuration asks for a GPU and there is none.
    """
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("the cluster configuration has gpus_per_worker > 0, but this process sees no CUDA device")
    return torch.device("cuda")
