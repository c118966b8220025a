"""What jobs hold of a cluster, and how many of them fit: numbers worked out by hand, and what must hold for any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.needs import (
    WAITING_JOBS,
    ClusterTooSmallError,
    Needs,
    Resources,
    check_fits,
    count_to_submit,
    needs_of_run,
    needs_of_sweep,
    place,
)
from pipeline.config.clusters import ClusterConfig

LAPTOP = [Resources(cpus=2, memory=8e9)]
BOX = [Resources(cpus=96, gpus=8, memory=500e9)]
ONE_CPU = Needs(Resources(cpus=1))


def gpus(count: int) -> Needs:
    """A run with a driver and so many workers of one GPU."""
    return Needs(Resources(cpus=1, memory=2e9), Resources(cpus=8, gpus=1), count)


def test_what_a_run_holds() -> None:
    cluster = ClusterConfig(workers=8, cpus_per_worker=8, gpus_per_worker=1, driver_memory_gb=4.0)
    assert needs_of_run(cluster, 8).total == Resources(cpus=65, gpus=8, memory=4e9)
    alone = ClusterConfig(workers=0, cpus_per_worker=2, gpus_per_worker=0.5)
    assert needs_of_run(alone, 0).total == Resources(cpus=2, gpus=0.5)


def test_what_a_sweep_holds() -> None:
    assert needs_of_sweep(ClusterConfig(workers=0), 2) == Needs(Resources(), Resources(cpus=1), 2)
    assert needs_of_sweep(ClusterConfig(workers=4, gpus_per_worker=1), 1).driver.cpus == 1


def test_needs_survive_json() -> None:
    assert Needs.from_json(gpus(3).to_json()) == gpus(3)


def test_a_worker_does_not_spread_over_nodes() -> None:
    nodes = [Resources(cpus=4), Resources(cpus=4)]
    assert place(nodes, Needs(Resources(cpus=5))) is None
    assert place(nodes, Needs(Resources(cpus=1), Resources(cpus=3), 2)) == [Resources(cpus=0), Resources(cpus=1)]


@pytest.mark.parametrize(
    ("nodes", "live", "waiting", "count"),
    [
        (LAPTOP, [], [ONE_CPU] * 9, 2 + WAITING_JOBS),
        (LAPTOP, [ONE_CPU], [ONE_CPU] * 9, 1 + WAITING_JOBS),
        (LAPTOP, [ONE_CPU] * (2 + WAITING_JOBS), [ONE_CPU] * 9, 0),
        (LAPTOP, [], [ONE_CPU], 1),
        (BOX, [], [gpus(8)] * 9, 1 + WAITING_JOBS),
        (BOX, [], [gpus(4)] * 9, 2 + WAITING_JOBS),
        (BOX, [gpus(4), gpus(8)], [gpus(4)] * 9, 2),  # what fits beside one that waits, and one more that waits
        # A job with workers whose driver finds no place is not submitted: it would hold back those that run.
        ([Resources(cpus=3)], [], [Needs(Resources(cpus=1), Resources(cpus=1), 2)] * 9, 1),
    ],
)
def test_how_many_to_submit(nodes: list[Resources], live: list[Needs], waiting: list[Needs], count: int) -> None:
    assert count_to_submit(nodes, live, waiting) == count


def test_a_cluster_that_grows_is_given_what_its_configuration_says() -> None:
    assert count_to_submit([], [gpus(8)] * 3, [gpus(8)] * 99, runs_at_once=16) == 13 + WAITING_JOBS
    assert count_to_submit([], [gpus(8)] * 99, [gpus(8)], runs_at_once=16) == 0


@given(
    st.lists(st.builds(Resources, st.integers(0, 16), st.integers(0, 8)), min_size=1, max_size=4),
    st.lists(st.integers(0, 4), max_size=12),
)
def test_jobs_that_wait_never_hold_what_a_running_job_s_workers_need(nodes: list[Resources], sizes: list[int]) -> None:
    """All that is submitted, but for what waits, fits at once, together with the drivers of what waits."""
    waiting = [Needs(Resources(cpus=1), Resources(cpus=1, gpus=1), size) for size in sizes]
    submitted = waiting[: count_to_submit(nodes, [], waiting)]
    free, held_up = nodes, []
    for needs in submitted:
        placed = place(free, needs)
        if placed is None and needs.workers:
            placed = place(free, needs.with_workers(0))
        held_up += [needs] if place(free, needs) is None else []
        free = placed or free
        assert all(node.cpus >= 0 and node.gpus >= 0 for node in free)
    assert len(held_up) <= WAITING_JOBS
    # Whatever ends, the next one that waits finds all of its room.
    assert count_to_submit(nodes, submitted, waiting[len(submitted) :]) == 0


def test_too_large_for_the_cluster() -> None:
    check_fits("run", BOX, gpus(8))
    with pytest.raises(ClusterTooSmallError, match=r"run needs 9 GPUs, this Ray has 8\. Nothing was submitted"):
        check_fits("run", BOX, gpus(9))
    with pytest.raises(
        ClusterTooSmallError, match=r"needs 1 GPU, this Ray has 0\..*`cluster: laptop or two_cpu_workers`"
    ):
        check_fits("run", LAPTOP, Needs(Resources(cpus=1, gpus=1)), ["laptop", "two_cpu_workers"])
    with pytest.raises(ClusterTooSmallError, match=r"It fits with `--cluster laptop`$"):
        check_fits("run", LAPTOP, Needs(Resources(cpus=1, gpus=1)), ["laptop"], from_option=True)
    with pytest.raises(ClusterTooSmallError, match=r"9\.0 GB of memory, this Ray has 8\.0"):
        check_fits("run", LAPTOP, Needs(Resources(cpus=1, memory=9e9)))
    with pytest.raises(ClusterTooSmallError, match="up to 0 GPUs and 3 CPUs in one process, which do not fit on the"):
        check_fits("run", [Resources(cpus=2), Resources(cpus=2)], Needs(Resources(cpus=3)))
