"""Predicts with a run under all of its evaluation settings and scores the predictions.

The modules of instance and semantic runs are imported on use, so that a change to one task's modules does not make
evaluations of the other task stale.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.config.evaluations import EvaluationConfig, EvaluationSetting, SemanticRenderingConfig
from pipeline.data.manifest import PreparedDataset
from pipeline.errors import UserError
from pipeline.evaluation.chunks import Predict, chunk_folder, image_chunks, predict_chunks
from pipeline.evaluation.outputs import labels_folder, prediction_names, predictions_file
from pipeline.evaluation.scores import Scores
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.progress import progress


def predict_share(
    run: TrainedRun,
    settings: EvaluationConfig,
    chunks: Path,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    *,
    show: bool = True,
) -> None:
    """Predicts one worker's share of the val images under every setting.

    The predictions do not depend on the number of workers, if every worker has the same number of CPU threads.

    Args:
        run: the trained run, with absolute paths that every worker can reach.
        settings: the evaluation settings.
        chunks: a folder that all workers share; chunks that it contains are not predicted again.
        device: the device to predict on.
        rank: the worker's number, from 0.
        world_size: the number of workers.
        show: whether worker 0 shows its progress.

    Raises:
        OSError: if an image cannot be read.
    """
    dataset = run.dataset()
    every = image_chunks(dataset.manifest("val").num_rows)
    share = every[rank::world_size]

    def build() -> Predict:
        if dataset.task == "semantic":
            from pipeline.evaluation.semantics import semantic_predictor

            return semantic_predictor(run, settings, device)
        from pipeline.evaluation.instances import instance_predictor

        return instance_predictor(run, settings, device)

    with nullcontext() if rank or not show else progress(f"evaluate {run.config.run}", sum(map(len, share))) as bar:
        predict_chunks(build, share, chunks, bar)


def gather(run: TrainedRun, settings: EvaluationConfig, chunks: Path, output: Path) -> None:
    """Joins the chunks of all workers to a COCO results file or a folder of label PNGs for each setting.

    Args:
        run: the trained run.
        settings: the evaluation settings.
        chunks: the folder that :func:`predict_share` has written.
        output: an existing folder to write to.

    Raises:
        IncompletePredictionsError: if an image has no prediction or more than one.
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
    """Predicts all val images in this process: :func:`predict_share`, then :func:`gather`."""
    run = replace(run, prepared=run.prepared.resolve(), weights=run.weights.resolve())
    predict_share(run, settings, chunks, device)
    gather(run, settings, chunks, output)


def score(
    dataset: PreparedDataset, predictions: Path, name: str, setting: EvaluationSetting, *, finer: bool = True
) -> Scores:
    """Scores the predictions of one setting.

    Every run of a dataset is scored on the same resamples of its images, so that their differences can be resampled.

    Args:
        dataset: the prepared dataset.
        predictions: the folder that :func:`gather` has written.
        name: the setting's name.
        setting: the setting, with the number of resamples.
        finer: whether to score against the annotations of ``finer_val`` as well, if there are any.
    """
    resamples = setting.resamples or 0
    if isinstance(setting, SemanticRenderingConfig):
        from pipeline.evaluation.semantic_scores import score_labels

        folder = labels_folder(predictions, name)
        return score_labels(dataset.truth, folder, dataset.labels, setting.trimap_widths or (), resamples)
    from pipeline.evaluation.instance_scores import score_instances

    return score_instances(dataset, predictions_file(predictions, name), resamples, finer=finer)


def own_device(use_gpu: bool) -> torch.device:
    """The device of this process: the GPU that was assigned to it, or the CPU.

    Raises:
        UserError: if the cluster configuration asks for a GPU and this process sees none.
    """
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "the cluster configuration has gpus_per_worker > 0, but this process sees no CUDA device; select a "
            "configuration without GPUs, or check the driver and CUDA_VISIBLE_DEVICES"
        )
    return torch.device("cuda")
