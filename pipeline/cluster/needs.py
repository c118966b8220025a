"""What a job holds of a cluster while it runs, and how many jobs fit at a time. Plain arithmetic, without Ray."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from pipeline.config.clusters import ClusterConfig
from pipeline.errors import UserError

#: How many jobs wait beside those that run, so that the next one starts at once when one ends.
WAITING_JOBS = 2

BYTES_PER_GB = 1_000_000_000


class ClusterTooSmallError(UserError):
    """A job that asks for more than the cluster has, and that no waiting helps."""


@dataclass(frozen=True)
class Resources:
    """What one process asks for, or one node has: CPU cores, GPUs and bytes of memory."""

    cpus: float = 0
    gpus: float = 0
    memory: float = 0

    def holds(self, other: Self) -> bool:
        """Whether there is room for ``other``."""
        return self.cpus >= other.cpus and self.gpus >= other.gpus and self.memory >= other.memory

    def without(self, other: Self) -> "Resources":
        """What is left once ``other`` is taken."""
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus, self.memory - other.memory)


@dataclass(frozen=True)
class Needs:
    """What a job holds: the process that it starts (its driver), and the workers that this one asks for.

    Attributes:
        driver: of the job's own process.
        worker: of each worker.
        workers: how many; 0 where the driver does the work itself.
    """

    driver: Resources
    worker: Resources = Resources()
    workers: int = 0

    @property
    def total(self) -> Resources:
        each = self.worker
        return Resources(
            self.driver.cpus + self.workers * each.cpus,
            self.driver.gpus + self.workers * each.gpus,
            self.driver.memory + self.workers * each.memory,
        )

    def with_workers(self, workers: int) -> "Needs":
        return Needs(self.driver, self.worker, workers)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        data = json.loads(text)
        return cls(Resources(**data["driver"]), Resources(**data["worker"]), data["workers"])


def needs_of_run(cluster: ClusterConfig, workers: int) -> Needs:
    """What a run's job holds.

    Args:
        cluster: the configuration.
        workers: Ray Train workers of this run; with 0 its job trains by itself on what a worker would have.
    """
    each = Resources(cluster.cpus_per_worker, cluster.gpus_per_worker)
    if workers == 0:
        return Needs(each)
    return Needs(_driver(cluster), each, workers)


def needs_of_sweep(cluster: ClusterConfig, trials: int) -> Needs:
    """What a sweep's job holds: its trials run beside each other, each on what one worker has.

    The process that hands the trials out is idle while they run: without workers it asks for no CPU.
    """
    each = Resources(cluster.cpus_per_worker, cluster.gpus_per_worker)
    return Needs(_driver(cluster) if cluster.workers else Resources(), each, trials)


def _driver(cluster: ClusterConfig) -> Resources:
    return Resources(cpus=1, memory=cluster.driver_memory_gb * BYTES_PER_GB)


def place(nodes: Sequence[Resources], needs: Needs) -> list[Resources] | None:
    """What nodes have left once a job's processes are placed, each on the first node with room; None if one is not."""
    left = list(nodes)
    for process in [needs.driver, *[needs.worker] * needs.workers]:
        for number, node in enumerate(left):
            if node.holds(process):
                left[number] = node.without(process)
                break
        else:
            return None
    return left


def count_to_submit(
    nodes: Sequence[Resources], live: Iterable[Needs], waiting: Iterable[Needs], runs_at_once: int | None = None
) -> int:
    """How many of the waiting jobs to submit now, in their order.

    As many as fit beside those that are there, and :data:`WAITING_JOBS` more. One of these may hold its driver already,
    so where a job has workers it is only submitted if there is room for its driver: drivers that wait must not hold
    what the workers of another job need.

    Args:
        nodes: what each node of the cluster has.
        live: of the jobs that wait or run on the cluster, in the order of their submission.
        waiting: of the jobs that could be submitted, the next one first.
        runs_at_once: how many jobs run at a time on a cluster that grows; its nodes are not counted then.
    """
    if runs_at_once is not None:
        return max(runs_at_once + WAITING_JOBS - len(list(live)), 0)
    free, held_up = list(nodes), 0
    for needs in live:
        placed = place(free, needs)
        if placed is None:
            held_up += 1
            free = place(free, needs.with_workers(0)) or free
        else:
            free = placed
    count = 0
    for needs in waiting:
        placed = place(free, needs)
        if placed is None:
            placed = place(free, needs.with_workers(0)) if needs.workers else free
            held_up += 1
            if placed is None or held_up > WAITING_JOBS:
                break
        free = placed
        count += 1
    return count


def check_fits(name: str, nodes: Sequence[Resources], needs: Needs, alternatives: Iterable[str] = ()) -> None:
    """Checks that a job could run on an empty cluster.

    Args:
        name: of the run or sweep.
        nodes: what each node of the cluster has.
        needs: what the job holds at least.
        alternatives: names of cluster configurations that would do.

    Raises:
        ClusterTooSmallError: naming what is missing.
    """
    if place(nodes, needs) is not None:
        return
    total = needs.total
    have = Resources(*(sum(getattr(n, key) for n in nodes) for key in ("cpus", "gpus", "memory")))
    asked = {"GPU": (total.gpus, have.gpus), "CPU": (total.cpus, have.cpus)}
    memory = total.memory / BYTES_PER_GB, have.memory / BYTES_PER_GB
    short = [f"{_count(want, unit)}, this Ray has {has:g}" for unit, (want, has) in asked.items() if want > has]
    if memory[0] > memory[1]:
        short.append(f"{memory[0]:.1f} GB of memory, this Ray has {memory[1]:.1f}")
    if not short:
        largest = max((needs.driver, needs.worker), key=lambda r: (r.gpus, r.cpus))
        short = [
            f"{_count(total.gpus, 'GPU')} and {_count(total.cpus, 'CPU')}, in pieces of {largest.gpus:g} and "
            f"{largest.cpus:g} that its {len(nodes)} nodes have no room for"
        ]
    names = ", ".join(alternatives)
    raise ClusterTooSmallError(
        f"{name} needs {'; '.join(short)}. Nothing was submitted. "
        + (f"`pointrend select` with --cluster {names} would do" if names else "No file of configs/clusters fits it")
    )


def _count(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
