"""A subdivision sweep: every setting rendered from one detector pass over a run's val images. Nothing is trained."""

import tempfile
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.sweep_tasks import SubdivisionTask, rendering
from pipeline.config.sweeps import Point
from pipeline.evaluation.run import predict, score
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.sweep.costs import multiply_adds, rendering_seconds
from pipeline.sweep.records import Rung, TrialRecord, TrialRecords
from pipeline.sweep.trial import SweepError
from pipeline.tracking.client import Tracker, run_parameters


def setting_name(point: Point) -> str:
    """A setting's name among the evaluations of the run."""
    setting = rendering(point)
    return f"{setting.resolution}x{setting.resolution}-{setting.num_points}"


def evaluate_settings(
    task: SubdivisionTask,
    run: TrainedRun,
    cluster: ClusterConfig,
    records: TrialRecords,
    tracker: Tracker,
    parent: str,
    tags: dict[str, str],
) -> None:
    """Predicts, scores and times the settings that have no record yet.

    Args:
        task: the sweep.
        run: the run that it is of.
        cluster: where to predict.
        records: of the settings.
        tracker: where they are logged, each as a run in the sweep's.
        parent: the sweep's run.
        tags: of every one of them.

    Raises:
        SweepError: if the run's scores do not have the sweep's metric.
    """
    begun = [(point, records.read(point)) for point in task.points]
    missing = {setting_name(point): point for point, record in begun if record is None or not record.rungs}
    if missing:
        dataset = run.dataset()
        settings = {name: rendering(point) for name, point in missing.items()}
        records.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=records.folder, prefix=".predictions-") as name:
            folder = Path(name)
            predict(run, EvaluationConfig(settings), cluster, folder)
            seconds = rendering_seconds(run, settings, task.timed_images, cluster, folder)
            for name, point in missing.items():
                metrics = score(dataset, folder, name, settings[name])[0]
                if task.metric not in metrics:
                    known = ", ".join(sorted(metrics))
                    raise SweepError(f"metric: {task.metric!r} is none of this dataset's, which are {known}")
                cost = multiply_adds(task.run, dataset.num_classes, settings[name])
                record = TrialRecord(point, "", "finished", [Rung(0, metrics)], seconds[name], cost)
                records.write(record)
    for record in [found for found in map(records.read, task.points) if found is not None]:
        if not record.mlflow_run_id:
            point = record.point
            setting = rendering(point)
            own = {"resolution": setting.resolution, "subdivision_points": setting.num_points, "steps": point["steps"]}
            parameters = {**run_parameters(task.run), **{k: str(v) for k, v in own.items()}}
            own_tags = {"kind": "trial", "sweep": task.name, **tags, MLFLOW_PARENT_RUN_ID: parent}
            # Found again if it was begun and then interrupted: no setting is logged twice.
            run_id = tracker.start(
                f"{parent}-{record.name}", f"{task.name} {setting_name(point)}", parameters, own_tags
            )
            records.write(record.logged_as(run_id))
