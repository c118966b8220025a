"""Predicting over many images: chunk by chunk, here or split over Ray workers.

The chunks do not depend on how many workers there are, and each appears whole or not at all: one that a lost worker had
half done is simply done again.
"""

from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.cluster.connection import connected
from pipeline.config.clusters import ClusterConfig
from pipeline.errors import LostWorkerError, UserError
from pipeline.evaluation.chunks import Build, Worker, part_folder
from pipeline.progress import Progress, progress

IMAGES_PER_CHUNK = 8


def predict_in_chunks(build: Build, num_images: int, folder: Path, cluster: ClusterConfig, label: str) -> list[Path]:
    """Has all images predicted and waits.

    A lost worker is replaced ``cluster.max_failures`` times, and its chunk done again. An exception in a worker is not:
    it would come again.

    Args:
        build: called once by each worker process, with its device; must be picklable.
        num_images: how many there are; ``build``'s result is called with ranges of their indices.
        folder: where the chunks' folders are made; every worker must be able to reach it.
        cluster: how many workers, and what each gets. Without workers it all happens in this process.
        label: of the progress.

    Returns:
        The folders of the chunks, in the order of the images.

    Raises:
        LostWorkerError: when a worker's restarts are used up.
        UserError: if a worker cannot have a GPU that it should have, or ``folder`` is not shared with the workers.
        Exception: whatever ``build`` or its result raises.
    """
    folder = folder.resolve()
    chunks = [
        range(first, min(first + IMAGES_PER_CHUNK, num_images)) for first in range(0, num_images, IMAGES_PER_CHUNK)
    ]
    with progress(label, num_images) as bar:
        if cluster.workers == 0:
            worker = Worker(build, folder, cluster.gpus_per_worker > 0)
            for chunk in chunks:
                bar.advance(worker.predict(chunk))
        else:
            with connected(cluster):
                _predict_remotely(build, chunks, folder, cluster, bar)
    parts = [part_folder(folder, chunk) for chunk in chunks]
    if missing := [part for part in parts if not part.is_dir()]:
        raise UserError(f"{missing[0]}: done by a worker but not here; the workers must share this file system")
    return parts


def _predict_remotely(build: Build, chunks: list[range], folder: Path, cluster: ClusterConfig, bar: Progress) -> None:
    actor = ray.remote(Worker).options(
        num_cpus=cluster.cpus_per_worker,
        num_gpus=cluster.gpus_per_worker,
        max_restarts=cluster.max_failures,
        max_task_retries=-1,  # as often as it is restarted
    )
    workers = [
        # As many threads however many workers share a machine: sums of floats depend on how they are split.
        actor.remote(build, folder, cluster.gpus_per_worker > 0, cluster.cpus_per_worker)
        for _ in range(min(cluster.workers, len(chunks)))
    ]
    waiting = iter(chunks)
    # A worker gets its first chunk when it is up: those that find no place yet hold nothing back.
    busy: dict[Any, tuple[int, range | None]] = {
        worker.__ray_ready__.remote(): (number, None) for number, worker in enumerate(workers)
    }
    left = len(chunks)
    try:
        while left:
            (done,), _ = ray.wait(list(busy))
            number, chunk = busy.pop(done)
            _finish(done, number, len(workers), chunk, cluster.max_failures)
            if chunk is not None:
                left -= 1
                bar.advance(len(chunk))
            if (following := next(waiting, None)) is not None:
                busy[workers[number].predict.remote(following)] = number, following
    finally:
        for worker in workers:
            ray.kill(worker)


def _finish(reference: Any, number: int, workers: int, chunk: range | None, max_failures: int) -> None:
    """Raises what a worker's task has raised."""
    try:
        ray.get(reference)
    except RayTaskError as error:
        # The worker's own message, where it is meant for the reader; Ray wraps it in its tracebacks.
        if isinstance(error.cause, UserError | OSError):
            raise error.cause from None
        raise
    except RayError as error:
        task = f"predicting images {chunk[0]} to {chunk[-1]}" if chunk else "starting"
        raise LostWorkerError(
            f"worker {number + 1} of {workers} died while {task}, and its restarts are used up (max_failures: "
            f"{max_failures} in the cluster configuration); nothing of this evaluation is kept. Ray says: {error}"
        ) from error
