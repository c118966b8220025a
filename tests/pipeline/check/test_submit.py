"""Jobs of checks: all are submitted as there is room, and one that fails does not end the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from pipeline.check import submit
from pipeline.check.submit import count_that_fit, run_all
from pipeline.cluster.jobs import Job
from pipeline.cluster.needs import ClusterTooSmallError, Needs, Resources
from pipeline.cluster.submission import Request
from pipeline.config.clusters import ClusterConfig


class FakeJobs:
    """A Ray of one node, on which a job ends as soon as it is asked for."""

    def __init__(self, cpus: float, ends: dict[str, JobStatus]) -> None:
        self._cpus, self._ends = cpus, ends
        self.submitted: list[str] = []

    def nodes(self) -> list[Resources]:
        return [Resources(cpus=self._cpus)]

    def live(self) -> list[Any]:
        return []

    def submit(self, job: Job) -> bool:
        self.submitted.append(job.id)
        return True

    def find(self, job_id: str) -> Any:
        return SimpleNamespace(status=self._ends[job_id], submission_id=job_id, metadata={})


class FakePlace:
    cluster = ClusterConfig(workers=0)
    from_option = True

    def __init__(self, jobs: FakeJobs) -> None:
        self._jobs = jobs

    @contextmanager
    def jobs(self, needs: Needs) -> Iterator[FakeJobs]:
        yield self._jobs

    def alternatives(self, request: Request, jobs: Any) -> list[str]:
        return []


def request(name: str, cpus: float = 1) -> Request:
    job = Job(name, ["true"], Path("/"), Needs(Resources(cpus=cpus)))
    return Request(name, job, work=1, is_done=lambda: False)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.0)


def test_all_jobs_end_whether_or_not_one_fails() -> None:
    names = [f"check-{number}" for number in range(9)]  # more than fit at a time
    jobs = FakeJobs(2, {name: JobStatus.FAILED if name == "check-1" else JobStatus.SUCCEEDED for name in names})
    begun: list[str] = []
    ended: dict[str, str] = {}
    room = run_all(
        [request(name) for name in names],
        FakePlace(jobs),  # type: ignore[arg-type]
        lambda each: begun.append(each.name),
        lambda each, job, _: ended.update({each.name: str(job.status)}),
    )
    assert room == 2
    assert begun == names
    assert sorted(jobs.submitted) == names
    assert set(ended) == set(names)
    assert ended["check-1"] == "FAILED"


def test_a_training_that_can_never_run_is_an_error_before_any_is_submitted() -> None:
    jobs = FakeJobs(2, {})
    with pytest.raises(ClusterTooSmallError, match=r"check-large needs 3 CPUs, this Ray has 2\. Nothing was submitted"):
        run_all([request("check-1"), request("check-large", 3)], FakePlace(jobs), print, print)  # type: ignore[arg-type]
    assert jobs.submitted == []


@pytest.mark.parametrize(("cpus", "count"), [(1, 4), (2, 2), (3, 1), (8, 1)])
def test_room(cpus: float, count: int) -> None:
    nodes = [Resources(cpus=2), Resources(cpus=2)] if cpus < 3 else [Resources(cpus=4)]
    assert count_that_fit(nodes, Needs(Resources(cpus=cpus))) == count
