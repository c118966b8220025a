"""Runs a sweep of a project as a job and collects its result."""

import shutil

from pipeline.cluster.lookup import sweep_place
from pipeline.cluster.sweep_place import sweep_key
from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask
from pipeline.files import atomic_folder
from pipeline.stage import Stage


def collect_sweep(stage: Stage, task: TrainingTask | SubdivisionTask) -> None:
    """Runs a sweep as a job, unless its result is there, and copies the result to the outputs of the `sweep` stage.

    Raises:
        SweepError: if the weights that the sweep uses are missing.
        UserError: as :func:`pipeline.cluster.submission.wait_for` does.
    """
    place = sweep_place(stage, task)
    place.check()
    result = place.result(task.name, sweep_key(task, place))
    if not (result / "sweep.json").is_file():
        # Ray takes seconds to import, and collecting a result does not need it.
        from pipeline.cluster.requests import place_of, ready_requests, sweep_request
        from pipeline.cluster.submission import wait_for

        request = sweep_request(stage, task, place)
        wait_for(request, lambda: ready_requests(stage, f"sweep@{task.name}"), place_of(stage))
    with atomic_folder(stage.outputs.sweep(task.name), replace=True) as folder:
        shutil.copytree(result, folder, dirs_exist_ok=True)
    if stage.cluster.storage is None:
        shutil.rmtree(result)
