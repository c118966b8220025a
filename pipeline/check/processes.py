"""The processes of a shrunk check: workers joined by gloo, and one that compares what they did."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

# Imported before the server forks: models, datasets and scores are imported where they are used.
import pointrend.instance_inference
import pointrend.instance_models
import pointrend.rendering
import pointrend.semantic_inference
import pointrend.semantic_models  # noqa: F401
from pipeline.check.result import finish
from pipeline.check.task import CheckTask
from pipeline.check.worker import run_check, write_failure
from pipeline.training.run import Workers

LOST_SECONDS = 120.0


def work(text: str, rank: int) -> None:
    """Runs one worker of a check, whose task is given as JSON; the process exits with 1 if it fails."""
    task = CheckTask.model_validate_json(text)
    _write_to(task.path / f"output-{rank}.txt")
    torch.set_num_threads(1)
    size = task.cluster.workers
    rendezvous = f"file://{task.path}/rendezvous"
    timeout = timedelta(seconds=LOST_SECONDS)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size, timeout=timeout)
    try:
        run_check(task, gloo_workers())
    except Exception:
        # Without the other workers, which may have failed too: leaving the group would wait for them.
        sys.stdout.flush()
        os._exit(1)
    dist.destroy_process_group()


def conclude(text: str) -> None:
    """Compares and scores what the workers of a check have written; the process exits with 1 if it fails."""
    task = CheckTask.model_validate_json(text)
    _write_to(task.path / "output.txt")
    torch.set_num_threads(1)
    try:
        finish(task)
    except Exception as error:
        write_failure(task, error)
        sys.exit(1)


def gloo_workers() -> Workers:
    """This process's view of the processes of the default group."""

    def broadcast(value: int) -> int:
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def report(metrics: dict[str, float]) -> None:
        dist.barrier()

    return Workers(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), broadcast, report, lambda: False)


def _write_to(file: Path) -> None:
    """Sends this process's output to a file: the table is all that is shown."""
    with file.open("w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
