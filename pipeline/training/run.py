"""A run's training on one of its workers, from the first update to the saved weights."""

import platform
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.config.experiments import RunConfig
from pipeline.config.models import InstanceModelConfig
from pipeline.data.manifest import PreparedDataset, read_prepared
from pipeline.data.samplers import Share, TrainingBatches, draw_seed
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.progress import progress
from pipeline.training.best_weights import BestWeights
from pipeline.training.checkpoint import CheckpointStore, CheckpointWriter
from pipeline.training.loading import load_batches
from pipeline.training.loop import Update, apply_layout, build_optimizer, distribute, train
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.model import build_initial_model, class_infos
from pipeline.training.record import BEST, METRICS, SUMMARY, WEIGHTS
from pipeline.training.run_log import RunLog
from pipeline.training.training import Training
from pipeline.training.validation import Measure, Validator
from pointrend.weights import save_weights

if TYPE_CHECKING:
    from pipeline.data.dataset import TrainingImages
    from pipeline.data.semantic_dataset import SemanticTrainingImages

# All workers must agree on whether a node is about to leave, which takes some milliseconds.
UPDATES_PER_PREEMPTION_CHECK = 10


class InterruptedTrainingError(UserError):
    """The user stopped a training; a checkpoint was written."""


@dataclass(frozen=True)
class Workers:
    """One worker's view of the processes that train a run together.

    Attributes:
        rank: this worker's number, from 0.
        world_size: the number of workers.
        device: this worker's device.
        broadcast: returns the value that worker 0 passes, on every worker; all workers must call it.
        report: reports progress to the process that started the workers; all workers must call it.
        node_is_leaving: returns whether it was announced since the last call that a node will leave the cluster; all
            workers must call it, and get the same answer.
    """

    rank: int
    world_size: int
    device: torch.device
    broadcast: Callable[[int], int]
    report: Callable[[dict[str, float]], None]
    node_is_leaving: Callable[[], bool]


def train_run(
    training: Training,
    workers: Workers,
    *,
    images_per_worker: int | None,
    loader_processes: int,
    notify: Callable[[], None],
    measure: Measure | None = None,
    observe: Callable[[Update], None] | None = None,
) -> None:
    """Trains a run, or continues from its newest checkpoint, and writes weights, metrics and a summary to its storage.

    Args:
        training: the training, with absolute paths that every worker can reach.
        workers: this worker's view of the run's workers.
        images_per_worker: the most images of a micro-batch; see :class:`pipeline.data.samplers.Share`.
        loader_processes: image-loading processes of each worker.
        notify: called in worker 0 when the metrics file has grown.
        measure: scores weights on the val images; for a run whose schedule validates.
        observe: called after each update, before its validation and checkpoint.

    Raises:
        InterruptedTrainingError: after Ctrl-C or SIGTERM, once a checkpoint is written.
        DivergedTrainingError: if a loss or gradient is no longer finite.
        TrainingDataError: if an image cannot be read.
        UserError: if the model has batch norm that is trained, and a worker would see less than its share of the batch
            in one pass.
        ValueError: if the schedule validates and there is no ``measure``, or the other way round.
    """
    config, storage = training.config, training.storage
    rank, world_size, device = workers.rank, workers.world_size, workers.device
    prepared = read_prepared(training.prepared)
    schedule = config.schedule
    share = Share.of_batch(schedule.batch_size, images_per_worker, rank, world_size)
    if (config.validation is None) != (measure is None):
        raise ValueError(f"run {config.run}: measure is for a run whose schedule validates, and needed there")

    check_whole_batches(config, share)

    # All workers draw the same initial weights, and DistributedDataParallel sends those of worker 0 to the others.
    torch.manual_seed(draw_seed(config.seed))
    say = partial(print, flush=True) if rank == 0 else None
    network = build_initial_model(config, prepared.num_classes, training.starts_from, prepared.class_names, say)
    model: nn.Module = network.to(device)
    if world_size > 1:
        model = with_synchronised_batch_norm(model, config, device)
    apply_layout(model, schedule)
    optimizer = build_optimizer(model, schedule)
    store = CheckpointStore(storage / "checkpoints")
    best = None if measure is None else BestWeights()
    start = resume(store, model, optimizer, workers, best)

    dataset = training_images(config, prepared, training.images)
    begun = time.monotonic()
    log = RunLog(MetricsFile(storage / METRICS), notify) if rank == 0 else None
    origin = {"dataset": config.dataset, "run": config.run, "data": training.data, "code": training.code}
    save = partial(
        save_weights,
        model,
        classes=class_infos(prepared),
        origin=origin,
        pixel_range=prepared.reading.pixel_range,
    )
    validator = None
    if measure is not None and best is not None:
        validator = Validator(config, workers, best, model, save, measure, log)
    with CheckpointWriter(store) as checkpoints:
        if log is not None:
            log.started(start, workers=world_size, passes=len(share.own))
        # The checkpoint may have been written before a validation, or after the one that ends the training.
        ended = validator is not None and validator.after(start)
        batches = TrainingBatches(
            dataset.groups,
            batch_size=schedule.batch_size,
            seed=config.seed,
            start=start,
            stop=start if ended else schedule.updates,
            share=share,
        )
        with progress(f"train {config.run}", schedule.updates, start) as bar, stop_on_interrupt() as stop_requested:

            def on_update(update: Update) -> bool:
                if observe is not None:
                    observe(update)
                if log is not None:
                    log.add(update)
                    bar.advance(note=log.note)
                stopping = stop_requested()
                leaving = update.number % UPDATES_PER_PREEMPTION_CHECK == 0 and workers.node_is_leaving()
                if schedule.validates_after(update.number):
                    update.check()
                if validator is not None and not (stopping or leaving):  # else there is no time for it
                    validator.after(update.number)
                if stopping or leaving or update.number % schedule.checkpoint_every == 0:
                    update.check()
                    if rank == 0:
                        checkpoints.save(update.number, model, optimizer, best)
                        if stopping or leaving:
                            checkpoints.wait()
                            print(f"wrote a checkpoint ahead of schedule, at update {update.number}", flush=True)
                    workers.report({"update": update.number, "loss": update.loss})
                if stopping:
                    raise InterruptedTrainingError(
                        f"interrupted after update {update.number} of {schedule.updates}, whose checkpoint is written; "
                        "`dvc repro` continues from there"
                    )
                return validator is not None and validator.after(update.number)

            train(
                distribute(model, world_size, device),
                optimizer,
                load_batches(dataset, batches, loader_processes, device),
                schedule,
                start=start,
                seed=config.seed,
                share=share,
                device=device,
                on_update=on_update,
            )
        if log is not None:
            log.flush()
            save(storage / WEIGHTS)
            summary = {
                "updates": schedule.updates,
                "resumed_from": start,
                "seconds": round(time.monotonic() - begun, 1),
                "workers": world_size,
                "passes": len(share.own),
                "hardware": hardware(),
                "peak_memory_gb": round(peak_memory() / 1e9, 2),
                "images": len(dataset),
                "losses": log.last_losses,
            }
            if validator is not None and best is not None:
                model.load_state_dict(best.model)
                save(storage / BEST)
                summary |= validator.summary()
            write_json(storage / SUMMARY, summary)


def check_whole_batches(config: RunConfig, share: Share) -> None:
    """Raises UserError if batch norm learns, and would not see a whole batch in one pass."""
    if config.model.norm == "batch" and share.micro_batches > share.world_size:
        raise UserError(
            f"run {config.run}: norm 'batch' needs statistics of the whole batch in one pass; set workers to "
            f"{share.micro_batches}, or images_per_worker to more, in the cluster configuration"
        )


def training_images(
    config: RunConfig, prepared: PreparedDataset, storage: Storage
) -> "TrainingImages | SemanticTrainingImages":
    """The augmented training examples of a run."""
    network = config.model
    # Imported here, so that a change to one task's dataset does not retrain runs of the other task.
    if isinstance(network, InstanceModelConfig):
        from pipeline.data.dataset import TrainingImages

        sizes = network.train_min_sizes, network.max_size
        return TrainingImages(prepared, storage, *sizes, negatives=config.negatives)
    from pipeline.data.semantic_dataset import SemanticTrainingImages

    return SemanticTrainingImages(prepared, storage, network)


def with_synchronised_batch_norm(model: nn.Module, config: RunConfig, device: torch.device) -> nn.Module:
    """Converts batch norm that is trained to synchronised batch norm, over the batches of all workers (Appendix B).

    Models without such batch norm are returned unchanged.

    Raises:
        UserError: on CPUs, where torch has no synchronised batch norm.
    """
    if config.model.norm != "batch":
        return model
    if device.type != "cuda":
        raise UserError(
            f"run {config.run}: norm 'batch' needs statistics of the whole batch, which torch computes over several "
            "workers only on GPUs; take one worker, or norm 'group'"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def resume(
    store: CheckpointStore,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    workers: Workers,
    best: BestWeights | None = None,
) -> int:
    """Restores the newest readable checkpoint on every worker and returns its number of updates; 0 if there is none.

    Worker 0 chooses it for all workers. Otherwise they could choose different ones: a worker of the previous attempt
    that is still shutting down may write another checkpoint at this moment. Best weights are restored on worker 0
    alone.

    Raises:
        CheckpointError: if a worker cannot read the chosen checkpoint, or it is of another model.
    """
    start = store.load_latest(model, optimizer, workers.device, best) if workers.rank == 0 else 0
    start = workers.broadcast(start)
    if workers.rank > 0 and start > 0:
        store.load(start, model, optimizer, workers.device)
    return start


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after the current update; a second one stops at once.

    Only the main thread can handle signals; in any other thread the request never comes.
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


def peak_memory() -> int:
    """The most memory that this process has used, in bytes: of the GPU, or its own where it has none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def hardware() -> str:
    """A short description of the devices that this process computes on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''} ({platform.machine()})"
