"""Ray jobs on a real Ray of this machine: submitted once, followed, stopped, lost; and Ray leaves nothing behind."""

import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipeline import submission
from pipeline.cluster.jobs import Job, Jobs, RayUnreachableError
from pipeline.cluster.local_head import LocalRayError, reached, running
from pipeline.cluster.submission import JobFailedError, in_order, running_jobs, train_as_job
from pipeline.config.clusters import ClusterConfig
from pipeline.data.cpus import usable_cpus

SECONDS = 120


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def keepers(folder: Path) -> list[psutil.Process]:
    """The keeper of a Ray and all that it started."""
    found = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in (p.info["cmdline"] or [])]
    return [each for keeper in found if live(keeper) for each in (keeper, *keeper.children(recursive=True))]


def live(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def connections(process: psutil.Process) -> list[Any]:
    """A process's own; none where it has just ended."""
    try:
        return process.net_connections("inet")
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a Ray that runs for the tests of this file: a job keeps it up."""
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    folder = tmp_path_factory.mktemp("project") / ".pointrend" / "ray"
    with reached(folder, 2) as jobs:
        jobs.submit(Job("idle", ["sleep", "600"], folder))
    yield folder
    jobs.stop("idle")
    wait_for(lambda: not keepers(folder))
    patch.undo()


@pytest.fixture
def jobs(folder: Path) -> Jobs:
    with reached(folder, 2) as jobs:
        return jobs


def ended(jobs: Jobs, job_id: str) -> tuple[Any, str]:
    """How a job ended, and its output."""
    output: list[str] = []
    return jobs.follow(job_id, output.append), "".join(output)


def test_ray_listens_on_loopback_alone(folder: Path, jobs: Jobs) -> None:
    listening = [
        ipaddress.ip_address(connection.laddr.ip.removeprefix("::ffff:"))
        for process in keepers(folder)
        for connection in connections(process)
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 5
    assert all(address.is_loopback for address in listening)


def test_without_the_token_there_is_no_way_in(folder: Path, jobs: Jobs) -> None:
    program = f"from ray.job_submission import JobSubmissionClient; JobSubmissionClient({jobs.address!r}).list_jobs()"
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Authentication" in done.stderr


def test_a_job_that_is_submitted_twice_runs_once(folder: Path, jobs: Jobs, tmp_path: Path) -> None:
    job = Job("once", ["bash", "-c", "echo run >> runs; sleep 3"], tmp_path)
    assert jobs.submit(job)
    with reached(folder, 2) as others:  # somebody else's
        assert not others.submit(job)
    assert ended(jobs, "once")[0].status == "SUCCEEDED"
    assert (tmp_path / "runs").read_text() == "run\n"


def test_one_that_has_ended_is_submitted_again(jobs: Jobs, tmp_path: Path) -> None:
    job = Job("again", ["bash", "-c", "echo run >> runs; exit 3"], tmp_path)
    for _ in range(2):
        assert jobs.submit(job)
        assert ended(jobs, "again")[0].driver_exit_code == 3
    assert (tmp_path / "runs").read_text() == "run\nrun\n"


def test_the_whole_output_is_shown_once(jobs: Jobs, tmp_path: Path) -> None:
    count = 40
    command = f"for i in $(seq {count}); do echo line $i; sleep 0.1; done"
    jobs.submit(Job("talk", ["bash", "-c", command], tmp_path, environment={"WHO": "me"}))
    job, output = ended(jobs, "talk")
    assert job.status == "SUCCEEDED"
    # Ray's own lines may stand anywhere between them.
    assert [line for line in output.splitlines() if line.startswith("line")] == [f"line {i + 1}" for i in range(count)]
    late = ended(jobs, "talk")[1]
    assert [line for line in late.splitlines() if line.startswith("line")] == [f"line {i + 1}" for i in range(count)]


def test_it_runs_in_its_folder_with_its_environment(jobs: Jobs, tmp_path: Path) -> None:
    place = tmp_path / "a folder; with 'spaces'"
    place.mkdir()
    jobs.submit(Job("where", ["bash", "-c", 'echo "$WHO in $PWD"'], place, environment={"WHO": "me"}))
    assert f"me in {place}\n" in ended(jobs, "where")[1]


def test_jobs_wait_for_cpus(jobs: Jobs, tmp_path: Path) -> None:
    cpus = max(usable_cpus(), 2)
    jobs.submit(Job("all", ["sleep", "600"], tmp_path, cpus=cpus))
    jobs.submit(Job("waits", ["true"], tmp_path, cpus=1))
    wait_for(lambda: jobs.find("all").status == "RUNNING")
    time.sleep(1)
    assert jobs.find("waits").status == "PENDING"
    assert not jobs.submit(Job("waits", ["true"], tmp_path, cpus=1))
    assert jobs.stop("all")
    assert ended(jobs, "all")[0].status == "STOPPED"
    assert ended(jobs, "waits")[0].status == "SUCCEEDED"
    assert not jobs.stop("waits"), "it has ended"


def test_a_job_that_nobody_submitted(jobs: Jobs) -> None:
    assert jobs.find("nobody's") is None
    assert ended(jobs, "nobody's") == (None, "")
    assert not jobs.stop("nobody's")


def test_without_ray() -> None:
    with pytest.raises(RayUnreachableError, match=r"127\.0\.0\.1:1: no Ray answers; start it or change RAY_ADDRESS"):
        Jobs("http://127.0.0.1:1")


def test_without_a_ray_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(RayUnreachableError, match="no job waits or runs"):
        running_jobs(tmp_path)


def test_ray_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LocalRayError, match=r"ray\.log"), reached(tmp_path, 1):
        raise AssertionError


def test_it_ends_by_itself(tmp_path: Path) -> None:
    with reached(tmp_path, 1) as jobs:
        assert jobs.list() == []
        processes = keepers(tmp_path)
        assert len(processes) > 4
    wait_for(lambda: not any(map(live, processes)))
    assert running(tmp_path) is None


@pytest.mark.faults
def test_it_ends_with_its_keeper(tmp_path: Path) -> None:
    """Some of Ray's processes take a minute to notice."""
    with reached(tmp_path, 1) as jobs:
        jobs.submit(Job("sleeps", ["sleep", "600"], tmp_path))
    wait_for(lambda: jobs.find("sleeps").status == "RUNNING")
    processes = keepers(tmp_path)
    processes[0].send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(live, processes)))
    assert running(tmp_path) is None


# Trainings as jobs


@dataclass
class Program:
    """Stands in for a training: a shell command as the job, done when its file is there."""

    id: str
    command: str
    folder: Path
    updates: int = 10

    @property
    def config(self) -> Any:
        return SimpleNamespace(run=self.id, schedule=SimpleNamespace(updates=self.updates, batch_size=1))

    @property
    def storage(self) -> Path:
        return self.folder / f"{self.id}.done"

    @property
    def is_done(self) -> bool:
        return self.storage.exists()


@pytest.fixture
def train(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains programs: the first one is waited for."""
    monkeypatch.setattr(
        submission, "training_job", lambda t, cluster, root: Job(t.id, ["bash", "-c", t.command], t.folder, cpus=1)
    )

    def train(program: Any, others: Any = lambda known: (), max_failures: int = 0) -> None:
        train_as_job(program, others, ClusterConfig(workers=0, max_failures=max_failures), folder.parents[1])

    return train


def test_a_training_and_the_others_with_it(train: Callable[..., None], tmp_path: Path, jobs: Jobs) -> None:
    cpus = max(usable_cpus(), 2)
    before = len(jobs.list())
    programs = [
        Program(f"run-{updates}", f"touch go-{updates}; sleep 2; touch run-{updates}.done", tmp_path, updates)
        for updates in range(cpus + 1)
    ]
    asked: list[set[str]] = []

    def others(known: set[str]) -> list[Program]:
        asked.append(known)
        return [program for program in programs[1:] if program.id not in known]

    train(programs[0], others)
    assert programs[0].is_done
    begun = {job.submission_id: job.start_time for job in jobs.list()}
    order = sorted((begun[program.id], program.updates) for program in programs)
    assert [updates for _, updates in order] == list(range(cpus + 1)), "as they are waited for"
    for program in programs[1:]:
        train(program, others)
        assert program.is_done
    # Each time what is not on its way may have become ready; here nothing has.
    assert asked[0] == {"idle", programs[0].id}
    assert len(jobs.list()) == before + len(programs)


def test_on_a_cluster_the_longest_go_first(tmp_path: Path) -> None:
    programs = [Program(f"run-{updates}", "true", tmp_path, updates) for updates in (2, 3, 1)]
    assert [each.updates for each in in_order(programs, shared=True)] == [3, 2, 1]  # type: ignore[arg-type]
    assert [each.updates for each in in_order(programs, shared=False)] == [2, 3, 1]  # type: ignore[arg-type]


def test_a_training_that_fails(train: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(JobFailedError, match="training of wrong failed"):
        train(Program("wrong", "echo error: the learning rate; exit 1", tmp_path), max_failures=5)
    assert capfd.readouterr().out.count("error: the learning rate\n") == 1, "shown, and not tried again"


def test_a_training_that_is_killed_is_submitted_again(train: Callable[..., None], tmp_path: Path) -> None:
    program = Program("killed", "echo >> tries; [ $(wc -l < tries) = 3 ] && touch killed.done || kill -9 $$", tmp_path)
    train(program, max_failures=2)
    assert program.is_done


def test_a_training_that_is_killed_too_often(train: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"was killed, and its restarts are used up \(max_failures: 1"):
        train(Program("doomed", "echo >> tries; kill -9 $$", tmp_path), max_failures=1)
    assert (tmp_path / "tries").read_text() == "\n\n"


def test_a_training_that_left_its_result_elsewhere(train: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"not here.*all nodes must share"):
        train(Program("elsewhere", "true", tmp_path))
