"""The job of a check under Ray Train: the same workers as the run's own job has."""

from typing import Any

from pipeline.check.result import finish
from pipeline.check.task import FAILURES, CheckTask
from pipeline.check.worker import run_check, write_failure
from pipeline.cluster.ray_train import fit, for_batch
from pipeline.cluster.worker import ray_workers


def run_check_job(task: CheckTask) -> None:
    """Runs a check on workers of its cluster configuration and writes its result, or why it failed.

    Nothing is restarted: a worker that dies in three updates would die in a long training as well.
    """
    cluster = for_batch(task.cluster, task.config.schedule.batch_size).model_copy(update={"max_failures": 0})
    try:
        fit(check_worker, {"task": task.model_dump_json()}, cluster, task.name, task.path / "ray")
        finish(task)
    except Exception as error:
        if not list(task.path.glob(FAILURES)):
            write_failure(task, error)
        raise


def check_worker(arguments: dict[str, Any]) -> None:
    """Does one worker's share of the check in ``arguments["task"]``, a :class:`CheckTask` as JSON."""
    task = CheckTask.model_validate_json(arguments["task"])
    run_check(task, ray_workers(task.cluster.gpus_per_worker > 0))
