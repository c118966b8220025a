"""Ray jobs: each is submitted once, whoever asks for it, and followed to its end."""

import asyncio
import logging
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType
from requests.exceptions import RequestException

from pipeline.errors import UserError

# How long a Ray that does not answer is waited for: its head may be restarting.
PATIENCE_SECONDS = 120.0
UNREACHABLE = (ConnectionError, RequestException, ClientError, asyncio.TimeoutError)

ATTEMPT = ".attempt-"

# It says whenever an output has come to its end.
logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)

T = TypeVar("T")


class RayUnreachableError(UserError, ConnectionError):
    """No Ray answers."""


@dataclass(frozen=True)
class Job:
    """A command, and what it needs of one node.

    Args:
        id: names it on the cluster: two jobs of one id are one job.
        command: its words.
        folder: where it runs; every node must have it.
        cpus, gpus: kept for it while it runs.
        environment: variables that it has beyond those of the node.
    """

    id: str
    command: list[str]
    folder: Path
    cpus: float = 0
    gpus: float = 0
    environment: dict[str, str] = field(default_factory=dict)


def job_name(job: JobDetails) -> str:
    """The id that a job was submitted under, whichever attempt it is."""
    return (job.submission_id or "").split(ATTEMPT)[0]


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

    def _patiently(self, call: Callable[[], T]) -> T:
        """The result of a call that is tried again while Ray does not answer."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return call()
            except UNREACHABLE as error:
                if time.monotonic() > end:
                    raise RayUnreachableError(
                        f"{self.address}: Ray has not answered for {PATIENCE_SECONDS:.0f} s; what its jobs have done "
                        f"is safe, `dvc repro` goes on from there ({error})"
                    ) from error
                time.sleep(0.5)

    def _attempts(self, job_id: str) -> list[JobDetails]:
        """A job's attempts, oldest first. Ray confuses two of one id, so that all but the first have numbers."""
        return [job for job in self.list() if job_name(job) == job_id.split(ATTEMPT)[0]]

    def find(self, job_id: str) -> JobDetails | None:
        """What Ray knows about a job's last attempt; None if nothing."""
        return next(reversed(self._attempts(job_id)), None)

    def on_their_way(self) -> set[str]:
        """The names of the jobs that wait or run."""
        return {job_name(job) for job in self.list() if not job.status.is_terminal()}

    def list(self) -> list[JobDetails]:
        """All jobs that were submitted, in the order of their start."""
        jobs = [job for job in self._patiently(self._client.list_jobs) if job.type == JobType.SUBMISSION]
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
            try:
                self._client.submit_job(
                    entrypoint=f"cd {shlex.quote(str(job.folder))} && exec {shlex.join([*prefix, *job.command])}",
                    submission_id=f"{job.id}{ATTEMPT}{len(attempts) + 1}" if attempts else job.id,
                    entrypoint_num_cpus=job.cpus,
                    entrypoint_num_gpus=job.gpus,
                    runtime_env={"env_vars": job.environment},
                )
            except (*UNREACHABLE, RuntimeError, ValueError) as error:
                # Somebody else may have been faster; and a Ray that has just started has no agent yet.
                if time.monotonic() > end:
                    raise RayUnreachableError(f"{self.address}: job {job.id} was not accepted ({error})") from error
                time.sleep(0.3)
            else:
                return True

    def follow(self, job_id: str, show: Callable[[str], None]) -> JobDetails | None:
        """Shows the output of a job's last attempt until it ends; None if Ray has lost the job.

        Args:
            job_id: the job.
            show: gets its output, piece after piece.
        """
        shown = 0

        def show_from(start: int, text: str) -> None:
            """Shows what of a text, which begins at this place of the output, was not shown before."""
            nonlocal shown
            if start + len(text) > shown:
                show(text[shown - start :])
                shown = start + len(text)

        async def tail() -> None:
            received = 0
            async for text in self._client.tail_job_logs(attempt):
                show_from(received, text)
                received += len(text)

        found = self.find(job_id)
        attempt = found.submission_id or "" if found else ""
        while True:
            job = next((job for job in self.list() if job.submission_id == attempt), None)
            if job is None:
                return None
            # What a connection that was lost has left out, the next turn shows.
            with suppress(*UNREACHABLE, RuntimeError):
                if job.status == JobStatus.RUNNING:
                    asyncio.run(tail())
                if job.status.is_terminal():
                    show_from(0, self._patiently(lambda: self._client.get_job_logs(attempt)))
                    return job
            time.sleep(0.2)

    def stop(self, job_id: str) -> bool:
        """Asks a job to stop, which saves a checkpoint first; tells whether it was there to be stopped."""
        found = self.find(job_id)
        if found is None or found.status.is_terminal():
            return False
        self._patiently(lambda: self._client.stop_job(found.submission_id or ""))
        return True
