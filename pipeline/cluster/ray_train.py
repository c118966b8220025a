"""Runs a function under Ray Train on the workers of a cluster configuration."""

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
from pipeline.cluster.needs import workers_for_batch
from pipeline.config.clusters import ClusterConfig
from pipeline.errors import LostWorkerError, UserError


def for_batch(cluster: ClusterConfig, batch_size: int) -> ClusterConfig:
    """The cluster configuration with the number of workers that a batch allows, see :func:`workers_for_batch`.

    Raises:
        BatchShareError: if the batch cannot be split equally over the workers.
    """
    return cluster.model_copy(update={"workers": workers_for_batch(cluster, batch_size)})


def fit(
    function: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    cluster: ClusterConfig,
    name: str,
    storage: Path,
) -> None:
    """Runs ``function(arguments)`` on every worker of the cluster under Ray Train and waits until all have returned.

    Without workers the function runs in this process, in Ray Train's local mode, which starts no actors.

    Args:
        function: what each worker runs.
        arguments: the function's argument; must be picklable.
        cluster: the number of workers and the resources of each.
        name: the run's name in Ray Train.
        storage: a folder that every worker can reach.

    Raises:
        LostWorkerError: if a worker's process or node died and all restarts are used up.
        Exception: the error of a worker whose function failed, once all restarts are used up.
    """
    if cluster.workers == 0:
        # In local mode Ray Train logs every report, between the lines of the progress bar.
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
            # An error that the user can fix is shown by itself, without the tracebacks that Ray wraps it in.
            for failure in error.worker_failures.values():
                cause = getattr(failure, "cause", failure)
                if isinstance(cause, UserError | OSError):
                    raise cause from None
            for rank, failure in sorted(error.worker_failures.items()):
                death = getattr(failure, "health_check_failure", failure)
                if isinstance(death, RayActorError):
                    raise _lost(f"worker {rank + 1} of {cluster.workers}", cluster, death) from error
            raise
        except ControllerError as error:  # a worker died before it began
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
    """Restores this process's handler of Ctrl-C: Ray Train's would stay, and connect to a Ray that has ended."""
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
