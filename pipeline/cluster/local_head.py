"""The Ray that runs a project's jobs on this machine. It outlives the stage that starts it and ends after the last job.

A keeper process, which runs this module as a program, starts Ray and stops it, so that no process of Ray stays behind.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipeline.cluster.connection import local_ray
from pipeline.cluster.fork_server import ADDRESS, fork_server
from pipeline.cluster.jobs import Jobs, RayUnreachableError
from pipeline.cluster.machine import explain_failure, make_token, use_token
from pipeline.errors import UserError
from pipeline.files import locked, write_json

START_SECONDS = 120.0
#: How long a Ray that runs has to answer.
ANSWER_SECONDS = 30.0
#: How often to look, at most, whether a job waits or runs.
LOOK_SECONDS = 2.0
#: How long Ray stays up by default when no job waits or runs.
IDLE_SECONDS = 10.0

# A job may wait without limit, and a job that is stopped has a minute to write a checkpoint.
ENVIRONMENT = {
    "RAY_JOB_START_TIMEOUT_SECONDS": "1e9",
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
}


class LocalRayError(UserError):
    """The Ray on this machine did not start, or does not answer."""


LOCK = "lock"  # the file whose lock a process needs to start Ray, to stop it, or to submit jobs to it


def find_ray(folder: Path) -> Jobs | None:
    """The jobs of the project's Ray, whose state is in ``folder``; None if it does not run.

    Raises:
        LocalRayError: if it runs and does not answer.
    """
    use_token(folder)
    end = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            state = json.loads((folder / "ray.json").read_text())
            keeper = psutil.Process(state["pid"])
            if keeper.create_time() != state["created"] or keeper.status() == psutil.STATUS_ZOMBIE:
                return None
            return Jobs(state["dashboard"], state["head"])
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        except RayUnreachableError as error:
            # A busy machine: a second Ray beside this one would give its CPUs and GPUs away again.
            if time.monotonic() > end:
                raise LocalRayError(
                    f"the Ray of this project (process {state['pid']}) does not answer; wait, or stop that process"
                ) from error
            time.sleep(0.5)


@contextmanager
def ensure_ray(
    folder: Path, cpus: float, idle_seconds: float = IDLE_SECONDS, environment: Mapping[str, str] | None = None
) -> Iterator[Jobs]:
    """Starts the project's Ray unless it runs, keeps it from stopping during the block, and yields its jobs.

    Args:
        folder: the folder with the state of the project's Ray.
        cpus: how many CPU cores a new Ray offers at least, see :func:`local_ray`.
        idle_seconds: how long a new Ray stays up when no job waits or runs.
        environment: variables that most jobs set, for a new Ray and its fork server.

    Raises:
        LocalRayError: if Ray does not start or does not answer.
    """
    with locked(folder / LOCK):
        yield find_ray(folder) or _start(folder, cpus, idle_seconds, environment or {})


def _start(folder: Path, cpus: float, idle_seconds: float, environment: Mapping[str, str]) -> Jobs:
    log = folder / "ray.log"
    (folder / "ray.json").unlink(missing_ok=True)
    make_token(folder)
    with log.open("w") as stream:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cluster.local_head", str(folder), str(math.ceil(cpus)), str(idle_seconds)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT, **environment},
            start_new_session=True,  # Ctrl-C is for the stage, not for the jobs
        )
    end = time.monotonic() + START_SECONDS
    while keeper.poll() is None and time.monotonic() < end:
        if (jobs := find_ray(folder)) is not None:
            return jobs
        time.sleep(0.1)
    if keeper.poll() is None:
        reason = f"not within {START_SECONDS:.0f} s, so the machine is too busy or short of memory; try again"
        keeper.terminate()
        keeper.wait()
    else:
        reason = explain_failure(log.read_text())
    raise LocalRayError(f"Ray did not start on this machine: {reason}; the rest is in {log}")


def run_until_idle(folder: Path, cpus: int, idle_seconds: float) -> None:
    """Runs Ray until no job has waited or run for ``idle_seconds``; see :func:`ensure_ray`."""
    with fork_server() as address:
        if address is not None:
            os.environ[ADDRESS] = str(address)  # Ray's processes inherit it, and so do their jobs
        _run_ray(folder, cpus, idle_seconds)


def _run_ray(folder: Path, cpus: int, idle_seconds: float) -> None:
    state = folder / "ray.json"
    with local_ray(cpus) as addresses:
        jobs = Jobs(*addresses)
        me = psutil.Process()
        write_json(state, {**addresses._asdict(), "pid": me.pid, "created": me.create_time()})
        idle_since = time.monotonic()
        while True:
            time.sleep(min(LOOK_SECONDS, idle_seconds / 2))
            if jobs.live():
                idle_since = time.monotonic()
            elif time.monotonic() > idle_since + idle_seconds:
                with locked(folder / LOCK):
                    # A job may have been submitted while this process waited for the lock.
                    if not jobs.live():
                        state.unlink()
                        break


if __name__ == "__main__":
    run_until_idle(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
