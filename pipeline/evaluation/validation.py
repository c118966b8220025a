"""Scores a network that is being trained on the val images, exactly as an evaluation of its weights would."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.config.evaluations import EvaluationConfig
from pipeline.evaluation.run import gather, predict_share, score
from pipeline.evaluation.trained_run import TrainedRun

if TYPE_CHECKING:
    from pipeline.training.run import Workers
    from pipeline.training.training import Training

FOLDER = "validation"  # in a training's storage, while it validates
SETTING = "validation"


def measure(training: "Training", workers: "Workers", save: Callable[[Path], None]) -> dict[str, float]:
    """Scores weights under the validation setting of a run. All workers must call it; each predicts its share.

    The weights are predicted with from their file, by a network of its own: that of the training stays as it is.

    Args:
        training: the training of a run that validates.
        workers: this worker's view of the run's workers.
        save: writes the weights to a file; called by worker 0.

    Returns:
        on worker 0 the metrics in percent, without undefined ones; nothing on the others.
    """
    config, device = training.config, workers.device
    assert config.validation is not None
    settings = EvaluationConfig({SETTING: config.validation.setting})
    root = training.storage / FOLDER
    # A folder of its own: what an interrupted validation has left may be of other weights.
    name = time.time_ns()
    if workers.rank == 0:
        shutil.rmtree(root, ignore_errors=True)
        (root / str(name)).mkdir(parents=True)
        save(root / str(name) / "weights.safetensors")
    folder = root / str(workers.broadcast(name))
    run = TrainedRun(config, training.prepared, training.images, folder / "weights.safetensors")
    if device.type == "cuda":
        torch.cuda.empty_cache()  # there is a second network in memory now
    predict_share(run, settings, folder / "chunks", device, workers.rank, workers.world_size, show=False)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    workers.broadcast(0)  # waits for the predictions of all workers
    if workers.rank > 0:
        return {}
    gather(run, settings, folder / "chunks", folder)
    # A training does not depend on the finer annotations.
    found = score(run.dataset(), folder, SETTING, config.validation.setting, finer=False)
    shutil.rmtree(root, ignore_errors=True)
    return found.metrics
