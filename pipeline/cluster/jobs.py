"""Submits, lists, follows and stops Ray jobs. Two requests for the same job get one job."""

import asyncio
import logging
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException
from requests.exceptions import RequestException

from pipeline.cluster.needs import Needs, Resources
from pipeline.errors import UserError

#: How long to wait for a Ray that does not answer: its head may be restarting.
PATIENCE_SECONDS = 120.0
#: How long a single request may take: a dashboard whose head has died may accept one and never answer it.
REQUEST_SECONDS = 60.0
#: Shorter waits are not reported.
SILENT_SECONDS = 10.0
POLL_SECONDS = 0.3
#: How often to ask Ray for the state of a job that is followed; each time it lists all jobs.
STATE_SECONDS = 1.0
UNREACHABLE = (ConnectionError, RequestException, ClientError, asyncio.TimeoutError, RayStateApiException)

#: Separates a job's id from the number of the attempt.
ATTEMPT = ".attempt-"
#: Names of jobs that cancel a pending job begin with this.
CANCELLER_PREFIX = "stop-"

# Ray logs a line whenever a job's output ends.
logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)

T = TypeVar("T")


class RayUnreachableError(UserError, ConnectionError):
    """Ray does not answer, or refuses a request."""


@dataclass(frozen=True)
class Job:
    """A command for the cluster and the resources that it needs.

    Args:
        id: the job's name on the cluster. A job is not submitted while another one with its id waits or runs.
        command: the program and its arguments.
        folder: the working directory; every node must have it.
        needs: the resources. Ray reserves ``needs.driver`` while the job runs; the driver asks for its workers itself.
        results: keys of the results that the job produces, by which another job for the same result is recognised.
        environment: variables to set in addition to the node's own.
    """

    id: str
    command: list[str]
    folder: Path
    needs: Needs = field(default_factory=lambda: Needs(Resources()))
    results: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def job_name(job: JobDetails) -> str:
    """The id of a job without the number of its attempt."""
    return (job.submission_id or "").split(ATTEMPT)[0]


def job_results(job: JobDetails) -> set[str]:
    """The keys of the results that a job produces, see :class:`Job`."""
    return set((job.metadata or {}).get("results", "").split())


def job_needs(job: JobDetails) -> Needs:
    """The resources that a job holds; none if it was submitted by a program other than this one."""
    text = (job.metadata or {}).get("needs")
    return Needs.from_json(text) if text else Needs(Resources())


class Jobs:
    """The jobs of a Ray cluster.

    Args:
        address: any form of ``RAY_ADDRESS``: ``http://`` and the dashboard's host and port, ``ray://...``, or the
            head's host and port.
        head: ``RAY_ADDRESS`` inside the jobs, the head's host and port, where ``address`` is of another form. Without
            it a job connects to the Ray that `ray start` last started on its machine, which may be another one.

    Raises:
        RayUnreachableError: if no Ray answers at the address. All methods raise it.
    """

    #: Since when the call under way has waited for Ray; None between calls.
    _begun: float | None = None

    def __init__(self, address: str, head: str | None = None) -> None:
        self.address = address
        if head is None and re.fullmatch(r"[^/]+:\d+", address):
            head = address
        self._environment = {"RAY_ADDRESS": head} if head else {}
        # Ray changes RAY_ADDRESS to "auto" in the environment of drivers, so it is set in front of their command.
        self._prefix = ["env", f"RAY_ADDRESS={head}"] if head else []
        try:
            self._client = _Client(address)
            self._client.get_version()
        except AuthenticationError as error:
            raise RayUnreachableError(
                f"{address}: Ray refused the connection; set RAY_AUTH_MODE and the token of its cluster ({error})"
            ) from error
        except (*UNREACHABLE, RuntimeError) as error:
            raise RayUnreachableError(
                f"{address}: no Ray answers; start it or change RAY_ADDRESS ({_reason(error)})"
            ) from error

    def _retry(self, call: Callable[[], T]) -> T:
        """Calls until Ray answers, for up to :data:`PATIENCE_SECONDS`, and returns the result."""
        with self._patience("does not answer") as end:
            while True:
                try:
                    return call()
                except UNREACHABLE as error:
                    if time.monotonic() > end:
                        raise RayUnreachableError(
                            f"{self.address}: Ray has not answered for {PATIENCE_SECONDS:.0f} s; the results and "
                            f"checkpoints of its jobs are kept, and `dvc repro` continues from them ({_reason(error)})"
                        ) from error
                    time.sleep(0.5)

    @contextmanager
    def _patience(self, problem: str) -> Iterator[float]:
        """Reports the problem once if the block takes long, also while a call in it hangs.

        Yields the time until which to wait. A block within another one shares its time and its report.
        """
        if self._begun is not None:
            yield self._begun + PATIENCE_SECONDS
            return
        self._begun = time.monotonic()
        report = threading.Timer(SILENT_SECONDS, self._report_waiting, [problem])
        report.daemon = True
        report.start()
        try:
            yield self._begun + PATIENCE_SECONDS
        finally:
            report.cancel()
            self._begun = None

    def _report_waiting(self, problem: str) -> None:
        print(f"Ray at {self.address} {problem}; waiting up to {PATIENCE_SECONDS:.0f} s", flush=True)

    def nodes(self) -> list[Resources]:
        """The resources of each node that is alive."""
        address = self._client.get_address()
        found = self._retry(lambda: list_nodes(address=address, limit=10_000, raise_on_missing_output=False))
        totals = [node.resources_total for node in found if node.state == "ALIVE"]
        return [Resources(each.get("CPU", 0), each.get("GPU", 0), each.get("memory", 0)) for each in totals]

    def _attempts(self, job_id: str) -> list[JobDetails]:
        """A job's attempts, oldest first. Ray needs unique ids, so every attempt after the first has a number."""
        return [job for job in self.list() if job_name(job) == job_id.split(ATTEMPT)[0]]

    def find(self, job_id: str) -> JobDetails | None:
        """A job's last attempt; None if Ray does not know the job."""
        return next(reversed(self._attempts(job_id)), None)

    def live(self) -> list[JobDetails]:
        """The jobs that wait or run, in the order of their submission."""
        return [job for job in self.list() if not job.status.is_terminal()]

    def list(self) -> list[JobDetails]:
        """All submitted jobs that Ray remembers, in the order of their submission."""
        found = [job for job in self._retry(self._listed) if job.type == JobType.SUBMISSION]
        jobs = [job for job in found if not (job.submission_id or "").startswith(CANCELLER_PREFIX)]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def _listed(self) -> Sequence[JobDetails]:
        try:
            return self._client.list_jobs()
        except RuntimeError as error:
            if "status code 5" not in str(error):
                raise
            # The dashboard of a machine with too much to do cannot ask its own parts in time.
            raise ConnectionError(str(error)) from error

    def submit(self, job: Job) -> bool:
        """Submits a job unless it waits or runs already. A job that has ended is submitted again.

        Returns:
            whether the job was submitted.
        """
        with self._patience(f"has not accepted job {job.id} yet") as end:
            return self._submit(job, end)

    def _submit(self, job: Job, end: float) -> bool:
        while True:
            attempts = self._attempts(job.id)
            if attempts and not attempts[-1].status.is_terminal():
                return False
            driver = job.needs.driver
            try:
                self._client.submit_job(
                    entrypoint=f"cd {shlex.quote(str(job.folder))} && exec {shlex.join([*self._prefix, *job.command])}",
                    submission_id=f"{job.id}{ATTEMPT}{len(attempts) + 1}" if attempts else job.id,
                    entrypoint_num_cpus=driver.cpus,
                    entrypoint_num_gpus=driver.gpus,
                    entrypoint_memory=int(driver.memory),
                    runtime_env={
                        # Without RAY_ADDRESS workers would connect to any Ray of the machine.
                        "env_vars": job.environment | self._environment,
                        # Ray starts workers by a line of bash, in which it does not quote their Python.
                        "py_executable": shlex.quote(sys.executable),
                    },
                    metadata={"results": " ".join(job.results), "needs": job.needs.to_json()},
                )
            except (*UNREACHABLE, RuntimeError, ValueError) as error:
                # Another process may have submitted the job first, or Ray has just started and has no agent yet.
                if time.monotonic() > end:
                    raise RayUnreachableError(
                        f"{self.address}: job {job.id} was not accepted within {PATIENCE_SECONDS:.0f} s "
                        f"({_reason(error)})"
                    ) from error
                time.sleep(0.3)
            else:
                return True

    def follow(
        self,
        job_id: str,
        show: Callable[[str], None],
        until: Callable[[], bool] = lambda: False,
        *,
        show_earlier_output: bool = True,
    ) -> JobDetails | None:
        """Shows the output of a job's last attempt until the job ends or ``until`` returns true.

        Args:
            job_id: the job.
            show: called with each new piece of output.
            until: called a few times a second; following ends early when it returns true.
            show_earlier_output: whether to begin with what the job wrote before this call.

        Returns:
            the job's last state; None if Ray no longer knows the job.
        """
        found = self.find(job_id)
        if found is None:
            return None
        attempt = found.submission_id or ""
        output = _Output(self._client, attempt, show)
        begun, reported = time.monotonic(), False
        if not show_earlier_output and found.status == JobStatus.RUNNING:
            with suppress(*UNREACHABLE, RuntimeError):
                output.skip(len(self._client.get_job_logs(attempt)))
        try:
            while True:
                job = next((job for job in self.list() if job.submission_id == attempt), None)
                if job is None:
                    return None
                if job.status.is_terminal():
                    output.stop()
                    with suppress(RuntimeError):
                        output.show_from(0, self._retry(lambda: self._client.get_job_logs(attempt)))
                    return job
                if job.status == JobStatus.RUNNING:
                    output.start()
                elif not reported and time.monotonic() > begun + SILENT_SECONDS:
                    reported = True
                    show(f"job {job_id} waits for room on the cluster\n")
                asked = time.monotonic()
                while time.monotonic() < asked + STATE_SECONDS:
                    if until():
                        return job
                    time.sleep(POLL_SECONDS)
        finally:
            output.stop()

    def stop(self, job_id: str) -> bool:
        """Stops a job. A running training writes a checkpoint first.

        Ray's own call reaches a pending job only once it runs. A pending job is therefore cancelled by a second job,
        which changes the pending job's status from inside the cluster.

        Returns:
            whether the job was waiting or running.

        Raises:
            RayUnreachableError: if a pending job could not be cancelled.
        """
        found = self.find(job_id)
        if found is None or found.status.is_terminal():
            return False
        attempt = found.submission_id or ""
        if found.status == JobStatus.PENDING:
            self._cancel_pending(attempt)
        else:
            self._retry(lambda: self._client.stop_job(attempt))
        return True

    def _cancel_pending(self, attempt: str) -> None:
        name = f"{CANCELLER_PREFIX}{attempt}-{time.time_ns()}"
        program = shlex.join([*self._prefix, sys.executable, "-c", CANCEL_PENDING_JOB, attempt])
        self._retry(lambda: self._client.submit_job(entrypoint=f"exec {program}", submission_id=name))
        try:
            while not (status := self._retry(lambda: self._client.get_job_status(name))).is_terminal():
                time.sleep(POLL_SECONDS)
        except RuntimeError as error:  # a busy Ray may not have taken the second job
            raise RayUnreachableError(f"{self.address}: job {attempt} could not be stopped, try again") from error
        if status != JobStatus.SUCCEEDED:
            lines = self._retry(lambda: self._client.get_job_logs(name)).strip().splitlines()
            reason = lines[-1] if lines else "no output"
            raise RayUnreachableError(f"{self.address}: job {attempt} could not be stopped ({reason})")
        with suppress(RuntimeError):
            self._client.delete_job(name)


#: The program of the job that cancels a pending job. Ray has no public call for this.
CANCEL_PENDING_JOB = """
import sys, ray
from ray._private.worker import global_worker
from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, SUPERVISOR_ACTOR_RAY_NAMESPACE
from ray.dashboard.modules.job.common import JobInfoStorageClient, JobStatus
import asyncio
ray.init(log_to_driver=False)
jobs, job = JobInfoStorageClient(global_worker.gcs_client), sys.argv[1]
if asyncio.run(jobs.get_status(job)) == JobStatus.PENDING:
    asyncio.run(jobs.put_status(job, JobStatus.STOPPED, message="stopped while it waited"))
    ray.kill(ray.get_actor(JOB_ACTOR_NAME_TEMPLATE.format(job_id=job), namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE))
"""


class _Client(JobSubmissionClient):
    """Ray's client, whose requests end after a time."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, **{"timeout": REQUEST_SECONDS, **options})


def _reason(error: Exception) -> str:
    """The last part of an error's message, which in those of connections names the cause."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "Connection" not in (reason := lines[-1]):
        return reason
    reason = reason.rsplit(": ", 1)[-1].rstrip("'\")>")
    return reason + ")" * (reason.count("(") - reason.count(")"))


class _Output:
    """Shows a job's output from a thread, each piece once, even if the connection is lost and made again."""

    def __init__(self, client: JobSubmissionClient, attempt: str, show: Callable[[str], None]) -> None:
        self._client, self._attempt, self._show = client, attempt, show
        self._shown, self._lock, self._stopped = 0, threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._tail, name=f"output of {self._attempt}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def skip(self, characters: int) -> None:
        """Treats the first ``characters`` of the output as shown."""
        self._shown = characters

    def show_from(self, start: int, text: str) -> None:
        """Shows what is new in a text that begins at character ``start`` of the output."""
        with self._lock:
            if start + len(text) > self._shown:
                self._show(text[max(self._shown - start, 0) :])
                self._shown = start + len(text)

    def _tail(self) -> None:
        while not self._stopped.is_set():
            with suppress(*UNREACHABLE, RuntimeError):
                asyncio.run(self._receive())
            self._stopped.wait(POLL_SECONDS)

    async def _receive(self) -> None:
        received = 0
        async for text in self._client.tail_job_logs(self._attempt):
            if self._stopped.is_set():
                return
            self.show_from(received, text)
            received += len(text)
