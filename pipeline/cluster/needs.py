"""The resources that a job holds while it runs, and how many jobs fit on a cluster. Plain arithmetic, without Ray."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from pipeline.config.clusters import ClusterConfig
from pipeline.data.samplers import Share
from pipeline.errors import UserError

#: How many jobs are submitted ahead of time, so that the next one starts as soon as another one ends.
WAITING_JOBS = 2

BYTES_PER_GB = 1_000_000_000


class ClusterTooSmallError(UserError):
    """A job needs more than the cluster has, so it could never start."""


@dataclass(frozen=True)
class Resources:
    """The resources of one process or one node: CPU cores, GPUs and bytes of memory."""

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
    """The resources of a job: its driver, which is the process that Ray starts, and the workers that the driver starts.

    Attributes:
        driver: the resources of the driver.
        worker: the resources of each worker.
        workers: the number of workers; 0 if the driver does the work itself.
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


def workers_for_batch(cluster: ClusterConfig, batch_size: int) -> int:
    """The largest number of workers of a training; 0 if the driver trains.

    With ``min_workers`` it is no more than the number of micro-batches of ``images_per_worker`` images in a batch.

    Raises:
        BatchShareError: if the batch cannot be split equally over the workers.
    """
    if cluster.min_workers is None:
        Share.of_batch(batch_size, cluster.images_per_worker, world_size=max(cluster.workers, 1))
        return cluster.workers
    share = Share.of_batch(batch_size, cluster.images_per_worker, world_size=cluster.min_workers)
    return min(cluster.workers, share.micro_batches)


def needs_of_run(cluster: ClusterConfig, workers: int) -> Needs:
    """The resources of a run's job. With 0 workers the driver trains, with the resources of one worker."""
    each = Resources(cluster.cpus_per_worker, cluster.gpus_per_worker)
    if workers == 0:
        return Needs(each)
    return Needs(_driver(cluster), each, workers)


def needs_of_sweep(cluster: ClusterConfig, trials: int) -> Needs:
    """The resources of a sweep's job whose trials run in parallel, each with the resources of one worker.

    The driver is idle while its trials run, so it asks for no CPU in a configuration without workers.
    """
    each = Resources(cluster.cpus_per_worker, cluster.gpus_per_worker)
    return Needs(_driver(cluster) if cluster.workers else Resources(), each, trials)


def _driver(cluster: ClusterConfig) -> Resources:
    return Resources(cpus=1, memory=cluster.driver_memory_gb * BYTES_PER_GB)


def place(nodes: Sequence[Resources], needs: Needs) -> list[Resources] | None:
    """The free resources of each node after a job's processes are placed, each on the first node with room.

    None if a process fits on no node.
    """
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
    """The number of waiting jobs to submit now, in their order.

    These are as many as fit beside the jobs on the cluster, and :data:`WAITING_JOBS` more. The driver of a job that is
    submitted ahead of time starts as soon as it fits, and then waits for its workers. A job with workers is therefore
    only submitted ahead of time if its driver fits too. Otherwise it could take what the workers of another job need.

    Args:
        nodes: the resources of each node of the cluster.
        live: the needs of the jobs that wait or run on the cluster, in the order of their submission.
        waiting: the needs of the jobs that could be submitted, the next one first.
        runs_at_once: how many jobs run at a time on a cluster that grows on demand. ``nodes`` is ignored then.
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


def fits(nodes: Sequence[Resources], needs: Needs) -> bool:
    """Whether a job could run on an empty cluster with these nodes."""
    return place(nodes, needs) is not None


def check_fits(
    name: str,
    nodes: Sequence[Resources],
    needs: Needs,
    alternatives: Iterable[str] = (),
    from_option: bool = False,
) -> None:
    """Checks that a job could run on an empty cluster.

    Args:
        name: the run or sweep.
        nodes: the resources of each node of the cluster.
        needs: the least resources that the job can run with.
        alternatives: names of cluster configurations that the job would fit with, for the message.
        from_option: whether the cluster was chosen with ``--cluster``, and not in ``params.yaml``.

    Raises:
        ClusterTooSmallError: if it does not fit; the message says what is missing.
    """
    if fits(nodes, needs):
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
            f"{_count(total.gpus, 'GPU')} and {_count(total.cpus, 'CPU')}, up to {_count(largest.gpus, 'GPU')} and "
            f"{_count(largest.cpus, 'CPU')} in one process, which do not fit on the {len(nodes)} nodes of this Ray"
        ]
    if names := " or ".join(alternatives):
        advice = f"It fits with {f'`--cluster {names}`' if from_option else f'`cluster: {names}` in params.yaml'}"
    else:
        advice = "No file of configs/clusters fits; add one, or more nodes"
    raise ClusterTooSmallError(f"{name} needs {'; '.join(short)}. Nothing was submitted. {advice}")


def _count(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
