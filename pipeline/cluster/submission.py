"""Trainings as Ray jobs: all that are stale are submitted at once, and waited for one by one."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.cluster.jobs import Job, Jobs, RayUnreachableError
from pipeline.cluster.local_head import reached, running
from pipeline.config.clusters import ClusterConfig
from pipeline.errors import UserError
from pipeline.training.training import Training

#: What a job takes over from the stage that submits it.
ENVIRONMENT = ("MLFLOW_TRACKING_URI",)


class JobFailedError(UserError):
    """A training's job ended without a result."""


def training_job(training: Training, cluster: ClusterConfig, root: Path) -> Job:
    """The job of a training: the `train` stage's own program, which refuses if the inputs have changed by then.

    Args:
        training: the run.
        cluster: what it needs: with workers, Ray Train asks for it, and the job itself takes nothing.
        root: of the project; every node must have it.
    """
    alone = cluster.workers == 0
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return Job(
        id=training.id,
        command=[sys.executable, "-m", "stages.train", "--run", training.config.run, "--here", training.key],
        folder=root.resolve(),
        cpus=cluster.cpus_per_worker if alone else 0,
        gpus=cluster.gpus_per_worker if alone else 0,
        environment=environment | {"OMP_NUM_THREADS": str(cluster.cpus_per_worker)},
    )


@contextmanager
def cluster_jobs(root: Path, cluster: ClusterConfig) -> Iterator[Jobs]:
    """The jobs of the cluster of ``RAY_ADDRESS``, or of the project's own Ray on this machine."""
    if address := os.environ.get("RAY_ADDRESS"):
        yield Jobs(address)
    else:
        with reached(ray_folder(root), max(cluster.workers, 1) * cluster.cpus_per_worker) as jobs:
            yield jobs


def running_jobs(root: Path) -> Jobs:
    """As :func:`cluster_jobs`, where Ray runs already.

    Raises:
        RayUnreachableError: if it does not.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return Jobs(address)
    jobs = running(ray_folder(root))
    if jobs is None:
        raise RayUnreachableError(f"{root}: no job waits or runs on this machine, and RAY_ADDRESS names no cluster")
    return jobs


def ray_folder(root: Path) -> Path:
    """Where a project keeps what it knows of its Ray on this machine."""
    return root / ".pointrend" / "ray"


def jobs_are_elsewhere() -> bool:
    """Whether trainings run on a cluster, rather than on this machine beside what waits for them."""
    return "RAY_ADDRESS" in os.environ


def in_order(trainings: Iterable[Training], *, shared: bool) -> list[Training]:
    """Trainings in the order in which to submit them.

    Args:
        trainings: in the order in which they are collected.
        shared: on a cluster the longest go first, so that its nodes have all to do until the end. On one's own machine
            the first go first: what is trained is evaluated while others still train.
    """
    if not shared:
        return list(trainings)
    return sorted(
        trainings, key=lambda each: each.config.schedule.updates * each.config.schedule.batch_size, reverse=True
    )


def train_as_job(
    training: Training, others: Callable[[set[str]], Iterable[Training]], cluster: ClusterConfig, root: Path
) -> None:
    """Has a run trained by a Ray job and waits for it, showing its output.

    A job that waits or runs already is joined; one that was killed is submitted again, and goes on from its last
    checkpoint.

    Args:
        training: the run.
        others: tells what else can be trained, given the names of the jobs that wait or run. They are submitted after
            the run; they are not waited for.
        cluster: where.
        root: of the project.

    Raises:
        JobFailedError: if the job fails, is stopped, or is killed once too often.
        KeyboardInterrupt: after Ctrl-C; the jobs go on.
    """
    lost = 0
    while not training.is_done:
        with cluster_jobs(root, cluster) as jobs:
            jobs.submit(training_job(training, cluster, root))
            if not lost:
                waiting = [other for other in others(jobs.on_their_way()) if not other.is_done]
                for each in in_order(waiting, shared=jobs_are_elsewhere()):
                    jobs.submit(training_job(each, cluster, root))
        try:
            job = jobs.follow(training.id, lambda text: print(text, end="", flush=True))
        except KeyboardInterrupt:
            print(
                "\nThe jobs go on: `pointrend jobs list` shows them, `pointrend jobs stop` stops them, and `dvc repro` "
                "waits for them again.",
                flush=True,
            )
            raise
        if training.is_done:
            return
        if job is not None and job.status == "SUCCEEDED":
            raise JobFailedError(
                f"{training.storage}: not here, but job {job.submission_id} has written it; all nodes must share it "
                "(storage in the cluster configuration)"
            )
        if job is not None and job.status == "STOPPED":
            raise JobFailedError(f"job {training.id} was stopped; `dvc repro` goes on from its last checkpoint")
        if job is not None and (job.driver_exit_code or 0) > 0:
            raise JobFailedError(f"training of {training.config.run} failed; it says above why, and what to do")
        # Killed by a signal, lost with its node, or with Ray itself.
        lost += 1
        if lost > cluster.max_failures >= 0:
            raise JobFailedError(
                f"job {training.id} was killed, and its restarts are used up (max_failures: {cluster.max_failures} in "
                f"the cluster configuration); `dvc repro` goes on from its last checkpoint"
                + (f". Ray says: {job.message}" if job is not None else "")
            )
        print(f"job {training.id} was lost; it is submitted again", flush=True)
