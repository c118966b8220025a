"""Trainings that lose workers, drivers and nodes end with the weights of one that lost nothing.

All on CPUs, where equal means equal in every bit. Real processes, killed with SIGKILL.
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from faults.processes import Job, RayNodes, kill_all, started_for
from mini_project import wait_for
from mlflow import MlflowClient
from torch import Tensor

pytestmark = pytest.mark.faults

UPDATES = 60  # of a job; a checkpoint every five
TWO = {"workers": 2, "max_failures": 1}
# A batch of four in two parts, on whatever there is room for.
ONE_OR_TWO = {"workers": 2, "min_workers": 1, "images_per_worker": 2, "max_failures": 1}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    for folder in (tmp_path, *tmp_path.iterdir()):
        kill_all(started_for(folder))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    job = Job(folder, TWO)
    try:
        summary = job.finish()
        assert (summary["workers"], summary["resumed_from"], summary["updates"]) == (2, 0, UPDATES)
        yield job.weights()
    finally:
        kill_all(started_for(folder))


@contextmanager
def ray_nodes(folder: Path) -> Iterator[RayNodes]:
    try:
        yield RayNodes(folder)
    finally:
        kill_all(started_for(folder))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """Nodes with room for one worker each; one at first."""
    with ray_nodes(tmp_path_factory.mktemp("nodes")) as found:
        yield found


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logged(job: Job, metric: str) -> list[float]:
    """A metric's values in the job's one MLflow run, in the order of its steps."""
    client = MlflowClient(f"sqlite:///{job.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("faults")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, metric)
    return [entry.value for entry in sorted(history, key=lambda entry: (entry.step, entry.timestamp))]


def test_a_killed_worker_is_replaced(uninterrupted: dict[str, Tensor], tmp_path: Path) -> None:
    job = Job(tmp_path, TWO)
    job.wait_for_checkpoint(10)
    # The one that writes the checkpoints.
    os.kill(job.worker(rank=0), signal.SIGKILL)
    summary = job.finish()
    assert 10 <= summary["resumed_from"] < UPDATES
    assert summary["resumed_from"] % 5 == 0
    assert equal(job.weights(), uninterrupted)
    assert len(logged(job, "loss")) == UPDATES / 10


def test_a_worker_lost_once_too_often_is_one_message(tmp_path: Path) -> None:
    job = Job(tmp_path, {"workers": 1, "max_failures": 0})
    job.wait_for_checkpoint(5)
    os.kill(job.worker(rank=0), signal.SIGKILL)
    assert job.driver.wait(60) == 1
    message = job.output[job.output.index("error: worker 1 of 1 died") :]
    assert message.startswith("error: worker 1 of 1 died and its restarts are used up (max_failures: 0")
    assert "`dvc repro` goes on from the last checkpoint" in message
    assert "Traceback" not in message


def test_a_killed_driver_goes_on_when_it_is_started_again(uninterrupted: dict[str, Tensor], tmp_path: Path) -> None:
    job = Job(tmp_path, TWO)
    job.wait_for_checkpoint(10)
    job.kill()
    reached = max(job.checkpoints())
    # At once, while what is left of the Ray of before may still be dying.
    again = Job(tmp_path, TWO)
    summary = again.finish()
    assert reached <= summary["resumed_from"] < UPDATES
    assert equal(again.weights(), uninterrupted)
    wait_for(lambda: not started_for(tmp_path), "the end of all processes, the killed driver's too", seconds=60)


def test_a_killed_node_is_waited_for(uninterrupted: dict[str, Tensor], nodes: RayNodes, tmp_path: Path) -> None:
    nodes.add()
    job = Job(tmp_path, TWO, RAY_ADDRESS=nodes.address)
    job.wait_for_checkpoint(10)
    parents = {psutil.Process(job.worker(rank)).ppid() for rank in (0, 1)}
    assert len(parents) == 2, "one worker on each node"
    nodes.kill_newest()
    nodes.add()
    summary = job.finish()
    assert (summary["workers"], summary["resumed_from"] >= 10) == (2, True)
    assert equal(job.weights(), uninterrupted)


def test_after_a_killed_node_the_others_do_its_work(
    uninterrupted: dict[str, Tensor], nodes: RayNodes, tmp_path: Path
) -> None:
    job = Job(tmp_path, ONE_OR_TWO, RAY_ADDRESS=nodes.address)
    job.wait_for_checkpoint(10)
    nodes.kill_newest()
    summary = job.finish()
    assert (summary["workers"], summary["passes"]) == (1, 2)
    assert summary["resumed_from"] >= 10
    assert logged(job, "workers") == [2, 1]
    assert logged(job, "passes") == [1, 2]
    # Halves and sums of two are exact: one worker's two passes are two workers' in every bit.
    assert equal(job.weights(), uninterrupted)


@pytest.fixture
def fresh_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """A Ray that has lost no node: Ray Train's view of which nodes there are may be 20 s old."""
    with ray_nodes(tmp_path_factory.mktemp("fresh_nodes")) as found:
        yield found


def test_before_a_node_is_taken_away_a_checkpoint_is_written(fresh_nodes: RayNodes, tmp_path: Path) -> None:
    nodes, updates, every = fresh_nodes, 600, 83
    node = nodes.add()
    job = Job(tmp_path / "drained", ONE_OR_TWO, updates, every, RAY_ADDRESS=nodes.address)
    job.wait_for_checkpoint(every)
    nodes.drain(node, seconds=4)
    summary = job.finish()
    announced = int(re.findall(r"wrote a checkpoint ahead of schedule, at update (\d+)", job.output)[0])
    assert announced % every, "at no other update's turn"
    assert announced <= summary["resumed_from"] < updates
    assert (summary["workers"], logged(job, "workers")) == (1, [2, 1])
    # Nothing lost, and nothing but this process: the same two parts of a batch, one after the other.
    alone = Job(tmp_path / "alone", {"workers": 0, "images_per_worker": 2}, updates, every)
    assert alone.finish()["workers"] == 1
    assert equal(job.weights(), alone.weights())
