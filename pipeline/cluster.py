"""Ray: the connection to the cluster of a configuration."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import ray

from pipeline.config import ClusterConfig

SHUTDOWN_SECONDS = 10.0


@contextmanager
def connected(cluster: ClusterConfig) -> Iterator[None]:
    """A connection to the cluster of ``RAY_ADDRESS``, or to a Ray on this machine that ends with the block.

    Without workers there is nothing to connect to.
    """
    if cluster.workers == 0 or ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=True)
        try:
            yield
        finally:
            ray.shutdown()
    else:
        with _local_ray(max(os.cpu_count() or 1, cluster.workers * cluster.cpus_per_worker)):
            yield


@contextmanager
def _local_ray(cpus: int) -> Iterator[None]:
    """A Ray of this machine; none of its processes outlives the block."""
    process = psutil.Process()
    others = set(process.children(recursive=True))
    # The dashboard, on loopback, is also what answers Ray Train's questions about its own actors.
    ray.init(address="local", num_cpus=cpus, include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=True)
    try:
        yield
    finally:
        # Actors end by themselves once their node is gone, but only after `shutdown` has returned.
        started = set(process.children(recursive=True)) - others
        ray.shutdown()
        _, left = psutil.wait_procs(started, timeout=SHUTDOWN_SECONDS)
        for straggler in left:
            with suppress(psutil.NoSuchProcess):
                straggler.kill()
        psutil.wait_procs(left)
