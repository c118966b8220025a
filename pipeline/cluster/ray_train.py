"""Ray Train: runs a function on as many workers as a cluster configuration says."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline.cluster.connection import connected
from pipeline.config.clusters import ClusterConfig
from pipeline.data.samplers import Share
from pipeline.errors import LostWorkerError, UserError


def for_batch(cluster: ClusterConfig, batch_size: int) -> ClusterConfig:
    """The cluster with no more workers than a batch has parts, where their number may vary.

    Raises:
        BatchShareError: if the batch cannot be shared out.
    """
    return cluster.model_copy(update={"workers": workers_for_batch(cluster, batch_size)})


def workers_for_batch(cluster: ClusterConfig, batch_size: int) -> int:
    """How many workers a training has at most; 0 where its job trains by itself.

    Raises:
        BatchShareError: if the batch cannot be shared out.
    """
    if cluster.min_workers is None:
        Share.of_batch(batch_size, cluster.images_per_worker, world_size=max(cluster.workers, 1))
        return cluster.workers
    return min(
        cluster.workers, Share.of_batch(batch_size, cluster.images_per_worker, world_size=cluster.min_workers).parts
    )


def fit(
    function: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    cluster: ClusterConfig,
    name: str,
    storage: Path,
) -> None:
    """Runs ``function(arguments)`` on every worker of the cluster under Ray Train and waits.

    With no workers it runs in this process, in Ray Train's local mode: the same function, without the latency of
    actors.

    Args:
        function: of each worker.
        arguments: its argument; must be picklable.
        cluster: how many workers, and what each gets.
        name: of the run.
        storage: a folder that every worker can reach.

    Raises:
        LostWorkerError: if a worker's process or node died, once all restarts are used up.
        Exception: the error of the first worker that failed, likewise.
    """
    if cluster.workers == 0:
        # Local mode announces itself and every report, beside our own progress.
        logging.getLogger("ray.train").setLevel(logging.WARNING)
    trainer = TorchTrainer(
        function,
        train_loop_config=arguments,
        torch_config=TorchConfig(backend="nccl" if cluster.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers if cluster.min_workers is None else (cluster.min_workers, cluster.workers),
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=_resources(cluster) if cluster.workers else None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    with connected(cluster), _own_interrupt_handler():
        try:
            trainer.fit()
        except WorkerGroupError as error:
            # A worker's own message, where it is meant for the user; Ray wraps it in its tracebacks.
            for failure in error.worker_failures.values():
                cause = getattr(failure, "cause", failure)
                if isinstance(cause, UserError | OSError):
                    raise cause from None
            for rank, failure in sorted(error.worker_failures.items()):
                death = getattr(failure, "health_check_failure", failure)
                if isinstance(death, RayActorError):
                    raise _lost(f"worker {rank + 1} of {cluster.workers}", cluster, death) from error
            raise
        except ControllerError as error:  # of a worker that dies before it has begun
            if isinstance(error.controller_failure, RayActorError):
                raise _lost(f"a worker of {cluster.workers}", cluster, error.controller_failure) from error
            raise


def _lost(who: str, cluster: ClusterConfig, death: RayActorError) -> LostWorkerError:
    return LostWorkerError(
        f"{who} died and its restarts are used up (max_failures: {cluster.max_failures} in the cluster configuration); "
        f"`dvc repro` goes on from the last checkpoint. Ray says: {death}"
    )


@contextmanager
def _own_interrupt_handler() -> Iterator[None]:
    """Takes Ray Train's handler of Ctrl-C away once it is over, which would connect to a Ray that has gone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _resources(cluster: ClusterConfig) -> dict[str, float]:
    resources = {"CPU": float(cluster.cpus_per_worker)}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    return resources
