"""A subdivision sweep: every setting rendered from one detector pass over a run's val images. Nothing is trained."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.ray_train import fit
from pipeline.cluster.worker import ray_workers
from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.parameters import run_parameters, setting_parameters
from pipeline.config.sweep_tasks import SubdivisionTask, rendering
from pipeline.config.sweeps import Point
from pipeline.evaluation.run import gather, predict_share, score
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import write_json
from pipeline.sweep.costs import multiply_adds, rendering_seconds
from pipeline.sweep.records import Rung, TrialRecord, TrialRecords
from pipeline.sweep.trial import SweepError
from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.training.metrics_file import now


def setting_name(point: Point) -> str:
    """A setting's name among the evaluations of the run."""
    setting = rendering(point)
    return f"{setting.resolution}x{setting.resolution}-{setting.num_points}"


@dataclass(frozen=True)
class SettingsWork:
    """What the workers of a subdivision sweep do; every path is absolute, and every worker can reach it."""

    run: TrainedRun
    settings: Mapping[str, RenderingConfig]
    timed_images: int
    folder: Path
    use_gpu: bool

    @property
    def chunks(self) -> Path:
        return self.folder / "chunks"

    @property
    def seconds(self) -> Path:
        return self.folder / "seconds.json"


def predict_and_time(arguments: dict[str, Any]) -> None:
    """Predicts one worker's share; then, while the others are idle, worker 0 times the settings."""
    work: SettingsWork = arguments["work"]
    workers = ray_workers(work.use_gpu)
    settings = EvaluationConfig(dict(work.settings))
    predict_share(work.run, settings, work.chunks, workers.device, workers.rank, workers.world_size)
    workers.broadcast(0)  # until all have come here
    if workers.rank == 0:
        write_json(work.seconds, rendering_seconds(work.run, work.settings, work.timed_images, workers.device))
    workers.broadcast(0)


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
            work = SettingsWork(run, settings, task.timed_images, folder, cluster.gpus_per_worker > 0)
            fit(predict_and_time, {"work": work}, cluster, run.config.run, folder / "ray")
            gather(run, EvaluationConfig(settings), work.chunks, folder)
            seconds = json.loads(work.seconds.read_text())
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
            own = {**setting_parameters(rendering(point)), "steps": str(point["steps"])}
            trial = RunRecord(
                key=f"{parent}-{record.name}",
                name=f"{task.name} {setting_name(point)}",
                parameters={**run_parameters(task.run), **own},
                tags={"kind": "trial", "sweep": task.name, **tags},
                started=now(),
                parent=parent,
            )
            records.write(record.logged_as(log_run(tracker, trial)))
