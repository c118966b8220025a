"""Runs and sweeps as Ray jobs: as many as the cluster has room for, and waited for one by one.

Each waiting stage of a `dvc repro` tops the cluster up while it waits. Nothing of that is kept in memory alone: what is
submitted is on the cluster, what is done is on disk, so that a killed stage loses nothing.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus

from pipeline.cluster.jobs import Job, Jobs, RayUnreachableError, job_name, job_needs, job_results
from pipeline.cluster.local_head import ensure_ray, find_ray
from pipeline.cluster.needs import Needs, check_fits, count_to_submit
from pipeline.config.clusters import ClusterConfig
from pipeline.errors import UserError

#: What a job takes over from the stage that submits it.
ENVIRONMENT = ("MLFLOW_TRACKING_URI",)
#: How often a waiting stage looks whether there is room for more jobs.
TOP_UP_SECONDS = 3.0


class JobFailedError(UserError):
    """A job ended without a result."""


@dataclass(frozen=True)
class Request:
    """Work that is to be done by one job.

    Attributes:
        name: of the run or sweep.
        job: which does it.
        work: how long it takes, in any unit: the longest is submitted first.
        is_done: whether the result is there.
        has_dependents: whether other work begins with its result.
        minimum_needs: what it needs at minimum_needs, where its number of workers may vary.
    """

    name: str
    job: Job
    work: float
    is_done: Callable[[], bool]
    has_dependents: bool = False
    minimum_needs: Needs | None = None


@dataclass(frozen=True)
class Place:
    """Where jobs are submitted.

    Attributes:
        root: the project's home.
        cluster: the selected configuration.
        alternatives: names the cluster configurations that a job of these nodes fits, for messages.
    """

    root: Path
    cluster: ClusterConfig
    alternatives: Callable[[Request, Jobs], Sequence[str]] = lambda request, jobs: ()

    @contextmanager
    def jobs(self, needs: Needs) -> Iterator[Jobs]:
        """The jobs of the cluster of ``RAY_ADDRESS``, or of the project's own Ray on this machine.

        Args:
            needs: what that Ray must have CPU cores for, if it is started here.
        """
        if address := os.environ.get("RAY_ADDRESS"):
            yield Jobs(address)
        else:
            with ensure_ray(ray_folder(self.root), needs.total.cpus) as jobs:
                yield jobs


def running_jobs(root: Path) -> Jobs:
    """The jobs of the cluster of ``RAY_ADDRESS``, or of the project's own Ray if that runs.

    Raises:
        RayUnreachableError: if there is none.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return Jobs(address)
    jobs = find_ray(ray_folder(root))
    if jobs is None:
        raise RayUnreachableError(f"{root}: no job waits or runs on this machine, and RAY_ADDRESS names no cluster")
    return jobs


def ray_folder(root: Path) -> Path:
    """Where a project keeps what it knows of its Ray on this machine."""
    return root / ".pointrend" / "ray"


def in_order(requests: Sequence[Request]) -> list[Request]:
    """Requests in the order of their submission: what others begin with, then the longest."""
    return sorted(requests, key=lambda request: (not request.has_dependents, -request.work))


def submit_what_fits(jobs: Jobs, requests: Sequence[Request], place: Place) -> list[Request]:
    """Submits requests, in their order, for as long as the cluster has room, and returns those that are left.

    What is done, or what a job that runs is doing already, is not submitted. A job that still waits, and asks for
    something else than today's, is replaced.

    Raises:
        ClusterTooSmallError: for a request that the cluster could never run; nothing is submitted then.
    """
    todo = [request for request in requests if not request.is_done()]
    if not todo:
        return []
    nodes = [] if place.cluster.runs_at_once else jobs.nodes()
    if not place.cluster.runs_at_once:
        for request in todo:
            needs = request.minimum_needs or request.job.needs
            try:
                check_fits(request.name, nodes, needs)
            except UserError:
                check_fits(request.name, nodes, needs, place.alternatives(request, jobs))
    live = jobs.live()
    waiting = []
    for request in todo:
        overlapping = _find_overlapping(live, request.job)
        if overlapping is None:
            waiting.append(request)
        elif overlapping.status == JobStatus.PENDING and job_name(overlapping) != request.job.id:
            jobs.stop(overlapping.submission_id or "")
            live = [job for job in live if job is not overlapping]
            waiting.append(request)
    count = count_to_submit(nodes, map(job_needs, live), (r.job.needs for r in waiting), place.cluster.runs_at_once)
    for request in waiting[:count]:
        jobs.submit(request.job)
    return waiting[count:]


def _find_overlapping(live: Sequence[JobDetails], job: Job) -> JobDetails | None:
    """The job that makes what another would make, or a part of it."""
    own = set(job.results)
    return next((each for each in live if job_name(each) == job.id or own & job_results(each)), None)


class _Queue:
    """Requests that are still to be submitted, in their order."""

    def __init__(self, requests: Sequence[Request], place: Place) -> None:
        self._waiting, self._place = in_order(requests), place
        self._topped_up = 0.0

    def __contains__(self, request: Request) -> bool:
        return any(each is request for each in self._waiting)

    def put_back(self, request: Request) -> None:
        """Has a request submitted again, before all others."""
        self._waiting.insert(0, request)

    def top_up(self, jobs: Jobs) -> None:
        """Submits what the cluster has room for."""
        self._waiting = submit_what_fits(jobs, self._waiting, self._place)
        self._topped_up = time.monotonic()

    def top_up_now_and_then(self, jobs: Jobs) -> None:
        if self._waiting and time.monotonic() > self._topped_up + TOP_UP_SECONDS:
            self.top_up(jobs)


def wait_for(
    request: Request, others: Callable[[], Sequence[Request]], place: Place, *, show_earlier_output: bool = True
) -> None:
    """Has a request done by a job and waits for it, showing its output, while the cluster is kept full with others.

    A job that waits or runs already is joined; one that was killed is submitted again, and goes on from what is there.

    Args:
        request: what is waited for. It is submitted in its turn.
        others: tells what else is to be done and can be done now. It is asked once.
        place: where.
        show_earlier_output: whether to show what a job that is joined has written before now, too.

    Raises:
        ClusterTooSmallError: if the cluster could never run it.
        JobFailedError: if the job fails, is stopped, or is killed once too often.
        KeyboardInterrupt: after Ctrl-C; the jobs go on.
    """
    lost = 0
    queue: _Queue | None = None
    while not request.is_done():
        with place.jobs(request.job.needs) as jobs:
            queue = queue or _Queue([request, *others()], place)
            queue.top_up(jobs)
        overlapping = _find_overlapping(jobs.live(), request.job)
        if overlapping is None and request in queue:
            time.sleep(TOP_UP_SECONDS)  # its turn has not come
            continue
        name = job_name(overlapping) if overlapping else request.job.id
        job = _follow(jobs, name, request, queue, show_earlier_output or lost > 0)
        if request.is_done():
            return
        queue.put_back(request)
        if job is not None and name != request.job.id and job.status == JobStatus.SUCCEEDED:
            continue  # it made only a part of what is wanted
        _check_end(request, job)
        # Killed by a signal, lost with its node, or with Ray itself.
        lost += 1
        if lost > place.cluster.max_failures >= 0:
            raise JobFailedError(
                f"job {name} was killed, and its restarts are used up (max_failures: {place.cluster.max_failures} in "
                f"the cluster configuration); `dvc repro` goes on from its last checkpoint"
                + (f". Ray says: {job.message}" if job is not None else "")
            )
        print(f"job {name} was lost; it is submitted again", flush=True)


def _follow(jobs: Jobs, name: str, request: Request, queue: _Queue, show_earlier_output: bool) -> JobDetails | None:
    """Shows a job's output until it ends or the request is done; meanwhile the cluster is topped up."""

    def is_done() -> bool:
        queue.top_up_now_and_then(jobs)
        return request.is_done()

    try:
        return jobs.follow(
            name, lambda text: print(text, end="", flush=True), is_done, show_earlier_output=show_earlier_output
        )
    except KeyboardInterrupt:
        print(
            "\nThe jobs go on: `pointrend jobs list` shows them, `pointrend jobs stop` stops them, and `dvc repro` "
            "waits for them again.",
            flush=True,
        )
        raise


def _check_end(request: Request, job: JobDetails | None) -> None:
    """Raises the error of a job that has ended by itself without the result."""
    if job is None:
        return
    if job.status == JobStatus.SUCCEEDED:
        raise JobFailedError(
            f"{request.name}: its result is not here, but job {job.submission_id} has written it; all nodes must share "
            "its folder (storage in the cluster configuration)"
        )
    if job.status == JobStatus.STOPPED:
        raise JobFailedError(f"job {job_name(job)} was stopped; `dvc repro` goes on from its last checkpoint")
    if (job.driver_exit_code or 0) > 0:
        raise JobFailedError(f"{request.name} failed; it says above why, and what to do")
