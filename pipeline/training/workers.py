"""Ray Train: running a training function on as many workers as a cluster configuration says."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline.cluster import connected
from pipeline.config import ClusterConfig
from pipeline.errors import UserError


def fit(
    train_worker: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    cluster: ClusterConfig,
    name: str,
    storage: Path,
) -> None:
    """Runs ``train_worker(arguments)`` on every worker of the cluster under Ray Train and waits.

    With no workers it runs here, in Ray Train's local mode: the same function, without the latency of actors.

    Args:
        train_worker: the function of each worker.
        arguments: its argument; must be picklable.
        cluster: how many workers, and what each gets.
        name: of the run.
        storage: a folder that every worker can reach.

    Raises:
        Exception: the error of the first worker that failed, once all restarts are used up.
    """
    if cluster.workers == 0:
        # Local mode announces itself and every report, beside our own progress.
        logging.getLogger("ray.train").setLevel(logging.WARNING)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=arguments,
        torch_config=TorchConfig(backend="nccl" if cluster.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=_resources(cluster) if cluster.workers else None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    with connected(cluster):
        try:
            trainer.fit()
        except WorkerGroupError as error:
            # The workers' own message, where it is meant for the reader; Ray wraps it in its tracebacks.
            for failure in error.worker_failures.values():
                cause = getattr(failure, "cause", failure)
                if isinstance(cause, UserError):
                    raise cause from None
            raise


def _resources(cluster: ClusterConfig) -> dict[str, float]:
    resources = {"CPU": float(cluster.cpus_per_worker)}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    return resources
