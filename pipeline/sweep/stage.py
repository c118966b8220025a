"""A sweep in its project: for the stage and for the command."""

from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask
from pipeline.stage import Stage, code_version
from pipeline.sweep.records import TrialRecord
from pipeline.sweep.run import SweepPlace, run_sweep


def run_in(stage: Stage, task: TrainingTask | SubdivisionTask) -> TrialRecord:
    """Runs a sweep on the selected cluster and returns its best trial; raises as :func:`run_sweep`."""
    weights_of = task.run if isinstance(task, SubdivisionTask) else task.starts_from
    place = SweepPlace(
        prepared=stage.outputs.prepared(task.dataset),
        images=stage.images(task.dataset),
        starts_from=stage.outputs.trained(weights_of.run) if weights_of else None,
        storage=stage.root / ".pointrend" / "sweeps",
        output=stage.outputs.sweep(task.name),
    )
    tracker = stage.tracker()
    return run_sweep(task, place, stage.cluster, tracker, code_version(stage.root))
