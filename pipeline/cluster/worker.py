"""What every worker of a run's job does under Ray Train: its part of the training, then of the evaluation."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.collective
import ray.train.torch
import torch

from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig
from pipeline.evaluation.run import own_device, predict_share
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.tracking.sender import MetricSender
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.record import METRICS, SUMMARY, WEIGHTS
from pipeline.training.run import Workers, train_run
from pipeline.training.training import Training


@dataclass(frozen=True)
class Tracking:
    """The MLflow run that a training sends its metrics to."""

    uri: str
    experiment: str
    run_id: str


@dataclass(frozen=True)
class RunWork:
    """What the workers of a run do; every path is absolute, and every worker can reach it.

    Attributes:
        cluster: what each worker gets.
        training: what to train; None where only evaluation is to be done.
        tracking: of the training.
        evaluated: what to evaluate once it is trained; None for nothing.
        settings: of the evaluation.
        chunks: where its predictions go.
    """

    cluster: ClusterConfig
    training: Training | None = None
    tracking: Tracking | None = None
    evaluated: TrainedRun | None = None
    settings: EvaluationConfig | None = None
    chunks: Path | None = None


def is_trained(storage: Path) -> bool:
    """Whether a training's weights are written; the summary is written after them."""
    return all((storage / name).exists() for name in (WEIGHTS, SUMMARY))


def run_worker(arguments: dict[str, Any]) -> None:
    """Does one worker's part of ``arguments["work"]``, a :class:`RunWork`.

    Workers that Ray has started again find what was done before: checkpoints, weights, predicted chunks.
    """
    work: RunWork = arguments["work"]
    workers = ray_workers(work.cluster.gpus_per_worker > 0)
    training, tracking = work.training, work.tracking
    # Worker 0 decides for all: another might see the file a moment later.
    if training is not None and not workers.broadcast(is_trained(training.storage)):
        assert tracking is not None
        metrics = training.storage / METRICS
        sender = MetricSender(MetricsFile(metrics), tracking.uri, tracking.experiment, tracking.run_id)
        with sender if workers.rank == 0 else nullcontext():
            train_run(
                training,
                workers,
                images_per_worker=work.cluster.images_per_worker,
                loader_processes=work.cluster.loader_processes,
                notify=sender.notify,
            )
        workers.broadcast(0)  # until worker 0 has written the weights
    if work.evaluated is not None:
        assert work.settings is not None
        assert work.chunks is not None
        if workers.device.type == "cuda":
            torch.cuda.empty_cache()  # of the training
        predict_share(work.evaluated, work.settings, work.chunks, workers.device, workers.rank, workers.world_size)


def ray_workers(use_gpu: bool) -> Workers:
    """The workers of this process's Ray Train group."""
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
    """What Ray announces of nodes that are about to be taken away, such as spot machines."""

    def __init__(self) -> None:
        self._seen: Any = None

    def has_news(self) -> bool:
        """Whether there is news since the last call. All workers get the same answer, and must ask as often."""
        info = ray.train.get_preemption_info()
        news = info is not None and info != self._seen
        self._seen = info
        return news
