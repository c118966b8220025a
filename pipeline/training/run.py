"""One training run, from its configuration to its weights."""

import hashlib
import json
import platform
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, Self

import ray.train
import ray.train.collective
import ray.train.torch
import torch
from torch import nn

from pipeline.config import ClusterConfig, InstanceModelConfig, RunConfig
from pipeline.data.dataset import TrainingImages
from pipeline.data.manifest import PreparedDataset, read_prepared
from pipeline.data.samplers import Share, TrainingBatches, draw_seed
from pipeline.data.semantic_dataset import SemanticTrainingImages
from pipeline.errors import UserError
from pipeline.files import atomic_folder, write_json
from pipeline.progress import progress
from pipeline.run_model import build_run_model
from pipeline.storage import Storage
from pipeline.tracking import Tracker, TrackingError, run_parameters
from pipeline.training.checkpoint import CheckpointStore, CheckpointWriter
from pipeline.training.loading import load_batches
from pipeline.training.loop import Update, build_optimizer, distribute, train
from pipeline.training.metric_spool import FILE_NAME, MetricSender, MetricSpool, send
from pipeline.training.workers import fit, for_batch
from pointrend import save_weights

UPDATES_PER_LOG = 10
UNFINISHED_SECONDS = 10.0
# Ray looks for nodes that are to go every 5 seconds. Asking takes all workers some milliseconds.
UPDATES_PER_PREEMPTION_CHECK = 10


class InterruptedTrainingError(UserError):
    """Training stopped at the user's wish, after a checkpoint."""


WEIGHTS = "model.safetensors"
SUMMARY = "summary.json"  # of the workers
RECORD = "train.json"  # the last thing that a training writes


@dataclass(frozen=True)
class Training:
    """A run, and where it finds its data and leaves what it makes; every worker can reach all of it.

    Args:
        config: the run.
        prepared: its prepared dataset.
        images: what its file names are relative to.
        code: a hash of the code that trains.
        root: the folder of the trainings' own folders.
    """

    config: RunConfig
    prepared: Path
    images: Storage
    code: str
    root: Path

    @cached_property
    def key(self) -> str:
        """A hash of all that the result depends on: configuration, data and code."""
        digest = hashlib.sha256(f"{self.config.model_dump_json()} {self.code}".encode())
        for name in ("dataset.json", "train.parquet"):
            digest.update((self.prepared / name).read_bytes())
        return digest.hexdigest()[:16]

    @property
    def id(self) -> str:
        return f"{self.config.run}-{self.key}"

    @property
    def storage(self) -> Path:
        """The training's own folder: its checkpoints while it trains, then its weights and their record."""
        return self.root.resolve() / self.id

    @property
    def is_done(self) -> bool:
        return (self.storage / RECORD).is_file()

    def expect(self, key: str) -> None:
        """Checks that the inputs are those of a key.

        Raises:
            UserError: if they have changed since.
        """
        if key != self.key:
            raise UserError(f"the inputs of {self.config.run} have changed since this job was submitted; it is void")

    def collect(self, output: Path) -> None:
        """Copies the weights and their record to a folder, whole or not at all."""
        with atomic_folder(output) as folder:
            for name in (WEIGHTS, RECORD):
                shutil.copy(self.storage / name, folder)


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


def run_training(training: Training, cluster: ClusterConfig, tracker: Tracker, version: str) -> None:
    """Trains a run on a cluster and leaves its weights and their record in its storage.

    A run that was interrupted goes on from its last checkpoint and in its MLflow run. One that is complete, but for
    what MLflow did not take, is not trained again.

    Args:
        training: the run.
        cluster: where it runs.
        tracker: where it is logged.
        version: of the code, for the record.

    Raises:
        InterruptedTrainingError: after Ctrl-C, once a checkpoint is written.
        DivergedTrainingError: if a loss is no longer finite.
        TrackingError: if MLflow does not answer at the start, or at the end, when all else is done.
    """
    config, storage = training.config, training.storage
    cluster = for_batch(cluster, config.schedule.batch_size)
    parameters = run_parameters(config)
    tags = {"kind": "training", "experiment": config.experiment, "code": version, "hardware": hardware()}
    tags |= {name: parameters[name] for name in ("dataset", "head", "backbone", "sampling")}
    run_id = tracker.start(training.key, config.run, parameters, tags)
    tracker.log_config(run_id, config.model_dump(mode="json"))
    arguments = {
        "config": config.model_dump(mode="json"),
        "prepared": str(training.prepared.resolve()),
        "images": training.images.root,
        "storage": str(storage),
        "images_per_worker": cluster.images_per_worker,
        "loader_processes": cluster.loader_processes,
        "use_gpu": cluster.gpus_per_worker > 0,
        "tracking": {
            "uri": tracker.uri,
            "experiment": tracker.experiment,
            "run_id": run_id,
            "logged": tracker.last_step(run_id, "loss"),
        },
    }
    if not is_complete(storage):
        try:
            fit(train_worker, arguments, cluster, config.run, storage / "ray")
        except BaseException as error:
            interrupted = isinstance(error, InterruptedTrainingError | KeyboardInterrupt)
            mark_unfinished(tracker, run_id, "KILLED" if interrupted else "FAILED")
            raise
    finish(config.run, storage, tracker.with_patience(cluster.tracking_patience), run_id)
    summary = json.loads((storage / SUMMARY).read_text())
    for folder in ("checkpoints", "ray"):
        shutil.rmtree(storage / folder, ignore_errors=True)
    write_json(storage / RECORD, {"run": config.run, "key": training.key, "mlflow_run_id": run_id, **summary})


def is_complete(storage: Path) -> bool:
    """Whether a run's last update is done and its weights written; the summary is written after them."""
    return all((storage / name).exists() for name in (WEIGHTS, SUMMARY))


def mark_unfinished(tracker: Tracker, run_id: str, status: str) -> None:
    """Ends a run in MLflow as FAILED or KILLED if it answers soon; the error that ended the training is the one to see.

    A request to a server that hangs would keep the user who pressed Ctrl-C waiting, hence the thread.
    """
    said = ["no answer"]

    def mark() -> None:
        try:
            tracker.with_patience(UNFINISHED_SECONDS / 2).finish(run_id, status)
            said.clear()
        except TrackingError as error:
            said[:] = [str(error)]

    thread = threading.Thread(target=mark, daemon=True)
    thread.start()
    thread.join(UNFINISHED_SECONDS)
    if said:
        print(f"the run still counts as running in MLflow at {tracker.uri} ({said[0]})", flush=True)


def finish(run: str, storage: Path, tracker: Tracker, run_id: str) -> None:
    """Sends MLflow the metrics that it does not have yet and ends the run there.

    Raises:
        TrackingError: if MLflow does not answer for as long as the tracker is patient.
        InterruptedTrainingError: after Ctrl-C.
    """
    safe = (
        f"run {run}: the training is complete and nothing is lost; its weights and metrics are in {storage}. "
        "`dvc repro` sends the rest without training again"
    )
    try:
        send(MetricSpool(storage / FILE_NAME), tracker, run_id)
        tracker.finish(run_id, "FINISHED")
    except TrackingError as error:
        raise TrackingError(f"{safe} once MLflow answers ({error})") from error
    except KeyboardInterrupt:
        raise InterruptedTrainingError(f"interrupted while MLflow did not answer; {safe}") from None


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
    model: nn.Module = build_run_model(config, prepared.num_classes, pretrained=True).to(device)
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
    with (
        RunLog(storage / FILE_NAME, **arguments["tracking"]) if rank == 0 else nullcontext() as log,
        CheckpointWriter(store) as checkpoints,
    ):
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


class RunLog:
    """Losses, learning rate and speed of a run, to MLflow while it trains, by way of a spool.

    Each entry is the mean over :data:`UPDATES_PER_LOG` updates. Steps that a run logged before it was interrupted are
    not logged twice.

    Args:
        file: the run's spool.
        uri: the tracking server.
        experiment: the MLflow experiment.
        run_id: the MLflow run.
        logged: the last step that MLflow has.
    """

    def __init__(self, file: Path, uri: str, experiment: str, run_id: str, logged: int) -> None:
        self._spool = MetricSpool(file)
        self._sender = MetricSender(self._spool, uri, experiment, run_id)
        # A spool may be ahead of the server; the server has steps of a spool that was deleted.
        self._logged = max(logged, self._spool.last_step())
        self._window: list[Update] = []
        self.last_losses: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._sender.close()

    def started(self, update: int, workers: int, passes: int) -> None:
        """Logs how the batch is split up from an update on: it may be another way after a restart."""
        self._spool.append(update, {"workers": workers, "passes": passes})

    def add(self, update: Update) -> None:
        self._window.append(update)
        if update.number % UPDATES_PER_LOG == 0:
            self.flush()

    def flush(self) -> None:
        """Logs the updates since the last entry."""
        if not self._window:
            return
        window, self._window = self._window, []
        step = window[-1].number
        mean = {name: statistics.fmean(u.losses[name] for u in window) for name in window[0].losses}
        self.last_losses = mean
        if step > self._logged:
            values = {
                **mean,
                "loss": sum(mean.values()),
                "learning_rate": window[-1].learning_rate,
                "gradient_norm": statistics.fmean(u.gradient_norm for u in window),
                "updates_per_second": len(window) / sum(u.seconds for u in window),
            }
            self._spool.append(step, values)
        self._sender.notify()


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
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"
