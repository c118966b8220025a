"""What each worker of a run does; also a whole run by itself, on one worker."""

import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import ray.train
import ray.train.collective
import ray.train.torch
import torch
from torch import nn

from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pipeline.data.dataset import TrainingImages
from pipeline.data.manifest import PreparedDataset, read_prepared
from pipeline.data.samplers import Share, TrainingBatches, draw_seed
from pipeline.data.semantic_dataset import SemanticTrainingImages
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.progress import progress
from pipeline.tracking.sender import MetricSender
from pipeline.training.checkpoint import CheckpointStore, CheckpointWriter
from pipeline.training.loading import load_batches
from pipeline.training.loop import Update, build_optimizer, distribute, train
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.model import begin_with, build_run_model
from pipeline.training.record import METRICS, WEIGHTS
from pipeline.training.run_log import RunLog
from pointrend import save_weights

SUMMARY = "summary.json"  # of the workers
# Ray looks for nodes that are to go every 5 seconds. Asking takes all workers some milliseconds.
UPDATES_PER_PREEMPTION_CHECK = 10


class InterruptedTrainingError(UserError):
    """Training stopped at the user's wish, after a checkpoint."""


def train_worker(arguments: dict[str, Any]) -> None:
    """What every worker of a run does; also a whole run by itself, on one worker."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    config = RunConfig.model_validate(arguments["config"])
    storage = Path(arguments["storage"])
    device = worker_device(arguments["use_gpu"])
    prepared = read_prepared(Path(arguments["prepared"]))
    schedule = config.schedule
    share = Share.of_batch(schedule.batch_size, arguments["images_per_worker"], rank, world_size)
    if config.model.norm == "batch" and share.parts > world_size:
        raise UserError(
            f"run {config.run}: norm 'batch' needs statistics of the whole batch in one pass; have {share.parts} "
            "workers, or larger images_per_worker"
        )

    # Every worker draws the same initial weights; DistributedDataParallel makes sure of it.
    torch.manual_seed(draw_seed(config.seed))
    network = build_run_model(config, prepared.num_classes, pretrained=True)
    if arguments["starts_from"] is not None:
        begin_with(network, Path(arguments["starts_from"]))
    model: nn.Module = network.to(device)
    if world_size > 1:
        model = synchronised(model, config, device)
    optimizer = build_optimizer(model, schedule)
    store = CheckpointStore(storage / "checkpoints")
    start = resume(store, model, optimizer, device, rank)

    dataset = training_images(config, prepared, Storage(arguments["images"]))
    batches = TrainingBatches(
        dataset.groups,
        batch_size=schedule.batch_size,
        seed=config.seed,
        start=start,
        stop=schedule.updates,
        share=share,
    )
    begun = time.monotonic()
    metrics = MetricsFile(storage / METRICS)
    with (
        MetricSender(metrics, **arguments["tracking"]) if rank == 0 else nullcontext() as sender,
        CheckpointWriter(store) as checkpoints,
    ):
        log = RunLog(metrics, sender.notify) if sender is not None else None
        if log is not None:
            log.started(start, workers=world_size, passes=len(share.own))
        with progress(f"train {config.run}", schedule.updates, start) as bar, stop_on_interrupt() as stop_requested:
            notice = Notice()

            def on_update(update: Update) -> None:
                if log is not None:
                    log.add(update)
                    bar.advance(note=f"loss {update.loss:.3f}")
                stopping = stop_requested()
                leaving = notice.is_new() if update.number % UPDATES_PER_PREEMPTION_CHECK == 0 else False
                if stopping or leaving or update.number % schedule.checkpoint_every == 0:
                    if rank == 0:
                        checkpoints.save(update.number, model, optimizer)
                        if stopping or leaving:
                            checkpoints.wait()
                            print(f"checkpoint of update {update.number} written before time", flush=True)
                    ray.train.report({"update": update.number, "loss": update.loss})
                if stopping:
                    raise InterruptedTrainingError(
                        f"interrupted after update {update.number} of {schedule.updates}; the checkpoint is safe, "
                        "`dvc repro` goes on from there"
                    )

            train(
                distribute(model, world_size, device),
                optimizer,
                load_batches(dataset, batches, arguments["loader_processes"], device),
                schedule,
                start=start,
                seed=config.seed,
                share=share,
                device=device,
                on_update=on_update,
            )
        if log is not None:
            log.flush()
            save_weights(model, storage / WEIGHTS, {"model": config.model.name, "run": config.run})
            summary = {
                "updates": schedule.updates,
                "resumed_from": start,
                "seconds": round(time.monotonic() - begun, 1),
                "workers": world_size,
                "passes": len(share.own),
                "hardware": hardware(),
                "images": len(dataset),
                "losses": log.last_losses,
            }
            write_json(storage / SUMMARY, summary)


def training_images(
    config: RunConfig, prepared: PreparedDataset, storage: Storage
) -> TrainingImages | SemanticTrainingImages:
    """The augmented training examples of a run."""
    network = config.model
    if isinstance(network, InstanceModelConfig):
        return TrainingImages(prepared, storage, network.train_min_sizes, network.max_size)
    return SemanticTrainingImages(prepared, storage, network)


def synchronised(model: nn.Module, config: RunConfig, device: torch.device) -> nn.Module:
    """A model whose batch norm, if it learns any, takes its statistics from the batches of all workers (Appendix B).

    Raises:
        UserError: on CPUs, where torch cannot do that.
    """
    if config.model.norm != "batch":
        return model
    if device.type != "cuda":
        raise UserError(
            f"run {config.run}: norm 'batch' needs statistics of the whole batch, which several workers have only on "
            "GPUs; take one worker, or norm 'group'"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def resume(
    store: CheckpointStore, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, rank: int
) -> int:
    """Restores the newest whole checkpoint on every worker and returns its number of updates; 0 where there is none.

    The first worker chooses it for all: others might see one that a run still dying has just written.
    """
    start = store.load_latest(model, optimizer, device) if rank == 0 else 0
    start = ray.train.collective.broadcast_from_rank_zero(start)
    if rank > 0 and start > 0:
        store.load(start, model, optimizer, device)
    return start


class Notice:
    """What Ray announces of nodes that are to go, such as a spot machine that is taken back."""

    def __init__(self) -> None:
        self._seen: Any = None

    def is_new(self) -> bool:
        """Whether there is news since the last call. All workers get the same answer, and must ask as often."""
        info = ray.train.get_preemption_info()
        new = info is not None and info != self._seen
        self._seen = info
        return new


def worker_device(use_gpu: bool) -> torch.device:
    """This worker's device.

    Raises:
        RuntimeError: if the cluster configuration asks for a GPU and there is none.
    """
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError("the cluster configuration has gpus_per_worker > 0, but this worker sees no CUDA device")
    return ray.train.torch.get_device()


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a request to stop after the update under way; a second one stops at once.

    Elsewhere than in a main thread, signals are somebody else's: the request never comes.
    """
    requested = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: requested
        return

    def on_signal(signum: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def hardware() -> str:
    """What this process computes on, in a few words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''} ({platform.machine()})"
