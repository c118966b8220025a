"""What each worker of a check does: trains three updates, resumes from the checkpoint before the last, and predicts.

It calls what a training and an evaluation call, in folders of its own: no MLflow run, and nothing below ``outputs``.
"""

import json
import platform
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from pipeline.check.subset import with_few_val_images
from pipeline.check.task import CHECKPOINT_AT, IMAGES, CheckTask, Failure
from pipeline.config.experiments import RunConfig
from pipeline.data.manifest import read_prepared
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pipeline.evaluation.run import predict_share
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import write_json
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.loop import Update
from pipeline.training.model import build_run_model
from pipeline.training.record import WEIGHTS
from pipeline.training.run import Workers, train_run
from pipeline.training.training import Training
from pointrend.weights import read_state_dict, save_weights, stored_metadata

WHOLE, RESUMED = "whole", "resumed"
START = "start.safetensors"
EVALUATED = "evaluated.safetensors"
#: How long to wait for a checkpoint to be written, before the next update is timed.
WRITING_SECONDS = 300.0


def run_check(task: CheckTask, workers: Workers) -> None:
    """Does one worker's share of a check. All workers must call it.

    A worker that fails says why in the check's folder before it raises the error.
    """
    try:
        _run_check(task, workers)
    except Exception as error:
        write_failure(task, error, workers.rank)
        raise


def write_failure(task: CheckTask, error: BaseException, rank: int | None = None) -> None:
    """Writes why a check failed, for :func:`pipeline.check.result.read_failure`; unless a worker has said it."""
    name = "failed.json" if rank is None else f"failed-{rank}.json"
    fixable = isinstance(error, UserError | OSError)
    text = str(error) or "".join(traceback.format_exception_only(error)).strip()
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    failure = Failure(kind=type(error).__name__, message=text, fixable=fixable, where=where)
    write_json(task.path / name, failure.model_dump())


def _run_check(task: CheckTask, workers: Workers) -> None:
    cuda = workers.device.type == "cuda"
    if dist.is_available():
        # So that DistributedDataParallel's errors name the parameters that they are about.
        dist.set_debug_level(dist.DebugLevel.INFO)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    config = task.config
    if workers.rank == 0 and (task.random or task.start is not None):
        draw_start(task)
    workers.broadcast(0)  # waits for it

    whole, resumed = training_of(task, WHOLE), training_of(task, RESUMED)
    clock = Clock(whole, workers)
    _train(task, whole, replace(workers, report=clock.report), clock)
    if workers.rank == 0:
        copy_checkpoint(whole, resumed)
    workers.broadcast(0)
    _train(task, resumed, workers, None)

    few = Path(task.folder) / "prepared"
    if workers.rank == 0:
        with_few_val_images(Path(task.prepared), IMAGES, few)
        favour_objects(whole.storage / WEIGHTS, task.path / EVALUATED)
    workers.broadcast(0)
    if cuda:
        torch.cuda.empty_cache()
    run = evaluated_run(task, config)
    predict_share(run, task.settings, task.path / "chunks", workers.device, workers.rank, workers.world_size)

    values = {
        "seconds": clock.seconds,
        "losses": clock.losses,
        "memory": torch.cuda.max_memory_reserved() if cuda else peak_of_process(),
        "device_memory": torch.cuda.get_device_properties(workers.device).total_memory if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "workers": workers.world_size,
    }
    write_json(task.path / f"worker-{workers.rank}.json", values)
    workers.broadcast(0)


def training_of(task: CheckTask, name: str) -> Training:
    """A training of the check, in a folder of its own below the check's."""
    drawn = task.path / START if task.random or task.start is not None else None
    weights = Path(task.weights) if task.weights else drawn
    return Training(task.config, Path(task.prepared), Storage(task.images), "check", task.path / name, weights)


def evaluated_run(task: CheckTask, config: RunConfig) -> TrainedRun:
    """The run with the weights to evaluate, on a few of the val images."""
    return TrainedRun(config, task.path / "prepared", Storage(task.images), task.path / EVALUATED)


def _train(task: CheckTask, training: Training, workers: Workers, clock: "Clock | None") -> None:
    train_run(
        training,
        workers,
        images_per_worker=task.cluster.images_per_worker,
        loader_processes=task.cluster.loader_processes,
        notify=lambda: None,
        observe=clock.observe if clock else None,
    )
    workers.broadcast(0)  # waits until worker 0 has written the weights


class Clock:
    """Times the updates of a training on this worker, without the time that a checkpoint takes.

    Attributes:
        seconds: of each update but the first, with loading.
        losses: the total loss of each update.
    """

    def __init__(self, training: Training, workers: Workers) -> None:
        self._store, self._workers = CheckpointStore(training.storage / "checkpoints"), workers
        self._since: float | None = None
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def observe(self, update: Update) -> None:
        self.losses.append(update.loss)  # waits for the device
        now = time.monotonic()
        if self._since is not None:
            self.seconds.append(now - self._since)
        self._since = now

    def report(self, metrics: Mapping[str, float]) -> None:
        """Waits until worker 0 has written the checkpoint that it is about to: a later one is rare."""
        end = time.monotonic() + WRITING_SECONDS
        while self._workers.rank == 0 and not checkpoint_file(self._store).is_file() and time.monotonic() < end:
            time.sleep(0.01)
        self._workers.report(dict(metrics))
        self._since = time.monotonic()


def checkpoint_file(store: CheckpointStore) -> Path:
    """The checkpoint that the check resumes from."""
    return store.folder / f"update-{CHECKPOINT_AT:08d}.pt"


def copy_checkpoint(whole: Training, resumed: Training) -> None:
    """Makes the resumed training start from the checkpoint of the other one. Checkpoints are never written into."""
    source, target = (checkpoint_file(CheckpointStore(each.storage / "checkpoints")) for each in (whole, resumed))
    target.parent.mkdir(parents=True)
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without them
        shutil.copyfile(source, target)


def draw_start(task: CheckTask) -> None:
    """Writes random weights in place of those that the training starts from.

    Of a run whose training has not been done, with that run's own pretrained backbone; or of the network itself,
    where pretrained weights are left out. Frozen batch norm does not normalise random features, which would grow from
    block to block, so the last one of each block is small.
    """
    config = task.start or task.config
    torch.manual_seed(0)
    classes = read_prepared(Path(task.prepared)).num_classes
    model = build_run_model(config, classes, pretrained=not task.random)
    if task.random:
        with torch.no_grad():
            for name, module in model.named_modules():
                if name.endswith(".bn3"):
                    module.weight.mul_(0.2)
    save_weights(model, task.path / START)


def favour_objects(weights: Path, output: Path) -> None:
    """Copies weights, with an instance model's box head made sure that each proposal is an object of the first class.

    After three updates it would find none, and the mask head and its memory would go unchecked.
    """
    state = read_state_dict(weights)
    if (bias := state.get("roi_heads.box_predictor.cls_score.bias")) is not None:
        state["roi_heads.box_predictor.cls_score.bias"] = bias.clone()
        state["roi_heads.box_predictor.cls_score.bias"][1] += 10
    save_file(dict(state), output, metadata=dict(stored_metadata(weights)))


def peak_of_process() -> int:
    """The most memory that this process has had, in bytes; its loading processes are not in it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_name() -> str:
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''} ({platform.machine()})"


def read_workers(task: CheckTask) -> list[dict[str, Any]]:
    """What the workers of a finished check measured, worker 0 first."""
    files = sorted(task.path.glob("worker-*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]
