"""An evaluation that loses a worker ends with the predictions of one that lost nothing, in every byte."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.processes import Job, kill_all, started_for
from made_up_labels import OWN, prepared_labels
from mini_project import wait_for

pytestmark = pytest.mark.faults

TWO = {"workers": 2, "max_failures": 1}
IMAGES = 96
CHUNKS = IMAGES // 8


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    for folder in tmp_path.iterdir():
        kill_all(started_for(folder))


def start(folder: Path) -> Job:
    """A job that trains for two updates and evaluates."""
    folder.mkdir()
    prepared_labels(folder, OWN, IMAGES)
    return Job(folder, TWO, updates=2, checkpoint_every=2, evaluate=True)


def test_a_worker_that_is_killed_in_the_middle_of_an_evaluation_is_replaced(tmp_path: Path) -> None:
    undisturbed = start(tmp_path / "undisturbed")
    undisturbed.finish()
    expected = undisturbed.predictions()
    assert len(expected) == 2 * IMAGES

    job = start(tmp_path / "killed")
    wait_for(lambda: job.driver.poll() is not None or job.predicted_chunks() >= 2, "two predicted chunks")
    assert job.driver.poll() is None, job.output
    killed = job.worker(rank=1)
    os.kill(killed, signal.SIGKILL)
    assert job.predicted_chunks() < CHUNKS
    summary = job.finish()
    assert job.worker(rank=1) != killed, "another worker"
    assert summary["resumed_from"] == 0, "it was not trained again"
    assert job.predictions() == expected
