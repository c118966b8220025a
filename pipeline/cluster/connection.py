"""Connects to the Ray cluster that ``RAY_ADDRESS`` names, or starts a Ray on this machine."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import psutil
import ray
from ray._private.parameter import RayParams

from pipeline.cluster.machine import adapt_to_machine
from pipeline.config.clusters import ClusterConfig
from pipeline.data.cpus import usable_cpus

SHUTDOWN_SECONDS = 10.0


@contextmanager
def connected(cluster: ClusterConfig) -> Iterator[None]:
    """Connects this process to the cluster of ``RAY_ADDRESS``, or to a Ray on this machine that ends with the block.

    Does nothing if the configuration has no workers, or if this process is connected already.
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
        with local_ray(cluster.workers * cluster.cpus_per_worker):
            yield


@contextmanager
def free_agent_port() -> Iterator[None]:
    """Within the block, Ray's job agent listens on any free port.

    `ray.init` always gives it the same port, so a second Ray on the machine could not run jobs.
    """
    # Private, because no argument of `ray.init` sets this port. `ray start` has an option for it, but also starts a Ray
    # Client server, on a port that cannot be 0, and takes seconds longer: see docs/design.md.
    original = RayParams.__init__
    RayParams.__init__ = functools.partialmethod(original, dashboard_agent_listen_port=None)
    try:
        yield
    finally:
        RayParams.__init__ = original


class Addresses(NamedTuple):
    """The addresses of a Ray: its dashboard, which takes jobs, as a URL; its head, for drivers, as host and port."""

    dashboard: str
    head: str


@contextmanager
def local_ray(cpus: int) -> Iterator[Addresses]:
    """Runs a Ray on this machine; all of its processes have ended when the block ends.

    Args:
        cpus: how many CPU cores Ray offers at least; it offers all cores of the machine if there are more.
    """
    adapt_to_machine()
    process = psutil.Process()
    others = set(process.children(recursive=True))
    with free_agent_port():
        # The dashboard listens on loopback. Ray Train asks it for the state of its actors.
        context = ray.init(
            address="local",
            num_cpus=max(usable_cpus(), cpus),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            _node_ip_address="127.0.0.1",
            log_to_driver=True,
        )
    try:
        yield Addresses(f"http://{context.dashboard_url}", context.address_info["gcs_address"])
    finally:
        # Actors end by themselves once their node is gone, but only after `shutdown` has returned.
        started = set(process.children(recursive=True)) - others
        ray.shutdown()
        _, left = psutil.wait_procs(started, timeout=SHUTDOWN_SECONDS)
        for straggler in left:
            with suppress(psutil.NoSuchProcess):
                straggler.kill()
        psutil.wait_procs(left)
