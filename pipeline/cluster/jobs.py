"""Ray jobs: each is submitted once, whoever asks for it, and followed to its end."""

import asyncio
import logging
import shlex
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException
from requests.exceptions import RequestException

from pipeline.cluster.needs import Needs, Resources
from pipeline.errors import UserError

# How long a Ray that does not answer is waited for: its head may be restarting.
PATIENCE_SECONDS = 120.0
SILENT_SECONDS = 10.0
POLL_SECONDS = 0.3
UNREACHABLE = (ConnectionError, RequestException, ClientError, asyncio.TimeoutError, RayStateApiException)

ATTEMPT = ".attempt-"
#: The first word of the names of jobs that stop others.
CANCELLER_PREFIX = "stop-"

# Ray says whenever an output has come to its end.
logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)

T = TypeVar("T")


class RayUnreachableError(UserError, ConnectionError):
    """No Ray answers."""


@dataclass(frozen=True)
class Job:
    """A command, and what it needs.

    Args:
        id: names it on the cluster: two jobs of one id are one job.
        command: its words.
        folder: where it runs; every node must have it.
        needs: what it holds; Ray keeps ``needs.driver`` for it while it runs, its workers it asks for itself.
        parts: what it makes, for those who ask whether somebody makes it already.
        environment: variables that it has beyond those of the node.
    """

    id: str
    command: list[str]
    folder: Path
    needs: Needs = field(default_factory=lambda: Needs(Resources()))
    results: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def job_name(job: JobDetails) -> str:
    """The id that a job was submitted under, whichever attempt it is."""
    return (job.submission_id or "").split(ATTEMPT)[0]


def job_results(job: JobDetails) -> set[str]:
    """What a job makes, see :class:`Job`."""
    return set((job.metadata or {}).get("results", "").split())


def job_needs(job: JobDetails) -> Needs:
    """What a job holds; nothing if somebody else's program has submitted it."""
    text = (job.metadata or {}).get("needs")
    return Needs.from_json(text) if text else Needs(Resources())


class Jobs:
    """The jobs of a Ray cluster.

    Args:
        address: what ``RAY_ADDRESS`` may be: ``http://`` and the dashboard's host and port, ``ray://`` or the head's.
        head: what ``RAY_ADDRESS`` is for the jobs, where Ray would not find out by itself: it takes the last one that
            `ray start` has started on the machine, which may be another or long gone.

    Raises:
        RayUnreachableError: if there is no Ray.
    """

    def __init__(self, address: str, head: str | None = None) -> None:
        self.address, self._head = address, head
        try:
            self._client = JobSubmissionClient(address)
            self._client.get_version()
        except AuthenticationError as error:
            raise RayUnreachableError(f"{address}: Ray does not let us in: {error}") from error
        except (*UNREACHABLE, RuntimeError) as error:
            raise RayUnreachableError(f"{address}: no Ray answers; start it or change RAY_ADDRESS ({error})") from error

    @property
    def _worker_environment(self) -> dict[str, str]:
        """``RAY_ADDRESS`` for a job's workers, whose Ray would look for any Ray of the machine."""
        return {"RAY_ADDRESS": self._head} if self._head else {}

    def _retry(self, call: Callable[[], T]) -> T:
        """The result of a call that is tried again while Ray does not answer."""
        begun, silent = time.monotonic(), True
        while True:
            try:
                return call()
            except UNREACHABLE as error:
                waited = time.monotonic() - begun
                if waited > PATIENCE_SECONDS:
                    raise RayUnreachableError(
                        f"{self.address}: Ray has not answered for {PATIENCE_SECONDS:.0f} s; what its jobs have done "
                        f"is safe, `dvc repro` goes on from there ({error})"
                    ) from error
                if silent and waited > SILENT_SECONDS:
                    silent = False
                    print(f"Ray at {self.address} does not answer; waiting up to {PATIENCE_SECONDS:.0f} s", flush=True)
                time.sleep(0.5)

    def nodes(self) -> list[Resources]:
        """What each living node of the cluster has."""
        address = self._client.get_address()
        found = self._retry(lambda: list_nodes(address=address, limit=10_000, raise_on_missing_output=False))
        totals = [node.resources_total for node in found if node.state == "ALIVE"]
        return [Resources(each.get("CPU", 0), each.get("GPU", 0), each.get("memory", 0)) for each in totals]

    def _attempts(self, job_id: str) -> list[JobDetails]:
        """A job's attempts, oldest first. Ray confuses two of one id, so that all but the first have numbers."""
        return [job for job in self.list() if job_name(job) == job_id.split(ATTEMPT)[0]]

    def find(self, job_id: str) -> JobDetails | None:
        """What Ray knows about a job's last attempt; None if nothing."""
        return next(reversed(self._attempts(job_id)), None)

    def live(self) -> list[JobDetails]:
        """The jobs that wait or run, in the order of their submission."""
        return [job for job in self.list() if not job.status.is_terminal()]

    def list(self) -> list[JobDetails]:
        """All jobs that were submitted, in the order of their start."""
        found = [job for job in self._retry(self._client.list_jobs) if job.type == JobType.SUBMISSION]
        jobs = [job for job in found if not (job.submission_id or "").startswith(CANCELLER_PREFIX)]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def submit(self, job: Job) -> bool:
        """Submits a job, unless it waits or runs already; tells whether it did.

        One that has ended is submitted again.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        prefix = ["env", f"RAY_ADDRESS={self._head}"] if self._head else []
        while True:
            attempts = self._attempts(job.id)
            if attempts and not attempts[-1].status.is_terminal():
                return False
            driver = job.needs.driver
            try:
                self._client.submit_job(
                    entrypoint=f"cd {shlex.quote(str(job.folder))} && exec {shlex.join([*prefix, *job.command])}",
                    submission_id=f"{job.id}{ATTEMPT}{len(attempts) + 1}" if attempts else job.id,
                    entrypoint_num_cpus=driver.cpus,
                    entrypoint_num_gpus=driver.gpus,
                    entrypoint_memory=int(driver.memory),
                    runtime_env={"env_vars": job.environment | self._worker_environment},
                    metadata={"results": " ".join(job.results), "needs": job.needs.to_json()},
                )
            except (*UNREACHABLE, RuntimeError, ValueError) as error:
                # Somebody else may have been faster; and a Ray that has just started has no agent yet.
                if time.monotonic() > end:
                    raise RayUnreachableError(f"{self.address}: job {job.id} was not accepted ({error})") from error
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
        """Shows the output of a job's last attempt until it ends, or until something else is so.

        Args:
            job_id: the job.
            show: gets its output, piece after piece.
            until: ends the following early; asked a few times a second.
            show_earlier_output: whether to show what the job has written before now, too.

        Returns:
            what Ray knows of the job; None if Ray has lost it.
        """
        found = self.find(job_id)
        attempt = found.submission_id or "" if found else ""
        output = _Output(self._client, attempt, show)
        begun, said = time.monotonic(), False
        if found is not None and not show_earlier_output and found.status == JobStatus.RUNNING:
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
                if until():
                    return job
                if job.status == JobStatus.RUNNING:
                    output.start()
                elif not said and time.monotonic() > begun + SILENT_SECONDS:
                    said = True
                    show(f"job {job_id} waits for room on the cluster\n")
                time.sleep(POLL_SECONDS)
        finally:
            output.stop()

    def stop(self, job_id: str) -> bool:
        """Asks a job to stop, which saves a checkpoint first; tells whether it was there to be stopped.

        Ray tells a job that waits only once it runs: such a one is taken away, by a job that runs on the cluster.
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
        prefix = ["env", f"RAY_ADDRESS={self._head}"] if self._head else []
        program = shlex.join([*prefix, sys.executable, "-c", CANCEL_PENDING_JOB, attempt])
        self._retry(lambda: self._client.submit_job(entrypoint=f"exec {program}", submission_id=name))
        while not (status := self._retry(lambda: self._client.get_job_status(name))).is_terminal():
            time.sleep(POLL_SECONDS)
        if status != JobStatus.SUCCEEDED:
            said = self._retry(lambda: self._client.get_job_logs(name)).strip().splitlines()
            raise RayUnreachableError(f"{self.address}: job {attempt} could not be stopped ({(said or ['?'])[-1]})")
        with suppress(RuntimeError):
            self._client.delete_job(name)


#: The program of the job that takes a waiting job away: Ray has no call for it.
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


class _Output:
    """Shows a job's output from a thread of its own, each piece once, however often the connection is lost."""

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
        """Counts so many characters as shown."""
        self._shown = characters

    def show_from(self, start: int, text: str) -> None:
        """Shows what of a text, which begins at this place of the output, was not shown before."""
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
