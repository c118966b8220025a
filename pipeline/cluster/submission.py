"""Submits requests as Ray jobs, as many as the cluster has room for, and waits for one of them at a time.

Each stage of a `dvc repro` keeps the cluster full while it waits for its own job. A stage holds no state of its own:
submitted jobs are on the cluster and results are on disk, so a killed stage loses nothing.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus

from pipeline.cluster.jobs import Job, Jobs, job_name, job_needs, job_results
from pipeline.cluster.local_head import ensure_ray, find_ray
from pipeline.cluster.needs import Needs, Resources, check_fits, count_to_submit, fits
from pipeline.config.clusters import ClusterConfig
from pipeline.errors import UserError

#: Environment variables that a job inherits from the stage that submits it.
ENVIRONMENT = ("MLFLOW_TRACKING_URI",)
#: How often a waiting stage looks whether there is room for more jobs.
TOP_UP_SECONDS = 3.0


class JobFailedError(UserError):
    """A job ended without a result."""


@dataclass(frozen=True)
class Request:
    """A result to be produced by one job.

    Attributes:
        name: the run or sweep.
        job: the job that produces the result.
        work: the expected duration, in any unit; longer requests are submitted first.
        is_done: returns whether the result is there.
        has_dependents: whether other runs or sweeps start from the result; such requests are submitted first.
        minimum_needs: the needs with the fewest workers, where their number may vary.
    """

    name: str
    job: Job
    work: float
    is_done: Callable[[], bool]
    has_dependents: bool = False
    minimum_needs: Needs | None = None


@dataclass(frozen=True)
class Place:
    """The cluster that a project submits its jobs to.

    Attributes:
        root: the project's folder.
        cluster: the selected cluster configuration.
        alternatives: returns the names of cluster configurations with which a request would fit, for messages.
        from_option: whether the configuration was chosen with ``--cluster``, and not in ``params.yaml``.
    """

    root: Path
    cluster: ClusterConfig
    alternatives: Callable[[Request, Jobs], Sequence[str]] = lambda request, jobs: ()
    from_option: bool = False

    @contextmanager
    def jobs(self, needs: Needs) -> Iterator[Jobs]:
        """The jobs of the cluster of ``RAY_ADDRESS``, or of the project's own Ray on this machine.

        Args:
            needs: a Ray that is started here gets at least the CPU cores of these needs.
        """
        if address := os.environ.get("RAY_ADDRESS"):
            yield Jobs(address)
        else:
            threads = thread_variables(self.cluster)
            with ensure_ray(ray_folder(self.root), needs.total.cpus, environment=threads) as jobs:
                yield jobs


def find_jobs(root: Path) -> Jobs | None:
    """The jobs of the cluster of ``RAY_ADDRESS``, or of the project's own Ray on this machine; None if it has none.

    Raises:
        RayUnreachableError: if no Ray answers at ``RAY_ADDRESS``.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return Jobs(address)
    return find_ray(ray_folder(root))


def thread_variables(cluster: ClusterConfig) -> dict[str, str]:
    """The environment variables by which the libraries in a job know their number of threads."""
    return {"OMP_NUM_THREADS": str(cluster.cpus_per_worker)}


def ray_folder(root: Path) -> Path:
    """The folder with the state of a project's Ray on this machine: its addresses, its log, its lock."""
    return root / ".pointrend" / "ray"


def in_order(requests: Sequence[Request]) -> list[Request]:
    """Requests in the order of submission: first those that others depend on, then the longest."""
    return sorted(requests, key=lambda request: (not request.has_dependents, -request.work))


def submit_what_fits(jobs: Jobs, requests: Sequence[Request], place: Place) -> list[Request]:
    """Submits requests in their order while the cluster has room, and returns those that are still to be submitted.

    Requests that are done, or whose result a job on the cluster produces already, are dropped. A pending job that
    produces the same result with other needs is stopped and submitted again with the new ones.

    Raises:
        ClusterTooSmallError: if a request could never run on the cluster; nothing is submitted then.
    """
    todo = [request for request in requests if not request.is_done()]
    if not todo:
        return []
    nodes: list[Resources] = []
    if not place.cluster.runs_at_once:
        nodes = jobs.nodes()
        for request in todo:
            needs = request.minimum_needs or request.job.needs
            if not fits(nodes, needs):
                check_fits(request.name, nodes, needs, place.alternatives(request, jobs), place.from_option)
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
    """A live job that produces at least one of the results that ``job`` would produce; None if there is none."""
    own = set(job.results)
    return next((each for each in live if job_name(each) == job.id or own & job_results(each)), None)


class _Queue:
    """The requests that are still to be submitted, in order."""

    def __init__(self, requests: Sequence[Request], place: Place) -> None:
        self._waiting, self._place = in_order(requests), place
        self._topped_up = 0.0

    def __contains__(self, request: Request) -> bool:
        return any(each is request for each in self._waiting)

    def put_back(self, request: Request) -> None:
        """Puts a request in front of all others, to be submitted again."""
        self._waiting.insert(0, request)

    def top_up(self, jobs: Jobs) -> None:
        """Submits as many requests as the cluster has room for."""
        self._waiting = submit_what_fits(jobs, self._waiting, self._place)
        self._topped_up = time.monotonic()

    def top_up_now_and_then(self, jobs: Jobs) -> None:
        if self._waiting and time.monotonic() > self._topped_up + TOP_UP_SECONDS:
            self.top_up(jobs)


def wait_for(
    request: Request, others: Callable[[], Sequence[Request]], place: Place, *, show_earlier_output: bool = True
) -> None:
    """Waits until a request is done and shows its job's output, while other requests keep the cluster full.

    If a job for the request is on the cluster already, it is followed. A job that was killed is submitted again and
    continues from its checkpoint.

    Args:
        request: the request to wait for. It is submitted in its order among the others.
        others: returns the other requests that are ready to run. Called once.
        place: the cluster.
        show_earlier_output: whether to show what a running job wrote before this call.

    Raises:
        ClusterTooSmallError: if the cluster could never run one of the requests.
        JobFailedError: if the job fails, is stopped, or is killed more than ``max_failures`` times.
        KeyboardInterrupt: after Ctrl-C; the jobs continue.
    """
    lost = 0
    queue: _Queue | None = None
    while not request.is_done():
        with place.jobs(request.job.needs) as jobs:
            queue = queue or _Queue([request, *others()], place)
            queue.top_up(jobs)
        overlapping = _find_overlapping(jobs.live(), request.job)
        if overlapping is None and request in queue:
            time.sleep(TOP_UP_SECONDS)  # not submitted yet
            continue
        name = job_name(overlapping) if overlapping else request.job.id
        job = _follow(jobs, name, request, queue, show_earlier_output or lost > 0)
        if request.is_done():
            return
        queue.put_back(request)
        if job is not None and name != request.job.id and job.status == JobStatus.SUCCEEDED:
            continue  # an overlapping job that produced only some of the results
        _check_end(request, job)
        # The job was killed by a signal, or it was lost with its node or with Ray.
        lost += 1
        if lost > place.cluster.max_failures >= 0:
            raise JobFailedError(
                f"job {name} was killed, and its restarts are used up (max_failures: {place.cluster.max_failures} in "
                f"the cluster configuration); `dvc repro` goes on from its last checkpoint"
                + (f". Ray says: {job.message}" if job is not None else "")
            )
        print(f"job {name} was killed; submitting it again", flush=True)


def _follow(jobs: Jobs, name: str, request: Request, queue: _Queue, show_earlier_output: bool) -> JobDetails | None:
    """Shows a job's output until the job ends or the request is done, and keeps the cluster full meanwhile."""

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
    """Raises an error if a job has ended without the result; does nothing if it was killed and may be restarted.

    Raises:
        JobFailedError: if the job succeeded without a result here, was stopped, or exited with an error.
    """
    if job is None:
        return
    if job.status == JobStatus.SUCCEEDED:
        raise JobFailedError(
            f"{request.name}: job {job.submission_id} has succeeded, but its result is not here; all nodes must share "
            "one folder, set storage in the cluster configuration"
        )
    if job.status == JobStatus.STOPPED:
        raise JobFailedError(f"job {job_name(job)} was stopped; `dvc repro` goes on from its last checkpoint")
    if (job.driver_exit_code or 0) > 0:
        raise JobFailedError(f"{request.name} failed; the reason is in the job's output above")
