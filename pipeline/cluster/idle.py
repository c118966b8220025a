"""Makes sure that nothing of a project runs, before ``make clean`` removes what jobs and DVC work with.

Run as a program, it exits with status 75 while something runs, and says what.
"""

import os
import shlex
import sys
import time
from pathlib import Path

from ray.job_submission import JobDetails

from pipeline.cluster.local_head import find_ray
from pipeline.cluster.submission import find_jobs, ray_folder
from pipeline.errors import UserError
from pipeline.graph import refuse_while_running
from pipeline.stage import bypass_proxy_for_loopback

BUSY = 75  # EX_TEMPFAIL
#: How long a Ray of this machine has to end by itself once its last job has ended.
ENDING_SECONDS = 60.0
SHOWN = 4


class BusyError(UserError):
    """Something of the project runs."""


def check_idle(root: Path) -> None:
    """Returns once nothing of a project runs; waits for its Ray on this machine if that has no more jobs.

    Raises:
        GraphError: while DVC runs one of its stages.
        BusyError: while one of its jobs waits or runs, on this machine or on the cluster of ``RAY_ADDRESS``.
        RayUnreachableError, LocalRayError: if Ray does not say.
    """
    refuse_while_running(root)
    folder, jobs = ray_folder(root), find_jobs(root)
    local = find_ray(folder)
    live = [job for job in (jobs.live() if jobs else []) if _is_own(job, root.resolve())]
    live += local.live() if local and os.environ.get("RAY_ADDRESS") else []
    if live:
        names = ", ".join(str(job.submission_id) for job in live[:SHOWN])
        more = f" and {len(live) - SHOWN} more" if len(live) > SHOWN else ""
        raise BusyError(
            f"jobs of this project wait or run ({names}{more}), so nothing was changed; wait for them, or stop "
            "them with `pointrend jobs stop`"
        )
    end = time.monotonic() + ENDING_SECONDS
    while find_ray(folder) is not None:
        if time.monotonic() > end:
            raise BusyError(f"the Ray of this project has no jobs and does not end; see {folder / 'ray.log'}")
        time.sleep(0.5)


def _is_own(job: JobDetails, root: Path) -> bool:
    """Whether a job runs in a project's folder, or in a workspace below it; others may use the same cluster."""
    match shlex.split(job.entrypoint or ""):
        case ["cd", folder, *_]:
            return Path(folder).is_relative_to(root)
    return False


def main() -> None:
    bypass_proxy_for_loopback()
    try:
        check_idle(Path.cwd())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BUSY)


if __name__ == "__main__":
    main()
