"""The function of a run's workers under Ray Train: each trains on its share of the batches, then predicts its share."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.collective
import ray.train.torch
import torch

from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig
from pipeline.evaluation.run import own_device, predict_share
from pipeline.evaluation.speed import timed_settings, write_speeds
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.evaluation.validation import measure
from pipeline.tracking.sender import MetricSender
from pipeline.tracking.system import SystemMetrics
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.record import METRICS, SUMMARY, WEIGHTS
from pipeline.training.run import Workers, train_run
from pipeline.training.training import Training


@dataclass(frozen=True)
class Tracking:
    """The MLflow run that a training sends its metrics to.

    Attributes:
        system_metrics: seconds between two measurements of the machine; None for none.
    """

    uri: str
    experiment: str
    run_id: str
    system_metrics: float | None = None


@dataclass(frozen=True)
class RunWork:
    """The work of a run's workers; every path is absolute, and every worker can reach it.

    Attributes:
        cluster: the resources of each worker.
        training: the training; None if the job only evaluates.
        tracking: the training's MLflow run.
        evaluated: the run to evaluate after the training; None if the job only trains.
        settings: the evaluation settings.
        chunks: the folder of the predictions.
    """

    cluster: ClusterConfig
    training: Training | None = None
    tracking: Tracking | None = None
    evaluated: TrainedRun | None = None
    settings: EvaluationConfig | None = None
    chunks: Path | None = None


def is_trained(storage: Path) -> bool:
    """Whether a training has written its weights and, after them, its summary."""
    return all((storage / name).exists() for name in (WEIGHTS, SUMMARY))


def run_worker(arguments: dict[str, Any]) -> None:
    """Does one worker's share of ``arguments["work"]``, a :class:`RunWork`.

    A worker that Ray restarts continues from the checkpoints, the weights and the predicted chunks in the storage.
    """
    work: RunWork = arguments["work"]
    workers = ray_workers(work.cluster.gpus_per_worker > 0)
    training, tracking = work.training, work.tracking
    # Worker 0 decides for all: on a shared file system another worker might see the file later.
    if training is not None and not workers.broadcast(is_trained(training.storage)):
        assert tracking is not None
        metrics = training.storage / METRICS
        sender = MetricSender(MetricsFile(metrics), tracking.uri, tracking.experiment, tracking.run_id)
        machine = SystemMetrics(tracking.uri, tracking.run_id, tracking.system_metrics)

        def notify() -> None:  # worker 0 alone
            sender.notify()
            machine.start()

        with sender if workers.rank == 0 else nullcontext(), machine:
            train_run(
                training,
                workers,
                images_per_worker=work.cluster.images_per_worker,
                loader_processes=work.cluster.loader_processes,
                notify=notify,
                measure=partial(measure, training, workers) if training.config.validation else None,
            )
        workers.broadcast(0)  # waits until worker 0 has written the weights
    if work.evaluated is not None:
        assert work.settings is not None
        assert work.chunks is not None
        if workers.device.type == "cuda":
            torch.cuda.empty_cache()  # frees what the training used
        predict_share(work.evaluated, work.settings, work.chunks, workers.device, workers.rank, workers.world_size)
        if timed_settings(work.settings):
            workers.broadcast(0)  # the others are idle while worker 0 times
            if workers.rank == 0:
                write_speeds(work.evaluated, work.settings, workers.device, work.chunks)
            workers.broadcast(0)


def ray_workers(use_gpu: bool) -> Workers:
    """This process's view of its Ray Train worker group; raises UserError if it should have a GPU but sees none."""
    context = ray.train.get_context()
    return Workers(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device() if own_device(use_gpu).type == "cuda" else torch.device("cpu"),
        broadcast=ray.train.collective.broadcast_from_rank_zero,
        report=ray.train.report,
        node_is_leaving=PreemptionWatcher().has_news,
    )


class PreemptionWatcher:
    """Watches for Ray's announcements that nodes are about to leave the cluster, as spot machines do."""

    def __init__(self) -> None:
        self._seen: Any = None

    def has_news(self) -> bool:
        """Whether Ray has made an announcement since the last call. All workers must call it equally often."""
        info = ray.train.get_preemption_info()
        news = info is not None and info != self._seen
        self._seen = info
        return news
