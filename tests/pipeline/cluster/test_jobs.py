"""Ray jobs on a real Ray of this machine: submitted once, followed, stopped, lost; and Ray leaves nothing behind."""

import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from made_up_configs import linked_project
from typer.testing import CliRunner

from pipeline import cli
from pipeline.cluster.idle import BUSY, BusyError, check_idle
from pipeline.cluster.jobs import Job, Jobs, RayUnreachableError
from pipeline.cluster.local_head import LocalRayError, ensure_ray, find_ray
from pipeline.cluster.needs import ClusterTooSmallError, Needs, Resources
from pipeline.cluster.submission import JobFailedError, Place, Request, find_jobs, in_order
from pipeline.cluster.submission import wait_for as wait_for_job
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
    with ensure_ray(folder, 2, idle_seconds=0.5) as jobs:
        jobs.submit(Job("idle", ["sleep", "600"], folder))
    yield folder
    jobs.stop("idle")
    wait_for(lambda: not keepers(folder))
    patch.undo()


@pytest.fixture
def jobs(folder: Path) -> Jobs:
    with ensure_ray(folder, 2) as jobs:
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


def test_make_clean_is_told_of_jobs_and_of_their_end(folder: Path, jobs: Jobs, tmp_path: Path) -> None:
    root = folder.parents[1]
    with pytest.raises(BusyError, match=r"wait or run \(idle\), so nothing was changed"):
        check_idle(root)
    check_idle(tmp_path)  # another project
    program = [sys.executable, "-m", "pipeline.cluster.idle"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(program, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == BUSY
    assert done.stderr.startswith("error: jobs of this project wait or run (idle)")


def test_without_the_token_there_is_no_way_in(folder: Path, jobs: Jobs) -> None:
    program = f"from ray.job_submission import JobSubmissionClient; JobSubmissionClient({jobs.address!r}).list_jobs()"
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Authentication" in done.stderr


def test_a_job_that_is_submitted_twice_runs_once(folder: Path, jobs: Jobs, tmp_path: Path) -> None:
    job = Job("once", ["bash", "-c", "echo run >> runs; sleep 3"], tmp_path)
    assert jobs.submit(job)
    with ensure_ray(folder, 2) as others:  # somebody else's
        assert not others.submit(job)
    assert ended(jobs, "once")[0].status == "SUCCEEDED"
    assert (tmp_path / "runs").read_text() == "run\n"


def test_one_that_has_ended_is_submitted_again(jobs: Jobs, tmp_path: Path) -> None:
    job = Job("again", ["bash", "-c", "echo run >> runs; exit 3"], tmp_path)
    for _ in range(2):
        assert jobs.submit(job)
        assert ended(jobs, "again")[0].driver_exit_code == 3
    assert (tmp_path / "runs").read_text() == "run\nrun\n"


def test_a_dashboard_with_too_much_to_do_is_asked_again(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = jobs.list(), jobs._client.list_jobs
    answers = iter([500, 503])

    def list_jobs() -> Any:
        for status in answers:
            raise RuntimeError(f"Request failed with status code {status}: Server got itself in trouble.")
        return asked()

    monkeypatch.setattr(jobs._client, "list_jobs", list_jobs)
    assert [job.submission_id for job in jobs.list()] == [job.submission_id for job in known]
    answers = iter([404])
    with pytest.raises(RuntimeError, match="404"):
        jobs.list()


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
    jobs.submit(Job("all", ["sleep", "600"], tmp_path, Needs(Resources(cpus))))
    jobs.submit(Job("waits", ["true"], tmp_path, Needs(Resources(1))))
    wait_for(lambda: jobs.find("all").status == "RUNNING")
    time.sleep(1)
    assert jobs.find("waits").status == "PENDING"
    assert not jobs.submit(Job("waits", ["true"], tmp_path, Needs(Resources(1))))
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
    monkeypatch.chdir(linked_project(tmp_path).root)
    assert find_jobs(tmp_path) is None
    listed = CliRunner().invoke(cli.jobs, ["list"])
    assert (listed.exit_code, listed.output) == (0, f"{cli.NO_JOBS}\n")
    assert CliRunner().invoke(cli.jobs, ["follow", "coco_4xconv_r50-0"]).exit_code == 1


def test_ray_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LocalRayError, match=r"ray\.log"), ensure_ray(tmp_path, 1):
        raise AssertionError


def test_ray_that_takes_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\necho nothing is wrong yet\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr("pipeline.cluster.local_head.START_SECONDS", 0.5)
    with pytest.raises(LocalRayError, match=r"machine: not within [01] s, so .* try again; the rest is in .*ray\.log"):
        ensure_ray(tmp_path, 1).__enter__()
    assert keepers(tmp_path) == []


def test_a_ray_that_runs_and_does_not_answer_is_an_error_and_no_second_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cluster.local_head.ANSWER_SECONDS", 1)
    me = psutil.Process()
    state = {"dashboard": "http://127.0.0.1:1", "head": "127.0.0.1:2", "pid": me.pid, "created": me.create_time()}
    (tmp_path / "ray.json").write_text(json.dumps(state))
    with pytest.raises(LocalRayError, match=rf"process {me.pid}\) does not answer"), ensure_ray(tmp_path, 1):
        raise AssertionError
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lock", "ray.json"]


def test_it_ends_by_itself(tmp_path: Path) -> None:
    with ensure_ray(tmp_path, 1, idle_seconds=2) as jobs:
        assert jobs.list() == []
        processes = keepers(tmp_path)
        assert len(processes) > 4
    wait_for(lambda: not any(map(live, processes)))
    assert find_ray(tmp_path) is None


@pytest.mark.faults
def test_it_ends_with_its_keeper(tmp_path: Path) -> None:
    """Some of Ray's processes take a minute to notice."""
    with ensure_ray(tmp_path, 1) as jobs:
        jobs.submit(Job("sleeps", ["sleep", "600"], tmp_path))
    wait_for(lambda: jobs.find("sleeps").status == "RUNNING")
    processes = keepers(tmp_path)
    processes[0].send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(live, processes)))
    assert find_ray(tmp_path) is None


def test_what_nodes_have(jobs: Jobs) -> None:
    (node,) = jobs.nodes()
    assert node.cpus == max(usable_cpus(), 2)
    assert node.memory > 1e8


def test_a_waiting_job_is_stopped_at_once(jobs: Jobs, tmp_path: Path) -> None:
    jobs.submit(Job("never", ["touch", "ran"], tmp_path, Needs(Resources(gpus=1000))))
    assert jobs.find("never").status == "PENDING"
    assert jobs.stop("never")
    assert jobs.find("never").status == "STOPPED"
    assert "never" not in [job.submission_id for job in jobs.live()]
    time.sleep(2)
    assert jobs.find("never").status == "STOPPED", "and stays so"
    assert not (tmp_path / "ran").exists()


# Requests


def request(
    name: str, command: str, folder: Path, work: float = 10, needs: Needs | None = None, **more: Any
) -> Request:
    """A shell command as a job, done when ``<name>.done`` is there."""
    job = Job(name, ["bash", "-c", command], folder, needs or Needs(Resources(1)), (f"make:{folder}/{name}",))
    return Request(name, job, work, (folder / f"{name}.done").exists, **more)


@pytest.fixture
def do(folder: Path) -> Callable[..., None]:
    """Waits for a request."""

    def do(wanted: Request, others: Any = lambda: (), max_failures: int = 0) -> None:
        place = Place(folder.parents[1], ClusterConfig(workers=0, max_failures=max_failures), lambda *_: ["laptop"])
        wait_for_job(wanted, others, place)

    return do


def test_the_cluster_is_kept_full_the_longest_first(do: Callable[..., None], tmp_path: Path, jobs: Jobs) -> None:
    cpus = max(usable_cpus(), 2)
    before = {job.submission_id for job in jobs.list()}
    # Each notes how many run beside it.
    command = "touch running-{0}; ls running-* | wc -l >> most; sleep 1; rm running-{0}; touch {0}.done"
    requests = [request(f"run-{work}", command.format(f"run-{work}"), tmp_path, work) for work in range(cpus + 3)]
    # The shortest is waited for: it comes last.
    do(requests[0], lambda: requests[1:])
    assert [each.name for each in requests if not each.is_done()] == []
    begun = {job.submission_id: job.start_time for job in jobs.list() if job.submission_id not in before}
    assert sorted(begun, key=begun.get) == [each.name for each in reversed(requests)]
    assert max(map(int, (tmp_path / "most").read_text().split())) <= cpus


def test_what_others_begin_with_goes_first(tmp_path: Path) -> None:
    requests = [request(f"run-{work}", "true", tmp_path, work) for work in (2, 3, 1)]
    first = request("detector", "true", tmp_path, 0, has_dependents=True)
    assert [each.work for each in in_order([*requests, first])] == [0, 3, 2, 1]


def test_a_job_that_asks_for_more_than_there_is(do: Callable[..., None], tmp_path: Path, jobs: Jobs) -> None:
    before = len(jobs.list())
    large = request("large", "true", tmp_path, needs=Needs(Resources(1, gpus=1)))
    small = request("small", "touch small.done", tmp_path)
    message = r"large needs 1 GPU, this Ray has 0\. Nothing was submitted\. .*`cluster: laptop`"
    for wanted, other in ((large, small), (small, large)):
        with pytest.raises(ClusterTooSmallError, match=message):
            do(wanted, lambda other=other: [other])
    assert len(jobs.list()) == before


def test_a_job_that_waits_for_something_else_than_today_s_is_replaced(
    do: Callable[..., None], tmp_path: Path, jobs: Jobs
) -> None:
    yesterday = Job("work-1", ["true"], tmp_path, Needs(Resources(1, gpus=1000)), ("make:work",))
    assert jobs.submit(yesterday)
    today = Job("work-2", ["bash", "-c", "sleep 2; touch work.done"], tmp_path, Needs(Resources(1)), ("make:work",))
    do(Request("work", today, 1, (tmp_path / "work.done").exists))
    assert jobs.find("work-1").status == "STOPPED"
    assert jobs.find("work-2").metadata["results"] == "make:work"


def test_a_job_that_runs_is_joined_whatever_it_asks_for(do: Callable[..., None], tmp_path: Path, jobs: Jobs) -> None:
    other = Job("theirs", ["bash", "-c", "sleep 3; touch joined.done"], tmp_path, Needs(Resources()), ("make:joined",))
    assert jobs.submit(other)
    wait_for(lambda: jobs.find("theirs").status == "RUNNING")
    own = Job("ours", ["false"], tmp_path, Needs(Resources(1)), ("make:joined",))
    do(Request("joined", own, 1, (tmp_path / "joined.done").exists))
    assert jobs.find("ours") is None


def test_a_job_that_fails(do: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(JobFailedError, match="wrong failed"):
        do(request("wrong", "echo error: the learning rate; exit 1", tmp_path), max_failures=5)
    assert capfd.readouterr().out.count("error: the learning rate\n") == 1, "shown, and not tried again"


def test_a_job_that_is_killed_is_submitted_again(do: Callable[..., None], tmp_path: Path) -> None:
    command = "echo >> tries; [ $(wc -l < tries) = 3 ] && touch killed.done || kill -9 $$"
    do(request("killed", command, tmp_path), max_failures=2)
    assert (tmp_path / "killed.done").exists()


def test_a_job_that_is_killed_too_often(do: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"was killed, and its restarts are used up \(max_failures: 1"):
        do(request("doomed", "echo >> tries; kill -9 $$", tmp_path), max_failures=1)
    assert (tmp_path / "tries").read_text() == "\n\n"


def test_a_job_that_left_its_result_elsewhere(do: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"not here.*all nodes must share"):
        do(request("elsewhere", "true", tmp_path))
